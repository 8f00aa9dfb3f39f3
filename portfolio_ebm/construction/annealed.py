"""AnnealedLangevin: sample, project, swap, polish, bound.

    relaxation -> starts -> projected annealed Langevin chains -> swaps over patterns -> exact polish -> certificate

One optimizer whose engine follows from the problem (stages.py): a choice of names runs the pattern engine, an energy
that is not convex the gradient engine, and a convex problem is solved outright. The status names the engine; the
ablation says what each stage was worth; the bound, where the energy is convex, how far from optimal the result can be.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_region, regions_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.ablation import Polisher
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.certificate import certify
from portfolio_ebm.construction.chains import random_portfolios, starts, survey
from portfolio_ebm.construction.convex import relaxation
from portfolio_ebm.construction.formula import take_apart, without_tickets
from portfolio_ebm.construction.infeasible import explain_infeasible
from portfolio_ebm.construction.stages import (
    Effort,
    Found,
    choosing_engine,
    convex_engine,
    gradient_engine,
    in_lots,
    pattern_engine,
)
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, curvature
from portfolio_ebm.errors import InfeasibleError, SpecError
from portfolio_ebm.types import Status


class AnnealedLangevin(Constructor):
    """Annealed Langevin chains with swaps, polish and bound: takes any energy and any rule.

    The temperature falls from 10 to 0.01 times sd / (n / 2), sd the spread of the energy over random feasible
    portfolios, and the step is 1 / L, L its largest curvature: nothing is left to tune to an instance.

    Attributes:
        chains: how many chains run, in one batch.
        steps: Langevin steps of a chain; the gradient engine takes ten times as many evaluations.
        swaps: whether walkers move over patterns after the chains.
        sweeps: hot sweeps of the walkers; descent follows until none moves.
        walkers: how many of the chains' patterns, best first, are walked from.
        candidates: moves evaluated per walker and sweep, the best by score.
        polish: how many patterns are solved exactly.
        nodes: relaxations that branch and bound may solve to prove, or raise the bound on, what the walkers found.

    Example:
        >>> AnnealedLangevin(chains=64).build(energy, Budget() & LongOnly() & Cardinality(8), ctx, generator(0, "now"))

    Source: Welling and Teh (2011) for Langevin dynamics as a search; Bertsimas and Cory-Wright (2022), A scalable
    algorithm for sparse portfolio selection, INFORMS J. Computing 34, for the problem with a choice of names.
    """

    chains: int = Field(default=64, ge=1)
    steps: int = Field(default=50, ge=0)
    swaps: bool = True
    sweeps: int = Field(default=6, ge=0)
    walkers: int = Field(default=8, ge=1)
    candidates: int = Field(default=8, ge=1)
    polish: int = Field(default=3, ge=1)
    nodes: int = Field(default=1500, ge=0)

    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """The lowest-energy portfolio found; feasible to 1e-9 by every rule.

        Raises:
            InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
            SolverError: the energy is NaN on a feasible portfolio.
        """
        energy_of = energy.bind(ctx)
        found: list[Found] = []
        bounds: list[float | None] = []
        try:
            for region in regions_of(constraint, ctx):
                one = self._in_region(energy, region, ctx, rng)
                if one is not None:
                    found.append(one[0])
                    bounds.append(one[1])
        except InfeasibleError as error:
            raise explain_infeasible(constraint, ctx) from error
        if not found:
            raise explain_infeasible(constraint, ctx)
        best = min(found, key=lambda one: float(energy_of(one.weights)))
        known = [bound for bound in bounds if bound is not None]
        bound = min(known) if len(known) == len(bounds) else None
        said = best.message if len(found) == 1 else f"best of {len(found)} cases: {best.message}"
        return certify(
            best.weights, energy, constraint, ctx, bound=bound, status=Status(True, _capital(said)), rng=rng,
            ablation=best.ablation, ensemble=best.ensemble, diagnostics=best.diagnostics,
        )  # fmt: skip

    def _in_region(
        self, energy: Energy, region: Region, ctx: Context, rng: torch.Generator
    ) -> tuple[Found, float | None] | None:
        """The best of one case and its bound; None where it is empty."""
        try:
            found, bound = self._find(energy, region.ungridded(), ctx, rng)
        except InfeasibleError:
            return None
        if found is None or region.grid is None:
            return None if found is None else (found, bound)
        on_lots = in_lots(found, energy.bind(ctx), region)
        return None if on_lots is None else (on_lots, bound)

    def _find(
        self, energy: Energy, region: Region, ctx: Context, rng: torch.Generator
    ) -> tuple[Found | None, float | None]:
        energy, ticket = without_tickets(energy, ctx)
        convex = curvature(energy) != "none"
        effort = Effort(
            self.steps, self.swaps, self.sweeps, self.walkers, self.candidates, self.polish, self.nodes
        )  # fmt: skip
        if convex and (region.discrete or ticket > 0.0):
            formula = take_apart(energy, ctx)
            return choosing_engine(formula, region, ticket, self.chains, effort, rng) or (None, None)
        if ticket > 0.0 or region.choices is not None:
            raise SpecError(_only_convex(energy))
        value = energy.bind(ctx)
        relaxed, bound = self._relaxed(energy, region, ctx, rng, convex)
        around = project_region(relaxed, region).weights
        landscape = survey(value, region, around, rng)
        x0 = starts(landscape, relaxed, ctx.held, self.chains, rng)
        polisher = Polisher(energy, value, region, ctx, convex)
        if region.discrete:
            return pattern_engine(landscape, polisher, x0, effort, rng), bound
        if convex:
            return convex_engine(landscape, polisher, x0, effort, rng), bound
        return gradient_engine(landscape, polisher, x0, effort, rng), None

    def _relaxed(
        self, energy: Energy, region: Region, ctx: Context, rng: torch.Generator, convex: bool
    ) -> tuple[Tensor, float | None]:
        """The solution of the convex relaxation and its bound; for other energies the middle of random portfolios."""
        if convex:
            found = relaxation(energy, region, ctx)
            return found.weights, found.bound
        whole = region.relaxed()
        return project_region(random_portfolios(whole, region.lower, 64, rng).mean(0), whole).weights, None


def _only_convex(energy: Energy) -> str:
    return (
        f"{energy!r} is not convex; rules on issuers, least numbers of names and FixedCost are chosen over convex "
        "energies only, so leave one of them out."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
