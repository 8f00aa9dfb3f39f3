"""A simplex method for sums of hinges: CVaR's minimum from vertex to vertex, from any vertex to start with.

    min_z   g'z + sum_e [ lo_e min(v_e, 0) + hi_e max(v_e, 0) ],   v = A z - b,   lo_e <= hi_e,   lower <= z <= upper

A scenario of CVaR is an element with lo = 0 and hi = its cap; a row of the rules has hi = M (at most), lo = -M (at
least) or both, M beyond every multiplier, so that a vertex that breaks a rule is a start like any other. At a vertex as
many elements are at zero as entries of z are off their bounds. Each of these elements has a multiplier in [lo, hi], or
else the vertex is left along the edge where it is let go; the edge is followed over all kinks that are met while the
sum still falls, so that one step passes many scenarios.

After a bound has moved, as in a tree, or a name has been exchanged, the old vertex is a few steps from the new one.

The dual problem is one of the same kind; its entries are the multipliers y_e in [lo_e, hi_e], its elements the z_i:

    min_y   b'y + sum_i [ -upper_i min(r_i, 0) - lower_i max(r_i, 0) ],   r = A'y + g

and minus its sum is a lower bound wherever the walk stands, so a walk there may end as soon as the bound is enough.

Source: Bartels, R. H. and Conn, A. R. (1980), Linearly constrained discrete l1 problems, ACM TOMS 6(4); Barrodale, I.
and Roberts, F. D. K. (1973), An improved algorithm for discrete l1 linear approximation, SIAM J. Numerical Analysis 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dgeqp3

from portfolio_ebm.construction.exact.basis import Basis

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

STEEP = 1e-9
"""A multiplier this far out of its range is out of it; slopes are of order one."""
TIGHT = 1e-11
TINY = 1e-13
REFRESH = 30
"""Steps after which z and the slope are computed anew."""
SHAKE, STILL = 8, 60
"""Steps of no length in a row before the elements are moved by up to `SHIFT`, and before the method gives up."""
SHIFT = 1e-8
PRICED = 30
"""Names at a bound whose edges are measured in one step."""
FIRST = 48
"""Kinks of an edge that are put in order first, the nearest ones."""


@dataclass(frozen=True)
class Hinges:
    """The problem above.

    Attributes:
        slope: g, (d,). lower, upper: (d,), may be infinite.
        elements: A, (e, d), and `columns` a copy of its transpose, each row in one piece.
        offsets: b, (e,). low, high: lo, hi, (e,).
        rules: (e,), the elements that stand for rules: their lo and hi are -M or 0 and M or 0.
        wall: M.
    """

    slope: Array
    lower: Array
    upper: Array
    elements: Array
    columns: Array
    offsets: Array
    low: Array
    high: Array
    rules: Mask
    wall: float

    @cached_property
    def width(self) -> Array:
        """hi - lo, (e,)."""
        return self.high - self.low


@dataclass(frozen=True)
class Vertex:
    """The minimum: z (d,), and the multiplier of every element (e,); where not `least`, a point on the way to it."""

    z: Array
    multipliers: Array
    least: bool = True


def dual(problem: Hinges) -> Hinges:
    """The dual problem: its minimum is y, and minus z are its multipliers. The ends of z should be finite but for
    entries that are free on both sides."""
    p, open_ = problem, ~np.isfinite(problem.lower)
    return Hinges(
        p.offsets, np.where(p.low <= -p.wall, -np.inf, p.low), np.where(p.high >= p.wall, np.inf, p.high),
        p.columns, p.elements, -p.slope, np.where(open_, -p.wall, -p.upper), np.where(open_, p.wall, -p.lower),
        open_, p.wall,
    )  # fmt: skip


def descend(problem: Hinges, start: Array, most_steps: int, enough: float = -np.inf) -> Vertex | None:
    """The minimum from the vertex nearest to `start` (d,), or the first point on the way whose sum is `enough`; None
    where the walk is not sure of having reached either."""
    walk = _Walk.near(problem, start)
    still, fresh = 0, True
    for step in range(most_steps if walk is not None else 0):
        assert walk is not None
        multipliers, reduced = walk.prices()
        edge = walk.edge(multipliers, reduced)
        if edge is None and fresh and not walk.shaken:
            return walk.ended(multipliers)
        if edge is None or step % REFRESH == REFRESH - 1:
            # What has gathered in z and the slope step by step is put right before it is believed.
            fresh, still = walk.settle(shaken=walk.shaken and edge is not None), 0
            if not fresh:
                return None
            continue
        length = walk.follow(edge)
        if length is not None and walk.total <= enough:
            return Vertex(np.clip(walk.z, problem.lower, problem.upper), multipliers, least=False)
        still = still + 1 if length is not None and length <= TINY else 0
        if length is None or still > STILL or (still == SHAKE and not walk.settle(shaken=True)):
            return None
        fresh = False
    return None


@dataclass(frozen=True)
class _Edge:
    """A way to leave a vertex: by how much the free entries move (k,), the slope, the slot of the element let go or -1,
    the entry set free or -1, and which way that one moves."""

    moves: Array
    slope: float
    place: int = -1
    entry: int = -1
    way: float = 0.0


class _Walk:
    """A vertex on the way: z, its basis, and of the other elements the side and how far they are from zero.

    `side` is 1 where an element is below zero and -1 where it is above, `depth` its distance, `total` the sum,
    what is beyond an end of the box charged with M.
    """

    def __init__(self, problem: Hinges, z: Array, free: Mask, active: Ints) -> None:
        self.p, self.z = problem, z
        self.basis = Basis(problem.elements, problem.columns, active, np.flatnonzero(free))
        # Where an entry may go from the end it rests at: up, down, or not at all.
        resting = (problem.upper > problem.lower) & ~free
        self.way = np.where(resting, np.where(z <= problem.lower, 1.0, -1.0), 0.0)
        self.side, self.depth = np.ones(len(problem.offsets)), np.zeros(len(problem.offsets))
        self.slope, self.total = problem.slope, np.inf
        self.shaken, self.outside = False, False

    @classmethod
    def near(cls, problem: Hinges, start: Array) -> _Walk | None:
        """The vertex whose elements are those nearest to zero at `start`; None where they do not make one."""
        free = (problem.upper > problem.lower) & (start > problem.lower + TINY) & (start < problem.upper - TINY)
        values = start @ problem.columns - problem.offsets
        for _ in range(len(free)):
            names = free.nonzero()[0]
            elements, rows = _nearest(problem, values, names)
            if len(elements) >= len(names):
                rank, order = _independent(rows.T)
                if rank == len(names):
                    low = (start <= problem.lower + TINY) | ~np.isfinite(problem.upper)
                    z = np.where(free, start, np.where(low, problem.lower, problem.upper))
                    walk = cls(problem, z, free, elements[order[: len(names)]])
                    return walk if np.isfinite(z).all() and walk.settle() else None
            # Entries that no element tells apart: one of them is free, the others rest; what has no end cannot.
            endless = ~np.isfinite(problem.lower[names]) & ~np.isfinite(problem.upper[names])
            rank, order = _independent(rows * np.where(endless, 1e3, 1.0))
            free[names[order[rank:]]] = False
        return None

    def settle(self, *, shaken: bool = False) -> bool:
        """Put z on the vertex exactly, and read sides and slope off it; `shaken` moves every element a little to where
        no more than the active ones meet, so that a walk that stands still gets on."""
        p, b = self.p, self.basis
        if not b.refresh():
            return False
        self.shaken = shaken
        offsets = (
            p.offsets + SHIFT * np.random.default_rng(0).uniform(0.1, 1.0, len(p.offsets)) if shaken else p.offsets
        )
        self.z[b.free] = 0.0
        self.z[b.free] = b.inverse @ (offsets[b.active] - b.rows @ self.z)
        at = np.flatnonzero(self.z)
        values = self.z[at] @ p.columns[at] - offsets
        values[b.active] = 0.0
        # What is tight to rounding breaks no rule, and a hinge stays on the side that it is on: of several at one
        # place some are above, as many as carry the weight.
        tight = np.abs(values) <= TIGHT
        above = np.where(tight, np.where(p.rules, p.high == 0.0, self.side < 0.0), values > 0.0)
        self.side = np.where(above, -1.0, 1.0)
        self.depth = -self.side * values
        pull = np.where(above, p.high, p.low)
        pull[b.active] = 0.0
        on = np.flatnonzero(pull)
        self.slope = p.slope + pull[on] @ p.elements[on]
        z, low, high = self.z[b.free], p.lower[b.free], p.upper[b.free]
        beyond = np.maximum(np.maximum(low - z, z - high), 0.0)
        self.outside = bool((beyond > TIGHT).any())
        self.total = float(p.slope @ self.z + pull[on] @ values[on] + p.wall * beyond.sum())
        return bool(np.isfinite(self.z).all())

    def prices(self) -> tuple[Array, Array]:
        """Multipliers of the active elements, and every entry's slope with them, zero at the free ones."""
        p, b = self.p, self.basis
        slope = self.slope[b.free]
        if self.outside:
            z = self.z[b.free]
            wall = p.wall * ((z > p.upper[b.free] + TIGHT) * 1.0 - (z < p.lower[b.free] - TIGHT))
            self.outside, slope = bool(wall.any()), slope + wall
        multipliers = -slope @ b.inverse
        reduced = multipliers @ b.rows
        reduced += self.slope
        reduced[b.free] = 0.0
        return multipliers, reduced

    def edge(self, multipliers: Array, reduced: Array) -> _Edge | None:
        """The steepest edge down."""
        p, b = self.p, self.basis
        below, above = p.low[b.active] - multipliers, multipliers - p.high[b.active]
        out = np.maximum(below, above)
        place, best = -1, 0.0
        wrong = (out > STEEP).nonzero()[0]
        if len(wrong):
            rows = b.inverse[:, wrong]
            rate = out[wrong] / (np.sqrt(np.add.reduce(rows * rows)) + TINY)
            first = int(rate.argmax())
            place, best = int(wrong[first]), float(rate[first])
        eager = (reduced * self.way < -STEEP).nonzero()[0]
        if len(eager):
            size = np.abs(reduced[eager])
            if len(eager) > PRICED:
                kept = size.argpartition(-PRICED)[-PRICED:]
                eager, size = eager[kept], size[kept]
            answer = b.inverse @ b.rows[:, eager]
            steep = size / np.sqrt(1.0 + np.add.reduce(answer * answer))
            first = int(steep.argmax())
            if steep[first] > best:
                entry = int(eager[first])
                way = float(self.way[entry])
                return _Edge(-way * answer[:, first], -float(size[first]), entry=entry, way=way)
        if place < 0:
            return None
        return _Edge(b.inverse[:, place] * (1.0 if above[place] > below[place] else -1.0), -float(out[place]), place)

    def follow(self, edge: _Edge) -> float | None:
        """Go along the edge to the kink where the sum stops falling; the length, None where it falls without end or the
        vertex there has no inverse."""
        p, b = self.p, self.basis
        rates = edge.moves @ b.entries
        if edge.entry >= 0:
            rates += edge.way * p.columns[edge.entry]
            rates[b.active] = 0.0
        else:
            let_go = int(b.active[edge.place])
            own = float(rates[let_go])
            rates[b.active] = 0.0
            rates[let_go] = own
            self.side[let_go] = -1.0 if own > 0.0 else 1.0
            self.slope = self.slope + (p.high if own > 0.0 else p.low)[let_go] * p.elements[let_go]
        toward = self.side * rates
        meets = (toward > TINY).nonzero()[0]
        pace = toward[meets]
        walls, ends, far, speed = self._walls(edge)
        lengths = np.concatenate([np.maximum(self.depth[meets] / pace, 0.0), far])
        gains = np.concatenate([p.width[meets] * pace, p.wall * speed])
        passed, last = _stop(lengths, gains, -edge.slope)
        if last < 0:
            return None
        length = float(lengths[last])
        self.total += edge.slope * length + float(gains[passed] @ (length - lengths[passed]))
        self.z[b.free] += length * edge.moves
        self.depth -= length * toward
        if edge.entry >= 0:
            self.z[edge.entry] += length * edge.way
            self.way[edge.entry] = 0.0
        crossed = meets[passed[passed < len(meets)]]
        self.outside |= len(crossed) < len(passed)
        self._flip(crossed)
        if last < len(meets):
            sound = self._arrive(int(meets[last]), edge)
        else:
            sound = self._rest(int(walls[last - len(meets)]), float(ends[last - len(meets)]), edge)
        return length if sound else None

    def _walls(self, edge: _Edge) -> tuple[Ints, Array, Array, Array]:
        """Entries that will meet an end of their box, the end, how far away it is, and how fast they move."""
        p, names, moves = self.p, self.basis.free, edge.moves
        if edge.entry >= 0:
            names, moves = np.concatenate([names, [edge.entry]]), np.concatenate([moves, [edge.way]])
        z, low, high = self.z[names], p.lower[names], p.upper[names]
        up = moves > 0.0
        end = np.where(up, high, low)
        if self.outside:
            # One beyond an end meets that end too on its way back, and one that moves away meets none.
            back = (up & (z < low - TIGHT)) | (~up & (z > high + TIGHT))
            end[np.where(up, z > high + TIGHT, z < low - TIGHT)] = np.inf
            names, moves = np.append(names, names[back]), np.append(moves, moves[back])
            z, end = np.append(z, z[back]), np.append(end, np.where(up, low, high)[back])
        at = (np.isfinite(end) & (moves != 0.0)).nonzero()[0]
        end, moves = end[at], moves[at]
        return names[at], end, np.maximum((end - z[at]) / moves, 0.0), np.abs(moves)

    def _flip(self, crossed: Ints) -> None:
        """Elements change sides."""
        if len(crossed):
            p, side = self.p, self.side[crossed]
            self.slope = self.slope + (side * p.width[crossed]) @ p.elements[crossed]
            self.side[crossed] = -side
            self.depth[crossed] = -self.depth[crossed]

    def _arrive(self, element: int, edge: _Edge) -> bool:
        """An element is at zero."""
        p = self.p
        pull = (p.high if self.side[element] < 0.0 else p.low)[element]
        if pull != 0.0:
            self.slope = self.slope - pull * p.elements[element]
        self.depth[element] = 0.0
        if edge.entry >= 0:
            return self.basis.add(edge.entry, element)
        return self.basis.exchange_elements(edge.place, element)

    def _rest(self, entry: int, end: float, edge: _Edge) -> bool:
        """An entry of z stands at an end of its box."""
        self.z[entry] = end
        self.way[entry] = 1.0 if end <= self.p.lower[entry] else -1.0
        if entry == edge.entry:
            return True
        slot = int((self.basis.free == entry).argmax())
        if edge.entry >= 0:
            return self.basis.exchange_entries(slot, edge.entry)
        return self.basis.remove(slot, edge.place)

    def ended(self, multipliers: Array) -> Vertex | None:
        """The vertex, where it is inside the box and keeps every rule."""
        p, values = self.p, -self.side * self.depth
        broken = p.rules & (((p.low < 0.0) & (values < -TIGHT)) | ((p.high > 0.0) & (values > TIGHT)))
        if broken.any() or (self.z < p.lower - TIGHT).any() or (self.z > p.upper + TIGHT).any():
            return None
        found = np.where(self.side < 0.0, p.high, p.low)
        found[self.basis.active] = multipliers
        return Vertex(np.clip(self.z, p.lower, p.upper), found)


