"""What the rules look at: log returns, the market of the day, and how large a move is for this name at this time.

    r(t, i) = log v(t, i) - log v(s, i),  s the last row before t with a number
    e = r - b m,  m the cross-sectional median of the day, b the name's winsorised slope on it, pulled towards 1
    z = e / (s d),  s the name's mean |e| of the 40 rows on each side, the 2 next to t left out and outliers clipped,
                    d >= 1 the size of the whole cross-section of e / s on that day

A crash of the market is in m, and a day on which everything moves apart is in d: neither is a fault of one name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.loose import Loose
from portfolio_ebm.data.doctor.stamps import text_day

if TYPE_CHECKING:
    from portfolio_ebm.data.doctor.jumps import Jump

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

WINDOW = 40
"""Rows on each side that measure the local size of returns."""

SKIP = 2
"""Rows on each side of a return that do not: a fault must not be its own yardstick."""

FEWEST = 5
"""Names needed on a day for a cross-section."""

FLOOR = 1e-4
"""No name is thought quieter than this a period."""


@dataclass(frozen=True)
class View:
    """One table of prices or returns and what came with it, on the same dates and names, (T, N).

    Attributes:
        values: prices above zero, or simple returns above -1 (`what` says which); NaN elsewhere.
        unit: what returns were divided by to bring a segment in percent to decimals; 1 elsewhere.
        segments: those segments, as `units.unit_of` tells them.
    """

    book: Loose
    what: str
    values: Array
    unit: Array
    segments: tuple[tuple[int, int, int, float, float], ...]
    today: np.datetime64
    volume: Array | None = None
    dividends: Array | None = None
    adjusted: Array | None = None
    forecasts: Array | None = None
    calendar: NDArray[np.datetime64] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.book.columns

    @property
    def dates(self) -> NDArray[np.datetime64]:
        return self.book.dates

    @property
    def shape(self) -> tuple[int, int]:
        rows, names = self.values.shape
        return int(rows), int(names)

    def day(self, row: int) -> str:
        return text_day(self.dates[row])

    def cells(self, column: int, rows: Rows | slice) -> tuple[int, Rows]:
        """Where rows of a column are in the user's frame: (column, rows)."""
        return int(self.book.column_at[column]), self.book.row_at[rows]

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        return np.isfinite(self.values)

    @cached_property
    def before(self) -> Rows:
        """The last earlier row with a number, (T, N); -1 where there is none."""
        rows = np.where(self.known, np.arange(len(self.values))[:, None], -1)
        last = np.maximum.accumulate(rows, axis=0)
        out = np.full(rows.shape, -1, dtype=np.int64)
        out[1:] = last[:-1]
        return out

    @cached_property
    def returns(self) -> Array:
        """Log returns since the last number, (T, N)."""
        if self.what == "returns":
            return np.log1p(self.values)
        level = np.log(self.values)
        earlier = np.take_along_axis(level, np.maximum(self.before, 0), axis=0) if level.size else level
        found: Array = np.where(self.before >= 0, level - earlier, np.nan)
        return found

    @cached_property
    def market(self) -> Array:
        """The median return of the day, (T,); 0 on days with fewer than five."""
        middle = median(self.returns, axis=1)
        enough = np.isfinite(self.returns).sum(axis=1) >= FEWEST
        found: Array = np.where(enough, middle, 0.0)
        return found

    @cached_property
    def clipped(self) -> Array:
        """Returns within 6 times the name's mean size, 0 where unknown: for correlations."""
        bound = 6.0 * np.maximum(median(np.abs(self.returns), axis=0) * 1.25, FLOOR)
        found: Array = np.nan_to_num(np.clip(self.returns, -bound, bound))
        return found

    @cached_property
    def beta(self) -> Array:
        market = self.market - self.market.mean() if len(self.market) else self.market
        there = np.isfinite(self.returns)
        cov = market @ self.clipped
        var = (market**2) @ there
        pull = 0.1 * float((market**2).sum()) + 1e-12
        found: Array = np.clip((cov + pull) / (var + pull), 0.0, 3.0)
        return found

    @cached_property
    def own(self) -> Array:
        """e: returns less the market's part, (T, N); over a gap, less all of the market's moves in it."""
        path = np.cumsum(self.market)
        moved = self.market[:, None] * np.ones(self.shape)
        if self.what == "prices" and len(path):
            moved = path[:, None] - path[np.maximum(self.before, 0)]
        found: Array = self.returns - self.beta * moved
        return found

    @cached_property
    def scale(self) -> Array:
        """s d, (T, N): the size of an ordinary move of this name on this day."""
        size = np.abs(self.own)
        typical = np.maximum(1.5 * median(size, axis=0), FLOOR)
        typical = np.where(np.isfinite(typical), typical, FLOOR)
        local = around(np.minimum(size, 6.0 * typical))
        local = np.where(np.isfinite(local), local, typical)
        local = around(np.minimum(size, 4.0 * local))
        local = np.where(np.isfinite(local), local, typical)
        local = 1.25 * np.maximum(np.maximum(local, 0.2 * typical), FLOOR)
        local = np.maximum(local, self.rounding)
        return local * self.dispersion(size / local)[:, None]

    def dispersion(self, relative: Array) -> Array:
        """d: how far apart the names moved on a day, at least 1, (T,)."""
        enough = np.isfinite(relative).sum(axis=1) >= FEWEST
        found: Array = np.where(enough, np.maximum(1.0, median(relative, axis=1) / 0.55), 1.0)
        return found

    @cached_property
    def tick(self) -> Array:
        """The step of prices, by name: the coarsest of 1, 0.1, ..., 0.0001 that they are multiples of; 0 if none is."""
        found = np.zeros(self.shape[1])
        if self.what == "prices":
            size = np.where(self.known, self.values, 0.0)
            for step in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
                with np.errstate(over="ignore", invalid="ignore"):
                    off = np.abs(size / step - np.round(size / step))
                share = ((off < 1e-4 + 1e-7 * size / step) | ~self.known).mean(axis=0) if len(size) else 1.0
                found = np.where(share > 0.98, step, found)
        return found

    @cached_property
    def rounding(self) -> Array:
        """What rounding to a tick does to a log return, (T, N)."""
        if self.what == "returns":
            return np.zeros(self.shape)
        return np.nan_to_num(0.4 * self.tick / self.values)

    @cached_property
    def z(self) -> Array:
        return self.own / self.scale

    @cached_property
    def jumps(self) -> tuple[Jump, ...]:
        """Large moves, each with one cause (jumps.py)."""
        from portfolio_ebm.data.doctor.jumps import jumps

        return jumps(self)

    @cached_property
    def span(self) -> tuple[Rows, Rows]:
        """First and last row with a number, by name; (T, -1) for a column without any."""
        there = self.known
        if not len(there):
            return np.zeros(there.shape[1], np.int64), np.full(there.shape[1], -1, np.int64)
        last = np.where(there.any(axis=0), len(there) - 1 - np.argmax(there[::-1], axis=0), -1)
        first = np.where(there.any(axis=0), np.argmax(there, axis=0), len(there))
        return first.astype(np.int64), last.astype(np.int64)

    @cached_property
    def years(self) -> float:
        if len(self.dates) < 2:
            return 0.0
        return float((self.dates[-1] - self.dates[0]) / np.timedelta64(1, "D")) / 365.25


