"""Dates as people store them, read leniently: what they were taken for, and what is odd about that.

An index may hold stamps with zones, numbers since 1970 in any unit, Excel's day numbers, 20200131, or text in any
order of day and month. `read_dates` returns midnights in the order of the rows, NaT where nothing can be read, and a
finding for everything that a strict reader would refuse or, worse, take for something else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Finding

Dates = NDArray[np.datetime64]

_DAY = np.timedelta64(1, "D")
_NAT = np.datetime64("NaT", "ns")
_SLASHED = re.compile(r"\s*(\d{1,2})[/.\-](\d{1,2})[/.\-](\d{4}|\d{2})\b.*")
_OFFSET = re.compile(r"(?<=\d)\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})$")
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Ticks a second."""


def read_dates(index: pd.Index[Any]) -> tuple[Dates, list[Finding]]:
    """Midnights (datetime64[ns], (T,)) and what is odd about how they were stored.

    Example:
        >>> read_dates(pd.Index(["31/01/2020", "03/02/2020"]))[0].astype("datetime64[D]")
        array(['2020-01-31', '2020-02-03'], dtype='datetime64[D]')
    """
    told: list[Finding] = []
    if isinstance(index, pd.MultiIndex):
        index = index.get_level_values(0)
    if isinstance(index, pd.PeriodIndex):
        stamps = _ns(index.to_timestamp(how="end"))
    elif isinstance(index, pd.DatetimeIndex):
        stamps = _zoned(index, told) if index.tz is not None else _ns(index)
    elif pd.api.types.is_numeric_dtype(index.dtype) and index.dtype.kind in "iuf":
        stamps = _numbered(index.to_numpy(dtype=np.float64), told)
    else:
        stamps = _written(index, told)
    stamps = _since_1970(stamps, told)
    days = _midnights(stamps, told)
    days = _swapped(days, told)
    lost = np.isnat(days)
    if lost.any():
        row = int(np.argmax(lost))
        label = str(index[row])[:24]
        told.append(
            _date(f"{lost.sum()} row(s) have no readable date, first row {row + 1} ('{label}').", "Write YYYY-MM-DD.")
        )
    return days, told


def as_index(column: pd.Series[Any]) -> pd.Index[Any]:
    """A column as an index, whatever its cells are."""
    plain = column.dtype != object
    index: pd.Index[Any] = pd.Index(column) if plain else pd.Index(column.to_numpy(), dtype=object, tupleize_cols=False)
    return index


def text_day(date: np.datetime64) -> str:
    """YYYY-MM-DD; blank for NaT."""
    return "" if np.isnat(date) else str(np.datetime_as_string(date, unit="D"))


def _date(what: str, remedy: str, *, sure: float = 1.0, fixable: bool = False, span: Dates | None = None) -> Finding:
    known = span[~np.isnat(span)] if span is not None else np.array([], "datetime64[ns]")
    first, last = (text_day(known.min()), text_day(known.max())) if known.size else ("", "")
    return Finding("date", "", first, last, what, sure, remedy, fixable)


def _ns(index: pd.DatetimeIndex) -> Dates:
    """Nanoseconds, NaT for years that they cannot hold."""
    years = np.asarray(index.year, dtype=np.float64)
    fits = (years > 1700) & (years < 2200)
    raw = index.to_numpy()
    out = np.full(len(raw), _NAT, "datetime64[ns]")
    out[fits] = raw[fits].astype("datetime64[ns]")
    return out


def _zoned(index: pd.DatetimeIndex, told: list[Finding]) -> Dates:
    local = _ns(index.tz_localize(None))
    told.append(
        _date(
            f"the dates carry a time zone ({index.tz}).",
            "Keep the local date and drop the zone.",
            fixable=True,
            span=local,
        )
    )
    return local


