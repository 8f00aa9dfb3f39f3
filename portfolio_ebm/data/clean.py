"""Frames to checked tables of numbers. Missing is missing, not bad; what is bad says file, column, date and remedy.

A `Table` is what pandas leaves behind when it goes: dates as datetime64[ns], names, and a float64 matrix with NaN
where nothing is known. Every check raises `DataError`; none repairs a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.dates import day, index_dates
from portfolio_ebm.data.reading import LONG, refuse_text
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]

PERCENT = 0.05
"""A daily series whose median |return| is above this is percent, or no return at all; scaled by sqrt(time)."""

LARGEST = 1e30
"""A number above this in size is a mistake in the file, and sums of such numbers leave no room for others."""

WILDEST = 1e12
"""A return above this is a price that is wrong."""


@dataclass(frozen=True)
class Table:
    """A wide table of numbers: `values[i, j]` is what `columns[j]` was at `dates[i]`, NaN where unknown."""

    source: str
    dates: NDArray[np.datetime64]
    columns: tuple[str, ...]
    values: Array

    def day(self, row: int) -> str:
        """The date of a row, for messages."""
        return day(self.dates[row])

    def where(self, row: int, column: int) -> str:
        """The place of a cell, for messages."""
        return f"{self.source}: column '{self.columns[column]}', {self.day(row)}"


def table(data: object, what: str, *, min_rows: int = 1, allow_blank: bool = False) -> Table:
    """The checked table in a frame (or a Series, as one column).

    Dates must be strictly increasing; time zones are dropped once, keeping the local date; stamps become midnights
    where that leaves one row a day. Rows stay as they are.

    Args:
        data: a frame, a Series, or a `Table` of a source of our own, of which the numbers alone are checked.
        what: name of the source in messages; `data.attrs["source"]`, set by the readers, goes first.
        allow_blank: let columns without a single number through.

    Raises:
        DataError: not a frame; no rows or columns; columns repeated, unnamed or all missing; dates unreadable, repeated
            or unsorted; cells that are no finite numbers.
    """
    if isinstance(data, Table):
        found = data
        _check_rows(len(found.dates), min_rows, found.source)
    else:
        found = _table(data, what, min_rows)
    names, source = found.columns, found.source
    _check_finite(found)
    blank = np.flatnonzero(np.isnan(found.values).all(axis=0))
    if blank.size and not allow_blank:
        raise DataError(
            f"{source}: column '{names[blank[0]]}' has no number from {found.day(0)} to {found.day(-1)}; "
            "remove it, or check that it was downloaded."
        )
    return found


def _table(data: object, what: str, min_rows: int) -> Table:
    frame = data.to_frame(str(data.name or what)) if isinstance(data, pd.Series) else data
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{what}: got {type(data).__name__}; give a pandas DataFrame with dates down and names across.")
    source = str(frame.attrs.get("source", what))
    names = _names(frame, source)
    _check_rows(len(frame), min_rows, source)
    dates = index_dates(frame.index, source)
    _check_order(dates, source, names, frame)
    return Table(source, dates, names, _numbers(frame, source))


def _check_rows(rows: int, min_rows: int, source: str) -> None:
    if rows < max(min_rows, 1):
        raise DataError(f"{source}: {rows} row(s) of data; at least {max(min_rows, 1)} are needed.")


def single(given: object, what: str) -> Table:
    """A table of one series.

    Raises:
        DataError: as `table`, and more than one column.
    """
    found = table(given, what)
    if len(found.columns) != 1:
        raise DataError(
            f"{found.source}: {len(found.columns)} columns ({', '.join(found.columns[:4])}); the {what} is one series."
        )
    return found


def check_prices(found: Table) -> None:
    """Prices are above zero.

    Raises:
        DataError: naming the first price that is not.
    """
    with np.errstate(invalid="ignore"):
        low = found.values <= 0.0
    if not low.any():
        return
    row, column = (int(item[0]) for item in np.nonzero(low))
    value = found.values[row, column]
    if looks_like_returns(found.values):
        raise DataError(
            f"{found.where(row, column)}: {value:g} cannot be a price, and {np.mean(low):.0%} of the cells are "
            "not above zero: this table holds returns. Use Panel.from_returns, or call the file returns.csv in a "
            "folder of its own and give the folder; for factors, factors_are='returns'."
        )
    kind = "negative" if value < 0 else "zero"
    raise DataError(
        f"{found.where(row, column)}: the price is {kind} ({value:g}); leave the cell blank where there was none."
    )


def check_returns(found: Table) -> None:
    """Returns are simple and decimal: none below -1, and of a size that a decimal has.

    Raises:
        DataError: a return below -100%, or a column (or the whole table) in percent, in prices or in log prices.
    """
    scale = PERCENT * (252.0 / periods_per_year(found.dates)) ** 0.5
    size = np.abs(found.values)
    pooled = float(np.nanmedian(size)) if np.isfinite(size).any() else 0.0
    for column, name in enumerate(found.columns):
        known = size[np.isfinite(size[:, column]), column]
        median = float(np.median(known)) if known.size else 0.0
        if median > (scale if pooled > scale else 4.0 * scale):
            start = found.day(int(np.argmax(np.isfinite(size[:, column]))))
            raise DataError(
                f"{found.source}: column '{name}', from {start}: the median absolute return is {median:.3g}, that is "
                f"{median:.0%} a period: this looks like percent (or a price), not a decimal. Divide percent by 100; "
                "prices go to from_prices, or factors_are='prices'."
            )
    with np.errstate(invalid="ignore"):
        low = found.values < -1.0
    if low.any():
        row, column = (int(item[0]) for item in np.nonzero(low))
        raise DataError(
            f"{found.where(row, column)}: a return of {found.values[row, column]:g} loses more than everything; "
            "give simple decimal returns (-0.05 for -5%)."
        )


def check_sane(returns: Array, dates: NDArray[np.datetime64], names: tuple[str, ...], source: str) -> Array:
    """The returns themselves, none of them beyond what a price can do.

    Raises:
        DataError: naming the first that is.
    """
    with np.errstate(invalid="ignore"):
        wild = ~np.isnan(returns) & ~(returns <= WILDEST)
    if wild.any():
        row, column = (int(item[0]) for item in np.nonzero(wild))
        raise DataError(
            f"{source}: column '{names[column]}', {day(dates[row])}: the return is {returns[row, column]:.3g}; a price "
            "it is made of is wrong, or the return itself: correct it."
        )
    return returns


def looks_like_returns(values: Array) -> bool:
    """True where a table holds returns and not prices: signs change, or the numbers are tiny."""
    known = values[np.isfinite(values)]
    return bool(known.size) and (float(np.mean(known < 0.0)) > 0.2 or float(np.median(np.abs(known))) < 0.02)


def check_known(names: Iterable[str], known: Iterable[str], source: str, who: str = "asset") -> None:
    """Every name is one of the known ones.

    Raises:
        DataError: naming the first that is not, with near matches.
    """
    there = list(known)
    listed = set(there)
    for name in names:
        if name not in listed:
            near = get_close_matches(name, there, n=3, cutoff=0.4) or there[:5]
            raise DataError(
                f"{source}: '{str(name)[:40]}' is no {who} of the panel; near it there is {', '.join(near)}. "
                "Correct the name, remove it here, or add its prices."
            )


def check_overlap(dates: NDArray[np.datetime64], other: Table) -> None:
    """Two tables share dates.

    Raises:
        DataError: naming both spans.
    """
    if other.dates[-1] < dates[0] or other.dates[0] > dates[-1]:
        raise DataError(
            f"{other.source}: runs from {other.day(0)} to {other.day(-1)} and the panel from {day(dates[0])} to "
            f"{day(dates[-1])}: no date in common. Give data for the same years."
        )


def _names(frame: pd.DataFrame, source: str) -> tuple[str, ...]:
    if isinstance(frame.columns, pd.MultiIndex):
        tops = ", ".join(str(item) for item in dict.fromkeys(frame.columns.get_level_values(0)))
        raise DataError(
            f"{source}: columns have {frame.columns.nlevels} levels ({tops[:60]}); pick one, as frame['Close']."
        )
    names = tuple(str(name).strip() for name in frame.columns)
    if not names:
        raise DataError(
            f"{source}: no column besides the dates; one column a name is needed. A panel of factors "
            "alone is Panel.from_factors(frame)."
        )
    if {"open", "high", "low", "close"} <= {name.lower() for name in names}:
        raise DataError(
            f"{source}: columns are {', '.join(names[:6])}: the bars of one name. Give a wide table "
            "of (adjusted) closes, one column a name, or add a column 'ticker' and give the bars of all names."
        )
    often = Counter(names)
    for position, name in enumerate(names, start=1):
        if not name or name.lower() == "nan":
            raise DataError(f"{source}: column {position} has no name; name it or remove it.")
        if often[name] > 1:
            raise DataError(f"{source}: column '{name}' is there {often[name]} times; keep one.")
    return names


def _check_order(dates: NDArray[np.datetime64], source: str, names: tuple[str, ...], frame: pd.DataFrame) -> None:
    steps = np.diff(dates)
    wrong = np.flatnonzero(steps <= np.timedelta64(0))
    if not wrong.size:
        return
    row = int(wrong[0]) + 1
    if steps[row - 1] == np.timedelta64(0):
        text = [
            name for name, kind in zip(names, frame.dtypes, strict=True) if str(kind) in ("object", "str", "string")
        ]
        if text:
            raise DataError(
                f"{source}: {day(dates[row])} is there more than once and column '{text[0]}' holds text: a long table. "
                f"{LONG}."
            )
        raise DataError(f"{source}: date column, row {row + 1}: {day(dates[row])} is there twice; keep one row a date.")
    raise DataError(
        f"{source}: date column, row {row + 1}: {day(dates[row])} comes after {day(dates[row - 1])}; "
        "sort the rows by date, oldest first (frame.sort_index(), or portfolio-ebm data doctor FILE --fix)."
    )


def _numbers(frame: pd.DataFrame, source: str) -> Array:
    if all(kind == np.float64 for kind in frame.dtypes):  # column by column takes seconds for a thousand names
        return np.array(frame.to_numpy(), dtype=np.float64, order="C")
    values = np.full(frame.shape, np.nan)
    for column in range(frame.shape[1]):
        series = frame.iloc[:, column]
        if pd.api.types.is_numeric_dtype(series.dtype) and series.dtype != bool and series.dtype.kind != "c":
            values[:, column] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            refuse_text(series.to_frame(), source)
            values[:, column] = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _check_finite(found: Table) -> None:
    infinite = np.isinf(found.values)
    if infinite.any():
        row, column = (int(item[0]) for item in np.nonzero(infinite))
        raise DataError(
            f"{found.where(row, column)}: {found.values[row, column]} is not finite (a division by zero?); "
            "leave the cell blank where nothing is known."
        )
    with np.errstate(invalid="ignore"):
        large = (found.values > LARGEST) | (found.values < -LARGEST)
    if large.any():
        row, column = (int(item[0]) for item in np.nonzero(large))
        raise DataError(
            f"{found.where(row, column)}: {found.values[row, column]:g} is larger than anything that is traded; "
            "correct the number, or leave the cell blank."
        )
