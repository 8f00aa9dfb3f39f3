"""Rules on sums over groups of names: Group."""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import model_validator
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.types import require_last


class Group(Constraint):
    """lower <= sum of w over the assets that carry `label` in `grouping` <= upper.

    Example:
        >>> Group("sector", "Technology", upper=0.3)

    Raises:
        SpecError: no bound is given, or upper < lower; with a context, an unknown grouping or label.
    """

    grouping: str
    label: str
    upper: float | None = None
    lower: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.upper is None and self.lower is None:
            raise ValueError("neither upper nor lower is given, so the rule says nothing; give one")
        if self.upper is not None and self.lower is not None and self.upper < self.lower:
            raise ValueError(f"upper={self.upper:g} is below lower={self.lower:g}; swap them")
        return self

    def _range(self) -> tuple[float, float]:
        return -torch.inf if self.lower is None else self.lower, torch.inf if self.upper is None else self.upper

    def restrict(self, region: Region, ctx: Context) -> Region:
        return region.with_row(ctx.members(self.grouping, self.label), *self._range(), repr(self))

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """How far the group's weight is outside its range, (...)."""
        require_last(w, ctx.n_assets, "Group weights")
        found = w[..., ctx.members(self.grouping, self.label)].sum(-1)
        low, high = self._range()
        return (found - high).maximum(low - found).clamp_min(0.0)

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        found = ctx.members(self.grouping, self.label).cpu().double().numpy() @ w
        if self.lower is not None and self.lower == self.upper:
            return [found == self.lower]
        below = [] if self.upper is None else [found <= self.upper]
        return below if self.lower is None else [*below, found >= self.lower]

    def explain(self) -> str:
        ends = [f"at least {self.lower:g}"] if self.lower is not None else []
        ends += [f"at most {self.upper:g}"] if self.upper is not None else []
        return f"Names with {self.grouping} '{self.label}' together weigh {' and '.join(ends)}."
