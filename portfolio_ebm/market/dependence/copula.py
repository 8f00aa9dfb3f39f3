"""Gaussian and Student-t copulas: their density, their scores and their draws.

    E(u) = -log c(u; R, nu),   x_k = T_nu^{-1}(u_k),   c = t_nu(x; R) / prod_k t_nu(x_k),

and with infinite nu the normal in place of t. Z = 1 and every marginal of u is uniform whatever R and nu are. Both
families are closed under marginals: a missing name leaves its row and column of R, and what remains is exact.

Source: S. Demarta and A. J. McNeil (2005), The t copula and related copulas, International Statistical Review 73.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr, stdtr, stdtrit
from torch import Tensor

Array = NDArray[np.float64]

REACH, KNOTS = 9.0, 8192


def scores(u: Array, freedom: float) -> Array:
    """x = T_nu^{-1}(u), NaN kept."""
    if math.isinf(freedom):
        return np.asarray(torch.special.ndtri(torch.from_numpy(u)).numpy())
    return np.asarray(stdtrit(freedom, u), dtype=np.float64)


def levels_of(x: Tensor, freedom: float) -> Tensor:
    """u = T_nu(x), any shape."""
    value = x.detach().cpu().numpy()
    u = ndtr(value) if math.isinf(freedom) else stdtr(freedom, value)
    return torch.from_numpy(np.asarray(u)).to(x)


def log_copula(x: Tensor, correlation: Tensor, freedom: float) -> Tensor:
    """log c at scores x (..., K) with R (..., K, K); NaN scores are marginalised out exactly."""
    return log_copula_of_root(*observed(x, correlation), freedom)


def observed(x: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x with zeros where missing, the Cholesky factor of R with missing names set apart, which are there)."""
    missing = torch.isnan(x)
    on = (~missing).to(x)
    if not bool(missing.any()):
        return x, torch.linalg.cholesky(correlation), on
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    r = correlation * (on[..., :, None] * on[..., None, :]) * (1 - eye) + eye
    return torch.nan_to_num(x), torch.linalg.cholesky(r), on


def log_copula_of_root(x: Tensor, root: Tensor, on: Tensor, freedom: float) -> Tensor:
    """log c from what `observed` gives."""
    solved = torch.linalg.solve_triangular(root, x[..., None], upper=False).squeeze(-1)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    square = solved.square().sum(-1)
    if math.isinf(freedom):
        normal: Tensor = -0.5 * (log_det + square - x.square().sum(-1))
        return normal
    d, nu = on.sum(-1), freedom
    half = torch.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d * (math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2))
    joint = -(nu + d) / 2 * torch.log1p(square / nu)
    single = -(nu + 1) / 2 * (on * torch.log1p(x * x / nu)).sum(-1)
    density: Tensor = half - 0.5 * log_det + joint - single
    return density


def draw(root: Tensor, freedom: float, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Scores (*size, K) with the correlation root @ root.T, exactly: a normal over the root of chi-squared / nu."""
    k = len(root)
    normal: Tensor = torch.randn((*size, k), generator=rng, dtype=root.dtype, device=root.device) @ root.mT
    if math.isinf(freedom):
        return normal
    uniform = torch.rand(size, generator=rng, dtype=root.dtype, device=root.device)
    mix = gammaincinv(freedom / 2, uniform.cpu().numpy()) * (2 / freedom)
    drawn: Tensor = normal / torch.from_numpy(np.asarray(mix)).to(root).clamp_min(1e-12).sqrt()[..., None]
    return drawn


@dataclass(frozen=True)
class Carry:
    """z = F^{-1}(T_nu(x)) for each of M parts, linear between knots that are equally spaced in asinh(x).

    Attributes:
        z: (M, KNOTS).
    """

    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """z at scores x (S, M)."""
        place = ((torch.asinh(x) + REACH) * ((KNOTS - 1) / (2 * REACH))).clamp(0, KNOTS - 1.000001).T
        left = place.long()
        low, high = self.z.gather(1, left), self.z.gather(1, left + 1)
        return torch.addcmul(low, place - left, high - low).T
