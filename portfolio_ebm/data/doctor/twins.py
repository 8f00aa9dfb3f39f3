"""One series under two names, the same or some days later, and names whose dates are not those of the market.

Pairs: correlations of z in blocks of a quarter, at lags 0 to 5, pick candidates; for these the longest segment on which
r(j, t + k) = c r(i, t) within rounding is found, a match counting +1 and a miss -4.

A column against the market of the others, M: for lags k = -2 .. 2 a row speaks for lag k against none by

    g = log f0((y(t) - b M(t + k)) / s) - log f0((y(t) - b M(t)) / s)

and the segment with the largest sum is told where its odds are good.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Finding
from portfolio_ebm.data.doctor.odds import RATE, log_core, sureness
from portfolio_ebm.data.doctor.view import FEWEST, View, best_segment

Array = NDArray[np.float64]
Pair = tuple[int, int, int]

BLOCK = 63
"""Rows in which a pair is compared at a time."""

LAGS = 5
"""A copy may come so many rows later."""

CLOSE = 0.85
"""Correlation of z in a block that makes a pair worth a closer look."""

SHORTEST = 20
"""Rows that must be the same."""

MOST_PAIRS = 2_000
"""Pairs looked at closely."""

SHIFTS = (-2, -1, 1, 2)
"""Rows by which a column's dates may be off."""


def twins(view: View) -> Iterator[Finding]:
    """Columns that hold one series, perhaps scaled, perhaps some rows apart."""
    if view.shape[1] < 2 or view.shape[0] < SHORTEST:
        return
    seen: set[tuple[int, int]] = set()
    for first, second, lag in _candidates(view):
        if (first, second) in seen or (second, first) in seen:
            continue
        found = _same(view, first, second, lag)
        if found is not None:
            seen.add((first, second))
            yield found


def _candidates(view: View) -> list[Pair]:
    """(i, j, k): j at t + k goes with i at t; closest pairs first.

    At lag 0 the market is taken out, or every pair would look alike in a crash; a late copy carries the market of its
    own day, so at other lags it is left in, where honest pairs do not correlate.
    """
    own = np.clip(np.nan_to_num(view.z), -6.0, 6.0).astype(np.float32)
    raw = np.clip(np.nan_to_num(view.returns / view.scale), -6.0, 6.0).astype(np.float32)
    enough = np.isfinite(view.z)
    best: dict[Pair, float] = {}
    stops = list(range(len(own), SHORTEST - 1, -BLOCK))
    for stop in stops:
        start = max(stop - BLOCK, 0)
        use = enough[start:stop].sum(axis=0) >= SHORTEST
        for lag in range(LAGS + 1):
            first, last = start, stop - lag
            if last - first < SHORTEST:
                break
            table = own if lag == 0 else raw
            a, b = table[first:last], table[first + lag : stop]
            both = _unit(a, use).T @ _unit(b, use)
            np.fill_diagonal(both, 0.0)
            rows, columns = np.nonzero((np.triu(both) if lag == 0 else both) > CLOSE)
            if len(rows) > MOST_PAIRS:
                keep = np.argsort(-both[rows, columns], kind="stable")[:MOST_PAIRS]
                rows, columns = rows[keep], columns[keep]
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
                best[i, j, lag] = max(best.get((i, j, lag), 0.0), float(both[i, j]))
    return sorted(best, key=lambda pair: (-best[pair], pair))[:MOST_PAIRS]


