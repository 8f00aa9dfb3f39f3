"""What a backtest shows and what it does not, in figures and sentences: the one source of table, page and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from portfolio_ebm.backtesting.metrics import sharpe_difference
from portfolio_ebm.backtesting.result import Result
from portfolio_ebm.data.panel import Panel

PERCENT = frozenset({
    "annual return", "annual volatility", "max drawdown", "expected shortfall 95 %", "share of periods above zero",
    "costs a year",
})  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Sharpe(strategy) - Sharpe(other) with its 95 % bootstrap interval; NaN where the record is too short."""

    other: str
    low: float
    middle: float
    high: float

    @property
    def sentence(self) -> str:
        if not np.isfinite(self.low):
            return f"The record is too short for an interval of the Sharpe difference to {self.other}."
        interval = f"{self.middle:+.2f} (95% interval {self.low:+.2f} to {self.high:+.2f})"
        if self.low > 0.0:
            tail = "above zero over this one period, before any allowance for the number of strategies tried"
        elif self.high < 0.0:
            tail = f"below zero: over this period it did worse than {self.other}"
        else:
            tail = f"the interval holds zero, so this record does not tell it from {self.other}"
        return f"Sharpe difference to {self.other}: {interval}; {tail}."


def shared(results: Sequence[Result]) -> list[Result]:
    """The results over the dates they share, so that their figures can be compared."""
    first = max(item.net.index[0] for item in results)
    return [item if item.net.index[0] == first else item.since(first) for item in results]


def table(results: Sequence[Result]) -> pd.DataFrame:
    """Figures down, strategies across, as text; over shared dates, net of costs."""
    raw = pd.DataFrame({item.name: item.summary() for item in shared(results)})
    return pd.DataFrame(
        {name: [shown(str(row), value) for row, value in raw[name].items()] for name in raw}, index=raw.index
    )


def shown(figure: str, number: float) -> str:
    """A figure as text: per cent where it is a share of money, two digits otherwise, a dash where there is none."""
    if not np.isfinite(number):
        return "–"
    if figure == "costs a year":
        return f"{number:.2%}"
    if figure in PERCENT:
        return f"{number:.1%}"
    return f"{number:.1f}" if figure == "names held (mean)" else f"{number:.2f}"


def compare(result: Result, others: Sequence[Result]) -> list[Comparison]:
    """The Sharpe difference to each of `others` over shared dates, bootstrapped with the run's own seed."""
    found = []
    for other in others:
        low, middle, high = sharpe_difference(result, other, seed=int(result.arguments.get("seed", 0)))
        found.append(Comparison(other.name, float(low), float(middle), float(high)))
    return found


def assumptions(result: Result, panel: Panel) -> list[str]:
    """What the figures rest on: costs, delay, cash, what left, who survived."""
    given = result.arguments
    rate, delay = float(given["costs"]), int(given["delay"])
    late = f"the close {delay} period{'s' * (delay > 1)} after the decision"
    when = late if delay else "the decision's own close"
    cash = "the panel's cash rate" if panel.cash_rate.any() else "nothing, as no cash rate was given"
    return [
        f"Trades are made at {when}, at the closing price, in fractions of a share and of any size: nothing is "
        "charged for moving the market.",
        f"Costs are {rate * 1e4:g} basis points of traded value, paid from the portfolio."
        if rate
        else "Trading is free of costs in this run; real trading is not.",
        f"Cash earns {cash}.",
        "A decision sees the closing prices of its own date and nothing later; a name without a price is not traded.",
        f"{len(result.events)} name(s) left while held, and were turned into cash at their last price or final return."
        if len(result.events)
        else "No name left the panel while it was held.",
        f"Sharpe and Sortino ratios are of returns above cash, annualised with {result.periods_per_year:g} periods a "
        "year; the expected shortfall is of one period.",
        "Taxes, dividends that the prices leave out, borrowing and price limits are not in these figures.",
    ]


def short(result: Result) -> str | None:
    """A warning where the record is shorter than a year, over which annual figures say little."""
    if len(result.net) >= result.periods_per_year:
        return None
    return f"The record is {len(result.net)} periods, less than a year: its annualised figures say little."


def failures(result: Result) -> pd.DataFrame:
    """The decisions on which no portfolio was found; holdings stayed as they were."""
    return result.decisions[~result.decisions["ok"].astype(bool)]
