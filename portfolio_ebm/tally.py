"""Tally: what has been saved and what it has cost so far, beside the optimum of the same dates.

Two portfolios run on paper, without costs or delay: what was decided, w, and the optimum of the date for what was held
then, w*. Both are set anew on every decision date, drift in between, and earn gross returns r and r* a period:

    rise  = sqrt(sum r^2 / sum r*^2) - 1             of the realised volatility
    saved = 1 - sum |w - held| / sum |w* - held*|    of the turnover after the first purchase, names with a price

A decision reads the tally of the time before it and hands on its own. The past and the decisions so far make it, and
nothing else: whoever hands it on decides live what a backtest decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.dates import day, stamp
from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError
from portfolio_ebm.types import numbers

Array = NDArray[np.float64]
BOOKS = ("weights", "optimum")
SUMS = ("squares", "optimum_squares", "traded", "optimum_traded")


@dataclass(frozen=True, eq=False)
class Tally:
    """Two portfolios on paper since the first decision, as they stand at the close of `date`.

    Attributes:
        date: YYYY-MM-DD, with the time of day where a panel has several rows a day; "" where decisions have no dates.
        assets: names of the n assets.
        weights, optimum: (n,) what is held on paper; the rest is cash.
        decisions: how many were made.
        squares, optimum_squares: sums of squared gross returns a period.
        traded, optimum_traded: sums of |trades|, the first purchase left out.

    Raises:
        DataError: the parts disagree, a number is not finite, a count or a sum is negative, or the date is none.

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

    def __post_init__(self) -> None:
        for key in BOOKS:
            object.__setattr__(self, key, numbers(vars(self)[key], key))
        sums = numbers([vars(self)[key] for key in SUMS], ", ".join(SUMS))
        if {self.weights.shape, self.optimum.shape} != {(len(self.assets),)}:
            raise DataError(f"This is no tally: its two portfolios are not both of its {len(self.assets)} assets.")
        if not np.isfinite([*self.weights, *self.optimum, *sums]).all():
            raise DataError("This is no tally: a number in it is not finite.")
        if not isinstance(self.decisions, int) or self.decisions < 0 or sums.min() < 0.0:
            raise DataError("This is no tally: decisions are counted in whole numbers, and no sum of it is negative.")
        if self.date != "" and day(stamp(self.date, "This is no tally")) != self.date:
            raise DataError(f"This is no tally: its date is {self.date!r}; write it as YYYY-MM-DD.")

    @property
    def rise(self) -> float:
        """By how much realised volatility is above the optimum's, as a fraction; 0 while that is zero."""
        return 0.0 if self.optimum_squares == 0.0 else float(np.sqrt(self.squares / self.optimum_squares)) - 1.0

    @property
    def saved(self) -> float:
        """Which part of the optimum's turnover was saved; 0 where it had none."""
        return 0.0 if self.optimum_traded == 0.0 else 1.0 - self.traded / self.optimum_traded

    def earned(self, returns: Any, cash: Any = 0.0) -> Tally:
        """After the periods with simple `returns` (T, n), in the order of the assets, and those of cash, (T,) or one.

        A return that is not a number moves nothing.

        Raises:
            DataError: returns of other assets or in another order, an infinite one, cash of other periods, or a
                portfolio that has lost all its value.
        """
        moves, rates = self._periods(returns, cash)
        if not len(moves):
            return self
        w, own = _drifted(self.weights, moves, rates)
        best, other = _drifted(self.optimum, moves, rates)
        return replace(
            self, weights=w, optimum=best, squares=self.squares + own, optimum_squares=self.optimum_squares + other
        )

    def upto(self, past: Past) -> Tally:
        """At the close of `past`, after the periods since `date`; names that its panel has not stay as they are, and
        so do those that have left it, once their last return is booked.

        Raises:
            DataError: the tally is of a later date, or has none.
        """
        now = day(past.dates[-1])
        if self.date == "":
            raise DataError(
                f"The tally has no date, so that it cannot be brought to {now}; give it that of its last period: "
                "dataclasses.replace(tally, date='YYYY-MM-DD')."
            )
        if stamp(self.date) > past.dates[-1]:
            raise DataError(f"The tally is of {self.date}, after {now}; give that of an earlier decision.")
        known = set(past.assets)
        held = (self.weights != 0.0) | (self.optimum != 0.0)
        others = (name for name, here in zip(self.assets, held.tolist(), strict=True) if here and name not in known)
        found = self._on((*past.assets, *others), now)
        since = past.dates > stamp(self.date)
        moves = np.full((int(since.sum()), len(found.assets)), np.nan)
        moves[:, : len(past.assets)] = past.returns[since]
        return found.earned(moves, 0.0 if past.cash_rate is None else past.cash_rate[since])

    def decided(
        self,
        weights: Array,
        optimum: Array,
        assets: tuple[str, ...],
        date: str,
        priced: NDArray[np.bool_] | None = None,
    ) -> Tally:
        """After the decision for `weights` (n,) of `assets` where `optimum` (n,) would have been best.

        What becomes of names that are not among `assets`, or not `priced` (n,), is no trade.
        """
        trades = np.ones(len(assets), dtype=bool) if priced is None else priced
        before = self._on(assets, date)
        return replace(
            before, weights=weights, optimum=optimum, decisions=self.decisions + 1,
            traded=self.traded + float(np.abs(weights - before.weights)[trades].sum()),
            optimum_traded=self.optimum_traded + float(np.abs(optimum - before.optimum)[trades].sum()),
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """What JSON takes, weights by name; `Tally.of` reads it back, bit for bit."""
        books = {key: dict(zip(self.assets, vars(self)[key].tolist(), strict=True)) for key in BOOKS}
        return {"date": self.date, "decisions": self.decisions, **{key: vars(self)[key] for key in SUMS}, **books}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Tally:
        """What `plain` gave.

        Raises:
            DataError: it is something else.
        """
        try:
            w, best = ({str(name): float(x) for name, x in plain[key].items()} for key in BOOKS)
            sums = {key: float(plain[key]) for key in SUMS}
            date, decisions = plain["date"], plain["decisions"]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError(f"This is no tally ({type(error).__name__}: {error}).") from error
        if tuple(best) != tuple(w):
            raise DataError("This is no tally: its two portfolios are of different assets.")
        return cls(date, tuple(w), _array(w), _array(best), decisions, **sums)

    def _periods(self, returns: Any, cash: Any) -> tuple[Array, Array]:
        """Returns (T, n) and those of cash (T,), checked."""
        moves, rates = np.atleast_2d(numbers(returns, "returns")), numbers(cash, "cash")
        if moves.ndim != 2 or moves.shape[1] != len(self.assets):
            raise DataError(f"returns: got shape {moves.shape}, and the tally is of {len(self.assets)} assets.")
        if hasattr(returns, "keys") and tuple(map(str, returns.keys())) != self.assets:
            raise DataError(
                "The returns are of other assets than the tally, or in another order; "
                "give returns.reindex(columns=tally.assets)."
            )
        if rates.shape not in ((), (1,), (len(moves),)):
            raise DataError(f"The returns are of {len(moves)} periods, and those of cash of {rates.size}.")
        if np.isinf(moves).any() or not np.isfinite(rates).all():
            raise DataError("A return is infinite, or one of cash is not a number; mend the data.")
        return moves, np.broadcast_to(rates, len(moves))

    def _on(self, names: tuple[str, ...], date: str) -> Tally:
        """The same portfolios at `date`, in the order of `names`; what these leave out is zero."""

        def placed(book: Array) -> Array:
            known = dict(zip(self.assets, book.tolist(), strict=True))
            return np.array([known.get(name, 0.0) for name in names], dtype=np.float64)

        return replace(self, date=date, assets=names, weights=placed(self.weights), optimum=placed(self.optimum))


def require_tally(given: Any, assets: Sequence[str], date: str = "") -> Tally:
    """What a caller hands on for a decision on `assets` at `date`.

    Raises:
        DataError: it is no Tally, holds nothing of these assets, or was made at this very date.
    """
    if not isinstance(given, Tally):
        raise DataError(f"tally= takes the Allocation.tally of the last decision, not {type(given).__name__}.")
    held = {name for name, *book in zip(given.assets, given.weights, given.optimum, strict=True) if any(book)}
    if held and held.isdisjoint(assets):
        raise DataError(f"The tally holds {', '.join(sorted(held)[:5])} and nothing of what is decided on now.")
    if date and given.date == date:
        raise DataError(f"The tally is of this very date, {date}; give that of an earlier decision.")
    return given


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
