"""Rules with convex caps, to be put where the package's own would stand: leverage, shorts, volatility, tail."""

from __future__ import annotations

from typing import Any

import torch

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.caps import Ball, Cap, Ellipsoid, Tail
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.linear import Structured


class Capped(Constraint):
    """One cap of the `what` kind at `at_most`."""

    what: str
    at_most: float

    def cap(self, ctx: Context) -> Cap:
        zero = torch.zeros(ctx.n_assets, dtype=torch.float64)
        one = torch.ones_like(zero)
        if self.what == "leverage":
            return Ball(repr(self), self.at_most, zero, one, one)
        if self.what == "shorts":
            return Ball(repr(self), self.at_most, zero, zero, one)
        if self.what == "active":
            return Ball(repr(self), self.at_most, one / ctx.n_assets, one, one)
        if self.what == "volatility":
            s = ctx.covariance
            return Ellipsoid(repr(self), self.at_most, zero, Structured(s.loadings, s.core, s.diagonal))
        losses = -ctx.scenarios
        return Tail(repr(self), self.at_most, losses, 0.1 * losses.shape[0])

    def restrict(self, region: Region, ctx: Context) -> Region:
        return region.with_cap(self.cap(ctx))

    def residual(self, w: torch.Tensor, ctx: Context) -> torch.Tensor:
        return self.cap(ctx).excess(w).clamp_min(0.0)

    def to_cvxpy(self, w: Any, ctx: Context, near: torch.Tensor | None = None) -> list[Any]:
        return [self.cap(ctx).to_cvxpy(w)]

    def explain(self) -> str:
        return f"The {self.what} is at most {self.at_most:g}."
