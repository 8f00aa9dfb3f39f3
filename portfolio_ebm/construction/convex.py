"""Convex(): the exact minimum of a convex formula over convex rules, with the proof and the price of every rule."""

from __future__ import annotations

import torch

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.certificate import certify
from portfolio_ebm.construction.exact.formula import ELSEWHERE, refuse_non_convex
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
from portfolio_ebm.construction.shadow import told
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, Sum
from portfolio_ebm.errors import InfeasibleError, SpecError


def require_convex(energy: Energy, constraint: Constraint, who: str = "Convex()", remedy: str = ELSEWHERE) -> None:
    """Raise SpecError, naming the term or the rule, where either is not convex; as `refuse_non_convex`."""
    refuse_non_convex(energy, who, remedy)
    for rule in constraint.rules():
        if not rule.convex:
            raise SpecError(f"{rule!r} is a choice of names, which {who} cannot make; {remedy}.")


def require_exact(energy: Energy, constraint: Constraint) -> None:
    """`require_convex` of what Convex() takes: a ratio may stand alone as well."""
    require_convex(energy if lone_ratio(energy) is None else Sum(), constraint)


def minimum_under(
    energy: Energy, constraint: Constraint, ctx: Context, who: str = "Convex()", remedy: str = ELSEWHERE
) -> tuple[Region, Minimum]:
    """The region of the rules and the minimum of the formula over it, for doors that need both; `who` asks.

    Raises:
        SpecError: a term or a rule is not convex. SolverError: no minimum was reached.
        InfeasibleError: no portfolio obeys the rules; names the smallest set in conflict.
    """

    require_convex(energy, constraint, who, remedy)
    try:
        region = region_of(constraint, ctx)
        return region, minimize(energy, region, ctx)
    except InfeasibleError as error:
        raise explain_infeasible(constraint, ctx) from error


class Convex(Constructor):
    """The exact minimum of a convex energy over convex rules.

    The Solution carries a dual bound; `gap` is zero to rounding; and the shadow price of every rule that binds.
    Refuses what it cannot solve exactly.

    Example:
        >>> Strategy("min-variance", market=SampleMoments(), energy=Variance(), constructor=Convex())

    Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization.
    """

    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """See Constructor.

        Raises:
            SpecError: a term or a rule is not convex; the message names it.
            InfeasibleError: no portfolio obeys the rules; names the smallest set in conflict.
            SolverError: no minimum was reached.
        """

        require_exact(energy, constraint)
        ratio = lone_ratio(energy)
        try:
            region = region_of(constraint, ctx)
            found = minimize(energy, region, ctx) if ratio is None else minimize_ratio(ratio, region, ctx)
        except InfeasibleError as error:
            raise explain_infeasible(constraint, ctx) from error
        return certify(
            found.weights, energy, constraint, ctx, bound=found.bound, status=found.status, rng=rng,
            **told(found, energy, constraint, ctx),
        )  # fmt: skip
