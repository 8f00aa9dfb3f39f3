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

from portfolio_ebm.data.clean import Table
from portfolio_ebm.data.dates import day
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Dates = NDArray[np.datetime64]

LARGE = 1.45
"""Splits from here on (or below its inverse) show in a price: a fall of a third is no ordinary day."""


@dataclass(frozen=True)
class _Events:
    """What happens on each date that has an action: blank cells are 0 in `cash` and 1 in `ratio`."""

    dates: Dates
    cash: Array
    ratio: Array


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
    events = _events(len(assets), dividends, splits)
    period = np.searchsorted(dates, events.dates, side="left")
    out = np.full(prices.shape, np.nan)
    last = np.full(len(assets), np.nan)
    cash, shares = np.zeros(len(assets)), np.ones(len(assets))
    started = np.zeros(len(assets), dtype=bool)
    booked = [0, 0]
    position = 0
    for row in range(len(dates)):
        while position < len(period) and period[position] <= row:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                shares = shares * events.ratio[position]
                cash = cash / events.ratio[position] + events.cash[position]
            _check_size(events, position, cash, shares, last, assets, dividends)
            booked[0] += int((started & (events.cash[position] != 0.0)).sum())
            booked[1] += int((started & (events.ratio[position] != 1.0)).sum())
            position += 1
        there = np.isfinite(prices[row])
        # Where nothing happened this is p / last - 1 to the bit, as without actions.
        known = there & started
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.where((cash == 0.0) & (shares == 1.0), prices[row], (prices[row] + cash) * shares)
            out[row, known] = value[known] / last[known] - 1.0
        last[there], started = prices[row, there], started | there
        cash[there], shares[there] = 0.0, 1.0
    late = events.dates[position:].size > 0 or bool(((cash != 0.0) | (shares != 1.0))[started].any())
    if splits is not None:
        _check_unadjusted(dates, assets, prices, splits)
    return out, _told(booked, late, cash, shares, started, assets)


def _events(n: int, dividends: Table | None, splits: Table | None) -> _Events:
    """Both tables on the union of their dates."""
    tables = [item for item in (dividends, splits) if item is not None]
    dates = np.unique(np.concatenate([item.dates for item in tables])) if tables else np.zeros(0, "datetime64[ns]")
    cash, ratio = np.zeros((len(dates), n)), np.ones((len(dates), n))
    if dividends is not None:
        cash[np.searchsorted(dates, dividends.dates)] = np.nan_to_num(dividends.values)
    if splits is not None:
        ratio[np.searchsorted(dates, splits.dates)] = np.where(np.isfinite(splits.values), splits.values, 1.0)
    acts = ((cash != 0.0) | (ratio != 1.0)).any(axis=1)
    return _Events(dates[acts], cash[acts], ratio[acts])


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


def _check_size(
    events: _Events,
    position: int,
    cash: Array,
    shares: Array,
    last: Array,
    assets: tuple[str, ...],
    dividends: Table | None,
) -> None:
    """What is paid on one share is not more than the share was worth, and no number is beyond all bounds."""
    with np.errstate(invalid="ignore", over="ignore"):
        large = events.cash[position] * shares > last
        wild = ~np.isfinite(cash) | ~np.isfinite(shares) | (shares <= 0.0)
    when = day(events.dates[position])
    if large.any():
        column = int(np.flatnonzero(large)[0])
        paid, price = events.cash[position, column], last[column] / shares[column]
        source = "dividends" if dividends is None else dividends.source
        raise DataError(
            f"{source}: column '{assets[column]}', {when}: the dividend of {paid:g} is larger than the price "
            f"before it ({price:g} after splits); is it in cents, or are the prices adjusted already?"
        )
    if wild.any():
        raise DataError(
            f"{assets[int(np.flatnonzero(wild)[0])]}, {when}: the splits up to here multiply to no usable number; "
            "correct them."
        )


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


def _told(
    booked: list[int], late: bool, cash: Array, shares: Array, started: NDArray[np.bool_], assets: tuple[str, ...]
) -> list[str]:
    told = [
        f"Returns are total returns of prices as traded, with {booked[0]} dividend(s) and {booked[1]} split(s) in them."
    ]
    waiting = [assets[k] for k in np.flatnonzero(started & ((cash != 0.0) | (shares != 1.0)))]
    if waiting:
        told.append(
            f"Dividends or splits after the last price of {len(waiting)} name(s) ({', '.join(waiting[:3])}) are not "
            "booked; delistings= gives a final return."
        )
    elif late:
        told.append("Dividends or splits after the last date of the panel are not booked.")
    return told
