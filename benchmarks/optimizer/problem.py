"""A problem in plain numbers, the evaluator that belongs to no side, and the same problem as formula and rules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_

import numpy as np

import portfolio_ebm as pe
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.energy import Energy

FEASIBLE = 1e-9
HELD = 1e-9
Array = np.ndarray


@dataclass(frozen=True)
class Limits:
    """Weights above `threshold` are at most `largest` each and `together` in sum."""

    threshold: float
    largest: float
    together: float


FUNDS = {"UCITS": Limits(0.05, 0.10, 0.40), "RIC 25/50": Limits(0.05, 0.25, 0.50)}


@dataclass(frozen=True)
class Problem:
    """min risk w'Sw + root (w'Sw)^(1/2) - reward mean'w + tail CVaR_95(-Rw) + rate |w - held| + ticket #traded + impact
    over w >= 0, sum w = 1, and rules.

    The impact is sum_i s_i |w_i - held_i|^(3/2) sqrt(capital / volume_i), s the volatilities; none without `volume`.

    Attributes:
        names: how many are held at most, or exactly; 0 where any number may be. floor: the least weight of one held.
        limits: those of a fund. turnover: at most this much is bought and sold against `held`.
        volume: money traded a period (n,). lots: the weight of one lot of each name (n,); sum w is then in
            [1 - cash, 1].
    """

    label: str
    mean: Array
    covariance: Array
    risk: float = 0.0
    reward: float = 0.0
    scenarios: Array | None = None
    tail: float = 0.0
    names: int = 0
    exactly: bool = False
    floor: float = 0.0
    limits: str = ""
    held: Array | None = None
    rate: float = 0.0
    ticket: float = 0.0
    turnover: float = np.inf
    volume: Array | None = None
    capital: float = 1.0
    lots: Array | None = None
    cash: float = 0.0
    root: float = 0.0

    @property
    def impact(self) -> Array:
        """What |trade|^(3/2) of each name costs, (n,)."""
        if self.volume is None:
            return np.zeros(self.n)
        return np.asarray(np.sqrt(np.diag(self.covariance) * self.capital / self.volume))

    @property
    def n(self) -> int:
        return len(self.mean)

    @property
    def choosing_trades(self) -> bool:
        """Whether what is chosen is what to trade, and not what to hold."""
        return self.ticket > 0.0 or self.lots is not None

    def parts(self, w: Array) -> tuple[float, ...]:
        """Each term's share of the energy at w (n,)."""
        variance = float(w @ self.covariance @ w)
        risk = self.risk * variance + self.root * variance**0.5
        reward = -self.reward * float(self.mean @ w)
        tail = self.tail * worst_mean(self.scenarios @ w) if self.scenarios is not None and self.tail else 0.0
        trades = np.zeros(self.n) if self.held is None else np.abs(w - self.held)
        impact = float(self.impact @ trades**1.5)
        return risk, reward, tail, self.rate * float(trades.sum()), self.ticket * int((trades > HELD).sum()), impact

    def energy(self, w: Array) -> float:
        return float(sum(self.parts(w)))

    def scale(self, w: Array) -> float:
        """The sum of the terms' sizes: what differences are relative to, since energies may cancel to nothing."""
        return float(sum(abs(part) for part in self.parts(w)))

    def violation(self, w: Array) -> float:
        """By how much w (n,) breaks the rule that it breaks by most; names too many or too few count as 1."""
        total = float(w.sum())
        broken = [total - 1.0, 1.0 - self.cash - total, float(-w.min())]
        if self.lots is not None:
            broken.append(float(np.abs(w - np.round(w / self.lots) * self.lots).max()))
        held = w > HELD
        if self.names:
            broken.append(float(held.sum() > self.names) or float(self.exactly and held.sum() < self.names))
        if self.floor:
            broken.append(float((self.floor - w[held]).max(initial=0.0)))
        if self.limits:
            fund = FUNDS[self.limits]
            broken += [float(w.max()) - fund.largest, float(w[w > fund.threshold + HELD].sum()) - fund.together]
        if self.held is not None:
            broken.append(float(np.abs(w - self.held).sum()) - self.turnover)
        return max(0.0, *broken)

    def gradient(self, w: Array) -> Array:
        """The slope of the terms that are convex at w (n,)."""
        bent = self.covariance @ w
        slope = (2.0 * self.risk + self.root / max(float(w @ bent), 1e-300) ** 0.5) * bent - self.reward * self.mean
        if self.scenarios is not None and self.tail:
            worst = np.argsort(self.scenarios @ w)[: max(1, round(0.05 * len(self.scenarios)))]
            slope = slope - self.tail * self.scenarios[worst].mean(axis=0)
        if self.held is None:
            return slope
        trade = w - self.held
        return slope + (self.rate + 1.5 * self.impact * np.sqrt(np.abs(trade))) * np.sign(trade)


def worst_mean(returns: Array) -> float:
    """The mean loss over the worst twentieth of returns (S,), the last scenario by its fraction."""
    losses = np.sort(-returns)[::-1]
    count = 0.05 * len(losses)
    whole = int(count + 1e-9)
    part = count - whole
    return float((losses[:whole].sum() + (part * losses[whole] if part > 1e-9 else 0.0)) / count)


def formula(problem: Problem, ticket: bool = True) -> Energy:
    terms = []
    if problem.risk:
        terms.append(problem.risk * pe.Variance())
    if problem.root:
        terms.append(problem.root * pe.Volatility())
    if problem.reward:
        terms.append(problem.reward * pe.Return())
    if problem.tail:
        terms.append(problem.tail * pe.CVaR(0.95))
    if problem.rate:
        terms.append(pe.TradingCost(problem.rate))
    if ticket and problem.ticket:
        terms.append(pe.FixedCost(rate=problem.ticket))
    if problem.volume is not None:
        terms.append(pe.MarketImpact())
    return sum(terms[1:], start=terms[0])


def rules(problem: Problem, choice: bool = True) -> Constraint:
    """The rules; without `choice` the convex ones alone."""
    whole = pe.Budget(at_least=1.0 - problem.cash) if problem.cash else pe.Budget()
    found: list[Constraint] = [whole, pe.LongOnly()]
    if problem.held is not None and np.isfinite(problem.turnover):
        found.append(pe.Turnover(problem.turnover))
    if problem.limits and not choice:
        found.append(pe.Box(upper=FUNDS[problem.limits].largest))
    if problem.limits and choice:
        found.append(pe.UCITS(issuers=None) if problem.limits == "UCITS" else pe.RIC2550(issuers=None))
    if problem.names and choice:
        number = {"exactly" if problem.exactly else "at_most": problem.names}
        found.append(pe.Cardinality(min_weight=problem.floor, **number))
    if problem.lots is not None and choice:
        found.append(pe.RoundLots())
    return reduce(and_, found)


def inputs(problem: Problem) -> dict[str, object]:
    given: dict[str, object] = {"assets": [f"a{k}" for k in range(problem.n)], "mean": problem.mean}
    given["covariance"] = problem.covariance
    if problem.scenarios is not None:
        given["scenarios"] = problem.scenarios
    if problem.held is not None:
        given["held"] = problem.held
    if problem.volume is not None:
        given |= {"volume": problem.volume, "capital": problem.capital}
    if problem.lots is not None:
        given |= {"prices": problem.lots * problem.capital, "capital": problem.capital}
    return given
