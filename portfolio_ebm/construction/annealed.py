"""AnnealedLangevin: any energy under any rule, by the engine that the problem asks for (stages.py).

    a choice under a convex energy   relaxation -> roundings under noise -> annealed swaps -> branch and bound, and
                                     tabu walks where it leaves a gap
    an energy that is not convex     starts -> descents -> cycles of Langevin kicks and descents -> polish
    the same under a choice          chains and hops over slices -> annealed swaps -> kicks -> polish
    both convex                      one exact solve
    a ratio alone, rules convex      the same, by its homogeneous form or by Dinkelbach's steps (ratio.py)
    a ratio alone under a choice     Dinkelbach's steps, each a choice under a convex energy (ratio_choices.py)

Whole lots follow, by branch and bound and by moves of lots, and are proven or bounded by their columns where the energy
is quadratic but for its trades; of the cases of `Either` the best is kept. The status names the engine; the ablation
says what each stage was worth; the bound, where the energy is convex or such a ratio, how far from optimal the result
is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.cases import Bounded, best_case
from portfolio_ebm.construction.choosing.lots import LotWork
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.construction.exact.formula import take_apart, without_tickets
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.later import Later
from portfolio_ebm.construction.ratio_choices import Enough, ratio_of_choice
from portfolio_ebm.construction.rugged.chains import (
    PROBES,
    Landscape,
    random_portfolios,
    run_chains,
    starts,
    survey,
    tightened,
)
from portfolio_ebm.construction.rugged.landscapes import Site
from portfolio_ebm.construction.rugged.rugged import Explored
from portfolio_ebm.construction.rugged.slices import Slices
from portfolio_ebm.construction.sparing import spared
from portfolio_ebm.construction.squares import above_chord, square_of_choice
from portfolio_ebm.construction.stages import (
    Found,
    arrived,
    choosing_engine,
    convex_engine,
    evaluations,
    gradient_engine,
    modes_engine,
    proven_ratio,
)
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, curvature
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.samplers.anneal import Annealed
from portfolio_ebm.types import require_last

LOT_SHARE = 4
"""A node of whole lots takes the time of so many of a quadratic."""


@dataclass(frozen=True)
class Outset:
    """Where the walks of one problem set out.

    Attributes:
        site: the energy that is walked, where, and the starts.
        steps: evaluations a chain.
        stream: the state of the random stream.
    """

    site: Site
    steps: int
    stream: Tensor


@dataclass(frozen=True)
class Walked:
    """Where the walks of one problem ended: what they saw, the spread of its energy, the state of the random stream."""

    seen: Explored
    spread: float
    stream: Tensor


class AnnealedLangevin(Constructor):
    """Annealed Langevin chains with swaps, polish and bound: takes any energy and any rule.

    Temperatures are multiples of sd / (n / 2), sd the spread of the energy over random feasible portfolios, falling
    from 10 to 0.01 in chains, 3 in kicks and 30 in kicks of copies, and the step is 1 / L, L its largest curvature:
    nothing is left to tune.

    Attributes:
        chains: how many chains run, in one batch; under a convex energy how many roundings a choice starts from. Where
            a soft rule is dear to project on at most 8 are run, of at most 10 steps, and the status says so.
        steps: Langevin steps of a chain; the gradient engine takes twenty times as many evaluations.
        swaps: whether walkers move over patterns, and kicks follow.
        sweeps: hot sweeps of the walkers; descent follows until none moves. A tabu walk has ten steps for each.
        walkers: how many patterns, best first, are walked from.
        candidates, polish: moves evaluated a walker and sweep, and patterns solved at the end, where a choice meets an
            energy that is not convex.
        nodes: relaxations that branch and bound may solve to prove, or raise the bound on, what the walkers found; for
            whole lots a quarter of it.

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

    def build(
        self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator, near: Tensor | None = None
    ) -> Solution:
        """The lowest-energy portfolio found; feasible to 1e-9 by every rule.

        Args:
            near: (k, n), portfolios on which walks have ended before: where names are a choice, descents from the best
                of these and of the roundings take the place of walks.

        Raises:
            ShapeError: `near` is for another number of names.
            InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
            SolverError: the energy is NaN on a feasible portfolio.
        """
        if near is not None:
            near = require_last(near, ctx.n_assets, "AnnealedLangevin near").reshape(-1, ctx.n_assets)
        work = LotWork(self.nodes // LOT_SHARE)
        return best_case(
            energy, constraint, ctx, rng, lambda region, _: self._find(energy, region, ctx, rng, near), work
        )

    def set_out(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Outset:
        """Where the walks of `build` set out, of a problem whose energy is not convex, on one convex region.

        Raises: as `build`, but for what certifies.
        """
        energy, effort, _ = spared(without_tickets(energy, ctx)[0], self._effort, ctx)
        landscape, x0 = _surveyed(energy, region_of(constraint, ctx), ctx, None, effort, rng)
        return Outset(Site(energy, ctx, landscape, x0), evaluations(effort), rng.get_state())

    def arrive(self, energy: Energy, constraint: Constraint, ctx: Context, walked: Walked) -> Solution:
        """`build` from where its walks have ended, those that `set_out` began.

        Raises: as `build`.
        """
        rng = torch.Generator(ctx.tradeable.device)
        rng.set_state(walked.stream)

        def found(region: Region, _: int) -> Bounded:
            plain, ticket = without_tickets(energy, ctx)
            plain, effort, said = spared(plain, self._effort, ctx)
            slices = Slices.of(plain, region, ctx, ticket)
            if slices is None:
                return None, float("inf")
            return _saying(arrived(walked.seen, walked.spread, slices, effort), said), None

        return best_case(energy, constraint, ctx, rng, found, LotWork(self.nodes // LOT_SHARE))

    @property
    def _effort(self) -> Effort:
        return Effort(
            self.chains, self.steps, self.swaps, self.sweeps, self.walkers, self.candidates, self.polish, self.nodes
        )

    def _find(self, energy: Energy, region: Region, ctx: Context, rng: torch.Generator, near: Tensor | None) -> Bounded:
        energy, ticket = without_tickets(energy, ctx)
        convex = curvature(energy) != "none"
        energy, effort, said = spared(energy, self._effort, ctx)
        choice = region.discrete or ticket > 0.0

        def chosen(
            energy: Energy, enough: Enough = lambda _: False, effort: Effort = effort, near: Tensor | None = near
        ) -> Bounded:
            return choosing_engine(take_apart(energy, ctx), region, ticket, effort, rng, near) or (None, float("inf"))

        if convex and choice:
            if ticket > 0.0:
                return chosen(energy)  # a square and a chord speak of the weights alone, and what is traded costs too
            first = square_of_choice(energy, chosen) or chosen(energy)
            known, bare = None if first[0] is None else first[0].weights.unsqueeze(0), replace(effort, sweeps=0)
            return above_chord(energy, region, ctx, first, lambda other: chosen(other, effort=bare, near=known))
        ratio = ratio_of_choice(energy, region, ctx, chosen) if choice and ticket == 0.0 else None
        if ratio is not None:
            return ratio
        exact = minimize if convex else proven_ratio
        best = None if choice else exact(energy, region, ctx)
        if best is not None:
            look = partial(_looked_around, energy, region, ctx, best.weights.detach().clone(), effort)
            return convex_engine(best, convex, Later.drawn(look, rng)), best.bound
        landscape, x0 = _surveyed(energy, region, ctx, None, effort, rng)
        slices = Slices.of(energy, region, ctx, ticket)
        if slices is None:
            return None, float("inf")
        found = (
            modes_engine(landscape, slices, region, x0, effort, rng)
            if choice
            else gradient_engine(landscape, slices, x0, effort, rng)
        )
        return _saying(found, said), None


def _saying(found: Found, said: str) -> Found:
    """What was found, with more to its sentence."""
    return replace(found, message=f"{found.message}; {said}") if said else found


def _surveyed(
    energy: Energy, region: Region, ctx: Context, middle: Tensor | None, effort: Effort, rng: torch.Generator
) -> tuple[Landscape, Tensor]:
    """The landscape on the convex hull of the region, and where chains start; `middle` (n,) is that of the region where
    none is given."""
    whole = tightened(region.relaxed())
    probes = random_portfolios(whole, region.lower, PROBES, rng)
    around = project_region(probes.mean(0), whole).weights if middle is None else middle
    landscape = survey(energy.bind(ctx), whole, around, probes)
    return landscape, starts(landscape, around, ctx.held, effort.chains, rng)


def _looked_around(
    energy: Energy, region: Region, ctx: Context, middle: Tensor, effort: Effort, rng: torch.Generator
) -> Annealed | None:
    """Chains around a minimum that is known: what they would have come to; None where they cannot run, since a decision
    that stands does not fall over its record."""
    try:
        return run_chains(*_surveyed(energy, region, ctx, middle, effort, rng), effort.steps, rng)
    except (InfeasibleError, SolverError):
        return None
