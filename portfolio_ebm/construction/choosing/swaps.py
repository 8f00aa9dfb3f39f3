"""How walkers look around in the pattern engine: descents, annealed walks, kicks, and walks that do not turn back.

descents from the leaders -> annealed walks and descents (kicks, where modes cost something)
and, where the tree has left a gap, tabu walks from where they ended
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.programs.slice import Ints
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.tabu import tabu_walks

DEAR = 25
"""A node of a formula that is not quadratic takes the time of so many of one that is."""
BENT = 5
"""The same where trades have an impact."""
ROOT = 3
"""The same under the root of a quadratic."""
WALKERS = {1: 1, ROOT: 2, BENT: 2, DEAR: 4}
"""By what the number of walkers and kicks is divided."""
QUICK = 1, ROOT
"""Where inner solves are cheap enough for heat and for tabu walks."""
KICKS, STEPS = 2, 10
"""Kicks, and steps of a tabu walk, for every hot sweep."""
HOT, COLD = 0.3, 0.003
"""The walkers' first and last temperature, in spreads of the energies they start from."""


@dataclass(frozen=True)
class Plan:
    """How much work to do: rounded starts, walkers, hot sweeps, whether to swap at all, nodes of branch and bound."""

    starts: int
    walkers: int
    sweeps: int
    swaps: bool
    nodes: int


@dataclass(frozen=True)
class Walked:
    """The modes that walkers ended on, the least energy before any heat, the hot sweeps."""

    ends: list[Ints]
    descent: float
    sweeps: int


def swapped(
    search: Search, leaders: list[Ints], plan: Plan, dear: int, spread: float, rng: np.random.Generator
) -> Walked:
    """Descents from `leaders`; then, where modes cost something, descents from kicks, else annealed walks and descents;
    no heat where an inner solve is very dear."""
    ends = [search.descend(m) for m in leaders]
    descent = min((search.memo.value(m) for m in ends), default=np.inf)
    if not ends or not plan.sweeps:
        return Walked(ends, descent, 0)
    if search.mixed.choices.priced:
        best = min(ends, key=search.memo.value)
        ends.append(search.kicked(best, KICKS * plan.sweeps // WALKERS[dear], rng))
        return Walked(ends, descent, plan.sweeps)
    if dear in QUICK:
        heats = np.geomspace(HOT, COLD, plan.sweeps) * spread
        again = ends[: max(plan.walkers // (2 * WALKERS[dear]), 1)]
        ends += [search.descend(search.anneal(m, heats, rng)) for m in again]
        return Walked(ends, descent, plan.sweeps)
    return Walked(ends, descent, 0)


def look_further(search: Search, ends: list[Ints], plan: Plan, dear: int, rng: np.random.Generator) -> None:
    """Tabu walks from the best of `ends`, where an inner solve is cheap and modes cost nothing."""
    if plan.swaps and dear in QUICK and not search.mixed.choices.priced:
        tabu_walks(search, ends, plan.walkers // WALKERS[dear], STEPS * plan.sweeps, rng)
