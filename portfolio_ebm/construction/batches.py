"""Many problems under the same rules: each solved as it would be alone, and what they share done once.

Where all is convex the region is compiled once for problems that hold the same weights, if no rule reads the estimates,
and the samples that the terms' ranges are measured over are projected together. The solve itself is that of Convex(),
so the weights are the same numbers. Any other constructor builds each problem by itself, on as many cores as asked; of
AnnealedLangevin() the chains of all problems that walk without a choice are one batch (walks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from joblib import Parallel, delayed
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.annealed import AnnealedLangevin, Walked
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.certificate import FEASIBLE, measured, probes, ranges_over, residuals_of
from portfolio_ebm.construction.convex import Convex, require_exact
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import Minimum, solve
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
from portfolio_ebm.construction.later import known
from portfolio_ebm.construction.shadow import Owned, shadow_prices
from portfolio_ebm.construction.together import Look, Problem, bare, looked_at
from portfolio_ebm.construction.walks import walked_together
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import DataError, InfeasibleError, PortfolioEBMError, ShapeError, SolverError, SpecError
from portfolio_ebm.types import elsewhere, generator

ROWS = 16_384
"""Samples projected in one call, at most."""


@dataclass
class Regions:
    """The regions of rules in contexts that differ in their estimates and in what is held alone.

    Attributes:
        constraint: the rules.
        reads: whether a rule reads the estimates, so that every context has a region of its own.
    """

    constraint: Constraint
    reads: bool
    _found: dict[bytes, Region | InfeasibleError] = field(default_factory=dict)
    _owned: dict[bytes, Owned] = field(default_factory=dict)

    @classmethod
    def of(cls, constraint: Constraint, ctx: Context) -> Regions:
        """Rules that compile without any estimates do not read them."""
        try:
            region_of(constraint, replace(ctx, market=None))
            reads = bool(constraint.asks())
        except PortfolioEBMError:
            reads = True
        return cls(constraint, reads)

    def key(self, ctx: Context, place: int) -> bytes:
        """Equal for contexts that have one region."""
        if self.reads:
            return str(place).encode()
        return b"" if ctx.held is None else ctx.held.detach().cpu().numpy().tobytes()

    def region(self, key: bytes, ctx: Context) -> Region:
        """The region of the rules in `ctx`.

        Raises:
            InfeasibleError: this very region was found to be empty before.
        """
        if key not in self._found:
            self._found[key] = region_of(self.constraint, ctx)
        found = self._found[key]
        if isinstance(found, InfeasibleError):
            raise found
        return found

    def owned(self, key: bytes, ctx: Context) -> Owned:
        """The walls of each rule in `ctx`."""
        if key not in self._owned:
            self._owned[key] = Owned.of(self.constraint, ctx)
        return self._owned[key]

    def refuse(self, key: bytes, ctx: Context) -> InfeasibleError:
        """The error that names the rules in conflict, found once for every region."""
        found = self._found.get(key)
        if not isinstance(found, InfeasibleError):
            found = explain_infeasible(self.constraint, ctx)
            self._found[key] = found
        return found


def solve_all(
    problems: Sequence[Problem], constraint: Constraint, constructor: Constructor | None, seed: int = 0, jobs: int = 1
) -> list[Solution | PortfolioEBMError]:
    """By problem its Solution or error: by `solve_many` what is for Convex(), by `solve_each` all else.

    Without a constructor Convex() takes what it can, and AnnealedLangevin() the rest.

    Raises:
        SpecError: Convex() is asked for what is not convex, or no problem is one that the constructor takes.
    """
    together = [_is_convex(energy, constraint) if constructor is None else type(constructor) is Convex
                for energy, _ in problems]  # fmt: skip
    some = [one for one, convex in zip(problems, together, strict=True) if convex]
    rest = [one for one, convex in zip(problems, together, strict=True) if not convex]
    exact = iter(solve_many(some, constraint, seed))
    others = iter(solve_each(rest, constraint, constructor or AnnealedLangevin(), seed, jobs))
    found = [next(exact) if convex else next(others) for convex in together]
    refused = [one for one in found if isinstance(one, SpecError)]
    if refused and len(refused) == len(found):
        raise refused[0]  # what is true of every problem is said once, of the call
    return found


def _is_convex(energy: Energy, constraint: Constraint) -> bool:
    try:
        require_exact(energy, constraint)
    except SpecError:
        return False
    return True


def solve_many(
    problems: Sequence[Problem], constraint: Constraint, seed: int = 0
) -> list[Solution | PortfolioEBMError]:
    """By problem its Solution, or the error that a solve alone would raise; contexts differ in market and held alone.

    Marginal energies are left to a solve alone.

    Raises:
        SpecError: a term or a rule is not convex; names it.

    Example:
        >>> solve_many([(Variance(), one), (Variance(), other)], Budget() & LongOnly())[0].weights
    """
    for energy in dict.fromkeys(energy for energy, _ in problems):
        require_exact(energy, constraint)
    if not problems:
        return []
    regions = Regions.of(constraint, problems[0][1])
    found: dict[int, Minimum] = {}
    failed: dict[int, PortfolioEBMError] = {}
    alike: dict[bytes, list[int]] = {}
    for place, (energy, ctx) in enumerate(problems):
        key = regions.key(ctx, place)
        try:
            found[place] = _minimum(energy, ctx, regions.region(key, ctx))
            alike.setdefault(key, []).append(place)
        except InfeasibleError:
            failed[place] = regions.refuse(key, ctx)
        except (SolverError, DataError, ShapeError) as error:
            failed[place] = error
    solved: dict[int, Solution] = {}
    for key, places in alike.items():
        region = regions.region(key, problems[places[0]][1])
        samples = _samples([problems[place][1] for place in places], [found[place] for place in places], region, seed)
        for place, sample in zip(places, samples, strict=True):
            energy, ctx = problems[place]
            try:
                owned = regions.owned(key, ctx)
                solved[place] = _certified(energy, constraint, ctx, found[place], sample, owned)
            except SolverError as error:
                failed[place] = error
    return [solved[place] if place in solved else failed[place] for place in range(len(problems))]


def solve_each(
    problems: Sequence[Problem], constraint: Constraint, constructor: Constructor, seed: int = 0, jobs: int = 1
) -> list[Solution | PortfolioEBMError]:
    """By problem what `constructor` builds of it, as it would alone, or the error that it raises; on `jobs` processes.

    The chains of AnnealedLangevin() walk in one batch: those of energies that are not convex, where there is no choice,
    on every device (walks.py), and those over choices on another device than the host's (together.py). Marginal
    energies and what chains would do beside an exact solve are left to a solve alone.

    Example:
        >>> solve_each([(Variance(), ctx)], Budget() & LongOnly() & Cardinality(3), AnnealedLangevin())[0].proven
    """
    looks: list[Look] = [(None, None) for _ in problems]
    walks: list[Walked | None] = [None for _ in problems]
    if isinstance(constructor, AnnealedLangevin):
        walks = walked_together(problems, constraint, constructor, seed, jobs)
    if isinstance(constructor, AnnealedLangevin) and problems and elsewhere(problems[0][1].tradeable):
        looks = looked_at(problems, constraint, constructor, seed, jobs)
    asked = (
        delayed(_alone)(constructor, *problem, constraint, seed, near, walked)
        for problem, (seen, near), walked in zip(problems, looks, walks, strict=True) if seen is None
    )  # fmt: skip
    rest = iter(Parallel(n_jobs=jobs)(asked))
    return [next(rest) if seen is None else seen for seen, _ in looks]


def _alone(
    constructor: Constructor,
    energy: Energy,
    ctx: Context,
    constraint: Constraint,
    seed: int,
    near: Tensor | None,
    walked: Walked | None,
) -> Solution | PortfolioEBMError:
    rng = generator(seed, "optimize", ctx.tradeable.device)
    try:
        if isinstance(constructor, AnnealedLangevin):
            if walked is not None:
                return bare(constructor.arrive(energy, constraint, ctx, walked))
            return bare(constructor.build(energy, constraint, ctx, rng, near))
        return bare(constructor.build(energy, constraint, ctx, rng))
    except PortfolioEBMError as error:
        return error


def _minimum(energy: Energy, ctx: Context, region: Region) -> Minimum:
    ratio = lone_ratio(energy)
    return solve(take_apart(energy, ctx), region) if ratio is None else minimize_ratio(ratio, region, ctx)


def _samples(contexts: Sequence[Context], found: Sequence[Minimum], region: Region, seed: int) -> list[Tensor]:
    """For each minimum the portfolios its terms' ranges are measured over, itself first: those of a solve alone."""
    points = [
        probes(one.weights, ctx, generator(seed, "optimize", ctx.tradeable.device))
        for ctx, one in zip(contexts, found, strict=True)
    ]
    every = max(ROWS // len(points[0]), 1)
    near: list[Tensor] = []
    for start in range(0, len(points), every):
        some = points[start : start + every]
        try:
            near += project_region(torch.cat(some), region).weights.split([len(one) for one in some])
        except (InfeasibleError, SolverError):
            # Nothing but the portfolios themselves are known to be feasible.
            near += [one[:0] for one in some]
    return [torch.cat([one.weights.unsqueeze(0), more]) for one, more in zip(found, near, strict=True)]


def _certified(
    energy: Energy, constraint: Constraint, ctx: Context, found: Minimum, sample: Tensor, owned: Owned
) -> Solution:
    residuals = residuals_of(found.weights, constraint, ctx)
    for rule, residual in residuals.items():
        if not residual <= FEASIBLE:
            raise SolverError(f"The portfolio breaks {rule} by {residual:.3g}; it was not let out.")
    ranges = ranges_over(sample, energy, ctx) if energy.terms() else {}
    return measured(
        found.weights, energy, constraint, ctx, residuals, bound=found.bound, status=found.status, rng=None,
        ranges=ranges, size=found.size, kkt=found.kkt,
        binding=None if found.duals is None else known(shadow_prices(energy, constraint, ctx, found.duals, owned)),
    )  # fmt: skip
