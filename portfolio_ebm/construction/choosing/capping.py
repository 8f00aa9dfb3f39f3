"""Slices under curved caps (a volatility, a tracking error, a CVaR), at once and not cut by cut.

    min E(w)   over box, rows and turnover of a slice, g_k(w) <= limit_k

Cutting planes come down on a curved cap from corner to corner where E has no curvature of its own: the most return at a
given volatility takes dozens of programs a slice. The interior point has the caps in it, and its multipliers prove the
slice (duality.py). Names that rest where the parent slice left them stay out until their price says that they would
move. Where there is no such minimum, the least that each cap can be on the slice alone tells an empty slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from portfolio_ebm.constraints.caps import Cap, Ellipsoid, Tail
from portfolio_ebm.constraints.mixed.programs.linear import linear_minimum
from portfolio_ebm.constraints.mixed.programs.mending import mended
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Array, Point, Slice, weights_of
from portfolio_ebm.construction.choosing.inner import FormulaProgram
from portfolio_ebm.construction.exact.duality import Box, prove
from portfolio_ebm.construction.exact.engines import Found, interior

BEYOND = 1e-7
"""A cap whose least value on a slice is above its limit by more than this, relative to it, leaves the slice empty."""
ROUNDING = 1e-13
"""What the square of a distance is known to, relative to the terms that it is left over from."""


@dataclass(frozen=True)
class CappedProgram(FormulaProgram):
    """`FormulaProgram` whose slices have the caps of `box` in them."""

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        """As in Program, with the caps of the box."""
        box = self.slice_box(lower, upper, rows, row_lower, row_upper)
        if box is None:
            return None
        found = self._at_once(box, weights_of(start))
        if found is None and any(_out_of_reach(self, box, cap) for cap in box.caps):
            return None
        return found or super().minimum(lower, upper, rows, row_lower, row_upper, start, enough)

    def _at_once(self, box: Box, start: Array | None) -> Point | None:
        """The minimum by the interior point on the names that move; None where it does not end at one."""
        movable = box.upper > box.lower + 1e-14
        if not movable.any():
            return None
        rest = np.clip(np.zeros(self.n) if self.held is None else self.held, box.lower, box.upper)
        free = movable if start is None else movable & (np.clip(start, box.lower, box.upper) != rest)
        free = free if free.any() else movable
        while True:
            part = replace(box, lower=np.where(free, box.lower, rest), upper=np.where(free, box.upper, rest))
            found = interior(self.whole, part)
            if found is None or found.duals is None:
                if free.sum() == movable.sum():
                    return None
                free = movable
                continue
            w = np.where(free, np.clip(found.weights, box.lower, box.upper), rest)
            joining = self._joining(box, movable & ~free, w, self._prices(box, w, found), found)
            if not joining.any():
                return self._point(box, w, found)
            free = free | joining

    def _point(self, box: Box, w: Array, found: Found) -> Point | None:
        assert found.duals is not None
        near = mended(Slice(self, box.lower, box.upper, box.rows, box.row_lower, box.row_upper), box.caps, w)
        if near is None:
            return None
        value, bound = self.value(near), prove(self.whole, box, w, found.duals).bound
        low = -np.inf if bound is None else min(bound - self.whole.constant, value)
        return Point(near, value, self._prices(box, w, found), low, toll=self._toll(found))

    def _prices(self, box: Box, w: Array, found: Found) -> Array:
        """The slope of E at w with what rows and caps pull by their multipliers, (n,)."""
        prices, duals = super()._prices(box, w, found), found.duals
        if duals is None:
            return prices
        for cap, dual, q in zip(box.caps, duals.caps, duals.cap_tails, strict=True):
            if isinstance(cap, Tail):
                prices = prices + cap.losses.numpy().T @ q
            else:
                prices = prices + dual * cap.slope(torch.as_tensor(w)).numpy()
        return prices


def _out_of_reach(program: Program, box: Box, cap: Cap) -> bool:
    """Whether the cap alone is above its limit on all of the box and the rows; False does not mean the opposite."""
    if isinstance(cap, Ellipsoid):
        matrix, centre = cap.matrix.dense().numpy(), cap.centre.numpy()
        square = Program(matrix, -matrix @ centre, box.lower, box.upper, box.rows, box.row_lower, box.row_upper)
        found = square.minimum(box.lower, box.upper, box.rows, box.row_lower, box.row_upper)
        # Half of g squared, less what does not depend on w.
        still = float(centre @ matrix @ centre)
        rounding = ROUNDING * still
        return found is None or 2.0 * found.bound + still > (cap.limit * (1.0 + BEYOND)) ** 2 + rounding
    if not isinstance(cap, Tail) or not cap.small:
        return False
    lifted, _ = cap.lifted()
    size, count = lifted.shape[1] - program.n, len(lifted) - 1
    rows = np.vstack([lifted[1:], np.hstack([box.rows, np.zeros((len(box.rows), size))])])
    low, high = np.r_[np.full(count, -np.inf), box.row_lower], np.r_[np.zeros(count), box.row_upper]
    wide = np.r_[box.lower, -np.inf, np.zeros(size - 1)], np.r_[box.upper, np.full(size, np.inf)]
    least_tail = linear_minimum(lifted[0], rows, wide, low, high)
    return least_tail is not None and float(lifted[0] @ least_tail[0]) / cap.count > cap.limit + BEYOND * cap.unit
