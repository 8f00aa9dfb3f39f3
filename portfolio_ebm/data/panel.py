"""Panel: prices or returns, factors and everything else a strategy may ask for, on one calendar and read-only.

    files, frames -> Panel -> panel.past(t) -> a market model

Missing is missing: a name is tradeable at t when it has a price at t, and at no other time. Before its first price it
is not there; over a gap its return stands on the day the price is back; after its last price it is gone, with a final
return on the next date where one was given. All arrays are read-only, every `Past` is a view of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data import assemble
from portfolio_ebm.data.align import last_prices
from portfolio_ebm.data.assemble import Extras
from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.clean import day
from portfolio_ebm.data.describe import describe
from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError, ShapeError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
When = int | str | date | datetime | np.datetime64 | np.integer[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Panel:
    """T dates, n assets and K factors; make one with `from_prices`, `from_returns`, `read_panel` or `bundled`.

    Attributes:
        dates: datetime64[ns], (T,), strictly increasing.
        assets: names of the n assets.
        returns: simple returns over the period ending at each date, (T, n); NaN where not observed.
        tradeable: bool (T, n): names with a price at that date.
        prices: (T, n) as given, NaN where there was none; None when the panel was made from returns.
        factors: names of the K factor series.
        factor_returns: simple returns (T, K), NaN where not observed.
        market: which factor is the market, or None.
        built_factors: True where the factors were built from the returns of the assets.
        groups: static labels by grouping, one an asset.
        volume: traded shares (T, n), or None.
        cash_rate: simple return of cash per period (T,); zeros when none was given.
        benchmark: returns (T,) or None; `benchmark_name` says of what.
        forecasts: by name, (T, n) as known at each date.
        signals: by name, (T,) as known at each date.
        delistings: final return of names that end before the panel does.
        notes: what was decided while the panel was made, one sentence each.
    """

    dates: NDArray[np.datetime64]
    assets: tuple[str, ...]
    returns: Array
    tradeable: Mask
    cash_rate: Array
    factors: tuple[str, ...]
    factor_returns: Array
    prices: Array | None = None
    market: str | None = None
    built_factors: bool = False
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    volume: Array | None = None
    benchmark: Array | None = None
    benchmark_name: str | None = None
    forecasts: Mapping[str, Array] = field(default_factory=dict)
    signals: Mapping[str, Array] = field(default_factory=dict)
    delistings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, _frozen(getattr(self, item.name)))
        t, n, k = len(self.dates), len(self.assets), len(self.factors)
        shapes: dict[str, tuple[int, ...]] = {
            "returns": (t, n),
            "tradeable": (t, n),
            "prices": (t, n),
            "volume": (t, n),
            "factor_returns": (t, k),
        }
        shapes |= {"cash_rate": (t,), "benchmark": (t,)}
        got = {name: getattr(self, name) for name in shapes}
        got |= {f"forecast '{name}'": item for name, item in self.forecasts.items()}
        got |= {f"signal '{name}'": item for name, item in self.signals.items()}
        for name, array in got.items():
            expected = shapes.get(name, (t,) if name.startswith("signal") else (t, n))
            if array is not None and array.shape != expected:
                raise ShapeError(f"Panel.{name}: got shape {array.shape}, expected {expected}.")

    @classmethod
    def from_prices(cls, frame: pd.DataFrame, **extras: Unpack[Extras]) -> Panel:
        """A panel of (adjusted) prices: dates down, names across, blanks where there was no price.

        r[t, i] = p[t, i] / p[s, i] - 1, s the last date before t on which i had a price; that the return over a gap
        stands on the day the price is back is the rule, and the name is not tradeable in between.

        Args:
            frame: prices above zero, at any frequency. Rows without a single price are left out.
            factors: frame of factor returns (decimal) or prices; `factors_are` ("returns" or "prices") says which, else
                it is detected and noted. None: market, momentum, low_volatility and size_proxy are built from `frame`.
            market: which factor is the market; by default one called market, mkt or mkt-rf.
            groups: labels by grouping, as a frame (assets down), a Series or a mapping.
            benchmark: Series of returns or prices (`benchmark_are`, else detected), or the name of a factor.
            cash_rate: return of cash per period, a Series or a number.
            volume: traded shares, like `frame`.
            forecasts: by name, frames like `frame`; a row stands until the next one.
            signals: frame of series that are no returns (the VIX), known at each close.
            delistings: by name, the final return of a name whose prices end, booked on the date after the last.

        Raises:
            DataError: anything that cannot be used as it is; the message names source, column, date and remedy.

        Example:
            >>> days = pd.date_range("2020-01-01", periods=3)
            >>> Panel.from_prices(pd.DataFrame({"A": [100.0, 110.0, 99.0]}, index=days)).returns[:, 0].round(3)
            array([ nan,  0.1, -0.1])
        """
        return cls(**assemble.from_prices(frame, extras))

    @classmethod
    def from_returns(cls, frame: pd.DataFrame, **extras: Unpack[Extras]) -> Panel:
        """A panel of simple decimal returns; the rest as `from_prices`.

        A blank is a return nobody knows: the name is not tradeable on that date, and nothing makes up for it later.

        Raises:
            DataError: as `from_prices`; also returns below -1, and percent in place of decimals.
        """
        return cls(**assemble.from_returns(frame, extras))

    def __len__(self) -> int:
        return len(self.dates)

    @property
    def start(self) -> str:
        """The first date, YYYY-MM-DD."""
        return day(self.dates[0])

    @property
    def end(self) -> str:
        """The last date, YYYY-MM-DD."""
        return day(self.dates[-1])

    @property
    def n_assets(self) -> int:
        return len(self.assets)

    @property
    def periods_per_year(self) -> float:
        """252, 52, 12, ... inferred from the dates."""
        return periods_per_year(self.dates)

    @property
    def last_rows(self) -> NDArray[np.intp]:
        """The last row on which each name is tradeable, (n,), -1 for never: hindsight, for ledgers and reports only."""
        rows = np.where(self.tradeable, np.arange(len(self))[:, None], -1)
        last: NDArray[np.intp] = rows.max(axis=0)
        return last

    def row(self, t: When) -> int:
        """The row of t: a row number (negative from the end), or the last date on or before t.

        Raises:
            DataError: t is before the first date, past the last row, or no date.
        """
        if isinstance(t, int | np.integer) and not isinstance(t, bool | np.bool_):
            if not -len(self) <= t < len(self):
                raise DataError(
                    f"Row {t} is not in the panel; rows run from 0 to {len(self) - 1} ({self.start} to {self.end})."
                )
            return int(t) % len(self)
        found = int(np.searchsorted(self.dates, _stamp(t), side="right")) - 1
        if found < 0:
            raise DataError(f"{t} is before the panel's first date {self.start}; ask for a date from there on.")
        return found

    def past(self, t: When) -> Past:
        """What was known at the close of t (a row, or the last date on or before t), as read-only views.

        Raises:
            DataError: t is before the first date.

        Example:
            >>> days = pd.date_range("2020-01-01", periods=3)
            >>> panel = Panel.from_prices(pd.DataFrame({"A": [100.0, 110.0, 99.0]}, index=days))
            >>> panel.past("2020-01-02").returns.shape
            (2, 1)
        """
        row = self.row(t)
        until = slice(None, row + 1)
        return Past(
            dates=self.dates[until],
            assets=self.assets,
            returns=self.returns[until],
            factors=self.factors,
            factor_returns=self.factor_returns[until],
            market=self.market,
            tradeable=self.tradeable[row],
            prices=None if self.prices is None else _frozen(last_prices(self.prices[until])),
            groups=dict(self.groups),
            volume=None if self.volume is None else self.volume[until],
            cash_rate=self.cash_rate[until],
            benchmark=None if self.benchmark is None else self.benchmark[until],
            forecasts={name: item[until] for name, item in self.forecasts.items()},
            periods_per_year=periods_per_year(self.dates[until]),
            signals={name: item[until] for name, item in self.signals.items()},
        )

    def returns_frame(self) -> pd.DataFrame:
        """The returns as a frame, dates x assets: a copy to look at or to hand to `optimize`."""
        index = pd.DatetimeIndex(self.dates, name="date")
        return pd.DataFrame(self.returns.copy(), index=index, columns=list(self.assets))

    def cut(self, start: When | None = None, end: When | None = None) -> Panel:
        """The panel from `start` to `end`, both included; names stay, also those that never trade in between.

        Raises:
            DataError: no date lies in between.
        """
        first = 0 if start is None else self._first(start)
        last = len(self) - 1 if end is None else self.row(end)
        if first > last:
            raise DataError(f"No date from {start} to {end}; the panel runs from {self.start} to {self.end}.")
        rows = slice(first, last + 1)
        changes: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changes[item.name] = value[rows]
            elif item.name in ("forecasts", "signals"):
                changes[item.name] = {name: array[rows] for name, array in value.items()}
        return replace(self, **changes)

    def fingerprint(self) -> str:
        """SHA-256 of the content: equal data, equal fingerprint, on every machine; notes are left out."""
        digest = hashlib.sha256(b"portfolio_ebm.Panel.1")
        for item in fields(self):
            if item.name != "notes":
                _feed(digest, item.name, getattr(self, item.name))
        return digest.hexdigest()

    def describe(self) -> str:
        """What is in the panel, and what a reader of results should know about it."""
        return describe(self)

    def __repr__(self) -> str:
        factors = ", ".join(self.factors)
        return f"<Panel {len(self)} dates {self.start} to {self.end}, {self.n_assets} assets, factors {factors}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only flags and mapping proxies do not survive pickling to worker processes; __post_init__ sets them anew.
        state = {item.name: getattr(self, item.name) for item in fields(self)}
        return _rebuilt, ({name: dict(item) if isinstance(item, Mapping) else item for name, item in state.items()},)

    def _first(self, start: When) -> int:
        if isinstance(start, int | np.integer):
            return self.row(start)
        return int(np.searchsorted(self.dates, _stamp(start), side="left"))


def _rebuilt(state: dict[str, Any]) -> Panel:
    return Panel(**state)


def _stamp(t: Any) -> np.datetime64:
    try:
        stamp = pd.Timestamp(t)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"'{t}' is not a date; write it as YYYY-MM-DD.") from None
    if pd.isna(stamp):
        raise DataError(f"'{t}' is not a date; write it as YYYY-MM-DD.")
    if isinstance(t, str) and len(t) <= 7:
        raise DataError(f"'{t}' is a month or a year, not a day; write it as YYYY-MM-DD.")
    return np.datetime64(stamp.tz_localize(None) if stamp.tz is not None else stamp, "ns")


def _frozen(value: Any) -> Any:
    """Arrays become read-only (copied where the caller could still write), mappings read-only views of a copy."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value = value.copy()
            value.flags.writeable = False
        return value
    if isinstance(value, Mapping):
        return MappingProxyType({name: _frozen(item) for name, item in value.items()})
    return value


def _feed(digest: Any, name: str, value: Any) -> None:
    digest.update(f"|{name}:".encode())
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.kind}{value.shape}".encode())
        if value.dtype.kind == "f":
            value = np.where(np.isnan(value), np.nan, value + 0.0)  # one NaN, one zero
        kind = {"f": "<f8", "M": "<i8", "b": "u1"}[value.dtype.kind]
        source = value.astype("datetime64[ns]").astype(np.int64) if value.dtype.kind == "M" else value
        digest.update(np.ascontiguousarray(source.astype(kind)).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            _feed(digest, key, value[key])
    else:
        digest.update(repr(value).encode())
