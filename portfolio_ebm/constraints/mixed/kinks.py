"""A sum of kinked weights under a cap, solved on the sides of its kinks: 5/10/40 and its like relaxed.

    min 1/2 w'Qw + c'w   over a slice and   sum_j k_j max(w_j - b_j, 0) + sum_i w_i <= cap,   i decided, j open

Every weight stands on one side of its kink, where the cap is one row; a weight at its kink changes sides where the
price on the other one says so. The point before stays feasible, so the energy never rises, and where no weight would
change sides the point is the minimum over all of them. Cuts reach it too, but one by one for every weight at its kink.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.columns import by_columns
from portfolio_ebm.constraints.mixed.lost import lost
from portfolio_ebm.constraints.mixed.slice import PRICE, Array, Ints, Mask, Point, Slice, crossed

ROUNDS = 12
"""Changes of sides before cuts are asked after all: where points are degenerate sides may change in a circle."""


@dataclass(frozen=True)
class Kinks:
    """The cap's weights: `names` (k,), which of them count from the kink at `place` with `slope`, which count whole
    (`decided`), and the cap."""

    names: Ints
    open: Mask
    decided: Mask
    place: Array
    slope: Array
    cap: float


def on_sides(s: Slice, kinks: Kinks, near: Array) -> Point | None:
    """The minimum under the cap, from the sides of a point `near` (n,); None where it was not reached."""
    p, at, b = s.program, kinks.names, kinks.place
    low, high = np.append(s.low, -np.inf), np.append(s.high, kinks.cap)
    above = kinks.open & (near[at] > b)
    likely = near != 0.0
    for _ in range(ROUNDS):
        lower, upper, row = s.lower.copy(), s.upper.copy(), np.zeros(p.n)
        below = kinks.open & ~above
        lower[at[above]] = np.maximum(lower[at[above]], b[above])
        upper[at[below]] = np.minimum(upper[at[below]], b[below])
        row[at[kinks.decided]], row[at[above]] = 1.0, kinks.slope[above]
        high[-1] = top = kinks.cap + float((kinks.slope * b)[above].sum())
        if crossed(lower, upper):
            return None
        part = Slice(p, lower, np.maximum(lower, upper), np.concatenate((s.rows, row[None])), low, high)
        found = by_columns(part, p.linear, part.rest(0.0), likely)
        if found is None or lost(part, found) > 0.0:
            return None
        w, price = found.weights, found.prices[at]
        # What leaving the kink upwards costs beside the slope below it: the cap's multiplier is -duals[-1].
        toll, least = -found.duals[-1] * kinks.slope, PRICE * p.scale
        here = kinks.open & (w[at] == b)
        wrong = here & above & (s.lower[at] < b) & (price - toll > least)
        wrong |= here & below & (s.upper[at] > b) & (price + toll < -least)
        if not wrong.any():
            value = p.value(w)
            cuts = ((row, -np.inf, top),) if row @ w >= top - PRICE else ()
            return Point(w, value, found.prices, value, cuts)
        above, likely = above ^ wrong, w != 0.0
    return None
