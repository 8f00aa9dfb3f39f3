"""The nearest points of many slices at once, where a slice is a box, a budget and at most one cap on big positions.

    min |w - y|^2    l <= w <= u,   a <= sum w <= b,   sum of w over the big ones <= C

l, u and the big ones come from the slice's modes, each row of the batch has its own. Without the cap this is a capped
simplex. Where its point breaks the cap, the cap holds with equality, and big and small ones are capped simplexes of
their own, of C and of what that leaves of the budget.

Every other structure (units of several names, further rows and caps, turnover) is solved as a program, slice by slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.caps import Cap
from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.mixed.node import Mixed, met, on_slice
from portfolio_ebm.constraints.mixed.programs.mending import mended
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import FEASIBLE, Array, Ints, Mask, Point, Slice
from portfolio_ebm.constraints.simplex import box_budget_turnover, fill


@dataclass(frozen=True)
class Flat:
    """Rules of that kind.

    Attributes:
        choices: of single names. lower, upper: (n,). total: the range of the budget, or None.
        cap: the limit on the weight of units in some modes, or None.
    """

    choices: Choices
    lower: Array
    upper: Array
    total: tuple[float, float] | None
    cap: Limit | None

    @classmethod
    def of(cls, mixed: Mixed) -> Flat | None:
        """The rules of a mixed program; None where they are of another kind."""
        p, c = mixed.program, mixed.choices
        masses = [limit for limit in c.limits if limit.mass]
        plain = not mixed.caps and np.isinf(p.turnover) and len(p.rows) <= 1 and bool((p.rows == 1.0).all())
        if not plain or len(masses) > 1 or bool((c.size != 1).any()):
            return None
        total = (float(p.row_lower[0]), float(p.row_upper[0])) if len(p.rows) else None
        return cls(c, p.lower, p.upper, total, masses[0] if masses else None)

    def nearest(self, y: Array, modes: Ints) -> tuple[Array, Mask]:
        """The nearest points to y (m, n) of the slices of modes (m, U), and which slices have a point, (m,)."""
        c = self.choices
        there = c.unit, modes[:, c.unit]
        lower, upper = (np.repeat(end[None], len(y), axis=0) for end in (self.lower, self.upper))
        lower[:, c.name] = np.maximum(lower[:, c.name], c.lower[there])
        upper[:, c.name] = np.minimum(upper[:, c.name], c.upper[there])
        fits = self._counted(modes) & (lower <= upper + FEASIBLE).all(axis=1)
        # Bounds of a mode that is not there are infinite and turned over: such a row is left out by `fits`.
        lower[~fits], upper[~fits] = self.lower, self.upper
        at, low, high = (torch.as_tensor(x) for x in (y, lower, np.maximum(lower, upper)))
        w = box_budget_turnover(at, low, high, self.total, None, None)
        if self.cap is not None:
            names = np.zeros(c.units, dtype=np.int64)
            names[c.unit] = c.name
            big = np.zeros(y.shape, dtype=bool)
            big[:, names[self.cap.units]] = self.cap.holds(modes)
            self._capped(w, at, low, high, torch.as_tensor(big))
            fits &= np.where(big, w.numpy(), 0.0).sum(axis=1) <= self.cap.most + FEASIBLE
        if self.total is not None:
            sums = w.numpy().sum(axis=1)
            fits &= (sums >= self.total[0] - FEASIBLE) & (sums <= self.total[1] + FEASIBLE)
        return w.numpy(), fits

    def _counted(self, modes: Ints) -> Mask:
        """Which modes (m, U) obey the limits on numbers."""
        found = np.ones(len(modes), dtype=bool)
        for limit in self.choices.limits:
            if not limit.mass:
                held = limit.holds(modes).sum(axis=-1)
                found &= (held >= limit.least) & (held <= limit.most)
        return found

    def _capped(self, w: Tensor, y: Tensor, low: Tensor, high: Tensor, big: Tensor) -> None:
        """Where the big ones of w (m, n) weigh too much, the nearest point with them at their cap, in place."""
        assert self.cap is not None
        most = float(self.cap.most)
        over = (w * big).sum(-1) > most
        if not bool(over.any()):
            return
        zero = torch.zeros_like(y[over])
        point, floor, top, mine = y[over], low[over], high[over], big[over]
        held = fill(point, floor.where(mine, zero), top.where(mine, zero), point.new_full((len(point),), most))
        rest = None if self.total is None else (self.total[0] - most, self.total[1] - most)
        others = box_budget_turnover(point, floor.where(~mine, zero), top.where(~mine, zero), rest, None, None)
        w[over] = held.where(mine, others)


@dataclass(frozen=True)
class Nearest(Program):
    """1/2 |w - y|^2 on slices: where the nearest point breaks a cap, the projection on all of them finds the one that
    does not, which cuts would come to from corner to corner.

    Attributes:
        caps: convex caps.
    """

    caps: tuple[Cap, ...] = ()

    @classmethod
    def to(cls, y: Array, mixed: Mixed) -> Nearest:
        p = mixed.program
        ends = p.lower, p.upper, p.rows, p.row_lower, p.row_upper
        return cls(np.eye(len(y)), -y, *ends, p.held, 0.0, p.turnover, caps=mixed.caps)

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        """As in Program, with the caps."""
        point = super().minimum(lower, upper, rows, row_lower, row_upper, start, enough)
        if point is None or met(self.caps, point.weights):
            return point
        w = mended(Slice(self, lower, upper, rows, row_lower, row_upper), self.caps, -self.linear)
        return None if w is None else replace(point, weights=w, value=self.value(w))


def nearest_one(mixed: Mixed, y: Array, modes: Ints) -> Array | None:
    """The nearest point to y (n,) of one slice, by a program; None where it is empty."""
    found = on_slice(replace(mixed, program=Nearest.to(y, mixed), caps=()), modes)
    return None if found is None else found.weights
