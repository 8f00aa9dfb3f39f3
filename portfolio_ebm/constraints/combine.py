"""All: several rules at once; and the doors from rules to regions and from regions to nearest points.

Projections do not compose: All compiles its rules to one Region, which is projected onto as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint, Projection
from portfolio_ebm.constraints.capped import cut_of, least_excess
from portfolio_ebm.constraints.grid import nearest_on_grid, off_grid
from portfolio_ebm.constraints.interior import least_excess_of
from portfolio_ebm.constraints.mixed.concentration import alone
from portfolio_ebm.constraints.mixed.grids.lots import best_lots
from portfolio_ebm.constraints.mixed.nearest import near_by_modes, nearest_by_modes
from portfolio_ebm.constraints.mixed.of_region import choices_of
from portfolio_ebm.constraints.mixed.reading import missing_weight
from portfolio_ebm.constraints.patterns import nearest_with_pattern, proposed
from portfolio_ebm.constraints.projections import TOLERANCE, nearest_in, require_weights, violation
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.errors import InfeasibleError, ShapeError, SolverError, SpecError
from portfolio_ebm.types import Status, require_last

MOST_CASES = 64
"""So many cases an intersection of Either rules may have."""


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

    def cases(self) -> tuple[Constraint, ...]:
        """One for each combination of what its `Either`s leave.

        Raises:
            SpecError: there are more than MOST_CASES.
        """
        found: list[tuple[Constraint, ...]] = [()]
        for part in self.parts:
            found = [(*before, case) for before in found for case in part.cases()]
            if len(found) > MOST_CASES:
                raise SpecError(f"The Either rules leave more than {MOST_CASES} cases; leave some of them out.")
        return (self,) if len(found) == 1 else tuple(All(parts=parts) for parts in found)

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
    free = Region.free(ctx.n_assets, device=ctx.tradeable.device, frozen=~ctx.tradeable)
    region = constraint.restrict(free, ctx)
    if frozen and bool(region.frozen.any()):
        held = ctx.fixed.to(region.lower)
        region = replace(
            region,
            lower=torch.where(region.frozen, held, region.lower),
            upper=torch.where(region.frozen, held, region.upper),
        )
    return region


def regions_of(constraint: Constraint, ctx: Context, *, frozen: bool = True) -> tuple[Region, ...]:
    """The region of every case of the rules: one, but for `Either`. Errors as `region_of`."""
    return tuple(region_of(case, ctx, frozen=frozen) for case in constraint.cases())


def project_any(w: Tensor, regions: Sequence[Region], *, prove: bool = True, known: Tensor | None = None) -> Projection:
    """The nearest point of any of several regions, for every row of w (..., n); `prove` as `project_region`.

    With `known` (n,), a point of one of them, w (k, n) are the rows of a sample, and where each would take a search of
    its own a feasible point near it is enough (`near_by_modes`).

    Where a region was not solved and another one was, the status says so and is not ok.

    Raises: as `project_region`; InfeasibleError only where no region has a point.
    """
    found: list[Projection] = []
    failed: InfeasibleError | SolverError | None = None
    for region in regions:
        try:
            found.append(
                project_region(w, region, prove=prove)
                if known is None or not _dear(region)
                else _near(w, region, known)
            )
        except (InfeasibleError, SolverError) as error:
            # What was not solved may be nearer; what is empty is not.
            failed = failed if isinstance(failed, SolverError) else error
    if failed is not None and not found:
        raise failed
    unsolved = f"; one case was not solved: {failed}" if isinstance(failed, SolverError) else ""
    if len(found) == 1:
        only = found[0]
        return only._replace(status=Status(only.status.ok and not unsolved, only.status.message + unsolved))
    pick = torch.stack([(one.weights - w).square().sum(-1) for one in found]).argmin(0)
    weights = torch.stack([one.weights for one in found])
    nearest = weights.gather(0, pick[None, ..., None].expand(1, *w.shape)).squeeze(0)
    left = torch.stack([one.residual for one in found]).gather(0, pick[None]).squeeze(0)
    return Projection(
        nearest, left, Status(not unsolved, f"nearest of {len(found)} cases; {found[0].status.message}{unsolved}")
    )


def alone_of(rule: Constraint, like: Region, ctx: Context) -> Region:
    """The walls of one rule on the free region with the frozen names of `like`."""
    free = Region.free(ctx.n_assets, dtype=like.lower.dtype, device=like.lower.device, frozen=like.frozen)
    return rule.restrict(free, ctx)


def project_region(w: Tensor, region: Region, *, prove: bool = True) -> Projection:
    """The nearest point of a region for every row of w (..., n), in the dtype of w.

    Where names are a choice, the best pattern is searched for and the point is exact on it; the status
    says whether it is proven nearest overall. Without `prove` a feasible point near w is enough.

    Raises:
        ShapeError, DataError: w has another number of names, or an entry that is not finite.
        InfeasibleError: the region is empty; the message names its rules.
        SolverError: the region is not empty, and the nearest points of some rows were not reached.
    """
    require_weights(w, region.n, "weights to project")
    region = region.to(w.new_zeros(0, dtype=torch.float64))
    if not region.discrete:
        found, left = nearest_in(w, region)
        message = "nearest"
    elif region.grid is not None:
        found, left, proven = _nearest_lots(w, region)
        message = "nearest" if proven else "on whole lots; not proven nearest"
    elif region.choices is not None:
        found, left, proven = nearest_by_modes(w, region, prove=prove)
        found = found.to(w.dtype)
        message = "nearest, proven by branch and bound" if proven else "feasible; not proven nearest overall"
    else:
        found, _, left, proven = nearest_with_pattern(w, region)
        message = "nearest" if proven else "feasible; nearest on its pattern, not proven nearest overall"
    worst = float(left.max()) if left.numel() else 0.0
    # Where nothing bounds the weights they may be millions, and a sum of them is exact to its rounding only.
    rounding = torch.finfo(torch.float64).eps * found.double().abs().sum(-1)
    broken = left > rounding.clamp_min(TOLERANCE)
    if bool(broken.any()):
        raise _failed(region, broken, worst)
    return Projection(found, left.to(w.dtype), Status(True, f"{message}; largest violation {worst:.1e}"))


def _near(w: Tensor, region: Region, known: Tensor) -> Projection:
    """Feasible points near the rows of w (k, n), `known` (n,) among those to start from where it is feasible here."""
    region = region.to(w.new_zeros(0, dtype=torch.float64))
    inside = known[None].double()[region_residual(known[None].double(), region) <= TOLERANCE]
    found = near_by_modes(w.double(), region, inside).to(w.dtype)
    return Projection(found, region_residual(found, region), Status(True, "feasible; not the nearest"))


def searched(region: Region) -> bool:
    """Whether the nearest point takes a search of its own for every row: lots, or modes, beside other walls."""
    if region.grid is not None:
        return nearest_on_grid(torch.zeros_like(region.lower), region) is None
    return region.choices is not None and not alone(region, choices_of(region))


def _dear(region: Region) -> bool:
    """Whether the nearest points of a sample take many solves a row: modes or names to choose, beside other walls."""
    if region.grid is not None or not region.discrete:
        return False
    return searched(region) if region.choices is not None else not proposed(region)


def _failed(region: Region, broken: Tensor, worst: float) -> InfeasibleError | SolverError:
    """Why some rows have no point: there is none, or there is one and it was not reached."""
    if region.discrete or bool((region.lower > region.upper).any()):
        return empty(region, worst)
    slack = least_excess(region) if region.curved else least_excess_of(cut_of(region))
    if slack > 10.0 * TOLERANCE:
        return empty(region, worst)
    return SolverError(
        f"The nearest portfolio under {', '.join(_named(region))} was not reached for {int(broken.sum())} of "
        f"{broken.numel()} rows, although there is one; the best point found breaks a rule by {worst:.3g}. Scale "
        "weights and limits to near one, or loosen a rule that leaves almost no room."
    )


def _nearest_lots(w: Tensor, region: Region) -> tuple[Tensor, Tensor, bool]:
    """The nearest points on the grid that were found, the violation left, and whether they are proven nearest."""
    alone = nearest_on_grid(w.detach().to(torch.float64), region)
    if alone is not None:
        return alone.to(w.dtype), w.new_zeros(w.shape[:-1], dtype=torch.float64), True
    loose = region.ungridded()
    flat = w.detach().reshape(-1, region.n).to(torch.float64)
    found, left = flat.clone(), torch.ones(len(flat), dtype=torch.float64, device=w.device)
    around = project_region(flat, loose).weights
    for k, y in enumerate(flat):
        point = best_lots(partial(_half_square, y), partial(region_residual, region=loose), around[k], region)
        if point is not None:
            found[k], left[k] = point, 0.0
    return found.reshape(w.shape).to(w.dtype), left.reshape(w.shape[:-1]), False


def _half_square(y: Tensor, w: Tensor) -> Tensor:
    return 0.5 * (w - y).square().sum(-1)


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
    if region.choices is not None:
        worst = worst.maximum(missing_weight(w, region.choices))
    if region.grid is not None:
        worst = worst.maximum(off_grid(w, region.grid.to(w)))
    return worst


def empty(region: Region, worst: float) -> InfeasibleError:
    """The error for a region without a point, naming the rules as far as the region knows them."""
    rules = _named(region)
    frozen = (
        f" {int(region.frozen.sum())} names cannot be traded and stay as held." if bool(region.frozen.any()) else ""
    )
    return InfeasibleError(
        f"No portfolio obeys {', '.join(rules)} together; the best point found breaks one by {worst:.3g}."
        f"{_reason(region)}{frozen} Loosen one of them.",
        rules,
    )


def _named(region: Region) -> list[str]:
    """The rules of a region, as far as it knows them."""
    rules = list(region.names)
    if bool(torch.isfinite(region.lower).any() | torch.isfinite(region.upper).any()):
        rules.append("the bounds on single weights")
    if region.turnover is not None:
        rules.append(f"Turnover(at_most={region.turnover!r})")
    rules += [cap.name for cap in region.caps]
    rules += [] if region.grid is None else ["RoundLots"]
    rules += [] if region.choices is None else list(dict.fromkeys(one.name for one in region.choices.limits))
    if region.at_most is not None or region.min_weight > 0.0:
        least = f", min_weight={region.min_weight!r}" if region.min_weight else ""
        rules.append(f"Cardinality(at_most={region.at_most!r}{least})")
    return rules


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
