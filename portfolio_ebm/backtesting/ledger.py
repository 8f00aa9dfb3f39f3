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


def trade(book: Book, target: Array, rate: float, fixed: NDArray[np.bool_] | None = None) -> Trade:
    """Trade from `book` to the weights `target` (n,) of the value left after costs.

    q = rate * sum |target (1 - q) - w~| has one solution for rate * sum |target| < 1, and the iteration contracts.
    Names in `fixed` (n,) have no price and keep their value to the last cent; when they take more than the target gave
    them, the names bought make room in proportion, so that nothing is bought on credit.

    Example:
        >>> trade(Book(np.array([0.0])), np.array([1.0]), 0.001).fraction  # k / (1 + k)
        0.000999000999000999
    """
    still = np.zeros(len(target), dtype=bool) if fixed is None else fixed
    kept = float(book.weights[still].sum())
    wanted, total = float(target[~still].sum()), float(target.sum())
    q, value = 0.0, book.weights
    for _ in range(200):
        room = total * (1.0 - q) - kept
        scale = room / (wanted * (1.0 - q)) if wanted * (1.0 - q) > room >= 0.0 and still.any() else 1.0
        value = np.where(still, book.weights, target * scale * (1.0 - q))
        step = rate * float(np.abs(value - book.weights).sum())
        if abs(step - q) <= 1e-17:
            break
        q = step
    weights = np.where(still, book.weights / (1.0 - q), target * scale)
    return Trade(Book(weights), value - book.weights, q, float(np.abs(weights - book.weights)[~still].sum()))


def leave(book: Book, gone: NDArray[np.bool_]) -> Book:
    """The book with the names in `gone` turned into cash at their last value: they left and cannot be sold."""
    return Book(np.where(gone, 0.0, book.weights))