def _stop(lengths: Array, gains: Array, slope: float) -> tuple[Ints, int]:
    """The kinks that are passed while the sum falls by `slope` less their gains, and the one where it stops falling, -1
    where there is none."""
    for most in (FIRST, len(lengths)):
        near = np.arange(len(lengths))
        if most < len(lengths):
            near = lengths.argpartition(most)[:most]
        order = near[lengths[near].argsort(kind="stable")]
        turned = int(gains[order].cumsum().searchsorted(slope))
        if turned < len(order):
            return order[:turned], int(order[turned])
    return order, -1


def _nearest(problem: Hinges, values: Array, names: Ints) -> tuple[Ints, Array]:
    """Elements to choose a vertex from, and their entries at `names` by how much they are wanted: rules of equality,
    then what is tight, then what is near; a rule that is not tight is left out."""
    size = np.abs(values)
    size = np.where(problem.rules & (size > TIGHT), np.inf, size)
    size = np.where(problem.rules & (problem.low < 0.0) & (problem.high > 0.0), -1.0, size)
    most = 3 * len(names) + 5
    near = np.arange(len(size)) if most >= len(size) else size.argpartition(most)[:most]
    near = near[size[near].argsort(kind="stable")]
    near = near[np.isfinite(size[near])]
    weight = np.where(size[near] <= TIGHT, 1.0, 0.1 / (1.0 + np.arange(len(near))))
    weight[size[near] < 0.0] = 100.0
    rows = problem.elements[near][:, names]
    return near, rows * (weight / np.maximum(np.abs(rows).max(axis=1, initial=0.0), 1e-300))[:, None]


def _independent(columns: Array) -> tuple[int, Ints]:
    """The rank that a pivoted factor shows, and the columns' order by how much each adds."""
    factor, order, *_ = dgeqp3(columns)
    diagonal = np.abs(factor.diagonal())
    return int((diagonal > 1e-10 * diagonal.max(initial=0.0)).sum()), order - 1
