"""A slice whose energy has a kink, or whose trades a cap, at what is held.

A kink is a bound that may be passed: every name stands on one side of what is held, and names change sides where the
price on the other side says so, which never raises the energy. Where trades cost nothing and their cap does not bind
there is no kink, and prices at what is held, on one side and on the other, may send a name to and fro without end; so
what is best without the cap is looked at first.

Source: Bertsekas, D. P. (1998), Network Optimization, chapter 9, for separable costs in pieces.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portfolio_ebm.constraints.mixed.programs.columns import by_columns, smooth
from portfolio_ebm.constraints.mixed.programs.linear import least_traded
from portfolio_ebm.constraints.mixed.programs.lost import lost
from portfolio_ebm.constraints.mixed.programs.slice import FEASIBLE, PRICE, ROUNDS, Array, Point, Slice, Solved


def from_sides(s: Slice, start: Array | None) -> Point | None:
    """The minimum, by sides that change while prices say so, first those of `start` (n,); None where none was found."""
    p = s.program
    assert p.held is not None
    if not np.any(p.rate):
        free = smooth(s, s.rest(p.held), None if start is None else start != p.held)
        if free is not None and float(np.abs(free.weights - p.held).sum()) <= p.turnover:
            return free
        start = start if free is None else free.weights
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
        on = np.abs(found.weights - p.held) <= FEASIBLE
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
