"""Stored series of Yahoo as prices that were traded, with what was paid: point in time, in currencies and not in pence.

    F_t = product of the splits after t,   p_t = close_t F_t,   d_t = dividend_t F_t,   v_t = volume_t / F_t
    (p_t + d_t) s_t / p_(t-1) - 1 = (close_t + dividend_t) / close_(t-1) - 1

Yahoo divides prices and dividends by all splits up to the day of the fetch, so that a price of 2010 changes when a
share is split in 2024. What was traded does not; with splits and dividends beside it the returns are the same. A
dividend d_t is cash per share held at t, after the split of that day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.data.clean import Table
from portfolio_ebm.data.sources.beside import Beside, Few, Shared
from portfolio_ebm.data.sources.cache import Cache, Entry
from portfolio_ebm.data.sources.series_file import Array, Dates
from portfolio_ebm.data.sources.yahoo import Progress, When, day_of, fetch, symbols
from portfolio_ebm.data.sources.yahoo_rows import named
from portfolio_ebm.errors import DataError

MINOR = {
    "GBp": ("GBP", 100),
    "GBX": ("GBP", 100),
    "ZAc": ("ZAR", 100),
    "ZAC": ("ZAR", 100),
    "ILA": ("ILS", 100),
    "KWF": ("KWD", 1000),
    "USX": ("USD", 100),
}
"""Currencies that Yahoo quotes in parts: the whole one, and how many parts it has."""

COLUMNS = ("close", "adj_close", "volume", "dividends", "splits", "capital_gains")


@dataclass(frozen=True, eq=False)
class Raw:
    """Prices as traded on one calendar: T dates by n assets, blank where a series has no row.

    Attributes:
        series: the n of them; their columns are close, volume, dividends, splits and adjusted.
        assets: their names.
        currency: by asset, None where Yahoo does not say.
        facts: by asset: name, exchange, zone, instrument, first_trade, fetched.
        notes: what was decided on the way, one sentence each.
    """

    series: Beside
    assets: tuple[str, ...]
    currency: Mapping[str, str | None] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def close(self) -> pd.DataFrame:
        """In `currency` per share as it was on the day."""
        return self._frame("close")

    @property
    def volume(self) -> pd.DataFrame:
        """In shares as they were on the day."""
        return self._frame("volume")

    @property
    def dividends(self) -> pd.DataFrame:
        """Cash per share by ex-date, distributions of gains in it; blank where none. Per new share at a split."""
        return self._frame("dividends")

    @property
    def splits(self) -> pd.DataFrame:
        """New shares for one old; blank where none."""
        return self._frame("splits")

    @property
    def adjusted(self) -> pd.DataFrame:
        """Yahoo's close adjusted for splits and dividends, of the day of the fetch: not point in time."""
        return self._frame("adjusted")

    @property
    def extras(self) -> dict[str, pd.DataFrame]:
        """What goes beside `close` into `Panel.from_prices`."""
        return {"dividends": self.dividends, "splits": self.splits, "volume": self.volume}

    def table(self, name: str) -> Table:
        """A column of all series as a panel takes it."""
        return Table("prices" if name == "close" else name, self.series.dates, self.assets, self.series.matrix(name))

    def _frame(self, name: str) -> pd.DataFrame:
        index = pd.DatetimeIndex(self.series.dates, name="date")
        return pd.DataFrame(self.series.matrix(name), index, list(self.assets))


def yahoo(
    tickers: Sequence[str] | str,
    start: When,
    end: When = None,
    *,
    cache: Cache | None = None,
    offline: bool = False,
    refresh: bool = True,
    progress: Progress | None = None,
) -> Raw:
    """Fetch what is missing and load all of it; `fetch` says what the arguments mean.

    A ticker that cannot be fetched is served from what is stored, or left out; a note says which and why.

    Raises:
        DataError, StoreError: as `fetch` and `load`.

    Example:
        >>> raw = yahoo(["SPY", "TLT"], "2010-01-01")
        >>> panel = Panel.from_prices(raw.close, **raw.extras)
    """
    cache = Cache.default("yahoo") if cache is None else cache
    done = fetch(tickers, start, end, cache=cache, offline=offline, refresh=refresh, progress=progress)
    failed = [row for row in done.rows if row.status.startswith("failed")]
    lost = [row.ticker for row in failed if row.last is None]
    notes = [
        f"{row.ticker} is not up to date, its prices end on {row.last}: {row.reason}." for row in failed if row.last
    ]
    notes += [f"{row.ticker} is left out: {row.reason}." for row in failed if row.last is None]
    notes += [f"{row.ticker}: {row.note}." for row in done.rows if row.note]
    raw = load([name for name in symbols(tickers) if name not in lost], start, end, cache)
    return replace(raw, notes=(*notes, *raw.notes))


