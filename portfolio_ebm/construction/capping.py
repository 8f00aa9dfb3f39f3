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
from scipy.optimize import linprog

from portfolio_ebm.constraints.caps import Cap, Ellipsoid, Tail
from portfolio_ebm.constraints.mixed.mending import mended
from portfolio_ebm.constraints.mixed.program import Program
from portfolio_ebm.constraints.mixed.slice import Array, Point, Slice, crossed, weights_of
from portfolio_ebm.construction.duality import Box, prove
from portfolio_ebm.construction.engines import Found, interior
from portfolio_ebm.construction.inner import FormulaProgram

BEYOND = 1e-7
"""A cap whose least value on a slice is above its limit by more than this, relative to it, leaves the slice empty."""


@dataclass(frozen=True)
class CappedProgram(FormulaProgram):
    """`FormulaProgram` whose slices have the caps of `box` in them."""

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        """As in Program, with the caps of the box."""
        if crossed(lower, upper) or crossed(row_lower, row_upper):
            return None
        assert self.box is not None
        box = replace(
            self.box, lower=lower, upper=np.maximum(lower, upper), rows=rows, row_lower=row_lower, row_upper=row_upper
        )
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
        least = None if found is None else 2.0 * found.bound + float(centre @ matrix @ centre)
        return least is None or least > (cap.limit * (1.0 + BEYOND)) ** 2
    if not isinstance(cap, Tail):
        return False
    lifted, _ = cap.lifted()
    size = lifted.shape[1] - program.n
    equal, above, below = box.sides
    pad = [np.zeros((int(side.sum()), size)) for side in (equal, above, below)]
    found = linprog(
        lifted[0],
        A_ub=np.vstack([lifted[1:], np.hstack([box.rows[above], pad[1]]), np.hstack([-box.rows[below], pad[2]])]),
        b_ub=np.concatenate([np.zeros(len(lifted) - 1), box.row_upper[above], -box.row_lower[below]]),
        A_eq=np.hstack([box.rows[equal], pad[0]]) if equal.any() else None,
        b_eq=box.row_upper[equal] if equal.any() else None,
        bounds=[*zip(box.lower, box.upper, strict=True), (None, None), *[(0.0, None)] * (size - 1)],
    )  # fmt: skip
    return bool(found.status == 2 or (found.status == 0 and found.fun / cap.count > cap.limit + BEYOND * cap.unit))
