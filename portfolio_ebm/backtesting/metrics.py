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


def summarize(result: Result) -> pd.Series[float]:
    """About ten figures of one backtest, net of costs. The first row, on which nothing was held yet, is left out."""
    net = result.net.to_numpy()[1:] if len(result.net) > 1 else result.net.to_numpy()
    cash = result.cash_rate.to_numpy()[-len(net) :]
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
        "skewness": float(pd.Series(net).skew()),
        "share of periods above zero": float((net > 0.0).mean()),
        "turnover a year": float(result.turnover.sum()) / years,
        "costs a year": float(result.costs.sum()) / years,
        "names held (mean)": float((result.weights.abs() > 1e-9).sum(axis=1).mean()),
    }
    return pd.Series(figures, name=result.name)


def sharpe_difference(a: Result, b: Result, *, draws: int = 2000, block: int = 21, seed: int = 0) -> Array:
    """The 2.5, 50 and 97.5 % points of Sharpe(a) - Sharpe(b) under a circular block bootstrap of the shared dates.

    Source: Ledoit and Wolf (2008), Robust performance hypothesis testing with the Sharpe ratio.
    """
    dates = a.net.index.intersection(b.net.index)[1:]
    length = len(dates)
    series = [
        (item.net.reindex(dates).to_numpy(), item.cash_rate.reindex(dates).to_numpy(), item.periods_per_year)
        for item in (a, b)
    ]
    rng = np.random.default_rng(seed)
    count = -(-length // block)
    starts = rng.integers(0, length, size=(draws, count))
    rows = ((starts[:, :, None] + np.arange(block)) % length).reshape(draws, -1)[:, :length]
    found = np.array([[sharpe(net[row], cash[row], periods) for net, cash, periods in series] for row in rows])
    points: Array = np.nanpercentile(found[:, 0] - found[:, 1], [2.5, 50.0, 97.5])
    return points
