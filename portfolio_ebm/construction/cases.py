"""The cases of a constraint: each is solved alone and, where asked, brought to whole lots; the best is certified.

    E* = min over cases,   b = min over their bounds: a bound where every case has one

Most constraints are one case; `Either` has more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import regions_of
from portfolio_ebm.constraints.mixed.grids.sums import never
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.construction.certificate import certify
from portfolio_ebm.construction.choosing.lots import LotWork
from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
from portfolio_ebm.construction.shadow import told
from portfolio_ebm.construction.stages import Found, in_lots
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.types import Status

Bounded = tuple[Found | None, float | None]
"""The best portfolio, None where none was found, and the bound: infinite where there is none, None where not known."""

Solve = Callable[[Region, int], Bounded]
"""A region of fractions, and how many cases are left with it; raises InfeasibleError where it is empty."""


def best_case(
    energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator, solve: Solve, work: LotWork
) -> Solution:
    """The portfolio of least energy over all cases, certified; `work` is what whole lots may take.

    Raises:
        InfeasibleError: no case has a portfolio; names the rules in conflict.
    """
    found: list[Found] = []
    bounds: list[float | None] = []
    try:
        regions = regions_of(constraint, ctx)
        for place, region in enumerate(regions):
            one, bound = _case(energy, region, ctx, rng, solve, len(regions) - place, work)
            found += [] if one is None else [one]
            bounds.append(bound)
    except InfeasibleError as error:
        raise explain_infeasible(constraint, ctx) from error
    if not found:
        lots = any(region.grid is not None for region in regions)
        raise explain_infeasible(constraint, ctx, looked=lots and all(bound == float("inf") for bound in bounds))
    best = found[0] if len(found) == 1 else min(found, key=lambda one: float(energy.bind(ctx)(one.weights)))
    # Where weights have no end and the energy no curvature, multipliers bound nothing.
    lows = [bound for bound in bounds if bound is not None and bound > -float("inf")]
    least = min(lows) if len(lows) == len(bounds) else None
    said = best.message if len(found) == 1 else f"best of {len(found)} cases: {best.message}"
    known: dict[str, Any] = {"size": best.size}
    if best.exact and len(regions) == 1:
        # The multipliers and the residual of one case say nothing of the others.
        known = told(best.exact, energy, constraint, ctx)
        said += f". {best.exact.status}".rstrip(".")
    return certify(
        best.weights, energy, constraint, ctx, bound=least, status=Status(True, f"{said[:1].upper()}{said[1:]}."),
        rng=rng, ablation=best.ablation, walkers=best.walkers, diagnostics=best.diagnostics, **known,
    )  # fmt: skip


def _case(
    energy: Energy, region: Region, ctx: Context, rng: torch.Generator, solve: Solve, left: int, work: LotWork
) -> Bounded:
    """The best of one case and its bound: that of lots where whole lots are asked for and their columns are known, else
    that of fractions, also where no lots were found, which proves nothing of them."""
    if never(region) is not None:
        return None, float("inf")
    try:
        found, bound = solve(region.ungridded(), left)
    except InfeasibleError:
        return None, float("inf")
    if found is None or region.grid is None:
        return found, bound
    return in_lots(found, bound, energy, region, ctx, rng, work)
