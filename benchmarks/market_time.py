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

import numpy as np
import pandas as pd
import torch

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.market.factor_ebm import FactorEBM

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=20, help="years of monthly windows")
    parser.add_argument("--history", type=int, default=10, help="years before the first window")
    args = parser.parse_args()
    torch.set_num_threads(1)
    panel = world(args.years + args.history)
    month = panel.dates.astype("datetime64[M]")
    first = 252 * args.history
    rows = [t for t in range(first, len(panel)) if month[t] != month[t - 1]]
    model = FactorEBM()
    clock = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        os.environ["PORTFOLIO_EBM_HOME"] = home
        spent = {True: 0.0, False: 0.0}
        count = {True: 0, False: 0}
        for row in rows:
            began = time.process_time()
            market = model.fit(panel.past(row))
            trained = any(name.startswith("factor ") for name in market.refitted)
            spent[trained] += time.process_time() - began
            count[trained] += 1
    total, clock = spent[True] + spent[False], time.monotonic() - clock
    what = f"{len(rows)} monthly windows, {len(FACTORS)} factors, {ASSETS} residuals, one thread"
    print(f"{what}: {total:.0f} s ({clock:.0f} by the clock)")
    for trained, what in ((True, "that train energies"), (False, "that read the store")):
        each = spent[trained] / max(count[trained], 1)
        print(f"  {count[trained]:4d} {what}  {spent[trained]:6.1f} s  {each:.2f} each")
    models = len(FACTORS) + ASSETS
    mine = (spent[True] - count[True] * spent[False] / max(count[False], 1)) / max(count[True] * models, 1)
    theirs = peer(panel, (first, (first + len(panel)) // 2, len(panel) - 1))
    print(
        f"  an energy trained {mine:.3f} s, an arch AR-GARCH-t fit {theirs:.3f} s: {mine / theirs:.2f} of arch's time"
    )
    print(f"{'within' if total < BAR else 'OVER'} the bar of {BAR:.0f} s")


if __name__ == "__main__":
    main()
