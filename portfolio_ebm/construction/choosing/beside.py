"""Walks over modes on another device: problems of one shape together, as many at once as there is room for.

The host looks first and proves what it can (choosing.py). What is left is walked here, all chains of all problems in
one batch (walkers.py); the host solves the modes that were met exactly, descends from the best, and goes on to prove.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.walkers import CANDIDATES, Tables, shape
from portfolio_ebm.construction.choosing.swaps import COLD, HOT

HOT_STEPS, COLD_STEPS = 4, 2
"""Steps of a chain at falling temperatures, and of descent, for every hot sweep."""
ENTRIES = 20_000_000
"""Weights of all slices that are solved in one batch, at most."""


@dataclass(frozen=True)
class Start:
    """Where chains set out: modes (U,) of each, a portfolio (n,) near all of them, and the spread of their energies."""

    modes: Sequence[Ints]
    near: Array
    spread: float


def walked_beside(asked: Sequence[tuple[Search, Start]], sweeps: int, rng: torch.Generator) -> list[list[Ints]]:
    """Of each problem the modes that its chains found to be best, each once, on the device of `rng`."""
    alike: dict[tuple[int | bytes, ...], list[int]] = {}
    for place, (search, start) in enumerate(asked):
        if len(start.modes):
            alike.setdefault(shape(search.mixed), []).append(place)
    found: list[list[Ints]] = [[] for _ in asked]
    for places in alike.values():
        n, chains = asked[places[0]][0].mixed.program.n, max(len(asked[place][1].modes) for place in places)
        size = max(ENTRIES // (n * chains * CANDIDATES), 1)
        for first in range(0, len(places), size):
            some = places[first : first + size]
            for place, ends in zip(some, _fitting([asked[place] for place in some], sweeps, rng), strict=True):
                found[place] = ends
    return found


def _fitting(asked: Sequence[tuple[Search, Start]], sweeps: int, rng: torch.Generator) -> list[list[Ints]]:
    """`_together`, by halves where the device has no room for all; of a problem that it has none for no ends, so that
    the host walks it."""
    try:
        return _together(asked, sweeps, rng)
    except torch.OutOfMemoryError:
        half = len(asked) // 2
        return [*_fitting(asked[:half], sweeps, rng), *_fitting(asked[half:], sweeps, rng)] if half else [[]]


def _together(asked: Sequence[tuple[Search, Start]], sweeps: int, rng: torch.Generator) -> list[list[Ints]]:
    """The same of problems of one shape, in one batch."""
    falling = np.r_[np.geomspace(HOT, COLD, HOT_STEPS * sweeps), np.zeros(COLD_STEPS * sweeps)]
    tables = Tables.of([(search.mixed, search.allowed) for search, _ in asked], rng.device)
    chains = max(len(start.modes) for _, start in asked)
    modes = np.array([[start.modes[k % len(start.modes)] for k in range(chains)] for _, start in asked])
    heats = np.array([start.spread * falling for _, start in asked])
    walks = tables.annealed(modes, np.array([start.near for _, start in asked]), heats, rng)
    ends, values = walks.modes.cpu().numpy(), walks.values.cpu().numpy()
    return [list(np.unique(one[np.isfinite(value)], axis=0)) for one, value in zip(ends, values, strict=True)]
