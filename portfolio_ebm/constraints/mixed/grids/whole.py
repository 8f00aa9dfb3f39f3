"""Whole lots by exact moves: the point of a grid of least energy near given portfolios, found by local search.

A move takes one name a few lots up or down, back to what is held, or out. From the slope g = Q w + c of a point all
single moves and all pairs of them have exact values,

    s_i(m) = g_i m + Q_ii m^2 / 2 + costs of the trade and of the mode,      s_ij = s_i(m) + s_j(m') + Q_ij m m',

so that the best pair of hundreds of moves is one table. While rules are broken the pair that mends most is taken, then
the best. The short list of single moves is by value less what the rows and the cap charge for it at the portfolio
nearby. A budget and a turnover cap that bind are two knapsacks, where the best point may differ in half a dozen names
from one that no pair betters: branch and bound over the lots of the seeds' slices (integers.py) finds those.

Source: Aarts, E. and Lenstra, J. K. (1997), Local Search in Combinatorial Optimization, for exchange neighbourhoods.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from portfolio_ebm.constraints.mixed.grids.integers import Slice
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Point

JUMPS = (1, 2, 3, 5, 8, 13)
"""Lots of one move, either way."""
PAIRED = 256
"""Single moves that are tried in pairs."""
STEPS = 500
FEASIBLE = 1e-11
MOST_NAMES = (12, 24, 48)
"""Names of one tree: few first, since a better point leaves fewer that matter."""
NODES = 8000
"""Nodes of branch and bound on one slice."""
BREACH = 1e3
"""What a unit of a broken rule costs, in largest slopes, while it is mended."""


@dataclass(frozen=True)
class Grid:
    """The problem on its grid.

    Attributes:
        mixed: energy, rules and modes; every unit one name, limits on numbers from above only, no caps.
        step: the weight of one lot, (n,); zero for names that stay where they are.
    """

    mixed: Mixed
    step: Array

    @cached_property
    def size(self) -> Array:
        """`step`, and one for names that stay, (n,): what weights are divided by."""
        return np.where(self.step > 0.0, self.step, 1.0)

    @cached_property
    def scarce(self) -> Array:
        """By how little a mode ranks behind one that costs the same for each limit that counts it, (U, M)."""
        c = self.mixed.choices
        found = np.zeros(c.lower.shape)
        for limit in c.limits:
            found[np.ix_(limit.units, np.array(limit.modes, dtype=np.int64))] += 1e-6
        return found

    @staticmethod
    def fits(mixed: Mixed) -> bool:
        """Whether the exact moves know all of the problem's rules."""
        c = mixed.choices
        plain = all(not limit.mass and limit.least <= 0.0 for limit in c.limits)
        return plain and not mixed.caps and bool((c.size == 1).all())

    def modes(self, units: Ints, x: Array) -> Ints:
        """The cheapest modes that hold weights x (k,) of `units` (k,), those that no limit counts first; -1: none."""
        c = self.mixed.choices
        inside = (x[:, None] >= c.lower[units] - TOLERANCE) & (x[:, None] <= c.upper[units] + TOLERANCE)
        rank = np.where(inside & c.exists[units], c.cost[units] + self.scarce[units], np.inf)
        return np.where(np.isfinite(rank).any(axis=1), rank.argmin(axis=1), -1)


@dataclass(frozen=True)
class _Moves:
    """Single moves at one point: names, sizes, exact values, changes of turnover and of the limits' counts."""

    name: Ints
    size: Array
    value: Array
    traded: Array
    counts: Array


def best_whole(grid: Grid, seeds: Sequence[Point]) -> Array | None:
    """The point of least energy that was found near the seeds, (n,); None where none obeys the rules.

    Args:
        seeds: minima of slices, with the multipliers that price the rules there.
    """
    searches = [_Search(grid, point) for point in seeds]
    ends: list[tuple[float, int, Array, _Search]] = []
    for search in searches:
        for start in search.roundings(search.point.weights):
            end = search.descend(start)
            if search.broken(end) <= FEASIBLE:
                ends.append((search.energy(end), len(ends), end, search))
    if not ends:
        return None
    value, _, best, search = min(ends, key=lambda end: end[:2])
    for search, most in itertools.product(searches, MOST_NAMES):
        mended = search.repaired(value, most)
        if mended is not None:
            end = search.descend(mended)
            energy = search.energy(end)
            if search.broken(end) <= FEASIBLE and energy < value - 1e-14 * abs(value):
                best, value = end, energy
    return best


