"""Moves too large for a name on that day, each put down to one cause: a bad tick, a slipped point, a split, or news.

With e the own return, s its ordinary size, and f the density of honest moves (odds.py), for a move J at row t

    spike    log rate + log f0((e(t) + e(t+k)) / s') - log f(z(t)) f(z(t+k))      undone k = 1 .. 5 rows later
    split    log rate(q) + log f0((J - log q) / s) - log f(z(t))                  stays, q a ratio that companies use
    slip     a split by 10, 100 or 1000, taken back later: a decimal point, or another unit for a while

Volume, where it is there, speaks on splits: shares traded go up by the ratio and stay up; after a crash they jump
further and come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Edit, Finding
from portfolio_ebm.data.doctor.odds import CLUSTER, MOST, RATE, log_core, log_tail, sureness
from portfolio_ebm.data.doctor.view import View, median

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

LARGE = 4.5
"""Only moves of this many ordinary ones are looked at."""

MOST_JUMPS = 50_000
"""The largest so many: a table of noise must not take for ever."""

NEAR = 6.0
"""A fault leaves a rest of the size of ordinary moves, at most so many."""

UNDONE = 5
"""A bad tick is taken back within so many rows."""

TENS_FOR = 60
"""A level ten times too large that comes back later than this many rows is thought two splits."""

MOST_SMALL = 0.75
"""A fall by a third is honest more often than one by a half: without volume no 3-for-2 split is surer than this."""

SPLITS = {
    (2, 1): 0.40,
    (3, 1): 0.12,
    (3, 2): 0.18,
    (4, 1): 0.05,
    (5, 1): 0.03,
    (10, 1): 0.03,
    (20, 1): 0.02,
    (4, 3): 0.03,
    (5, 4): 0.04,
    (5, 3): 0.01,
    (7, 1): 0.005,
    (8, 1): 0.005,
    (15, 1): 0.005,
    (25, 1): 0.005,
    (50, 1): 0.005,
    (1, 2): 0.005,
    (1, 3): 0.005,
    (1, 4): 0.005,
    (1, 5): 0.01,
    (1, 8): 0.005,
    (1, 10): 0.03,
    (1, 15): 0.005,
    (1, 20): 0.005,
    (1, 25): 0.003,
    (1, 30): 0.003,
    (1, 50): 0.003,
}
"""New shares for old, and about how often of all splits."""

_TENS = np.log(10.0) * np.array([1.0, 2.0, 3.0, -1.0, -2.0, -3.0])


@dataclass(frozen=True)
class Jump:
    """One large move and what it was put down to.

    Attributes:
        kind: "spike", "slip", "units", "split" or "large move".
        row, stop: first row at the wrong level and the row after the last (the end of the series where it stays).
        score: log posterior odds of the fault.
        ratio: what prices at rows row .. stop - 1 are too large by; for a split, new price over old.
    """

    kind: str
    column: int
    row: int
    stop: int
    score: float
    ratio: float
    shares: tuple[int, int] = (1, 1)


def jumps(view: View) -> tuple[Jump, ...]:
    """Every large move, by column and row, with the cause of the highest odds."""
    z = np.nan_to_num(view.z)
    columns, rows = np.nonzero((np.abs(z) > LARGE).T)
    if len(rows) > MOST_JUMPS:
        keep = np.sort(np.argsort(-np.abs(z[rows, columns]), kind="stable")[:MOST_JUMPS])
        columns, rows = columns[keep], rows[keep]
    if not len(rows):
        return ()
    undone, after = _undone(view, rows, columns)
    splits, shares = _split(view, rows, columns)
    slips = _slips(view, rows, columns)
    found: list[Jump] = []
    free = -1, -1  # column, first row not yet explained
    for item in range(len(rows)):
        row, column = int(rows[item]), int(columns[item])
        if column == free[0] and row < free[1]:
            continue
        ratio = float(np.exp(view.own[row, column]))
        if item in slips:
            jump = slips[item]
        elif undone[item] > max(float(splits[item]), -4.0):
            jump = Jump("spike", column, row, row + int(after[item]), float(undone[item]), ratio)
        elif splits[item] > -3.0:
            pair = shares[item]
            jump = Jump("split", column, row, len(z), float(splits[item]), pair[1] / pair[0], pair)
        elif abs(z[row, column]) > 12.0 and abs(np.log(ratio)) > 0.35:
            jump = Jump("large move", column, row, row + 1, -2.0, ratio)
        else:
            continue
        found.append(jump)
        back = jump.stop + 1 if jump.kind in ("spike", "slip", "units") and jump.stop < len(z) else row + 1
        free = column, back
    return tuple(found)


def _undone(view: View, rows: Rows, columns: Rows) -> tuple[Array, Rows]:
    """Score of the best reversal 1 .. 5 rows later, and how many rows later."""
    own, scale = np.nan_to_num(view.own), np.where(np.isfinite(view.scale), view.scale, 1.0)
    here, size = own[rows, columns], scale[rows, columns]
    best, after = np.full(len(rows), -np.inf), np.ones(len(rows), dtype=np.int64)
    for lag in range(1, UNDONE + 1):
        late = rows + lag
        there = late < len(own)
        late = np.minimum(late, len(own) - 1)
        back, other = own[late, columns], scale[late, columns]
        noise = np.sqrt(size**2 + other**2)
        honest = log_tail(here / size) - np.log(size) + log_tail(back / other) - np.log(other) + CLUSTER
        fault = log_core((here + back) / noise) - np.log(noise)
        score = np.log(RATE["spike"] * 0.44 / lag) + fault - honest
        good = there & (here * back < 0) & (np.abs(back) > 3.0 * other) & (np.abs(here + back) < NEAR * noise)
        better = good & (score > best)
        best, after = np.where(better, score, best), np.where(better, lag, after)
    return best, after


def _split(view: View, rows: Rows, columns: Rows) -> tuple[Array, list[tuple[int, int]]]:
    """Score of the best ratio, and the ratio."""
    pairs = list(SPLITS)
    move, size = view.own[rows, columns], view.scale[rows, columns]
    steps = np.log([old / new for new, old in pairs])
    noise = np.maximum(size, 0.004)  # cash in lieu and rounding
    off = (move[:, None] - steps) / noise[:, None]
    score = log_core(off) - np.log(noise / size)[:, None] - log_tail(move / size)[:, None]
    score = np.where(np.abs(off) > NEAR, -np.inf, score)
    score = score + np.log(RATE["split"] * np.array(list(SPLITS.values())))
    if view.volume is not None:
        score = score + _volume_evidence(view, rows, columns, steps)
    best = np.argmax(score, axis=1)
    value = score[np.arange(len(rows)), best]
    sure = value > 3.0
    if sure.any():  # a file with one split that was not adjusted has more of them
        common = float(sure.sum()) / max(float(np.isfinite(view.z).sum()), 1.0)
        value = value + max(0.0, np.log(common / RATE["split"]))
    return value, [pairs[int(item)] for item in best]


def _volume_evidence(view: View, rows: Rows, columns: Rows, steps: Array) -> Array:
    """Log likelihood ratio of shares traded, (jumps, ratios); 0 where unknown.

    A split by q lifts the level of the 20 rows after by 1/q, and its day is like those after. After a crash the level
    is somewhat higher, whatever its size, and its day is several times that (widths are assumed, not measured).
    """
    assert view.volume is not None
    flow = np.log(np.where(view.volume > 0, view.volume, np.nan))
    level = np.full((len(rows), 2), np.nan)
    for side, offsets in enumerate((np.arange(-22, -1), np.arange(2, 23))):
        where = rows[None, :] + offsets[:, None]
        inside = (where >= 0) & (where < len(flow))
        block = np.where(inside, flow[np.clip(where, 0, len(flow) - 1), columns[None, :]], np.nan)
        level[:, side] = median(block, axis=0)
    change = (level[:, 1] - level[:, 0])[:, None]
    split = log_core((change + steps) / 0.35) - np.log(0.35)
    crash = log_core((change - 0.4) / 0.5) - np.log(0.5)
    day = (flow[rows, columns] - level[:, 1])[:, None]
    alike = log_core(day / 0.6) - np.log(0.6)
    rush = log_core((day - 1.3) / 0.8) - np.log(0.8)
    found: Array = np.nan_to_num(np.clip(split - crash, -5.0, 5.0)) + np.nan_to_num(np.clip(alike - rush, -5.0, 5.0))
    return found


def _slips(view: View, rows: Rows, columns: Rows) -> dict[int, Jump]:
    """Moves by 10, 100 or 1000: taken back (for a while, in another unit) or, by 100 and 1000, for good."""
    move, size = view.own[rows, columns], np.maximum(view.scale[rows, columns], 0.004)
    off = np.abs(move[:, None] - _TENS)
    nearest = np.argmin(off, axis=1)
    near = (off[np.arange(len(rows)), nearest] < 6.0 * size) & (np.abs(move) > 12.0 * size)
    found: dict[int, Jump] = {}
    hits = np.flatnonzero(near)
    signs, ends = nearest[hits], view.span[1]
    place = 0
    while place < len(hits):
        item, step = int(hits[place]), float(_TENS[signs[place]])
        row, column, tens = int(rows[item]), int(columns[item]), abs(step) < 3.0
        later = place + 1
        while later < len(hits) and columns[hits[later]] == column and not np.isclose(_TENS[signs[later]], -step):
            later += 1
        comes_back = later < len(hits) and columns[hits[later]] == column
        stop = int(rows[hits[later]]) if comes_back else int(ends[column]) + 1
        place += 1
        if tens and (not comes_back or stop - row > TENS_FOR):
            continue  # it stays: a split by ten, more likely
        kind = "slip" if stop - row <= UNDONE else "units"
        found[item] = Jump(kind, column, row, stop, 8.0, 10.0 ** round(step / np.log(10.0)))
        place = later + 1 if comes_back else place
    return found


def spikes(view: View) -> Iterator[Finding]:
    """Bad ticks: a jump that the next days take back, and decimal points that slipped."""
    for jump in view.jumps:
        if jump.kind not in ("spike", "slip"):
            continue
        name, last = view.names[jump.column], max(jump.row, jump.stop - 1)
        first_day, last_day = view.day(jump.row), view.day(last)
        sure = float(sureness(jump.score))
        if jump.kind == "slip":
            times = f"{jump.ratio:g} times" if jump.ratio > 1 else f"1/{1 / jump.ratio:g} of"
            what = f"for {jump.stop - jump.row} row(s) the number is {times} what it is around: a decimal point."
            edits = _scaled(view, jump)
            remedy = "Move the point back."
            yield Finding("spike", name, first_day, last_day, what, sure, remedy, bool(edits), edits)
            continue
        z = view.z[jump.row, jump.column]
        what = (
            f"a move of {jump.ratio - 1:+.1%} against the market ({abs(z):.0f} ordinary moves), undone "
            f"{jump.stop - jump.row} row(s) later."
        )
        edits = _blanked(view, jump)
        yield Finding(
            "spike",
            name,
            first_day,
            last_day,
            what,
            sure,
            "Leave it blank, or look it up elsewhere.",
            sure > 0.5,
            edits,
        )


def _blanked(view: View, jump: Jump) -> tuple[Edit, ...]:
    """Blank the wrong prices; of returns, the move and its undoing are blanked and their product is kept."""
    column, rows = view.cells(jump.column, slice(jump.row, jump.stop))
    if view.what == "prices":
        return (Edit(column, rows, None),)
    span = slice(jump.row, jump.stop + 1)
    product = float(np.prod(1.0 + np.nan_to_num(view.values[span, jump.column])) - 1.0)
    last = view.book.row_at[jump.stop : jump.stop + 1]
    return (Edit(column, rows, None), Edit(column, last, product))


def _scaled(view: View, jump: Jump) -> tuple[Edit, ...]:
    """Prices of a segment divided by what they are too large by; returns of both edges."""
    if view.what == "prices":
        column, rows = view.cells(jump.column, slice(jump.row, jump.stop))
        return (Edit(column, rows, 1.0 / jump.ratio, scale=True),)
    edits = []
    for row, ratio in ((jump.row, jump.ratio), (jump.stop, 1.0 / jump.ratio)):
        if row < len(view.values) and np.isfinite(view.values[row, jump.column]):
            column, rows = view.cells(jump.column, slice(row, row + 1))
            edits.append(Edit(column, rows, float((1.0 + view.values[row, jump.column]) / ratio - 1.0)))
    return tuple(edits)


def splits(view: View) -> Iterator[Finding]:
    """Splits that were not adjusted: a jump by a ratio of shares that stays."""
    for jump in view.jumps:
        if jump.kind != "split":
            continue
        new, old = jump.shares
        raw = float(np.expm1(view.returns[jump.row, jump.column]))
        rest = float(np.exp(view.own[jump.row, jump.column]) / jump.ratio - 1.0)
        seen = "" if view.volume is None else ", volume weighed in"
        what = (
            f"{raw:+.1%} in a day looks like a {new}-for-{old} split ({rest:+.1%} against the market without it{seen})."
        )
        if view.what == "prices":
            column, rows = view.cells(jump.column, slice(0, jump.row))
            edit = Edit(column, rows, jump.ratio, scale=True)
            remedy = f"Multiply earlier prices by {old}/{new} if it was one."
        else:
            column, rows = view.cells(jump.column, slice(jump.row, jump.row + 1))
            edit = Edit(column, rows, (1.0 + raw) / jump.ratio - 1.0)
            remedy = f"Set the return to {(1.0 + raw) / jump.ratio - 1.0:+.2%} if it was one."
        told = abs(np.log(jump.ratio)) > 0.6 or view.volume is not None
        sure = float(sureness(jump.score, MOST if told else MOST_SMALL))
        day = view.day(jump.row)
        yield Finding("split", view.names[jump.column], day, day, what, sure, remedy, sure > 0.9, (edit,))


def levels(view: View) -> Iterator[Finding]:
    """Prices in another unit (cents against units) for a while or for good."""
    for jump in view.jumps:
        if jump.kind != "units":
            continue
        times = f"{jump.ratio:g} times" if jump.ratio > 1 else f"1/{1 / jump.ratio:g} of"
        ends = "and then comes back" if jump.stop <= view.span[1][jump.column] else "and stays there"
        what = f"the level changes to {times} itself for {jump.stop - jump.row} rows {ends}: another unit, as cents."
        edits = _scaled(view, jump)
        place = view.names[jump.column], view.day(jump.row), view.day(jump.stop - 1)
        remedy = f"Divide these rows by {jump.ratio:g}."
        yield Finding("units", *place, what, float(sureness(jump.score)), remedy, True, edits)


def large(view: View) -> Iterator[Finding]:
    """Moves that nothing explains: news, most likely, and worth a look."""
    for jump in view.jumps:
        if jump.kind == "large move":
            day, z = view.day(jump.row), view.z[jump.row, jump.column]
            move = float(np.expm1(view.returns[jump.row, jump.column]))
            what = f"{move:+.1%} in a day ({abs(z):.0f} ordinary moves), not undone."
            sure = float(sureness(jump.score))
            yield Finding(
                "large move", view.names[jump.column], day, day, what, sure, "Look it up; keep it if it is true."
            )
