"""Stored series of Yahoo as prices that were traded, with what was paid: point in time, in currencies and not in pence.

    F_t = product of the splits after t,   p_t = close_t F_t,   d_t = dividend_t F_t,   v_t = volume_t / F_t
    (p_t + d_t) s_t / p_(t-1) - 1 = (close_t + dividend_t) / close_(t-1) - 1

Yahoo divides prices and dividends by all splits up to the day of the fetch, so that a price of 2010 changes when a
share is split in 2024. What was traded does not; with splits and dividends beside it the returns are the same. A
dividend d_t is cash per share held at t, after the split of that day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.sources.cache import Cache
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
    """Prices as traded on one calendar: frames of T dates by n assets, blank where a series has no row.

    Attributes:
        close: in `currency` per share as it was on the day; `volume` in those shares.
        dividends: cash per share by ex-date, distributions of gains in it; blank where none. Per new share at a split.
        splits: new shares for one old; blank where none.
        adjusted: Yahoo's close adjusted for splits and dividends, of the day of the fetch: not point in time.
        currency: by asset, None where Yahoo does not say.
        facts: by asset: name, exchange, zone, instrument, first_trade, fetched.
        notes: what was decided on the way, one sentence each.
    """

    close: pd.DataFrame
    volume: pd.DataFrame
    dividends: pd.DataFrame
    splits: pd.DataFrame
    adjusted: pd.DataFrame
    currency: Mapping[str, str | None] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def extras(self) -> dict[str, pd.DataFrame]:
        """What goes beside `close` into `Panel.from_prices`."""
        return {"dividends": self.dividends, "splits": self.splits, "volume": self.volume}


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
    failed = [row for row in done.rows if row.ticker in done.failed]
    lost = [row.ticker for row in failed if row.last is None]
    notes = [
        f"{row.ticker} is not up to date, its prices end on {row.last}: {row.reason}." for row in failed if row.last
    ]
    notes += [f"{row.ticker} is left out: {row.reason}." for row in failed if row.last is None]
    notes += [f"{row.ticker}: {row.note}." for row in done.rows if row.note]
    raw = load([name for name in symbols(tickers) if name not in lost], start, end, cache)
    return Raw(**{**vars(raw), "notes": (*notes, *raw.notes)})


def load(tickers: Sequence[str] | str, start: When, end: When = None, cache: Cache | None = None) -> Raw:
    """The stored series of `tickers` from `start` to `end`, both included, as they were traded.

    Raises:
        StoreError: a ticker that is not stored, or whose file is damaged.
        DataError: no price of any of them between the two dates.
    """
    cache = Cache.default("yahoo") if cache is None else cache
    names, since = symbols(tickers), day_of(start, "start")
    facts = {name: dict(cache.facts(name) or {}) for name in names}
    dates, wide = cache.wide(names, COLUMNS)
    until = str(dates[-1].astype("datetime64[D]")) if end is None and len(dates) else day_of(end, "end")
    rows = (dates >= np.datetime64(since)) & (dates <= np.datetime64(until))
    notes = _differ(facts, since)
    whole = _whole_units(facts, notes)
    raw = as_traded(wide, whole)
    raw["dividends"] = np.where(raw["dividends"] != 0, raw["dividends"], np.nan)
    raw["splits"] = np.where((raw["splits"] > 0) & (raw["splits"] != 1), raw["splits"], np.nan)
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(raw["close"][rows]).any(axis=0))
    if not seen.any():
        raise DataError(
            f"yahoo: no price of {named(list(names))} is stored from {since} to {until}; ask for other dates."
        )
    for name in np.array(names)[~seen]:
        notes.append(f"{name} is left out: it has no price from {since} to {until}.")
    frames = {key: _frame(values, dates, rows, names, seen) for key, values in raw.items()}
    kept = [name for name, there in zip(names, seen, strict=True) if there]
    currency = {name: MINOR.get(str(facts[name].get("currency")), (facts[name].get("currency"),))[0] for name in kept}
    return Raw(**frames, currency=currency, facts={name: facts[name] for name in kept}, notes=tuple(notes))


def as_traded(wide: Mapping[str, Array], units: Array | float = 1.0) -> dict[str, Array]:
    """Yahoo's columns (T, n), adjusted for all splits, as they were: close, volume, dividends, splits and adjusted.

    Args:
        wide: `COLUMNS`, all rows up to the fetch: a price is unadjusted by every split after it.
        units: parts of the currency that prices are in, (n,).
    """
    splits = np.where(wide["splits"] > 0, wide["splits"], 1.0)
    later = np.ones_like(splits)
    later[:-1] = np.cumprod(splits[:0:-1], axis=0)[::-1]
    return {
        "close": wide["close"] * later / units,
        "volume": wide["volume"] / later,
        "dividends": _distributions(wide) * later / units,
        "splits": wide["splits"],
        "adjusted": wide["adj_close"] / units,
    }


def _distributions(wide: Mapping[str, Array]) -> Array:
    """Cash of a day, adjusted for splits: dividends, and gains distributed where these are not in them already.

    Yahoo counts the gains a fund distributes among its dividends for some funds and beside them for others. Its
    adjusted close says which: adj_(t-1) / close_(t-1) = (1 - cash_t / close_(t-1)) adj_t / close_t.
    """
    cash = np.nan_to_num(wide["dividends"])
    gains = np.nan_to_num(wide["capital_gains"])
    for row, column in np.argwhere(gains > 0):
        close, adjusted = wide["close"][:, column], wide["adj_close"][:, column]
        before = np.flatnonzero(np.isfinite(close[:row]))
        both = cash[row, column] + gains[row, column]
        if cash[row, column] < gains[row, column] or not len(before) or not np.isfinite(close[row]):
            cash[row, column] = both
            continue
        last = before[-1]
        implied = close[last] * (1.0 - adjusted[last] / close[last] * close[row] / adjusted[row])
        cash[row, column] = min((cash[row, column], both), key=lambda amount: abs(amount - implied))
    return cash


def _whole_units(facts: Mapping[str, Mapping[str, Any]], notes: list[str]) -> Array:
    """How many parts the currency of each asset has where it is quoted in parts, else 1; and a note."""
    quoted: dict[str, list[str]] = {}
    for name, said in facts.items():
        if said.get("currency") in MINOR:
            quoted.setdefault(str(said["currency"]), []).append(name)
    for unit, some in quoted.items():
        notes.append(f"Yahoo quotes {named(some)} in {unit}; prices and dividends are in {MINOR[unit][0]} here.")
    return np.array([MINOR.get(str(said.get("currency")), ("", 1))[1] for said in facts.values()], dtype=np.float64)


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


def _frame(
    values: Array, dates: Dates, rows: NDArray[np.bool_], names: Sequence[str], seen: NDArray[np.bool_]
) -> pd.DataFrame:
    kept = [name for name, there in zip(names, seen, strict=True) if there]
    values = values if rows.all() else values[rows]
    return pd.DataFrame(
        values if seen.all() else values[:, seen], index=pd.DatetimeIndex(dates[rows], name="date"), columns=kept
    )
