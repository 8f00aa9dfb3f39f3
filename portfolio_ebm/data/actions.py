"""Dividends and splits: total returns of prices as they were traded.

    r_t = (p_t + d_t) s_t / p_s - 1

s is the last date with a price, s_t the new shares for one old share from t on, d_t the cash per new share with
ex-date t. Actions of days without a price are carried to the next one that has a price. One share at s becomes
N_u = s_(s+1) ... s_u shares after the splits up to u and receives d_u N_u in cash on the way, so that with N = N_t

    r_t = (N p_t + sum_u N_u d_u) / p_s - 1 = N (p_t + D) / p_s - 1,    D = sum_u d_u / (s_(u+1) ... s_t):

splits multiply, dividends add, and a dividend of before a split is divided by it. The cash waits, it is not
reinvested over the gap. Each return uses what was dated between s and t only; what comes after a name's last price is
not booked and told.

Source: the holding-period total return as CRSP defines it (Data Descriptions Guide, "Total Return").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.align import gap_returns
from portfolio_ebm.data.clean import Table
from portfolio_ebm.data.dates import day
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Dates = NDArray[np.datetime64]

LARGE = 1.45
"""Splits from here on (or below its inverse) show in a price: a fall of a third is no ordinary day."""


@dataclass(frozen=True)
class _Events:
    """Every name and day of the panel with an action, by name and then by day, (E,).

    Attributes:
        dates: as given; `column`: the name's place.
        cash: a new share, 0 where none; `ratio`: new shares for one old, 1 where none.
        after: the panel's first row from the day on with a price, T where there is none any more.
        last: the last price before the day, NaN where there was none yet.
    """

    dates: Dates
    column: NDArray[np.intp]
    cash: Array
    ratio: Array
    after: NDArray[np.intp]
    last: Array


def total_returns(
    dates: Dates, assets: tuple[str, ...], prices: Array, dividends: Table | None, splits: Table | None
) -> tuple[Array, list[str]]:
    """Total simple returns between observed prices, (T, n), and what there is to tell.

    Args:
        dates: (T,).
        assets: names of the n columns.
        prices: as traded, (T, n), NaN where there was none.
        dividends: cash per share with these ex-dates, n columns; dates need not be the panel's.
        splits: new shares for one old, n columns.

    Raises:
        DataError: a negative dividend or one larger than the price before it, a split of zero or less, or prices that
            do not move with the splits and so are adjusted for them already.

    Example:
        >>> days = np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")
        >>> split = Table("splits", days[1:], ("A",), np.array([[2.0]]))
        >>> total_returns(days, ("A",), np.array([[100.0], [55.0]]), None, split)[0][:, 0].round(3)
        array([nan, 0.1])
    """
    _check_signs(dividends, splits)
    out = gap_returns(prices)
    events, late = _events(dates, prices, dividends, splits)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        first, cash, shares = _carried(events, assets, "dividends" if dividends is None else dividends.source)
        acts = (cash != 0.0) | (shares != 1.0)
        row, column, last = events.after[first], events.column[first], events.last[first]
        # Where nothing happened on the way the return stays p / last - 1 to the bit, as without actions.
        booked = np.flatnonzero(acts & (row < len(dates)) & np.isfinite(last))
        row, column = row[booked], column[booked]
        out[row, column] = (prices[row, column] + cash[booked]) * shares[booked] / last[booked] - 1.0
    if splits is not None:
        _check_unadjusted(dates, assets, prices, splits)
    waits = acts & (events.after[first] == len(dates)) & np.isfinite(last)
    return out, _told(events, [assets[k] for k in events.column[first[waits]]], late)


def _events(dates: Dates, prices: Array, dividends: Table | None, splits: Table | None) -> tuple[_Events, bool]:
    """Both tables as one list, and whether something is dated after the panel; a split of 1 is no event."""
    tables = [(item, nothing) for item, nothing in ((dividends, 0.0), (splits, 1.0)) if item is not None]
    cells = [np.nonzero(np.isfinite(item.values) & (item.values != nothing)) for item, nothing in tables]
    days = np.concatenate([item.dates[rows] for (item, _), (rows, _) in zip(tables, cells, strict=True)])
    column = np.concatenate([columns for _, columns in cells])
    value = np.concatenate([item.values[spot] for (item, _), spot in zip(tables, cells, strict=True)])
    paid = np.concatenate(
        [np.full(len(spot[0]), item is dividends) for (item, _), spot in zip(tables, cells, strict=True)]
    )
    order = np.lexsort((days, column))
    days, column, value, paid = days[order], column[order], value[order], paid[order]
    row = np.searchsorted(dates, days, side="left")
    inside = row < len(dates)
    # A dividend on the day of a split is per new share: the two are one event.
    fresh = np.ones(len(days), dtype=bool)
    fresh[1:] = (np.diff(column) != 0) | (np.diff(days) != np.timedelta64(0))
    event = np.cumsum(fresh) - 1
    cash, ratio = np.zeros(int(fresh.sum())), np.ones(int(fresh.sum()))
    cash[event[paid]], ratio[event[~paid]] = value[paid], value[~paid]
    kept = fresh & inside
    before, after = _around(prices, row[kept], column[kept])
    last = np.where(before >= 0, prices[np.maximum(before, 0), column[kept]], np.nan)
    cash, ratio = cash[inside[fresh]], ratio[inside[fresh]]
    return _Events(days[kept], column[kept], cash, ratio, after, last), not inside.all()


def _around(
    prices: Array, row: NDArray[np.intp], column: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each place the last row before it with a price (-1: none) and the first from it on (T: none).

    Columns are in order, each together.
    """
    before, after = row - 1, row.copy()
    far = np.flatnonzero((row == 0) | ~np.isfinite(prices[row, column]) | ~np.isfinite(prices[before, column]))
    for these in np.split(far, np.flatnonzero(np.diff(column[far])) + 1):
        if these.size:
            known = np.flatnonzero(np.isfinite(prices[:, column[these[0]]]))
            at = np.searchsorted(known, row[these], side="left")
            before[these], after[these] = np.append(-1, known)[at], np.append(known, len(prices))[at]
    return before, after


