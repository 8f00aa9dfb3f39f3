"""Frames to the fields of a Panel: check everything, put it on one calendar, and note what was decided on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data import delistings, long
from portfolio_ebm.data.actions import total_returns
from portfolio_ebm.data.align import (
    by_asset,
    check_coverage,
    gap_returns,
    price_periods,
    return_periods,
    standing,
)
from portfolio_ebm.data.cash import cash_rates
from portfolio_ebm.data.clean import (
    Table,
    check_known,
    check_prices,
    check_returns,
    check_sane,
    looks_like_returns,
    single,
    table,
)
from portfolio_ebm.data.factors import BUILT, build
from portfolio_ebm.data.labels import labels
from portfolio_ebm.data.membership import members
from portfolio_ebm.data.weights import benchmark_weights
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
    cash_are: Literal["returns", "annual_percent"] | None
    volume: pd.DataFrame | None
    dividends: pd.DataFrame | None
    splits: pd.DataFrame | None
    membership: pd.DataFrame | None
    benchmark_weights: Mapping[str, pd.DataFrame] | pd.DataFrame | None
    forecasts: Mapping[str, pd.DataFrame] | None
    signals: pd.DataFrame | pd.Series | None
    delistings: Mapping[str, float] | pd.Series | pd.DataFrame | None


class Extras(Settings, total=False):
    """What a panel may hold besides prices; see `Panel.from_prices`."""

    returns: pd.DataFrame | None
    factors: pd.DataFrame | None
    groups: pd.DataFrame | pd.Series | Mapping[str, Any] | None


KNOWN = tuple(sorted(Extras.__required_keys__ | Extras.__optional_keys__))


def from_prices(frame: pd.DataFrame | Table, extras: Extras) -> dict[str, Any]:
    """The fields of `Panel.from_prices`."""
    given = table(frame, "prices", min_rows=2)
    check_prices(given)
    found, notes = _without_blank_rows(given, "price")
    return _assemble(found, _returns(found, extras, notes), found.values, extras, notes)


def from_returns(frame: pd.DataFrame, extras: Extras) -> dict[str, Any]:
    """The fields of `Panel.from_returns`."""
    wrong = next((name for name in ("returns", "dividends", "splits") if extras.get(name) is not None), None)
    if wrong is not None:
        raise DataError(
            f"{wrong}: returns are given already, with dividends and splits in them; leave {wrong} out, or give prices "
            "as traded to Panel.from_prices."
        )
    given = table(frame, "returns", min_rows=2)
    check_returns(given)
    found, notes = _without_blank_rows(given, "return")
    return _assemble(found, found.values, None, extras, notes)


def from_factors(frame: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """The fields of `Panel.from_factors`."""
    found, notes = _without_blank_rows(table(frame, "factors", min_rows=2), "factor")
    nobody = Table(found.source, found.dates, (), np.empty((len(found.dates), 0)))
    return _assemble(nobody, nobody.values, None, cast("Extras", {**settings, "factors": frame}), notes)


def from_long(frame: pd.DataFrame, extras: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Panel.from_long`."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"long table: got {type(frame).__name__}; give a pandas DataFrame with columns date, asset ...")
    notes: list[str] = []
    merged = merge({}, long.pieces(frame, notes), str(frame.attrs.get("source", "long table")))
    return from_pieces(merge(merged, extras, "what was given beside it"), notes)


def from_pieces(pieces: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The fields of a panel of prices, or of returns where there are no prices; `notes` come first in it."""
    extras = {name: item for name, item in pieces.items() if item is not None}
    if "prices" in extras:
        made = from_prices(extras.pop("prices"), cast("Extras", extras))
    elif "returns" in extras:
        made = from_returns(extras.pop("returns"), cast("Extras", extras))
    else:
        raise DataError(f"There are no prices and no returns, only {', '.join(pieces) or 'nothing'}; give one of them.")
    return made | {"notes": (*notes, *made["notes"])}


