"""From target weights to whole shares: what to buy and sell, and the cash that is left.

With value V = cash + sum(shares * price) and target weights w, a name's target is w V / price shares. Trades are in
whole lots: every target is first rounded down, which never needs more cash than the weights leave, and the cash that
rounding sets free then buys one more lot each where that is nearer to the target, dearest shortfall first.
A target of zero sells everything, fractions of a share included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.backtesting.ledger import Book, trade
from portfolio_ebm.errors import DataError, SpecError


@dataclass(frozen=True)
class Holdings:
    """What is held: shares by ticker, prices to value them at, and cash.

    Attributes:
        shares: by ticker, may be fractional or negative.
        prices: by ticker, for every ticker that is held or may be bought; NaN where unknown.
        cash: money, may be negative.
    """

    shares: pd.Series[float]
    prices: pd.Series[float]
    cash: float = 0.0

    @property
    def value(self) -> float:
        """cash + sum(shares * price)."""
        held = self.shares[self.shares != 0.0]
        return self.cash + float((held * self.prices.reindex(held.index)).sum())

    def weights(self) -> pd.Series[float]:
        """Each name's share of the value; cash is the rest.

        Raises:
            DataError: a held name has no price, or the value is not above zero.
        """
        held = self.shares[self.shares != 0.0]
        bare = [str(name) for name in held.index if not np.isfinite(self.prices.get(name, np.nan))]
        if bare:
            raise DataError(f"Holdings: no price for {', '.join(bare)}; add a price column, or prices for them.")
        if not self.value > 0.0:
            raise DataError(f"Holdings and cash are worth {self.value:,.2f}; give --holdings or --cash above zero.")
        found: pd.Series[float] = (self.shares * self.prices.reindex(self.shares.index)).fillna(0.0) / self.value
        return found


@dataclass(frozen=True)
class Orders:
    """Trades in shares, with what they lead to.

    Attributes:
        table: by ticker: price, held, target_weight, target, trade (all shares but the weight), value, weight_after.
        value: before the trades.
        cash_before, cash_after: money.
        costs: money, at the rate that was given.
    """

    table: pd.DataFrame
    value: float
    cash_before: float
    cash_after: float
    costs: float

    @property
    def trades(self) -> pd.DataFrame:
        """The rows that trade, sells first, as their money pays for the buys."""
        rows = self.table[self.table["trade"] != 0.0]
        return rows.loc[[*rows.index[rows["trade"] < 0.0], *rows.index[rows["trade"] > 0.0]]]

    @property
    def off_target(self) -> float:
        """sum |weight after - target weight|: what whole shares cost in precision."""
        return float((self.table["weight_after"] - self.table["target_weight"]).abs().sum())


def size_orders(
    target: pd.Series[float] | Mapping[str, float], holdings: Holdings, *,
    cost_rate: float = 0.0, lot: float = 1.0, frozen: frozenset[str] = frozenset(),
) -> Orders:  # fmt: skip
    """Whole-lot orders that bring `holdings` to the weights `target`.

    Args:
        target: weights of the value; names left out are sold.
        holdings: what is held, prices and cash.
        cost_rate: costs as a fraction of traded value, paid from cash.
        lot: shares in a lot; 0 for fractional trading.
        frozen: names that cannot be traded and stay as they are held.

    Raises:
        DataError: a name to trade has no price above zero, or the value is not above zero.
        SpecError: a negative lot or cost rate.

    Example:
        >>> held = Holdings(pd.Series({"A": 10.0}), pd.Series({"A": 10.0, "B": 30.0}), cash=50.0)
        >>> size_orders({"A": 0.5, "B": 0.5}, held).table["trade"].to_dict()
        {'A': -2.0, 'B': 2.0}
    """
    if lot < 0.0 or cost_rate < 0.0:
        raise SpecError(f"lot={lot}, cost_rate={cost_rate}: neither can be negative.")
    holdings.weights()  # raises where there is nothing to trade with
    wanted = pd.Series({str(name): float(value) for name, value in target.items()}, dtype=float)
    names = sorted({*wanted.index[wanted != 0.0], *(str(name) for name in holdings.shares.index)})
    weights = wanted.reindex(names).fillna(0.0)
    held = holdings.shares.reindex(names).fillna(0.0).astype(float)
    prices = holdings.prices.reindex(names).astype(float)
    moving = np.array([name not in frozen for name in names]) & ((weights != 0.0) | (held != 0.0)).to_numpy()
    known = (prices > 0.0) & (prices < np.inf)
    bare = [name for name, moves, there in zip(names, moving, known, strict=True) if moves and not there]
    if bare:
        raise DataError(f"No price for {', '.join(bare)} at that date, so it cannot be traded; give one, or drop it.")
    value = holdings.value
    # The backtest's own ledger: costs are paid from the portfolio, names that cannot be traded keep their place.
    worth = np.asarray(prices.fillna(0.0), dtype=np.float64)
    before = Book(np.asarray(held, dtype=np.float64) * worth / value)
    money = (before.weights + trade(before, np.asarray(weights, dtype=np.float64), cost_rate, ~moving).traded) * value
    ideal = np.where(moving, money / np.where(worth > 0.0, worth, 1.0), held)
    bought = _whole(ideal, np.asarray(held, dtype=np.float64), worth, holdings.cash, cost_rate, lot)
    costs = float(np.abs(bought) @ worth) * cost_rate
    after = holdings.cash - float(bought @ worth) - costs
    table = pd.DataFrame(
        {
            "price": prices, "held": held, "target_weight": weights, "target": held + bought, "trade": bought,
            "value": bought * worth, "weight_after": (held + bought) * worth / (value - costs),
        },
        index=pd.Index(names, name="ticker"),
    )  # fmt: skip
    return Orders(table, value, holdings.cash, after, costs)


Shares = NDArray[np.float64]


def _whole(ideal: Shares, held: Shares, worth: Shares, cash: float, rate: float, lot: float) -> Shares:
    """Trades in whole lots, towards `ideal` from below, with the spare cash spread over what is furthest below it."""
    gap = ideal - held
    if lot == 0.0:
        return gap
    # A hair is added so that 3 shares that come out as 2.9999999996 are 3.
    done = np.where(ideal == 0.0, -held, np.floor(gap / lot + 1e-9) * lot)
    spare = cash - float(done @ worth) - float(np.abs(done) @ worth) * rate
    reserve = cash - float(gap @ worth) - float(np.abs(gap) @ worth) * rate  # what the target itself leaves in cash
    for i in np.argsort(-(gap - done) * worth, kind="stable"):
        short = (gap[i] - done[i]) / lot
        price = lot * worth[i] * (1.0 + rate if done[i] >= 0.0 else 1.0 - rate)
        if 0.5 <= short < 1.0 and spare - price >= reserve - 1e-9:
            done[i] += lot
            spare -= price
    return done
