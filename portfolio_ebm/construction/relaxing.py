"""Relaxing: where no portfolio obeys every rule, those declared to give way do, in order and as little as possible.

The rules that must hold come first; then the rules of `relax`, from the last to the first, each held with the least
t >= 0 by which its bounds have to be let out given all that is held already. So the first named gives way first, and
one named later only where those before it do not suffice.

Source: Marler, R. T. and Arora, J. S. (2004), Survey of multi-objective optimization methods for engineering,
Structural and Multidisciplinary Optimization 26 (the lexicographic method).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, alone_of, region_of
from portfolio_ebm.constraints.families import per_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.certificate import residuals_of
from portfolio_ebm.construction.feasibility.feasible import least, possible
from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError, SpecError
from portfolio_ebm.types import Status

ROOM = 1e-8
"""Let out by this much more than needed, so that the rules leave more than a single point."""


class LetOut(Constraint):
    """`rule` with each of its bounds let out by `by`, in the rule's own units.

    Example:
        >>> LetOut(Group("sector", "Energy", upper=0.3), by=0.02)  # at most 0.32
    """

    rule: Constraint
    by: float = Field(ge=0.0)

    @property
    def convex(self) -> bool:
        return self.rule.convex

    def restrict(self, region: Region, ctx: Context) -> Region:
        alone = alone_of(self.rule, region, ctx)
        region = region.with_box(alone.lower - self.by, alone.upper + self.by)
        for row, low, high in zip(alone.rows, alone.row_lower.tolist(), alone.row_upper.tolist(), strict=True):
            region = region.with_row(row, low - self.by, high + self.by, repr(self))
        if alone.turnover is not None:
            cap = alone.turnover + self.by
            cap = cap if region.turnover is None else min(cap, region.turnover)
            region = replace(region, anchor=alone.anchor, turnover=cap)
        for one in alone.caps:
            region = region.with_cap(replace(one, name=repr(self), limit=one.limit + self.by * per_of(self.rule)))
        return region

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The residual of the rule beyond `by`, (...)."""
        return (self.rule.residual(w, ctx) - self.by).clamp_min(0.0)

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        from portfolio_ebm.construction.exact.duality import Box
        from portfolio_ebm.construction.exact.oracle import rules

        region = Region.free(ctx.n_assets, device=ctx.tradeable.device)
        return list(rules(w, Box.of(self.restrict(replace(region, frozen=~ctx.tradeable), ctx))).values())

    def explain(self) -> str:
        return f"{self.rule.explain()[:-1]}, let out by {self.by:g}."


def require_relaxable(constraint: Constraint, relax: Sequence[Constraint]) -> None:
    """Refuse a `relax` that names a rule which is not there, or is a choice of names.

    Raises:
        SpecError: names the rule.
    """
    for rule in relax:
        if rule not in constraint.rules():
            raise SpecError(f"relax= names {rule!r}, which is not one of the rules {constraint!r}.")
        if not rule.convex:
            raise SpecError(
                f"relax= names {rule!r}, a choice of names, which cannot be let out a little; leave it out."
            )


def relaxed(
    constraint: Constraint, relax: Sequence[Constraint], ctx: Context
) -> tuple[Constraint, dict[Constraint, float]]:
    """Rules that can be obeyed together, and by how much which of `relax` was let out, {} where none had to be.

    Raises:
        InfeasibleError: the rules that must hold contradict one another already; names them.
        SpecError: `relax` names what cannot be relaxed.

    Example:
        >>> relaxed(Budget() & LongOnly() & Box(upper=0.05), [Box(upper=0.05)], ctx)[1]  # ten names
        {Box(upper=0.05): 0.05}
    """
    require_relaxable(constraint, relax)
    held: list[Constraint] = [rule for rule in constraint.rules() if rule not in relax]
    region = region_of(All(parts=tuple(held)), ctx)
    if not possible(region):
        raise explain_infeasible(All(parts=tuple(held)), ctx)
    given: dict[Constraint, float] = {}
    for rule in reversed(relax):
        by = least(region, loose=alone_of(rule, region, ctx))
        if by is None:
            raise explain_infeasible(All(parts=(*held, rule)), ctx)
        by /= per_of(rule)
        if by > 1e-9:
            given[rule] = by
            held.append(LetOut(rule, by=by * (1.0 + ROOM) + ROOM))
        else:
            held.append(rule)
        region = region_of(All(parts=tuple(held)), ctx)
    return All(parts=tuple(held)), given


def build_relaxed(
    constructor: Constructor,
    energy: Energy,
    constraint: Constraint,
    ctx: Context,
    rng: torch.Generator,
    relax: Constraint | Sequence[Constraint] = (),
) -> Solution:
    """`constructor.build`, and where no portfolio obeys the rules, again with those of `relax` let out.

    The residuals are of the rules as they were written; `relaxed` says which gave way, and by how much.

    Raises: as the constructor; SpecError where `relax` names what cannot be relaxed.
    """
    relax = relax.rules() if isinstance(relax, Constraint) else relax
    require_relaxable(constraint, relax)
    try:
        return constructor.build(energy, constraint, ctx, rng)
    except InfeasibleError:
        if not relax:
            raise
    eased, given = relaxed(constraint, relax, ctx)
    found = constructor.build(energy, eased, ctx, rng)
    told = "; ".join(f"{rule!r} gave way by {by:.4g}" for rule, by in given.items())
    return replace(
        found,
        residuals=residuals_of(found.weights, constraint, ctx),
        relaxed={repr(rule): by for rule, by in given.items()},
        status=Status(found.status.ok, f"{found.status} Relaxed: {told}."),
    )
