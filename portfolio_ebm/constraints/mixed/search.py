"""Scored swap search over modes: relaxation, rounding under noise, exact inner solves, swaps.

For a choice of modes p let V(p) be the least energy on its slice. A walker at p looks at all its neighbours: one unit
changes its mode, or two exchange theirs. They are ranked by two scores of second order at the slice's own solution,

    swap of a free j in, i out      d_ij = -r_i^2 / (2 s_i) + (w_j - r_i D_ij / s_i)^2 / (2 (M_jj + D_ij^2 / s_i))
    transfer of j's weight to i     w_j (g_i - g_j) + w_j^2 / 2 (Q_ii + Q_jj - 2 Q_ij)

with M the inverse of the slice's optimality system, D_i the answer of its free weights to a unit of name i, s_i the
curvature left and r_i the price of i. The best few are solved exactly, and one is taken by Metropolis at T.

Source: the scored exchange follows Bertsimas, King and Mazumder (2016), Best subset selection via a modern
optimization lens, Annals of Statistics 44(2), with second-order scores; Kirkpatrick, Gelatt and Vecchi (1983).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from portfolio_ebm.constraints.mixed.moves import best_moves
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask, Point

CANDIDATES = 8
DESCENTS = 200
KICKS = (2, 3, 4)
"""Moves of one kick."""


@dataclass
class Memo:
    """By the bytes of the modes: the point of a slice solved, or None where it is empty, and its candidates."""

    point: dict[bytes, Point | None] = field(default_factory=dict)
    near: dict[bytes, list[Ints]] = field(default_factory=dict)

    def value(self, modes: Ints) -> float:
        found = self.point.get(modes.tobytes())
        return np.inf if found is None else found.value


@dataclass(frozen=True)
class Search:
    """A search over the modes of one mixed program; `memo` is shared by all walkers."""

    mixed: Mixed
    allowed: Mask
    memo: Memo = field(default_factory=Memo)

    def among(self, allowed: Mask) -> Search:
        """The search with fewer modes; the slices solved stay known."""
        return Search(self.mixed, allowed, Memo(self.memo.point))

    def solve(self, modes: Ints, start: Array | Point | None = None, enough: float = np.inf) -> Point | None:
        """The minimum on the slice of `modes` (U,), from memory where it is known; where it is at least `enough` its
        bound may be all that is known."""
        key = modes.tobytes()
        found = self.memo.point.get(key)
        if key not in self.memo.point or (found is not None and found.value == np.inf and found.bound < enough):
            found = self.memo.point[key] = on_slice(self.mixed, modes, start, enough)
        return found

    def descend(self, modes: Ints) -> Ints:
        """Swap descent from `modes`, (U,), to the first candidate, by score, that is better, until none is: the scores
        are nearly exact, so that it is nearly the steepest descent."""
        now, point = modes, self.solve(modes)
        for _ in range(DESCENTS):
            if point is None:
                return now
            for other in self.candidates(now, point):
                found = self.solve(other, point, point.value)
                if found is not None and found.value < point.value - 1e-13 * abs(point.value):
                    now, point = other, found
                    break
            else:
                return now
        return now

    def kicked(self, modes: Ints, rounds: int, rng: np.random.Generator) -> Ints:
        """The best of `rounds` descents, each from a few scored moves, taken at random, away from the best so far.

        Source: Lourenco, H., Martin, O. and Stutzle, T. (2003), Iterated local search, Handbook of Metaheuristics.
        """
        best = modes
        for k in range(rounds):
            now = best
            for _ in range(KICKS[k % len(KICKS)]):
                point = self.solve(now)
                scored = [] if point is None else self.scored(now, point)
                if not scored:
                    break
                scores = np.array([score for score, _ in scored])
                heat = max(float(scores.std()), 1e-300)
                now = scored[int(np.argmin(scores + heat * rng.gumbel(size=len(scores))))][1]
            end = self.descend(now)
            if self.memo.value(end) < self.memo.value(best):
                best = end
        return best

    def anneal(self, modes: Ints, heats: Array, rng: np.random.Generator) -> Ints:
        """A Metropolis walk from `modes` over the best candidates, one step a temperature; the last place."""
        now, point = modes, self.solve(modes)
        for heat in heats:
            if point is None:
                return now
            options = [m for m in self.candidates(now, point) if self.solve(m, point.weights) is not None]
            if not options:
                return now
            values = np.array([self.memo.value(m) for m in options])
            noise = -np.log(-np.log(rng.uniform(1e-300, 1.0, len(options))))
            chosen = int(np.argmin(values - heat * noise))
            if values[chosen] <= point.value or rng.uniform() < np.exp(-(values[chosen] - point.value) / heat):
                now, point = options[chosen], self.solve(options[chosen])
        return now

    def candidates(self, modes: Ints, point: Point) -> list[Ints]:
        """The best few neighbours, the best first by score; from memory where they are known."""
        key = modes.tobytes()
        if key not in self.memo.near:
            self.memo.near[key] = self._candidates(modes, point)
        return self.memo.near[key]

    def _candidates(self, modes: Ints, point: Point) -> list[Ints]:
        priced = self.mixed.choices.priced
        found = self.scored(modes, point) if priced else []
        if not (priced and (self.mixed.choices.size == 1).all()):
            found = sorted(
                [*found, *self._exchanges(modes, point), *self._changes(modes, point)], key=lambda one: one[0]
            )
        unique = {one.tobytes(): one for _, one in found}
        unique.pop(modes.tobytes(), None)
        return list(unique.values())

    def scored(self, modes: Ints, point: Point) -> list[tuple[float, Ints]]:
        """Single moves and pairs, the best first by the score of second order."""
        single, pairs = best_moves(self.mixed.program, self.mixed.choices, self.allowed, modes, point, 2 * CANDIDATES)
        found = []
        for moves in (single, pairs):
            for units, others, score in zip(moves.units, moves.modes, moves.scores, strict=True):
                found.append((float(score), changed(modes, list(zip(units.tolist(), others.tolist(), strict=True)))))
        return sorted(found, key=lambda one: one[0])

    def _changes(self, modes: Ints, point: Point) -> list[tuple[float, Ints]]:
        units, other, score = self.changes(modes, point)
        order = np.argsort(score, kind="stable")[:CANDIDATES]
        return [(float(score[k]), changed(modes, [(int(units[k]), int(other[k]))])) for k in order]

    def changes(self, modes: Ints, point: Point) -> tuple[Ints, Ints, Array]:
        """One unit in another mode: units, modes, and scores by what the unit's weight must move, or would like to."""
        c, p = self.mixed.choices, self.mixed.program
        x = c.weights(point.weights)
        units, other = np.nonzero(self.allowed & (np.arange(self.allowed.shape[1]) != modes[:, None]))
        low, high = c.lower[units, other], c.upper[units, other]
        price = np.full(c.units, np.inf)
        np.minimum.at(price, c.unit, p.pull(point)[c.name])
        curve = np.full(c.units, np.inf)
        np.minimum.at(curve, c.unit, p.diagonal[c.name])
        g, q = price[units], np.maximum(curve[units], 1e-300)
        wish = np.clip(x[units] - g / q, low, high) - x[units]
        score = g * wish + 0.5 * q * wish**2 + c.cost[units, other] - c.cost[units, modes[units]]
        return units.astype(np.int64), other.astype(np.int64), np.asarray(score)

    def _exchanges(self, modes: Ints, point: Point) -> list[tuple[float, Ints]]:
        found = []
        for zero, held, tables in self.exchanges(modes, point):
            for table in tables:
                flat = table.reshape(-1)
                size = min(CANDIDATES, int(np.isfinite(flat).sum()))
                for k in np.argsort(flat, kind="stable")[:size] if flat.size < 64 else smallest(flat, size):
                    enter, leave = zero[k // len(held)], held[k % len(held)]
                    both = [(int(enter), int(modes[leave])), (int(leave), int(modes[enter]))]
                    found.append((float(flat[k]), changed(modes, both)))
        return found

    def exchanges(self, modes: Ints, point: Point) -> Iterator[tuple[Ints, Ints, list[Array]]]:
        """Two units exchange their modes: for every two modes the units in them, (i,) and (j,), and tables (i, j) of
        scores, the one of second order first where there is one, then that of the transfer; units of several names by
        their cheapest names."""
        c = self.mixed.choices
        first = np.zeros(c.units, dtype=int)
        first[c.unit[::-1]] = c.name[::-1]
        x = c.weights(point.weights)
        for a in range(self.allowed.shape[1]):
            for b in range(a + 1, self.allowed.shape[1]):
                both = self.allowed[:, a] & self.allowed[:, b]
                zero, held = np.flatnonzero(both & (modes == a)), np.flatnonzero(both & (modes == b))
                if len(zero) and len(held):
                    yield zero, held, self._tables(point, (first[zero], first[held]), x[zero], x[held])

    def _tables(self, point: Point, names: tuple[Ints, Ints], x: Array, y: Array) -> list[Array]:
        """The two scores of an exchange of names i and j, whose units weigh x and y."""
        p, (i, j) = self.mixed.program, names
        move = (y - x[:, None]) if np.any(x) else np.broadcast_to(y, (len(x), len(y)))
        q, g = p.matrix, p.pull(point)
        transfer = move * (g[i][:, None] - g[j]) + 0.5 * move**2 * (q[i, i][:, None] + q[j, j] - 2 * q[np.ix_(i, j)])
        exact = self._second_order(point, i, j)
        return [transfer] if exact is None else [exact, transfer]

    def _second_order(self, point: Point, i: Ints, j: Ints) -> Array | None:
        """d_ij above, inf where j is not free; None where the slice has no free weights."""
        p = self.mixed.program
        w = point.weights
        free = np.flatnonzero(
            (w > p.lower + TOLERANCE) & (w < p.upper - TOLERANCE) & (np.abs(p.pull(point)) <= 1e-9 * p.scale)
        )
        rows = p.tight(w)
        if not len(free) or len(rows) >= len(free):
            return None
        k = len(free)
        system = np.zeros((k + len(rows), k + len(rows)))
        system[:k, :k] = p.matrix[np.ix_(free, free)] + 1e-14 * p.scale * np.eye(k)
        system[:k, k:], system[k:, :k] = rows[:, free].T, rows[:, free]
        try:
            inverse = np.linalg.inv(system)
        except np.linalg.LinAlgError:
            return None
        side = np.concatenate([p.matrix[np.ix_(free, i)], rows[:, i]])
        answer = -inverse @ side
        s = np.maximum(p.matrix[i, i] + (side * answer).sum(axis=0), 1e-12 * p.scale)
        r = p.pull(point)[i]
        gain = -(np.where(r < 0, r, 0.0) ** 2) / (2 * s)
        step = np.where(r < 0, -r / s, 0.0)
        place = np.full(p.n, -1)
        place[free] = np.arange(k)
        at = place[j]
        inside: Mask = at >= 0
        d = answer[:k][at[inside]]
        left = w[j][inside][:, None] + d * step
        m = inverse.diagonal()[:k][at[inside]][:, None] + d**2 / s
        table = np.full((len(i), len(j)), np.inf)
        table[:, inside] = (gain + left**2 / (2 * np.maximum(m, 1e-300))).T
        return table


def changed(modes: Ints, changes: list[tuple[int, int]]) -> Ints:
    found = modes.copy()
    for unit, mode in changes:
        found[unit] = mode
    return found


def smallest(flat: Array, size: int) -> Ints:
    """The places of the `size` smallest, the smallest first."""
    if not size:
        return np.zeros(0, dtype=int)
    at = np.argpartition(flat, size - 1)[:size]
    return at[np.argsort(flat[at], kind="stable")]
