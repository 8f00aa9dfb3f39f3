"""A sum of kinked weights under a cap, solved on the sides of its kinks: 5/10/40 and its like relaxed.

    min 1/2 w'Qw + c'w   over a slice and   sum_j k_j max(w_j - b_j, 0) + sum_i w_i <= cap,   i decided, j open

Every weight stands on one side of its kink, where the cap is one row; a weight at its kink changes sides where the
price on the other one says so. The point before stays feasible, so the energy never rises, and where no weight would
change sides the point is the minimum over all of them. Cuts reach it too, but one by one for every weight at its kink.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.mixed.programs.columns import by_columns
from portfolio_ebm.constraints.mixed.programs.lost import lost
from portfolio_ebm.constraints.mixed.programs.slice import PRICE, TOLERANCE, Array, Ints, Mask, Point, Slice, crossed

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

    @classmethod
    def of(cls, choices: Choices, limit: Limit) -> Kinks:
        """The cap that a limit on masses is on its units, of one name and two modes each, all modes open."""
        (mine,), (other,) = limit.modes, limit.others(2)
        low, high = (limit.own(ends) for ends in (choices.upper[:, other], choices.upper[:, mine]))
        open_ = limit.own(choices.exists).all(axis=1) & (high > low) & np.isfinite(high)
        slope = np.divide(high, high - low, out=np.zeros(len(low)), where=open_)
        return cls(
            choices.only[limit.units], open_, ~limit.own(choices.exists)[:, other], np.where(open_, low, 0.0), slope,
            float(limit.most),
        )  # fmt: skip

    def among(self, mine: Mask, others: Mask) -> Kinks:
        """Of the units (k,) that may still be in the mode that counts and of those that may be in the other one."""
        return Kinks(self.names, self.open & mine & others, mine & ~others, self.place, self.slope, self.cap)

    def hold(self, w: Array) -> bool:
        """Whether w (n,) obeys the cap."""
        x = w[self.names]
        beyond = self.slope * np.maximum(x - self.place, 0.0)
        return float(np.where(self.open, beyond, x * self.decided).sum()) <= self.cap + TOLERANCE


def on_sides(s: Slice, kinks: Kinks, near: Array) -> Point | None:
    """The minimum under the cap, from the sides of a point `near` (n,); None where it was not reached."""
    p, at, b = s.program, kinks.names, kinks.place
    rows, low, high = (
        np.zeros((len(s.rows) + 1, p.n)),
        np.concatenate((s.low, (-np.inf,))),
        np.concatenate((s.high, (kinks.cap,))),
    )
    rows[:-1], row = s.rows, rows[-1]
    lower, upper = s.lower.copy(), s.upper.copy()
    low_end, high_end, constant, least = s.lower[at], s.upper[at], kinks.slope * b, PRICE * p.scale
    from_kink, to_kink = np.maximum(low_end, b), np.minimum(high_end, b)
    above = kinks.open & (near[at] > b)
    likely = near != 0.0
    for _ in range(ROUNDS):
        below = kinks.open & ~above
        lower[at], upper[at] = np.where(above, from_kink, low_end), np.where(below, to_kink, high_end)
        row[at] = np.where(above, kinks.slope, kinks.decided)
        high[-1] = top = kinks.cap + float(constant @ above)
        if crossed(lower, upper):
            return None
        part = Slice(p, lower, np.maximum(lower, upper), rows, low, high)
        found = by_columns(part, p.linear, part.rest(0.0), likely)
        if found is None or lost(part, found) > 0.0:
            return None
        w, price = found.weights, found.prices[at]
        # What leaving the kink upwards costs beside the slope below it: the cap's multiplier is -duals[-1].
        toll = -found.duals[-1] * kinks.slope
        wrong = above & (low_end < b) & (price - toll > least) | below & (high_end > b) & (price + toll < -least)
        wrong &= w[at] == b
        if not wrong.any():
            value = 0.5 * float(w @ (found.slope + p.linear))
            cuts = ((row, -np.inf, top),) if row @ w >= top - PRICE else ()
            return Point(w, value, found.prices, value, cuts)
        above, likely = above ^ wrong, w != 0.0
    return None
