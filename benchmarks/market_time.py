"""How long every window of a walk-forward takes: six factors, twenty residuals, monthly decisions, energies yearly.

    python benchmarks/market_time.py [--years 20] [--history 10]

Simulated daily returns and an empty store: nothing is read that this run has not trained. Each month is fitted on its
own past by `FactorEBM.fit`, as a backtest does; on one thread. Seconds are the process's own, so that a busy machine
tells the same; the clock's stand behind. Beside it, in the same run: AR(1)-GARCH(1,1)-t fits by arch of all 26 series
on the pasts of the first, the middle and the last training.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.store import ENVIRONMENT
from portfolio_ebm.training.maximum_likelihood import maximum_likelihood

FACTORS = ("Mkt", "SMB", "HML", "RMW", "CMA", "Mom")
ASSETS = 20
BAR = 180.0
"""Seconds that all windows may take."""


def world(years: int, seed: int = 0) -> Panel:
    """Factors with clustering volatility and assets that load on them."""
    rng = np.random.default_rng(seed)
    periods = 252 * years
    scale = np.empty((periods, len(FACTORS)))
    log_scale = np.zeros(len(FACTORS))
    for t in range(periods):
        log_scale = 0.98 * log_scale + 0.1 * rng.standard_normal(len(FACTORS))
        scale[t] = 0.006 * np.exp(log_scale)
    factors = scale * rng.standard_t(5, scale.shape)
    load = np.concatenate([np.ones((ASSETS, 1)), 0.5 * rng.standard_normal((ASSETS, len(FACTORS) - 1))], axis=1)
    own = 0.012 * rng.standard_t(4, (periods, ASSETS))
    dates = pd.bdate_range("1985-01-01", periods=periods)
    assets = pd.DataFrame(factors @ load.T + own, dates, [f"A{i:02d}" for i in range(ASSETS)])
    return Panel.from_returns(assets, factors=pd.DataFrame(factors, dates, list(FACTORS)), market="Mkt")


def peer(panel: Panel, ends: tuple[int, ...]) -> float:
    """Seconds of one AR(1)-GARCH(1,1)-t fit by arch, the mean over every series on the past up to each of `ends`."""
    from arch import arch_model

    series = np.concatenate([panel.factor_returns, panel.returns], axis=1)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for end in ends:
            for column in 100 * series[: end + 1].T:
                arch_model(column, mean="AR", lags=1, vol="GARCH", p=1, q=1, dist="t").fit(disp="off")
    return (time.process_time() - began) / (len(ends) * series.shape[1])


@dataclass(frozen=True)
class Spent:
    """Processor seconds and counts of windows that train energies, and of those that read the store; the clock's."""

    training: float
    trained: int
    reading: float
    read: int
    clock: float

    @property
    def total(self) -> float:
        return self.training + self.reading

    @property
    def an_energy(self) -> float:
        """Seconds of training one energy."""
        own = self.training - self.trained * self.reading / max(self.read, 1)
        return own / max(self.trained * (len(FACTORS) + ASSETS), 1)


def spent(years: int, history: int) -> Spent:
    """All monthly windows of so many years after so much history, each fitted on its own past, from an empty store."""
    panel = world(years + history)
    month = panel.dates.astype("datetime64[M]")
    rows = [t for t in range(252 * history, len(panel)) if month[t] != month[t - 1]]
    model, clock = FactorEBM(), time.monotonic()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    before = os.environ.get(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as home:
        os.environ[ENVIRONMENT] = home
        try:
            for row in rows:
                began = time.process_time()
                market = model.fit(panel.past(row))
                seconds[any(name.startswith("factor ") for name in market.refitted)].append(time.process_time() - began)
        finally:
            os.environ.pop(ENVIRONMENT)
            if before is not None:
                os.environ[ENVIRONMENT] = before
    took = time.monotonic() - clock
    return Spent(sum(seconds[True]), len(seconds[True]), sum(seconds[False]), len(seconds[False]), took)


def batched(panel: Panel, anchors: int = 4) -> float:
    """Processor time of training the factors at so many yearly anchors in one batch, over that of one at a time."""
    window = FactorEBM(dependence="none", residual="ewma").window(panel.past(len(panel) - 1))
    series, family = window.blocks[0].series, window.blocks[0].family.groups[0][0]
    ends = [len(window.dates) - 252 * k for k in range(anchors)]
    began = time.process_time()
    for end in ends:
        rows = slice(0, end)
        maximum_likelihood(family, series.state.rows(rows), series.target[:, rows], series.scored[:, rows])
    alone = time.process_time() - began
    which = list(range(len(FACTORS))) * anchors
    seen = torch.cat([series.scored & (torch.arange(series.scored.shape[1]) < end) for end in ends])
    began = time.process_time()
    rows = slice(0, seen.shape[1])
    maximum_likelihood(family, series.state.models(which).rows(rows), series.target[which, rows], seen)
    return (time.process_time() - began) / alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=20, help="years of monthly windows")
    parser.add_argument("--history", type=int, default=10, help="years before the first window")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = spent(args.years, args.history)
    count = found.trained + found.read
    what = f"{count} monthly windows, {len(FACTORS)} factors, {ASSETS} residuals, one thread"
    print(f"{what}: {found.total:.0f} s ({found.clock:.0f} by the clock)")
    for windows, seconds, what in (
        (found.trained, found.training, "that train energies"),
        (found.read, found.reading, "that read the store"),
    ):
        print(f"  {windows:4d} {what}  {seconds:6.1f} s  {seconds / max(windows, 1):.2f} each")
    panel, first = world(args.years + args.history), 252 * args.history
    theirs = peer(panel, (first, (first + len(panel)) // 2, len(panel) - 1))
    mine = found.an_energy
    print(
        f"  an energy trained {mine:.3f} s, an arch AR-GARCH-t fit {theirs:.3f} s: {mine / theirs:.2f} of arch's time"
    )
    print(f"  four anchors in one batch: {batched(panel):.2f} of the time of one after the other")
    print(f"{'within' if found.total < BAR else 'OVER'} the bar of {BAR:.0f} s")


if __name__ == "__main__":
    main()
