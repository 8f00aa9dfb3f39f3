"""One row at a time, exactly: the fallback for what the batched dual does not settle.

    minimise 1/2 |w - y|^2   over the box, the rows and the L1 balls,

by a dual active set (active_set.py), with t_i >= |w_i - a_i| where a ball has a kink.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.constraints import active_set
from portfolio_ebm.errors import InfeasibleError

Array = NDArray[np.float64]
Whole = NDArray[np.intp]

EASE = 2e-11  # how far a set is let out against rounding: a fifth of what counts as broken
_LIFT = 1e-9


@dataclass(frozen=True)
class Cut:
    """A box (n,) cut by rows (m, n) with bounds (m,) and by K balls: centres, ups, downs (K, n), radii (K,)."""

    lower: Array
    upper: Array
    rows: Array
    low: Array
    high: Array
    centres: Array
    ups: Array
    downs: Array
    radii: Array

    def eased(self, by: float = EASE) -> Cut:
        """The set let out by less than what counts as broken, so that rounding does not empty a single point."""
        return replace(self, low=self.low - by, high=self.high + by, radii=self.radii + by)

    def lifted(self) -> tuple[Array, Array, Whole, Whole]:
        """(rows over (w, t), their upper ends, owner (T,), name (T,)): t_j >= the owner's kink at the name.

        The first K rows are the balls themselves. A name whose side the box decides needs no t.
        """
        n, k = len(self.lower), len(self.radii)
        if not k:
            return np.zeros((0, n)), np.zeros(0), np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
        bent = (self.lower < self.centres) & (self.centres < self.upper) & (self.ups + self.downs > 0.0)
        owner, name = (x.astype(np.intp) for x in np.nonzero(bent))
        size = len(owner)
        side = np.where(bent, 0.0, np.where(self.centres <= self.lower, self.ups, -self.downs))
        sums = np.zeros((k, n + size))
        sums[:, :n] = side
        sums[owner, n + np.arange(size)] = 1.0
        ends = self.radii + (side * self.centres).sum(-1)
        kinks, tops = [sums], [ends]
        for slope in (self.ups[owner, name], -self.downs[owner, name]):
            live = np.flatnonzero(slope)
            block = np.zeros((len(live), n + size))
            block[np.arange(len(live)), name[live]] = slope[live]
            block[np.arange(len(live)), n + live] = -1.0
            kinks.append(block)
            tops.append(slope[live] * self.centres[owner, name][live])
        return np.concatenate(kinks), np.concatenate(tops), owner, name


def nearest(y: Array, cut: Cut, start: Array) -> tuple[Array, Array, Array] | None:
    """(w, nu, lam): the nearest point and its multipliers (m,) and (K,); None where the active set gave up.

    y (n,); `start` (n,) guesses which bounds are tight.
    Only names that may both rise and fall from a centre are lifted. Where one is, the point is exact up
    to the small curvature the lifted variables are given, so the caller refines it from the multipliers.

    Raises:
        InfeasibleError: the set is empty.
    """
    n, m, k = len(y), len(cut.rows), len(cut.radii)
    if k == 0:
        curvature, cost, matrix, primal = np.eye(n), -y, cut.rows, start
        box, ends = (cut.lower, cut.upper), (cut.low, cut.high)
    else:
        extra, tops, owner, name = cut.lifted()
        size = len(owner)
        move = start[name] - cut.centres[owner, name]
        curvature = np.diag(np.concatenate([np.ones(n), np.full(size, _LIFT)]))
        cost = np.concatenate([-y, np.zeros(size)])
        matrix = np.vstack([np.c_[cut.rows, np.zeros((m, size))], extra])
        box = np.concatenate([cut.lower, np.zeros(size)]), np.concatenate([cut.upper, np.full(size, np.inf)])
        ends = np.concatenate([cut.low, np.full(len(tops), -np.inf)]), np.concatenate([cut.high, tops])
        lifts = np.maximum(cut.ups[owner, name] * move, -cut.downs[owner, name] * move)
        primal = np.concatenate([start, lifts])
    found = active_set.minimum(curvature, cost, box, matrix, ends, primal)
    if found is active_set.Failure.EMPTY:
        raise InfeasibleError("The box, the rows and the caps on sums of sizes have no point in common.")
    if isinstance(found, active_set.Failure):
        return None
    return found.x[:n], found.rows[:m], found.rows[m : m + k]
