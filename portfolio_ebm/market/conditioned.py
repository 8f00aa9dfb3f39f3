"""ConditionedMarket and Conditioned: a market with views and stress added as energies.

    p(r | past, C) = p(r | past) exp(-E_C(r)) / M,      M = E exp(-E_C):

M is the probability of an inequality and the density of a value. What the condition speaks of is the return over the
holding period: of the next day in `sample`, `log_prob`, `pit` and `var_es`, of the whole period in `outlook(horizon)`
and `scenarios(horizon)`.

One condition on a factor or asset is exact at one day: it is drawn from its own law cut to the interval, the others
given it. Several, and longer periods, have weights (`walks`); every result says what the draws are worth, and a
condition that is out of reach is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import SolverError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Market, MarketModel, Outlook, Rng, streams
from portfolio_ebm.market.condition import Condition, Target, targets
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.steps_ebm import steps_of
from portfolio_ebm.market.walks import Weighted, walk
from portfolio_ebm.types import Status, generator, require_last

FEWEST = 30
"""Effective draws below which a conditional law is not worth its name."""

PATHS, MOST_PATHS = 4000, 16000


@dataclass(frozen=True)
class Evidence:
    """What a condition costs over one holding period.

    Attributes:
        horizon: periods.
        mass: the probability of the condition; where it gives values, their density; with views, E exp(-E).
        what: "probability", "density" or "mass", which of the three.
        effective: independent equally weighted draws that the draws are worth.
        draws: how many were made.
        exact: whether all weights are equal, so that every draw is worth one.
    """

    horizon: int
    mass: float
    what: str
    effective: float
    draws: int
    exact: bool

    def __str__(self) -> str:
        over = "the next period" if self.horizon == 1 else f"{self.horizon} periods"
        size = f"effective sample size {self.effective:.0f} of {self.draws} draws"
        return f"over {over}: {self.what} {self.mass:.3g}, {size}"


@dataclass(frozen=True)
class ConditionedMarket(Market):
    """A market at one date given a condition.

    Attributes:
        base: the market as it was fitted.
        condition: all that is given.

    Example:
        >>> stressed = market.clamp(Mkt=-0.05)
        >>> stressed.outlook(21, rng).mean          # given that Mkt loses 5 % over the 21 days
        >>> print(stressed.status)                  # what the condition costs, and how many draws it leaves
    """

    base: Market
    condition: Condition

    def __post_init__(self) -> None:
        if self.base.batch:
            raise SpecError(
                f"'{self.condition.text}': a condition is added to the market of one date, and this one has "
                f"{self.base.batch[0]}; take one of them, or add it to the model: model + Condition(...)."
            )
        # An unknown name is found now, not at the first draw.
        targets(self.condition.clauses, self.base.series, "the market")

    @property
    def assets(self) -> tuple[str, ...]:
        return self.base.assets

    @property
    def factors(self) -> tuple[str, ...]:
        return self.base.factors

    @property
    def refitted(self) -> tuple[str, ...]:
        return self.base.refitted

    @property
    def has_density(self) -> bool:
        return self.base.has_density

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """What is asked of each series."""
        return targets(self.condition.clauses, self.base.series, "the market")

    @cached_property
    def status(self) -> Status:
        """The base's status, and what the condition costs over the next period."""
        found = self.evidence(1)
        enough = found.effective >= FEWEST
        said = f"given {self.condition.text}, {found}" + ("" if enough else f", fewer than {FEWEST}")
        return Status(self.base.status.ok and enough, f"{said}; {self.base.status}")

    def evidence(self, horizon: int = 1, rng: torch.Generator | None = None) -> Evidence:
        """The mass of the condition over `horizon` periods and what draws under it are worth; never refuses."""
        rng = generator(0, "market/condition") if rng is None else rng
        return self._evidence(self._walk(horizon, PATHS, rng, path=horizon > 1), horizon)

    def weighted(self, horizon: int, n: int, rng: torch.Generator) -> Weighted:
        """At least n weighted paths of the holding period, as `outlook` uses them.

        Raises:
            SolverError: their effective sample size is below 30.
        """
        return self._enough(horizon, n, rng, path=True)

    def log_prob(self, r: Tensor) -> Tensor:
        """log p(r | past, C) of rows r (..., S) of the next day, nats; where C gives values, the density of the others.

        Raises:
            SpecError: a row lacks a series that C speaks of, or the base has no density.
        """
        require_last(r, len(self.series), "ConditionedMarket")
        at = [target.column for target in self.targets]
        if bool(torch.isnan(r[..., at]).any()):
            names = ", ".join(target.name for target in self.targets)
            raise SpecError(f"'{self.condition.text}': the density needs the returns of {names}; one is missing.")
        return self.base.log_prob(r) - self.condition.energy(r, self.series) - math.log(self._mass)

    @cached_property
    def _mass(self) -> float:
        found = self._walk(1, PATHS, generator(0, "market/condition"), path=False)
        self._check(found, 1)
        return math.exp(found.log_mass)

    def sample(self, n: int, rng: Rng) -> Tensor:
        """n equally likely draws of the next day's row, (n, S).

        Raises:
            SolverError: the draws are worth fewer than 30.
        """
        (stream,) = streams(rng, ())
        return self._enough(1, n, stream, path=False).choose(n, stream)

    def scenarios(self, horizon: int, n: int, rng: Rng) -> Tensor:
        (stream,) = streams(rng, ())
        return self.weighted(horizon, n, stream).choose(n, stream)[:, len(self.factors) :]

    def paths(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Simple returns of the assets of every period on n equally likely paths, (n, horizon, n_assets)."""
        (stream,) = streams(rng, ())
        found = self._enough(horizon, n, stream, path=True, keep=True)
        assert found.days is not None
        return found.days[found.chosen(n, stream)][..., len(self.factors) :]

    def outlook(self, horizon: int, rng: Rng) -> Outlook:
        """Conditional mean, covariance and scenarios; `status` has their effective sample size.

        Under a normal law with given values and views alone, mean and covariance are the closed ones of h times the
        day's; else they are those of the weighted paths. There are no marginals: under a condition the parts of a
        market are no longer independent.

        Raises:
            SolverError: the draws are worth fewer than 30.
        """
        (stream,) = streams(rng, ())
        count = _count(self.base)
        found = self.weighted(horizon, count, stream)
        rows, k = found.choose(count, stream), len(self.factors)
        closed = gaussian(self.base, self.targets, horizon)
        if closed is None:
            mean, away = found.weight @ found.rows, found.rows - found.weight @ found.rows
            closed = mean, (away * found.weight[:, None]).mT @ away
        return Outlook(
            mean=closed[0][k:],
            covariance=Structured.from_dense(closed[1][k:, k:]),
            scenarios=rows[:, k:],
            marginals=None,
            horizon=float(horizon),
            status=Status(True, f"given {self.condition.text}, {self._evidence(found, horizon)}"),
        )

    @property
    def marginals(self) -> None:
        return None

    def _walk(self, horizon: int, n: int, rng: torch.Generator, *, path: bool, keep: bool = False) -> Weighted:
        with torch.no_grad():
            return walk(steps_of(self.base, path=path), self.targets, horizon, n, rng, keep=keep)

    def _enough(self, horizon: int, n: int, rng: torch.Generator, *, path: bool, keep: bool = False) -> Weighted:
        """At least n paths; four times as many where they are worth fewer than half of n, and more where very few."""
        found = self._walk(horizon, n, rng, path=path, keep=keep)
        for least, count in ((n / 2, min(4 * n, MOST_PATHS)), (4 * FEWEST, MOST_PATHS)):
            if found.effective < least and len(found.rows) < count:
                found = self._walk(horizon, count, rng, path=path, keep=keep)
        self._check(found, horizon)
        return found

    def _evidence(self, found: Weighted, horizon: int) -> Evidence:
        what = "mass" if any(t.views for t in self.targets) else "probability"
        what = "density" if any(t.certain for t in self.targets) else what
        return Evidence(horizon, math.exp(found.log_mass), what, found.effective, len(found.rows), found.even)

    def _check(self, weighted: Weighted, horizon: int) -> None:
        found = self._evidence(weighted, horizon)
        if found.effective < FEWEST:
            raise SolverError(
                f"'{self.condition.text}' is out of reach {found}; fewer than {FEWEST} say nothing of a law. Ask for "
                "less, condition on fewer series, widen the view, or look back further."
            )


class Conditioned(MarketModel):
    """A market model with a condition: every market it fits is conditional. Made by `model + Condition(...)`.

    Attributes:
        market: how the market is estimated; the condition changes nothing there.
        condition: what is given, of the returns over each holding period.

    Example:
        >>> Strategy(name="stressed", market=FactorEBM() + Condition("market < -5%"), energy=CVaR(level=0.95))
    """

    market: MarketModel
    condition: Condition = Field()

    @field_validator("market")
    @classmethod
    def _fitted_from_the_past(cls, market: MarketModel) -> MarketModel:
        if isinstance(market, Conditioned):
            raise ValueError("add conditions to conditions: model + Condition(...) + Condition(...)")
        return market

    def __repr__(self) -> str:
        return f"{self.market!r} + {self.condition!r}"

    __str__ = __repr__

    @property
    def history(self) -> int:
        return self.market.history

    @property
    def factors(self) -> tuple[str, ...]:
        """The factors that the market names."""
        return tuple(getattr(self.market, "factors", ()))

    def lacking(self, past: Past) -> str | None:
        return self.market.lacking(past)

    def fit(self, past: Past) -> ConditionedMarket:
        """The market of `past` given the condition.

        Raises:
            SpecError: the market has no series of a name in the condition; else as the market's own fit.
        """
        return ConditionedMarket(self.market.fit(past), self.condition)

    def refitting(self, refit: str | None) -> Conditioned:
        return self.replace(market=self.market.refitting(refit))


def with_condition(market: Market, condition: Condition) -> ConditionedMarket:
    """A fitted market given one condition more."""
    if isinstance(market, ConditionedMarket):
        return replace(market, condition=market.condition + condition)
    return ConditionedMarket(market, condition)


def model_with_condition(model: MarketModel, condition: Condition) -> Conditioned:
    """A model given one condition more."""
    if isinstance(model, Conditioned):
        return Conditioned(model.market, model.condition + condition)
    return Conditioned(model, condition)


def clamped(values: Mapping[str, float] | None, named: Mapping[str, float]) -> Condition:
    """Values by name as a condition.

    Raises:
        SpecError: none is given, or one is not a return.
    """
    both: dict[str, Any] = {**(values or {}), **named}
    if not both:
        raise SpecError('clamp: say which series has which return, clamp(Mkt=-0.05) or clamp({"Mkt-RF": -0.05}).')
    return Condition(" and ".join(f"{name} = {float(value)!r}" for name, value in both.items()))


def _count(market: Market) -> int:
    """Scenarios that the market's own outlook has."""
    spec = getattr(market, "spec", None)
    return int(getattr(market, "count", 0) or getattr(spec, "scenarios", 0) or 1000)


def gaussian(market: Market, wanted: Sequence[Target], horizon: int) -> tuple[Tensor, Tensor] | None:
    """Conditional mean (S,) and covariance (S, S) of h days of a normal law, or None where they are not closed.

    A view is an observation of the return with noise of its width, a value one without.
    """
    plain = isinstance(market, EllipticalMarket) and market.freedom is None
    closed = all(t.certain or (math.isinf(t.low) and math.isinf(t.high)) for t in wanted)
    if not (plain and closed and isinstance(market, EllipticalMarket)):
        return None
    seen = [
        (t.column, value, width**2)
        for t in wanted
        for value, width in ([(t.low, 0.0), *t.views] if t.certain else t.views)
    ]
    # A value is observed once and for all; views of it add nothing.
    seen = [item for item in seen if item[2] == 0 or all(i[0] != item[0] or i[2] > 0 for i in seen)]
    at = [column for column, _, _ in seen]
    mean, spread = horizon * market.centre, horizon * market.spread
    value, noise = (torch.tensor([item[i] for item in seen], dtype=mean.dtype) for i in (1, 2))
    gain = torch.linalg.solve(spread[at][:, at] + torch.diag(noise), spread[at]).mT
    return mean + gain @ (value - mean[at]), spread - gain @ spread[at]
