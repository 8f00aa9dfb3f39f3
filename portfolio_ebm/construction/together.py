"""Choices of names in many problems on another device than the host's: all that is left open is walked there at once.

    each problem is looked at, and those that a few nodes prove are done
    the chains of all others walk in one batch on the device (choosing/beside.py)
    each is then found and proven from where its chains ended

On the host a problem is walked by itself, since there the active set makes more of what one slice says of the next.
Problems without a choice, whose energy is not convex, walk in a batch everywhere (walks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import regions_of
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.reading import assign_all
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.walkers import fits
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.construction.choosing.beside import Start, walked_beside
from portfolio_ebm.construction.choosing.choosing import FIRST_LOOK, mixed_of
from portfolio_ebm.construction.exact.formula import take_apart, without_tickets
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, curvature
from portfolio_ebm.errors import PortfolioEBMError
from portfolio_ebm.types import as_numpy, generator

Problem = tuple[Energy, Context]
Look = tuple[Solution | None, Tensor | None]
"""What a look has proven, or the portfolios (k, n) on which walks have ended."""


def looked_at(
    problems: Sequence[Problem], constraint: Constraint, constructor: AnnealedLangevin, seed: int, jobs: int
) -> list[Look]:
    """By problem what a look at it proves, or where its chains have ended; neither for problems of other kinds, and
    where no chains are asked to walk."""
    if not (constructor.swaps and constructor.sweeps):
        return [(None, None) for _ in problems]
    glance = constructor.model_copy(update={"nodes": min(constructor.nodes, FIRST_LOOK), "sweeps": 0, "walkers": 1})
    asked = (delayed(_glanced)(glance, energy, constraint, ctx, seed) for energy, ctx in problems)
    looks = list(Parallel(n_jobs=jobs)(asked))
    found: list[Look] = [(seen, None) for seen, _ in looks]
    left = {place: start for place, (_, start) in enumerate(looks) if start is not None}
    rng = generator(seed, "together", problems[0][1].tradeable.device)
    for place, ends in zip(left, walked_beside(list(left.values()), constructor.sweeps, rng), strict=True):
        search, start = left[place]
        points = [search.solve(modes, start.near) for modes in ends]
        there = [point.weights for point in points if point is not None]
        if there:
            found[place] = (None, torch.as_tensor(np.array(there)))
    return found


def _glanced(
    glance: AnnealedLangevin, energy: Energy, constraint: Constraint, ctx: Context, seed: int
) -> tuple[Solution | None, tuple[Search, Start] | None]:
    """What a few nodes prove of a problem that walks on the device know, or where its chains set out."""
    mixed = _of_kind(energy, constraint, ctx)
    if mixed is None:
        return None, None
    try:
        seen = glance.build(energy, constraint, ctx, generator(seed, "optimize", ctx.tradeable.device))
    except PortfolioEBMError:
        return None, None  # it is met again, and said, where the problem is solved
    return (bare(seen), None) if seen.proven else (None, _start(mixed, seen, energy, ctx))


def bare(found: Solution) -> Solution:
    """The solution without what is drawn when it is looked at: to send that to another process is a look."""
    return replace(found, marginal=None, walkers=None, ablation={})


def _of_kind(energy: Energy, constraint: Constraint, ctx: Context) -> Mixed | None:
    """The program of a problem that walks on the device know; None of another, and where the rules cannot be met."""
    try:
        regions = regions_of(constraint, ctx)
        plain, ticket = without_tickets(energy, ctx)
        choice = len(regions) == 1 and regions[0].grid is None and (regions[0].discrete or ticket > 0.0)
        if not choice or curvature(plain) == "none":
            return None
        mixed = mixed_of(take_apart(plain, ctx), regions[0], ticket)
    except PortfolioEBMError:
        return None
    return mixed if fits(mixed) else None


def _start(mixed: Mixed, seen: Solution, energy: Energy, ctx: Context) -> tuple[Search, Start]:
    """The search of a problem, and the roundings that the look at it made."""
    root = mixed.root()
    assert root is not None and seen.ensemble is not None  # a portfolio was found, by the pattern engine
    starts = torch.cat([seen.weights.unsqueeze(0), seen.ensemble.to(seen.weights)])
    modes, missing = assign_all(mixed.choices, root, as_numpy(starts))
    spread = float(as_numpy(energy.bind(ctx)(starts)).std())
    return Search(mixed, root), Start(list(modes[missing.max(axis=1) == 0.0]), as_numpy(seen.weights), spread)
