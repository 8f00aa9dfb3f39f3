"""Rules on the trade from what is held: Turnover, Participation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cvxpy as cp
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.weights import boxed, free_names, outside
from portfolio_ebm.context import Context
from portfolio_ebm.types import require_last


class Turnover(Constraint):
    """sum |w - held| <= at_most: buys plus sells, as a fraction of the portfolio.

    Does not bind when nothing is held: the first portfolio has to be bought. Names that left the universe have to be
    sold; their sale and the purchase it pays for come on top, so the cap is at_most + 2 x what has to be sold.

    Example:
        >>> Turnover(at_most=0.4)  # sells a fifth and buys a fifth
    """

    at_most: float = Field(gt=0.0)

    def restrict(self, region: Region, ctx: Context) -> Region:
        held = anchor_of(ctx)
        if held is None:
            return region
        cap = float(_cap(self, ctx))
        cap = cap if region.turnover is None else min(cap, region.turnover)
        return replace(region, anchor=held.to(region.lower), turnover=cap)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """Turnover beyond the cap, (...)."""
        require_last(w, ctx.n_assets, "Turnover weights")
        held = anchor_of(ctx)
        if held is None:
            return w.new_zeros(w.shape[:-1])
        return ((w - held.to(w)).abs().sum(-1) - _cap(self, ctx)).clamp_min(0.0)

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        held = anchor_of(ctx)
        return [] if held is None else [cp.norm(w - held.cpu().double().numpy(), 1) <= float(_cap(self, ctx))]

    def explain(self) -> str:
        return f"Buys and sells together are at most {self.at_most:g} of the portfolio."


class Participation(Constraint):
    """|w_i - held_i| * capital <= at_most * value traded in name i over `periods`, for every name that can be traded.

    Value traded is the context's: mean shares a period times price. Where nothing is held, the first purchase is
    limited in the same way.

    Example:
        >>> Participation(0.1, periods=5)  # a tenth of five days' volume

    Source: Almgren, R. and Chriss, N. (2001), Optimal execution of portfolio transactions, Journal of Risk 3.

    Raises:
        SpecError: with a context, no volume or no capital. DataError: a tradeable name has no volume.
    """

    at_most: float = Field(gt=0.0)
    periods: float = Field(default=1.0, gt=0.0)

    def _bounds(self, ctx: Context) -> tuple[Tensor, Tensor]:
        value, capital = ctx.traded(repr(self))
        room = self.at_most * self.periods * value.double() / capital
        held = torch.zeros_like(room) if ctx.held is None else require_last(ctx.held, ctx.n_assets, "held weights")
        return held.double() - room, held.double() + room

    def restrict(self, region: Region, ctx: Context) -> Region:
        lower, upper = (x.to(region.lower) for x in self._bounds(ctx))
        return boxed(region, ctx, lower, upper)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The largest weight traded beyond a name's limit, (...)."""
        lower, upper = (x.to(w) for x in self._bounds(ctx))
        return outside(w, ctx, lower, upper, "Participation")

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        lower, upper = (x.cpu().numpy() for x in self._bounds(ctx))
        free = free_names(ctx)
        return [w[free] >= lower[free], w[free] <= upper[free]] if len(free) else []

    def explain(self) -> str:
        over = "a period" if self.periods == 1.0 else f"{self.periods:g} periods"
        return f"The trade in a name is at most {self.at_most:g} of what is traded in it in {over}."


def _cap(rule: Turnover, ctx: Context) -> float | Tensor:
    return rule.at_most + 2.0 * ctx.forced


def anchor_of(ctx: Context) -> Tensor | None:
    """The weights turnover is counted from, or None when nothing is held.

    Raises:
        ShapeError: the holdings have another number of names than the context.
    """
    if ctx.held is None or not bool((ctx.held != 0).any()):
        return None
    return require_last(ctx.held, ctx.n_assets, "held weights")
