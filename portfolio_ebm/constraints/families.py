"""Two families of rules that say one thing and get every face from it: linear rows, and one convex cap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.caps import Cap
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.types import require_last


class Row(NamedTuple):
    """low <= values . w <= high, values (n,); `name` is the repr of a rule that says just this."""

    values: Tensor
    low: float
    high: float
    name: str


class RowRule(Constraint, ABC):
    """A rule that is a few linear rows."""

    @abstractmethod
    def rows(self, ctx: Context) -> list[Row]:
        """The rows, in float64 on the device of the context."""

    def restrict(self, region: Region, ctx: Context) -> Region:
        for row in self.rows(ctx):
            region = region.with_row(row.values, row.low, row.high, row.name)
        return region

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """How far the worst row is outside its range, (...)."""
        require_last(w, ctx.n_assets, f"{type(self).__name__} weights")
        rows = self.rows(ctx)
        sums = [(w * row.values.to(w)).sum(-1) for row in rows]
        off = [(at - at.clamp(row.low, row.high)).abs() for at, row in zip(sums, rows, strict=True)]
        return reduce(torch.maximum, off) if off else w.new_zeros(w.shape[:-1])

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        found: list[Any] = []
        for row in self.rows(ctx):
            value = row.values.detach().cpu().double().numpy() @ w
            if row.low == row.high:
                found.append(value == row.low)
                continue
            found += [value <= row.high] if row.high < float("inf") else []
            found += [value >= row.low] if row.low > -float("inf") else []
        return found


class CapRule(Constraint, ABC):
    """A rule that is one convex cap g(w) <= limit; `per` is what g is for one of the rule's own unit, and `step` what
    one would loosen it by at a time: a percent of capital, a basis point of risk."""

    per: ClassVar[float] = 1.0
    step: ClassVar[float] = 0.01

    @abstractmethod
    def cap(self, ctx: Context) -> Cap:
        """The cap, in float64 on the device of the context."""

    def restrict(self, region: Region, ctx: Context) -> Region:
        return region.with_cap(self.cap(ctx))

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """How far g is above its limit, in the rule's own unit, (...)."""
        require_last(w, ctx.n_assets, f"{type(self).__name__} weights")
        return self.cap(ctx).to(w).excess(w).clamp_min(0.0) / self.per

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        return [self.cap(ctx).to_cvxpy(w)]


def per_of(rule: Constraint | None) -> float:
    """What g of a rule's cap is for one of the rule's own unit: active share is half of a sum."""
    return rule.per if isinstance(rule, CapRule) else 1.0


def between(lower: float | None, upper: float | None) -> str:
    """ "at least 0.1 and at most 0.3" for the ends that are given."""
    ends = [f"at least {lower:g}"] if lower is not None else []
    ends += [f"at most {upper:g}"] if upper is not None else []
    return " and ".join(ends)


def require_ends(lower: float | None, upper: float | None) -> None:
    """Refuse a range that says nothing or is empty.

    Raises:
        ValueError: neither end is given, or they are in the wrong order.
    """
    if upper is None and lower is None:
        raise ValueError("neither upper nor lower is given, so the rule says nothing; give one")
    if upper is not None and lower is not None and upper < lower:
        raise ValueError(f"upper={upper:g} is below lower={lower:g}; swap them")


def ends(lower: float | None, upper: float | None, shift: float = 0.0) -> tuple[float, float]:
    """(low, high) with the ends that are not given open, both moved by `shift`."""
    low = -float("inf") if lower is None else lower + shift
    return low, float("inf") if upper is None else upper + shift
