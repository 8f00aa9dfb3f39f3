"""Rules on single weights and on their sum: Budget, LongOnly, Box.

A name that cannot be traded stays as it is held, so LongOnly and Box leave it alone; it does count in sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Self

import torch
from pydantic import field_validator, model_validator
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.families import Row, RowRule
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import require_last


class Budget(RowRule):
    """sum w = total, or at_least <= sum w <= total; cash is 1 - sum w.

    Example:
        >>> Budget(total=1.0, at_least=0.9)  # up to a tenth in cash
    """

    total: float = 1.0
    at_least: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.at_least is not None and self.at_least > self.total:
            raise ValueError(f"at_least={self.at_least:g} is above total={self.total:g}; swap them")
        return self

    @property
    def least(self) -> float:
        """The smallest sum of weights allowed."""
        return self.total if self.at_least is None else self.at_least

    def rows(self, ctx: Context) -> list[Row]:
        ones = torch.ones(ctx.n_assets, dtype=torch.float64, device=ctx.tradeable.device)
        return [Row(ones, self.least, self.total, repr(self))]

    def explain(self) -> str:
        if self.least == self.total:
            return f"The weights add up to {self.total:g}."
        return f"The weights add up to between {self.least:g} and {self.total:g}; the rest is cash."


class LongOnly(Constraint):
    """w >= 0 for every name that can be traded."""

    def restrict(self, region: Region, ctx: Context) -> Region:
        return replace(region, lower=torch.where(ctx.tradeable, region.lower.clamp_min(0.0), region.lower))

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The largest short position of a name that can be traded, (...)."""
        require_last(w, ctx.n_assets, "LongOnly weights")
        return torch.where(ctx.tradeable, (-w).clamp_min(0.0), torch.zeros_like(w)).amax(-1)

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        free = free_names(ctx)
        return [w[free] >= 0] if len(free) else []

    def explain(self) -> str:
        return "No short positions."


class Box(Constraint):
    """lower <= w_i <= upper, for every name that can be traded; `caps` and `floors` tighten single names.

    Example:
        >>> Box(upper=0.1, caps={"AAPL": 0.05})

    Raises:
        SpecError: an upper bound below a lower one; with a context, a name it does not have.
    """

    lower: float = 0.0
    upper: float = 1.0
    caps: tuple[tuple[str, float], ...] = ()
    floors: tuple[tuple[str, float], ...] = ()

    @field_validator("caps", "floors", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple(sorted(tuple(pair) for pair in pairs))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.upper < self.lower:
            raise ValueError(f"upper={self.upper:g} is below lower={self.lower:g}; swap them")
        caps, floors = dict(self.caps), dict(self.floors)
        if len(caps) < len(self.caps) or len(floors) < len(self.floors):
            raise ValueError("a name is given twice in caps or in floors; keep one of them")
        for name in caps.keys() | floors.keys():
            low, high = max(self.lower, floors.get(name, self.lower)), min(self.upper, caps.get(name, self.upper))
            if high < low:
                raise ValueError(
                    f"'{name}' would have to lie between {low:g} and {high:g}; lower its floor or raise its cap"
                )
        return self

    def _bounds(self, ctx: Context, like: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = like.new_full((ctx.n_assets,), self.lower), like.new_full((ctx.n_assets,), self.upper)
        for name, cap in self.caps:
            upper[place_of(ctx, name, "Box")] = min(cap, self.upper)
        for name, floor in self.floors:
            lower[place_of(ctx, name, "Box")] = max(floor, self.lower)
        return lower, upper

    def restrict(self, region: Region, ctx: Context) -> Region:
        return boxed(region, ctx, *self._bounds(ctx, region.lower))

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The largest distance of a tradeable name's weight from its bounds, (...)."""
        return outside(w, ctx, *self._bounds(ctx, w), "Box")

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        lower, upper = self._bounds(ctx, torch.zeros(0, dtype=torch.float64))
        free = free_names(ctx)
        return [w[free] >= lower.numpy()[free], w[free] <= upper.numpy()[free]] if len(free) else []

    def explain(self) -> str:
        single = [f"{name} at most {cap:g}" for name, cap in self.caps]
        single += [f"{name} at least {floor:g}" for name, floor in self.floors]
        return f"Every weight is between {self.lower:g} and {self.upper:g}{''.join('; ' + item for item in single)}."


def free_names(ctx: Context) -> Any:
    """The places of the names that can be traded, as a numpy array."""
    return ctx.tradeable.cpu().nonzero().flatten().numpy()


def boxed(region: Region, ctx: Context, lower: Tensor, upper: Tensor) -> Region:
    """`region` with the box on the names that can be traded."""
    inf = torch.full_like(lower, torch.inf)
    return region.with_box(torch.where(ctx.tradeable, lower, -inf), torch.where(ctx.tradeable, upper, inf))


def outside(w: Tensor, ctx: Context, lower: Tensor, upper: Tensor, who: str) -> Tensor:
    """How far the worst tradeable name of w (..., n) is outside the box, (...)."""
    require_last(w, ctx.n_assets, f"{who} weights")
    beyond = (lower - w).maximum(w - upper).clamp_min(0.0)
    return torch.where(ctx.tradeable, beyond, torch.zeros_like(beyond)).amax(-1)


def place_of(ctx: Context, name: str, who: str) -> int:
    if name not in ctx.assets:
        near = get_close_matches(name, ctx.assets, n=3) or list(ctx.assets[:8])
        raise SpecError(f"{who}: no asset '{name}'; there is {', '.join(near)}.")
    return ctx.assets.index(name)
