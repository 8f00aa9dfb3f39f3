"""TradingCost(rate): what the trade from the held weights costs, once."""

from __future__ import annotations

from typing import Any, ClassVar

import cvxpy as cp
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature
from portfolio_ebm.types import lift, require_last


class TradingCost(ConvexEnergy):
    """E(w) = rate * sum_i |w_i - h_i|, h the weights held before the trade; zero when nothing is held.

    Units: fraction of wealth, paid once per trade, hence per holding period.

    Attributes:
        rate: cost of a one-way trade as a fraction of what is traded, e.g. `5 * bps`.

    Example:
        >>> Return() + TradingCost(5 * bps)

    Source: Lobo, M. S., Fazel, M. and Boyd, S. (2007), Portfolio optimization with linear and fixed
    transaction costs, Annals of Operations Research 152.
    """

    rate: float = Field(ge=0.0)

    curvature: ClassVar[Curvature] = "convex"

    def bind(self, ctx: Context) -> Bound:
        held = ctx.held

        def energy(w: Tensor) -> Tensor:
            require_last(w, ctx.n_assets, "TradingCost")
            if held is None:
                return torch.zeros_like(w[..., 0])
            return self.rate * (w - lift(held, w)).abs().sum(-1)

        return energy

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return cp.Constant(0.0) if ctx.held is None else self.rate * cp.norm1(w - ctx.held.detach().cpu().numpy())
