"""What columns are called in the files people have: which one holds the names, the dates, the numbers.

Names are compared in lower case with blanks, dots and hyphens as underscores. Two columns that could both be meant are
refused: which of `permno` and `ticker` names a company is the user's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.data.dates import is_none
from portfolio_ebm.data.reading import LONGEST
from portfolio_ebm.errors import DataError

ASSET = ("asset", "ticker", "symbol", "permno", "isin", "cusip", "sedol", "figi", "ric", "gvkey")
DATE = ("date", "datetime", "timestamp", "day", "caldt", "trade_date", "ex_date")


def plain(name: object) -> str:
    """A column's name as it is compared: " Adj Close" is adj_close."""
    return re.sub(r"[\s.\-]+", "_", str(name).strip().lower())


def column(frame: pd.DataFrame, known: Iterable[str], source: str, what: str) -> str | None:
    """The column of `frame` with one of the `known` names, None where there is none.

    Raises:
        DataError: two such columns.
    """
    names = set(known)
    found = [str(name) for name in frame.columns if plain(name) in names]
    if len(found) > 1:
        both = " and ".join(f"'{name}'" for name in found)
        raise DataError(f"{source}: columns {both} could both be the {what}; keep one of them.")
    return found[0] if found else None


def need(frame: pd.DataFrame, known: Iterable[str], source: str, what: str) -> str:
    """As `column`, and there must be one.

    Raises:
        DataError: there is none, or there are two.
    """
    found = column(frame, known, source, what)
    if found is None:
        there = ", ".join(str(name) for name in list(frame.columns)[:6])
        raise DataError(f"{source}: no column with the {what}; call it '{next(iter(known))}' (there is {there}).")
    return found


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its named index levels as columns in front; rows that are only numbered stay as they are."""
    source = frame.attrs.get("source")
    if not isinstance(frame.index, pd.RangeIndex):
        index = frame.index
        if isinstance(index, pd.DatetimeIndex | pd.PeriodIndex) and index.name is None:
            index = index.rename("date")
        taken = {str(name) for name in frame.columns}
        named = [str(name) for name in index.names if name is not None]
        if named and not taken & set(named):
            frame = frame.set_axis(index, axis=0).reset_index()
    frame = frame.set_axis([str(name).strip() for name in frame.columns], axis=1)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{source or 'table'}: column '{twice[0]}' is there more than once; keep one.")
    if source is not None:
        frame.attrs["source"] = source
    return frame


def asset_names(cells: pd.Series[Any], source: str) -> list[str]:
    """The names in a column, as text; numbers as whole numbers (10107, not 10107.0).

    Raises:
        DataError: a row without a name.
    """
    values = cells.to_numpy(dtype=object)
    out = []
    for row, item in enumerate(values, start=1):
        # In text "NA" and "nan" may be tickers; only what is blank is none.
        if (not item.strip()) if isinstance(item, str) else is_none(item):
            raise DataError(f"{source}: column '{cells.name}', row {row} has no name; write one, or remove the row.")
        if len(str(item)) > LONGEST:
            raise DataError(
                f"{source}: column '{cells.name}', row {row}: a name of {len(str(item)):,} characters "
                f"('{str(item)[:24]}...'); is this the column of names?"
            )
        whole = isinstance(item, float | np.floating) and float(item).is_integer()
        out.append(str(int(item)) if whole else str(item).strip())
    return out
