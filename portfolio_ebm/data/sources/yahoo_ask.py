"""One ticker asked of Yahoo through yfinance: what came, or a sentence that says why nothing did.

    ask(symbol, since) -> Series(dates, columns, facts)      or Trouble(kind, sentence)

yfinance hides what went wrong unless it is told not to, prints it, and keeps answers it could not read for the next
call; here its errors are raised, its log is silent and a bad answer is forgotten. The last bar of a session that is
still open is not a close: it is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd

from portfolio_ebm.data.sources.series_file import Array, Dates
from portfolio_ebm.data.sources.yahoo_quiet import quiet
from portfolio_ebm.errors import DataError

TIMEOUT = 20.0
"""Seconds of silence after which a request has failed."""

GRACE = timedelta(minutes=30)
"""Closing auctions and delayed quotes: for so long after the close the last bar may still change."""

COLUMNS = {
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Close",
    "adj_close": "Adj Close",
    "volume": "Volume",
    "dividends": "Dividends",
    "splits": "Stock Splits",
    "capital_gains": "Capital Gains",
}
"""Our names of the columns, and those of yfinance."""

ACTIONS = ("dividends", "splits", "capital_gains")

UNKNOWN = "Yahoo knows no such ticker, or has delisted it"

Kind = Literal["limit", "network", "answer", "final"]


class Trouble(DataError):
    """Why a ticker was not fetched.

    kind: "limit" (Yahoo wants fewer requests), "network" (no connection, or one that died), "answer" (one that makes
    no sense), all of which may pass; "final" does not.
    """

    def __init__(self, kind: Kind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind: Kind = kind


@dataclass(frozen=True, eq=False)
class Series:
    """What Yahoo gave: `dates` (T,) of the exchange, `columns` (T,) adjusted for the splits so far, `facts`."""

    dates: Dates
    columns: Mapping[str, Array]
    facts: Mapping[str, Any]


def ask(symbol: str, since: str) -> Series:
    """Daily bars of `symbol` from the day `since` (YYYY-MM-DD) to now; call it inside `prepared`.

    Raises:
        Trouble: nothing usable came.
    """
    import yfinance

    try:
        with quiet():
            ticker = yfinance.Ticker(symbol)
            frame = ticker.history(
                start=since, interval="1d", auto_adjust=False, actions=True, keepna=True, timeout=TIMEOUT
            )
            said = ticker.get_history_metadata()
    except Exception as error:  # whatever yfinance stumbles over in an answer: KeyError, TypeError, its own, curl's
        _forget()
        raise _trouble(error, since) from error
    facts = _facts(symbol, said)
    dates, columns = _arrays(frame)
    keep = np.isfinite(columns["close"]) | (np.stack([columns[name] for name in ACTIONS]) != 0).any(axis=0)
    keep &= dates < _open_from(said)
    if not np.isfinite(columns["close"][keep]).any():
        raise Trouble("final", f"Yahoo has no prices from {since} on")
    return Series(dates[keep], {name: values[keep] for name, values in columns.items()}, facts)


def _arrays(frame: pd.DataFrame) -> tuple[Dates, dict[str, Array]]:
    """Local dates at midnight, and the columns under our names; actions are 0 where there is none."""
    index = pd.DatetimeIndex(frame.index)
    dates: Dates = index.tz_localize(None).normalize().to_numpy().astype("datetime64[ns]")
    dates, first = np.unique(dates, return_index=True)
    columns = {}
    for name, theirs in COLUMNS.items():
        given = frame[theirs].to_numpy(dtype=np.float64) if theirs in frame else np.full(len(index), np.nan)
        columns[name] = np.nan_to_num(given[first]) if name in ACTIONS else given[first]
    return dates, columns


def _facts(symbol: str, said: Mapping[str, Any]) -> dict[str, Any]:
    zone = said.get("exchangeTimezoneName")
    first = _stamp(said.get("firstTradeDate"))
    return {
        "source": "yahoo",
        "ticker": symbol,
        "name": said.get("longName") or said.get("shortName"),
        "currency": said.get("currency"),
        "exchange": said.get("fullExchangeName") or said.get("exchangeName"),
        "zone": zone,
        "instrument": said.get("instrumentType"),
        "first_trade": None if first is None else str((first.tz_convert(zone) if zone else first).date()),
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _open_from(said: Mapping[str, Any]) -> np.datetime64:
    """The first date whose bar may still change: that of the session now, or of the one after it once it is over."""
    zone = said.get("exchangeTimezoneName") or "UTC"
    # The later of two clocks: this machine's may be slow.
    now = max(item for item in (pd.Timestamp.now("UTC"), _stamp(said.get("regularMarketTime"))) if item is not None)
    regular = (said.get("currentTradingPeriod") or {}).get("regular") or {}
    start, end = _stamp(regular.get("start")), _stamp(regular.get("end"))
    if start is None or end is None:
        return _midnight(now, zone)
    session = _midnight(start, zone)
    return session if now < end + GRACE else session + np.timedelta64(1, "D")


def _midnight(when: pd.Timestamp, zone: str) -> np.datetime64:
    return np.datetime64(when.tz_convert(zone).tz_localize(None).normalize(), "ns")


def _stamp(value: Any) -> pd.Timestamp | None:
    """A time as yfinance gives it: seconds since 1970, or made a Timestamp already."""
    if value is None or value is pd.NaT:
        return None
    stamp = pd.Timestamp(value, unit="s") if isinstance(value, int | float) else pd.Timestamp(value)
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def _trouble(error: Exception, since: str) -> Trouble:
    """Which kind of trouble an error of yfinance is; by name where its class is another library's."""
    name = type(error).__name__
    if name == "YFRateLimitError":
        return Trouble("limit", "Yahoo limits the rate")
    if name == "YFTzMissingError":
        return Trouble("final", UNKNOWN)
    if name == "YFPricesMissingError":
        why = str(getattr(error, "rationale", error)).rstrip(".")
        if "symbol may be delisted" in why:
            return Trouble("final", UNKNOWN)
        if why.startswith("no price data found"):
            return Trouble("answer", f"Yahoo has no prices from {since} on")
        return Trouble("final", f"Yahoo says: {why}")
    if isinstance(error, json.JSONDecodeError):
        return Trouble("answer", "Yahoo's answer was cut short or is no JSON")
    if name == "HTTPError":
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 404:
            return Trouble("final", UNKNOWN)
        return Trouble("answer", f"Yahoo answers with an error ({status or error})")
    if isinstance(error, OSError):
        return Trouble("network", f"the connection to Yahoo failed ({name})")
    return Trouble("answer", f"yfinance could not read Yahoo's answer ({name}: {str(error)[:120]})")


def _forget() -> None:
    """yfinance keeps answers by address, bad ones too, and would read the same one again."""
    from yfinance.data import YfData

    clear = getattr(getattr(YfData, "cache_get", None), "cache_clear", None)
    if clear is not None:
        clear()
