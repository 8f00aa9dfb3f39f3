"""The ledger: drift, trades, costs and cash, as exact identities.

One period, from the close of t-1 with weights w and cash c = 1 - sum(w), to the close of t with asset returns r and
the cash return f:

    gross = w'r + c f                     what the portfolio earned before trading
    w~    = w (1 + r) / (1 + gross)       weights after drift, before any trade

and, if it trades to the target v, with the cost rate k and the traded value as a fraction of the pre-trade value,

    u     = v (1 - q) - w~,   q = k sum |u|      costs are paid from the portfolio: v is of the value that is left
    costs = (1 + gross) q,    net = gross - costs = (1 + gross)(1 - q) - 1.

Weights and cash add up to one after every close; turnover = sum |v - w~|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Book:
    """What is held after a close, as fractions of the portfolio's value: weights (n,); the rest is cash."""

    weights: Array

    @property
    def cash(self) -> float:
        return 1.0 - float(self.weights.sum())


@dataclass(frozen=True)
class Trade:
    """One execution.

    Attributes:
        book: what is held afterwards.
        traded: (n,) value bought (positive) and sold, as fractions of the value before the trade.
        fraction: q, the costs as a fraction of the value before the trade.
        turnover: sum |v - w~|.
    """

    book: Book
    traded: Array
    fraction: float
    turnover: float


def drift(book: Book, returns: Array, cash_return: float, when: str = "") -> tuple[Book, float]:
    """The book after a period with `returns` (n,), and the gross return; a missing return moves nothing.

    Raises:
        DataError: the portfolio has lost all its value.

    Example:
        >>> drift(Book(np.array([0.5, 0.5])), np.array([0.10, -0.10]), 0.0)[1]
        0.0
    """
    earned = np.where(np.isnan(returns), 0.0, returns)
    gross = float(book.weights @ earned) + book.cash * cash_return
    if gross <= -1.0:
        raise DataError(f"{when}: the portfolio returned {gross:.1%} and has no value left; check prices and leverage.")
    return Book(book.weights * (1.0 + earned) / (1.0 + gross)), gross


def trade(book: Book, target: Array, rate: float) -> Trade:
    """Trade from `book` to the weights `target` (n,) of the value left after costs.

    q = rate * sum |target (1 - q) - w~| has one solution for rate * sum |target| < 1, and the iteration contracts.

    Example:
        >>> trade(Book(np.array([0.0])), np.array([1.0]), 0.001).fraction  # k / (1 + k)
        0.000999000999000999
    """
    q = 0.0
    for _ in range(100):
        step = rate * float(np.abs(target * (1.0 - q) - book.weights).sum())
        if abs(step - q) <= 1e-17:
            break
        q = step
    traded = target * (1.0 - q) - book.weights
    return Trade(Book(target.copy()), traded, q, float(np.abs(target - book.weights).sum()))


def leave(book: Book, gone: NDArray[np.bool_]) -> Book:
    """The book with the names in `gone` turned into cash at their last value: they left and cannot be sold."""
    return Book(np.where(gone, 0.0, book.weights))
