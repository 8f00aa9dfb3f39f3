"""Final returns of names whose prices end: what a holder got after the last price.

A final return is booked on the first date of the panel after the name's last price, and where a day is given on the
first date on or after it. On that date what is held turns into cash; until then it stands at its last price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.clean import check_known
from portfolio_ebm.data.columns import ASSET, asset_names, column, flat, need
from portfolio_ebm.data.dates import column_days, day
from portfolio_ebm.data.reading import numbers
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Dates = NDArray[np.datetime64]
Final = dict[str, tuple[float, np.datetime64 | None]]

RETURN = ("return", "returns", "ret", "final_return", "delisting_return", "dlret")
DATE = ("date", "delisting_date", "delisted", "dlstdt", "day")


def read(given: object, assets: tuple[str, ...]) -> Final:
    """By name, the final return and its day (None: the first date after the last price).

    Args:
        given: `{"name": return}`, a Series, or a frame with the columns asset, return and, if known, date.
        assets: the panel's names.

    Raises:
        DataError: an unknown or repeated name, a return that is none or is below -1, a day that is none.
    """
    if given is None:
        return {}
    if isinstance(given, pd.DataFrame):
        return _frame(given, assets)
    if not isinstance(given, Mapping | pd.Series):
        raise DataError(f"delistings: got {type(given).__name__}; give {{'name': final return}}, or a frame of them.")
    found: Final = {}
    for name, item in given.items():
        try:
            found[str(name)] = (float(item), None)
        except (TypeError, ValueError):
            raise DataError(f"delistings: '{str(item)[:24]}' of '{name}' is no final return; give a decimal.") from None
    return _checked(found, assets, "delistings")


def book(
    returns: Array, tradeable: NDArray[np.bool_], dates: Dates, assets: tuple[str, ...], final: Final, notes: list[str]
) -> tuple[Array, dict[str, float]]:
    """The returns with the final ones in them, and the final returns by name.

    Names that trade to the end get none, as the end has not come; days after the panel's last are left out and told.

    Raises:
        DataError: a day before the last price of its name.
    """
    out, kept = returns.copy() if final else returns, {name: item for name, (item, _) in final.items()}
    days = dates.astype("datetime64[D]")
    for name, (item, when) in final.items():
        spot = assets.index(name)
        last = int(np.flatnonzero(tradeable[:, spot])[-1])
        if when is not None and when < days[last]:
            raise DataError(
                f"delistings: '{name}' is delisted on {day(when)} and has a price on {day(dates[last])}, after that; "
                "correct the date, or blank the prices from there on."
            )
        row = last + 1 if when is None else max(last + 1, int(np.searchsorted(days, when, side="left")))
        if row < len(out):
            out[row, spot] = item
        elif when is not None and when > days[-1]:
            del kept[name]
            notes.append(f"delistings: the one of '{name}' on {day(when)} is after the panel's last date; left out.")
    return out, kept


def _frame(given: pd.DataFrame, assets: tuple[str, ...]) -> Final:
    frame = flat(given)
    source = str(given.attrs.get("source", "delistings"))
    if column(frame, ASSET, source, "name of the asset") is None and not isinstance(given.index, pd.RangeIndex):
        frame = given.rename_axis(index="asset").reset_index()
    key = need(frame, ASSET, source, "name of the asset")
    worth = need(frame, RETURN, source, "final return")
    when = column(frame, DATE, source, "day of the delisting")
    names = asset_names(frame[key], source)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{source}: '{twice}' is there {names.count(twice)} times; a name is delisted once.")
    values = numbers(frame[worth], source)
    days: Any = [None] * len(names)
    if when is not None:
        read_days = column_days(frame[when], source, when, blank=True)
        days = [None if np.isnat(item) else item for item in read_days]
    return _checked({n: (float(v), d) for n, v, d in zip(names, values, days, strict=True)}, assets, source)


def _checked(found: Final, assets: tuple[str, ...], source: str) -> Final:
    check_known(found, assets, source)
    for name, (item, _) in found.items():
        if not -1.0 <= item < np.inf:
            raise DataError(f"{source}: the final return of '{name}' is {item:g}; give a decimal of at least -1.")
    return found
