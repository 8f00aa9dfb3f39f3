"""What the densities do for a portfolio: monthly minimum CVaR with scenarios of our model beside plain baselines.

All walk forward through the public `backtest`: same stocks, same rules (long only, fully invested, 15 % a name), costs
of 5 basis points of traded value, decided at the first close of a month and traded at the next. Differences have
block-bootstrap intervals; a claim is made only where the interval leaves zero out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import portfolio_ebm as pe
from benchmarks.market.statistics import bootstrap
from portfolio_ebm.backtesting.metrics import expected_shortfall, sharpe
from portfolio_ebm.market.base import MarketModel

Array = NDArray[np.float64]
LEVEL, COST, CAP = 0.95, 0.0005, 0.15
OURS, HISTORICAL = "min CVaR, scenarios of FactorEBM", "min CVaR, historical scenarios"


def strategies(model: MarketModel | None) -> list[pe.Strategy]:
    """Ours first, where there is a model to show."""
    rules = pe.Budget() & pe.LongOnly() & pe.Box(upper=CAP)
    cvar, convex = pe.CVaR(level=LEVEL, centred=True), pe.Convex()
    history, shrunk = pe.SampleMoments(lookback=504), pe.LedoitWolf(lookback=504)
    found = [
        pe.Strategy(name=HISTORICAL, market=history, energy=cvar, constraint=rules, constructor=convex),
        pe.Strategy(
            name="min variance, Ledoit-Wolf", market=shrunk, energy=pe.Variance(), constraint=rules, constructor=convex
        ),
        pe.Strategy(name="1/N", constructor=pe.EqualWeight()),
    ]
    if model is not None:
        found.insert(0, pe.Strategy(name=OURS, market=model, energy=cvar, constraint=rules, constructor=convex))
    return found


def effect(model: MarketModel | None, panel: pe.Panel, start: str, end: str | None) -> pd.DataFrame:
    """One row a strategy: CVaR 95 % a day, Sharpe, volatility, turnover a year; ours less it with intervals."""
    found = [pe.backtest(s, panel, start=start, end=end, costs=COST) for s in strategies(model)]
    first = max(result.net.index[0] for result in found)
    net = {result.name: result.net.loc[first:].iloc[2:] for result in found}
    cash = found[0].cash_rate.reindex(net[found[0].name].index).to_numpy(dtype=float)
    reference = net[found[0].name].to_numpy(dtype=float)
    rows = []
    for result in found:
        values = net[result.name].to_numpy(dtype=float)
        years = len(values) / 252
        row: dict[str, object] = {
            "strategy": result.name,
            "days": len(values),
            "CVaR": expected_shortfall(values, LEVEL),
            "Sharpe": sharpe(values, cash, 252),
            "volatility": float(values.std(ddof=1) * 252**0.5),
            "turnover": float(result.turnover.loc[first:].sum()) / years,
            "failed": int((~result.decisions["ok"].astype(bool)).sum()),
        }
        for what, one in (("CVaR", _shortfall), ("Sharpe", _sharpe)):
            row[f"{what} gap"] = one(reference, cash) - one(values, cash)
            row[f"{what} low"], row[f"{what} high"] = _interval(one, reference, values, cash)
        rows.append(row)
    return pd.DataFrame(rows).set_index("strategy")


def _shortfall(net: Array, cash: Array) -> float:
    return expected_shortfall(net, LEVEL)


def _sharpe(net: Array, cash: Array) -> float:
    return sharpe(net, cash, 252)


def _interval(one: Callable[[Array, Array], float], a: Array, b: Array, cash: Array) -> tuple[float, float]:
    if a is b or np.array_equal(a, b):
        return 0.0, 0.0
    return bootstrap(lambda rows: one(a[rows], cash[rows]) - one(b[rows], cash[rows]), len(a))


def claims(table: pd.DataFrame) -> list[str]:
    """What the intervals allow to say of the first row, one sentence a comparison."""
    said = []
    for name in table.index[1:]:
        for what, better in (("CVaR", -1), ("Sharpe", 1)):
            low, high = float(table.loc[name, f"{what} low"]), float(table.loc[name, f"{what} high"])
            if low <= 0 <= high:
                said.append(f"{what} against {name}: the interval holds zero; nothing is claimed.")
            else:
                word = "better" if better * low > 0 else "worse"
                said.append(f"{what} against {name}: {word}; the interval leaves zero out.")
    return said
