"""Return(): the expected return of the portfolio, as an energy."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.types import lift, require_last


class Return(ConvexEnergy):
    """E(w) = -m'w, with m the expected simple returns (n,): lower is better, so the sign is turned.

    Units: fraction of wealth per holding period.

    Example:
        >>> Return() + 0.5 * 5 * Variance()
        Return() + 2.5 * Variance()

    Source: Markowitz, H. (1952), Portfolio Selection, Journal of Finance 7(1).
    """

    curvature: ClassVar[Curvature] = "affine"
    needs: ClassVar[frozenset[str]] = frozenset({"mean"})

    def bind(self, ctx: Context) -> Bound:
        mean = ctx.mean

        def energy(w: Tensor) -> Tensor:
            require_last(w, mean.shape[-1], "Return")
            return -(lift(mean, w) * w).sum(-1)

        return energy

    def quadratic(self, ctx: Context) -> Quadratic:
        mean = ctx.mean
        return Quadratic(None, -mean, torch.zeros(mean.shape[:-1], dtype=mean.dtype, device=mean.device))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return -(ctx.mean.detach().cpu().numpy() @ w)
