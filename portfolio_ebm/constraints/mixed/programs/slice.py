"""A slice of a program, its minimum, and what all who solve one share: array types and tolerances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from portfolio_ebm.constraints.mixed.programs.program import Program

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
ROUNDS = 200
"""Rounds after which names are no longer asked one after the other."""
ROUNDING = 1e-13


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
    """A box and rows, (m, n), that a program's energy is minimised on."""

    program: Program
    lower: Array
    upper: Array
    rows: Array
    low: Array
    high: Array

    def holds(self, w: Array) -> bool:
        """Whether w (n,) is in the box."""
        return bool(np.count_nonzero((w < self.lower) | (w > self.upper)) == 0)

    def rest(self, near: Array | float) -> Array:
        """The point of the box nearest to `near`, (n,)."""
        return np.minimum(np.maximum(near, self.lower), self.upper)


@dataclass(frozen=True)
class Solved:
    """Weights (n,), the multipliers of the rows (m,), positive at lower ends, prices (n,) as those of `Point`, and the
    slope Q w + c."""

    weights: Array
    duals: Array
    prices: Array
    slope: Array


def weights_of(start: Array | Point | None) -> Array | None:
    """The weights (n,) of a start, which may be a solved slice with more to say."""
    return start.weights if isinstance(start, Point) else start


def crossed(low: Array, high: Array) -> bool:
    """Whether some lower end is above its upper end by more than rounding."""
    return bool(np.count_nonzero(low > high + FEASIBLE) > 0)


def snapped(w: Array, lower: Array, upper: Array) -> Array:
    """w in its box, and on an end of it where it is there but for rounding."""
    return np.where(w >= upper - ROUNDING, upper, np.where(w <= lower + ROUNDING, lower, w))
