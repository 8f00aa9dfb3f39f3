"""Factors built from the assets' own returns, where none were given. Everything at row t uses rows up to t only.

    market_t         = mean of r_i,t over the names tradeable at t-1
    momentum_t       = mean of r over the third with the highest return from t-1-12 months to t-1-1 month
                       - mean of r over the third with the lowest
    low_volatility_t = mean of r over the third with the lowest standard deviation over the 12 months to t-1
                       - mean of r over the third with the highest
    size_proxy_t     = mean of r over the third with the smallest size at t-1
                       - mean of r over the third with the largest

Sorts are renewed at the first observed date of a month from data up to the row before it, and the legs are equally
weighted. Shares outstanding are not in prices, hence *proxy*: size is the mean traded value (price x volume) over 12
months where volume and prices are there; else the growth in value over the last five years (at least two), relative
market value if share counts had stood still. Both are crude; own factor files are better.

A name takes part when it is tradeable at t-1 and has been observed on at least 80% of the rows of the window. With
fewer than three such names a sort is blank (NaN), as it is before its window is full.

Sources: Jegadeesh and Titman (1993), Journal of Finance 48, for 12-1 momentum; Ang, Hodrick, Xing and Zhang (2006),
Journal of Finance 61, for volatility sorts; Banz (1981), Journal of Financial Economics 9, for size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.calendar import Monthly, periods_per_year

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BUILT = ("market", "momentum", "low_volatility", "size_proxy")
"""Names of the factors `build` gives, in order."""

OBSERVED = 0.8
"""Share of a window's rows a name must have been observed on to be sorted."""


@dataclass(frozen=True)
class _History:
    """All rows, and running totals of log growth and of rows seen: what a window holds is the difference of two.

    Squares are not kept so: one absurd return would leave its rounding in every difference after it.
    """

    returns: Array
    value: Array | None
    logs: Array
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, returns: Array, value: Array | None) -> _History:
        known = np.isfinite(returns)
        # A total loss has no logarithm; one of all but 1e-12 sorts the same.
        logs = np.log1p(np.maximum(np.where(known, returns, 0.0), 1e-12 - 1.0))
        return cls(returns, value, _running(logs), _running(known))


@dataclass(frozen=True)
class _View:
    """What a sort may see at a formation: the first `end` rows, `year` rows being 12 months."""

    history: _History
    end: int
    year: int

    def growth(self, longest: int, skip: int, shortest: int) -> Array:
        """Log growth from `longest` rows ago to `skip` rows ago; blank with fewer than `shortest` rows."""
        end = self.end - skip
        start = max(0, end - longest)
        logs, counts = self.history.logs, self.history.counts
        if end - start < shortest:
            return np.full(logs.shape[1], np.nan)
        seen = counts[end] - counts[start] >= OBSERVED * (end - start)
        return np.where(seen, logs[end] - logs[start], np.nan)

    def recent(self, data: Array, statistic: Callable[[Array], Array]) -> Array:
        """A statistic of the last 12 months' rows of `data`; blank where they are not full."""
        window = data[max(0, self.end - self.year) : self.end]
        found = np.full(data.shape[1], np.nan)
        if len(window) == self.year:
            enough = np.isfinite(window).mean(axis=0) >= OBSERVED
            if enough.any():
                found[enough] = statistic(window[:, enough])
        return found


def build(
    dates: NDArray[np.datetime64],
    returns: Array,
    tradeable: Mask,
    value: Array | None = None,
) -> Array:
    """The built factors' simple returns, (T, 4) in the order of `BUILT`, NaN where there is not enough history.

    Args:
        dates: (T,).
        returns: (T, n), NaN where not observed.
        tradeable: (T, n).
        value: traded value (price x volume), (T, n), or None.

    Example:
        >>> dates = np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")
        >>> build(dates, np.array([[np.nan, np.nan], [0.1, 0.3]]), np.ones((2, 2), bool))[1]
        array([0.2, nan, nan, nan])
    """
    out = np.full((len(dates), len(BUILT)), np.nan)
    members = np.isfinite(returns)
    members[1:] &= tradeable[:-1]
    out[:, 0] = _mean(returns, members)
    history = _History.of(returns, value)
    starts = np.flatnonzero(Monthly().decisions(dates))
    for start, end in zip(starts, [*starts[1:], len(dates)], strict=True):
        if start == 0:
            continue
        view = _View(history, int(start), round(periods_per_year(dates[:start])))
        for column, score in enumerate((_momentum(view), _calm(view), _small(view)), start=1):
            legs = _legs(score, tradeable[start - 1])
            if legs is not None:
                high, low = (_mean(returns[start:end, leg], members[start:end, leg]) for leg in legs)
                out[start:end, column] = high - low
    return out


def _momentum(view: _View) -> Array:
    month = max(1, round(view.year / 12))
    return view.growth(view.year - month, month, max(1, view.year - month))


def _calm(view: _View) -> Array:
    return -view.recent(view.history.returns, lambda window: np.asarray(np.nanstd(window, axis=0)))


def _small(view: _View) -> Array:
    if view.history.value is not None:
        return -view.recent(view.history.value, lambda window: np.asarray(np.nanmean(window, axis=0)))
    return -view.growth(5 * view.year, 0, 2 * view.year)


def _running(data: NDArray[Any]) -> NDArray[Any]:
    """Totals before each row and after the last one, (T + 1, n)."""
    total = np.zeros((len(data) + 1, data.shape[1]), dtype=np.int64 if data.dtype == bool else data.dtype)
    np.cumsum(data, axis=0, out=total[1:])
    return total


def _legs(score: Array, tradeable: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Columns of the third with the highest scores and of the third with the lowest; ties by column order."""
    there = np.flatnonzero(np.isfinite(score) & tradeable)
    if there.size < 3:
        return None
    order = there[np.argsort(score[there], kind="stable")]
    third = there.size // 3
    return order[-third:], order[:third]


def _mean(returns: Array, members: Mask) -> Array:
    """Mean over the members of each row, NaN where there are none."""
    count = members.sum(axis=1)
    total = np.where(members, returns, 0.0).sum(axis=1)
    mean: Array = np.divide(total, count, out=np.full(len(returns), np.nan), where=count > 0)
    return mean
