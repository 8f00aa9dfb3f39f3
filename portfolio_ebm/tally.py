"""Tally: what has been saved and what it has cost so far, beside the optimum of the same dates.

Two portfolios run on paper, without costs or delay: what was decided, w, and what would have been optimal, w*. Both are
set anew on every decision date, drift in between, and earn gross returns r and r* a period:

    rise  = sqrt(sum r^2 / sum r*^2) - 1             of the realised volatility
    saved = 1 - sum |w - held| / sum |w* - held*|    of the turnover after the first purchase

A decision reads the tally of the time before it and hands on its own. The past and the decisions so far make it, and
nothing else: whoever hands it on decides live what a backtest decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
SUMS = ("squares", "optimum_squares", "traded", "optimum_traded")


@dataclass(frozen=True, eq=False)
class Tally:
    """Two portfolios on paper since the first decision, as they stand at the close of `date`.

    Attributes:
        date: YYYY-MM-DD, "" where decisions have no dates.
        assets: names of the n assets.
        weights, optimum: (n,) what is held on paper; the rest is cash.
        decisions: how many were made.
        squares, optimum_squares: sums of squared gross returns a period.
        traded, optimum_traded: sums of |trades|, the first purchase left out.

    Example:
        >>> tally = allocation.tally.earned(returns)  # of the periods up to the next decision, (periods, n)
        >>> optimize(energy, rules, covariance=now, held=held, tally=tally, constructor=LeastTrade(0.01))
    """

    date: str
    assets: tuple[str, ...]
    weights: Array
    optimum: Array
    decisions: int = 1
    squares: float = 0.0
    optimum_squares: float = 0.0
    traded: float = 0.0
    optimum_traded: float = 0.0

    @property
    def rise(self) -> float:
        """By how much realised volatility is above the optimum's, as a fraction; 0 where nothing has moved."""
        return 0.0 if self.optimum_squares == 0.0 else float(np.sqrt(self.squares / self.optimum_squares)) - 1.0

    @property
    def saved(self) -> float:
        """Which part of the optimum's turnover was saved; 0 where it had none."""
        return 0.0 if self.optimum_traded == 0.0 else 1.0 - self.traded / self.optimum_traded

    def earned(self, returns: Any, cash: Any = 0.0) -> Tally:
        """After the periods with simple `returns` (T, n), in the order of the assets, and those of cash, (T,) or one.

        A return that is not a number moves nothing.

        Raises:
            DataError: another number of assets, or a portfolio that has lost all its value.
        """
        moves = np.atleast_2d(np.asarray(returns, dtype=np.float64))
        if moves.shape[-1] != len(self.assets):
            raise DataError(f"The tally is of {len(self.assets)} assets, and the returns are of {moves.shape[-1]}.")
        rates = np.broadcast_to(np.asarray(cash, dtype=np.float64), len(moves))
        w, own = _drifted(self.weights, moves, rates)
        best, other = _drifted(self.optimum, moves, rates)
        return replace(
            self, weights=w, optimum=best, squares=self.squares + own, optimum_squares=self.optimum_squares + other
        )

    def upto(self, past: Past) -> Tally:
        """At the close of `past`, after the periods since `date`; names that its panel has not stay as they are.

        Raises:
            DataError: the tally is of a later date.
        """
        if self.date > past.date:
            raise DataError(f"The tally is of {self.date}, after {past.date}; give that of an earlier decision.")
        known = set(past.assets)
        held = (self.weights != 0.0) | (self.optimum != 0.0)
        others = (name for name, here in zip(self.assets, held.tolist(), strict=True) if here and name not in known)
        found = self._on((*past.assets, *others), past.date)
        since = past.dates > np.datetime64(self.date)
        if not since.any():
            return found
        moves = np.full((int(since.sum()), len(found.assets)), np.nan)
        moves[:, : len(past.assets)] = past.returns[since]
        return found.earned(moves, 0.0 if past.cash_rate is None else past.cash_rate[since])

    def decided(self, weights: Array, optimum: Array, assets: tuple[str, ...], date: str) -> Tally:
        """After the decision for `weights` (n,) of `assets` where `optimum` (n,) would have been best."""
        names = tuple(dict.fromkeys((*assets, *self.assets)))
        one, new = self._on(names, date), Tally(date, assets, weights, optimum)
        full = new._on(names, date)
        return replace(
            self, date=date, assets=assets, weights=weights, optimum=optimum, decisions=self.decisions + 1,
            traded=self.traded + float(np.abs(full.weights - one.weights).sum()),
            optimum_traded=self.optimum_traded + float(np.abs(full.optimum - one.optimum).sum()),
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """What JSON takes, weights by name; `Tally.of` reads it back, bit for bit."""
        books = {key: dict(zip(self.assets, vars(self)[key].tolist(), strict=True)) for key in ("weights", "optimum")}
        return {"date": self.date, "decisions": self.decisions, **{key: vars(self)[key] for key in SUMS}, **books}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Tally:
        """What `plain` gave.

        Raises:
            DataError: it is something else.
        """
        try:
            w, best = ({str(name): float(x) for name, x in plain[key].items()} for key in ("weights", "optimum"))
            sums = {key: float(plain[key]) for key in SUMS}
            found = cls(str(plain["date"]), tuple(w), _array(w), _array(best), int(plain["decisions"]), **sums)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"This is no tally ({type(error).__name__}: {error}).") from error
        if tuple(best) != found.assets or not np.isfinite([*found.weights, *found.optimum, *sums.values()]).all():
            raise DataError("This is no tally: its two portfolios are of different assets, or a number is not finite.")
        return found

    def _on(self, names: tuple[str, ...], date: str) -> Tally:
        """The same portfolios at `date`, in the order of `names`; what these leave out is zero."""

        def placed(book: Array) -> Array:
            known = dict(zip(self.assets, book.tolist(), strict=True))
            return np.array([known.get(name, 0.0) for name in names], dtype=np.float64)

        return replace(self, date=date, assets=names, weights=placed(self.weights), optimum=placed(self.optimum))


def _array(book: Mapping[str, float]) -> Array:
    return np.array(list(book.values()), dtype=np.float64)


def _drifted(w: Array, moves: Array, rates: Array) -> tuple[Array, float]:
    """Weights (n,) after the periods, and the sum of the squared gross returns."""
    parts = w * np.cumprod(1.0 + np.where(np.isnan(moves), 0.0, moves), axis=0)
    value = parts.sum(axis=1) + (1.0 - w.sum()) * np.cumprod(1.0 + rates)
    if not (value > 0.0).all():
        raise DataError("A portfolio of the tally has lost all its value; check the returns and the leverage.")
    gross = value / np.concatenate([[1.0], value[:-1]]) - 1.0
    return parts[-1] / value[-1], float(gross @ gross)
