"""Everything onto the panel's dates, causally: entry i uses what was dated up to `dates[i]` only.

A period is what lies after the panel's previous date and up to its own. Prices take the last one of the period,
returns compound over it, and both are blank where the period has none; standing values (forecasts, cash rates) hold
until they are replaced. Coarser data than the panel (monthly factors under daily prices) are refused.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.clean import Table, check_known, check_overlap, table
from portfolio_ebm.data.long import ROLES, VALUES, single
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Dates = NDArray[np.datetime64]


def gap_returns(prices: Array) -> Array:
    """Simple returns between observed prices, (T, n): over a gap the return stands on the day the price is back.

    Example:
        >>> gap_returns(np.array([[100.0], [np.nan], [110.0]]))[:, 0].round(3)
        array([nan, nan, 0.1])
    """
    seen = np.isfinite(prices)
    out = np.full(prices.shape, np.nan)
    both = seen[1:] & seen[:-1]
    with np.errstate(over="ignore"):
        np.divide(prices[1:], prices[:-1], out=out[1:], where=both)
        out -= 1.0
        starts = (seen[1:] & ~both).sum(axis=0) + seen[0]
        for column in np.flatnonzero(starts > 1):  # it was away and came back
            known = np.flatnonzero(seen[:, column])
            out[known[1:], column] = prices[known[1:], column] / prices[known[:-1], column] - 1.0
    return out


def last_prices(prices: Array) -> Array:
    """The last known price of each name, (n,), NaN where there was none yet."""
    found = np.array(prices[-1])
    for spot in np.flatnonzero(~np.isfinite(found)):
        known = np.flatnonzero(np.isfinite(prices[:, spot]))
        if known.size:
            found[spot] = prices[known[-1], spot]
    return found


def price_periods(found: Table, dates: Dates) -> Array:
    """The last price within each period, (T, k)."""
    period = _periods(found, dates)
    out = np.full((len(dates), len(found.columns)), np.nan)
    for row, target in enumerate(period):
        if target >= 0:
            out[target] = np.where(np.isfinite(found.values[row]), found.values[row], out[target])
    return out


def return_periods(found: Table, dates: Dates) -> Array:
    """Returns compounded within each period, (T, k); blank where a part of it is."""
    period = _periods(found, dates)
    out = np.full((len(dates), len(found.columns)), np.nan)
    for row, target in enumerate(period):
        # The first period has no start: only a return of the very date can be its own.
        if target > 0 or (target == 0 and found.dates[row] == dates[0]):
            first = target == 0 or row == 0 or period[row - 1] != target
            out[target] = found.values[row] if first else (1.0 + out[target]) * (1.0 + found.values[row]) - 1.0
    return out


def standing(found: Table, dates: Dates) -> Array:
    """The last row dated on or before each date, (T, k); its blanks stay blank, and there is none before the first."""
    row = np.searchsorted(found.dates, dates, side="right") - 1
    return np.where(row[:, None] >= 0, found.values[np.maximum(row, 0)], np.nan)


def check_coverage(found: Table, dates: Dates) -> None:
    """A table is about as dense as the panel where both have dates.

    Raises:
        DataError: no date in common, or a table much sparser than the panel.
    """
    check_overlap(dates, found)
    first, last = np.searchsorted(dates, found.dates[0]), np.searchsorted(dates, found.dates[-1], side="right")
    inside = int(last - first)
    filled = np.unique(_periods(found, dates))
    got = int((filled >= 0).sum())
    if inside > 4 and got < 0.5 * inside:
        raise DataError(
            f"{found.source}: has data in {got} of the panel's {inside} periods between {found.day(0)} and "
            f"{found.day(-1)}: its dates are sparser than the panel's. Give both at one frequency."
        )


def by_asset(data: object, what: str, assets: tuple[str, ...]) -> Table:
    """A table with a column for every asset, in the panel's order; names without one are blank. It may be long.

    Raises:
        DataError: a column that is no asset of the panel.
    """
    long = single(data, what, ROLES.get(what, VALUES)) if isinstance(data, pd.DataFrame) else None
    found = table(data if long is None else long, what, allow_blank=True)
    check_known(found.columns, assets, found.source)
    if found.columns == assets:
        return found
    values = np.full((len(found.dates), len(assets)), np.nan)
    place = {name: k for k, name in enumerate(assets)}
    values[:, [place[name] for name in found.columns]] = found.values
    return Table(found.source, found.dates, assets, values)


def _periods(found: Table, dates: Dates) -> NDArray[np.intp]:
    """The panel row whose period each row falls in; -1 after the panel and well before its first date.

    What comes before the panel's first date belongs to the first period where it is the table's last row up to there
    and no older than the step before it (a week where there is none): rows after the first date are not looked at.
    """
    period = np.searchsorted(dates, found.dates, side="left")
    period[period == len(dates)] = -1
    first = int(np.searchsorted(found.dates, dates[0], side="right")) - 1
    step = found.dates[first] - found.dates[first - 1] if first > 0 else np.timedelta64(7, "D")
    period[found.dates <= dates[0] - step] = -1
    return period