def median(x: Array, axis: int) -> Array:
    """Median of the numbers along an axis, NaN where there is none; sorts once, NaN last."""
    if not x.shape[axis]:
        return np.full(x.shape[1 - axis], np.nan)
    ranked = np.sort(x, axis=axis)
    count = np.isfinite(ranked).sum(axis=axis)
    low = np.expand_dims(np.maximum((count - 1) // 2, 0), axis)
    high = np.expand_dims(np.minimum(count // 2, x.shape[axis] - 1), axis)
    both = np.take_along_axis(ranked, low, axis) + np.take_along_axis(ranked, high, axis)
    found: Array = np.where(count > 0, both.squeeze(axis) / 2.0, np.nan)
    return found


def around(x: Array, window: int = WINDOW, skip: int = SKIP, fewest: int = 10) -> Array:
    """Mean over rows t - window .. t + window without t - skip .. t + skip; NaN with fewer than `fewest` numbers."""
    inner, inside = span_sums(x, -skip, skip)
    outer, total = span_sums(x, -window, window)
    count = total - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(count >= fewest, np.maximum(outer - inner, 0.0) / count, np.nan)
    return found


def span_sums(x: Array, start: int, stop: int) -> tuple[Array, Array]:
    """Sum and count of the numbers in rows t + start .. t + stop, both included."""
    rows = len(x)
    known = np.isfinite(x)
    sums = np.zeros((rows + 1, *x.shape[1:]))
    counts = np.zeros((rows + 1, *x.shape[1:]))
    np.cumsum(np.where(known, x, 0.0), axis=0, out=sums[1:])
    np.cumsum(known, axis=0, out=counts[1:])
    low = np.clip(np.arange(rows) + start, 0, rows)
    high = np.clip(np.arange(rows) + stop + 1, 0, rows)
    return sums[high] - sums[low], counts[high] - counts[low]


def best_segment(gain: Array) -> tuple[Array, Rows, Rows]:
    """The segment of each column with the largest sum: (sums, first rows, rows after the last); Kadane's, by cumsum."""
    path = np.zeros((len(gain) + 1, gain.shape[1]))
    np.cumsum(gain, axis=0, out=path[1:])
    rise = path - np.minimum.accumulate(path, axis=0)
    stop = np.argmax(rise, axis=0)
    best = rise[stop, np.arange(gain.shape[1])]
    rows = np.arange(len(path))[:, None]
    start = np.argmin(np.where(rows <= stop, path, np.inf), axis=0)
    return best, start.astype(np.int64), stop.astype(np.int64)


def runs(flag: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """First rows and rows after the last of the runs of True."""
    edge = np.diff(np.concatenate([[0], flag.astype(np.int8), [0]]))
    return np.flatnonzero(edge == 1).astype(np.int64), np.flatnonzero(edge == -1).astype(np.int64)
