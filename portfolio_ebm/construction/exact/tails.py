"""The least CVaR of a slice by vertices.py, on a pool of scenarios that is shared by all slices of a problem.

    min_w   m'w + c CVaR(L w)   =   min_{w, t}   m'w + c t + c / count  sum_s (L_s w - t)_+

Only scenarios that have been in or near a tail stand in the pool. A minimum over the pool is checked on all scenarios;
those in its tail that were left out are taken in, and the walk goes on. The bound is the dual one of duality.py, from
the multipliers of the scenarios that carry weight, so it is true whatever the walk did. In a tree a slice is closed by
its parent's multipliers where they are enough; else it is solved from the parent's weights, or from its multipliers by
the dual problem, where every step is a bound, and only as far as closes it.

Source: Rockafellar, R. T. and Uryasev, S. (2000), Optimization of conditional value-at-risk, Journal of Risk 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask, Point
from portfolio_ebm.construction.exact.duality import Box, tail_duals
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.exact.pieces import Tail
from portfolio_ebm.construction.exact.vertices import STEEP, Hinges, descend, dual

SHARE, MORE = 2.0, 40
"""A new pool: so many times the scenarios of the tail, and so many more."""
WALL = 1e4
SPARE = 1.3
"""Room for scenarios that come in later, so that not all are copied each time."""
ROUNDS = 20
ROWS = 64
"""Room for elements of rules in front of the scenarios."""
STEPS = 400
ASKED = 40
"""Names at rest that are asked first whether they would move, by their prices."""
FEW, MANY = 16, 500
"""From a parent, so few names that may move, and more scenarios of the pool, are solved for from above."""
ROUNDING = 1e-12
"""By how much weights of the dual problem may be out of their box."""


def solvable(formula: Formula) -> bool:
    """Whether the formula is one tail and a linear part: what this file solves."""
    return formula.exact and len(formula.tails) == 1 and formula.curve is None and not formula.smooth


@dataclass(frozen=True, kw_only=True)
class TailPoint(Point):
    """A `Point` from which the slices below it are solved.

    Attributes:
        rows: of the slice, (m, n), and pulls: their multipliers in the pool's units, (m,).
        shares: multipliers of the scenarios that were in the pool, in its order.
    """

    rows: Array
    pulls: Array
    shares: Array


@dataclass(frozen=True)
class Given:
    """The problem of a slice, the row of each element that stands for a rule, and the entries of (w, t) in it."""

    problem: Hinges
    row: Ints
    names: Ints

    def all_names(self, z: Array, n: int) -> Array:
        """(w, t) with zeros for the names left out."""
        found = np.zeros(n + 1)
        found[self.names] = z
        return found

    def split(self, pulls: Array) -> Array:
        """Multipliers of rows as those of the elements: an element of one side takes no other sign."""
        k = len(self.row)
        return np.clip(pulls[self.row], self.problem.low[:k], self.problem.high[:k])


@dataclass
class Pool:
    """Scenarios that matter, as elements of a Hinges; it grows while slices are solved.

    Attributes:
        formula: one tail and a linear part.
        kept: the scenarios in it, in the order of their elements.
        last: the last minimum found, (n,): where a walk begins that is given no start.
    """

    formula: Formula
    kept: Ints = field(init=False)
    last: Array | None = None

    def __post_init__(self) -> None:
        tail = self.tail
        self.by_name = np.ascontiguousarray(tail.losses.T)
        self.unit = max(float(np.abs(tail.losses).mean()), 1e-300)
        self.empty()

    def empty(self) -> None:
        """Take all scenarios out, those of a start that was far off; they come in as they are met."""
        self.kept = np.zeros(0, dtype=np.int64)
        self.inside = np.zeros(len(self.tail.losses), dtype=bool)
        self._elements = np.zeros((ROWS, self.formula.n + 1))
        self._columns = np.zeros((self.formula.n + 1, ROWS))

    @property
    def tail(self) -> Tail:
        return self.formula.tails[0]

    def losses(self, w: Array) -> Array:
        """Of every scenario, (S,)."""
        at = np.flatnonzero(w)
        return np.asarray(w[at] @ self.by_name[at])

    def take_in(self, scenarios: Ints) -> None:
        """Add scenarios that are not in the pool."""
        old = ROWS + len(self.kept)
        self.kept = np.concatenate([self.kept, scenarios])
        new = ROWS + len(self.kept)
        if new > len(self._elements):
            room = int(SPARE * new)
            elements, columns = np.zeros((room, self.formula.n + 1)), np.zeros((self.formula.n + 1, room))
            elements[:old], columns[:, :old] = self._elements[:old], self._columns[:, :old]
            self._elements, self._columns = elements, columns
        self._elements[old:new, :-1] = self.tail.losses[scenarios] / self.unit
        self._elements[old:new, -1] = -1.0
        self._columns[:, old:new] = self._elements[old:new].T
        self.inside[scenarios] = True

    def hinges(self, box: Box, idle: Mask) -> Given | None:
        """The problem of a box with rows; None where there are too many. `idle` (n,) are names that rest at zero."""
        equal = box.row_upper - box.row_lower <= 1e-14
        above = np.isfinite(box.row_upper)
        below = np.isfinite(box.row_lower) & ~equal
        row = np.concatenate([np.flatnonzero(above), np.flatnonzero(below)])
        k, n = len(row), self.formula.n
        if k > ROWS:
            return None
        first = ROWS - k
        self._elements[first:ROWS, :n] = box.rows[row]
        self._columns[:n, first:ROWS] = box.rows[row].T
        size = k + len(self.kept)
        offsets, low, high = np.zeros(size), np.zeros(size), np.full(size, 1.0 / self.tail.count)
        ups = int(above.sum())
        offsets[:k] = np.concatenate([box.row_upper[above], box.row_lower[below]])
        low[:k] = np.where(equal[row], -WALL, 0.0)
        low[ups:k] = -WALL
        high[:ups], high[ups:k] = WALL, 0.0
        slope = np.append(self.formula.linear / (self.tail.coefficient * self.unit), 1.0)
        # Where few names are idle they are not worth a copy without them.
        names = np.append(np.flatnonzero(~idle), n)
        elements, columns = self._elements[first : first + size], self._columns[:, first : first + size]
        if 2 * len(names) > n:
            names = np.arange(n + 1)
        else:
            elements, columns = elements[:, names], columns[names]
        problem = Hinges(
            slope[names], np.append(box.lower, -np.inf)[names], np.append(box.upper, np.inf)[names], elements, columns,
            offsets, low, high, np.arange(size) < k, WALL,
        )  # fmt: skip
        return Given(problem, row, names)

    def minimum(
        self, box: Box, start: Array | None, parent: TailPoint | None = None, enough: float = np.inf
    ) -> TailPoint | None:
        """The minimum over the box and its rows from a point nearby, (n,); None where the walk does not end at one.

        Args:
            start: None for the last minimum.
            parent: the minimum of a slice that differs in some bounds: from its multipliers the bound rises by steps.
            enough: a slice whose bound is at least this is not solved further.
        """
        start = self.last if start is None else start
        found = None if parent is None or start is None else self._from_parent(box, start, parent, enough)
        if found is None and start is not None:
            found = self._from_above(box, start, _empty(box))
        if found is not None and np.isfinite(found.value):
            self.last = found.weights
        return found

    def _from_parent(self, box: Box, start: Array, parent: TailPoint, enough: float) -> TailPoint | None:
        """By the shorter way. Few names, or many scenarios that may trade places: from above; else from below, where
        one step passes many names and the walk ends with what is enough."""
        pulls = _matched(parent, box.rows)
        bound = self._at_parent(box, parent, pulls)
        if bound >= enough:
            return replace(parent, value=np.inf, bound=bound)
        if int((box.upper > box.lower).sum()) <= FEW:
            return self._from_above(box, start, _empty(box))
        if len(self.kept) > MANY:
            return self._from_above(box, start, _idle(box, parent))
        return self._from_below(box, parent, pulls, enough)

    def _from_above(self, box: Box, start: Array, idle: Mask) -> TailPoint | None:
        """By the problem itself, without the names that are `idle` for as long as none of them would move."""
        near = start
        if not len(self.kept):
            self._take_worst(self.losses(near))
        for _ in range(ROUNDS):
            given = self.hinges(box, idle)
            if given is None:
                return None
            found = descend(given.problem, np.append(near, self._quantile(near))[given.names], STEPS)
            if found is None:
                return None
            z = given.all_names(found.z, self.formula.n)
            near = z[:-1]
            loss = self.losses(near)
            if self._widened(loss, z[-1]):
                continue
            point = self._point(box, near, found.multipliers, given.row, loss)
            eager = idle & (point.prices < -STEEP * self.tail.coefficient * self.unit) & (box.upper > 0.0)
            if not eager.any():
                return point
            idle = idle & ~eager
        return None

    def _from_below(self, box: Box, parent: TailPoint, pulls: Array, enough: float) -> TailPoint | None:
        """By the dual problem; None too where its weights are not in the box, or a name has no ends."""
        if not (np.isfinite(box.lower) & np.isfinite(box.upper)).all():
            return None
        shares, idle = parent.shares, _idle(box, parent)
        unit, floor = self.tail.coefficient * self.unit, enough
        for _ in range(ROUNDS):
            given = self.hinges(box, idle)
            if given is None:
                return None
            k, problem = len(given.row), given.problem
            y = np.zeros(len(problem.offsets))
            y[:k], y[k : k + len(shares)] = given.split(pulls), shares
            found = descend(dual(problem), y, STEPS, -floor / unit)
            if found is None:
                return None
            bound, slope = self._below(box, found.z, given.row)
            pulls, shares = _joined(given.row, found.z[:k], len(box.rows)), found.z[k:]
            if bound >= enough:
                return TailPoint(parent.weights, np.inf, slope, bound, rows=box.rows, pulls=pulls, shares=shares)
            if not found.least:
                floor = np.inf
                continue
            eager = idle & (slope < -STEEP * unit) & (box.upper > 0.0)
            if eager.any():
                idle = idle & ~eager
                continue
            z = given.all_names(-found.multipliers, self.formula.n)
            w = np.clip(z[:-1], box.lower, box.upper)
            if np.abs(w - z[:-1]).max() > ROUNDING:
                return None
            loss = self.losses(w)
            if not self._widened(loss, z[-1]):
                return self._point(box, w, found.z, given.row, loss)
        return None

    def _at_parent(self, box: Box, parent: TailPoint, pulls: Array) -> float:
        """The bound that the parent's own multipliers give, -inf where its rows are not all here."""
        if np.count_nonzero(pulls) != np.count_nonzero(parent.pulls):
            return -np.inf
        return self._least(box, parent.prices, self.tail.coefficient * self.unit * pulls)

    def _least(self, box: Box, slope: Array, duals: Array) -> float:
        """The least of a slope with the rows' multipliers in it over the box."""
        on = duals != 0.0
        support = float(duals[on] @ np.where(duals > 0.0, box.row_upper, box.row_lower)[on])
        ends = np.where(slope > 0.0, box.lower, box.upper)
        return float((slope * np.where(slope == 0.0, 0.0, ends)).sum()) - support

    def _widened(self, loss: Array, quantile: float) -> bool:
        """Whether scenarios beyond the quantile were left out; they are taken in."""
        beyond = (loss > self.unit * quantile + 1e-12 * self.unit) & ~self.inside
        if beyond.any():
            self.take_in(np.flatnonzero(beyond))
        return bool(beyond.any())

    def _take_worst(self, loss: Array) -> None:
        count = min(int(SHARE * self.tail.count) + MORE, len(loss))
        self.take_in(np.argpartition(-loss, count - 1)[:count])

    def _quantile(self, w: Array) -> float:
        """The loss that `count` scenarios of the pool exceed, in units."""
        at = np.flatnonzero(w)
        loss = w[at] @ self._columns[at, ROWS : ROWS + len(self.kept)]
        place = min(int(self.tail.count), len(loss) - 1)
        return -float(np.partition(-loss, place)[place])

    def _below(self, box: Box, multipliers: Array, row: Ints) -> tuple[float, Array]:
        """The dual bound of the problem's multipliers and its slope in the weights, (n,)."""
        f, tail, c, k = self.formula, self.tail, self.tail.coefficient, len(row)
        q, carried = np.zeros(len(self.kept)), np.flatnonzero(multipliers[k:])
        q[: len(multipliers) - k][carried] = tail_duals(tail, c * multipliers[k:][carried])
        duals = np.zeros(len(box.rows))
        np.add.at(duals, row, c * self.unit * multipliers[:k])
        duals = np.where(
            (duals > 0.0) & np.isfinite(box.row_upper),
            duals,
            np.where((duals < 0.0) & np.isfinite(box.row_lower), duals, 0.0),
        )
        pull = self.unit * (q @ self._elements[ROWS : ROWS + len(q), :-1])
        slope = f.linear + pull + duals @ box.rows
        return self._least(box, slope, duals), slope

    def _point(self, box: Box, w: Array, multipliers: Array, row: Ints, loss: Array) -> TailPoint:
        """The vertex with its value, prices and true bound."""
        bound, slope = self._below(box, multipliers, row)
        value, k = float(self.formula.linear @ w) + self.tail.coefficient * worst_mean(loss, self.tail.count), len(row)
        return TailPoint(
            w, value, slope, min(bound, value) if np.isfinite(bound) else -np.inf, rows=box.rows,
            pulls=_joined(row, multipliers[:k], len(box.rows)), shares=multipliers[k:],
        )  # fmt: skip


