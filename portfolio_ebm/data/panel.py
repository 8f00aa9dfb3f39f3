"""Panel: prices or returns, factors and everything else a strategy may ask for, on one calendar and read-only.

    files, frames -> Panel -> panel.past(t) -> a market model

Missing is missing: a name is tradeable at t when it has a price at t, and at no other time. Before its first price it
is not there; over a gap its return stands on the day the price is back; after its last price it is gone, with a final
return on the next date where one was given. All arrays are read-only, every `Past` is a view of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data import assemble, saved
from portfolio_ebm.data.align import last_prices
from portfolio_ebm.data.assemble import Extras, Settings
from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.dates import day, stamp
from portfolio_ebm.data.describe import describe
from portfolio_ebm.data.fingerprint import fingerprint
from portfolio_ebm.data.frozen import frozen
from portfolio_ebm.data.labels import labels_at, spellings, within
from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError, ShapeError, StoreError

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
        members: bool (T, n): names that belong to the universe at that date; None when no membership was given.
        prices: (T, n) as given, NaN where there was none; None when the panel was made from returns.
        factors: names of the K factor series.
        factor_returns: simple returns (T, K), NaN where not observed.
        market: which factor is the market, or None.
        built_factors: True where the factors were built from the returns of the assets.
        groups: labels by grouping at the last date, one an asset.
        relabels: by grouping, what they were before: (day, asset, label up to that day), in the order of the days.
        volume: traded shares (T, n), or None.
        cash_rate: simple return of cash per period (T,); zeros when none was given.
        benchmark: returns (T,) or None; `benchmark_name` says of what.
        benchmark_weights: by name, (T, n) as they stood at each date; NaN before the first.
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
    members: Mask | None = None
    benchmark_weights: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    relabels: Mapping[str, tuple[tuple[str, str, str], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, frozen(getattr(self, item.name)))
        t, n, k = len(self.dates), len(self.assets), len(self.factors)
        shapes: dict[str, tuple[int, ...]] = {
            "returns": (t, n),
            "tradeable": (t, n),
            "members": (t, n),
            "prices": (t, n),
            "volume": (t, n),
            "factor_returns": (t, k),
        }
        shapes |= {"cash_rate": (t,), "benchmark": (t,)}
        got = {name: getattr(self, name) for name in shapes}
        got |= {f"forecast '{name}'": item for name, item in self.forecasts.items()}
        got |= {f"benchmark weights '{name}'": item for name, item in self.benchmark_weights.items()}
        got |= {f"signal '{name}'": item for name, item in self.signals.items()}
        for name, array in got.items():
            expected = shapes.get(name, (t,) if name.startswith("signal") else (t, n))
            if array is not None and array.shape != expected:
                raise ShapeError(f"Panel.{name}: got shape {array.shape}, expected {expected}.")

    @classmethod
    def from_prices(cls, frame: pd.DataFrame, **extras: Unpack[Extras]) -> Panel:
        """A panel of prices: dates down, names across, blanks where there was no price.

        r[t, i] = p[t, i] / p[s, i] - 1, s the last date before t on which i had a price; that the return over a gap
        stands on the day the price is back is the rule, and the name is not tradeable in between. The prices are
        adjusted ones, or as traded with `dividends` and `splits`: r[t, i] = (p[t, i] + d[t, i]) s[t, i] / p[s, i] - 1.

        Args:
            frame: prices above zero, at any frequency. Rows without a single price are left out.
            dividends: cash per share by ex-date, like `frame`, blank where none; per new share on the day of a split.
            splits: new shares for one old from this date on (2 for two for one), like `frame`, blank where none.
            returns: total returns like `frame`, in place of those of the prices.
            membership: who belongs to the universe when: spells (columns asset, start, end; both days included, a blank
                end goes on), or true and false like `frame`, standing until the next row.
            factors: frame of factor returns (decimal) or prices; `factors_are` ("returns" or "prices") says which, else
                it is detected and noted. None: market, momentum, low_volatility and size_proxy are built from `frame`.
            market: which factor is the market; by default one called market, mkt or mkt-rf.
            groups: labels by grouping, as a frame (assets down), a Series or a mapping: the same on every date. A frame
                with columns date and asset too says from when on a label stands; before the first it is "unknown".
            benchmark: Series of returns or prices (`benchmark_are`, else detected), or the name of a factor.
            benchmark_weights: by benchmark, frames like `frame`; a row stands until the next one. A frame alone is the
                benchmark called "benchmark". No benchmark return is made of them.
            cash_rate: return of cash per period, a Series or a number; `cash_are="annual_percent"` for 5.25% a year.
            volume: traded shares, like `frame`.
            forecasts: by name, frames like `frame`; a row stands until the next one.
            signals: frame of series that are no returns (the VIX), known at each close.
            delistings: by name, the final return of a name whose prices end, booked on the date after the last; or a
                frame (asset, date, return), booked on the first date on or after its own.

        Frames like `frame` may also be long: one row a date and name, with columns date, asset and the value.

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

    @classmethod
    def from_factors(cls, frame: pd.DataFrame, **settings: Unpack[Settings]) -> Panel:
        """A panel of factors alone, without an asset: for market models of factors and their scores.

        Args:
            frame: factor returns (decimal) or prices; `factors_are` says which, else it is detected and noted.
            settings: market, cash_rate, signals, benchmark, as in `from_prices`.

        Raises:
            DataError: as `from_prices`.

        Example:
            >>> panel = Panel.from_factors(french("ff5", "momentum").drop(columns="RF"), market="Mkt-RF")
            >>> score(FactorEBM(), panel, start="2000-01-03")["log_score"].mean()
        """
        return cls(**assemble.from_factors(frame, settings))

    @classmethod
    def from_yahoo(
        cls, tickers: Sequence[str] | str, start: When, end: When | None = None, *, offline: bool = False,
        refresh: bool = True, **extras: Unpack[Extras],
    ) -> Panel:  # fmt: skip
        """A panel of daily prices from Yahoo, as traded, with the dividends and splits that make total returns of them.

        What was fetched before is kept (`data.sources.yahoo`) and only its tail is asked for.

        Args:
            tickers: as Yahoo writes them ("BRK-B", "^GSPC", "7203.T").
            start, end: first and last date, both included; without `end` up to the last close.
            offline: ask nobody, use what was fetched before.
            refresh: False asks only for what was never fetched.
            extras: as in `from_prices`, without dividends, splits and volume.

        Raises:
            DataError: no ticker could be fetched; the message says why. What failed beside others is in `notes`.

        Example:
            >>> Panel.from_yahoo(["SPY", "TLT"], "2010-01-01").describe()
        """
        from portfolio_ebm.data.sources.yahoo_load import yahoo

        raw = yahoo(tickers, start, end, offline=offline, refresh=refresh)
        own = {name: raw.table(name) for name in ("dividends", "splits", "volume")}
        pieces = assemble.merge({"prices": raw.table("close"), **own}, extras, "Panel.from_yahoo")
        return cls(**assemble.from_pieces(pieces, list(raw.notes)))

    @classmethod
    def from_long(cls, frame: pd.DataFrame, **settings: Unpack[Settings]) -> Panel:
        """A panel of a long table: one row a date and name, what the columns hold known by their names.

        Columns: date; asset (or ticker, symbol, permno ...); price (or close, adj_close), return, volume, dividend,
        split; sector, industry, issuer and the like, each label from its day on. Rows in any order.

        Args:
            frame: the table, with price or return and whatever else it has; other columns are left out and told.
            settings: what else `from_prices` takes.

        Raises:
            DataError: two columns that could be the same, a pair of date and name that is there twice, and as
                `from_prices`.

        Example:
            >>> rows = [("2020-01-02", "A", 10.0), ("2020-01-03", "A", 11.0), ("2020-01-03", "B", 5.0)]
            >>> Panel.from_long(pd.DataFrame(rows, columns=["date", "ticker", "close"])).assets
            ('A', 'B')
        """
        return cls(**assemble.from_long(frame, settings))

    @classmethod
    def load(cls, folder: str | Path) -> Panel:
        """The panel that `save` wrote, bit for bit.

        Raises:
            StoreError: no saved panel, or one of which something is missing or was changed; the message says what.
        """
        found = saved.load(folder)
        try:
            return cls(**found)
        except (TypeError, ShapeError, AttributeError) as error:
            raise StoreError(f"{folder}: its parts do not make a panel ({error}); save it again.") from None

    def save(self, folder: str | Path) -> Path:
        """Write the panel into a folder of its own, which is returned: parquet files and panel.json, exact to the bit.

        A crash leaves the folder as it was. A panel saved there before is replaced; anything else is left alone.

        Raises:
            StoreError: the folder holds something else, or cannot be written.
        """
        return saved.save(self._state(), folder)

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

    @cached_property
    def last_rows(self) -> NDArray[np.intp]:
        """The last row on which each name is tradeable, (n,), -1 for never: hindsight, for ledgers and reports only."""
        rows = np.where(self.tradeable, np.arange(len(self))[:, None], -1)
        last: NDArray[np.intp] = rows.max(axis=0)
        return last

    @cached_property
    def exit_rows(self) -> NDArray[np.intp]:
        """The row on which what is held of a name turns into cash, (n,): that of its final return, or the one after its
        last price; `len(panel)` where it trades to the end. Hindsight, for ledgers and reports only.
        """
        rows = np.where(np.isfinite(self.returns), np.arange(len(self))[:, None], -1)
        found: NDArray[np.intp] = np.maximum(self.last_rows + 1, rows.max(axis=0))
        return found

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
        found = int(np.searchsorted(self.dates, stamp(t), side="right")) - 1
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
        priced = self.tradeable[row]
        member = priced if self.members is None else self.members[row]
        return Past(
            dates=self.dates[until],
            assets=self.assets,
            returns=self.returns[until],
            factors=self.factors,
            factor_returns=self.factor_returns[until],
            market=self.market,
            tradeable=frozen(priced & member),
            leaving=frozen(priced & ~member),
            prices=None if self.prices is None else frozen(last_prices(self.prices[until])),
            groups=labels_at(self.groups, self.relabels, self.assets, self.dates[row]),
            volume=None if self.volume is None else self.volume[until],
            cash_rate=self.cash_rate[until],
            benchmark=None if self.benchmark is None else self.benchmark[until],
            forecasts={name: item[until] for name, item in self.forecasts.items()},
            periods_per_year=periods_per_year(self.dates[until]),
            signals={name: item[until] for name, item in self.signals.items()},
            benchmark_weights={name: item[until] for name, item in self.benchmark_weights.items()},
            price_history=None if self.prices is None else self.prices[until],
            spellings={name: spellings(self.groups[name], item) for name, item in self.relabels.items()},
        )

    def returns_frame(self) -> pd.DataFrame:
        """The returns as a frame, dates x assets: a copy to look at or to hand to `optimize`."""
        return pd.DataFrame(self.returns.copy(), pd.DatetimeIndex(self.dates, name="date"), list(self.assets))

    def cut(self, start: When | None = None, end: When | None = None) -> Panel:
        """The panel from `start` to `end`, both included; names stay, also those that never trade in between.

        Raises:
            DataError: no date lies in between.
        """
        if start is None or isinstance(start, int | np.integer):
            first = 0 if start is None else self.row(start)
        else:
            first = int(np.searchsorted(self.dates, stamp(start), side="left"))
        last = len(self) - 1 if end is None else self.row(end)
        if first > last:
            raise DataError(f"No date from {start} to {end or 'the last'}; the panel has {self.start} to {self.end}.")
        rows = slice(first, last + 1)
        changes: dict[str, Any] = {
            "groups": labels_at(self.groups, self.relabels, self.assets, self.dates[last]),
            "relabels": within(self.relabels, self.dates[first], self.dates[last]),
        }
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                changes[item.name] = value[rows]
            elif item.name in ("forecasts", "signals", "benchmark_weights"):
                changes[item.name] = {name: array[rows] for name, array in value.items()}
        return replace(self, **changes)

    def fingerprint(self) -> str:
        """SHA-256 of the content: equal data, equal fingerprint, on every machine; notes are left out."""
        return fingerprint({name: value for name, value in self._state().items() if name != "notes"})

    def describe(self) -> str:
        """What is in the panel, and what a reader of results should know about it."""
        return describe(self)

    def __repr__(self) -> str:
        factors = ", ".join(self.factors)
        return f"<Panel {len(self)} dates {self.start} to {self.end}, {self.n_assets} assets, factors {factors}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only flags and mapping proxies do not survive pickling to worker processes; __post_init__ sets them anew.
        state = self._state()
        return _rebuilt, ({name: dict(item) if isinstance(item, Mapping) else item for name, item in state.items()},)

    def _state(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


def _rebuilt(state: dict[str, Any]) -> Panel:
    return Panel(**state)
