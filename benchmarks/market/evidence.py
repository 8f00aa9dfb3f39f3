"""The document: what was frozen, what was run, every table with its intervals, and the bars met or not met."""

from __future__ import annotations

import platform

import pandas as pd

from benchmarks.market import effect as portfolio_effect
from benchmarks.market import frozen, table
from benchmarks.market.cache import installed
from benchmarks.market.gates import gates
from benchmarks.market.run import OURS, Evaluation
from benchmarks.market.ticks import Ticks

FOREWORD = (
    "Written by the run below: the tables are typed by no hand; what was frozen, and how it was chosen, is told in "
    "benchmarks/market/frozen.py."
)
LIBRARIES = ("portfolio-ebm", "numpy", "scipy", "torch", "arch", "skfolio", "scikit-learn")


def document(
    six: Evaluation, stocks: Evaluation | None, stress: pd.DataFrame, effect: pd.DataFrame | None,
    command: str, seconds: float, skipped: list[str], ticks: Ticks | None, cost: tuple[float, float] | None,
    windows: float | None,
) -> str:  # fmt: skip
    """All sections, as markdown."""
    lines = ["# Evidence", "", FOREWORD, ""]
    lines += [*_frozen(six), *_data(six, stocks, command)]
    if OURS in six.frames and cost is not None:
        bars = gates(six, stocks, stress, ticks, cost, windows)
        said = "Set before the test era was scored. Hits are judged on their mean over the series."
        lines += ["## Bars", "", said, "", *bars, ""]
    lines += [*_six(six), *_stress(stress)]
    if stocks is not None:
        lines += [f"## {len(stocks.names)} series together: factors and stocks", "", *_span(stocks), ""]
        lines += [*table.joint(stocks), "", "By era, the first law less each:", "", *table.eras(stocks), ""]
    if effect is not None:
        lines += _effect(effect)
    lines += [*_mended(six, stocks), *_close(six, stocks, seconds, skipped)]
    return "\n".join(lines).rstrip() + "\n"


def _frozen(six: Evaluation) -> list[str]:
    lines = ["## What was frozen", ""]
    if OURS not in six.frames:
        said = "No configuration of ours is frozen; the tables hold the baselines alone."
        return [*lines, said, ""]
    when = frozen.FROZEN_ON or "not yet: these are development years"
    lines += [f"Frozen on: {when}.", f"{frozen.VARIANTS}.", ""]
    for what, spec in (
        ("factors alone", frozen.SIX),
        ("factors alone, the default", frozen.DEFAULT),
        ("factors and stocks", frozen.STOCKS),
    ):
        lines += [f"- {what}: `{spec!r}`"]
    return [*lines, ""]


def _data(six: Evaluation, stocks: Evaluation | None, command: str) -> list[str]:
    lines = ["## Data and command", "", f"    {command}", ""]
    for ev in (six, stocks):
        if ev is not None:
            days = ev.walk.dates
            lines.append(f"- {ev.data.source}: {len(days)} days, {days[0].date()} to {days[-1].date()}")
            lines += [f"  - {note}" for note in ev.data.notes]
    return [
        *lines, "",
        "Every law is fitted at each year's start on all days before it (ours on its lookback) and scored day by day "
        "with parameters fixed within the year. Log scores are nats a day for percent returns, higher is better; FZ0 "
        "lower. `+-` is half a 95 % Newey-West interval, floor(n^(1/3)) lags.", "",
    ]  # fmt: skip


def _six(ev: Evaluation) -> list[str]:
    k = len(ev.names)
    shown = OURS if OURS in ev.frames else "GARCH-t"
    lines = [f"## Each of {k} factors alone", "", *_span(ev), "", *table.univariate(ev), "", table.floor(ev)]
    lines += ["Counts are of series whose p-value is above 1 %.", "", f"{shown}, series by series:", ""]
    lines += [*table.by_series(ev, shown), "", f"## {k} factors together", "", *table.joint(ev), ""]
    lines += ["By era, the first law less each:", "", *table.eras(ev), ""]
    lines += [f"## {len(ev.portfolios)} long-short portfolios of the factors", ""]
    lines += ["Weights +-1/K from a fixed seed, no two equal or opposite; FZ0 and hits are means over them.", ""]
    return [*lines, *table.portfolios(ev), ""]


def _span(ev: Evaluation) -> list[str]:
    return [f"{len(ev.dates)} test days, {ev.dates[0].date()} to {ev.dates[-1].date()}."]


def _stress(found: pd.DataFrame) -> list[str]:
    return [
        "## Early warning", "",
        "Events over the next 21 days: realised volatility of the market in the top decile of the test days, and its "
        "compound return in the bottom decile; a ranking that knows nothing has .100. Dispersion is var5 - es1 of the "
        "market's forecast. Intervals: block bootstrap, 126 days.", "", *table.stress(found), "",
    ]  # fmt: skip


def _effect(found: pd.DataFrame) -> list[str]:
    lines = ["## Portfolios", "", (portfolio_effect.__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    lines += [*table.effect(found), "", "Intervals: block bootstrap, 21 days.", ""]
    if found.index[0] == portfolio_effect.OURS:
        lines += [*(f"- {text}" for text in portfolio_effect.claims(found)), ""]
    return lines


def _mended(six: Evaluation, stocks: Evaluation | None) -> list[str]:
    events = [*six.events, *([] if stocks is None else stocks.events)]
    lines = ["## Baseline fits that were mended or are strange", ""]
    if not events:
        return [*lines, "None: every GARCH fit passed its checks.", ""]
    lines += [f"- {e.law}, {e.series}, {e.year}: {e.what}" for e in events[:60]]
    return [*lines, *([f"- and {len(events) - 60} more"] if len(events) > 60 else []), ""]


def _close(six: Evaluation, stocks: Evaluation | None, seconds: float, skipped: list[str]) -> list[str]:
    left = [*six.skipped, *([] if stocks is None else stocks.skipped), *skipped]
    lines = ["## Left out", "", *(f"- {text}" for text in left), ""] if left else []
    versions = ", ".join(f"{name} {installed(name)}" for name in LIBRARIES)
    lines += ["## Runtime", "", f"{seconds / 60:.1f} minutes in this run, with frames of earlier runs from the cache."]
    return [*lines, f"Python {platform.python_version()}; {versions}."]