def _unit(x: NDArray[np.float32], use: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Columns of length 1; 0 where a column is not used."""
    length = np.sqrt((x**2).sum(axis=0))
    found: NDArray[np.float32] = x * np.where(use & (length > 0), 1.0 / np.maximum(length, 1e-6), 0.0)
    return found.astype(np.float32)


def _same(view: View, first: int, second: int, lag: int) -> Finding | None:
    """The longest stretch on which one column is the other."""
    rows = len(view.returns) - lag
    a, b = view.returns[:rows, first], view.returns[lag:, second]
    known = np.isfinite(a) & np.isfinite(b)
    live = known & (np.abs(a) + np.abs(b) > 0)
    if live.sum() < SHORTEST:
        return None
    size = np.minimum(view.scale[:rows, first], view.scale[lag:, second])
    room = 3.0 * (view.rounding[:rows, first] + view.rounding[lag:, second]) + np.minimum(0.01 * size, 1e-4)
    slope = 1.0 if view.what == "prices" else _slope(a[live], b[live])
    gap = np.abs(b - slope * a) if slope == 1.0 else np.abs(np.expm1(b) - slope * np.expm1(a))
    same = gap <= np.minimum(room * max(1.0, slope), 0.5 * size)
    gain = np.where(live, np.where(same, 1.0, -4.0), 0.0)[:, None]
    best, start, stop = (item[0] for item in best_segment(gain))
    inside = live[start:stop]
    if best < SHORTEST or inside.sum() < SHORTEST:
        return None
    share = float(same[start:stop][inside].mean())
    whole = inside.sum() > 0.9 * live.sum()
    span = "all rows" if whole else f"{int(inside.sum())} rows"
    other = view.names[first]
    times = "" if abs(slope - 1.0) < 1e-9 else f" times {slope:.3g}"
    if lag:
        what = f"{share:.0%} of the returns in {span} are those of '{other}'{times} {lag} row(s) earlier."
    else:
        what = f"{share:.0%} of the returns in {span} are those of '{other}'{times}."
    days = view.day(int(start + lag)), view.day(int(stop - 1 + lag))
    remedy = "Keep one of the two, or download it again." if not lag else "Download both again; one has wrong dates."
    sure = float(sureness(best / 4.0 - 3.0))
    return Finding("duplicate" if not lag else "shift", view.names[second], *days, what, sure, remedy)


def _slope(a: Array, b: Array) -> float:
    """The ratio of simple returns, 1 where it is near that."""
    x, y = np.expm1(a), np.expm1(b)
    moving = np.abs(x) > np.median(np.abs(x))
    ratio = float(np.median(y[moving] / x[moving])) if moving.any() else 1.0
    return 1.0 if abs(ratio - 1.0) < 0.02 or not np.isfinite(ratio) else ratio


def shifts(view: View) -> Iterator[Finding]:
    """Columns that follow the market of another day."""
    names = view.shape[1]
    if names <= FEWEST or view.shape[0] < 60:
        return
    there = np.isfinite(view.returns)
    y = np.where(there, np.clip(view.clipped / view.scale, -5.0, 5.0), 0.0)
    others = (y.sum(axis=1, keepdims=True) - y) / np.maximum(there.sum(axis=1, keepdims=True) - 1, 1)
    found = [item for lag in SHIFTS for item in _shifted(y, others, there, lag)]
    best: dict[int, tuple[float, int, int, int]] = {}
    for column, score, start, stop, lag in found:
        if column not in best or score > best[column][0]:
            best[column] = score, start, stop, lag
    for sign, side in ((1, "before"), (-1, "after")):
        group = [column for column, item in best.items() if item[3] * sign > 0]
        if len(group) > max(3, 0.15 * names):
            shown = ", ".join(view.names[column] for column in group[:5])
            what = f"{len(group)} names ({shown}, ...) move a row {side} the others: another time zone, or dates off."
            ends = view.day(0), view.day(len(view.dates) - 1)
            yield Finding("shift", "", *ends, what, 0.5, "Use weekly returns, or check the dates' time zone.")
            group_set = set(group)
            best = {column: item for column, item in best.items() if column not in group_set}
    for column, (score, start, stop, lag) in best.items():
        side = "early" if lag > 0 else "late"
        when = "later" if lag > 0 else "earlier"
        what = f"{stop - start} rows follow the other names' market of {abs(lag)} row(s) {when}"
        tail = f" and not of the same day: the dates are {abs(lag)} row(s) {side}."
        days = view.day(start), view.day(stop - 1)
        remedy = "Check what day its prices are of, and move them."
        yield Finding("shift", view.names[column], *days, what + tail, float(sureness(score)), remedy)


def _shifted(y: Array, others: Array, there: NDArray[np.bool_], lag: int) -> list[tuple[int, float, int, int, int]]:
    """(column, score, from, to, lag) where a segment at this lag is likelier than not."""
    moved = np.zeros_like(others)
    if lag > 0:
        moved[:-lag] = others[lag:]
    else:
        moved[-lag:] = others[:lag]
    known = np.maximum(there.sum(axis=0), 1)
    power = np.maximum((others**2 * there).sum(axis=0) / known, 1e-9)
    own = np.maximum((y**2).sum(axis=0) / known, 1e-9)
    slope = np.maximum((y * others).sum(axis=0), (y * moved).sum(axis=0)) / known / power
    slope = np.maximum(slope, 0.3 * np.sqrt(own / power))  # names go with their market at least so far
    width = np.sqrt(np.maximum(own - np.minimum(slope**2 * power, 0.9 * own), 0.1 * own))
    gain = log_core((y - slope * moved) / width) - log_core((y - slope * others) / width)
    best, start, stop = best_segment(np.where(there, gain, 0.0))
    charge = np.log(RATE["segment"]) - np.log(len(SHIFTS)) - 3.0
    hits = np.flatnonzero((best + charge > 0.0) & (stop - start >= 20))
    found = []
    for c in hits:
        rows = np.arange(start[c], stop[c])[there[start[c] : stop[c], c]]
        # A name may go against its market for a while: only a lag that beats the best slope of the day itself tells.
        here, late = _correlation(y[rows, c], others[rows, c]), _correlation(y[rows, c], moved[rows, c])
        free = 0.5 * len(rows) * float(np.log((1.0 - here**2) / (1.0 - max(late, 0.0) ** 2)))
        found.append((int(c), min(float(best[c]), free) + float(charge), int(start[c]), int(stop[c]), lag))
    return [item for item in found if item[1] > 0.0]


def _correlation(a: Array, b: Array) -> float:
    x, y = a - a.mean(), b - b.mean()
    return float(np.clip(x @ y / max(float(np.sqrt((x @ x) * (y @ y))), 1e-12), -0.999, 0.999))
