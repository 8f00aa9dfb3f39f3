"""The gradient engine where rules leave a choice: chains and walkers over the slices of modes.

    1. start    points of the convex hull, each brought to the slice it rounds to, or to one near it at random
    2. anneal   Langevin chains whose every step lands on the slice of the modes it rounds to
    3. hop      low points without the choice (rugged.py), brought to slices, and the chains' best: kicks and descents
                of all these, every step ending on a slice
    4. walk     annealed walkers from low point to low point, then steepest descent (walking.py)
    5. kick     cycles of Langevin steps from the lowest points, each end brought down on its slice; kept where lower
    6. polish   the lowest few, on curvature taken at the point itself

Nothing found this way is proven: the result is the best point seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.ablation import BEFORE, FINAL, NO_SWAPS, ROUNDING
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.construction.rugged.chains import Landscape, run_chains
from portfolio_ebm.construction.rugged.rugged import KICK_STEPS, descend, explore, kick
from portfolio_ebm.construction.rugged.slices import Low, OnModes, OnSlices, Slices, settle
from portfolio_ebm.construction.rugged.walking import Walks, walk
from portfolio_ebm.samplers.kernel import Kernel, evaluate
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.types import as_numpy

SWAP_HOT, SWAP_COLD = 0.3, 0.003
"""The walkers' first and last temperature, in spreads of the energy."""
MOST_DESCENTS = 60
LOWEST = 8
"""Points on one slice that it is brought down from before the walk."""
CHANCE = 2
"""Random neighbours beside the candidates."""
KICKED = 16
KICKS_PER_STEP = 0.2
PATIENCE = 3
"""Cycles of kicks without a gain that end them."""
STRIDES = (1e-2, 1e-3, 1e-4, 1e-4)
POLISH_ROUNDS = 12
FREE, HOPS = 16, 10
"""Evaluations of the kicks without the choice, and on slices, for every step of a chain."""


@dataclass(frozen=True)
class Seen:
    """What was found.

    Attributes:
        lows: the lowest points of different slices, best first.
        stages: the least energy after each stage, tickets included.
        acceptance: of the walkers' moves. agreement: share of walkers that ended on the best value.
    """

    lows: list[Low]
    stages: Mapping[str, float]
    acceptance: float
    agreement: float
    sweeps: int
    slices: int


def explore_modes(
    landscape: Landscape, slices: Slices, region: Region, x0: Tensor, effort: Effort, rng: torch.Generator
) -> Seen:
    """Look for low energies over all modes; `landscape` and x0 (m, n) are of the region without its choices.

    Raises:
        InfeasibleError: no modes have a portfolio.
    """
    own = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng, device=rng.device)))
    whole = landscape
    modes, x = _starts(slices, region, x0, own)
    there = torch.as_tensor(x).to(x0)
    values = landscape.energy(there)
    spread = float(values.std()) if len(x) > 1 else landscape.spread
    landscape = replace(landscape, probes=there, spread=max(spread, 1e-3 * landscape.spread))
    held = np.abs(x[x != 0.0])
    stride = 0.5 * float(held.mean()) if len(held) else 0.5 / x.shape[1]
    walks = Walks(slices, as_numpy(landscape.hessian), landscape.spread, stride, landscape.step, effort.candidates)
    kernel = OnModes(ULA(landscape.step), slices)
    walks.visit(modes[:1], [x[0]])
    stages = {ROUNDING: _least(walks)}
    run = run_chains(landscape, there, effort.steps, rng, kernel)
    ends = [*x, *as_numpy(run.best), *as_numpy(run.state.x)]
    if effort.swaps:
        ends += list(as_numpy(_hopped(landscape, whole, slices, region, x0, run.best, effort, rng)))
    _bring_down(walks, np.array(ends))
    stages[NO_SWAPS] = _least(walks)
    acceptance, agreement, sweeps = 0.0, 1.0, 0
    if effort.swaps:
        acceptance, agreement, sweeps = _walk(walks, effort, own)
        _kick(walks, kernel, landscape, effort, rng, own)
    stages[BEFORE] = _least(walks)
    for low in walks.best(effort.polish):
        walks.keep(low.modes, polished(slices, low.modes, low.weights, landscape.spread))
    stages[FINAL] = _least(walks)
    return Seen(walks.best(effort.chains), stages, acceptance, agreement, sweeps, len(walks.memo))


def _bring_down(walks: Walks, ends: Array) -> None:
    """Bring slices down from the lowest few of the points (m, n) on each: one slice may have many low points."""
    modes = walks.slices.modes_of(ends)
    order = walks.slices.evaluate(ends, modes)[0].argsort(kind="stable")
    seen, chosen = Counter[bytes](), list[int]()
    for k in order.tolist():
        seen[modes[k].tobytes()] += 1
        if seen[modes[k].tobytes()] <= LOWEST:
            chosen.append(k)
    walks.visit([modes[k] for k in chosen], [ends[k] for k in chosen], again=True)


