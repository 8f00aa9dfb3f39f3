"""A lenient reading of a user's frame: everything that `portfolio_ebm.data.clean.table` refuses is read and told.

    frame -> columns of one field -> dates (stamps.py) -> numbers -> sorted rows, one a date

A `Loose` keeps the way back: which row and column of the user's frame a number came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Edit, Finding, Rows
from portfolio_ebm.data.doctor.melted import Melted, melted
from portfolio_ebm.data.doctor.stamps import as_index, read_dates, text_day
from portfolio_ebm.data.reading import BLANKS
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Positions = NDArray[np.int64]

STAND_INS = frozenset({".", "-", "--", "?", "n.a.", "nil", "#ref!", "#div/0!", "#value!", "missing", "error"})
"""Text that people write for a number that is not there."""

_DATE_NAMES = ("date", "datetime", "time", "timestamp", "day", "unnamed: 0", "index")
_FIELDS = ("open", "high", "low", "close", "adj close", "volume", "dividends", "stock splits", "price", "return")


@dataclass(frozen=True)
class Loose:
    """Numbers by date and name, with the place that each came from.

    Attributes:
        dates: sorted, each once, (T,).
        values: (T, N), NaN where there is no finite number.
        row_at, column_at: positions in the user's frame, (T,) and (N,).
        rows: all rows of the frame, also those left out here.
        infinite: cells of `values` that were infinite.
        told: findings about layout, dates and cells.
        parts: other fields of the same frame ("volume", "dividends", "adjusted"), where it holds several.
        long: the way back to the rows of a long table; None where the frame was wide.
    """

    source: str
    dates: NDArray[np.datetime64]
    columns: tuple[str, ...]
    values: Array
    row_at: Positions
    column_at: Positions
    rows: Rows
    infinite: NDArray[np.bool_]
    told: tuple[Finding, ...] = ()
    parts: dict[str, pd.DataFrame] = field(default_factory=dict)
    long: Melted | None = None

    def on(self, other: Loose) -> Array:
        """This table's values at the dates and names of another, NaN where there is none."""
        out = np.full(other.values.shape, np.nan)
        row = np.searchsorted(self.dates, other.dates)
        there = row < len(self.dates)
        there[there] = self.dates[row[there]] == other.dates[there]
        known = {name: column for column, name in reversed(list(enumerate(self.columns)))}
        for column, name in enumerate(other.columns):
            if name in known:
                out[there, column] = self.values[row[there], known[name]]
        return out


def loose(data: Any, what: str = "data") -> Loose:
    """Read a frame (or Series) as it is.

    Raises:
        DataError: `data` is no pandas frame or Series at all.

    Example:
        >>> loose(pd.DataFrame({"A": ["1.5", "n.a."]}, index=["2020-01-03", "2020-01-02"])).values.tolist()
        [[nan], [1.5]]
    """
    frame = data.to_frame(str(data.name) if data.name is not None else what) if isinstance(data, pd.Series) else data
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{what}: got {type(data).__name__}; give a pandas DataFrame with dates down and names across.")
    source = str(frame.attrs.get("source", what))
    told: list[Finding] = []
    told += [replace(_layout(*odd), fixable=True) for odd in frame.attrs.get("told", ())]
    given, long = frame, melted(frame)
    if long is not None:
        frame = long.wide
        told += long.told()
    position = _date_column(frame)
    index = frame.index if position is None else as_index(frame.iloc[:, position])
    days, odd = read_dates(index)
    told += odd
    columns, parts = _fields(frame, position, told)
    parts = parts if long is None else long.parts
    labels = [_label(frame.columns[place]) for place in columns]
    raw, cells = _numbers(frame, columns, labels, days)
    told += cells
    told += _names(labels)
    repeats = _repeated_rows(days, raw)
    keep = _one_a_date(days, raw)
    values = raw[keep]
    infinite = np.isinf(values)
    dates = days[keep]
    rows = Rows(days, given.index, given.columns, position, repeats)
    values = np.where(infinite, np.nan, values)
    column_at = np.array(columns, dtype=np.int64)
    return Loose(source, dates, tuple(labels), values, keep, column_at, rows, infinite, tuple(told), parts, long)


def _layout(what: str, remedy: str, asset: str = "") -> Finding:
    return Finding("layout", asset, "", "", what, 1.0, remedy)


def _label(name: Any) -> str:
    if isinstance(name, tuple):
        parts = [str(item).strip() for item in name]
        named = [item for item in parts if item and item.lower() not in _FIELDS]
        return named[0] if named else parts[0]
    return str(name).strip()


def _date_column(frame: pd.DataFrame) -> int | None:
    """Position of a column that holds the dates, where the index only counts rows."""
    if not isinstance(frame.index, pd.RangeIndex) or not len(frame):
        return None
    for position, name in enumerate(frame.columns):
        if _label(name).lower() in _DATE_NAMES or frame.dtypes.iloc[position].kind == "M":
            return position
    first = frame.iloc[:, 0] if frame.shape[1] > 1 else None
    if first is not None and not pd.api.types.is_numeric_dtype(first.dtype):
        days, _ = read_dates(as_index(first))
        if np.isnat(days).mean() < 0.5:
            return 0
    return None


