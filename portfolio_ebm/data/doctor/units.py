"""Returns in percent among decimals, or the other way round: whole columns and segments, by how large they are.

With x a return and s the day's ordinary size (the median |x| of the names; of the column where names are few), a row
speaks for a segment that is c = 100 (or 1/100) times too large by

    g = log f0(x / (c s)) - log c - log f(x / s)           f honest moves of any size, f0 ordinary ones (odds.py)

and the segment with the largest sum of g is found by one pass; a return near 0 at its edge may fall on either side,
where no rule can tell a small return in percent from an ordinary decimal.
Prices in cents show as jumps by 100 (jumps.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Edit, Finding
from portfolio_ebm.data.doctor.odds import RATE, log_core, log_tail, sureness
from portfolio_ebm.data.doctor.view import FEWEST, View, best_segment, median

Array = NDArray[np.float64]

PERCENT = 0.05
"""A daily median |return| above this is percent; scaled by the square root of time."""

MOST_SEGMENTS = 5
"""Segments told of one column."""

DISTRESS = 20.0
"""How many times as much as usual an honest name may move for some days."""

RUIN = 12.0
"""What a return below -100 % says for percent, in nats."""

_CAP = 6.0
"""No single row says more than this: one wild return is not a unit."""


def unit_of(values: Array, dates: NDArray[np.datetime64]) -> tuple[Array, list[tuple[int, int, int, float, float]]]:
    """What each return must be divided by to be a decimal, (T, N), and the segments: (column, from, to, unit, score).

    A segment of column -1 is the whole file.
    """
    size = np.where(np.isfinite(values) & (values != 0.0), np.abs(values), np.nan)
    unit = np.ones(values.shape)
    told: list[tuple[int, int, int, float, float]] = []
    if not np.isfinite(size).any():
        return unit, told
    level = median(size, axis=0)
    typical = float(np.nanmedian(level))
    if typical > PERCENT * _root(dates):
        unit[:] = 100.0
        told.append((-1, 0, len(values), 100.0, 8.0))
        size = size / 100.0
        typical /= 100.0
    day = median(size, axis=1)
    enough = np.isfinite(size).sum(axis=1) >= FEWEST
    day = np.clip(np.where(enough, day, typical), 0.2 * typical, 10.0 * typical)
    if int(np.isfinite(level).sum()) < FEWEST:
        day[:] = typical
    level = np.nan_to_num(median(size / day[:, None], axis=0), nan=1.0)
    own = np.where(level > 15.0, 1.0, np.clip(level, 0.3, 4.0))  # no name is that wild: most of it is in percent
    scale = 1.7 * own * day[:, None]
    ruin = values / unit < -1.0  # no decimal return is
    for factor in (100.0, 0.01) if (level < 0.1).any() else (100.0,):
        gain = log_core(size / (factor * scale)) - np.log(factor) - log_tail(size / scale)
        gain = np.where(np.isfinite(size), np.clip(gain, -_CAP * 4, _CAP), 0.0)
        if factor > 1:
            gain = np.where(ruin, RUIN, gain)
        told += _segments(gain, factor, unit, np.where(ruin, np.inf, size / scale))
    return unit, told


def _root(dates: NDArray[np.datetime64]) -> float:
    if len(dates) < 2:
        return 1.0
    step = float(np.median(np.diff(dates) / np.timedelta64(1, "D")))
    return float(max(1.0, step / 1.45) ** 0.5)


def _segments(gain: Array, factor: float, unit: Array, relative: Array) -> list[tuple[int, int, int, float, float]]:
    """Peel the best segments off each column while they are likelier than not; marks them in `unit`."""
    told = []
    for _ in range(MOST_SEGMENTS):
        best, start, stop = best_segment(gain)
        score = best + np.log(RATE["segment"])
        hits = np.flatnonzero(score > 0.0)
        if not hits.size:
            break
        for column in hits:
            a, b = int(start[column]), int(stop[column])
            part = relative[a:b, column]
            if factor > 1:
                whole = min(float(score[column]), _against_distress(part))
            else:  # for a while, decimals among percent look like a name that stands still, as after an agreed deal
                every = int(np.isfinite(relative[:, column]).sum())
                whole = float(score[column]) if np.isfinite(part).sum() > 0.9 * every else 0.0
            if whole > 0.0:
                told.append((int(column), a, b, factor, whole))
                unit[a:b, column] *= factor
            gain[a:b, column] = -1e9
        gain[:, np.setdiff1d(np.arange(gain.shape[1]), hits)] = -1e9
    return told


def _against_distress(relative: Array) -> float:
    """Log odds of percent against a name that moves more than usual for a while, as banks did in 2008.

    Both are segments with a scale of their own; percent have one of about 100, and the honest ones one of at most
    `DISTRESS`, and are a hundred times as common. Rows that are infinite here lose more than everything.
    """
    x = relative[np.isfinite(relative)]
    honest = max(float((log_core(x / step) - np.log(step)).sum()) for step in np.geomspace(1.0, DISTRESS, 12))
    other = max(float((log_core(x / step) - np.log(step)).sum()) for step in (50.0, 100.0, 200.0))
    return other - honest + RUIN * float(np.isposinf(relative).sum()) - float(np.log(100.0)) - 1.0


def percent(view: View) -> Iterator[Finding]:
    """Returns in percent, as found when the table was read."""
    for column, start, stop, factor, score in view.segments:
        first, last = view.day(start), view.day(max(start, stop - 1))
        sure = float(sureness(score))
        if column < 0:
            what = "returns of all names are of the size of percent."
            edits = tuple(_edit(view, item, start, stop, 1.0 / factor) for item in range(view.shape[1]))
            yield Finding("units", "", first, last, what, sure, "Divide by 100.", True, edits)
            continue
        a, b = (int(ends[column]) for ends in view.span)
        whole = stop - start >= 0.95 * (b - a + 1)
        span = "all rows" if whole else f"{stop - start} rows"
        known = np.abs(view.values[start:stop, column] * view.unit[start:stop, column])
        middle = float(np.nanmedian(known)) if np.isfinite(known).any() else 0.0
        kind = "percent among decimals" if factor > 1 else "decimals among percent"
        what = f"{span} are {kind}: the median |return| there is {middle:.3g}."
        remedy = "Divide them by 100." if factor > 1 else "Multiply them by 100."
        edit = _edit(view, column, start, stop, 1.0 / factor)
        yield Finding("units", view.names[column], first, last, what, sure, remedy, sure > 0.9, (edit,))


def _edit(view: View, column: int, start: int, stop: int, scale: float) -> Edit:
    place, rows = view.cells(column, slice(start, stop))
    return Edit(place, rows, scale, scale=True)
