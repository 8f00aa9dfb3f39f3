"""RoundLots: weights that can be bought, in whole lots at the last prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.grid import off_grid, on_grid
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.weights import free_names, place_of
from portfolio_ebm.context import Context
from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import require_last


class RoundLots(Constraint):
    """w_i = k_i lot_i price_i / capital with a whole k_i, for every name that can be traded.

    Whole lots seldom add up to exactly everything: leave room for cash, `Budget(at_least=0.98)`. Short lots are whole
    numbers too. The nearest portfolio is searched for on the grid and not proven; the best is proven, or bounded by
    what lots can be, under a convex quadratic with costs of trading (construction/choosing/lots.py), else bounded by
    fractions.

    Attributes:
        lot: shares in a lot. lots: (name, shares) where a name's lot is another.

    Raises:
        SpecError: no prices or no capital are known, or a name the Context does not have.

    Example:
        >>> Budget(at_least=0.98) & LongOnly() & RoundLots(lot=100)  # with Strategy(capital=1e6)

    Source: Mansini, R. and Speranza, M. G. (1999), Heuristic algorithms for the portfolio selection problem with
    minimum transaction lots, European Journal of Operational Research 114.
    """

    lot: float = Field(default=1.0, gt=0.0)
    lots: tuple[tuple[str, float], ...] = ()

    @field_validator("lots", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple(sorted(tuple(pair) for pair in pairs))

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name, size in self.lots:
            if size <= 0.0:
                raise ValueError(f"the lot of '{name}' is {size:g}; give a number of shares above zero")
        return self

    @property
    def convex(self) -> bool:
        return False

    def step(self, ctx: Context) -> Tensor:
        """The weight of one lot of each name, (n,); 0 for names that cannot be traded."""
        if ctx.capital is None or not ctx.capital > 0.0:
            raise SpecError(f"{self!r} needs the size of the portfolio: give Strategy(capital=...) or capital=.")
        if ctx.prices is None:
            raise SpecError(f"{self!r} needs prices, and there are none: pass prices=, or give the panel prices.")
        prices = require_last(ctx.prices, ctx.n_assets, "prices").double()
        ctx.refuse(~(prices > 0.0), "The price is not above zero", "drop them or mend their prices")
        shares = torch.full_like(prices, self.lot)
        for name, size in self.lots:
            shares[place_of(ctx, name, "RoundLots")] = size
        return torch.where(ctx.tradeable, shares * prices / ctx.capital, torch.zeros_like(prices))

    def restrict(self, region: Region, ctx: Context) -> Region:
        step = self.step(ctx)
        if region.grid is not None and not torch.equal(region.grid, step.to(region.grid)):
            raise SpecError("Two RoundLots rules give different lots; say them in one, with lots=.")
        return region.with_grid(step)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The largest distance of a weight from a whole number of lots, in weight, (...)."""
        require_last(w, ctx.n_assets, "RoundLots weights")
        return off_grid(w, self.step(ctx).to(w))

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """The one point of whole lots nearest to `near`; without `near` no rule at all, the relaxation."""
        free = free_names(ctx)
        if near is None or not len(free):
            return []
        point = on_grid(require_last(near, ctx.n_assets, "near").detach().double().cpu(), self.step(ctx).cpu())
        return [w[free] == point.numpy()[free]]

    def explain(self) -> str:
        own = "".join(f"; {name} in lots of {size:g}" for name, size in self.lots)
        return f"Every name is traded in whole lots of {self.lot:g}{own}."
