"""The bars that were set before the table was made, beside what was measured: met or not met, nothing between."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.market.run import BEST, DCC, FIXED, INDEPENDENT, OURS, Evaluation
from benchmarks.market.statistics import hac
from benchmarks.market.table import markdown
from benchmarks.market.ticks import Ticks
from benchmarks.market_time import BAR
from portfolio_ebm.market.scoring_rules import christoffersen, kupiec, uniform_distance

Array = NDArray[np.float64]
MET, MISSED, UNKNOWN = "met", "**not met**", "not measured here"
Row = tuple[str, str, str, str, str]


def gates(
    six: Evaluation, stocks: Evaluation | None, stress: pd.DataFrame, ticks: Ticks | None, cost: tuple[float, float],
    windows: float | None,
) -> list[str]:  # fmt: skip
    """One row a bar; our model must be in `six`."""
    rows: list[Row] = []
    if six.has(OURS, f"log:{six.names[0]}"):
        rows += _single(six)
    rows += [*_calibration(six), *_joint(six), *_portfolios(six), *_stocks(stocks), *_stress(stress)]
    rows += [_ticks(ticks), *_cost(cost), _windows(windows)]
    return markdown(["metric", "gate", "aim", "measured", "gate is"], rows)


def _more(value: Array, bar: float) -> tuple[str, str]:
    """A difference that must reach `bar` with an interval above zero."""
    mean, half = hac(value)
    return f"{mean:+.4f} +- {half:.4f}", MET if mean >= bar and mean - half > 0 else MISSED


def _less(value: Array) -> tuple[str, str]:
    """A difference whose interval must lie below zero."""
    mean, half = hac(value)
    return f"{mean:+.4f} +- {half:.4f}", MET if mean + half < 0 else MISSED


def _single(ev: Evaluation) -> list[Row]:
    bars = (("GARCH-t", 0.013, "+.021"), ("EWMA-t", 0.004, "+.013"))
    return [
        (f"log score of a series alone, less {law}", f"+{bar}, interval > 0", aim,
         *_more(ev.single(OURS) - ev.single(law), bar))
        for law, bar, aim in bars
    ]  # fmt: skip


def _calibration(ev: Evaluation) -> list[Row]:
    k = len(ev.names)
    tests = {
        law: [uniform_distance(ev.frames[law][f"pit:{n}"].to_numpy()) for n in ev.names] for law in (OURS, "GARCH-t")
    }
    mean = {law: float(np.mean([d for d, _ in found])) for law, found in tests.items()}
    passed = sum(p > 0.01 for _, p in tests[OURS])
    shown = f"{mean[OURS]:.4f} against {mean['GARCH-t']:.4f}; {passed} of {k} not rejected"
    good = mean[OURS] < mean["GARCH-t"] and passed >= k - 1
    gate = f"below GARCH-t's, {k - 1} of {k} not rejected at 1 %"
    rows: list[Row] = [("PIT KS", gate, f"{k} of {k}", shown, MET if good else MISSED)]
    for tail, low, high in (("1", 0.0075, 0.0125), ("5", 0.045, 0.055)):
        share = [float(ev.hits(OURS, n, tail).mean()) for n in ev.names]
        inside = sum(low <= s <= high for s in share)
        texts = f"{np.mean(share):.2%}; {inside} of {k} series inside"
        for test in (kupiec, christoffersen):
            texts += f"; {test.__name__.capitalize()} {_count(ev, tail, test)} of {k}"
        verdict = MET if low <= np.mean(share) <= high else MISSED
        aim = f"Kupiec, Christoffersen {k} of {k}"
        rows.append((f"VaR {tail} % hits, mean over series", f"{low:.2%} to {high:.2%}", aim, texts, verdict))
    loss = ev.tail_loss(OURS, ev.names) - ev.tail_loss("GARCH-t", ev.names)
    rows.append(("FZ0 5 % less GARCH-t's", "interval < 0", "-.033", *_less(loss)))
    return rows


def _count(ev: Evaluation, tail: str, test: Callable) -> int:
    return sum(test(ev.hits(OURS, n, tail).astype(float), int(tail) / 100) > 0.01 for n in ev.names)


def _joint(ev: Evaluation) -> list[Row]:
    ours = ev.joint(OURS)
    own = INDEPENDENT.format(OURS if ev.has(OURS, f"log:{ev.names[0]}") else "GARCH-t")
    ewma = max((BEST, FIXED), key=lambda law: float(ev.joint(law).mean()))
    bars = ((own, 1.0, "+1.19"), (DCC, 0.07, "+.11"), (ewma, 0.04, "+.08"))
    return [
        (f"joint log score less {law}", f"+{bar}, interval > 0", aim, *_more(ours - ev.joint(law), bar))
        for law, bar, aim in bars
    ]


def _portfolios(ev: Evaluation) -> list[Row]:
    if not ev.portfolios:
        return []
    ours = ev.tail_loss(OURS, ev.portfolios)
    what = "portfolios of factors, FZ0 5 % less {}"
    return [
        (what.format(law), "interval < 0", aim, *_less(ours - ev.tail_loss(law, ev.portfolios)))
        for law, aim in ((DCC, "-.042"), (BEST, "-.055"))
    ]


def _stocks(ev: Evaluation | None) -> list[Row]:
    if ev is None or OURS not in ev.frames:
        return [("joint of factors and stocks less GARCH-t + DCC-t", "+.8", "+1.17", "-", UNKNOWN)]
    what = f"joint of {len(ev.names)} series less {DCC}"
    return [(what, "+.8", "+1.17", *_more(ev.joint(OURS) - ev.joint(DCC), 0.8))]


def _ticks(found: Ticks | None) -> Row:
    what = "bad ticks, cell AP against the residual z-score"
    if found is None:
        return (what, "better", "+.1", "-", UNKNOWN)
    ours, theirs, (low, high) = found
    shown = f"{ours:.3f} against {theirs:.3f}; difference {low:+.3f} to {high:+.3f}"
    return (what, "better", "+.1", shown, MET if low > 0 else MISSED)


def _cost(found: tuple[float, float]) -> list[Row]:
    seconds, error = found
    return [
        ("fit, batched, a model a core", ".3 s", ".16 s", f"{seconds:.2f} s", MET if seconds <= 0.3 else MISSED),
        ("error of log Z", "1e-4", "1e-5", f"{error:.0e}", MET if error <= 1e-4 else MISSED),
    ]


def _windows(seconds: float | None) -> Row:
    what, gate = "20 years of monthly windows, 6 factors and 20 residuals, yearly training, one core", f"{BAR:.0f} s"
    if seconds is None:
        return (what, gate, "", "-", UNKNOWN)
    return (what, gate, "", f"{seconds:.0f} s", MET if seconds <= BAR else MISSED)


def _stress(found: pd.DataFrame) -> list[Row]:
    ours = float(found["volatility"].iloc[0])
    rows: list[Row] = []
    for scorer, gate in (("GJR-skewt: dispersion", "tie"), ("turbulence, 21-day mean", "better")):
        if scorer not in found.index:
            continue
        low, high = float(found.loc[scorer, "volatility low"]), float(found.loc[scorer, "volatility high"])
        good = (high >= 0 if gate == "tie" else low > 0) and not math.isnan(low)
        shown = f"{ours:.3f} against {float(found.loc[scorer, 'volatility']):.3f}; difference {low:+.3f} to {high:+.3f}"
        rows.append((f"stress AP against {scorer}", gate, ".65", shown, MET if good else MISSED))
    return rows
