"""Sessions of exchanges: what a blank cell means in a panel of several markets.

                    price at t       no price at t
    open at t       traded           a gap between two prices (`missing`), else not listed
    closed at t     `foreign`        a holiday (`holidays`)

Open is said of the asset's own market. Sessions come from the library exchange_calendars, an extra:
`pip install 'portfolio-ebm[calendars]'`. A calendar is published ahead, so what it says of tomorrow is known today;
data/session_schedules.py has the schedules that use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.dates import stamp
from portfolio_ebm.errors import DataError

Dates = NDArray[np.datetime64]
Mask = NDArray[np.bool_]
When = str | date | datetime | np.datetime64 | pd.Timestamp

EARLIEST = np.datetime64("1953-01-01", "D")
"""Exchanges traded on Saturdays before, which the calendars do not say."""

_RULES_FROM = np.datetime64("1970-01-01", "D")
"""Before this day the library keeps the irregular closures only; the regular holidays are taken out here."""

_DAILY = 100.0
"""Fewer rows a year than this are no daily panel, and a date is no session."""


@dataclass(frozen=True, eq=False, repr=False)
class Sessions:
    """The sessions of one exchange from `start` to `end`, both included.

    Attributes:
        name: of the exchange, an ISO 10383 code ("XNYS").
        dates: datetime64[ns] midnights of the local days on which it opened, (T,).
        early: bool (T,): days on which it closed early.
        start, end: the days asked for; nothing is known outside of them.
    """

    name: str
    dates: Dates
    early: Mask
    start: np.datetime64
    end: np.datetime64

    def open_on(self, dates: Dates) -> Mask:
        """Bool, shaped like `dates`: the exchange has a session on that day.

        Raises:
            DataError: a date before `start` or after `end`.
        """
        days = np.asarray(dates).astype("datetime64[D]")
        if days.size and not (self.start <= days.min() and days.max() <= self.end):
            raise DataError(
                f"{self.name}: asked for {days.min()} to {days.max()}, its sessions were taken from {self.start} to "
                f"{self.end}; take them with sessions('{self.name}', start, end) over all dates."
            )
        return among(days, self.dates.astype("datetime64[D]"))

    def early_on(self, dates: Dates) -> Mask:
        """Bool, shaped like `dates`: the exchange closes early on that day."""
        opened = self.open_on(dates)
        return opened & among(np.asarray(dates).astype("datetime64[D]"), self.dates[self.early].astype("datetime64[D]"))

    def __len__(self) -> int:
        return len(self.dates)

    def __repr__(self) -> str:
        return (
            f"<Sessions {self.name} {self.start} to {self.end}, {len(self)} days, {int(self.early.sum())} of them half>"
        )


def sessions(exchange: str, start: When, end: When) -> Sessions:
    """The days on which an exchange opens, from `start` to `end`.

    Args:
        exchange: ISO 10383 code or an alias of the library ("XNYS", "NYSE", "XLON", "XTKS", "24/7").
        start: not before 1953, nor before the calendar begins (Tokyo's does in 1997).
        end: at most about a year ahead: closures are not announced further than that.

    Raises:
        DataError: the library is not installed, no such exchange (with near matches), or days its calendar does not
            cover.

    Example:
        >>> sessions("XNYS", "2024-11-27", "2024-11-29").dates.astype("datetime64[D]")
        array(['2024-11-27', '2024-11-29'], dtype='datetime64[D]')
    """
    name = _resolved(exchange)
    first, last = stamp(start, "start").astype("datetime64[D]"), stamp(end, "end").astype("datetime64[D]")
    if first > last:
        raise DataError(f"{name}: no day lies from {first} to {last}; give the earlier one as start.")
    least, most = _reach(name)
    if first < least:
        raise DataError(f"{name}: its calendar begins {least}, and {first} was asked for; start there or later.")
    if last > most:
        raise DataError(
            f"{name}: its calendar is known up to {most}, and {last} was asked for; closures are announced about a "
            "year ahead. End there, or install a newer exchange_calendars."
        )
    years = range(_year(first) // 10, _year(last) // 10 + 1)
    dates, early = (np.concatenate(part) for part in zip(*(_decade(name, decade) for decade in years), strict=True))
    inside = (dates >= first) & (dates <= last)
    return Sessions(name, _fixed(dates[inside].astype("datetime64[ns]")), _fixed(early[inside]), first, last)


def markets(assets: Sequence[str], exchanges: Mapping[str, str] | Sequence[str], dates: Dates) -> dict[str, Sessions]:
    """The calendar of every asset over the dates of a panel, in the panel's order, for the functions below.

    Args:
        assets: `panel.assets`.
        exchanges: by asset, or one an asset in the panel's order (`panel.groups["exchange"]`).
        dates: `panel.dates`.

    Raises:
        DataError: an asset without an exchange, or as `sessions`.

    Example:
        >>> calendars = markets(panel.assets, panel.groups["exchange"], panel.dates)
        >>> missing(panel.dates, panel.tradeable, calendars).sum(axis=0)
    """
    if not isinstance(exchanges, Mapping):
        if isinstance(exchanges, str) or len(exchanges) != len(assets):
            raise DataError(f"exchanges: give one for each of the {len(assets)} assets, or a mapping by asset.")
        exchanges = dict(zip(assets, exchanges, strict=True))
    without = [name for name in assets if name not in exchanges]
    if without:
        raise DataError(f"exchanges: none is given for {', '.join(without[:5])}; name one ('XNYS') for every asset.")
    days = _panel_days(dates)
    found = {name: sessions(name, days[0], days[-1]) for name in {exchanges[asset] for asset in assets}}
    return {asset: found[exchanges[asset]] for asset in assets}


def holidays(dates: Dates, tradeable: Mask, calendars: Mapping[str, Sessions]) -> Mask:
    """Bool (T, n): cells that are blank because the asset's own market was closed.

    Args:
        dates: of a daily panel, (T,).
        tradeable: (T, n), True where there is a price.
        calendars: one an asset in the order of the columns, as `markets` gives.

    Raises:
        DataError: shapes that do not fit, a panel that is not daily, dates outside of a calendar.
    """
    return ~_open(dates, calendars, tradeable) & ~np.asarray(tradeable)


def missing(dates: Dates, tradeable: Mask, calendars: Mapping[str, Sessions]) -> Mask:
    """Bool (T, n): sessions of the asset's own market, between its first and its last price, without one.

    A report on the data, made in hindsight: whether a blank is a gap or the end shows only once a price came after it.
    Sessions that are no row of the panel at all are told by `absent`. Arguments and errors as `holidays`.
    """
    given = np.asarray(tradeable)
    begun = np.maximum.accumulate(given, axis=0)
    unfinished = np.maximum.accumulate(given[::-1], axis=0)[::-1]
    gaps: Mask = _open(dates, calendars, tradeable) & ~given & begun & unfinished
    return gaps


def foreign(dates: Dates, tradeable: Mask, calendars: Mapping[str, Sessions]) -> Mask:
    """Bool (T, n): prices on a day on which the asset's own market was closed: filled forward, or on the wrong day.

    Arguments and errors as `holidays`.
    """
    return ~_open(dates, calendars, tradeable) & np.asarray(tradeable)


def absent(dates: Dates, calendars: Mapping[str, Sessions]) -> dict[str, Dates]:
    """By exchange, its sessions from the first date to the last that are no row of the panel; datetime64[ns].

    Raises:
        DataError: as `holidays`.
    """
    days = _panel_days(dates)
    out = {}
    for calendar in _distinct(calendars):
        calendar.open_on(days)
        own = calendar.dates.astype("datetime64[D]")
        within = (own >= days[0]) & (own <= days[-1]) & ~among(own, days)
        out[calendar.name] = calendar.dates[within]
    return out


def early(dates: Dates, calendars: Mapping[str, Sessions]) -> Mask:
    """Bool (T, n): days on which the asset's own market closes early; errors as `holidays`."""
    days = _panel_days(dates)
    return _by_asset(
        calendars, {calendar.name: calendar.early_on(days) for calendar in _distinct(calendars)}, len(days)
    )


def common(dates: Dates, calendars: Mapping[str, Sessions]) -> Mask:
    """Bool (T,): dates on which every market is open; errors as `holidays`.

    Example:
        >>> us, jp = (sessions(name, "2024-01-02", "2024-01-05") for name in ("XNYS", "XTKS"))
        >>> common(us.dates, {"SPY": us, "7203.T": jp})
        array([False, False,  True,  True])
    """
    days = _panel_days(dates)
    return _all_open([calendar.open_on(days) for calendar in _distinct(calendars)], len(days))


def reach(exchange: str) -> tuple[np.datetime64, np.datetime64]:
    """First and last day that `sessions` can tell of, as datetime64[D]; errors as there."""
    return _reach(_resolved(exchange))


def among(days: Dates, known: Dates) -> Mask:
    """Bool, shaped like `days`: which of them are in `known`, which is sorted."""
    if not len(known):
        return np.zeros(days.shape, dtype=np.bool_)
    found: Mask = known[np.minimum(np.searchsorted(known, days), len(known) - 1)] == days
    return found


def _open(dates: Dates, calendars: Mapping[str, Sessions], tradeable: Mask) -> Mask:
    """Bool (T, n): the market of each asset has a session; everything checked."""
    days = _panel_days(dates)
    if np.shape(tradeable) != (len(days), len(calendars)):
        raise DataError(
            f"tradeable has shape {np.shape(tradeable)}; there are {len(days)} dates and {len(calendars)} calendars: "
            "give one calendar for every column, in the order of the columns."
        )
    return _by_asset(calendars, {item.name: item.open_on(days) for item in _distinct(calendars)}, len(days))


def _by_asset(calendars: Mapping[str, Sessions], columns: Mapping[str, Mask], rows: int) -> Mask:
    out = np.zeros((rows, len(calendars)), dtype=np.bool_)
    for column, calendar in enumerate(calendars.values()):
        out[:, column] = columns[calendar.name]
    return out


def _distinct(calendars: Mapping[str, Sessions]) -> list[Sessions]:
    if not calendars:
        raise DataError("No calendar is given; name one for every asset, as markets(assets, exchanges, dates) does.")
    found: dict[str, Sessions] = {}
    for calendar in calendars.values():
        first = found.setdefault(calendar.name, calendar)
        if (first.start, first.end) != (calendar.start, calendar.end):
            raise DataError(
                f"{calendar.name}: two assets have its sessions over different days; take them once for both."
            )
    return list(found.values())


def _panel_days(dates: Dates) -> Dates:
    if periods_per_year(dates) < _DAILY:
        raise DataError(
            f"dates: about {periods_per_year(dates):.0f} rows a year; sessions say something about daily panels only."
        )
    if not len(dates):
        raise DataError("dates: there are none; give those of a panel.")
    days: Dates = np.asarray(dates).astype("datetime64[D]")
    return days


def _year(day: np.datetime64) -> int:
    return int(day.astype("datetime64[Y]").astype(np.int64)) + 1970


def _library() -> Any:
    try:
        return import_module("exchange_calendars")
    except ImportError as error:
        raise DataError(
            "Sessions of exchanges need the library exchange_calendars, which is not installed: "
            "pip install 'portfolio-ebm[calendars]'."
        ) from error


@lru_cache(maxsize=256)
def _resolved(exchange: str) -> str:
    """The library's own name of an exchange."""
    library = _library()
    known = library.get_calendar_names(include_aliases=True)
    by_upper = {name.upper(): name for name in known}
    if str(exchange).upper() not in by_upper:
        near = [by_upper[name] for name in get_close_matches(str(exchange).upper(), by_upper, n=3)]
        hint = f" near: {', '.join(near)};" if near else ""
        raise DataError(
            f"No exchange '{exchange}';{hint} there are ISO 10383 codes (XNYS, XLON, XTKS, XETR, XHKG), and 24/7."
        )
    return str(library.resolve_alias(by_upper[str(exchange).upper()]))


@lru_cache(maxsize=256)
def _reach(name: str) -> tuple[np.datetime64, np.datetime64]:
    """First and last day the library's calendar covers."""
    month_ago = pd.Timestamp(datetime.now(UTC).date()) - pd.Timedelta(days=31)
    calendar = _built(name, month_ago, None)
    least = calendar.bound_min()
    begins = EARLIEST if least is None else max(EARLIEST, np.datetime64(least, "D"))
    return begins, np.datetime64(calendar.default_end(), "D")


@lru_cache(maxsize=1024)
def _decade(name: str, decade: int) -> tuple[Dates, Mask]:
    """Sessions of ten years as datetime64[D], and which are half days; by decade, so that one file is one look-up."""
    least, most = _reach(name)
    start, end = np.datetime64(f"{decade}0-01-01", "D"), np.datetime64(f"{decade}9-12-31", "D")
    # A few days more than wanted: the library refuses a span of one day, or of none with a session.
    calendar = _built(name, pd.Timestamp(max(least, start - 14)), pd.Timestamp(min(most, end)))
    dates = calendar.sessions.to_numpy().astype("datetime64[D]")
    if calendar.regular_holidays is not None and start < _RULES_FROM:
        regular = calendar.regular_holidays.holidays(pd.Timestamp(start - 14), pd.Timestamp(_RULES_FROM - 1))
        dates = dates[~np.isin(dates, regular.to_numpy().astype("datetime64[D]"))]
    dates = dates[dates >= start]
    return dates, np.isin(dates, calendar.early_closes.to_numpy().astype("datetime64[D]"))


def _built(name: str, start: pd.Timestamp, end: pd.Timestamp | None) -> Any:
    library = _library()
    try:
        return library.get_calendar(name, start=start, end=end)
    # NotImplementedError is what it says of rules it has no dates for; it is no word of ours.
    except (ValueError, NotImplementedError, library.errors.CalendarError) as error:
        raise DataError(
            f"{name}: exchange_calendars {library.__version__} cannot make this calendar ({str(error)[:120]}); try a "
            "newer version, or another exchange of the same country."
        ) from error


def _fixed(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _all_open(masks: Iterable[Mask], rows: int) -> Mask:
    out = np.ones(rows, dtype=np.bool_)
    for mask in masks:
        out &= mask
    return out
