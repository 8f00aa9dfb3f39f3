"""What is not there: blanks inside a series, weeks missing from the file, and names that never leave it.

Blanks that a group of names shares again and again are the holidays of another market, and no gap. Without a calendar
a missing weekday is a holiday if other years miss one near that date; with one, every session is asked for.

Survivorship: index members leave at 3 to 5 % a year. With N names, Y years and 3 %, that nobody or few left has
probability P(Poisson(0.03 N Y) <= seen); a file of survivors flatters every strategy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from dateutil.easter import easter
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Finding
from portfolio_ebm.data.doctor.stamps import text_day, weekday
from portfolio_ebm.data.doctor.view import FEWEST, View, runs

Dates = NDArray[np.datetime64]
Flags = NDArray[np.bool_]

HAZARD = 0.03
"""Names that leave an index a year, on the low side."""

MOST_GAPS = 20
"""Gaps of one name told one by one."""

_DAY = np.timedelta64(1, "D")


def blanks(view: View) -> Iterator[Finding]:
    """Blanks between a name's first and last number, where others have numbers."""
    rows = np.arange(view.shape[0])[:, None]
    inside = (rows > view.span[0]) & (rows < view.span[1])
    blank = inside & np.isnan(view.book.values) & ~view.book.infinite
    if not blank.any():
        return
    together = blank.sum(axis=1)
    alive = np.maximum(inside.sum(axis=1), 1)
    empty = (together > 0.5 * alive) & (alive >= FEWEST)
    for start, stop in zip(*runs(empty), strict=True):
        days = view.day(int(start)), view.day(int(stop - 1))
        what = f"{int(together[start:stop].max())} of {int(alive[start])} names are blank on {stop - start} date(s)."
        yield Finding("gap", "", *days, what, 0.9, "Fill these rows from the source, or remove them.")
    blank &= ~empty[:, None]
    honest = _holidays(blank)
    for column in np.flatnonzero(blank.any(axis=0)):
        yield from _blanks_of(view, int(column), blank[:, column] & ~honest[:, column])


def _holidays(blank: Flags) -> Flags:
    """Blanks that another name shares, where the two begin a blank together on three days or more, and mostly so."""
    days = np.flatnonzero(blank.sum(axis=1) >= 2)
    out = np.zeros(blank.shape, dtype=bool)
    if not days.size:
        return out
    begins = blank.copy()
    begins[1:] &= ~blank[:-1]
    start = begins.astype(np.float32)
    shared = start[days].T @ start[days]
    total = start.sum(axis=0)
    friends = (shared >= 3.0) & (shared >= 0.5 * np.maximum(total[:, None], total[None, :]))
    np.fill_diagonal(friends, False)
    some = blank[days].astype(np.float32)
    out[days] = (some @ friends.astype(np.float32) >= 1.0) & blank[days]
    return out


def _blanks_of(view: View, column: int, flag: Flags) -> Iterator[Finding]:
    name = view.names[column]
    starts, stops = runs(flag)
    if len(starts) > MOST_GAPS:
        days = view.day(int(starts[0])), view.day(int(stops[-1] - 1))
        what = f"{int(flag.sum())} rows are blank in {len(starts)} places while other names have numbers."
        yield Finding("gap", name, *days, what, 0.7, "Download it again, or leave the name out.")
        return
    for start, stop in zip(starts, stops, strict=True):
        length = int(stop - start)
        days = view.day(int(start)), view.day(int(stop - 1))
        what = f"{length} row(s) are blank while other names have numbers."
        sure, remedy = (0.9, "Fill them from the source; the next return spans the gap.")
        if length > 60:
            what = f"{length} rows are blank inside the series: suspended, or two securities under one name."
            sure, remedy = (0.75, "Find out which; split the column in two if it is the second.")
        yield Finding("gap", name, *days, what, sure, remedy)


def sessions(view: View) -> Iterator[Finding]:
    """Dates that are missing from the whole file."""
    dates = view.dates.astype("datetime64[D]")
    if len(dates) < 20 or float(np.median(np.diff(dates) / _DAY)) > 1.5:
        return
    if view.calendar is not None:
        yield from _against_calendar(dates, view.calendar.astype("datetime64[D]"))
        return
    every = np.arange(dates[0], dates[-1] + _DAY)
    week = weekday(every.astype("datetime64[ns]"))
    always = np.bincount(weekday(dates.astype("datetime64[ns]")), minlength=7) > 0.5 * len(dates) / 7
    wanted = every[always[week]]
    missing = ~np.isin(wanted, dates)
    usual = _recurring(wanted[missing], dates)
    for start, stop in zip(*runs(missing), strict=True):
        span = wanted[start:stop]
        length = len(span)
        odd = int((~usual[np.isin(wanted[missing], span)]).sum())
        if length >= 3 and not _as_long(span, wanted[missing], dates):
            odd = length
        if not odd:
            continue
        sure = 0.2 if length < 3 else 0.45 if length < 5 else 0.95
        what = f"{length} weekday(s) in a row are missing from the file, {odd} of them no holiday of other years."
        yield Finding("gap", "", str(span[0]), str(span[-1]), what, sure, "Fill them, or pass a calendar to be sure.")


