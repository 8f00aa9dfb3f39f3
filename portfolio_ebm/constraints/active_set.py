"""The one door to daqp: a convex quadratic program by a dual active set, with its tolerances and what its flags say.

    minimise 1/2 x'Hx + c'x   over   lower <= x <= upper,   low <= A x <= high

What it calls optimal is believed only where box and rows hold: on a nearly singular Hessian it may be off by one.
Where curvatures are far apart and outweigh the slope, it is asked in units in which every variable's curvature is one;
where it does not end well, again, with proximal steps throughout. That a set is empty is said to a tolerance, unproven.

Source: Arnstrom, Bemporad and Axehill (2022), A dual active-set solver for embedded quadratic programming using
recursive LDL' updates, IEEE TAC 67(8).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import daqp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EQUAL = 1e-14
"""A row or box no wider than this is an equation."""
HOLDS = 1e-10
"""By how much a row or an end may be missed, relative to the largest variable, or to one."""
_TIGHT, _LOOSE = 1e-11, 1e-10
"""daqp's own for that, first and when asked again. It measures where the curvature is one, so that flat ways miss by
more: hence the check."""
_STILL = 1e-13
"""Proximal steps end where the slope they leave, relative to the largest, is below this. daqp's default is 1e-6, which
is above the whole energy of names whose variances differ by many orders of magnitude."""
_AUTOMATIC, _THROUGHOUT = -1e-6, 1e-3
"""The curvature of proximal steps: only where a Hessian has no Cholesky factor, or always."""
_FLAT = 1e-13
"""Curvature below this share of the slopes is none."""
_STEPS = 20_000
_EQUATION = 5
"""Active and never let go."""
_SLIGHT, _APART, _CURVED = 1e-3, 1e-6, 1e-16
"""A slope that is slight beside the largest curvature; a curvature that is far from it; the least that is one."""
_OPTIMAL, _MISSED, _EMPTY = 1, 0, -1


class Failure(Enum):
    """Why there is no minimum, in a sentence."""

    EMPTY = "Box and rows have no point in common, as far as the active set can tell."
    FLAT = "The energy has no curvature beside its slope: a linear program."
    UNENDED = "The active set came to no end: the rules leave almost no room, or the energy falls without end."


class Minimum(NamedTuple):
    """x (n,) with its multipliers of the box (n,) and of the rows (m,), positive at upper ends: H x + c + z + A'y = 0.

    Box and rows hold to 1e-10, and the slope left open is below 1e-11, relative to the largest of H and c.
    """

    x: Array
    box: Array
    rows: Array


class _Program(NamedTuple):
    """H (n, n), c (n,), A (m, n), and the ends of box and rows, (n + m,)."""

    matrix: Array
    linear: Array
    rows: Array
    below: Array
    above: Array

    def holds(self, x: Array) -> bool:
        """Whether box and rows hold at x (n,), to HOLDS."""
        at = np.concatenate((x, self.rows @ x))
        missed = float(np.maximum(at - self.above, self.below - at).max())
        return missed <= HOLDS or missed <= HOLDS * float(np.abs(x).max())


def minimum(
    matrix: Array, linear: Array, box: tuple[Array, Array], rows: Array, ends: tuple[Array, Array],
    near: Array | None = None,
) -> Minimum | Failure:  # fmt: skip
    """The minimum of 1/2 x'Hx + c'x over a box (n,) and rows (m, n) between their ends (m,); why not, where none.

    Ends may be infinite. `near` (n,) guesses which of them are met.

    Example:
        >>> one, half = np.ones(2), np.array([0.5])
        >>> minimum(np.eye(2), -one, (0.0 * one, one), np.ones((1, 2)), (half, half)).x
        array([0.25, 0.25])
    """
    return Quadratic.of(matrix, linear).minimum(box, rows, ends, near)


@dataclass(frozen=True)
class Quadratic:
    """1/2 x'Hx + c'x as it is asked, H (n, n) and c (n,) over `scale`, their largest number: what programs that differ
    in box and rows share. `flat` says that it has no curvature beside its slope, `uneven` that units are evened."""

    matrix: Array
    linear: Array
    scale: float
    flat: bool
    uneven: bool

    @classmethod
    def of(cls, matrix: Array, linear: Array) -> Quadratic:
        steep, slope = float(np.abs(matrix).max()), float(np.abs(linear).max())
        scale = max(steep, slope, 1e-300)
        flat, uneven = steep <= _FLAT * max(slope, 1e-300), slope <= _SLIGHT * steep and _apart(matrix)
        return cls(np.ascontiguousarray(matrix / scale), linear / scale, scale, flat, uneven)

    def minimum(
        self, box: tuple[Array, Array], rows: Array, ends: tuple[Array, Array], near: Array | None = None
    ) -> Minimum | Failure:
        """`minimum` over a box and rows."""
        if self.flat:
            return Failure.FLAT
        p = _Program(
            self.matrix, self.linear, np.ascontiguousarray(rows), np.concatenate((box[0], ends[0])),
            np.concatenate((box[1], ends[1])),
        )  # fmt: skip
        found = _evened(p, near) if self.uneven else _asked(p, near, _TIGHT, _AUTOMATIC)
        if isinstance(found, int):
            found = _asked(p, near, _LOOSE, _THROUGHOUT)
        if isinstance(found, int):
            return Failure.EMPTY if found == _EMPTY else Failure.UNENDED
        x, multipliers = found[0], self.scale * found[1]
        return Minimum(x, multipliers[: len(x)], multipliers[len(x) :])


def _asked(p: _Program, near: Array | None, tolerance: float, proximal: float) -> tuple[Array, Array] | int:
    """(x, multipliers), or daqp's flag where it did not end at a minimum that box and rows hold at."""
    sense = _EQUATION * (p.above - p.below <= EQUAL).astype(np.int32)
    x, _, flag, info = daqp.solve(
        p.matrix, p.linear, p.rows, p.above, p.below, sense, primal_tol=tolerance, eta_prox=_STILL, eps_prox=proximal,
        iter_limit=_STEPS, primal_start=near,
    )  # fmt: skip
    if flag != _OPTIMAL:
        return int(flag)
    return (x, info["lam"]) if p.holds(x) else _MISSED


def _apart(matrix: Array) -> bool:
    curved = matrix.diagonal()
    return bool(curved.min() < _APART * curved.max())


def _evened(p: _Program, near: Array | None) -> tuple[Array, Array] | int:
    """`_asked` in units in which every variable's curvature is one, or near it."""
    curved = p.matrix.diagonal()
    unit = 1.0 / np.sqrt(np.maximum(curved, _CURVED * float(curved.max())))
    every = np.concatenate((unit, np.ones(len(p.rows))))
    matrix, linear = p.matrix * unit * unit[:, None], p.linear * unit
    scale = max(float(np.abs(matrix).max()), float(np.abs(linear).max()))
    even = _Program(matrix / scale, linear / scale, p.rows * unit, p.below / every, p.above / every)
    found = _asked(even, None if near is None else near / unit, _TIGHT, _AUTOMATIC)
    if isinstance(found, int):
        return found
    x, multipliers = found[0] * unit, scale * found[1] / every
    return (x, multipliers) if p.holds(x) else _MISSED
