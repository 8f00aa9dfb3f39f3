"""Series with dates of their own side by side, on the union of their dates: one matrix a column, when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.sources.series_file import Array, Dates

BLOCK = 16
"""Series that are laid beside one another before they are copied: a matrix is written in whole cache lines."""


@dataclass(frozen=True, eq=False)
class Few:
    """A column that is blank but for a few rows `at`, where it has `values`."""

    at: NDArray[np.intp]
    values: Array

    @classmethod
    def of(cls, column: Array) -> Few:
        at = np.flatnonzero(np.isfinite(column))
        return cls(at, column[at])


@dataclass(frozen=True, eq=False)
class Beside:
    """n series on T dates.

    Attributes:
        dates: datetime64[ns], (T,), the union.
        rows: by series, where its dates stand in the union; a slice where they follow one another.
        columns: by series, its columns by name.

    Example:
        >>> days = np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")
        >>> both = Beside.of([(days, {"close": np.array([1.0, 2.0])}), (days[1:], {"close": np.array([5.0])})])
        >>> both.matrix("close")
        array([[ 1., nan],
               [ 2.,  5.]])
    """

    dates: Dates
    rows: Sequence[slice | NDArray[np.intp]]
    columns: Sequence[Mapping[str, Array | Few]]

    @classmethod
    def of(cls, series: Sequence[tuple[Dates, Mapping[str, Array | Few]]]) -> Beside:
        """The series by their dates, which increase, and their columns."""
        # Most series share their calendar: each different one enters the union once.
        own = list(map(Shared(), (days for days, _ in series)))
        calendars = {id(days): days for days in own}
        dates: Dates = np.unique(np.concatenate([np.empty(0, "datetime64[ns]"), *calendars.values()]))
        rows = {key: _rows(dates, days) for key, days in calendars.items()}
        return cls(dates, [rows[id(days)] for days in own], [columns for _, columns in series])

    def matrix(self, name: str) -> Array:
        """One column of all series, (T, n), read-only; NaN where a series has no row."""
        out = np.empty((len(self.dates), len(self.columns)))
        block = np.empty((BLOCK, len(self.dates)))
        for first in range(0, len(self.columns), BLOCK):
            part = range(first, min(first + BLOCK, len(self.columns)))
            block.fill(np.nan)
            for k in part:
                rows, column = self.rows[k], self.columns[k][name]
                if isinstance(column, Few):
                    at = rows.start + column.at if isinstance(rows, slice) else rows[column.at]
                    block[k - first, at] = column.values
                else:
                    block[k - first, rows] = column
            out[:, part.start : part.stop] = block[: len(part)].T
        out.flags.writeable = False
        return out


class Shared:
    """One array for all that are equal: `shared(days)` is the first of them."""

    def __init__(self) -> None:
        self.known: dict[bytes, Dates] = {}

    def __call__(self, days: Dates) -> Dates:
        return self.known.setdefault(hashlib.blake2b(days.tobytes()).digest(), days)


def _rows(dates: Dates, some: Dates) -> slice | NDArray[np.intp]:
    at = np.searchsorted(dates, some)
    together = len(at) > 0 and at[-1] - at[0] + 1 == len(at)
    return slice(int(at[0]), int(at[-1]) + 1) if together else at
