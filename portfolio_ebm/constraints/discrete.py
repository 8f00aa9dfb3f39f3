"""Rules on which names are held: Cardinality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.projections import HELD
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.types import require_last


class Cardinality(Constraint):
    """At most `at_most` names are held, each at `min_weight` or more (any size, short too, where it is 0).

    A name that cannot be traded is not counted and may be smaller. A weight of at most 1e-9 is not held.

    Example:
        >>> Cardinality(at_most=8, min_weight=0.03)
    """

    at_most: int = Field(ge=1, strict=True)
    min_weight: float = Field(default=0.0, ge=0.0)

    @property
    def convex(self) -> bool:
        return False

    def restrict(self, region: Region, ctx: Context) -> Region:
        most = self.at_most if region.at_most is None else min(self.at_most, region.at_most)
        least = max(self.min_weight, region.min_weight)
        return replace(region, at_most=most, min_weight=least, frozen=~ctx.tradeable)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The number of names too many; where there is none, the largest shortfall to `min_weight`, (...)."""
        require_last(w, ctx.n_assets, "Cardinality weights")
        held = (w.abs() > HELD) & ctx.tradeable
        excess = (held.sum(-1) - self.at_most).clamp_min(0).to(w.dtype)
        if self.min_weight == 0.0:
            return excess
        short = torch.where(held, self.min_weight - w, torch.zeros_like(w)).amax(-1).clamp_min(0.0)
        return torch.where(excess > 0, excess, short)

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """The slice on which the names of `near` (its `at_most` largest, where more are held) are held and
        the other tradeable names are zero; without `near` the relaxation: no count, and no shorts where
        min_weight > 0."""
        free = ctx.tradeable.cpu()
        if near is None:
            inside = free.nonzero().flatten().numpy()
            return [w[inside] >= 0] if self.min_weight > 0 and len(inside) else []
        size = torch.where(free, require_last(near, ctx.n_assets, "near").detach().cpu().abs(), torch.zeros(1))
        pattern = torch.zeros_like(free)
        pattern[size.topk(min(self.at_most, ctx.n_assets)).indices] = True
        pattern &= size > HELD
        held, out = (mask.nonzero().flatten().numpy() for mask in (pattern, free & ~pattern))
        rules = [w[out] == 0] if len(out) else []
        return [*rules, w[held] >= self.min_weight] if self.min_weight > 0 and len(held) else rules

    def explain(self) -> str:
        least = f", each with a weight of at least {self.min_weight:g}" if self.min_weight > 0 else ""
        return f"At most {self.at_most} names are held{least}."
