"""Cash(rate): what the weights leave over earns, as an energy."""

from __future__ import annotations

from typing import Any, ClassVar

import cvxpy as cp
import torch
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.types import require_last


class Cash(ConvexEnergy):
    """E(w) = -h rate (1 - sum w): what the cash earns that the weights leave over, h the holding period.

    In a ratio it makes the gain an excess over cash: (m'w + h rate (1 - sum w)) - h rate = (m - h rate)'w, so the rate
    enters as its opportunity cost with `excess=True`: E(w) = h rate sum w.

    Units: fraction of wealth per holding period; the rate is per period of the panel.

    Attributes:
        rate: per period of the panel.
        excess: leave out the constant, so that the gain of a formula is in excess of cash.

    Example:
        >>> MaxRatio(Return() + Cash(0.0001, excess=True), Volatility())  # the Sharpe ratio in excess of cash

    Source: Sharpe, W. F. (1994), The Sharpe ratio, Journal of Portfolio Management 21(1).
    """

    rate: float
    excess: bool = False

    curvature: ClassVar[Curvature] = "affine"

    def bind(self, ctx: Context) -> Bound:
        face = self.quadratic(ctx)

        def energy(w: Tensor) -> Tensor:
            return face(require_last(w, ctx.n_assets, "Cash"))

        return energy

    def quadratic(self, ctx: Context) -> Quadratic:
        cost = self.rate * ctx.horizon
        linear_part = torch.full(ctx.tradeable.shape, cost, dtype=torch.float64, device=ctx.tradeable.device)
        constant = torch.zeros_like(linear_part[..., 0]) - (0.0 if self.excess else cost)
        return Quadratic(None, linear_part, constant)

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        cost = self.rate * ctx.horizon
        return cost * cp.sum(w) - (0.0 if self.excess else cost)
