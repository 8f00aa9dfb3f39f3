"""Prices that stand still too long, and names that hardly trade.

A run of L unchanged prices has log posterior odds

    log rate - 1.5 log L - sum log p(t),   p(t) = p * (tick / (price s) * f0(b m / s)) / mean of the same

p is the share of the name's moves, half a year on each side, that are followed by an unchanged price, so it knows how
often this name stands still; the bracket says when: a coarse tick on a low price and a quiet market make honest
repeats. From the second row on p is at least the share of the name's other unchanged prices that were followed by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Edit, Finding
from portfolio_ebm.data.doctor.odds import RATE, log_core, sureness
from portfolio_ebm.data.doctor.view import FEWEST, View, around, runs, span_sums

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

END = 3.0
"""A run up to the last number of a name is e^3 times as likely: delisted names go on being quoted."""

LEAST = 0.1
"""Runs less sure than this are not told."""


def stale(view: View) -> Iterator[Finding]:
    """Runs of unchanged prices too long for the name."""
    zero = (np.abs(np.nan_to_num(view.returns, nan=1.0)) < 1e-12) & np.isfinite(view.returns)
    copied = _copied(zero, np.isfinite(view.returns))
    for start, stop in zip(*runs(copied), strict=True):
        days = view.day(int(start)), view.day(int(stop - 1))
        what = f"nearly all names repeat the row before on {stop - start} date(s): a holiday filled with old prices."
        yield Finding("stale", "", *days, what, 0.97, "Remove these rows.")
    chance = np.log(_chance(view, zero, copied))
    for column in range(view.shape[1]):
        yield from _runs(view, column, zero[:, column], copied, chance[:, column])


def _copied(zero: Flags, known: Flags) -> Flags:
    """Days on which nearly every name stands still."""
    there = known.sum(axis=1)
    flag: Flags = (there >= FEWEST) & (zero.sum(axis=1) >= 0.9 * there)
    return flag if flag.mean() < 0.2 else np.zeros(len(zero), dtype=bool)


def _chance(view: View, zero: Flags, copied: Flags) -> Array:
    """p(t): how likely an unchanged price is for this name on this day."""
    known = np.isfinite(view.returns) & ~copied[:, None]
    begins = zero & known
    begins[1:] &= ~zero[:-1]
    moves = known & ~zero
    common = (begins.sum(axis=0) + 0.5) / (moves.sum(axis=0) + 50.0)
    local, _ = span_sums(begins.astype(np.float64), -126, 126)
    near, _ = span_sums(begins.astype(np.float64), -10, 10)
    of, _ = span_sums(moves.astype(np.float64), -126, 126)
    share = (local - near + 60.0 * common) / (of + 60.0)
    drift = np.abs(view.own - view.returns)
    density = np.exp(log_core(drift / view.scale) - log_core(0.0))
    fine = view.tick > 0
    if view.what == "prices" and fine.any():
        density = np.where(fine, density * np.minimum(view.tick / (view.values * view.scale), 2.0), density)
    density = np.where(known, density, np.nan)
    middle = around(density, 126, 0)
    middle = np.where(np.isfinite(middle), middle, np.nansum(density, axis=0) / np.maximum(known.sum(axis=0), 1))
    found: Array = np.clip(share * density / np.maximum(middle, 1e-12), 3e-3, 0.95)
    return np.where(np.isfinite(found), found, 0.95)


def _runs(view: View, column: int, zero: Flags, copied: Flags, chance: Array) -> Iterator[Finding]:
    rows = np.flatnonzero(np.isfinite(view.returns[:, column]) & ~copied)
    starts, stops = runs(zero[rows])
    again, still = int((stops - starts - 1).sum()), int((stops - starts).sum())
    for start, stop in zip(starts, stops, strict=True):
        if stop - start < 2:
            continue
        span = rows[start:stop]
        length = len(span)
        goes_on = (again - length + 1 + 20.0 * np.exp(chance[span])) / (still - length + 20.0)
        logs = np.maximum(chance[span], np.log(goes_on) * (np.arange(length) > 0) - 99.0 * (np.arange(length) == 0))
        score = np.log(RATE["stale"]) - 1.5 * np.log(length) - float(logs.sum())
        ends = int(span[-1]) == int(view.span[1][column])
        score += END if ends and length >= 5 else 0.0
        score, note = _with_volume(view, column, span, score)
        sure = float(sureness(score))
        if sure < LEAST:
            continue
        usual = float(np.exp(np.mean(chance[span])))
        what = f"unchanged for {length} rows in a row, where {usual:.1%} of such days are for this name{note}"
        late = "; up to its last row, as a delisted name that is still quoted." if ends else "."
        place, cells = view.cells(column, span)
        days = view.day(int(span[0])), view.day(int(span[-1]))
        edit = Edit(place, cells, None)
        remedy = "Leave these cells blank."
        yield Finding("stale", view.names[column], *days, what + late, sure, remedy, sure > 0.5, (edit,))


def _with_volume(view: View, column: int, span: NDArray[np.int64], score: float) -> tuple[float, str]:
    """What volume adds: repeated with the price it is a copy; none at all explains the price, and is told."""
    if view.volume is None:
        return score, ""
    flow = view.volume[span, column]
    if not np.isfinite(flow).any():
        return score, ""
    if (np.nan_to_num(flow) == 0).all():
        return score, ", and no share was traded"
    before = view.volume[max(int(span[0]) - 1, 0), column]
    if len(span) >= 2 and (flow == flow[0]).all() and flow[0] == before:
        return score + 6.0, ", and volume is repeated too"
    return score, ", though shares were traded"


def thin(view: View) -> Iterator[Finding]:
    """Names that often do not trade, and volumes that cannot be."""
    assert view.volume is not None
    there = np.isfinite(view.volume) & view.known
    none = (np.nan_to_num(view.volume) == 0) & there
    moved = none & (np.abs(np.nan_to_num(view.returns)) > 1e-9)
    below = there & (np.nan_to_num(view.volume) < 0)
    for column, name in enumerate(view.names):
        days = int(there[:, column].sum())
        first, last = (int(ends[column]) for ends in view.span)
        if not days or last < 0:
            continue
        place = name, view.day(first), view.day(last)
        share = none[:, column].sum() / days
        if share > 0.05:
            what = f"no share was traded on {share:.0%} of {days:,} days: its prices are old on those."
            sure = min(0.95, 0.4 + 2.0 * float(share))
            yield Finding("thin trading", *place, what, sure, "Leave it out, or use weekly returns.")
        count = int(moved[:, column].sum())
        if count > max(2, 0.01 * days):
            what = f"the price moved on {count} days without a share traded."
            yield Finding("thin trading", *place, what, 0.7, "Check that volume and prices are of one name.")
        if below[:, column].any():
            row = int(np.argmax(below[:, column]))
            what = f"volume is negative on {int(below[:, column].sum())} day(s), first {view.volume[row, column]:g}."
            where = name, view.day(row), view.day(row)
            yield Finding("impossible", *where, what, 1.0, "Leave it blank where it is unknown.")
