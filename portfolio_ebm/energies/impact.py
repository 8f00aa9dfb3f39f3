"""MarketImpact and BorrowCost: costs that depend on the size of the trade, and on what is sold short."""

from __future__ import annotations

from typing import Any, ClassVar

import cvxpy as cp
import torch
from pydantic import Field, model_validator
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.robust import deviations
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature
from portfolio_ebm.types import lift, require_last


class MarketImpact(ConvexEnergy):
    """E(w) = c sum_i s_i |z_i|^(3/2) sqrt(A / V_i), z = w - held: the 3/2-power law of market impact.

    Trading the money x = A z_i of a name that trades V_i a period moves its price by c s_i sqrt(|x| / V_i), s_i its
    standard deviation a period; the cost is that move times |z_i|. A is the capital, V and s are per period of the
    panel. Zero when nothing is held.

    Units: fraction of wealth, paid once per trade.

    Attributes:
        coefficient: c, about one.

    Raises:
        SpecError: no capital or no volume is known; DataError: a volume that is not above zero, named.

    Example:
        >>> Return() + 2.5 * Variance() + TradingCost(2 * bps) + MarketImpact()   # with Strategy(capital=1e8)

    Source: Grinold, R. and Kahn, R. (1999), Active Portfolio Management, chapter 16; Almgren, R., Thum, C., Hauptmann,
    E. and Li, H. (2005), Direct estimation of equity market impact, Risk 18.
    """

    coefficient: float = Field(default=1.0, ge=0.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"covariance"})

    def check(self, ctx: Context) -> None:
        ctx.traded(repr(self))

    def slopes(self, ctx: Context) -> Tensor:
        """c s_i sqrt(A / V_i), (..., n); zero for names that cannot be traded."""
        volume, capital = ctx.traded(repr(self))
        width = deviations(ctx.covariance)
        found = self.coefficient * width * (capital / (ctx.horizon * volume.to(width))).sqrt()
        return torch.where(ctx.tradeable, found, torch.zeros_like(found))

    def bind(self, ctx: Context) -> Bound:
        held, slopes = ctx.held, self.slopes(ctx)

        def energy(w: Tensor) -> Tensor:
            require_last(w, ctx.n_assets, "MarketImpact")
            if held is None:
                return torch.zeros_like(w[..., 0])
            return (lift(slopes, w) * (w - lift(held, w)).abs().pow(1.5)).sum(-1)

        return energy

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        if ctx.held is None:
            return cp.Constant(0.0)
        move = cp.power(cp.abs(w - ctx.held.detach().cpu().numpy()), 1.5)
        return self.slopes(ctx).detach().cpu().numpy() @ move


class BorrowCost(ConvexEnergy):
    """E(w) = h sum_i rate_i max(-w_i, 0): the fee for what is sold short, h the holding period.

    Units: fraction of wealth per holding period; rates are per period of the panel (3 % a year of days is 0.03 / 252).

    Attributes:
        rate: the same for every name, or
        rates: the name of point-in-time rates by asset among the forecasts.

    Raises:
        SpecError: both or none are given, or no such forecast; DataError: a rate is missing or negative, named.

    Example:
        >>> Return() + 2.5 * Variance() + BorrowCost(rates="borrow_fee")

    Source: Boyd, S. et al. (2017), Multi-period trading via convex optimization, Foundations and Trends in
    Optimization 3(1).
    """

    rate: float | None = Field(default=None, ge=0.0)
    rates: str | None = None

    curvature: ClassVar[Curvature] = "convex"

    @model_validator(mode="after")
    def _one(self) -> BorrowCost:
        if (self.rate is None) == (self.rates is None):
            raise ValueError("give either rate= or rates=")
        return self

    def check(self, ctx: Context) -> None:
        self._fees(ctx)

    def _fees(self, ctx: Context) -> Tensor:
        if self.rates is None:
            fees = torch.full((ctx.n_assets,), self.rate or 0.0, dtype=torch.float64, device=ctx.tradeable.device)
        else:
            fees = ctx.forecast(self.rates)
            ctx.refuse(fees < 0.0, f"Borrow rate '{self.rates}' is negative", "mend them")
        return fees.clamp_min(0.0) * ctx.horizon

    def bind(self, ctx: Context) -> Bound:
        fees = self._fees(ctx)
        n = ctx.n_assets
        return lambda w: (lift(fees.to(w), w) * (-require_last(w, n, "BorrowCost")).clamp_min(0.0)).sum(-1)

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return self._fees(ctx).detach().cpu().numpy() @ cp.neg(w)
