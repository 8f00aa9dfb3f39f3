"""A model of an energy's curvature from its slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.kernel import evaluate


def curvature_matrix(energy: Bound, at: Tensor, lower: Tensor, stride: float) -> Tensor:
    """A positive definite model H (n, n) of the energy's curvature at `at` (n,), over steps of `stride`.

    H_j = (g(x + s e_j) - g(x - s' e_j)) / (s + s'), with s' cut where x_j would pass its lower bound, so that the
    energy is only asked where weights are allowed to be. Directions that bend down count by the size of their bend.
    """
    n = at.shape[0]
    eye = torch.eye(n, dtype=at.dtype, device=at.device)
    back = (at - lower.clamp_min(-1e6)).clamp(0.0, stride)
    points = torch.cat([at + stride * eye, at - back.unsqueeze(1) * eye])
    slopes = evaluate(points, energy).sound().gradient
    raw = (slopes[:n] - slopes[n:]) / (stride + back).unsqueeze(1)
    values, vectors = torch.linalg.eigh(0.5 * (raw + raw.T))
    least = 1e-6 * values.abs().max().clamp_min(1e-12)
    found: Tensor = (vectors * values.abs().clamp_min(float(least))) @ vectors.T
    return found
