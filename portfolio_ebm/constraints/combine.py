"""All: several rules at once; and the doors from rules to regions and from regions to nearest points.

Projections do not compose: All compiles its rules to one Region, which is projected onto as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint, Projection
from portfolio_ebm.constraints.patterns import nearest_with_pattern
from portfolio_ebm.constraints.projections import TOLERANCE, nearest_in, require_weights, violation
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.errors import InfeasibleError, ShapeError
from portfolio_ebm.types import Status, require_last


class All(Constraint):
    """Every one of `parts`; built by `&`, flat, without repeats, equal whatever the order of its parts.

    Example:
        >>> Budget() & LongOnly() & Box(upper=0.1)
    """

    parts: tuple[Constraint, ...] = ()

    @field_validator("parts", mode="after")
    @classmethod
    def _flat(cls, parts: tuple[Constraint, ...]) -> tuple[Constraint, ...]:
        return tuple(dict.fromkeys(_leaves(parts)))

    @property
    def convex(self) -> bool:
        return all(part.convex for part in self.parts)

    def rules(self) -> tuple[Constraint, ...]:
        return self.parts

    def asks(self) -> frozenset[str]:
        return frozenset().union(*(part.asks() for part in self.parts))

    def restrict(self, region: Region, ctx: Context) -> Region:
        for part in self.parts:
            region = part.restrict(region, ctx)
        return region

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The largest residual of its rules, each in its own units, (...)."""
        require_last(w, ctx.n_assets, "weights")
        worst = w.new_zeros(w.shape[:-1])
        for part in self.parts:
            worst = worst.maximum(part.residual(w, ctx))
        return worst

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        return [rule for part in self.parts for rule in part.to_cvxpy(w, ctx, near)]

    def explain(self) -> str:
        return " ".join(part.explain() for part in self.parts) or "Anything goes."

    def fingerprint(self) -> str:
        ordered = tuple(sorted(self.parts, key=repr))
        return super().fingerprint() if ordered == self.parts else All(parts=ordered).fingerprint()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, All) and frozenset(self.parts) == frozenset(other.parts)

    def __hash__(self) -> int:
        return hash(frozenset(self.parts))

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.parts)) if len(self.parts) > 1 else super().__repr__()

    __str__ = __repr__


def _leaves(parts: Iterable[Constraint]) -> list[Constraint]:
    found: list[Constraint] = []
    for part in parts:
        found += _leaves(part.parts) if isinstance(part, All) else [part]
    return found


def region_of(constraint: Constraint, ctx: Context, *, frozen: bool = True) -> Region:
    """The region the rules compile to, in float64.

    With `frozen`, a name that cannot be traded is held where it is (or out, when it is not held or has left the
    universe), whatever the bounds say; without it, such names may move where the rules leave them room.

    Raises:
        ShapeError: the context is for several dates at once.
        SpecError: a rule names a group, label or asset that the context does not have.
    """
    if ctx.tradeable.ndim != 1 or ctx.tradeable.shape[0] != ctx.n_assets:
        got = tuple(ctx.tradeable.shape)
        raise ShapeError(f"region_of tradeable: got shape {got}, expected ({ctx.n_assets},): one date at a time.")
    region = Region.free(ctx.n_assets, device=ctx.tradeable.device)
    region = constraint.restrict(replace(region, frozen=~ctx.tradeable), ctx)
    if frozen and bool(region.frozen.any()):
        held = ctx.fixed.to(region.lower)
        region = replace(
            region,
            lower=torch.where(region.frozen, held, region.lower),
            upper=torch.where(region.frozen, held, region.upper),
        )
    return region


def project_region(w: Tensor, region: Region) -> Projection:
    """The nearest point of a region for every row of w (..., n), in the dtype of w.

    Where names are a choice, the best pattern is searched for and the point is exact on it; the status
    says whether it is proven nearest overall.

    Raises:
        ShapeError, DataError: w has another number of names, or an entry that is not finite.
        InfeasibleError: the region is empty; the message names its rules.
    """
    require_weights(w, region.n, "weights to project")
    region = region.to(w.new_zeros(0, dtype=torch.float64))
    if not region.discrete:
        found, left = nearest_in(w, region)
        message = "nearest"
    else:
        found, _, left, proven = nearest_with_pattern(w, region)
        message = "nearest" if proven else "feasible; nearest on its pattern, not proven nearest overall"
    worst = float(left.max()) if left.numel() else 0.0
    if worst > TOLERANCE:
        raise empty(region, worst)
    return Projection(found, left.to(w.dtype), Status(True, f"{message}; largest violation {worst:.1e}"))


