"""Tables of an evaluation, as lines of markdown. The reference is our model, or the first baseline without one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.market.run import DCC, INDEPENDENT, JOINT, OURS, OWN, UNIVARIATE, Evaluation
from benchmarks.market.statistics import hac, ks_floor
from portfolio_ebm.market.scoring_rules import christoffersen, kupiec, uniform_distance

Array = NDArray[np.float64]
ERAS = (
    ("1987", "1987-01-01", "1987-12-31"),
    ("1998", "1998-01-01", "1998-12-31"),
    ("2000-02", "2000-01-01", "2002-12-31"),
    ("2008", "2008-01-01", "2008-12-31"),
    ("2011", "2011-01-01", "2011-12-31"),
    ("2018", "2018-01-01", "2018-12-31"),
    ("2020", "2020-01-01", "2020-12-31"),
    ("2022", "2022-01-01", "2022-12-31"),
)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table with its first column to the left and the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def gap(x: Array, digits: int = 4) -> str:
    """Mean and 95 % interval of daily differences."""
    mean, half = hac(x)
    return "-" if math.isnan(mean) else f"{mean:+.{digits}f} +- {half:.{digits}f}"


def _score(x: Array, series: int = 1, digits: int = 3) -> str:
    """A mean log score in the units of percent returns."""
    mean = float(np.nanmean(x)) if np.isfinite(x).any() else math.nan
    return "-" if math.isnan(mean) else f"{mean - series * math.log(100):.{digits}f}"


def laws(ev: Evaluation, column: str, names: Iterable[str]) -> list[str]:
    """Ours, then those of `names` whose frame has `column`."""
    return [law for law in (OURS, *names) if ev.has(law, column)]


def univariate(ev: Evaluation) -> list[str]:
    """Every law of single series, means over the series."""
    there = laws(ev, f"var5:{ev.names[0]}", UNIVARIATE)
    reference, k = there[0], len(ev.names)
    density = [law for law in there if ev.has(law, f"log:{ev.names[0]}")]
    head = ["law", "log score", f"{reference} less it", "FZ0 5 %", f"{reference} less it", "PIT KS", "PIT p > 1 %"]
    head += ["VaR 1 % hits", "VaR 5 % hits", "Kupiec 1 %, 5 %", "Christoffersen 1 %, 5 %"]
    rows, loss = [], {law: ev.tail_loss(law, ev.names) for law in there}
    for law in there:
        ks = [uniform_distance(ev.frames[law][f"pit:{n}"].to_numpy()) for n in ev.names]
        shares = [np.mean([ev.hits(law, n, tail).mean() for n in ev.names]) for tail in ("1", "5")]
        both = law in density and reference in density and law != reference
        rows.append([
            law, _score(ev.single(law)) if law in density else "-",
            gap(ev.single(reference) - ev.single(law)) if both else "-",
            f"{np.nanmean(loss[law]):.4f}", "-" if law == reference else gap(loss[reference] - loss[law]),
            f"{np.mean([d for d, _ in ks]):.4f}", f"{sum(p > 0.01 for _, p in ks)} of {k}",
            *(f"{s:.2%}" for s in shares), _passed(ev, law, kupiec), _passed(ev, law, christoffersen),
        ])  # fmt: skip
    return markdown(head, rows)


def _passed(ev: Evaluation, law: str, test: Callable[[Array, float], float]) -> str:
    """Series on which a test of the hits at 1 % and at 5 % has a p-value above 1 %."""
    counts = [sum(test(ev.hits(law, n, tail).astype(float), int(tail) / 100) > 0.01 for n in ev.names) for tail in "15"]
    return ", ".join(str(c) for c in counts) + f" of {len(ev.names)}"


def by_series(ev: Evaluation, law: str) -> list[str]:
    """One law, series by series, beside GARCH-t."""
    head = ["series", "log score", "less GARCH-t", "PIT KS", "p", "VaR 1 % hits", "Kupiec p", "Christoffersen p"]
    head += ["VaR 5 % hits", "Kupiec p", "Christoffersen p"]
    rows = []
    for n in ev.names:
        mine, other = (ev.frames[each].get(f"log:{n}") for each in (law, "GARCH-t"))
        distance, p = uniform_distance(ev.frames[law][f"pit:{n}"].to_numpy())
        row = [n, "-" if mine is None else _score(mine.to_numpy())]
        row.append("-" if mine is None or law == "GARCH-t" else gap((mine - other).to_numpy()))
        row += [f"{distance:.4f}", f"{p:.3f}"]
        for tail in "15":
            hit, level = ev.hits(law, n, tail).astype(float), int(tail) / 100
            row += [f"{hit.mean():.2%}", f"{kupiec(hit, level):.3f}", f"{christoffersen(hit, level):.3f}"]
        rows.append(row)
    return markdown(head, rows)


def floor(ev: Evaluation) -> str:
    n = len(ev.dates)
    return f"Noise floor of KS at {n} days: {ks_floor(n):.4f} (the median of a perfect forecast)."


def joint_laws(ev: Evaluation) -> list[str]:
    """Ours, sums of margins, and the joint baselines."""
    found = laws(ev, "log_score", JOINT)
    margins = laws(ev, f"log:{ev.names[0]}", ("GARCH-t", "GJR-skewt", "EWMA-t"))
    return found + [INDEPENDENT.format(law) for law in margins]


def joint(ev: Evaluation) -> list[str]:
    """Joint log scores."""
    there = joint_laws(ev)
    reference = there[0]
    rows = []
    for law in there:
        value = ev.joint(law)
        less = "-" if law == reference else gap(ev.joint(reference) - value, 3)
        rows.append([law, _score(value, len(ev.names)), less])
    return markdown(["law", "nats a day", f"{reference} less it"], rows)


def portfolios(ev: Evaluation) -> list[str]:
    """FZ0 5 % of the sign portfolios."""
    candidates = (*JOINT, OWN, "GARCH-t", "GJR-skewt", "EWMA-t", "historical, 250 days", "historical, 1000 days")
    there = laws(ev, "var5:portfolio 1", candidates)
    reference = there[0]
    loss = {law: ev.tail_loss(law, ev.portfolios) for law in there}
    rows = []
    for law in there:
        label = INDEPENDENT.format(law) if law in ("GARCH-t", "GJR-skewt", "EWMA-t") else law
        shares = [np.mean([ev.hits(law, n, tail).mean() for n in ev.portfolios]) for tail in "15"]
        less = "-" if law == reference else gap(loss[reference] - loss[law])
        rows.append([label, f"{np.nanmean(loss[law]):.4f}", less, *(f"{s:.2%}" for s in shares)])
    return markdown(["law", "FZ0 5 %", f"{reference} less it", "VaR 1 % hits", "VaR 5 % hits"], rows)


def eras(ev: Evaluation) -> list[str]:
    """Joint and single log scores, ours (or DCC's) less the main baselines, in years of stress."""
    reference = OURS if OURS in ev.frames else DCC
    others = [law for law in joint_laws(ev) if law != reference]
    rows = []
    for name, start, end in ERAS:
        inside = np.asarray((ev.dates >= pd.Timestamp(start)) & (ev.dates <= pd.Timestamp(end)))
        if inside.sum() < 60:
            continue
        row = [name, str(int(inside.sum()))]
        row += [gap((ev.joint(reference) - ev.joint(law))[inside], 3) for law in others]
        if OURS in ev.frames and ev.has(OURS, f"log:{ev.names[0]}"):
            row.append(gap((ev.single(OURS) - ev.single("GARCH-t"))[inside], 3))
        rows.append(row)
    head = ["era", "days", *others]
    if OURS in ev.frames and ev.has(OURS, f"log:{ev.names[0]}"):
        head.append("each series alone, GARCH-t")
    return markdown(head, rows) if rows else ["None of the eras lies in these days."]


def stress(found: pd.DataFrame) -> list[str]:
    """Average precisions, with intervals of the reference less each."""
    reference = found.index[0]
    rows = []
    for name, row in found.iterrows():
        cells = [str(name)]
        for what in ("volatility", "loss"):
            less = f"{row[f'{what} gap']:+.3f} ({row[f'{what} low']:+.3f}, {row[f'{what} high']:+.3f})"
            cells += [f"{row[what]:.3f}", "-" if name == reference else less]
        rows.append(cells)
    return markdown(["scorer", "AP volatility", "first less it", "AP loss", "first less it"], rows)


def effect(found: pd.DataFrame) -> list[str]:
    """The walk-forward table."""
    reference = found.index[0]
    rows = []
    for name, row in found.iterrows():
        cells = [str(name), f"{row['CVaR']:.3%}"]
        shown = f"{row['CVaR gap']:+.3%} ({row['CVaR low']:+.3%}, {row['CVaR high']:+.3%})"
        cells += ["-" if name == reference else shown, f"{row['Sharpe']:.2f}"]
        shown = f"{row['Sharpe gap']:+.2f} ({row['Sharpe low']:+.2f}, {row['Sharpe high']:+.2f})"
        cells += ["-" if name == reference else shown, f"{row['volatility']:.1%}", f"{row['turnover']:.2f}"]
        rows.append([*cells, str(row["failed"])])
    head = ["strategy", "CVaR 95 % a day", "first less it", "Sharpe", "first less it", "volatility a year"]
    return markdown([*head, "turnover a year", "failed decisions"], rows)