def _hopped(
    landscape: Landscape, whole: Landscape, slices: Slices, region: Region, x0: Tensor, x: Tensor, effort: Effort,
    rng: torch.Generator,
) -> Tensor:  # fmt: skip
    """Low points without the choice, from x0 (m, n), brought to slices, with x (m, n) there; and where kicks and
    descents lead from the lowest of both: (k, n)."""
    plain = slices.flat is not None
    free = explore(whole, x0, max((FREE if plain else FREE // 4) * effort.steps, 1), rng)
    at = {field.name: getattr(landscape, field.name) for field in fields(landscape)}
    on = OnSlices(**at, slices=slices, rules=region)
    if not plain:
        # Where every nearest point is a program, steps on slices are too dear.
        return on.project(free.weights)
    both = descend(on, torch.cat([free.weights, x]), KICK_STEPS).sound()
    order = both.energy.argsort(stable=True)[: len(x0)]
    hopped = explore(on, both.x[order], max(HOPS * effort.steps, 1), rng).weights
    return torch.cat([hopped, both.x])


def polished(slices: Slices, modes: Ints, w: Array, spread: float) -> Low | None:
    """The local minimum near w (n,) of its slice, on the curvature at the point over ever smaller steps."""
    best: Low | None = None
    for stride in STRIDES:
        at = w if best is None else best.weights
        found = settle(slices, [modes], [at], slices.curvature(at, stride), spread, POLISH_ROUNDS)[0]
        if found is None:
            return best
        best = found if best is None or found.value < best.value else best
    return best


def _starts(slices: Slices, region: Region, x0: Tensor, rng: np.random.Generator) -> tuple[list[Ints], Array]:
    """Points on slices near x0 (m, n) and their modes; where that gives none, the nearest one of the region."""
    y = as_numpy(x0)
    modes = slices.modes_near(y)
    modes[1:] = slices.scattered(y[1:], rng)
    points, there = slices.nearest_all(y, modes)
    again = np.flatnonzero(~there)
    if len(again):
        modes[again] = slices.modes_near(y[again])
        points[again], there[again] = slices.nearest_all(y[again], modes[again])
    if there.any():
        return list(modes[there]), points[there]
    alone = as_numpy(project_region(x0[:1], region, prove=False).weights)
    return list(slices.modes_of(alone)), alone


def _least(walks: Walks) -> float:
    best = walks.best(1)
    return best[0].value if best else np.inf


def _walk(walks: Walks, effort: Effort, rng: np.random.Generator) -> tuple[float, float, int]:
    """Hot sweeps of the best walkers, then descent of all of them and of the best point until none moves: the share
    of moves taken, of walkers that agree, and how many sweeps."""
    spread = walks.spread
    heats = np.geomspace(SWAP_HOT * spread, SWAP_COLD * spread, effort.sweeps) if effort.sweeps else np.zeros(0)
    ended, acceptance, hot = walk(walks, walks.best(effort.walkers), heats.tolist(), rng, CHANCE)
    cold, _, more = walk(walks, [*walks.best(1), *ended], [0.0] * MOST_DESCENTS, rng, CHANCE)
    least = _least(walks)
    agreement = float(np.mean([low.value <= least + 1e-6 * spread for low in cold])) if cold else 1.0
    return acceptance, agreement, hot + more


def _kick(
    walks: Walks, kernel: Kernel, landscape: Landscape, effort: Effort, rng: torch.Generator, own: np.random.Generator
) -> None:
    """Cycles of kicks from the lowest points; after a gain the walkers descend again."""
    cycles = int(np.ceil(KICKS_PER_STEP * effort.steps))
    idle = 0
    for _ in range(cycles):
        before = _least(walks)
        leaders = walks.best(effort.walkers)
        if not leaders or idle >= PATIENCE:
            return
        x = np.array([leaders[k % len(leaders)].weights for k in range(KICKED)])
        there = torch.as_tensor(x).to(landscape.probes)
        kicked = kick(landscape, kernel, evaluate(there, landscape.energy), rng).sound()
        ends = list(as_numpy(kicked.x))
        walks.visit(list(walks.slices.modes_of(np.array(ends))), ends, again=True)
        gained = _least(walks) < before - 1e-9 * landscape.spread
        idle = 0 if gained else idle + 1
        if gained:
            walk(walks, walks.best(1), [0.0] * MOST_DESCENTS, own, CHANCE)
