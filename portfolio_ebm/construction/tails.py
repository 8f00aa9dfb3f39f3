"""The least CVaR of a slice by vertices.py, on a pool of scenarios that is shared by all slices of a problem.

    min_w   m'w + c CVaR(L w)   =   min_{w, t}   m'w + c t + c / count  sum_s (L_s w - t)_+

Only scenarios that have been in or near a tail stand in the pool. A minimum over the pool is checked on all scenarios;
those in its tail that were left out are taken in, and the walk goes on. The bound is the dual one of duality.py, from
the multipliers of the scenarios that carry weight, so it is true whatever the walk did.

Source: Rockafellar, R. T. and Uryasev, S. (2000), Optimization of conditional value-at-risk, Journal of Risk 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from portfolio_ebm.constraints.mixed.program import Array, Ints, Point
from portfolio_ebm.construction.duality import Box, tail_duals
from portfolio_ebm.construction.formula import Formula
from portfolio_ebm.construction.pieces import Tail
from portfolio_ebm.construction.vertices import Hinges, Vertex, descend

SHARE, MORE = 2.0, 40
"""A new pool: so many times the scenarios of the tail, and so many more."""
WALL = 1e4
ROUNDS = 20
ROWS = 64
"""Room for elements of rules in front of the scenarios."""
STEPS = 400


def solvable(formula: Formula) -> bool:
    """Whether the formula is one tail and a linear part: what this file solves."""
    return formula.exact and len(formula.tails) == 1 and formula.curve is None and not formula.smooth


@dataclass
class Pool:
    """Scenarios that matter, as elements of a Hinges; it grows while slices are solved.

    Attributes:
        formula: one tail and a linear part.
        kept: the scenarios in it, in the order of their elements.
    """

    formula: Formula
    kept: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        tail = self.tail
        self.by_name = np.ascontiguousarray(tail.losses.T)
        self.unit = max(float(np.abs(tail.losses).mean()), 1e-300)
        self.inside = np.zeros(len(tail.losses), dtype=bool)
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
        rows = np.empty((len(scenarios), self.formula.n + 1))
        rows[:, :-1] = self.tail.losses[scenarios] / self.unit
        rows[:, -1] = -1.0
        self._elements = np.concatenate([self._elements, rows])
        self._columns = np.ascontiguousarray(self._elements.T)
        self.kept = np.concatenate([self.kept, scenarios])
        self.inside[scenarios] = True

    def hinges(self, box: Box) -> tuple[Hinges, Ints] | None:
        """The problem of a box with rows, and the row of each rule's element; None where there are too many."""
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
        problem = Hinges(
            slope, np.append(box.lower, -np.inf), np.append(box.upper, np.inf), self._elements[first:],
            self._columns[:, first:], offsets, low, high, np.arange(size) < k, WALL,
        )  # fmt: skip
        return problem, row

    def minimum(self, box: Box, start: Array) -> Point | None:
        """The minimum over the box and its rows from a point nearby, (n,); None where the walk does not end at one."""
        near = start
        if not len(self.kept):
            self._take_worst(self.losses(near))
        for _ in range(ROUNDS):
            given = self.hinges(box)
            if given is None:
                return None
            problem, row = given
            found = descend(problem, np.append(near, self._quantile(near)), STEPS)
            if found is None:
                return None
            near = found.z[:-1]
            loss = self.losses(near)
            beyond = (loss > self.unit * found.z[-1] + 1e-12 * self.unit) & ~self.inside
            if not beyond.any():
                return self._point(box, found, row, loss)
            self.take_in(np.flatnonzero(beyond))
        return None

    def _take_worst(self, loss: Array) -> None:
        count = min(int(SHARE * self.tail.count) + MORE, len(loss))
        self.take_in(np.argpartition(-loss, count - 1)[:count])

    def _quantile(self, w: Array) -> float:
        """The loss that `count` scenarios of the pool exceed, in units."""
        at = np.flatnonzero(w)
        loss = w[at] @ self._columns[at, ROWS:]
        place = min(int(self.tail.count), len(loss) - 1)
        return -float(np.partition(-loss, place)[place])

    def _point(self, box: Box, found: Vertex, row: Ints, loss: Array) -> Point:
        """The vertex with its value, prices and true bound."""
        f, tail, k = self.formula, self.tail, len(row)
        w, c = found.z[:-1], tail.coefficient
        carried = np.flatnonzero(found.multipliers[k:])
        q = tail_duals(tail, c * found.multipliers[k:][carried])
        duals = np.zeros(len(box.rows))
        np.add.at(duals, row, c * self.unit * found.multipliers[:k])
        duals = np.where(
            (duals > 0.0) & np.isfinite(box.row_upper),
            duals,
            np.where((duals < 0.0) & np.isfinite(box.row_lower), duals, 0.0),
        )
        slope = f.linear + q @ tail.losses[self.kept[carried]] + duals @ box.rows
        on = duals != 0.0
        support = float(duals[on] @ np.where(duals > 0.0, box.row_upper, box.row_lower)[on])
        ends = np.where(slope > 0.0, box.lower, box.upper)
        least = float((slope * np.where(slope == 0.0, 0.0, ends)).sum())
        value = float(f.linear @ w) + c * worst_mean(loss, tail.count)
        bound = least - support
        return Point(w, value, slope, min(bound, value) if np.isfinite(bound) else -np.inf)


def worst_mean(loss: Array, count: float) -> float:
    """The mean of the `count` largest entries, the last one by its fraction."""
    whole = min(int(count), len(loss))
    worst = np.sort(np.partition(loss, len(loss) - min(whole + 1, len(loss)))[-min(whole + 1, len(loss)) :])[::-1]
    total = float(worst[:whole].sum())
    return (total + (count - whole) * float(worst[whole]) if whole < len(worst) else total) / count
