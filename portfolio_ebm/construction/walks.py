"""Walks of many problems in one batch: those whose energy is not convex and whose rules leave no choice.

    each problem is measured by itself, as it would be alone, and its chains set out
    the chains of all walk in one batch (rugged/landscapes.py), as many at once as there is room for
    each is polished and certified by itself from where its chains ended

All have the random stream that each would have alone, so that a problem ends where it would alone, up to rounding.
Where one comes to what is not a number the batch is halved, until that problem is by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from joblib import Parallel, delayed, effective_n_jobs

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import regions_of
from portfolio_ebm.construction.annealed import AnnealedLangevin, Outset, Walked
from portfolio_ebm.construction.exact.formula import without_tickets
from portfolio_ebm.construction.exact.ratio import lone_ratio
from portfolio_ebm.construction.rugged.landscapes import explore_all
from portfolio_ebm.construction.together import Problem
from portfolio_ebm.context import Context
from portfolio_ebm.energy import curvature
from portfolio_ebm.errors import PortfolioEBMError
from portfolio_ebm.types import elsewhere, generator

HERE, THERE = 200_000, 20_000_000
"""Weights of all chains of one batch, at most: on the host, whose caches more would leave, and on another device."""
TABLE = 10
"""So many returns of a chain, in scenarios or along paths, count as one weight: they are in fewer operations."""


def walked_together(
    problems: Sequence[Problem], constraint: Constraint, constructor: AnnealedLangevin, seed: int, jobs: int
) -> list[Walked | None]:
    """By problem where its walks have ended; None where there is nothing to walk together: of problems of other kinds,
    of one that is alone in its kind, and of one that fails, whose error is met again where it is solved."""
    found: list[Walked | None] = [None for _ in problems]
    rugged = [place for place, problem in enumerate(problems) if _walks(problem, constraint)]
    if len(rugged) < 2:
        return found
    contexts = [problems[place][1] for place in rugged]
    away = elsewhere(contexts[0].tradeable)
    most = max((THERE if away else HERE) // (max(map(_width, contexts)) * constructor.chains), 1)
    workers = 1 if away else effective_n_jobs(jobs)
    size = min(most, -(-len(rugged) // workers))
    batches = [rugged[first : first + size] for first in range(0, len(rugged), size)]
    asked = (delayed(_walked)([problems[place] for place in some], constraint, constructor, seed) for some in batches)
    for some, ends in zip(batches, Parallel(n_jobs=workers)(asked), strict=True):
        for place, walked in zip(some, ends, strict=True):
            found[place] = walked
    return found


def _walks(problem: Problem, constraint: Constraint) -> bool:
    """Whether the gradient engine takes a problem on one convex region; a ratio alone may have an exact solve."""
    energy, ctx = problem
    try:
        plain, ticket = without_tickets(energy, ctx)
        if curvature(plain) != "none" or ticket > 0.0 or lone_ratio(plain) is not None:
            return False
        regions = regions_of(constraint, ctx)
    except PortfolioEBMError:
        return False  # it is met again, and said, where the problem is solved
    return len(regions) == 1 and not regions[0].discrete


def _width(ctx: Context) -> int:
    """Numbers that are worked out for a portfolio, in weights."""
    market = ctx.market
    tables = [] if market is None else [one for one in (market.scenarios, market.paths) if one is not None]
    return max(ctx.n_assets, *(one[..., 0].numel() // TABLE for one in tables), 1)


def _walked(
    problems: Sequence[Problem], constraint: Constraint, constructor: AnnealedLangevin, seed: int
) -> list[Walked | None]:
    """The same of as many as there is room for."""
    found: list[Walked | None] = [None for _ in problems]
    alike: dict[tuple[object, ...], dict[int, Outset]] = {}
    for place, problem in enumerate(problems):
        begun = _begun(problem, constraint, constructor, seed)
        if begun is not None:
            x0, stream = begun.site.x0, begun.stream.cpu().numpy().tobytes()
            alike.setdefault((x0.shape, x0.dtype, begun.steps, stream), {})[place] = begun
    for some in alike.values():
        for place, walked in zip(some, _fitting(list(some.values())), strict=True):
            found[place] = walked
    return found


def _begun(problem: Problem, constraint: Constraint, constructor: AnnealedLangevin, seed: int) -> Outset | None:
    energy, ctx = problem
    try:
        return constructor.set_out(energy, constraint, ctx, generator(seed, "optimize", ctx.tradeable.device))
    except PortfolioEBMError:
        return None


def _fitting(some: Sequence[Outset]) -> list[Walked | None]:
    """`_beside`, by halves where the device has no room for all, or where one of them comes to what is no number."""
    if len(some) < 2:
        return [None for _ in some]
    try:
        return _beside(some)
    except (torch.OutOfMemoryError, PortfolioEBMError):
        half = len(some) // 2
    return [*_fitting(some[:half]), *_fitting(some[half:])]


def _beside(some: Sequence[Outset]) -> list[Walked | None]:
    """Where problems that set out with the same random stream end, in one batch."""
    rng = torch.Generator(some[0].site.x0.device)
    rng.set_state(some[0].stream)
    seen = explore_all([one.site for one in some], some[0].steps, rng)
    after = rng.get_state()
    return [
        Walked(saw, one.site.landscape.spread, one.stream if saw.agreed else after)
        for one, saw in zip(some, seen, strict=True)
    ]
