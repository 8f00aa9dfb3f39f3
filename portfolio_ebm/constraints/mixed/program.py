"""The convex quadratic program behind every choice, solved on the names that matter.

    min 1/2 w'Qw + c'w + rate sum |w - held|   over   lower <= w <= upper,   row_lower <= A w <= row_upper,
                                                      sum |w - held| <= turnover

Most names end on a bound or, under a cost or a cap of trading, on what is held. So the program is solved on a few free
names by an active set, all others resting; then every name is priced, d = Q w + c - A'v, and those whose price
says that they would move join in. Where none would, that is the minimum over all names. A kink at `held` is a bound
that may be passed: names change sides where the price on the other side says so, which never raises the energy.

Source: Desaulniers, G., Desrosiers, J. and Solomon, M. (2005), Column Generation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from portfolio_ebm.constraints import active_set
from portfolio_ebm.constraints.mixed.linear import linear_minimum
from portfolio_ebm.constraints.mixed.lost import lost

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Cut = tuple[Array, float, float]
"""A row (n,), its least and its most."""

FEASIBLE = 1e-10
TOLERANCE = 1e-9
"""A limit this near is met, and binds."""
PRICE = 1e-10
"""A name whose price is below this, relative to the largest slope, has no reason to move."""
ALL_AT_ONCE = 48
"""Up to so many names the whole program is one call."""
JOIN, ROUNDS = 24, 200
"""Names that join in one round, and rounds."""
CONE = {cp.OPTIMAL: 1e-9, cp.OPTIMAL_INACCURATE: 1e-4}
"""What Clarabel's minimum may be above the true one, relative to the energy or the largest slope, by what it says."""
ROUNDING = 1e-13


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

    @cached_property
    def diagonal(self) -> Array:
        return np.ascontiguousarray(self.matrix.diagonal())

    @cached_property
    def scale(self) -> float:
        """The largest slope a unit of weight can have: what prices are compared with."""
        return max(float(np.abs(self.matrix).max()), float(np.abs(self.linear).max()), float(np.max(self.rate)), 1e-300)

    def slope(self, w: Array) -> Array:
        """Q w + c, from the names that are not zero."""
        at = w.nonzero()[0]
        if 2 * len(at) > len(w):
            return np.asarray(self.matrix @ w + self.linear)
        return np.asarray(w[at] @ self.matrix[at] + self.linear)

    def value(self, w: Array) -> float:
        smooth = float(0.5 * w @ (self.slope(w) + self.linear))
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
        """
        if crossed(lower, upper) or crossed(row_lower, row_upper):
            return None
        slice_ = Slice(self, lower, np.maximum(lower, upper), rows, row_lower, row_upper)
        found = (_kinked if self.kinked else _plain)(slice_, weights_of(start))
        # The active set may fail on a degenerate slice: it is empty only where a linear program says so too.
        return found if found is not None or _empty(slice_) else _by_cone(slice_)


@dataclass(frozen=True)
class Point:
    """The minimum of a program on one slice.

    Attributes:
        weights: (n,).
        value: the energy there.
        prices: Q w + c - A'v, what each name would change the energy by, costs of trading left out, (n,).
        bound: no point of the slice is below this.
        cuts: rows beside the program's own that hold with equality, which every part of the slice has too.
        toll: what a unit traded costs, the multiplier of the turnover cap included, of all names or (n,).
        price, open: for parts of the slice, that of a limit on numbers (perspective.py) and the modes (U, M) left.
    """

    weights: Array
    value: float
    prices: Array
    bound: float
    cuts: tuple[Cut, ...] = ()
    toll: float | Array = 0.0
    price: float | None = None
    open: Mask | None = None


@dataclass(frozen=True)
class Slice:
    program: Program
    lower: Array
    upper: Array
    rows: Array
    low: Array
    high: Array

    def rest(self, near: Array | float) -> Array:
        return np.minimum(np.maximum(near, self.lower), self.upper)


@dataclass(frozen=True)
class Solved:
    weights: Array
    duals: Array
    prices: Array


def weights_of(start: Array | Point | None) -> Array | None:
    return start.weights if isinstance(start, Point) else start


def crossed(low: Array, high: Array) -> bool:
    """Whether some lower end is above its upper end by more than rounding."""
    return bool((low > high + FEASIBLE).any())


def _empty(s: Slice) -> bool:
    """Whether the slice has no point: by one row alone, or by a linear program."""
    ends = np.where(s.rows > 0.0, s.lower, s.upper), np.where(s.rows > 0.0, s.upper, s.lower)
    with np.errstate(invalid="ignore"):
        least, most = (np.where(s.rows == 0.0, 0.0, s.rows * end).sum(axis=1) for end in ends)
    if ((least > s.high + FEASIBLE) | (most < s.low - FEASIBLE)).any():
        return True
    return least_traded(s) is None


def _by_cone(s: Slice) -> Point | None:
    """The minimum by Clarabel, bounded by its dual; None where it finds none either."""
    p, w, scale = s.program, cp.Variable(s.program.n), 1.0 / s.program.scale
    low, high = np.isfinite(s.low), np.isfinite(s.high)
    box = [w[at] >= end[at] if k == 0 else w[at] <= end[at]
           for k, end in enumerate((s.lower, s.upper)) if (at := np.flatnonzero(np.isfinite(end))).size]  # fmt: skip
    rules = [*box, s.rows[low] @ w >= s.low[low], s.rows[high] @ w <= s.high[high]]
    energy = 0.5 * cp.quad_form(w, cp.psd_wrap(scale * p.matrix)) + (scale * p.linear) @ w
    if p.held is not None and p.kinked:
        away = cp.abs(w - p.held)
        energy = energy + (scale * p.rate * np.ones(p.n)) @ away
        rules += [cp.sum(away) <= p.turnover] if np.isfinite(p.turnover) else []
    problem = cp.Problem(cp.Minimize(energy), rules)
    try:
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    except cp.error.SolverError:
        return None
    if w.value is None:
        return None
    weights = _snapped(np.asarray(w.value), s.lower, s.upper)
    value = p.value(weights)
    return Point(weights, value, p.slope(weights), value - CONE.get(problem.status, np.inf) * max(abs(value), p.scale))


def _plain(s: Slice, start: Array | None) -> Point | None:
    found = by_columns(s, s.program.linear, s.rest(0.0), None if start is None else start != 0.0)
    if found is None:
        return None
    value = s.program.value(found.weights)
    return Point(found.weights, value, found.prices, value - lost(s, found))


def _kinked(s: Slice, start: Array | None) -> Point | None:
    """Every name on one side of what is held; sides change while prices say so."""
    p = s.program
    assert p.held is not None
    held = s.rest(p.held)
    side = np.where((held < s.upper) & (held >= p.held), 1.0, -1.0)
    if start is not None:
        side = np.where(start > p.held, 1.0, np.where(start < p.held, -1.0, side))
    side = _feasible_side(s, side)
    moving = None if start is None else start != p.held
    best: Solved | None = None
    way, toll, whole = side, p.rate, s
    for _ in range(ROUNDS):
        up = side > 0
        lower = np.where(up, np.maximum(s.lower, np.minimum(p.held, s.upper)), s.lower)
        upper = np.where(up, s.upper, np.minimum(s.upper, np.maximum(p.held, s.lower)))
        part = replace(s, lower=lower, upper=upper)
        if np.isfinite(p.turnover):
            part = replace(
                part, rows=np.vstack([s.rows, side]), low=np.append(s.low, -np.inf),
                high=np.append(s.high, p.turnover + float(side @ p.held)),
            )  # fmt: skip
        found = by_columns(part, p.linear + p.rate * side, part.rest(p.held), moving)
        if found is None:
            if best is not None:
                break
            # No point on these sides; all of the box tells whether there is one on others.
            away = least_traded(s)
            if away is None:
                return None
            side = np.where(away > p.held, 1.0, np.where(away < p.held, -1.0, side))
            if np.array_equal(side > 0, up):
                return None
            continue
        best, way, whole = found, np.where(up, 1.0, -1.0), replace(part, lower=s.lower, upper=s.upper)
        toll = p.rate - (float(found.duals[-1]) if np.isfinite(p.turnover) else 0.0)
        on = found.weights == p.held
        wrong = on & (s.lower < p.held) & up & (found.prices > 2 * toll + PRICE * p.scale)
        wrong |= on & (s.upper > p.held) & ~up & (found.prices < -2 * toll - PRICE * p.scale)
        if not wrong.any():
            break
        side = np.where(wrong, -side, side)
        moving = (found.weights != p.held) | wrong
    if best is None:
        return None
    value, turn = p.value(best.weights), 2.0 * toll * (best.weights == p.held)
    across = best.prices + turn * (way < 0.0), best.prices - turn * (way > 0.0)
    return Point(best.weights, value, best.prices - toll * way, value - lost(whole, best, across), toll=toll)


def _feasible_side(s: Slice, side: Array) -> Array:
    """Sides that are possible: a name that must be above what is held is above it."""
    assert s.program.held is not None
    return np.where(s.lower >= s.program.held, 1.0, np.where(s.upper <= s.program.held, -1.0, side))


def least_traded(s: Slice) -> Array | None:
    """A point of the slice with the least trading, (n,), by a linear program; None where there is none."""
    p, n = s.program, s.program.n
    held = np.zeros(n) if p.held is None else p.held
    eye, equal = np.eye(n), s.high - s.low <= 1e-14
    above, below = ~equal & np.isfinite(s.high), ~equal & np.isfinite(s.low)
    wide = np.hstack([s.rows, np.zeros((len(s.rows), n))])
    left = np.vstack([wide[above], -wide[below], np.hstack([eye, -eye]), np.hstack([-eye, -eye])])
    right = np.concatenate([s.high[above], -s.low[below], held, -held])
    bounds = np.vstack([np.column_stack([s.lower, s.upper]), np.column_stack([np.zeros(n), np.full(n, np.inf)])])
    found = linprog(
        np.r_[np.zeros(n), np.ones(n)], A_ub=left, b_ub=right, A_eq=wide[equal] if equal.any() else None,
        b_eq=s.high[equal] if equal.any() else None, bounds=bounds, method="highs",
    )  # fmt: skip
    if found.status != 0 or found.fun > p.turnover + 1e-9:
        return None
    return np.asarray(found.x[:n])


def by_columns(s: Slice, linear: Array, rest: Array, likely: Mask | None) -> Solved | None:
    """Solve, price, let the names that would move join in, until none would."""
    movable = s.upper > s.lower
    if int(movable.sum()) <= ALL_AT_ONCE:
        return _solve(s, linear, movable, rest)
    free = movable & (rest != s.rest(0.0 if s.program.held is None else s.program.held))
    if likely is not None:
        free = free | (movable & likely)
    if not free.any() or int(free.sum()) > 4 * ALL_AT_ONCE:
        free = _cheapest(np.where(movable, s.program.slope(rest) + linear - s.program.linear, np.inf), JOIN)
    tolerance = PRICE * s.program.scale
    for _ in range(ROUNDS):
        found = _solve(s, linear, free, rest)
        waiting = movable & ~free
        if found is None:
            # The names asked so far cannot meet the rows; ask for more of those that reach furthest.
            if not waiting.any():
                return None
            free = free | _reaching(s, free, waiting)
            continue
        up = waiting & (rest < s.upper) & (found.prices < -tolerance)
        down = waiting & (rest > s.lower) & (found.prices > tolerance)
        if not (up | down).any():
            return found
        free = free | _cheapest(np.where(up | down, -np.abs(found.prices), np.inf), JOIN)
    return _solve(s, linear, movable, rest)


def _cheapest(price: Array, count: int) -> Mask:
    """The `count` lowest finite entries."""
    found, size = np.zeros(len(price), dtype=bool), min(count, int(np.isfinite(price).sum()))
    if size:
        found[np.argpartition(price, size - 1)[:size]] = True
    return found


def _reaching(s: Slice, free: Mask, waiting: Mask) -> Mask:
    """Names whose range moves the rows most; twice as many at every asking, since doubling ends soon."""
    reach = np.abs(s.rows).sum(axis=0) * np.where(np.isfinite(s.upper - s.lower), s.upper - s.lower, 1.0) + 1e-12
    return _cheapest(np.where(waiting, -reach, np.inf), max(JOIN, 2 * int(free.sum())))


def _solve(s: Slice, linear: Array, free: Mask, rest: Array) -> Solved | None:
    """The minimum with the names of `free` moving and all others resting."""
    p, at = s.program, free.nonzero()[0]
    w = rest.copy()
    w[at] = 0.0
    moved = s.rows @ w
    low, high = s.low - moved, s.high - moved
    body = s.rows[:, at]
    live = (body != 0.0).any(axis=1)
    if (low[~live] > FEASIBLE).any() or (high[~live] < -FEASIBLE).any():
        return None
    duals = np.zeros(len(s.rows))
    if len(at):
        pull = (p.slope(w) - p.linear)[at] if w.any() else 0.0
        curve = p.matrix if len(at) == p.n else p.matrix[at[:, None], at]
        found = _quadratic(curve, linear[at] + pull, (s.lower[at], s.upper[at]), body[live], (low[live], high[live]))
        if found is None:
            return None
        w[at] = _snapped(found[0], s.lower[at], s.upper[at])
        duals[live] = found[1]
    return Solved(w, duals, p.slope(w) - p.linear + linear - duals @ s.rows)


def _snapped(w: Array, lower: Array, upper: Array) -> Array:
    """w in its box, and on an end of it where it is there but for rounding."""
    return np.where(w >= upper - ROUNDING, upper, np.where(w <= lower + ROUNDING, lower, w))


def _quadratic(
    curve: Array, slope: Array, box: tuple[Array, Array], rows: Array, ends: tuple[Array, Array]
) -> tuple[Array, Array] | None:
    """(x, multipliers of the rows, positive at lower ends); None where no minimum was found."""
    found = active_set.minimum(curve, slope, box, rows, ends)
    if found is active_set.Failure.FLAT:
        return linear_minimum(slope, rows, box, *ends)
    return None if isinstance(found, active_set.Failure) else (found.x, -found.rows)
