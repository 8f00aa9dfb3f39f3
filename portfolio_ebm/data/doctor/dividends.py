"""Dividends that are missing: a hole in a regular cadence, or closes and adjusted closes that disagree on a day.

    log adj(t)/adj(t-1) - log (close(t) + D(t))/close(t-1) = 0 within rounding

Cadence: a name pays every c days (the median spacing); a spacing of about 2c between regular ones is a hole. Prices
alone do not tell: an ex-date moves a price by a fraction of an ordinary day (0.5 % against 2 %).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Finding
from portfolio_ebm.data.doctor.odds import sureness
from portfolio_ebm.data.doctor.stamps import text_day
from portfolio_ebm.data.doctor.view import View, median

Array = NDArray[np.float64]

CADENCES = ((91.3, "quarterly"), (182.6, "semiannual"), (30.4, "monthly"), (365.2, "yearly"))
"""Days between payments."""

LEAST_PAID = 5
"""Payments that make a cadence."""

MOST_ODD = 12
"""Disagreements of one name told one by one."""


def cadence(view: View) -> Iterator[Finding]:
    """Holes in the regular payments of a name, from a table of dividends or those that adjusted closes imply."""
    paid = view.dividends if view.dividends is not None else _implied(view)
    for column, name in enumerate(view.names):
        rows = np.flatnonzero(np.nan_to_num(paid[:, column]) > 0)
        if len(rows) >= LEAST_PAID:
            yield from _holes(view, name, rows)


def _holes(view: View, name: str, rows: NDArray[np.int64]) -> Iterator[Finding]:
    steps = np.diff(view.dates[rows]) / np.timedelta64(1, "D")
    usual = float(np.median(steps))
    length, word = min(CADENCES, key=lambda item: abs(np.log(max(usual, 1.0) / item[0])))
    if abs(np.log(max(usual, 1.0) / length)) > 0.2:
        return
    ratio = steps / usual
    for item in range(len(steps)):
        near = np.r_[ratio[max(item - 4, 0) : item], ratio[item + 1 : item + 5]]
        missing = round(ratio[item]) - 1
        slack = abs(ratio[item] - missing - 1)
        regular = float((np.abs(near - 1.0) < 0.25).mean()) if near.size else 0.0
        if missing < 1 or slack > 0.35 or regular < 0.6:
            continue
        # One payment that lacks is rarely a choice of the company; many in a row are a dividend that was suspended.
        score = 3.0 * (regular - 0.6) / 0.4 + 1.5 - 4.0 * slack - 1.5 * (missing - 1)
        a, b = view.dates[rows[item]], view.dates[rows[item + 1]]
        expected = text_day(a + (b - a) // (missing + 1))
        what = (
            f"{missing} {word} dividend(s) lacking between {text_day(a)} and {text_day(b)}, expected about {expected}."
        )
        days = text_day(a + (b - a) // (missing + 1)), text_day(b - (b - a) // (missing + 1))
        yield Finding("dividend", name, *days, what, float(sureness(score, 0.95)), "Look it up and enter it.")


def _gap(view: View) -> tuple[Array, Array]:
    """Adjusted less plain total return of each day, and the rounding that it may show, (T, N)."""
    assert view.adjusted is not None
    adjusted = np.where(view.adjusted > 0, view.adjusted, np.nan)
    cash = np.nan_to_num(view.dividends) if view.dividends is not None else np.zeros(view.shape)
    gap, room = np.full(view.shape, np.nan), np.full(view.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.log(adjusted[1:] / adjusted[:-1])
        gap[1:] = step - np.log((view.values[1:] + np.maximum(cash[1:], 0.0)) / view.values[:-1])
        small = 1.0 / np.minimum(adjusted[1:], adjusted[:-1]) + 1.0 / np.minimum(view.values[1:], view.values[:-1])
    fine = np.maximum(view.tick, _steps(adjusted))
    room[1:] = 1.1 * fine * small + 1e-4
    return gap, room


def _steps(adjusted: Array) -> Array:
    """The step of adjusted closes, 0 where they are not rounded."""
    known = np.isfinite(adjusted)
    found = np.zeros(adjusted.shape[1])
    size = np.where(known, adjusted, 0.0)
    for step in (1e-4, 1e-3, 1e-2):
        found = np.where((np.abs(size / step - np.round(size / step)) < 1e-4).mean(axis=0) > 0.98, step, found)
    return found


def _implied(view: View) -> Array:
    """Dividends that the adjusted closes imply, 0 where they imply none."""
    if view.adjusted is None:
        return np.zeros(view.shape)
    gap, room = _gap(view)
    hit = (gap > room) & (gap < 0.2)
    before = np.roll(view.values, 1, axis=0)
    found: Array = np.where(hit, before * np.expm1(np.nan_to_num(gap)), 0.0)
    return found


def agreement(view: View) -> Iterator[Finding]:
    """Days on which closes with dividends and adjusted closes disagree."""
    if view.dividends is None:
        return  # without a table of them, dividends are the very thing that they disagree by
    gap, room = _gap(view)
    odd = np.abs(np.nan_to_num(gap)) > np.nan_to_num(room, nan=np.inf)
    typical = median(np.where(odd, np.abs(gap), np.nan), axis=0)
    for column in np.flatnonzero(odd.any(axis=0)):
        rows = np.flatnonzero(odd[:, column])
        name = view.names[int(column)]
        if len(rows) > max(MOST_ODD, 0.02 * view.shape[0]):
            days = view.day(int(rows[0])), view.day(int(rows[-1]))
            what = f"closes and adjusted closes disagree on {len(rows)} days, by {typical[column]:.2%} each."
            yield Finding("dividend", name, *days, what, 0.9, "They are adjusted otherwise: find out how.")
            continue
        for row in rows:
            yield _disagreement(view, name, int(column), int(row), float(gap[row, column]))


def _disagreement(view: View, name: str, column: int, row: int, gap: float) -> Finding:
    assert view.dividends is not None
    day = view.day(row)
    paid = float(np.nan_to_num(view.dividends[row, column]))
    price = float(view.values[row - 1, column])
    if paid > 0 and abs(gap + np.log1p(paid / price)) < 0.35 * np.log1p(paid / price):
        what = f"a dividend of {paid:g} is not in the adjusted closes ({gap:+.2%} that day)."
        return Finding("dividend", name, day, day, what, 0.97, "Adjust earlier closes for it.")
    if paid <= 0 and 0 < gap < 0.2:
        what = (
            f"adjusted closes hold a distribution of {price * np.expm1(gap):.4g} ({gap:.2%}) that no dividend explains."
        )
        return Finding("dividend", name, day, day, what, 0.95, "Add the dividend, or take the adjustment out.")
    cause = "a split that one of them lacks, perhaps." if abs(gap) > 0.2 else "one of them is wrong."
    what = f"closes{' with a dividend' if paid > 0 else ''} and adjusted closes disagree by {gap:+.2%}: {cause}"
    return Finding("dividend", name, day, day, what, 0.9, "Compare both with another source.")
