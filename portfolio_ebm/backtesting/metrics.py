"""The usual figures of a return series, annualised; and an interval for a difference of Sharpe ratios.

All are of net returns per period. With p periods a year, mean m and standard deviation s of r, f the return of cash:

    annual return = prod(1 + r)^(p / T) - 1     volatility = s sqrt(p)      Sharpe = sqrt(p) mean(r - f) / sd(r - f)
    Sortino = sqrt(p) mean(r - f) / sqrt(mean(min(r - f, 0)^2))             Calmar = annual return / max drawdown
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from portfolio_ebm.backtesting.result import Result

Array = NDArray[np.float64]


def annual_return(net: Array, periods: float) -> float:
    """Compound growth a year."""
    grown = float(np.prod(1.0 + net))
    return float(grown ** (periods / len(net)) - 1.0) if grown > 0.0 else -1.0


def volatility(net: Array, periods: float) -> float:
    """Standard deviation a year (ddof = 1)."""
    return float(np.std(net, ddof=1) * np.sqrt(periods)) if len(net) > 1 else float("nan")


def sharpe(net: Array, cash: Array, periods: float) -> float:
    """Excess return over cash per unit of its volatility, annualised; NaN for a constant series."""
    excess = net - cash
    spread = float(np.std(excess, ddof=1)) if len(net) > 1 else 0.0
    return float(np.sqrt(periods) * excess.mean() / spread) if spread > 1e-15 else float("nan")


def sortino(net: Array, cash: Array, periods: float) -> float:
    """As `sharpe`, over the root mean square of the shortfalls alone."""
    excess = net - cash
    down = float(np.sqrt(np.mean(np.minimum(excess, 0.0) ** 2)))
    return float(np.sqrt(periods) * excess.mean() / down) if down > 1e-15 else float("nan")


def drawdowns(net: Array) -> Array:
    """Loss from the highest wealth so far, the starting one included: (T,), zero or negative."""
    wealth = np.cumprod(1.0 + net)
    peak = np.maximum(np.maximum.accumulate(wealth), 1.0)
    below: Array = wealth / peak - 1.0
    return below


def expected_shortfall(net: Array, level: float = 0.95) -> float:
    """Mean loss in the worst 1 - level of the periods, exact in the fractional last one; a positive number."""
    losses = np.sort(-net)[::-1]
    tail = (1.0 - level) * len(losses)
    whole = int(tail + 1e-12)
    rest = (tail - whole) * losses[whole] if whole < len(losses) else 0.0
    return float((losses[:whole].sum() + rest) / tail)


def skewness(net: Array) -> float:
    """Adjusted Fisher-Pearson skewness, as pandas and spreadsheets have it; NaN under three periods."""
    n, spread = len(net), float(np.std(net))
    if n < 3 or spread < 1e-15:
        return float("nan")
    return float(np.mean((net - net.mean()) ** 3) / spread**3 * np.sqrt(n * (n - 1)) / (n - 2))


def summarize(result: Result) -> pd.Series[float]:
    """About ten figures of one backtest, net of costs. The first row, on which nothing was held yet, is left out."""
    first = 1 if len(result.net) > 1 else 0
    net = np.asarray(result.net.to_numpy(), dtype=np.float64)[first:]
    cash = np.asarray(result.cash_rate.to_numpy(), dtype=np.float64)[first:]
    periods = result.periods_per_year
    years = len(net) / periods
    grown = annual_return(net, periods)
    worst = float(-drawdowns(net).min())
    figures = {
        "annual return": grown,
        "annual volatility": volatility(net, periods),
        "Sharpe ratio (annual)": sharpe(net, cash, periods),
        "Sortino ratio (annual)": sortino(net, cash, periods),
        "max drawdown": worst,
        "Calmar ratio": grown / worst if worst > 0.0 else float("nan"),
        "expected shortfall 95 %": expected_shortfall(net),
        "skewness": skewness(net),
        "share of periods above zero": float((net > 0.0).mean()),
        "turnover a year": float(result.turnover.sum()) / years,
        "costs a year": float(result.costs.sum()) / years,
        "names held (mean)": float((result.weights.abs() > 1e-9).sum(axis=1).mean()),
    }
    return pd.Series(figures, name=result.name)


def sharpe_difference(a: Result, b: Result, *, draws: int = 2000, block: int = 21, seed: int = 0) -> Array:
    """The 2.5, 50 and 97.5 % points of Sharpe(a) - Sharpe(b) under a circular block bootstrap of the shared dates.

    Blocks of `block` periods keep what short-lived dependence there is; NaN where fewer than four blocks are shared.

    Source: Ledoit and Wolf (2008), Robust performance hypothesis testing with the Sharpe ratio.
    """
    dates = a.net.index.intersection(b.net.index)[1:]
    length = len(dates)
    if length < 4 * block:
        return np.full(3, np.nan)
    excess = np.stack([(item.net - item.cash_rate).reindex(dates).to_numpy(dtype=float) for item in (a, b)])
    years = np.sqrt([[a.periods_per_year], [b.periods_per_year]])
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        starts = rng.integers(0, length, size=-(-length // block))
        picked = excess[:, ((starts[:, None] + np.arange(block)) % length).ravel()[:length]]
        spread = picked.std(axis=1, ddof=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = years * picked.mean(axis=1, keepdims=True) / spread
        found[draw] = float(ratio[0, 0] - ratio[1, 0])
    known = found[np.isfinite(found)]
    points: Array = np.percentile(known, [2.5, 50.0, 97.5]) if known.size else np.full(3, np.nan)
    return points