def _check_signs(dividends: Table | None, splits: Table | None) -> None:
    with np.errstate(invalid="ignore"):
        if dividends is not None and (dividends.values < 0.0).any():
            row, column = (int(item[0]) for item in np.nonzero(dividends.values < 0.0))
            raise DataError(
                f"{dividends.where(row, column)}: the dividend is negative ({dividends.values[row, column]:g}); leave "
                "the cell blank where none was paid."
            )
        if splits is not None and (splits.values <= 0.0).any():
            row, column = (int(item[0]) for item in np.nonzero(splits.values <= 0.0))
            raise DataError(
                f"{splits.where(row, column)}: a split of {splits.values[row, column]:g} new shares for one old leaves "
                "nothing; give 2 for two for one, 0.1 for one for ten, and leave the cell blank where there was none "
                "(frame.replace(0.0, np.nan))."
            )


def _carried(events: _Events, assets: tuple[str, ...], source: str) -> tuple[NDArray[np.intp], Array, Array]:
    """What is waiting at each price that has events before it: the first of these, cash a share D, and shares N.

    Raises:
        DataError: what is paid on one share is more than the share was worth, or a number beyond all bounds.
    """
    first = np.flatnonzero((np.diff(events.column, prepend=-1) != 0) | (np.diff(events.after, prepend=-1) != 0))
    counts = np.diff(np.append(first, len(events.column)))
    cash, shares = np.zeros(len(first)), np.ones(len(first))
    wrong: list[tuple[np.datetime64, int, int, str]] = []
    for step in range(int(counts.max(initial=0))):  # all first events, then all second ones, ...
        there = np.flatnonzero(counts > step)
        at = first[there] + step
        shares[there] *= events.ratio[at]
        cash[there] = cash[there] / events.ratio[at] + events.cash[at]
        for k in np.flatnonzero(events.cash[at] * shares[there] > events.last[at]):
            paid, price = events.cash[at[k]], events.last[at[k]] / shares[there[k]]
            why = f"the dividend of {paid:g} is larger than the price before it ({price:g} after splits); is it in "
            name, when = int(events.column[at[k]]), events.dates[at[k]]
            text = f"{source}: column '{assets[name]}', {day(when)}: {why}cents, or are the prices adjusted already?"
            wrong.append((when, 0, name, text))
        for k in np.flatnonzero(~np.isfinite(cash[there]) | ~np.isfinite(shares[there]) | (shares[there] <= 0.0)):
            name, when = int(events.column[at[k]]), events.dates[at[k]]
            text = f"{assets[name]}, {day(when)}: the splits up to here multiply to no usable number; correct them."
            wrong.append((when, 1, name, text))
    if wrong:
        raise DataError(min(wrong)[-1])
    return first, cash, shares


def _check_unadjusted(dates: Dates, assets: tuple[str, ...], prices: Array, splits: Table) -> None:
    """Prices as traded move by the inverse of a split; where most do not, they are adjusted for splits already."""
    seen: list[tuple[float, str]] = []
    with np.errstate(invalid="ignore"):
        rows, columns = np.nonzero((splits.values >= LARGE) | (splits.values <= 1.0 / LARGE))
    for row, column in zip(rows, columns, strict=True):
        at = int(np.searchsorted(dates, splits.dates[row], side="left"))
        known = np.flatnonzero(np.isfinite(prices[:, column]))
        after, before = known[known >= at], known[known < at]
        if after.size and before.size:
            move = float(np.log(prices[after[0], column] / prices[before[-1], column]))
            ratio = float(np.log(splits.values[row, column]))
            text = (
                f"{assets[column]} {splits.day(int(row))} ({splits.values[row, column]:g} for 1, price "
                f"{prices[before[-1], column]:g} to {prices[after[0], column]:g})"
            )
            seen.append((abs(move + ratio) - abs(move), text))
    still = [text for excess, text in seen if excess > 0.0]
    if len(still) > len(seen) / 2:
        raise DataError(
            f"{splits.source}: the prices do not move on {len(still)} of {len(seen)} splits, such as {still[0]}: they "
            "are adjusted for splits already. Leave splits out (dividends must then be per adjusted share), or give "
            "prices as traded."
        )


def _told(events: _Events, waiting: list[str], late: bool) -> list[str]:
    held = np.isfinite(events.last)
    paid, split = int((held & (events.cash != 0.0)).sum()), int((held & (events.ratio != 1.0)).sum())
    told = [f"Returns are total returns of prices as traded, with {paid} dividend(s) and {split} split(s) in them."]
    if waiting:
        told.append(
            f"Dividends or splits after the last price of {len(waiting)} name(s) ({', '.join(waiting[:3])}) are not "
            "booked; delistings= gives a final return."
        )
    elif late:
        told.append("Dividends or splits after the last date of the panel are not booked.")
    return told
