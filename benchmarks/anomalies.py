"""What anomaly reports find of bad ticks planted in real returns, beside plain scores; and the crises flagged.

    python -m benchmarks.anomalies          # ../shared: 20 stocks with ticks, French factors for crises

A tick of 3 to 6 of the name's recent deviations is added to a cell and taken back the day after. Scores use days before
alone. Precision and recall are those of the cells (or days) that stand highest, as many as the alarm rate says.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest

from benchmarks.market.data import Absent, french, with_stocks
from benchmarks.market.statistics import average_precision
from portfolio_ebm import EWMA, FactorEBM, anomaly_report, score
from portfolio_ebm.market.anomaly.gauge import regime_gauge

SEED, TICKS, FIRST, LAST = 0, 100, "2011-01-03", "2012-12-31"
RATES = (0.005, 0.01, 0.02)


def main() -> int:
    try:
        data = with_stocks(french())
    except Absent as error:
        print(f"skipped: {error}")
        return 0
    data = data.until(LAST)
    assert data.stocks is not None
    clean = data.stocks
    rng = np.random.default_rng(SEED)
    start = int(clean.index.searchsorted(pd.Timestamp(FIRST)))
    x = clean.to_numpy(copy=True)
    planted = np.zeros(x.shape, dtype=bool)
    scale = pd.DataFrame(x).ewm(halflife=60).std().shift().to_numpy()
    for _ in range(TICKS):
        t, i = int(rng.integers(start, len(x) - 1)), int(rng.integers(x.shape[1]))
        size = float(rng.choice([-1, 1]) * rng.uniform(3, 6) * scale[t, i])
        x[t, i] += size
        x[t + 1, i] = (1 + x[t + 1, i]) / (1 + size) - 1
        planted[t, i] = planted[t + 1, i] = True
    stocks = pd.DataFrame(x, index=clean.index, columns=clean.columns)
    panel = replace(data, stocks=stocks).panel()
    z = np.abs(stocks / stocks.ewm(halflife=60).std().shift()).to_numpy()
    cells = {"z-score": z, "residual z-score": residual_z(x, data.factors.to_numpy())}
    days = {"z-score, largest": z.max(axis=1), **by_day(x, start)}
    for name, model in (("EWMA-t", EWMA(freedom="fit")), ("FactorEBM", FactorEBM(residual="student"))):
        report = anomaly_report(model, panel, start=FIRST)
        names = [c for c in report.returns.columns if c in set(clean.columns)]
        p = np.full(x.shape, np.nan)
        p[start:] = report.p[names].to_numpy()
        cells[f"{name} report"] = -np.log(p)
        p = np.full(len(x), np.nan)
        p[start:] = report.days["p"].to_numpy()
        days[f"{name} report"] = -np.log(p)
    print(f"{TICKS} ticks, and their corrections, in {x.shape[1]} stocks, {FIRST} to {LAST}, seed {SEED}\n")
    table({k: v[start:].ravel() for k, v in cells.items()}, planted[start:].ravel(), "cells")
    table({k: v[start:] for k, v in days.items()}, planted[start:].any(axis=1), "days")
    crises()
    return 0


def residual_z(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """|eps| over its recent deviation, eps from the regression on all factors over the 252 days before."""
    out = np.full(x.shape, np.nan)
    for t in range(253, len(x)):
        past = slice(t - 252, t)
        a = np.column_stack([np.ones(252), f[past]])
        beta, *_ = np.linalg.lstsq(a, x[past], rcond=None)
        left = x[past] - a @ beta
        out[t] = np.abs(x[t] - np.concatenate([[1.0], f[t]]) @ beta) / left.std(axis=0)
    return out


def by_day(x: np.ndarray, start: int) -> dict[str, np.ndarray]:
    turbulence, forest = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for at in range(start, len(x), 126):
        past, now = x[max(0, at - 1260) : at], slice(at, at + 126)
        away = x[now] - past.mean(axis=0)
        turbulence[now] = (away @ np.linalg.inv(np.cov(past.T)) * away).sum(axis=1)
        forest[now] = -IsolationForest(random_state=SEED).fit(past).score_samples(x[now])
    return {"turbulence": turbulence, "isolation forest": forest}


def table(scores: dict[str, np.ndarray], truth: np.ndarray, what: str) -> None:
    head = " ".join(f"  P / R at {rate:.1%}" for rate in RATES)
    print(f"{what:<22} {'AP':>6} {head}   ({truth.mean():.1%} planted)")
    for name, s in scores.items():
        order = np.argsort(-np.nan_to_num(s, nan=-np.inf), kind="stable")
        shown = ""
        for rate in RATES:
            top = truth[order[: max(1, round(rate * len(s)))]]
            shown += f"     {top.mean():.2f} / {top.sum() / truth.sum():.2f}"
        print(f"{name:<22} {average_precision(np.nan_to_num(s, nan=-1.0), truth):6.3f} {shown}")
    print()


def crises() -> None:
    data = french()
    frame = score(EWMA(freedom="fit", factors=tuple(data.factors.columns)), data.panel(), start="1990-01-02")
    found = regime_gauge(frame, data.market)
    print("EWMA-t on the six factors from 1990: falls of the market over 15 % and the first flag of each gauge")
    print(found.crises.to_string(index=False))
    print("false alarms a year:", ", ".join(f"{k} {v:.2f}" for k, v in found.false_alarms.items()))


if __name__ == "__main__":
    sys.exit(main())
