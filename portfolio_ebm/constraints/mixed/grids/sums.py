"""Sums of whole lots: which multiples they are of, so that a rule that asks for another sum has no portfolio.

Prices are whole cents, so the lots' shares of the capital are s_i = p_i g with whole p_i and one g, their greatest
common divisor; every sum of whole lots is then a multiple of g, whatever lots are taken. g is found by Euclid's steps
on the floats and believed where it gives all of them back to rounding.

Source: Euclid, Elements VII; Knuth, D. E. (1997), The Art of Computer Programming 2, section 4.5.2.
"""

from __future__ import annotations

import numpy as np

from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.types import as_numpy

LEAST = 8.0 * TOLERANCE
"""A divisor below this says nothing: the rules' tolerance is as large."""
NOTHING = 1e-3 * LEAST
"""What Euclid's steps leave by rounding."""
GROSS = 1e3
"""The weights of all names together, at most: far beyond any portfolio."""


def divisor(sizes: Array) -> float | None:
    """The greatest common divisor of positive `sizes` (k,), None where there is none above LEAST.

    Example:
        >>> divisor(np.array([0.06, 0.045]))
        0.015
    """
    found = float(sizes[0])
    for k, rest in enumerate(sizes.tolist()):
        while rest > NOTHING:
            found, rest = rest, abs(found - round(found / rest) * rest)
            if found < LEAST:
                return None
        # Euclid's steps gather rounding, the mean over all sizes does not.
        many = np.round(sizes[: k + 1] / found)
        found = float((sizes[: k + 1] @ many) / (many @ many))
    return found if _rounding(sizes, found) <= TOLERANCE else None


def _rounding(sizes: Array, unit: float) -> float:
    """By how much a sum of multiples of `sizes`, GROSS in all, may miss a multiple of `unit`."""
    off = np.abs(sizes - np.round(sizes / unit) * unit) + np.finfo(np.float64).eps * sizes
    return float((off / sizes).max()) * GROSS


def never(region: Region) -> tuple[str, float, float, float] | None:
    """(name, low, high, divisor) of a row whose names are all in whole lots, or fixed, and whose sums are multiples of
    a divisor none of which is between its ends; None where no row is known to be so."""
    if region.grid is None:
        return None
    step, lower, upper = as_numpy(region.grid), as_numpy(region.lower), as_numpy(region.upper)
    fixed = (step == 0.0) & (upper - lower <= TOLERANCE)
    rows, lows, highs = (as_numpy(x) for x in (region.rows, region.row_lower, region.row_upper))
    for row, low, high, name in zip(rows, lows, highs, region.names, strict=True):
        at = (row != 0.0) & ~fixed
        if not at.any() or (step[at] == 0.0).any() or not np.isfinite(low + high):
            continue
        sizes = np.unique(np.abs(row[at]) * step[at])
        unit = divisor(sizes)
        if unit is None:
            continue
        rest = float((row * np.where(fixed, lower, 0.0)).sum())
        spare = TOLERANCE + _rounding(sizes, unit)
        if np.ceil((low - rest - spare) / unit) > np.floor((high - rest + spare) / unit):
            return name, float(low), float(high), unit
    return None