def _empty(box: Box) -> Mask:
    """Names that cannot be held, (n,)."""
    return np.asarray((box.lower == 0.0) & (box.upper == 0.0))


def _idle(box: Box, parent: TailPoint) -> Mask:
    """Names that rest at zero and, by the parent's prices, will not move first, (n,)."""
    resting = (box.lower == 0.0) & (parent.weights == 0.0)
    dear = np.where(resting, parent.prices, -np.inf)
    dear[np.argsort(dear)[: min(int((~resting).sum()) + ASKED, len(dear))]] = -np.inf
    return _empty(box) | (dear > 0.0)


def _joined(row: Ints, pulls: Array, rows: int) -> Array:
    """Multipliers of elements as those of their rows, (m,)."""
    return np.asarray(np.bincount(row, pulls, rows), dtype=np.float64)


def _matched(parent: TailPoint, rows: Array) -> Array:
    """The parent's multipliers of these rows, (m,), zero for those that it did not have."""
    if np.array_equal(parent.rows, rows):
        return parent.pulls
    known = {row.tobytes(): pull for row, pull in zip(parent.rows, parent.pulls.tolist(), strict=True)}
    return np.array([known.get(row.tobytes(), 0.0) for row in rows], dtype=np.float64)


def worst_mean(loss: Array, count: float) -> float:
    """The mean of the `count` largest entries, the last one by its fraction."""
    whole = min(int(count), len(loss))
    worst = np.sort(np.partition(loss, len(loss) - min(whole + 1, len(loss)))[-min(whole + 1, len(loss)) :])[::-1]
    total = float(worst[:whole].sum())
    return (total + (count - whole) * float(worst[whole]) if whole < len(worst) else total) / count
