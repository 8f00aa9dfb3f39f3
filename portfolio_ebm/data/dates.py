"""Dates at the door: what people have becomes datetime64[ns], once; what may mean two days is refused.

Read are `DatetimeIndex` and `PeriodIndex` of any unit, with or without a time zone (the local date stays), date and
datetime objects, ISO 8601 text, and 20200131. Integers since an epoch are refused with the unit that fits: seconds
and milliseconds cannot be told apart by a program that must not guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.errors import DataError

Dates = NDArray[np.datetime64]

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?|\d{8}")
_OFFSET = re.compile(r"(?<=\d)\s*(Z|UTC|[+-]\d{2}:?\d{2})$")
_NONE = frozenset({"", "nan", "nat", "none", "null", "<na>"})
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEARS = (1700, 2200)


def day(date: np.datetime64) -> str:
    """YYYY-MM-DD, with the time of day only where there is one."""
    return str(np.datetime_as_string(date, unit="s")).removesuffix("T00:00:00")


def index_dates(index: pd.Index[Any], source: str) -> Dates:
    """The dates of a table's rows, in the order they are in.

    Time zones are dropped once, keeping the local date; stamps become midnights where that leaves one row a day.

    Raises:
        DataError: no dates, unreadable ones, or years that nanoseconds cannot hold.
    """
    if isinstance(index, pd.MultiIndex):
        raise DataError(
            f"{source}: the index has {index.nlevels} levels; a long table goes to Panel.from_long, or unstack it to "
            "dates down and names across."
        )
    local = stamps(index, source)
    midnight = local.normalize()
    exact: Dates = (midnight if midnight.is_unique else local).to_numpy().astype("datetime64[ns]")
    return exact


def column_days(column: pd.Series[Any], source: str, name: str, *, blank: bool = False) -> NDArray[np.datetime64]:
    """A column of dates as days, datetime64[D], with NaT where `blank` allows none.

    Raises:
        DataError: a blank where none is allowed, or no date; the message names the row.
    """
    cells = column.to_numpy(dtype=object)
    there = np.array([not is_none(item) for item in cells], dtype=bool)
    rows = np.flatnonzero(there) + 1
    out = np.full(len(cells), np.datetime64("NaT"), dtype="datetime64[D]")
    if not blank and not there.all():
        row = int(np.flatnonzero(~there)[0]) + 1
        raise DataError(f"{source}: column '{name}', row {row} has no date; write it as YYYY-MM-DD.")
    if rows.size:
        index = pd.Index([_plain(item) for item in cells[there]], dtype="object")
        out[there] = stamps(index, source, f"column '{name}'", rows.tolist()).to_numpy().astype("datetime64[D]")
    return out


def stamps(
    index: pd.Index[Any], source: str, where: str = "date column", rows: Sequence[int] | None = None
) -> pd.DatetimeIndex:
    """Readable dates without a time zone, as many as were given.

    Raises:
        DataError: naming the first row that holds no date, an unreadable one, or one too far from now.
    """
    if isinstance(index, pd.PeriodIndex):
        found = index.to_timestamp(how="end").normalize()  # what a period held is known at its end
    elif isinstance(index, pd.DatetimeIndex):
        found = index
    else:
        found = _parsed(index, source, where, rows)
    missing = np.flatnonzero(np.asarray(found.isna()))
    if missing.size:
        raise DataError(f"{source}: {where}, row {_row(rows, missing[0])} has no date; give one, as YYYY-MM-DD.")
    far = np.flatnonzero((found.year < _YEARS[0]) | (found.year > _YEARS[1]))  # nanoseconds hold no others
    if far.size:
        raise DataError(
            f"{source}: {where}, row {_row(rows, far[0])}: {str(found[far[0]])[:10]} is too far; correct the year."
        )
    return found.tz_localize(None) if found.tz is not None else found


def is_none(cell: Any) -> bool:
    """True for a cell that holds nothing: blank text, NaN, NaT or None."""
    if isinstance(cell, str):
        return cell.strip().lower() in _NONE
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def _plain(item: Any) -> Any:
    return item.strip() if isinstance(item, str) else item


def _row(rows: Sequence[int] | None, position: Any) -> int:
    return int(position) + 1 if rows is None else rows[int(position)]


def _parsed(index: pd.Index[Any], source: str, where: str, rows: Sequence[int] | None) -> pd.DatetimeIndex:
    """Dates written as text (or as 20200131), read as ISO 8601 only: 1/3/2014 means two days."""
    if isinstance(index, pd.RangeIndex):
        raise DataError(f"{source}: rows are numbered 0, 1, 2, ... and not dated; use frame.set_index('Date').")
    text = [str(item).strip() for item in index]
    for position, item in enumerate(text):
        if not _ISO.fullmatch(item):
            row = _row(rows, position)
            if is_none(item):
                raise DataError(f"{source}: {where}, row {row} has no date; give one, as YYYY-MM-DD.")
            raise DataError(
                f"{source}: {where}, row {row}: '{item[:24]}' is not a date as YYYY-MM-DD; {_remedy(item)}."
            )
    try:
        # An offset (-05:00) changes with summer time; the local date is what matters, so it is cut off.
        return pd.DatetimeIndex(pd.to_datetime([_OFFSET.sub("", item) for item in text], format="ISO8601"))
    except (ValueError, OverflowError):
        position = next((k for k, item in enumerate(text) if not _is_date(item)), 0)
        raise DataError(
            f"{source}: {where}, row {_row(rows, position)}: there is no day '{text[position][:24]}'; "
            "correct it (YYYY-MM-DD)."
        ) from None


def _remedy(text: str) -> str:
    """What to do about something that is no date: for an integer since an epoch, the unit that fits."""
    number = re.fullmatch(r"(-?\d{4,20})(\.0*)?", text)
    if number is None:
        return "rewrite the dates (those of a file: portfolio-ebm data doctor FILE --fix)"
    value = int(number[1])
    for unit, size in _UNITS.items():
        if 1950 <= 1970 + value / size / 31_556_952 < 2100 and abs(value) >= 10**8 * size // 10:
            seen = np.datetime64(value // size, "s").astype("datetime64[D]")
            return f"as {unit} since 1970 it would be {seen}: convert with pd.to_datetime(dates, unit='{unit}')"
    if 18_000 <= value < 73_000:
        seen = np.datetime64("1899-12-30") + np.timedelta64(value, "D")
        return f"as a spreadsheet's day it would be {seen}: pd.to_datetime(dates, unit='D', origin='1899-12-30')"
    return "rewrite the dates"


def _is_date(text: str) -> bool:
    try:
        pd.Timestamp(_OFFSET.sub("", text))
    except (ValueError, OverflowError):
        return False
    return True


def stamp(t: Any, what: str = "") -> np.datetime64:
    """A day as somebody would write it, datetime64[ns] without a zone.

    Args:
        what: whose date it is, for messages ("start").

    Raises:
        DataError: no date, a number, or a month or year.
    """
    who = f"{what}: " if what else ""
    try:
        found = None if isinstance(t, bool | int | float) else pd.Timestamp(t)
    except (ValueError, TypeError, OverflowError):
        found = None
    if found is None or pd.isna(found):
        raise DataError(f"{who}'{t}' is not a date; write it as YYYY-MM-DD.")
    if isinstance(t, str) and len(t) <= 7:
        raise DataError(f"{who}'{t}' is a month or a year, not a day; write it as YYYY-MM-DD.")
    return np.datetime64(found.tz_localize(None) if found.tz is not None else found, "ns")