def _numbered(numbers: NDArray[np.float64], told: list[Finding]) -> Dates:
    """Numbers as 20200131, as days of Excel, or as ticks since 1970: by the size of the median."""
    out = np.full(len(numbers), _NAT, "datetime64[ns]")
    known = np.isfinite(numbers)
    middle = float(np.median(np.abs(numbers[known]))) if known.any() else 0.0
    if 1.7e7 < middle < 2.3e7:
        text = [f"{value:.0f}" if ok else "" for value, ok in zip(numbers, known, strict=True)]
        return _coerced(text, "%Y%m%d")
    if 15_000 < middle < 80_000:
        good = known & (np.abs(numbers) < 100_000)
        out[good] = np.datetime64("1899-12-30", "ns") + (numbers[good] * 86_400e9).astype("timedelta64[ns]")
        told.append(_date("the dates are numbers, read as Excel's days.", "Write YYYY-MM-DD.", fixable=True, span=out))
        return out
    unit = next((name for name, ticks in UNITS.items() if 5e7 * ticks < middle < 8e9 * ticks), None)
    if unit is None:
        if known.any():
            told.append(_date("the rows are numbered and not dated.", "Give every row a date, as YYYY-MM-DD."))
        return out
    good = known & (np.abs(numbers) < 7e9 * UNITS[unit])
    out[good] = (numbers[good] * (10**9 // UNITS[unit])).astype("datetime64[ns]")
    what = f"the dates are numbers, read as {unit} since 1970."
    told.append(_date(what, "Write YYYY-MM-DD.", fixable=True, span=out))
    return out


def _coerced(text: list[str], form: str) -> Dates:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = pd.to_datetime(pd.Series(text, dtype="object"), format=form, errors="coerce", utc=False)
            return _ns(pd.DatetimeIndex(found))
        except (ValueError, TypeError, OverflowError, AttributeError):
            return np.full(len(text), _NAT, "datetime64[ns]")


def _written(index: pd.Index[Any], told: list[Finding]) -> Dates:
    """Dates as text: ISO 8601 first, then day and month in either order, then whatever pandas makes of it."""
    text = [str(item).strip() for item in index]
    if text and all(re.fullmatch(r"-?\d+(\.0*)?", item) for item in text):
        return _numbered(np.array([float(item[:24]) for item in text]), told)
    bare = [_OFFSET.sub("", item) for item in text]
    if bare != text:
        first = next(a for a, b in zip(text, bare, strict=True) if a != b)
        told.append(
            _date(
                f"the dates carry time zones ('{first[:32]}').",
                "Keep the local date and drop the zone.",
                fixable=True,
            )
        )
    stamps = _coerced(bare, "ISO8601")
    rest = np.flatnonzero(np.isnat(stamps))
    parts = {int(row): hit for row in rest if (hit := _SLASHED.fullmatch(bare[row]))}
    if parts:
        _slashed(stamps, parts, told)
    left = [int(row) for row in rest if int(row) not in parts and bare[row] not in ("", "nan", "NaT", "None")]
    if left:
        stamps[left] = _coerced([bare[row] for row in left], "mixed")
    return stamps


def _slashed(stamps: Dates, parts: dict[int, re.Match[str]], told: list[Finding]) -> None:
    """Fill `stamps` from a/b/year, in the order that reads most rows, then keeps them sorted and off weekends."""
    rows = np.fromiter(parts, dtype=np.int64)
    numbers = np.array([[int(item) for item in hit.groups()] for hit in parts.values()])
    year = np.where(numbers[:, 2] < 70, numbers[:, 2] + 2000, numbers[:, 2])
    year = np.where(year < 100, year + 1900, year)
    text = {
        name: [f"{y:04d}-{m:02d}-{d:02d}" for y, m, d in zip(year, month, day, strict=True)]
        for name, day, month in (
            ("day first", numbers[:, 0], numbers[:, 1]),
            ("month first", numbers[:, 1], numbers[:, 0]),
        )
    }
    read = {name: _coerced(items, "%Y-%m-%d") for name, items in text.items()}
    fit = {name: _fitness(dates) for name, dates in read.items()}
    best, other = sorted(fit, key=lambda name: fit[name], reverse=True)
    stamps[rows] = read[best]
    sample = next(iter(parts.values())).group(0).strip()[:24]
    gap = fit[best][0] - fit[other][0]
    if gap > 0:
        why = f"{gap:.0%} of the rows cannot be read the other way."
    elif fit[best] > fit[other]:
        why = "every row can be read both ways; this order keeps the rows sorted and off weekends."
    else:
        why = "every row can be read both ways, and nothing tells which is right."
    told.append(
        _date(
            f"the dates are written as '{sample}', read as {best}: {why}",
            "Write YYYY-MM-DD.",
            fixable=fit[best] > fit[other],
            span=read[best],
        )
    )


def _fitness(dates: Dates) -> tuple[float, float, float]:
    """Share of rows that are dates, of steps that go one way, and of days that are no weekend."""
    known = dates[~np.isnat(dates)]
    steps = np.diff(known)
    one_way = max((steps > 0 * _DAY).mean(), (steps < 0 * _DAY).mean()) if steps.size else 1.0
    working = float((weekday(known) < 5).mean()) if known.size else 0.0
    return float(len(known) / max(len(dates), 1)), float(one_way), working


def weekday(dates: Dates) -> NDArray[np.int64]:
    """0 is Monday; -1 for NaT."""
    days = dates.astype("datetime64[D]").astype(np.int64)
    found: NDArray[np.int64] = np.where(np.isnat(dates), -1, (days + 3) % 7)
    return found


def _since_1970(stamps: Dates, told: list[Finding]) -> Dates:
    """Seconds, milli- or microseconds that were taken for nanoseconds all lie in January 1970."""
    known = ~np.isnat(stamps)
    if not known.any():
        return stamps
    ticks = stamps[known].astype(np.int64).astype(np.float64)
    if np.abs(ticks).max() > 8e15 or np.ptp(ticks) <= 0:  # past March 1970
        return stamps
    middle = float(np.median(np.abs(ticks)))
    unit = next((name for name in ("s", "ms", "us") if 5e7 * UNITS[name] < middle < 8e9 * UNITS[name]), None)
    days = np.unique(stamps[known].astype("datetime64[D]"))
    if unit is None or len(days) > max(2, 0.6 * known.sum()):
        return stamps
    out = stamps.copy()
    out[known] = (ticks * (10**9 // UNITS[unit])).astype("datetime64[ns]")
    what = f"all dates lie in 1970: {unit} since 1970 were taken for nanoseconds."
    told.append(_date(what, f"Read them with unit='{unit}'.", sure=0.98, fixable=True, span=out))
    return out


def _midnights(stamps: Dates, told: list[Finding]) -> Dates:
    """The date of each stamp; a midnight told in a zone further west belongs to the next day."""
    known = ~np.isnat(stamps)
    days = stamps.astype("datetime64[D]").astype("datetime64[ns]")
    hours = (stamps[known] - days[known]) / np.timedelta64(1, "h")
    if not hours.size or not hours.any():
        return days
    days_known, repeated = days[known], len(np.unique(days[known])) < len(days[known]) * 0.7
    if repeated and len(np.unique(stamps[known])) > len(np.unique(days_known)):
        told.append(
            _date("there are several rows a day; the rules speak of days.", "Give one row a day.", sure=0.5, span=days)
        )
        return stamps
    late = hours >= 20
    week = weekday(days_known)
    if late.mean() > 0.9 and (week == 6).sum() > (week == 4).sum():
        out = days.copy()
        out[known] = days_known + np.timedelta64(1, "D")
        what = f"the stamps are {hours.min():g} to {hours.max():g} o'clock, with Sundays and hardly a Friday: midnights"
        told.append(
            _date(
                what + " of the next day, told in another zone.",
                "Move them to the next midnight.",
                fixable=True,
                span=out,
            )
        )
        return out
    what = f"the stamps hold times of day ({hours.min():.4g} to {hours.max():.4g} o'clock)."
    told.append(_date(what, "Keep the date and drop the time.", sure=0.6, fixable=True, span=days))
    return days


def _swapped(days: Dates, told: list[Finding]) -> Dates:
    """Day and month swapped where both fit (Excel and pandas do so row by row): weekends tell, and only there."""
    known = ~np.isnat(days)
    text = np.datetime_as_string(days[known], unit="D") if known.any() else np.array([], "U10")
    year, month, day = (
        np.array([int(item[part]) for item in text]) for part in (slice(-10, -6), slice(-5, -3), slice(-2, None))
    )
    both = (day <= 12) & (day != month) if len(text) else np.array([], bool)
    if both.sum() < 20 or (~both).sum() < 20:
        return days
    left, right = np.where(both, day, month), np.where(both, month, day)
    other = np.array([f"{y:04d}-{m:02d}-{d:02d}" for y, m, d in zip(year, left, right, strict=True)], "datetime64[D]")
    here = weekday(days[known]) >= 5
    there = weekday(other.astype("datetime64[ns]")) >= 5
    if not (here[both].mean() > 0.15 and here[~both].mean() < 0.03 and there[both].mean() < 0.03):
        return days
    out = days.copy()
    out[np.flatnonzero(known)[both]] = other[both].astype("datetime64[ns]")
    what = f"{here[both].mean():.0%} of the days up to the 12th fall on weekends and none with month and day swapped:"
    sentence = "Swap them back on those rows."
    told.append(_date(what + " they were swapped where both fit.", sentence, sure=0.97, fixable=True, span=out))
    return out


def calendar_findings(days: Dates, repeats: NDArray[np.int64], today: np.datetime64) -> Iterator[Finding]:
    """Order, repeats, weekends and the future, from the dates in the order of the rows."""
    known = days[~np.isnat(days)]
    steps = np.diff(known)
    if (steps < 0 * _DAY).any():
        down = bool((steps <= 0 * _DAY).all())
        row = int(np.argmax(steps < 0 * _DAY))
        what = (
            "the newest rows come first."
            if down
            else f"the rows are not sorted ({text_day(known[row + 1])} comes after {text_day(known[row])})."
        )
        yield _date(what, "Sort them, oldest first.", fixable=True, span=known)
    values, counts = np.unique(known, return_counts=True)
    twice = values[counts > 1]
    if twice.size:
        same = int((counts[counts > 1] - 1).sum()) == len(repeats)
        what = f"{twice.size} date(s) are there more than once, first {text_day(twice[0])}"
        tail = ", the rows cell by cell the same." if same else ", with different numbers in the rows."
        yield _date(what + tail, "Keep one row a date.", fixable=same, span=twice)
    yield from _weekends(values)
    ahead = values[values > today]
    if ahead.size:
        what = f"{ahead.size} date(s) lie in the future, last {text_day(ahead[-1])}."
        yield _date(what, "Correct the year, or remove the rows.", span=ahead)


def _weekends(values: Dates) -> Iterator[Finding]:
    week = weekday(values)
    count = np.bincount(week[week >= 0], minlength=7)
    if len(values) < 15 or not count[5:].any() or count[5:].sum() > 0.2 * len(values):
        return  # 2/7 of the days are weekends where a market never closes
    rows = values[week >= 5]
    if count[6] > 0.1 * len(values) and count[4] < 0.25 * count[6]:
        what = f"{count[6]} Sundays and {count[4]} Fridays: every row is a day early, as a time zone makes it."
        yield _date(what, "Move all dates a day on.", sure=0.95, span=rows)
    elif count[5] > 0.1 * len(values) and count[0] < 0.25 * count[5]:
        what = f"{count[5]} Saturdays and {count[0]} Mondays: every row is a day late."
        yield _date(what, "Move all dates a day back.", sure=0.95, span=rows)
    else:
        sure = 0.9 if count[5:].sum() < 0.02 * len(values) else 0.6
        what = f"{len(rows)} row(s) fall on a weekend, first {text_day(rows[0])}."
        yield _date(what, "Remove them if the market was closed, or correct the date.", sure=sure, span=rows)
