"""The convex quadratic program behind every choice.

    min 1/2 w'Qw + c'w + rate sum |w - held|   over   lower <= w <= upper,   row_lower <= A w <= row_upper,
                                                      sum |w - held| <= turnover

It is solved on the names that matter (columns.py), from side to side of what is held where that is a kink (sides.py),
and bounded by what its multipliers leave open (lost.py). What the active set calls empty is believed where a linear
program says so too (linear.py); else a cone program is asked (conic.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cvxpy as cp
import numpy as np

from portfolio_ebm.constraints.active_set import Quadratic
from portfolio_ebm.constraints.mixed.programs.columns import smooth
from portfolio_ebm.constraints.mixed.programs.conic import CONE, by_cone
from portfolio_ebm.constraints.mixed.programs.linear import is_empty
from portfolio_ebm.constraints.mixed.programs.sides import from_sides
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Point, Slice, crossed, weights_of

EPSILON = float(np.finfo(np.float64).eps)
FEW = 64
"""Names whose slope is one product."""


@dataclass(frozen=True)
class Program:
    """An energy and the convex rules that all choices share.

    Attributes:
        matrix: Q, (n, n), positive semi-definite.
        linear: c, (n,).
        lower, upper: (n,).
        rows: A, (m, n); row_lower, row_upper: (m,).
        held: (n,), where the kinks are, or None. rate: cost of a unit traded, of all names or (n,).
        turnover: cap, or infinity.
    """

    matrix: Array
    linear: Array
    lower: Array
    upper: Array
    rows: Array
    row_lower: Array
    row_upper: Array
    held: Array | None = None
    rate: float | Array = 0.0
    turnover: float = np.inf

    @property
    def n(self) -> int:
        return len(self.linear)

    @property
    def kinked(self) -> bool:
        """Whether trading costs anything or is capped."""
        return self.held is not None and (bool(np.any(self.rate)) or np.isfinite(self.turnover))

    @property
    def straight(self) -> Array:
        """The part of the energy that is linear in the weights, (n,)."""
        return self.linear

    @cached_property
    def diagonal(self) -> Array:
        return np.ascontiguousarray(self.matrix.diagonal())

    @cached_property
    def bounded(self) -> bool:
        """Whether no name's box is without an end."""
        return bool(np.isfinite(self.lower).all() and np.isfinite(self.upper).all())

    @cached_property
    def least_curvature(self) -> float:
        """The smallest eigenvalue of Q, less what rounding may make it too large by; never negative."""
        values = np.linalg.eigvalsh(self.matrix)
        return max(float(values[0]) - self.n * EPSILON * float(values[-1]), 0.0)

    @cached_property
    def scale(self) -> float:
        """The largest slope a unit of weight can have: what prices are compared with."""
        return max(float(np.abs(self.matrix).max()), float(np.abs(self.linear).max()), float(np.max(self.rate)), 1e-300)

    @cached_property
    def quadratic(self) -> Quadratic:
        """The energy of all names, but for trades, as the active set asks it."""
        return Quadratic.of(self.matrix, self.linear)

    def slope(self, w: Array) -> Array:
        """Q w + c, of many names from those that are not zero."""
        if len(w) <= FEW or 2 * np.count_nonzero(w) > len(w):
            return np.asarray(self.matrix @ w + self.linear)
        at = w.nonzero()[0]
        return np.asarray(w[at] @ self.matrix[at] + self.linear)

    def value(self, w: Array) -> float:
        smooth = 0.5 * float(w @ (self.slope(w) + self.linear))
        return smooth if self.held is None else smooth + float((self.rate * np.abs(w - self.held)).sum())

    def tight(self, w: Array) -> Array:
        """The rows that bind at w, (k, n)."""
        at = self.rows @ w
        return self.rows[(at <= self.row_lower + TOLERANCE) | (at >= self.row_upper - TOLERANCE)]

    def pull(self, point: Point) -> Array:
        """What moving a name changes the energy by, tolls included, (n,): at `held`, zero where it does not pay."""
        if self.held is None:
            return point.prices
        side = np.sign(point.weights - self.held)
        still = np.sign(point.prices) * np.maximum(np.abs(point.prices) - point.toll, 0.0)
        return np.where(side == 0.0, still, point.prices + point.toll * side)

    def bend(self, w: Array) -> tuple[Array, Array, Array]:
        """What trades cost beside the rate, its slope (part of `Point.prices`) and its curvature, by name."""
        return np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)

    def separable(self, names: Ints, z: Array) -> Array:
        """What trades z (k,) of `names` (k,) cost beside the rate."""
        return np.zeros_like(z)

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        """The minimum over a box and rows of a slice, or None where it is empty.

        Args:
            lower, upper: (n,), in place of the program's. rows, row_lower, row_upper: all rows, in place of its own.
            start: (n,), a point near the answer, or the minimum of a slice that this one is a part of.
            enough: a slice whose bound is at least this may be left unsolved: `Point.bound` alone is then what it says.

        Raises:
            SolverError: the energy falls without end.
        """
        if crossed(lower, upper) or crossed(row_lower, row_upper):
            return None
        slice_ = Slice(self, lower, np.maximum(lower, upper), rows, row_lower, row_upper)
        found = from_sides(slice_, weights_of(start)) if self.kinked else _plain(slice_, weights_of(start))
        if found is None:
            # The active set may fail on a degenerate slice: it is empty only where a linear program says so too.
            return None if is_empty(slice_) else by_cone(slice_)
        return _settled(slice_, found) if self.kinked and found.bound < enough else found


def _plain(s: Slice, start: Array | None) -> Point | None:
    return smooth(s, s.rest(0.0), None if start is None else start != 0.0)


def _settled(s: Slice, found: Point) -> Point:
    """The end of a walk from side to side; where names that stand at what is held went to and fro, which its own bound
    tells, the best of it, of Clarabel's minimum, and of a walk from there."""
    if found.value - found.bound <= 2.0 * CONE[cp.OPTIMAL] * max(abs(found.value), s.program.scale):
        return found
    other = by_cone(s)
    points = [found, other, None if other is None else from_sides(s, other.weights)]
    return min((point for point in points if point is not None), key=lambda point: point.value - point.bound)
