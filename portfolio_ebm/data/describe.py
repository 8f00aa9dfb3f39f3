"""What is in a panel, in words: its size, its holes, and the facts about data that backtests are fooled by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.dates import day
from portfolio_ebm.data.labels import moves

if TYPE_CHECKING:
    from portfolio_ebm.data.panel import Panel

Rows = NDArray[Any]

JUMP = 0.5
"""A return above this in size in one period is listed: a split that was not adjusted looks like one."""


def describe(panel: Panel) -> str:
    """One fact a line; the first lines say what there is, the others what to beware of."""
    span = f"{len(panel):,} dates from {panel.start} to {panel.end} ({panel.periods_per_year:g} a year)"
    lines = [
        f"{panel.n_assets} assets, {span}.",
        *_members(panel),
        *_factors(panel),
        *_extras(panel),
        *_missing(panel),
        *_survivors(panel),
        *_jumps(panel),
        *panel.notes,
    ]
    return "\n".join(lines)


def _members(panel: Panel) -> list[str]:
    if panel.members is None:
        return []
    count = panel.members.sum(axis=1)
    silent = int((panel.members & ~panel.tradeable).sum())
    told = f", {silent:,} time(s) without a price" if silent else ""
    ever = int(panel.members.any(axis=0).sum())
    return [
        f"Members: {count.min()} to {count.max()} on a date, {ever} of {panel.n_assets} names at some time{told}. A "
        "name is bought only while it is a member, and sold once it has left."
    ]


def _weights(panel: Panel) -> list[str]:
    lines = []
    for name, weights in panel.benchmark_weights.items():
        known = np.flatnonzero(np.isfinite(weights).all(axis=1))
        if known.size:
            held, total = (weights[known] > 0.0).sum(axis=1), weights[known].sum(axis=1)
            start = day(panel.dates[known[0]])
            lines.append(
                f"Weights of '{name}' from {start}: {held.min()} to {held.max()} of the names here, "
                f"{total.min():.1%} to {total.max():.1%} of the benchmark. They stand between their dates and do not "
                "drift."
            )
        else:
            lines.append(f"Weights of '{name}' are unknown on every date.")
    return lines


def _factors(panel: Panel) -> list[str]:
    if not panel.factors:
        return ["There are no factors."]
    spans = []
    for column, name in enumerate(panel.factors):
        rows = np.flatnonzero(np.isfinite(panel.factor_returns[:, column]))
        spans.append(f"{name} {'never' if not rows.size else 'from ' + day(panel.dates[rows[0]])}")
    told = f"Factors: {', '.join(spans)}. "
    told += f"The market is '{panel.market}'." if panel.market else "None of them is named as the market."
    if not panel.built_factors:
        return [told]
    proxy = "traded value" if panel.volume is not None and panel.prices is not None else "past growth in price"
    return [
        told,
        "The factors were built from the returns of these very assets (market: equal weights; long-short thirds for "
        f"the others; size_proxy sorts by {proxy}): each sort uses earlier data only. Give --factors for real ones.",
    ]


def _extras(panel: Panel) -> list[str]:
    lines = []
    if panel.groups:
        counts = [f"{name} ({len(set(items))} labels)" for name, items in panel.groups.items()]
        lines.append(f"Groups: {', '.join(counts)}.")
        fixed = [name for name in panel.groups if name not in panel.relabels]
        if fixed:
            lines.append(f"The labels of {', '.join(fixed)} are the same on every date, not as they were at the time.")
        lines += [
            f"The labels of {name} are as they stood at each date; they change on "
            f"{len(moves(steps, panel.assets, panel.dates, panel.tradeable))} days."
            for name, steps in panel.relabels.items()
        ]
    if panel.benchmark is not None:
        lines.append(f"Benchmark: {panel.benchmark_name}.")
    lines += _weights(panel)
    if panel.signals:
        lines.append(f"Signals: {', '.join(panel.signals)}.")
    if panel.forecasts:
        lines.append(f"Forecasts: {', '.join(panel.forecasts)}.")
    if not panel.cash_rate.any():
        lines.append("Cash earns nothing, as no cash rate was given.")
    return lines


def _missing(panel: Panel) -> list[str]:
    blank = ~panel.tradeable
    if not blank.any():
        return ["No cell is missing."]
    first, last = _spans(panel)
    rows = np.arange(len(panel))[:, None]
    inside = blank & (rows > first) & (rows < last)
    late, gone = int((first > 0).sum()), _named(panel, last < len(panel) - 1)
    told = [f"{late} name(s) start after {panel.start}"] if late else []
    told += [f"{len(gone)} end before {panel.end} ({_some(gone)})"] if gone else []
    told += [f"{int(inside.sum())} gap(s) in between"] if inside.any() else []
    return [
        f"{blank.mean():.1%} of the cells are missing: {', '.join(told)}. A name is traded only where it has a price."
    ]


def _survivors(panel: Panel) -> list[str]:
    if not panel.n_assets:
        return []
    _, last = _spans(panel)
    gone = _named(panel, last < len(panel) - 1)
    if not gone:
        return [
            "No name ever leaves the panel: names that failed or were bought are not in it, and a backtest that picks "
            "among survivors looks better than it would have been (survivorship)."
        ]
    without = [name for name in gone if name not in panel.delistings]
    if not without:
        return []
    return [
        f"{len(without)} name(s) end without a final return ({_some(without)}): they leave at their last price; "
        "delistings= gives one."
    ]


def _jumps(panel: Panel) -> list[str]:
    with np.errstate(invalid="ignore"):
        rows, columns = np.nonzero(np.abs(panel.returns) > JUMP)
    if not rows.size:
        return []
    size = np.abs(panel.returns[rows, columns])
    order = np.argsort(-size, kind="stable")[:3]
    shown = ", ".join(
        f"{panel.assets[columns[k]]} {day(panel.dates[rows[k]])} {panel.returns[rows[k], columns[k]]:+.0%}"
        for k in order
    )
    return [f"{rows.size} return(s) beyond {JUMP:.0%} in one period, the largest {shown}; is a split unadjusted?"]


def _spans(panel: Panel) -> tuple[Rows, Rows]:
    """First and last tradeable row of each name; one that never trades starts at the end and ends before the start."""
    any_day = panel.tradeable.any(axis=0)
    first = np.where(any_day, panel.tradeable.argmax(axis=0), len(panel))
    return first, panel.last_rows


def _named(panel: Panel, which: Rows) -> list[str]:
    return [name for name, there in zip(panel.assets, which, strict=True) if there]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
