"""The examination: a lenient reading, then every rule of one table, then a report sorted by sureness.

A rule is a function of the `View`; what it needs beyond the data decides whether it can run, and a rule that cannot is
said in the report. To add one, write the function and give it a line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.clean import looks_like_returns
from portfolio_ebm.data.doctor import dividends as cash
from portfolio_ebm.data.doctor.finding import Edit, Finding, Report, ordered
from portfolio_ebm.data.doctor.forecasts import look_ahead
from portfolio_ebm.data.doctor.gaps import blanks, sessions, survivors
from portfolio_ebm.data.doctor.jumps import large, levels, spikes, splits
from portfolio_ebm.data.doctor.loose import Loose, loose
from portfolio_ebm.data.doctor.stale import stale, thin
from portfolio_ebm.data.doctor.stamps import calendar_findings, read_dates
from portfolio_ebm.data.doctor.twins import shifts, twins
from portfolio_ebm.data.doctor.units import percent, unit_of
from portfolio_ebm.data.doctor.view import FEWEST, View
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]

LEAST = 0.05
"""Findings less sure than this are not told."""


def dates(view: View) -> Iterator[Finding]:
    """Order, repeats, weekends and the future."""
    yield from calendar_findings(view.book.rows.dates, view.book.rows.repeats, view.today)


def impossible(view: View) -> Iterator[Finding]:
    """Infinities, prices that are not above zero, returns that lose more than everything."""
    book = view.book
    low = np.nan_to_num(book.values, nan=1.0) <= 0.0
    names = {"infinite": book.infinite, "not above zero": low}
    if view.what == "returns":
        low = np.isfinite(book.values) & (book.values / view.unit < -1.0)
        names = {"infinite": book.infinite, "below -100%": low}
    for word, flag in names.items():
        for column in np.flatnonzero(flag.any(axis=0)):
            rows = np.flatnonzero(flag[:, column])
            place, cells = view.cells(int(column), rows)
            what = f"{len(rows)} number(s) are {word}"
            if word != "infinite":
                what += f", first {book.values[rows[0], column]:g}"
            days = view.day(int(rows[0])), view.day(int(rows[-1]))
            remedy = "Leave a cell blank where nothing is known."
            yield Finding(
                "impossible", view.names[int(column)], *days, what + ".", 1.0, remedy, True, (Edit(place, cells, None),)
            )


def kind_of_table(view: View) -> Iterator[Finding]:
    """Prices where returns were said, and the other way round."""
    known = view.book.values[np.isfinite(view.book.values)]
    if len(known) < 20:
        return
    negative, size = float((known < 0).mean()), float(np.median(np.abs(known)))
    if view.what == "prices" and negative > 0.2:
        what = f"{negative:.0%} of the numbers are negative: this table holds returns, not prices."
        yield Finding("units", "", "", "", what, 0.99, "Say that these are returns.")
    elif view.what == "returns" and negative < 0.01 and size > 1.5:
        what = f"hardly a number is negative and their median is {size:.4g}: this table holds prices, not returns."
        yield Finding("units", "", "", "", what, 0.99, "Say that these are prices.")


@dataclass(frozen=True)
class Rule:
    """One line of the table: a check, what it needs, and what is said where that lacks."""

    name: str
    check: Callable[[View], Iterable[Finding]]
    needs: Callable[[View], bool] = lambda view: True
    without: str = ""


def _several(view: View) -> bool:
    return view.shape[1] > FEWEST


RULES = (
    Rule("dates", dates),
    Rule("prices or returns", kind_of_table),
    Rule("impossible numbers", impossible),
    Rule(
        "percent and decimals", percent, lambda view: view.what == "returns", "these are prices, which have no percent."
    ),
    Rule("bad ticks", spikes),
    Rule("splits", splits),
    Rule("units", levels),
    Rule("stale prices", stale),
    Rule("large moves", large),
    Rule("blanks", blanks),
    Rule("missing sessions", sessions),
    Rule("survivorship", survivors),
    Rule("duplicates", twins, lambda view: view.shape[1] > 1, "one name alone, so duplicates were not looked for."),
    Rule("shifted dates", shifts, _several, "fewer than six names, so dates were not held against the market."),
    Rule("thin trading", thin, lambda view: view.volume is not None, "no volume, so thin trading was not checked."),
    Rule(
        "dividends",
        cash.cadence,
        lambda view: view.dividends is not None or (view.adjusted is not None and view.what == "prices"),
        "missing dividends cannot be told from prices alone; give dividends or adjusted closes.",
    ),
    Rule(
        "adjusted closes",
        cash.agreement,
        lambda view: view.adjusted is not None and view.dividends is not None and view.what == "prices",
        "adjusted closes and dividends were not both given, so they were not compared.",
    ),
    Rule(
        "look-ahead",
        look_ahead,
        lambda view: view.forecasts is not None and view.shape[1] >= FEWEST,
        "no forecasts (or fewer than five names), so look-ahead was not checked.",
    ),
)
"""All checks, in the order in which they are named in a report."""


def examine(
    data: Any,
    *,
    what: str | None = "prices",
    volume: Any = None,
    dividends: Any = None,
    adjusted: Any = None,
    forecasts: Any = None,
    calendar: Any = None,
    today: Any = None,
) -> Report:
    """What is wrong with a table of prices or returns, where, how sure, and what to do.

    Args:
        data: a pandas frame as it is, dates down and names across; long tables and bars are recognised.
        what: "prices" or "returns" (simple; percent is recognised); None finds out by the numbers.
        volume: shares traded; dividends: cash a share on the ex-date; adjusted: adjusted closes; forecasts: scores
            for the next return, known at their date. Frames like `data`, matched by date and name.
        calendar: the dates of all sessions; without it holidays are guessed from other years.
        today: the date after which a row lies in the future; by default the date of this machine's clock, the one
            thing that a report depends on besides the data.

    Raises:
        DataError: `what` is neither; something given is no frame.

    Example:
        >>> report = examine(pd.DataFrame({"A": [10.0, 10.1, -10.2]}, index=pd.bdate_range("2020-01-01", periods=3)))
        >>> report.findings[0].kind, report.findings[0].first
        ('impossible', '2020-01-03')
    """
    if what not in ("prices", "returns", None):
        raise DataError(f"what: got '{what}'; say 'prices' or 'returns'.")
    book = loose(data, what or "data")
    if what is None:
        what = "returns" if looks_like_returns(book.values) else "prices"
    given = {"volume": volume, "dividends": dividends, "adjusted": adjusted, "forecasts": forecasts}
    told = list(book.told)
    beside: dict[str, Array | None] = {}
    for name, extra in given.items():
        beside[name], odd = _beside(book, name, book.parts.get(name) if extra is None else extra)
        told += odd
    view = _view(book, what, beside, _dates(calendar), _today(today))
    ran, unchecked = [], []
    for rule in RULES if view.values.size else RULES[:1]:
        if rule.needs(view):
            ran.append(rule.name)
            with np.errstate(all="ignore"):
                told += list(rule.check(view))
        elif rule.without:
            unchecked.append(rule.without)
    if not view.values.size:
        unchecked.append("there is no number to check: give dates down and names across.")
    elif view.shape[1] < FEWEST:
        unchecked.append("fewer than five names, so no market of the day was taken out of moves: sureness is rougher.")
    rows = book.rows
    if book.long is not None:
        told, rows = [book.long.back(item) for item in told], book.long.rows
    findings = ordered(item for item in told if item.sure >= LEAST)
    return Report(book.source, what, view.shape, findings, tuple(ran), tuple(unchecked), rows)


def _beside(book: Loose, name: str, extra: Any) -> tuple[Array | None, list[Finding]]:
    """Another table on the dates and names of the book, and what is wrong with it."""
    if extra is None:
        return None, []
    other = loose(extra, name)
    source = other.source
    told = [replace(item, what=f"in {source}: {item.what}", fixable=False, edits=()) for item in other.told]
    values = other.on(book)
    if not np.isfinite(values).any():
        what = f"{source} has no date and name in common with {book.source}, so it was not used."
        return None, [*told, Finding("layout", "", "", "", what, 1.0, "Give the same names and dates.")]
    return values, told


def _view(
    book: Loose,
    what: str,
    beside: dict[str, Array | None],
    calendar: NDArray[np.datetime64] | None,
    today: np.datetime64,
) -> View:
    with np.errstate(all="ignore"):
        unit = np.ones(book.values.shape)
        segments: list[tuple[int, int, int, float, float]] = []
        values = np.where(book.values > 0.0, book.values, np.nan)
        if what == "returns":
            unit, segments = unit_of(book.values, book.dates)
            values = book.values / unit
            values = np.where(values > -1.0, values, np.nan)
        return View(book, what, values, unit, tuple(segments), today, **beside, calendar=calendar)


def _dates(calendar: Any) -> NDArray[np.datetime64] | None:
    if calendar is None:
        return None
    days, _ = read_dates(pd.Index(np.asarray(calendar).ravel()))
    known = np.unique(days[~np.isnat(days)])
    return known if known.size else None


def _today(today: Any) -> np.datetime64:
    stamp = pd.Timestamp.today() if today is None else pd.Timestamp(today)
    return np.datetime64(stamp.strftime("%Y-%m-%d"), "ns")