def _recurring(missing: Dates, dates: Dates) -> Flags:
    """Missing days near which a good part of the other years miss one too: holidays."""
    if not missing.size:
        return np.zeros(0, dtype=bool)
    years = missing.astype("datetime64[Y]").astype(np.int64)
    place = (missing - missing.astype("datetime64[Y]").astype("datetime64[D]")) / _DAY
    moon = (missing - np.array([easter(int(year) + 1970) for year in years], "datetime64[D]")) / _DAY
    covered = len(np.unique(dates.astype("datetime64[Y]")))
    out = np.zeros(len(missing), dtype=bool)
    for row in range(len(missing)):
        apart = np.abs(place - place[row])
        near = (np.minimum(apart, 365.25 - apart) <= 4.0) | ((moon == moon[row]) & (np.abs(moon) <= 60.0))
        near &= years != years[row]
        out[row] = covered < 3 or len(np.unique(years[near])) >= 0.35 * (covered - 1)
    return out


def _as_long(span: Dates, missing: Dates, dates: Dates) -> bool:
    """Other years miss nearly as many days at that time of the year, as at a new year's week."""
    years = np.unique(dates.astype("datetime64[Y]"))
    own = span[0].astype("datetime64[Y]")
    into = span - own.astype("datetime64[D]")
    counts = []
    for year in years[years != own]:
        near = year.astype("datetime64[D]") + into
        counts.append(int(((missing >= near[0] - 10 * _DAY) & (missing <= near[-1] + 10 * _DAY)).sum()))
    return len(counts) > 1 and float(np.median(counts)) >= len(span) - 1


def _against_calendar(dates: Dates, calendar: Dates) -> Iterator[Finding]:
    wanted = np.unique(calendar[(calendar >= dates[0]) & (calendar <= dates[-1])])
    missing = ~np.isin(wanted, dates)
    for start, stop in zip(*runs(missing), strict=True):
        span = wanted[start:stop]
        what = f"{len(span)} session(s) of the calendar are missing from the file."
        yield Finding("gap", "", str(span[0]), str(span[-1]), what, 0.98, "Fill them from the source.")
    extra = (
        dates[~np.isin(dates, calendar) & (dates >= calendar.min()) & (dates <= calendar.max())] if len(wanted) else []
    )
    if len(extra):
        what = f"{len(extra)} date(s) are no session of the calendar, first {extra[0]}."
        yield Finding("gap", "", str(extra[0]), str(extra[-1]), what, 0.95, "Remove them, or check the calendar.")


def survivors(view: View) -> Iterator[Finding]:
    """A file from which nobody, or hardly anybody, leaves; and in which all begin together."""
    first, last = view.span
    live = last >= 0
    names = int(live.sum())
    lived = float((last - first)[live].sum()) / max(len(view.dates) - 1, 1) * view.years
    if names < FEWEST or view.years < 0.5:
        return
    edge = view.dates[-1] - np.timedelta64(15, "D")
    gone = int((view.dates[last[live]] < edge).sum())
    late = int((view.dates[first[live]] > view.dates[0] + np.timedelta64(15, "D")).sum())
    expected = HAZARD * lived
    ends = text_day(view.dates[0]), text_day(view.dates[-1])
    sure = 0.97 * (1.0 - _poisson(gone, expected))
    if sure > 0.2:
        who = "no name" if not gone else f"{gone} name(s)"
        what = f"{who} of {names} left in {lived:.0f} name-years, where {expected:.1f} or more leave an index."
        remedy = "Add the names that left, or say that results are of survivors."
        yield Finding("survivorship", "", *ends, what, sure, remedy)
    sure = 0.9 * (1.0 - _poisson(late, expected))
    if sure > 0.2 and not late:
        what = f"all {names} names begin together, where about {expected:.1f} or more join an index in such a time."
        yield Finding("survivorship", "", *ends, what, sure, "Choose names as of each date, not as of one.")


def _poisson(count: int, mean: float) -> float:
    """P(X <= count)."""
    if mean > 600.0:
        return 0.5 * math.erfc((mean - count - 0.5) / math.sqrt(2.0 * mean))
    term = total = math.exp(-mean)
    for k in range(1, count + 1):
        term *= mean / k
        total += term
    return min(total, 1.0)