def load(tickers: Sequence[str] | str, start: When, end: When = None, cache: Cache | None = None) -> Raw:
    """The stored series of `tickers` from `start` to `end`, both included, as they were traded.

    Raises:
        StoreError: a ticker that is not stored, or whose file is damaged.
        DataError: no price of any of them between the two dates.
    """
    cache = Cache.default("yahoo") if cache is None else cache
    names, since = symbols(tickers), day_of(start, "start")
    until = None if end is None else day_of(end, "end")
    shared = Shared()

    def one(entry: Entry) -> tuple[bool, dict[str, Any], Dates, dict[str, Array | Few]]:
        columns = as_traded(entry.columns, MINOR.get(str(entry.facts.get("currency")), ("", 1))[1])
        days = entry.dates.astype("datetime64[D]")
        rows = slice(np.searchsorted(days, np.datetime64(since)), _until(days, until))
        found: dict[str, Array | Few] = {name: item[rows] for name, item in columns.items()}
        for name in ("dividends", "splits"):
            found[name] = Few.of(columns[name][rows])
        there = bool(np.isfinite(columns["close"][rows]).any())
        return there, dict(entry.facts), shared(entry.dates[rows]), found

    made = dict(zip(names, cache.each(one, names, COLUMNS), strict=True))
    facts = {name: item[1] for name, item in made.items()}
    notes = [*_differ(facts, since), *_minor(facts)]
    kept = [name for name, item in made.items() if item[0]]
    if not kept:
        last = max((str(item[2][-1])[:10] for item in made.values() if len(item[2])), default="today")
        raise DataError(
            f"yahoo: no price of {named(list(names))} is stored from {since} to {until or last}; ask for other dates."
        )
    notes += [
        f"{name} is left out: it has no price from {since} to {until or 'today'}."
        for name in names
        if name not in set(kept)
    ]
    currency = {name: MINOR.get(str(facts[name].get("currency")), (facts[name].get("currency"),))[0] for name in kept}
    series = Beside.of([made[name][2:] for name in kept])
    return Raw(series, tuple(kept), currency, {name: facts[name] for name in kept}, tuple(notes))


def as_traded(columns: Mapping[str, Array], units: float = 1.0) -> dict[str, Array]:
    """Yahoo's columns of one series (T,), adjusted for all splits, as they were: close, volume, dividends, splits and
    adjusted.

    Args:
        columns: `COLUMNS`, all rows up to the fetch: a price is unadjusted by every split after it.
        units: parts of the currency that prices are in.
    """
    splits = np.where((columns["splits"] > 0) & (columns["splits"] != 1.0), columns["splits"], np.nan)
    close, volume, cash = columns["close"], columns["volume"], _distributions(columns)
    if np.isfinite(splits).any():
        later = np.ones_like(splits)
        later[:-1] = np.cumprod(np.where(np.isfinite(splits), splits, 1.0)[:0:-1])[::-1]
        close, volume, cash = close * later, volume / later, cash * later
    adjusted = columns["adj_close"]
    if units != 1.0:
        close, cash, adjusted = close / units, cash / units, adjusted / units
    cash[cash == 0.0] = np.nan
    return {"close": close, "volume": volume, "dividends": cash, "splits": splits, "adjusted": adjusted}


def _until(days: Dates, until: str | None) -> int:
    return len(days) if until is None else int(np.searchsorted(days, np.datetime64(until), side="right"))


def _distributions(columns: Mapping[str, Array]) -> Array:
    """Cash of a day, adjusted for splits: dividends, and gains distributed where these are not in them already.

    Yahoo counts the gains a fund distributes among its dividends for some funds and beside them for others. Its
    adjusted close says which: adj_(t-1) / close_(t-1) = (1 - cash_t / close_(t-1)) adj_t / close_t.
    """
    cash, gains = np.nan_to_num(columns["dividends"]), columns["capital_gains"]
    close, adjusted = columns["close"], columns["adj_close"]
    for row in np.flatnonzero(gains > 0):
        before = np.flatnonzero(np.isfinite(close[:row]))
        both = cash[row] + gains[row]
        if cash[row] < gains[row] or not len(before) or not np.isfinite(close[row]):
            cash[row] = both
            continue
        last = before[-1]
        implied = close[last] * (1.0 - adjusted[last] / close[last] * close[row] / adjusted[row])
        cash[row] = min((cash[row], both), key=lambda amount: abs(amount - implied))
    return cash


def _minor(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A note for each currency that is quoted in parts."""
    quoted: dict[str, list[str]] = {}
    for name, said in facts.items():
        if said.get("currency") in MINOR:
            quoted.setdefault(str(said["currency"]), []).append(name)
    return [
        f"Yahoo quotes {named(some)} in {unit}; prices and dividends are in {MINOR[unit][0]} here."
        for unit, some in quoted.items()
    ]


def _differ(facts: Mapping[str, Mapping[str, Any]], since: str) -> list[str]:
    notes = []
    unit = {name: said.get("currency") for name, said in facts.items()}
    kinds = sorted({str(MINOR.get(str(item), (item,))[0]) for item in unit.values() if item is not None})
    if len(kinds) > 1:
        notes.append(f"Prices are in {', '.join(kinds)}: the return of an asset is in its own currency.")
    late = [name for name, said in facts.items() if str(said.get("asked_from", "")) > since]
    if late:
        notes.append(f"{named(late)}: nothing as early as {since} was ever asked of Yahoo.")
    return notes
