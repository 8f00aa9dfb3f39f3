"""The search over modes where the energy is not convex on their slices: walkers from low point to low point.

A walker looks at its neighbours (mixed/search.py) on a convex model of the energy at its own point: the best few by
the model's minimum on their slices, and a few at random, are brought down (slices.py), and one is taken by Metropolis

    proposed with probability ~ exp(-V / T) among them,   accepted with min(1, exp(-(V' - V) / T)).

T = 0 is steepest descent. The lowest point seen on a slice is remembered, and later visits from elsewhere may lower it.

Source: as mixed/search.py; Kirkpatrick, Gelatt and Vecchi (1983) for the annealing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from portfolio_ebm.constraints.mixed.node import on_slice
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.construction.rugged.slices import Low, Slices, brought_down

SLIGHT = 1e-9
"""A value lower by less than this share of the spread is the same."""


@dataclass(frozen=True)
class Walks:
    """What all walkers share.

    Attributes:
        slices: the energy on its slices.
        curve: a model of its curvature, (n, n). spread: of its values. stride: over which curvature is looked at.
        step: the first step of a descent.
        candidates: neighbours that a walker brings down in a sweep.
        memo: by the bytes of the modes the lowest point seen, or None for an empty slice.
    """

    slices: Slices
    curve: Array
    spread: float
    stride: float
    step: float
    candidates: int
    memo: dict[bytes, Low | None] = field(default_factory=dict)

    def visit(self, modes: Sequence[Ints], starts: Sequence[Array], *, again: bool = False) -> None:
        """Bring slices down from points, slices known already only where `again` says so."""
        wanted: list[int] = []
        new: set[bytes] = set()
        for k, one in enumerate(modes):
            key = one.tobytes()
            known = key in self.memo and (not again or self.memo[key] is None)
            if not known and (again or key not in new):
                new.add(key)
                wanted.append(k)
        points = [starts[k] for k in wanted]
        found = brought_down(self.slices, [modes[k] for k in wanted], points, self.curve, self.step, self.spread)
        for k, low in zip(wanted, found, strict=True):
            self.keep(modes[k], low)

    def keep(self, modes: Ints, low: Low | None) -> None:
        """Remember a point where it is the lowest of its slice."""
        key = modes.tobytes()
        old = self.memo.get(key)
        if old is None or (low is not None and low.value < old.value):
            self.memo[key] = low

    def best(self, count: int) -> list[Low]:
        """The lowest points of different slices, best first."""
        alive = [low for low in self.memo.values() if low is not None]
        return sorted(alive, key=lambda low: low.value)[:count]

    def neighbours(self, low: Low, rng: np.random.Generator, chance: int) -> list[tuple[Ints, Array]]:
        """The best few neighbours by the model at a low point, and `chance` at random, each with a start."""
        s = self.slices
        curve = s.curvature(low.weights, self.stride)
        model = s.modelled(curve, low.slope - curve @ low.weights)
        here = on_slice(model, low.modes, low.weights)
        scored: list[tuple[float, int, Ints, Array]] = []
        if here is not None:
            for k, one in enumerate(Search(model, s.allowed).candidates(low.modes, here)):
                point = on_slice(model, one, low.weights)
                if point is not None:
                    scored.append((point.value, k, one, point.weights))
        found = [(one, w) for _, _, one, w in sorted(scored, key=lambda x: x[:2])[: self.candidates]]
        return found + [(_changed(low.modes, s, rng), low.weights) for _ in range(chance)]


def _changed(modes: Ints, slices: Slices, rng: np.random.Generator) -> Ints:
    """One unit in another of its modes, or two units with their modes exchanged, at random."""
    found = modes.copy()
    open_ = np.flatnonzero(slices.allowed.sum(axis=1) > 1)
    if not len(open_):
        return found
    u, v = rng.choice(open_, 2)
    if rng.uniform() < 0.5 and slices.allowed[u, modes[v]] and slices.allowed[v, modes[u]]:
        found[u], found[v] = modes[v], modes[u]
    else:
        found[u] = rng.choice(np.flatnonzero(slices.allowed[u]))
    return found


def walk(
    walks: Walks, starts: Sequence[Low], heats: Sequence[float], rng: np.random.Generator, chance: int
) -> tuple[list[Low], float, int]:
    """Move walkers through a sweep for every temperature; where none moved in a cold one, they are done.

    Returns: where they ended, the share of proposals taken, the sweeps done.
    """
    now, known = list(starts), dict[bytes, list[bytes]]()
    asked = taken = done = 0
    for heat in heats:
        fresh = {low.modes.tobytes(): low for low in now if low.modes.tobytes() not in known}
        around = {key: walks.neighbours(low, rng, chance) for key, low in fresh.items()}
        every = [pair for pairs in around.values() for pair in pairs]
        walks.visit([modes for modes, _ in every], [w for _, w in every])
        for key, pairs in around.items():
            names = dict.fromkeys(modes.tobytes() for modes, _ in pairs)
            known[key] = [k for k in names if k != key and walks.memo[k] is not None]
        moved = False
        for place, low in enumerate(now):
            chosen, accepted = _metropolis(walks, low, known[low.modes.tobytes()], heat, rng)
            asked, taken, moved = asked + 1, taken + accepted, moved or accepted
            now[place] = chosen
        done += 1
        if heat == 0.0 and not moved:
            break
    return now, taken / max(asked, 1), done


def _metropolis(
    walks: Walks, low: Low, options: Sequence[bytes], heat: float, rng: np.random.Generator
) -> tuple[Low, bool]:
    """One of the options by the Gumbel trick, and whether it is taken."""
    points = [point for point in (walks.memo[key] for key in options) if point is not None]
    if not points:
        return low, False
    values = np.array([point.value for point in points])
    gumbel = -np.log(-np.log(rng.uniform(1e-300, 1.0, len(points))))
    chosen = points[int(np.argmin(values - heat * gumbel))]
    uphill = chosen.value - low.value
    if heat == 0.0:
        accepted = uphill < -SLIGHT * walks.spread
    else:
        accepted = uphill <= -heat * np.log(rng.uniform(1e-300, 1.0))
    return (chosen, True) if accepted else (low, False)
