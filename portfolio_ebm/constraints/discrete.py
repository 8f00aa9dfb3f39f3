"""Rules on which names are held: Cardinality, MinPosition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.modes import ModeRule, unit_codes
from portfolio_ebm.constraints.projections import HELD
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.types import require_last

OUT, IN = 0, 1


class Cardinality(ModeRule):
    """How many names are held, each at `min_weight` or more (any size, short too, where it is 0).

    A name that cannot be traded is not counted and may be smaller. A weight of at most 1e-9 is not held.

    Attributes:
        at_most, at_least, exactly: of the names held; `exactly` alone, or the others. A least number needs a
            `min_weight`, since without one a name of no weight would count.
        min_weight: the least weight of a name held.
        groups: a grouping: the numbers are of each of its labels, and not of all names together.

    Example:
        >>> Cardinality(at_most=8, min_weight=0.03)
        >>> Cardinality(exactly=30, min_weight=0.01) & Cardinality(at_most=5, groups="sector")

    Source: Chang, T.-J. et al. (2000), Heuristics for cardinality constrained portfolio optimisation, Computers &
    Operations Research 27, who hold exactly so many.
    """

    at_most: int | None = Field(default=None, ge=1, strict=True)
    min_weight: float = Field(default=0.0, ge=0.0)
    at_least: int | None = Field(default=None, ge=1, strict=True)
    exactly: int | None = Field(default=None, ge=1, strict=True)
    groups: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.at_most is None and self.at_least is None and self.exactly is None:
            raise ValueError("no number is given; give at_most, at_least or exactly, or use MinPosition")
        if self.exactly is not None and (self.at_most is not None or self.at_least is not None):
            raise ValueError("exactly is given beside at_most or at_least; keep one of them")
        if self.at_most is not None and self.at_least is not None and self.at_most < self.at_least:
            raise ValueError(f"at_most={self.at_most} is below at_least={self.at_least}; swap them")
        if self.least and self.min_weight == 0.0:
            raise ValueError("a least number of names needs a min_weight above 0, else names of no weight would count")
        return self

    @property
    def least(self) -> int:
        """The least number of names; 0 where none is asked."""
        return self.exactly or self.at_least or 0

    @property
    def most(self) -> float:
        """The largest number of names; infinite where none is asked."""
        return float(self.exactly or self.at_most or np.inf)

    def choices(self, ctx: Context) -> Choices:
        names = np.flatnonzero(ctx.tradeable.cpu().numpy())
        held = (self.min_weight, np.inf) if self.min_weight > 0.0 else (-np.inf, np.inf)
        found = Choices.of_names(names, [(0.0, 0.0), held], [], repr(self))
        limits = tuple(
            Limit(np.flatnonzero(mask[names]), (IN,), float(self.least), self.most, False, repr(self))
            for mask in self._counted(ctx)
        )
        return replace(found, limits=limits)

    def _counted(self, ctx: Context) -> list[Any]:
        """The sets of names that are counted, each bool (n,)."""
        if self.groups is None:
            return [np.ones(ctx.n_assets, dtype=bool)]
        codes = unit_codes(ctx, self.groups, "Cardinality")
        return [codes == k for k in range(int(codes.max(initial=-1)) + 1)]

    def restrict(self, region: Region, ctx: Context) -> Region:
        if self.least or self.groups is not None:
            return super().restrict(region, ctx)
        # A largest number over all names has faster ways of its own.
        most = self.at_most if region.at_most is None else min(self.at_most or region.at_most, region.at_most)
        least = max(self.min_weight, region.min_weight)
        return replace(region, at_most=most, min_weight=least, frozen=~ctx.tradeable)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The number of names too many or too few; where none, the largest shortfall to `min_weight`, (...)."""
        require_last(w, ctx.n_assets, "Cardinality weights")
        held = (w.abs() > HELD) & ctx.tradeable
        wrong = w.new_zeros(w.shape[:-1])
        for mask in self._counted(ctx):
            count = (held & torch.as_tensor(mask, device=w.device)).sum(-1).to(w.dtype)
            wrong = wrong.maximum(count - self.most).maximum(self.least - count)
        return torch.where(wrong > 0, wrong, _short(w, held, self.min_weight))

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """The slice on which the names of `near` (its largest, where more are held than may be) are held and the other
        tradeable names are zero; without `near` the relaxation."""
        if self.least or self.groups is not None:
            return super().to_cvxpy(w, ctx, near)
        free = ctx.tradeable.cpu()
        if near is None:
            inside = free.nonzero().flatten().numpy()
            return [w[inside] >= 0] if self.min_weight > 0 and len(inside) else []
        size = torch.where(free, require_last(near, ctx.n_assets, "near").detach().cpu().abs(), torch.zeros(1))
        pattern = torch.zeros_like(free)
        pattern[size.topk(min(self.at_most or ctx.n_assets, ctx.n_assets)).indices] = True
        pattern &= size > HELD
        return _slice(w, pattern, free, self.min_weight)

    def explain(self) -> str:
        least = f", each with a weight of at least {self.min_weight:g}" if self.min_weight > 0 else ""
        numbers = [f"exactly {self.exactly}"] if self.exactly is not None else []
        numbers += [f"at least {self.at_least}"] if self.at_least is not None else []
        numbers += [f"at most {self.at_most}"] if self.at_most is not None else []
        where = "" if self.groups is None else f" in every {self.groups}"
        text = " and ".join(numbers)
        return f"{text[:1].upper()}{text[1:]} names are held{where}{least}."


class MinPosition(Constraint):
    """A name is held at `weight` or more, or not at all; nothing is short.

    A name that cannot be traded may be smaller. A weight of at most 1e-9 is not held.

    Example:
        >>> Budget() & MinPosition(0.02)
    """

    weight: float = Field(gt=0.0)

    @property
    def convex(self) -> bool:
        return False

    def restrict(self, region: Region, ctx: Context) -> Region:
        return replace(region, min_weight=max(self.weight, region.min_weight), frozen=~ctx.tradeable)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The largest shortfall of a name held to `weight`, (...)."""
        require_last(w, ctx.n_assets, "MinPosition weights")
        return _short(w, (w.abs() > HELD) & ctx.tradeable, self.weight)

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """The slice on which the names nearer to `weight` than to zero in `near` are held; without `near` no shorts."""
        free = ctx.tradeable.cpu()
        if near is None:
            inside = free.nonzero().flatten().numpy()
            return [w[inside] >= 0] if len(inside) else []
        point = require_last(near, ctx.n_assets, "near").detach().cpu()
        return _slice(w, free & (point > 0.5 * self.weight), free, self.weight)

    def explain(self) -> str:
        return f"A name is held with a weight of at least {self.weight:g}, or not at all."


def _short(w: Tensor, held: Tensor, least: float) -> Tensor:
    """The largest shortfall of a held name to `least`, (...)."""
    if least == 0.0:
        return w.new_zeros(w.shape[:-1])
    return torch.where(held, least - w, torch.zeros_like(w)).amax(-1).clamp_min(0.0)


def _slice(w: Any, pattern: Tensor, free: Tensor, least: float) -> list[Any]:
    """The free names of `pattern` at `least` or more, the other free names zero."""
    held, out = (mask.nonzero().flatten().numpy() for mask in (pattern, free & ~pattern))
    rules = [w[out] == 0] if len(out) else []
    return [*rules, w[held] >= least] if least > 0 and len(held) else rules
