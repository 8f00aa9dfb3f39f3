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

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.linalg.lapack import dgetrf, dgetri

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
        inverse = walk.inverse()
        if inverse is None:
            return None
        multipliers, reduced = walk.prices(inverse)
        edge = walk.edge(inverse, multipliers, reduced)
        if edge is None and fresh and not walk.shaken:
            return walk.ended(multipliers)
        if edge is None or step % REFRESH == REFRESH - 1:
            # What has gathered in z and the slope step by step is put right before it is believed.
            fresh, still = walk.settle(shaken=walk.shaken and edge is not None), 0
            if not fresh:
                return None
            continue
        length = walk.follow(*edge)
        if walk.sum_below(enough):
            return Vertex(np.clip(walk.z, problem.lower, problem.upper), multipliers, least=False)
        still = still + 1 if length is not None and length <= TINY else 0
        if length is None or still > STILL or (still == SHAKE and not walk.settle(shaken=True)):
            return None
        fresh = False
    return None


class _Walk:
    """A vertex on the way: z, which entries are free, which elements are at zero, on which side the others are."""

    def __init__(self, problem: Hinges, z: Array, free: Mask, active: list[int]) -> None:
        self.p, self.z, self.free, self.active = problem, z, free, active
        # Where an entry may go from the end it rests at: up, down, or not at all.
        resting = (problem.upper > problem.lower) & ~free
        self.way = np.where(resting, np.where(z <= problem.lower, 1.0, -1.0), 0.0)
        self.at = np.flatnonzero(free)
        self.values = np.zeros(len(problem.offsets))
        self.above = np.zeros(len(problem.offsets), dtype=bool)
        self.slope = problem.slope
        self.shaken = False

    @classmethod
    def near(cls, problem: Hinges, start: Array) -> _Walk | None:
        """The vertex whose elements are those nearest to zero at `start`; None where they do not make one."""
        free = (problem.upper > problem.lower) & (start > problem.lower + TINY) & (start < problem.upper - TINY)
        values = start @ problem.columns - problem.offsets
        for _ in range(len(free)):
            names = free.nonzero()[0]
            elements, rows = _nearest(problem, values, names)
            if len(elements) >= len(names):
                _, r, order = qr(rows.T, mode="economic", pivoting=True)
                if _rank(r) == len(names):
                    low = (start <= problem.lower + TINY) | ~np.isfinite(problem.upper)
                    z = np.where(free, start, np.where(low, problem.lower, problem.upper))
                    walk = cls(problem, z, free, elements[order[: len(names)]].tolist())
                    return walk if np.isfinite(z).all() and walk.settle() else None
            # Entries that no element tells apart: one of them is free, the others rest; what has no end cannot.
            endless = ~np.isfinite(problem.lower[names]) & ~np.isfinite(problem.upper[names])
            _, r, order = qr(rows * np.where(endless, 1e3, 1.0), mode="economic", pivoting=True)
            free[names[order[_rank(r) :]]] = False
        return None

    def inverse(self) -> Array | None:
        """Of the active elements' entries at the free names."""
        factor, pivots, failed = dgetrf(self.p.elements[np.array(self.active, dtype=np.int64)[:, None], self.at])
        if failed:
            return None
        found, failed = dgetri(factor, pivots, overwrite_lu=1)
        return found if not failed and np.isfinite(found).all() else None

    def settle(self, *, shaken: bool = False) -> bool:
        """Put z on the vertex exactly, and read sides and slope off it; `shaken` moves every element a little to where
        no more than the active ones meet, so that a walk that stands still gets on."""
        p, inverse = self.p, self.inverse()
        if inverse is None:
            return False
        self.shaken = shaken
        offsets = (
            p.offsets + SHIFT * np.random.default_rng(0).uniform(0.1, 1.0, len(p.offsets)) if shaken else p.offsets
        )
        rest = np.where(self.free, 0.0, self.z)
        self.z = rest
        self.z[self.at] = inverse @ (offsets[self.active] - p.elements[self.active] @ rest)
        at = np.flatnonzero(self.z)
        self.values = self.z[at] @ p.columns[at] - offsets
        self.values[self.active] = 0.0
        # What is tight to rounding breaks no rule, and a hinge stays on the side that it is on: of several at one
        # place some are above, as many as carry the weight.
        tight = np.abs(self.values) <= TIGHT
        self.above = np.where(tight, np.where(p.rules, p.high == 0.0, self.above), self.values > 0.0)
        pull = np.where(self.above, p.high, p.low)
        pull[self.active] = 0.0
        on = np.flatnonzero(pull)
        self.slope = p.slope + pull[on] @ p.elements[on]
        return bool(np.isfinite(self.z).all())

    def sum_below(self, enough: float) -> bool:
        """Whether the sum of hinges is at most `enough`."""
        if enough == -np.inf:
            return False
        p = self.p
        return bool(p.slope @ self.z + np.where(self.above, p.high, p.low) @ self.values <= enough)

    def prices(self, inverse: Array) -> tuple[Array, Array]:
        """Multipliers of the active elements, and every entry's slope with them, zero at the free ones."""
        p, at = self.p, self.at
        z, slope = self.z[at], self.slope[at]
        slope = slope + p.wall * ((z > p.upper[at] + TIGHT) * 1.0 - (z < p.lower[at] - TIGHT))
        multipliers = -slope @ inverse
        reduced = self.slope + multipliers @ p.elements[self.active]
        reduced[self.at] = 0.0
        return multipliers, reduced

    def edge(self, inverse: Array, multipliers: Array, reduced: Array) -> tuple[Array, float, int, int] | None:
        """The steepest edge down: (direction, slope, place of the element let go or -1, entry set free or -1)."""
        p, active = self.p, np.array(self.active, dtype=np.int64)
        below, above = p.low[active] - multipliers, multipliers - p.high[active]
        out = np.maximum(below, above)
        place, best = -1, 0.0
        if out.max(initial=0.0) > STEEP:
            rate = np.where(out > STEEP, out / (np.sqrt(np.square(inverse).sum(axis=0)) + TINY), 0.0)
            place = int(rate.argmax())
            best = float(rate[place])
        eager = (reduced * self.way < -STEEP).nonzero()[0]
        if len(eager):
            if len(eager) > PRICED:
                eager = eager[np.argpartition(-np.abs(reduced[eager]), PRICED)[:PRICED]]
            answer = inverse @ p.elements[active[:, None], eager]
            steep = np.abs(reduced[eager]) / np.sqrt(1.0 + np.square(answer).sum(axis=0))
            first = int(steep.argmax())
            if steep[first] > best:
                entry = int(eager[first])
                sign = float(self.way[entry])
                direction = np.zeros(len(self.z))
                direction[self.at] = -sign * answer[:, first]
                direction[entry] = sign
                return direction, -abs(float(reduced[entry])), -1, entry
        if best <= 0.0:
            return None
        direction = np.zeros(len(self.z))
        direction[self.at] = inverse[:, place] * (1.0 if above[place] > below[place] else -1.0)
        return direction, -float(out[place]), place, -1

    def follow(self, direction: Array, slope: float, place: int, entry: int) -> float | None:
        """Go along the edge to the kink where the sum stops falling; the length, None where it falls without end."""
        p = self.p
        if entry >= 0:
            self.free[entry], self.way[entry] = True, 0.0
            self.at = self.free.nonzero()[0]
        moving = self.at[direction[self.at] != 0.0]
        rates = direction[moving] @ p.columns[moving]
        let_go = self.active.pop(place) if place >= 0 else -1
        rates[self.active] = 0.0
        if let_go >= 0:
            up = bool(rates[let_go] > 0.0)
            self.above[let_go] = up
            self.slope = self.slope + (p.high if up else p.low)[let_go] * p.elements[let_go]
        meets = np.where(self.above, rates < -TINY, rates > TINY).nonzero()[0]
        meets = meets[meets != let_go]
        pace = rates[meets]
        lengths = np.maximum(-self.values[meets] / pace, 0.0)
        gains = (p.high[meets] - p.low[meets]) * np.abs(pace)
        walls, ends, far = self._walls(direction, moving)
        lengths = np.concatenate([lengths, far])
        gains = np.concatenate([gains, p.wall * np.abs(direction[walls])])
        order = lengths.argsort(kind="stable")
        turned = int(gains[order].cumsum().searchsorted(-slope))
        if turned == len(order):
            return None
        last, passed = int(order[turned]), order[:turned]
        length = float(lengths[last])
        self.z = self.z + length * direction
        self.values = self.values + length * rates
        self._flip(meets[passed[passed < len(meets)]])
        if last < len(meets):
            self._arrive(int(meets[last]))
        else:
            self._rest(int(walls[last - len(meets)]), float(ends[last - len(meets)]))
        return length

    def _walls(self, direction: Array, moving: Ints) -> tuple[Ints, Array, Array]:
        """Entries that will meet an end of their box, the end, and how far away it is."""
        z, step = self.z[moving], direction[moving]
        low, high = self.p.lower[moving], self.p.upper[moving]
        at_low = np.isfinite(low) & ((step < 0.0) == (z >= low - TIGHT))
        at_high = np.isfinite(high) & ((step > 0.0) == (z <= high + TIGHT))
        entries = np.concatenate([moving[at_low], moving[at_high]])
        ends = np.concatenate([low[at_low], high[at_high]])
        return entries, ends, np.maximum((ends - self.z[entries]) / direction[entries], 0.0)

    def _flip(self, crossed: Ints) -> None:
        """Elements change sides."""
        if len(crossed):
            p, up = self.p, self.above[crossed]
            change = np.where(up, p.low[crossed] - p.high[crossed], p.high[crossed] - p.low[crossed])
            self.slope = self.slope + change @ p.elements[crossed]
            self.above[crossed] = ~up

    def _arrive(self, element: int) -> None:
        """An element is at zero."""
        p = self.p
        pull = (p.high if self.above[element] else p.low)[element]
        if pull != 0.0:
            self.slope = self.slope - pull * p.elements[element]
        self.values[element] = 0.0
        self.active.append(element)

    def _rest(self, entry: int, end: float) -> None:
        """An entry of z stands at an end of its box."""
        self.z[entry] = end
        self.free[entry], self.way[entry] = False, 1.0 if end <= self.p.lower[entry] else -1.0
        self.at = self.free.nonzero()[0]

    def ended(self, multipliers: Array) -> Vertex | None:
        """The vertex, where it is inside the box and keeps every rule."""
        p = self.p
        broken = p.rules & (((p.low < 0.0) & (self.values < -TIGHT)) | ((p.high > 0.0) & (self.values > TIGHT)))
        if broken.any() or (self.z < p.lower - TIGHT).any() or (self.z > p.upper + TIGHT).any():
            return None
        found = np.where(self.above, p.high, p.low)
        found[self.active] = multipliers
        return Vertex(np.clip(self.z, p.lower, p.upper), found)


def _nearest(problem: Hinges, values: Array, names: Ints) -> tuple[Ints, Array]:
    """Elements to choose a vertex from, and their entries at `names` by how much they are wanted: rules of equality,
    then what is tight, then what is near; a rule that is not tight is left out."""
    size = np.abs(values)
    size = np.where(problem.rules & (size > TIGHT), np.inf, size)
    size = np.where(problem.rules & (problem.low < 0.0) & (problem.high > 0.0), -1.0, size)
    near = np.argsort(size, kind="stable")[: 3 * len(names) + 5]
    near = near[np.isfinite(size[near])]
    weight = np.where(size[near] <= TIGHT, 1.0, 0.1 / (1.0 + np.arange(len(near))))
    weight[size[near] < 0.0] = 100.0
    rows = problem.elements[near][:, names]
    return near, rows * (weight / np.maximum(np.abs(rows).max(axis=1, initial=0.0), 1e-300))[:, None]


def _rank(r: Array) -> int:
    """The rank that a pivoted factor shows."""
    diagonal = np.abs(r.diagonal())
    return int((diagonal > 1e-10 * diagonal.max(initial=0.0)).sum())