def merge(taken: Mapping[str, Any], more: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Both, where nothing is in both.

    Raises:
        DataError: something is; the message names it.
    """
    given = {name: item for name, item in more.items() if item is not None}
    twice = sorted(name for name in given if taken.get(name) is not None)
    if twice:
        raise DataError(f"{source}: '{twice[0]}' was given already; keep one of the two.")
    return {**taken, **given}


def _returns(found: Table, extras: Extras, notes: list[str]) -> Array:
    """Returns of the prices: between them, with dividends and splits, or as given beside them."""
    dates, assets = found.dates, found.columns
    acts = {"dividends": extras.get("dividends"), "splits": extras.get("splits")}
    acted = {name: by_asset(item, name, assets) for name, item in acts.items() if item is not None}
    given = extras.get("returns")
    if given is None:
        if not acted:
            return gap_returns(found.values)
        returns, told = total_returns(dates, assets, found.values, acted.get("dividends"), acted.get("splits"))
        notes.extend(told)
        return returns
    if acted:
        raise DataError("returns: dividends and splits are in the returns that were given; leave these out.")
    own = by_asset(given, "returns", assets)
    check_returns(own)
    check_coverage(own, dates)
    known = np.where(np.isfinite(found.values), return_periods(own, dates), np.nan)
    blank = int((np.isfinite(gap_returns(found.values)) & ~np.isfinite(known)).sum())
    told_blank = f", {blank} of them blank where there is a price" if blank else ""
    notes.append(f"Returns are as given in {own.source}, not those of the prices{told_blank}.")
    return known


def _assemble(found: Table, returns: Array, prices: Array | None, extras: Extras, notes: list[str]) -> dict[str, Any]:
    unknown = sorted(set(extras) - set(KNOWN))
    if unknown:
        raise TypeError(f"Panel takes no '{unknown[0]}'; it takes {', '.join(KNOWN)}.")
    dates, assets = found.dates, found.columns
    check_sane(returns, dates, assets, found.source)
    tradeable = np.isfinite(found.values)
    final = delistings.read(extras.get("delistings"), assets)
    returns, ends = delistings.book(returns, tradeable, dates, assets, final, notes)
    given_members = extras.get("membership")
    mask = None if given_members is None else members(given_members, dates, assets, notes)
    volume = extras.get("volume")
    traded = None if volume is None else _volume(volume, dates, assets)
    factors = extras.get("factors")
    if factors is None:
        names: tuple[str, ...] = BUILT
        value = None if prices is None or traded is None else prices * traded
        factor_returns = build(dates, returns, tradeable if mask is None else tradeable & mask, value)
    else:
        given = table(factors, "factors")
        factor_returns = _returns_of(given, dates, extras.get("factors_are"), notes)
        names = given.columns
    market = _market(extras.get("market"), names, notes)
    groups, relabels = labels(extras.get("groups"), assets, dates, tradeable, notes)
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
        "groups": groups,
        "relabels": relabels,
        "volume": traded,
        "cash_rate": cash_rates(extras.get("cash_rate"), extras.get("cash_are"), dates, notes),
        "benchmark": benchmark,
        "benchmark_name": benchmark_name,
        "forecasts": _forecasts(extras.get("forecasts"), dates, assets),
        "signals": _signals(extras.get("signals"), dates),
        "delistings": ends,
        "members": mask,
        "benchmark_weights": benchmark_weights(extras.get("benchmark_weights"), dates, assets, notes),
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
        kind = "returns" if looks_like_returns(given.values) else "prices"
        notes.append(f"{given.source}: taken as {kind}, by its numbers; factors_are= or benchmark_are= says it.")
    if kind == "returns":
        check_returns(given)
        return check_sane(return_periods(given, dates), dates, given.columns, given.source)
    if kind != "prices":
        raise DataError(f"factors_are or benchmark_are '{kind}' is unknown; it is 'prices' or 'returns'.")
    check_prices(given)
    return check_sane(gap_returns(price_periods(given, dates)), dates, given.columns, given.source)


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
    found = single(given, "benchmark")
    return _returns_of(found, dates, extras.get("benchmark_are"), notes)[:, 0], found.columns[0]


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


def _on_dates(found: Table, dates: Dates) -> Array:
    """The rows of exactly these dates, blank where there is none."""
    if np.array_equal(found.dates, dates):
        return found.values
    row = np.searchsorted(found.dates, dates)
    there = (row < len(found.dates)) & (found.dates[np.minimum(row, len(found.dates) - 1)] == dates)
    return np.where(there[:, None], found.values[np.minimum(row, len(found.dates) - 1)], np.nan)