def select_pattern(y: Tensor, region: Region) -> Tensor:
    """Which free names to hold, bool (..., n): the pattern of the nearest point that is known for y (..., n).

    Raises:
        InfeasibleError: no pattern has a point.
    """
    require_weights(y, region.n, "select_pattern")
    region = region.to(y.new_zeros(0, dtype=torch.float64))
    if not region.discrete:
        return (~region.frozen).expand(y.shape).clone()
    _, pattern, left, _ = nearest_with_pattern(y, region)
    if left.numel() and float(left.max()) > TOLERANCE:
        raise empty(region, float(left.max()))
    return pattern


def region_residual(w: Tensor, region: Region) -> Tensor:
    """The largest violation of any rule of the region at w (..., n), in weight units, (...).

    For the names held: the largest free weight beyond the `at_most` largest, and the distance of a free
    weight to {0} and [min_weight, inf).
    """
    require_last(w, region.n, "region_residual")
    r = region.to(w)
    if r.discrete and r.min_weight > 0.0:
        r = r.relaxed()
    worst = violation(w, r.lower, r.upper, r.rows, r.row_lower, r.row_upper, r.anchor, r.turnover)
    for limit in r.caps:
        worst = worst.maximum(limit.excess(w))
    size = torch.where(r.frozen, torch.zeros_like(w), w).abs()
    if region.at_most is not None and region.at_most < region.n:
        worst = worst.maximum(size.sort(-1, descending=True).values[..., region.at_most])
    if region.min_weight > 0.0:
        worst = worst.maximum(size.minimum((region.min_weight - size).clamp_min(0.0)).amax(-1))
    return worst


def empty(region: Region, worst: float) -> InfeasibleError:
    """The error for a region without a point, naming the rules as far as the region knows them."""
    rules = list(region.names)
    if bool(torch.isfinite(region.lower).any() | torch.isfinite(region.upper).any()):
        rules.append("the bounds on single weights")
    if region.turnover is not None:
        rules.append(f"Turnover(at_most={region.turnover!r})")
    rules += [cap.name for cap in region.caps]
    if region.discrete:
        least = f", min_weight={region.min_weight!r}" if region.min_weight else ""
        rules.append(f"Cardinality(at_most={region.at_most!r}{least})")
    frozen = (
        f" {int(region.frozen.sum())} names cannot be traded and stay as held." if bool(region.frozen.any()) else ""
    )
    return InfeasibleError(
        f"No portfolio obeys {', '.join(rules)} together; the best point found breaks one by {worst:.3g}."
        f"{_reason(region)}{frozen} Loosen one of them.",
        rules,
    )


def _reason(region: Region) -> str:
    box = region.relaxed()
    if bool((box.lower > box.upper).any()):
        i = int((box.lower > box.upper).nonzero()[0])
        return f" Name {i} would have to lie between {float(box.lower[i]):g} and {float(box.upper[i]):g}."
    for row, low, high, name in zip(box.rows, box.row_lower, box.row_upper, box.names, strict=True):
        ends = (
            (row * torch.where(row > 0, box.upper, box.lower)).nan_to_num(0.0),
            (row * torch.where(row > 0, box.lower, box.upper)).nan_to_num(0.0),
        )
        most = ends[0].sort(descending=True).values
        free = most if region.at_most is None or bool(region.frozen.any()) else most[: region.at_most]
        if float(free.sum()) < float(low) - TOLERANCE:
            return f" {name} needs {float(low):g} and the bounds allow at most {float(free.sum()):g}."
        if float(ends[1].sum()) > float(high) + TOLERANCE:
            return f" {name} allows {float(high):g} and the bounds need at least {float(ends[1].sum()):g}."
    return ""
