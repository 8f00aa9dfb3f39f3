"""Tabu walks over modes: on from a local minimum, and not back.

At every step the change of one unit, or the exchange of two, with the best score is solved exactly and taken, whether
it is better or not; a unit that has just changed its mode stays in it for a few steps, unless to change it again gives
the lowest energy of the walk. So a walk leaves the basin that it descended into by the cheapest way there is.

Source: Glover, F. (1989), Tabu search - part I, ORSA Journal on Computing 1(3).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from portfolio_ebm.constraints.mixed.moves import counts, fits
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask, Point
from portfolio_ebm.constraints.mixed.search import Search, changed, smallest

TRIED = 8
"""Moves of a kind that are solved, the best first, until one is allowed."""
SHORTEST, LONGEST = 4, 12
"""For how many steps a unit stays out of what it has left; the one that took its place stays half as long."""
ENTRIES = 4_000_000
"""Scores that all walks together may look at."""
SAME = 1e-12

Change = tuple[int, int]
"""A unit and its new mode."""


def tabu_walks(search: Search, ends: list[Ints], most: int, steps: int, rng: np.random.Generator) -> None:
    """Walks of `steps` from the best `most` of `ends`, fewer where units are many; what they see stays in memory."""
    different = {one.tobytes(): one for one in ends if np.isfinite(search.memo.value(one))}
    leaders = sorted(different.values(), key=search.memo.value)[:most]
    if not leaders or not steps:
        return
    pairs = (len(leaders[0]) ** 2 - int((np.bincount(leaders[0]) ** 2).sum())) // 2
    for modes in leaders[: max(ENTRIES // max(pairs * steps, 1), 1)]:
        tabu(search, modes, steps, rng)


def tabu(search: Search, modes: Ints, steps: int, rng: np.random.Generator) -> Ints:
    """The best modes of a walk from `modes` (U,)."""
    now = best = modes
    until = np.zeros(len(modes), dtype=np.int64)
    for step in range(1, steps + 1):
        point, least = search.solve(now), search.memo.value(best)
        if point is None:
            return best
        target = least - SAME * abs(least)
        for _, changes in sorted(_moves(search, now, point, until >= step, target), key=lambda one: one[0]):
            there = changed(now, changes)
            found = search.solve(there, point)
            if found is not None and (found.value < target or (until[[unit for unit, _ in changes]] < step).all()):
                break
        else:
            continue  # Too many units stay where they are; a step later fewer do.
        stays = rng.integers(SHORTEST, LONGEST, size=len(changes))
        for (unit, _), stay, halves in zip(changes, stays, (2, 1)[-len(changes) :], strict=True):
            until[unit] = step + stay // halves
        now = there
        if found.value < target:
            best = now
    return best


def _moves(
    search: Search, modes: Ints, point: Point, fixed: Mask, target: float
) -> Iterator[tuple[float, list[Change]]]:
    """The best few changes and exchanges by score: those of `fixed` units (U,) only where they promise less than
    `target`."""
    units, other, scores = search.changes(modes, point)
    choices = search.mixed.choices
    fitting = fits(choices, modes, counts(choices, modes, units, other))
    scores = np.where(fitting, _open(scores, fixed[units], target - point.value), np.inf)
    for k in _few(scores):
        yield float(scores[k]), [(int(units[k]), int(other[k]))]
    for zero, held, tables in search.exchanges(modes, point):
        table = np.where(np.isfinite(tables[0]), tables[0], tables[-1])
        flat = _open(table, fixed[zero][:, None] | fixed[held], target - point.value).reshape(-1)
        for k in _few(flat):
            enter, leave = int(zero[k // len(held)]), int(held[k % len(held)])
            yield float(flat[k]), [(enter, int(modes[leave])), (leave, int(modes[enter]))]


def _open(scores: Array, fixed: Mask, enough: float) -> Array:
    return np.where(fixed & ~(scores < enough), np.inf, scores)


def _few(scores: Array) -> Ints:
    return smallest(scores, min(TRIED, int(np.isfinite(scores).sum())))
