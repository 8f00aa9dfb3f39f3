"""Frames to the fields of a Panel: check everything, put it on one calendar, and note what was decided on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.align import (
    by_asset,
    check_coverage,
    gap_returns,
    labels,
    price_periods,
    return_periods,
    standing,
)
from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.clean import Table, check_known, check_prices, check_returns, looks_like_returns, table
from portfolio_ebm.data.factors import BUILT, build
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Dates = NDArray[np.datetime64]

MARKETS = ("market", "mkt", "mkt-rf", "mktrf", "mkt_rf")
"""Factor names that mean the market where none was named, in lower case."""


class Settings(TypedDict, total=False):
    """What a panel may hold besides prices, factors and groups; see `Panel.from_prices`."""

    factors_are: Literal["prices", "returns"] | None
    market: str | None
    benchmark: pd.Series | pd.DataFrame | str | None
    benchmark_are: Literal["prices", "returns"] | None
    cash_rate: pd.Series | float | None
    volume: pd.DataFrame | None
    forecasts: Mapping[str, pd.DataFrame] | None
    signals: pd.DataFrame | pd.Series | None
    delistings: Mapping[str, float] | pd.Series | None


class Extras(Settings, total=False):
    """What a panel may hold besides prices; see `Panel.from_prices`."""

    factors: pd.DataFrame | None
    groups: pd.DataFrame | pd.Series | Mapping[str, Any] | None


KNOWN = tuple(sorted(Extras.__required_keys__ | Extras.__optional_keys__))


def from_prices(frame: pd.DataFrame, extras: Extras) -> dict[str, Any]:
    """The fields of `Panel.from_prices`."""
    given = table(frame, "prices", min_rows=2)
    check_prices(given)
    found, notes = _without_blank_rows(given, "price")
    return _assemble(found, gap_returns(found.values), found.values, extras, notes)


def from_returns(frame: pd.DataFrame, extras: Extras) -> dict[str, Any]:
    """The fields of `Panel.from_returns`."""
    given = table(frame, "returns", min_rows=2)
    check_returns(given)
    found, notes = _without_blank_rows(given, "return")
    return _assemble(found, found.values, None, extras, notes)


def _assemble(found: Table, returns: Array, prices: Array | None, extras: Extras, notes: list[str]) -> dict[str, Any]:
    unknown = sorted(set(extras) - set(KNOWN))
    if unknown:
        raise TypeError(f"Panel takes no '{unknown[0]}'; it takes {', '.join(KNOWN)}.")
    dates, assets = found.dates, found.columns
    tradeable = np.isfinite(found.values)
    final = _delistings(extras.get("delistings"), assets)
    returns = _with_final_returns(returns, tradeable, assets, final)
    volume = extras.get("volume")
    traded = None if volume is None else _volume(volume, dates, assets)
    factors = extras.get("factors")
    if factors is None:
        names: tuple[str, ...] = BUILT
        value = None if prices is None or traded is None else prices * traded
        factor_returns = build(dates, returns, tradeable, value)
    else:
        given = table(factors, "factors")
        factor_returns = _returns_of(given, dates, extras.get("factors_are"), notes)
        names = given.columns
    market = _market(extras.get("market"), names, notes)
    benchmark, benchmark_name = _benchmark(extras, names, factor_returns, dates, notes)
    return {
        "dates": dates,
        "assets": assets,
        "returns": returns,
        "tradeable": tradeable,
        "prices": prices,
        "factors": names,
        "factor_returns": factor_returns,
        "market": market,
        "built_factors": factors is None,
        "groups": labels(extras.get("groups"), assets),
        "volume": traded,
        "cash_rate": _cash(extras.get("cash_rate"), dates, notes),
        "benchmark": benchmark,
        "benchmark_name": benchmark_name,
        "forecasts": _forecasts(extras.get("forecasts"), dates, assets),
        "signals": _signals(extras.get("signals"), dates),
        "delistings": final,
        "notes": tuple(notes),
    }


def _without_blank_rows(found: Table, what: str) -> tuple[Table, list[str]]:
    """Rows without a single number are no dates of this market (a holiday of somebody else's)."""
    kept = np.isfinite(found.values).any(axis=1)
    if kept.all():
        return found, []
    gone = np.flatnonzero(~kept)
    if kept.sum() < 2:
        raise DataError(f"{found.source}: {int(kept.sum())} date(s) with a {what}; at least 2 are needed.")
    note = f"{gone.size} date(s) without a single {what} were left out, the first {found.day(gone[0])}."
    return Table(found.source, found.dates[kept], found.columns, found.values[kept]), [note]


def _returns_of(given: Table, dates: Dates, kind: str | None, notes: list[str]) -> Array:
    """Returns on the panel's dates of a table of prices or returns; which one is detected where it was not said."""
    check_coverage(given, dates)
    if kind is None:
        kind = "returns" if looks_like_returns(given) else "prices"
        notes.append(f"{given.source}: taken as {kind}, by its numbers; factors_are= or benchmark_are= says it.")
    if kind == "returns":
        check_returns(given)
        return return_periods(given, dates)
    if kind != "prices":
        raise DataError(f"factors_are or benchmark_are '{kind}' is unknown; it is 'prices' or 'returns'.")
    check_prices(given)
    return gap_returns(price_periods(given, dates))


def _market(market: str | None, names: tuple[str, ...], notes: list[str]) -> str | None:
    if market is not None:
        check_known([market], names, "market", who="factor")
        return market
    found = next((name for name in names if name.lower() in MARKETS), None)
    if found is not None and found.lower() != "market":
        notes.append(f"Factor '{found}' is taken as the market, by its name; say market= to choose another.")
    return found


def _benchmark(
    extras: Extras, names: tuple[str, ...], factor_returns: Array, dates: Dates, notes: list[str]
) -> tuple[Array | None, str | None]:
    given = extras.get("benchmark")
    if given is None:
        return None, None
    if isinstance(given, str):
        check_known([given], names, "benchmark", who="factor")
        return factor_returns[:, names.index(given)].copy(), given
    found = _single(given, "benchmark")
    return _returns_of(found, dates, extras.get("benchmark_are"), notes)[:, 0], found.columns[0]


def _cash(given: object, dates: Dates, notes: list[str]) -> Array:
    if given is None:
        return np.zeros(len(dates))
    if isinstance(given, int | float | np.number):
        rate = np.full(len(dates), float(given))
        source = "cash_rate"
    else:
        found = _single(given, "cash_rate")
        check_coverage(found, dates)
        source = found.source
        rate = return_periods(found, dates)[:, 0]
        known = np.maximum.accumulate(np.where(np.isfinite(rate), np.arange(len(rate)), -1))
        if (known < 0).any() or not np.isfinite(rate).all():
            notes.append(f"{source}: blanks take the last known rate; before the first one cash earns nothing.")
        rate = np.where(known >= 0, rate[np.maximum(known, 0)], 0.0)
    yearly = float(np.median(np.abs(rate))) * periods_per_year(dates)
    if not np.isfinite(yearly) or yearly > 0.5:
        raise DataError(
            f"{source}: a typical rate of {float(np.median(rate)):g} a period is {yearly:.0%} a year; "
            "give the decimal rate of one period (4% a year is about 0.00016 a day)."
        )
    return rate


def _volume(given: object, dates: Dates, assets: tuple[str, ...]) -> Array:
    found = by_asset(given, "volume", assets)
    with np.errstate(invalid="ignore"):
        low = found.values < 0.0
    if low.any():
        row, column = (int(item[0]) for item in np.nonzero(low))
        raise DataError(
            f"{found.where(row, column)}: the volume is negative; leave the cell blank where it is unknown."
        )
    check_coverage(found, dates)
    return _on_dates(found, dates)


def _forecasts(given: Mapping[str, Any] | None, dates: Dates, assets: tuple[str, ...]) -> dict[str, Array]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise DataError(
            f"forecasts: got {type(given).__name__}; give {{'name': frame}}, so that a term can ask for one by name."
        )
    return {str(name): standing(by_asset(item, f"forecast '{name}'", assets), dates) for name, item in given.items()}


def _signals(given: object, dates: Dates) -> dict[str, Array]:
    if given is None:
        return {}
    found = table(given, "signals")
    check_coverage(found, dates)
    values = price_periods(found, dates)
    return {name: np.ascontiguousarray(values[:, column]) for column, name in enumerate(found.columns)}


def _delistings(given: object, assets: tuple[str, ...]) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping | pd.Series):
        raise DataError(f"delistings: got {type(given).__name__}; give {{'name': final return}}.")
    final = {str(name): float(item) for name, item in given.items()}
    check_known(final, assets, "delistings")
    for name, item in final.items():
        if not -1.0 <= item < np.inf:
            raise DataError(f"delistings: the final return of '{name}' is {item:g}; give a decimal of at least -1.")
    return final


def _with_final_returns(
    returns: Array, tradeable: NDArray[np.bool_], assets: tuple[str, ...], final: Mapping[str, float]
) -> Array:
    """A delisted name's final return on the first date after its last price; none where it trades to the end."""
    out = returns.copy()
    for name, item in final.items():
        column = assets.index(name)
        after = int(np.flatnonzero(tradeable[:, column])[-1]) + 1
        if after < len(out):
            out[after, column] = item
    return out


def _on_dates(found: Table, dates: Dates) -> Array:
    """The rows of exactly these dates, blank where there is none."""
    row = np.searchsorted(found.dates, dates)
    there = (row < len(found.dates)) & (found.dates[np.minimum(row, len(found.dates) - 1)] == dates)
    return np.where(there[:, None], found.values[np.minimum(row, len(found.dates) - 1)], np.nan)


def _single(given: object, what: str) -> Table:

    found = table(given, what)
    if len(found.columns) != 1:
        raise DataError(
            f"{found.source}: {len(found.columns)} columns ({', '.join(found.columns[:4])}); the {what} is one series."
        )
    return found
