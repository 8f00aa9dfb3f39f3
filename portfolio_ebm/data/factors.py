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

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.calendar import Monthly, periods_per_year

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BUILT = ("market", "momentum", "low_volatility", "size_proxy")
"""Names of the factors `build` gives, in order."""

OBSERVED = 0.8
"""Share of a window's rows a name must have been observed on to be sorted."""


BLOCK = 16
"""Rows that are summed once; a window is the sum of its blocks and of the rows at its two ends."""

_TERMS: dict[str, Callable[[Array], Array]] = {
    "seen": lambda rows: np.isfinite(rows).sum(axis=0, dtype=np.float64),
    "sum": lambda rows: _filled(rows).sum(axis=0),
    "square": lambda rows: np.square(_filled(rows)).sum(axis=0),
    # A total loss has no logarithm; one of all but 1e-12 sorts the same.
    "log": lambda rows: np.log1p(np.maximum(_filled(rows), 1e-12 - 1.0)).sum(axis=0),
}


@dataclass(frozen=True)
class _Sums:
    """Sums by name over any rows of `data` (T, n): blanks are left out.

    Blocks stand on a grid that no later row moves. Running totals would be shorter, and one absurd return would leave
    its rounding in every difference after it.
    """

    data: Array
    blocks: dict[str, Array]

    @classmethod
    def of(cls, data: Array, *terms: str) -> _Sums:
        blocks = {term: np.zeros((len(data) // BLOCK, data.shape[1])) for term in terms}
        for term, sums in blocks.items():
            for k in range(len(sums)):
                sums[k] = _TERMS[term](data[k * BLOCK : (k + 1) * BLOCK])
        return cls(data, blocks)

    def __call__(self, term: str, rows: slice) -> Array:
        first, last = -(-rows.start // BLOCK), rows.stop // BLOCK
        if first >= last:
            return _TERMS[term](self.data[rows])
        head, tail = self.data[rows.start : first * BLOCK], self.data[last * BLOCK : rows.stop]
        total: Array = self.blocks[term][first:last].sum(axis=0)
        return total + _TERMS[term](head) + _TERMS[term](tail)


@dataclass(frozen=True)
class _View:
    """What a sort may see at a formation: the first `end` rows, `year` rows being 12 months."""

    returns: _Sums
    value: _Sums | None
    end: int
    year: int

    def back(self, longest: int, skip: int = 0) -> slice:
        """The rows from `longest` rows ago to `skip` rows ago."""
        return slice(max(0, self.end - longest), max(0, self.end - skip))

    def growth(self, longest: int, skip: int, shortest: int) -> Array:
        """Log growth over `back`; blank with fewer than `shortest` rows."""
        rows = self.back(longest, skip)
        length = rows.stop - rows.start
        seen = self.returns("seen", rows)
        return np.where((seen >= OBSERVED * length) & (length >= shortest), self.returns("log", rows), np.nan)

    def full(self, sums: _Sums) -> tuple[Array, Mask]:
        """How many of the last 12 months' rows are known, at least 1, and for which names these are enough."""
        rows = self.back(self.year)
        seen = sums("seen", rows)
        return np.maximum(seen, 1.0), (seen >= OBSERVED * self.year) & (rows.stop - rows.start == self.year)


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
    sums = _Sums.of(returns, *_TERMS)
    valued = None if value is None else _Sums.of(value, "seen", "sum")
    starts = [int(row) for row in np.flatnonzero(Monthly().decisions(dates)) if row > 0]
    for start, end in zip([0, *starts], [*starts, len(dates)], strict=True):
        members = np.isfinite(returns[start:end])
        members[start == 0 :] &= tradeable[max(start - 1, 0) : end - 1]
        out[start:end, 0] = _mean(returns[start:end], members)
        if start == 0:
            continue
        view = _View(sums, valued, start, round(periods_per_year(dates[:start])))
        for column, score in enumerate((_momentum(view), _calm(view), _small(view)), start=1):
            legs = _legs(score, tradeable[start - 1])
            if legs is not None:
                high, low = (_mean(returns[start:end, leg], members[:, leg]) for leg in legs)
                out[start:end, column] = high - low
    return out


def _momentum(view: _View) -> Array:
    month = max(1, round(view.year / 12))
    return view.growth(view.year, month, max(1, view.year - month))


def _calm(view: _View) -> Array:
    count, enough = view.full(view.returns)
    rows = view.back(view.year)
    mean = view.returns("sum", rows) / count
    variance = view.returns("square", rows) / count - mean * mean
    return np.where(enough, -np.sqrt(np.maximum(variance, 0.0)), np.nan)


def _small(view: _View) -> Array:
    if view.value is None:
        return -view.growth(5 * view.year, 0, 2 * view.year)
    count, enough = view.full(view.value)
    return np.where(enough, -view.value("sum", view.back(view.year)) / count, np.nan)


def _legs(score: Array, tradeable: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Columns of the third with the highest scores and of the third with the lowest; ties by column order."""
    there = np.flatnonzero(np.isfinite(score) & tradeable)
    if there.size < 3:
        return None
    order = there[np.argsort(score[there], kind="stable")]
    third = there.size // 3
    return order[-third:], order[:third]


def _filled(rows: Array) -> Array:
    return np.where(np.isfinite(rows), rows, 0.0)


def _mean(returns: Array, members: Mask) -> Array:
    """Mean over the members of each row, NaN where there are none."""
    count = members.sum(axis=1)
    total = np.where(members, returns, 0.0).sum(axis=1)
    mean: Array = np.divide(total, count, out=np.full(len(returns), np.nan), where=count > 0)
    return mean
