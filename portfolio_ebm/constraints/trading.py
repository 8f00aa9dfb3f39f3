"""Rules on the trade from what is held: Turnover."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cvxpy as cp
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.region import Region
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
