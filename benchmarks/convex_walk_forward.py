"""The convex walk-forward beside skfolio, in one run: 20 stocks, monthly, long-only, 10 % cap.

    python benchmarks/convex_walk_forward.py [--months 120]

Same windows, same data, same rules: minimum variance on 252 days and minimum CVaR 95 % on 252 days. Both sides are
timed over the estimation and the optimisation of every month, through their public calls; times are CPU time of the
process, printed as ratios only. Every weight vector is re-evaluated by one function that belongs to neither side,
after being projected on the simplex with caps, so that neither side gains by leaving it.

Then a whole `backtest`, its records included, with `AnnealedLangevin()`, which may stand under a convex formula too,
beside one with `Convex()`: minimum variance on 252 days, long-only, at most 20 % turnover a decision, the last 60
months.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe
from portfolio_ebm.constraints.projections import capped_simplex
from portfolio_ebm.construction.base import Constructor
from portfolio_ebm.energy import Energy

LOOKBACK, CAP, LEVEL = 252, 0.10, 0.95
TURNOVER, WALKED = 0.2, 60


def ours(panel: pe.Panel, rows: list[int], energy: Energy) -> np.ndarray:
    strategy = pe.Strategy(
        name="ours",
        market=pe.SampleMoments(lookback=LOOKBACK),
        energy=energy,
        constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=CAP),
        constructor=pe.Convex(),
        rebalance=pe.EveryPeriod(),
    )
    return np.array([pe.rebalance(strategy, panel.past(t), None).weights.to_numpy() for t in rows])


def theirs(returns: np.ndarray, rows: list[int], measure: str) -> np.ndarray:
    from skfolio import RiskMeasure
    from skfolio.optimization import MeanRisk, ObjectiveFunction

    found = []
    for t in rows:
        model = MeanRisk(
            objective_function=ObjectiveFunction.MINIMIZE_RISK,
            risk_measure=getattr(RiskMeasure, measure),
            max_weights=CAP,
        )
        found.append(model.fit(returns[t - LOOKBACK + 1 : t + 1]).weights_)
    return np.array(found)


def variance(window: np.ndarray, w: np.ndarray) -> float:
    return float(np.var(window @ w, ddof=1))


def shortfall(window: np.ndarray, w: np.ndarray) -> float:
    losses = np.sort(-(window @ w))[::-1]
    tail = (1 - LEVEL) * len(losses)
    whole = int(tail)
    return float((losses[:whole].sum() + (tail - whole) * losses[whole]) / tail)


def on_the_set(weights: np.ndarray) -> np.ndarray:
    w = torch.tensor(weights)
    return capped_simplex(w, torch.zeros_like(w), torch.full_like(w, CAP), 1.0).numpy()


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    weights = run()
    return time.process_time() - start, weights


def walked(panel: pe.Panel, start: int, constructor: Constructor) -> np.ndarray:
    """The weights of a backtest from row `start` on."""
    strategy = pe.Strategy(
        name="walked",
        market=pe.SampleMoments(lookback=LOOKBACK),
        energy=pe.Variance(),
        constraint=pe.Budget() & pe.LongOnly() & pe.Turnover(TURNOVER),
        constructor=constructor,
    )
    return pe.backtest(strategy, panel, start=str(panel.dates[start].astype("datetime64[D]"))).weights.to_numpy()


def constructors(panel: pe.Panel, rows: list[int]) -> str:
    """What AnnealedLangevin() takes beside Convex() where the formula is convex, in a sentence."""
    spent, found = [], []
    for constructor in (pe.Convex(), pe.AnnealedLangevin()):
        walked(panel, rows[-2], constructor)  # imports and first-call set-up are nobody's fault
        time_taken, weights = timed(lambda c=constructor: walked(panel, rows[0], c))
        spent.append(time_taken)
        found.append(weights)
    apart = np.abs(found[1] - found[0]).max()
    return (
        f"backtest, {len(rows)} monthly decisions, minimum variance, turnover at most {TURNOVER:.0%}: time of "
        f"AnnealedLangevin() / Convex() {spent[1] / spent[0]:.3f}, weights apart by {apart:.1g} at most."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=120)
    months = parser.parse_args().months
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    panel = pe.bundled()
    decisions = pe.Monthly().decisions(panel.dates)
    rows = [t for t in np.flatnonzero(decisions) if t > LOOKBACK][-months:]
    returns = np.asarray(panel.returns)
    table = Table(title=f"{len(rows)} monthly refits, 20 stocks, long-only, 10 % cap: time and objective, skfolio = 1")
    for heading in ("objective", "time, ours / skfolio", "mean objective, ours / skfolio", "worst month", "best month"):
        table.add_column(heading, justify="left" if heading == "objective" else "right")
    jobs = (
        ("minimum variance", pe.Variance(), "VARIANCE", variance),
        ("minimum CVaR 95 %", pe.CVaR(level=LEVEL), "CVAR", shortfall),
    )
    for name, energy, measure, value in jobs:
        for side in (lambda e=energy: ours(panel, rows[:2], e), lambda m=measure: theirs(returns, rows[:2], m)):
            side()  # imports and first-call set-up are nobody's fault
        spent, mine = timed(lambda e=energy: ours(panel, rows, e))
        their_time, peers = timed(lambda m=measure: theirs(returns, rows, m))
        windows = [returns[t - LOOKBACK + 1 : t + 1] for t in rows]
        ratio = np.array(
            [
                value(window, a) / value(window, b)
                for window, a, b in zip(windows, on_the_set(mine), on_the_set(peers), strict=True)
            ]
        )
        table.add_row(
            name, f"{spent / their_time:.3f}", f"{ratio.mean():.7f}", f"{ratio.max():.7f}", f"{ratio.min():.7f}"
        )
    Console(width=110).print(table)
    print(f"{pd.Timestamp(panel.dates[rows[0]]).date()} to {pd.Timestamp(panel.dates[rows[-1]]).date()}, one thread.")
    print(constructors(panel, rows[-WALKED:]))


if __name__ == "__main__":
    main()