def _fields(frame: pd.DataFrame, dates: int | None, told: list[Finding]) -> tuple[list[int], dict[str, pd.DataFrame]]:
    """Positions of the columns to examine, and the other fields of bars (volume, dividends, adjusted closes)."""
    places = [place for place in range(frame.shape[1]) if place != dates]
    if isinstance(frame.columns, pd.MultiIndex):
        kinds = {
            place: next((str(i).strip().lower() for i in frame.columns[place] if str(i).strip().lower() in _FIELDS), "")
            for place in places
        }
    else:
        names = {place: str(frame.columns[place]).strip().lower() for place in places}
        bars = {"open", "high", "low", "close"} <= set(names.values())
        kinds = {place: name if bars and name in _FIELDS else "" for place, name in names.items()}
    closes = [place for place, kind in kinds.items() if kind == "close"]
    if not closes:
        return places, {}
    told.append(_layout("the columns are bars (open, high, low, close); the closes are examined.", "Keep the closes."))
    parts = {}
    days = frame.index if dates is None else as_index(frame.iloc[:, dates])
    for kind, name in (("volume", "volume"), ("dividends", "dividends"), ("adj close", "adjusted")):
        here = [place for place, item in kinds.items() if item == kind]
        if here:
            part = frame.iloc[:, here].set_axis(days, axis=0)
            one = len(here) == len(closes) == 1
            part.columns = pd.Index([_label(frame.columns[p]) for p in (closes if one else here)])
            parts[name] = part
    return closes, parts


def _names(labels: list[str]) -> Iterator[Finding]:
    for name in dict.fromkeys(labels):
        if labels.count(name) > 1:
            yield _layout(f"column '{name}' is there {labels.count(name)} times.", "Keep one of them.", name)
        if not name or name.lower() == "nan":
            yield _layout("a column has no name.", "Name it or remove it.")


def _numbers(
    frame: pd.DataFrame, columns: list[int], labels: list[str], days: NDArray[np.datetime64]
) -> tuple[Array, list[Finding]]:
    values = np.full((len(frame), len(columns)), np.nan)
    told: list[Finding] = []
    for column, place in enumerate(columns):
        series = frame.iloc[:, place]
        if pd.api.types.is_numeric_dtype(series.dtype) and series.dtype.kind in "iuf":
            values[:, column] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            values[:, column] = _column(series, labels[column], place, days, told)
    return values, told


def _column(series: pd.Series[Any], name: str, place: int, days: NDArray[np.datetime64], told: list[Finding]) -> Array:
    """The numbers in a column of anything; cells of text become findings, with the number they stand for if any."""
    cells = series.astype("object").to_numpy()
    out = np.full(len(cells), np.nan)
    kinds: dict[str, list[int]] = {"grouped": [], "absent": [], "other": []}
    for row, cell in enumerate(cells):
        if isinstance(cell, (int, float, np.integer, np.floating)) and not isinstance(cell, bool):
            out[row] = _plain(float(cell) if not isinstance(cell, int) or abs(cell) < 10**300 else np.inf)
        elif cell is not None and cell is not pd.NaT and cell is not pd.NA:
            out[row], kind = _number(str(cell))
            if kind:
                kinds[kind].append(row)
    for kind, rows in kinds.items():
        if rows:
            told.append(_cell_finding(kind, np.array(rows), cells, out, (name, place, days)))
    return out


def _plain(number: float) -> float:
    return float(np.copysign(np.inf, number)) if abs(number) >= 1e300 else number


def _number(text: str) -> tuple[float, str]:
    """The number that text stands for, and what is odd about it ("" where nothing is)."""
    bare = text.strip()
    if bare.lower() in BLANKS or bare.lower() == "nat":
        return np.nan, ""
    try:
        return _plain(float(bare)), ""
    except ValueError:
        pass
    if bare.lower() in STAND_INS:
        return np.nan, "absent"
    if bare.endswith("%"):
        number, _ = _number(bare[:-1])
        return number / 100.0, "grouped" if np.isfinite(number) else "other"
    core = bare.lstrip("$€£").replace(" ", "").replace("\u00a0", "").replace("'", "")
    head, _, tail = core.partition(".")
    groups = head.lstrip("-").split(",")
    if tail.isdecimal() or not tail:
        whole = all(group.isdecimal() for group in groups)
        if whole and len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:]):
            return float(core.replace(",", "")), "grouped"
        if whole and len(groups) == 1:
            return float(core), "grouped"
    return np.nan, "other"


def _cell_finding(
    kind: str, rows: Positions, cells: NDArray[Any], out: Array, where: tuple[str, int, NDArray[np.datetime64]]
) -> Finding:
    name, place, days = where
    first = str(cells[rows[0]])[:24]
    span = days[rows][~np.isnat(days[rows])]
    ends = (text_day(span.min()), text_day(span.max())) if span.size else ("", "")
    if kind == "grouped":
        edits = tuple(Edit(place, rows[i : i + 1], float(out[row])) for i, row in enumerate(rows))
        what = f"{len(rows)} cell(s) hold separators, signs of money or of percent, first '{first}'."
        return Finding("text", name, *ends, what, 1.0, "Write plain numbers.", True, edits)
    absent = kind == "absent"
    what = f"{len(rows)} cell(s) hold text, first '{first}'."
    remedy = "Leave a cell blank where nothing is known." if absent else "Correct it, or leave it blank."
    return Finding("text", name, *ends, what, 1.0, remedy, absent, (Edit(place, rows, None),) if absent else ())


def _repeated_rows(days: NDArray[np.datetime64], raw: Array) -> Positions:
    """Rows whose date and numbers were there before."""
    table = pd.DataFrame(raw)
    table["date"] = days
    again = table.duplicated().to_numpy() & ~np.isnat(days)
    return np.flatnonzero(again).astype(np.int64)


def _one_a_date(days: NDArray[np.datetime64], raw: Array) -> Positions:
    """Rows to read, oldest first; of rows with one date, the one with most numbers, and the first of those."""
    known = np.flatnonzero(~np.isnat(days))
    empty = np.isnan(raw[known]).sum(axis=1)
    order = known[np.lexsort((known, empty, days[known].astype(np.int64)))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = days[order][1:] != days[order][:-1]
    return order[first].astype(np.int64)
