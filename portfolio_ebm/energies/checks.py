"""check: what no solver should see is refused before any solve, by name."""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, needs
from portfolio_ebm.errors import DataError
from portfolio_ebm.types import require_last

ROUNDING = 1e-9
"""How far below zero an eigenvalue may lie, relative to the largest, and be called rounding."""


def check(energy: Energy, ctx: Context) -> None:
    """Refuse the estimates a formula asks for where they cannot be used.

    Raises:
        DataError: a mean, scenario or path that is not finite for a tradeable name, a covariance that is not finite or
            not positive semi-definite beyond rounding; the message names assets and date.
        ShapeError: an estimate of another width than the assets.
        SpecError: a benchmark, forecast or factor that is not there.
    """
    asked = needs(energy)
    n = ctx.n_assets
    if "mean" in asked:
        mean = require_last(ctx.mean, n, "mean")
        ctx.refuse(~mean.isfinite(), "The mean is not finite", "fill or drop them")
    if "scenarios" in asked:
        found = require_last(ctx.scenarios, n, "scenarios")
        ctx.refuse(~found.isfinite().all(-2), "The scenarios are not finite", "fill or drop them")
    if "paths" in asked:
        found = require_last(ctx.paths, n, "paths")
        ctx.refuse(~found.isfinite().flatten(-3, -2).all(-2), "The paths are not finite", "fill or drop them")
    if "covariance" in asked:
        _check_covariance(ctx)
    for part in energy.terms():
        part.energy.check(ctx)


def _check_covariance(ctx: Context) -> None:
    """F C F' + D is positive semi-definite where C and D are; else its own eigenvalues are asked."""
    s = ctx.covariance
    require_last(s.diagonal, ctx.n_assets, "covariance")
    rows = s.diagonal.isfinite() & s.loadings.isfinite().all(-1)
    ctx.refuse(~rows, "The covariance is not finite", "fill or drop them")
    if not bool(s.core.isfinite().all()):
        raise DataError("The covariance of the factors is not finite; mend the market model's factors.")
    if bool((s.diagonal >= 0.0).all()) and _least(s.core) >= -ROUNDING:
        return
    least = _least(s.dense())
    if least < -ROUNDING * ctx.n_assets:
        raise DataError(
            f"The covariance is not positive semi-definite{ctx.at} (least eigenvalue {least:.3g} of the largest); "
            "shrink it or clip its eigenvalues first."
        )


def _least(matrix: Tensor) -> float:
    """The least eigenvalue relative to the largest size of one, over the whole batch."""
    if matrix.shape[-1] == 0:
        return 0.0
    size = matrix.diagonal(dim1=-2, dim2=-1).abs().amax()
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    if int(torch.linalg.cholesky_ex(matrix + ROUNDING * size * eye).info.max()) == 0:
        return -ROUNDING
    values = torch.linalg.eigvalsh(matrix)
    size = values.abs().amax(-1).clamp_min(torch.finfo(values.dtype).tiny)
    return float((values[..., 0] / size).min())