class _Search:
    """Descent on one grid with one set of multipliers."""

    def __init__(self, grid: Grid, point: Point) -> None:
        self.grid, self.program, self.point = grid, grid.mixed.program, point
        c = grid.mixed.choices
        self.unit = np.full(self.program.n, -1)
        self.unit[c.name] = c.unit
        p = self.program
        self.charge = p.slope(point.weights) + p.bend(point.weights)[1] - point.prices
        self.toll = np.broadcast_to(np.asarray(point.toll, dtype=np.float64), (p.n,)) - p.rate
        self.counted = np.zeros((*c.lower.shape, len(c.limits)))
        for k, limit in enumerate(c.limits):
            self.counted[limit.units[:, None], np.array(limit.modes, dtype=np.int64), k] = 1.0
        self.most = np.array([limit.most for limit in c.limits])
        self.names = np.flatnonzero(grid.step > 0.0)

    def roundings(self, w: Array) -> list[Array]:
        """w on the nearest lots, and on those towards zero."""
        size = self.grid.size
        whole = np.round(w / size), np.trunc(w / size + 1e-9 * np.sign(w))
        return [np.where(self.grid.step > 0.0, lots * size, w) for lots in whole]

    def energy(self, w: Array) -> float:
        modes, value = self._modes(w), self.program.value(w)
        c = self.grid.mixed.choices
        return value + float(c.cost[np.arange(c.units), np.maximum(modes, 0)].sum())

    def broken(self, w: Array) -> float:
        """By how much the rules but the grid are broken, in weight; counts and modes by one each."""
        p, modes = self.program, self._modes(w)
        at = p.rows @ w
        rows = np.maximum(at - p.row_upper, p.row_lower - at).clip(0.0).sum()
        box = np.maximum(w - p.upper, p.lower - w)[self.names].clip(0.0).sum()
        return float(rows + box + self._over(w) + self._crowd(modes).sum() + (modes < 0).sum())

    def _over(self, w: Array) -> float:
        p = self.program
        return 0.0 if p.held is None else max(float(np.abs(w - p.held).sum()) - p.turnover, 0.0)

    def _modes(self, w: Array) -> Ints:
        c = self.grid.mixed.choices
        return self.grid.modes(np.arange(c.units), c.weights(w))

    def _crowd(self, modes: Ints) -> Array:
        return np.asarray((self._counts(modes) - self.most).clip(0.0))

    def _counts(self, modes: Ints) -> Array:
        return np.asarray(self.counted[np.arange(len(modes)), np.maximum(modes, 0)].sum(axis=0))

    def descend(self, w: Array) -> Array:
        """The best single move or pair, until none is better."""
        broken = self.broken(w)
        for _ in range(STEPS):
            change, after, (i, j), moves = self._best(w, broken)
            better = change < -1e-13 * self.program.scale if broken <= FEASIBLE else after < broken - 1e-12
            if not better:
                return w
            w = self._moved(w, moves, (i, j))
            broken = self.broken(w)
        return w

    def repaired(self, value: float, most: int) -> Array | None:
        """The point that branch and bound finds on the slice of `point`, where it may be below `value`; else None."""
        p, c, point = self.program, self.grid.mixed.choices, self.point
        if point.value >= value:
            return None
        modes, lower, upper = self._modes(point.weights), p.lower.copy(), p.upper.copy()
        every = np.arange(c.units)
        lower[c.name] = np.maximum(lower[c.name], c.lower[every, modes][c.unit])
        upper[c.name] = np.minimum(upper[c.name], c.upper[every, modes][c.unit])
        slice_ = Slice.of(p, point, (lower, upper), self.grid.step, value - point.value, most)
        if slice_ is None:
            return None
        step, size = self.grid.step[slice_.names], self.grid.size
        rest = np.where(self.grid.step > 0.0, np.round(point.weights / size) * size, point.weights)

        def placed(k: Array) -> Array:
            w: Array = rest.copy()
            w[slice_.names] = k * step
            return w

        def beyond(k: Array) -> float:
            w = placed(k)
            return self.energy(w) - point.value if self.broken(w) <= FEASIBLE else np.inf

        k = slice_.best(beyond, point.weights[slice_.names] / step, value - point.value, NODES)
        return None if k is None else placed(k)

    def _moved(self, w: Array, moves: _Moves, pair: tuple[int, int]) -> Array:
        w = w.copy()
        for k in pair:
            if k >= 0:
                name = moves.name[k]
                # Counted in whole lots, so that no rounding adds up over moves.
                w[name] = np.round((w[name] + moves.size[k]) / self.grid.step[name]) * self.grid.step[name]
        return w

    def _moves(self, w: Array) -> _Moves:
        p, c, names, step = self.program, self.grid.mixed.choices, self.names, self.grid.step
        jumps = [sign * k * step[names] for k in JUMPS for sign in (1.0, -1.0)]
        jumps.append(-w[names])
        if p.held is not None:
            jumps.append(np.round((p.held - w)[names] / step[names]) * step[names])
        name, size = np.tile(names, len(jumps)), np.concatenate(jumps)
        x = w[name] + size
        keep = (np.abs(size) > 0.5 * step[name]) & (x >= p.lower[name] - TOLERANCE) & (x <= p.upper[name] + TOLERANCE)
        name, size = name[keep], size[keep]
        _, first = np.unique(np.column_stack([name, np.round(size / step[name])]), axis=0, return_index=True)
        name, size = name[first], size[first]
        unit = self.unit[name]
        bound = unit >= 0
        extra, counts = np.zeros(len(name)), np.zeros((len(name), len(c.limits)))
        if bound.any():
            now, then = self._modes(w)[unit[bound]], self.grid.modes(unit[bound], w[name[bound]] + size[bound])
            extra[bound] = c.cost[unit[bound], then] - c.cost[unit[bound], np.maximum(now, 0)]
            extra[np.flatnonzero(bound)[then < 0]] = np.inf
            counts[bound] = self.counted[unit[bound], then] - self.counted[unit[bound], np.maximum(now, 0)]
        value, traded = p.slope(w)[name] * size + 0.5 * p.diagonal[name] * size**2 + extra, np.zeros(len(name))
        if p.held is not None:
            z = (w - p.held)[name]
            traded = np.abs(z + size) - np.abs(z)
            rate = np.broadcast_to(np.asarray(p.rate), (p.n,))[name]
            value = value + rate * traded + p.separable(name, z + size) - p.separable(name, z)
        able = np.isfinite(value)
        return _Moves(name[able], size[able], value[able], traded[able], counts[able])

    def _priced(self, w: Array, moves: _Moves) -> Array:
        """Values less what the rules charge, or pay, for the move."""
        return np.asarray(moves.value - self.charge[moves.name] * moves.size + self.toll[moves.name] * moves.traded)

    def _best(self, w: Array, broken: float) -> tuple[float, float, tuple[int, int], _Moves]:
        """The change of energy, the breach after it, and the places of the best one or two moves."""
        moves = self._moves(w)
        if not len(moves.name):
            return np.inf, np.inf, (-1, -1), moves
        kept = np.argsort(self._priced(w, moves), kind="stable")[:PAIRED]
        m = _Moves(moves.name[kept], moves.size[kept], moves.value[kept], moves.traded[kept], moves.counts[kept])
        energy = m.value[:, None] + m.value + self.program.matrix[np.ix_(m.name, m.name)] * np.outer(m.size, m.size)
        # On the diagonal a move stands alone.
        np.fill_diagonal(energy, m.value)
        energy = np.where((m.name[:, None] == m.name) & ~np.eye(len(m.name), dtype=bool), np.inf, energy)
        breach = self._breach(w, m)
        if broken <= FEASIBLE:
            table = np.where(breach <= FEASIBLE, energy, np.inf)
        else:
            table = energy + BREACH * self.program.scale * breach
        at = int(table.argmin())
        i, j = divmod(at, len(m.name))
        pair = (int(kept[i]), int(kept[j]) if i != j else -1)
        return float(energy[i, j]), float(breach[i, j]), pair, moves

    def _breach(self, w: Array, m: _Moves) -> Array:
        """By how much rows, turnover and numbers are broken after each pair of moves."""
        p = self.program
        alone = np.eye(len(m.name), dtype=bool)

        def both(change: Array) -> Array:
            return np.where(alone, change[:, None], change[:, None] + change)

        found = np.zeros((len(m.name), len(m.name)))
        for row, low, high in zip(p.rows, p.row_lower, p.row_upper, strict=True):
            at = float(row @ w) + both(row[m.name] * m.size)
            found += np.maximum(at - high, low - at).clip(0.0)
        if p.held is not None and np.isfinite(p.turnover):
            found += (float(np.abs(w - p.held).sum()) + both(m.traded) - p.turnover).clip(0.0)
        counts = self._counts(self._modes(w))
        for k, most in enumerate(self.most):
            found += (counts[k] + both(m.counts[:, k]) - most).clip(0.0)
        return found
