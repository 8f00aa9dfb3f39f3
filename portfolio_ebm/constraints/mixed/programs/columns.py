"""A slice solved on the names that matter: column generation over an active set.

Most names end on a bound or, under a cost or a cap of trading, on what is held. So a few names are solved for, all
others resting; then every name is priced, d = Q w + c - A'v, and those whose price says that they would move join in.
Where none would, that is the minimum over all names.

Source: Desaulniers, G., Desrosiers, J. and Solomon, M. (2005), Column Generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from portfolio_ebm.constraints.active_set import Failure, Quadratic
from portfolio_ebm.constraints.mixed.programs.linear import linear_minimum
from portfolio_ebm.constraints.mixed.programs.lost import lost
from portfolio_ebm.constraints.mixed.programs.slice import (
    FEASIBLE,
    PRICE,
    ROUNDS,
    Array,
    Ints,
    Mask,
    Point,
    Slice,
    Solved,
    snapped,
)

if TYPE_CHECKING:
    from portfolio_ebm.constraints.mixed.programs.program import Program

ALL_AT_ONCE = 48
"""Up to so many names the whole program is one call."""
JOIN = 24
"""Names that join in one round."""


def smooth(s: Slice, rest: Array, likely: Mask | None) -> Point | None:
    """The minimum of a slice without kinks, proven as far as its multipliers reach; arguments as those of `by_columns`,
    None where none was found."""
    found = by_columns(s, s.program.linear, rest, likely)
    if found is None:
        return None
    value = s.program.value(found.weights)
    return Point(found.weights, value, found.prices, value - lost(s, found))


def by_columns(s: Slice, linear: Array, rest: Array, likely: Mask | None) -> Solved | None:
    """Solve, price, let the names that would move join in, until none would."""
    movable = s.upper > s.lower
    if np.count_nonzero(movable) <= ALL_AT_ONCE:
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
    w, duals = np.where(free, 0.0, rest), np.zeros(len(s.rows))
    body, low, high = s.rows, s.low, s.high
    if len(at) < p.n:
        moved, body = body @ w, body[:, at]
        low, high = low - moved, high - moved
    live = np.asarray(body.any(axis=1))
    if np.count_nonzero(live) < len(live):
        if (low[~live] > FEASIBLE).any() or (high[~live] < -FEASIBLE).any():
            return None
        body, low, high = body[live], low[live], high[live]
    if len(at):
        box = s.lower[at], s.upper[at]
        found = _minimum(_quadratic(p, linear, at, w), box, body, (low, high))
        if found is None:
            return None
        w[at] = snapped(found[0], *box)
        duals[live] = found[1]
    slope = p.slope(w)
    return Solved(w, duals, slope - p.linear + linear - duals @ s.rows, slope)


def _quadratic(p: Program, linear: Array, at: Ints, w: Array) -> Quadratic:
    """The energy of the names `at` with the others at w (n,)."""
    if len(at) == p.n:
        return p.quadratic if linear is p.linear else Quadratic.of(p.matrix, linear)
    pull = linear[at] + (p.slope(w) - p.linear)[at] if w.any() else linear[at]
    return Quadratic.of(p.matrix[at[:, None], at], pull)


def _minimum(
    energy: Quadratic, box: tuple[Array, Array], rows: Array, ends: tuple[Array, Array]
) -> tuple[Array, Array] | None:
    """(x, multipliers of the rows, positive at lower ends); None where no minimum was found."""
    found = energy.minimum(box, rows, ends)
    if found is Failure.FLAT:
        return linear_minimum(energy.scale * energy.linear, rows, box, *ends)
    return None if isinstance(found, Failure) else (found.x, -found.rows)
