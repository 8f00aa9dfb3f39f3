"""A long table (one row a date and name) as the doctor reads it, and the way back to its rows.

    date, ticker, close, volume  ->  closes: dates x names;  parts: volume, ...;  origin(t, i): the user's row, or -1

Columns are known by their names where these are usual (`portfolio_ebm.data.long`), else the one column of words holds
the names and the first one of numbers the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.columns import ASSET, DATE, plain
from portfolio_ebm.data.doctor.finding import Edit, Finding, Rows
from portfolio_ebm.data.doctor.stamps import as_index, read_dates, text_day
from portfolio_ebm.data.long import ADJUSTED, ROLES

WIDEST = 12
"""A table of more columns is long only if it calls one of them asset, ticker, ..."""

MOST_CELLS = 400_000_000

_BESIDE = {"volume": ROLES["volume"], "dividends": ROLES["dividends"], "adjusted": ADJUSTED}
_VALUES = tuple(name for name in (*ROLES["prices"], *ROLES["returns"]) if name not in ADJUSTED)


@dataclass(frozen=True)
class Melted:
    """The wide table in a long one: dates down and names across, cells as they are written.

    Attributes:
        origin: row of the user's frame that a cell of `wide` came from, (T, N), -1 where there is none.
        place: position of the column of values in the user's frame.
        rows: the user's rows, for `fix`.
        repeats: rows whose date and name were there before.
    """

    wide: pd.DataFrame
    parts: dict[str, pd.DataFrame]
    origin: NDArray[np.int64]
    place: int
    rows: Rows
    repeats: NDArray[np.int64]

    def told(self) -> list[Finding]:
        """That it is long, and pairs of date and name that are there twice."""
        name = self.rows.columns[self.place]
        what = f"one row a date and name: a long table, column '{name}' examined as dates x names."
        told = [Finding("layout", "", "", "", what, 1.0, "Nothing need be done.")]
        if self.repeats.size and self.rows.names is not None:
            row = int(self.repeats[0])
            who, when = self.rows.names[row], text_day(self.rows.dates[row])
            what = f"{self.repeats.size} row(s) repeat a date and name, first row {row + 1}; the last one was read."
            told.append(Finding("date", who, when, when, what, 1.0, "Keep one row a date and name."))
        return told

    def back(self, item: Finding) -> Finding:
        """A finding about `wide` with its edits where they are in the user's frame; those of dates are not made."""
        if item.kind == "layout":
            return item
        edits = []
        for edit in item.edits if item.kind != "date" else ():
            rows = self.origin[edit.rows, edit.column]
            if (rows >= 0).any():
                edits.append(Edit(self.place, rows[rows >= 0], edit.value, edit.scale))
        return replace(item, fixable=item.fixable and bool(edits), edits=tuple(edits))


def melted(frame: pd.DataFrame) -> Melted | None:
    """The wide table in a long one, None where `frame` is not long."""
    if len(frame) < 4 or isinstance(frame.columns, pd.MultiIndex) or not frame.columns.is_unique:
        return None
    flat = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    if flat.shape[1] < 3 or not flat.columns.is_unique:
        return None
    found = _columns(flat)
    if found is None:
        return None
    date, asset, values, beside = found
    days, _ = read_dates(as_index(flat[date]))
    if np.isnat(days).mean() > 0.1 or len(pd.unique(flat[date])) == len(flat):
        return None
    names = flat[asset].astype(str).str.strip()
    when, dates = pd.factorize(flat[date], use_na_sentinel=False)
    who, known = pd.factorize(names)
    if len(known) > 0.5 * len(flat) or len(dates) * len(known) > MOST_CELLS:
        return None
    origin = np.full((len(dates), len(known)), -1, dtype=np.int64)
    origin[when, who] = np.arange(len(flat))
    repeats = np.flatnonzero(pd.Series(when * len(known) + who).duplicated().to_numpy()).astype(np.int64)
    none = np.empty(0, np.int64)
    place = list(flat.columns).index(values) - (flat.shape[1] - frame.shape[1])
    if place < 0:
        return None
    rows = Rows(days, frame.index, frame.columns, None, none, tuple(names))
    wide = _wide(flat[values], origin, dates, known)
    wide.attrs = dict(frame.attrs)
    parts = {role: _wide(flat[name], origin, dates, known) for role, name in beside.items()}
    return Melted(wide, parts, origin, place, rows, repeats)


def _columns(flat: pd.DataFrame) -> tuple[Any, Any, Any, dict[str, Any]] | None:
    """The columns of dates, of names and of values, and what is beside them."""
    said = {name: plain(name) for name in flat.columns}
    dates = [name for name in said if said[name] in DATE] or [
        name for name in said if flat[name].dtype.kind == "M" or said[name] in ("time", "index")
    ]
    assets = [name for name in said if said[name] in ASSET]
    if not assets and flat.shape[1] > WIDEST:
        return None
    date = dates[0] if dates else flat.columns[0]
    rest = [name for name in flat.columns if name != date]
    numeric = [name for name in rest if name not in assets and _numeric(flat[name])]
    if not assets:
        assets = [name for name in rest if name not in numeric and _words(flat[name])]
    beside = {role: _first(numeric, said, names) for role, names in _BESIDE.items()}
    taken = [name for role, name in beside.items() if name is not None]
    plainly = _first(numeric, said, _VALUES)
    if plainly is None and beside["adjusted"] is not None:
        plainly, beside["adjusted"] = beside["adjusted"], None
    values = plainly if plainly is not None else next((name for name in numeric if name not in taken), None)
    if values is None or len(assets) != 1:
        return None
    return date, assets[0], values, {role: name for role, name in beside.items() if name is not None}


def _first(columns: Sequence[Any], said: dict[Any, str], names: Sequence[str]) -> Any:
    return next((column for name in names for column in columns if said[column] == name), None)


def _numeric(column: pd.Series[Any]) -> bool:
    """Numbers, or text of which more than half can be read as such."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.dtype.kind in "iuf"
    if column.dtype.kind not in "OUT" and str(column.dtype) not in ("object", "str", "string"):
        return False
    text = column.map(lambda cell: str(cell).strip(" $€£%").replace(",", "") if isinstance(cell, str) else cell)
    some = text[[not (cell is None or (isinstance(cell, str) and not cell)) for cell in text]]
    return bool(len(some)) and bool(pd.to_numeric(some, errors="coerce").notna().mean() > 0.5)


def _words(column: pd.Series[Any]) -> bool:
    return str(column.dtype) in ("object", "str", "string", "category")


def _wide(column: pd.Series[Any], origin: NDArray[np.int64], dates: Any, names: Any) -> pd.DataFrame:
    cells = column.to_numpy(dtype=object if column.dtype.kind not in "iuf" else np.float64, na_value=np.nan)
    found = cells[np.maximum(origin, 0)]
    found[origin < 0] = np.nan
    return pd.DataFrame(found, index=pd.Index(dates), columns=pd.Index(names))
