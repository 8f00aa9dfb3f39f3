"""Steps: a fitted market as one period after another, with some series of a step held to values or intervals.

What `conditioned` walks on. `draw` gives rows of a step freely; `pinned` gives them with limits on some columns, and
the log probability (or density, for a value) of the limits:

    elliptical law     entries in turn, exact for one of them (`pinning`)
    empirical law      days chosen among those within the limits; a value has probability zero and is refused
    any other law      free draws, with weight zero outside the limits
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.market.base import Market
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.empirical import EmpiricalMarket
from portfolio_ebm.market.pinning import Pinned


class Limit(NamedTuple):
    """What one column must be: between `low` and `high`, each (n,) or (); the value itself where they are equal."""

    column: int
    low: Tensor
    high: Tensor


class Drawn(NamedTuple):
    """Rows (n, S), their log weights (n,), and which of few atoms each came from, (n,), where there are few."""

    rows: Tensor
    log_weight: Tensor
    origin: Tensor | None = None


class Steps(ABC):
    """One period at a time, for n paths; a state is a tuple of tensors with the paths in front.

    `dense` says that single values have a density, so that a series can be held to one.
    """

    dense: ClassVar[bool] = False

    def begin(self, n: int) -> tuple[Tensor, ...]:
        """The state before the first step."""
        return ()

    @abstractmethod
    def moments(self, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rough mean and variance of a step of some series, (m,) each: they guide, they decide nothing."""

    @abstractmethod
    def draw(self, state: tuple[Tensor, ...], n: int, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Rows (n, S) of the next step, and the state after it."""

    @abstractmethod
    def pinned(self, state: tuple[Tensor, ...], limits: Sequence[Limit], n: int, rng: torch.Generator) -> Drawn:
        """Rows of the last step within the limits."""


@singledispatch
def steps_of(market: Any, *, path: bool) -> Steps:
    """The steps of a market at one date: those of its outlook (`path`), or the next day as `sample` draws it.

    A market with a better way than its draws registers it here.
    """
    return SampledSteps(market)


@dataclass(frozen=True)
class SampledSteps(Steps):
    """Any market, by its draws of the next day."""

    market: Market

    def moments(self, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = self.market._draws(1000, None)[:, list(columns)]
        return rows.mean(0), rows.var(0)

    def draw(self, state: tuple[Tensor, ...], n: int, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.market.sample(n, rng), state

    def pinned(self, state: tuple[Tensor, ...], limits: Sequence[Limit], n: int, rng: torch.Generator) -> Drawn:
        _no_values(limits, type(self.market).__name__, self.market.series)
        rows = self.market.sample(n, rng)
        inside = torch.stack([(rows[:, at] >= low) & (rows[:, at] <= high) for at, low, high in limits]).all(0)
        return Drawn(rows, torch.where(inside, 0.0, -torch.inf).to(rows))


@steps_of.register
def _(market: EllipticalMarket, *, path: bool) -> Steps:
    return EllipticalSteps(market)


@dataclass(frozen=True)
class EllipticalSteps(Steps):
    """Independent days of a normal or Student-t law."""

    dense: ClassVar[bool] = True
    market: EllipticalMarket

    @property
    def freedom(self) -> float:
        return math.inf if self.market.freedom is None else float(self.market.freedom)

    def moments(self, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        at = list(columns)
        return self.market.centre[at], self.market.spread.diagonal()[at]

    def draw(self, state: tuple[Tensor, ...], n: int, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.market.sample(n, rng), state

    def pinned(self, state: tuple[Tensor, ...], limits: Sequence[Limit], n: int, rng: torch.Generator) -> Drawn:
        nu, centre = self.freedom, self.market.centre
        scale = self.market.spread if math.isinf(nu) else self.market.spread * ((nu - 2) / nu)
        law = Pinned(scale, [limit.column for limit in limits], nu, n)
        weight = torch.zeros(n, dtype=scale.dtype)
        for at, low, high in limits:
            _, log_weight = law.pin(low - centre[at], high - centre[at], rng)
            weight = weight + log_weight
        return Drawn(hold(centre + law.rest(rng), limits), weight)


@steps_of.register
def _(market: EmpiricalMarket, *, path: bool) -> Steps:
    return EmpiricalSteps(market)


@dataclass(frozen=True)
class EmpiricalSteps(Steps):
    """Days drawn with replacement; in a filtered law each moves the variances of the next step."""

    market: EmpiricalMarket

    def begin(self, n: int) -> tuple[Tensor, ...]:
        variance = self.market.variance
        return () if variance is None else (variance.expand(n, -1),)

    def moments(self, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        days = self.market.days[:, list(columns)]
        return days.mean(0), days.var(0)

    def draw(self, state: tuple[Tensor, ...], n: int, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        pick = torch.randint(len(self.market.days), (n,), generator=rng)
        rows = self._rows(state, pick)
        if not state:
            return rows, state
        assert self.market.centre is not None
        lam = self.market.decay
        return rows, (lam * state[0] + (1 - lam) * (rows - self.market.centre).square(),)

    def pinned(self, state: tuple[Tensor, ...], limits: Sequence[Limit], n: int, rng: torch.Generator) -> Drawn:
        _no_values(limits, "an empirical law (Historical, FilteredHistorical)", self.market.series)
        atoms = len(self.market.days)
        inside = torch.ones(n, atoms, dtype=torch.bool)
        for at, low, high in limits:
            value = self._column(state, at)
            inside &= (value >= low.reshape(-1, 1)) & (value <= high.reshape(-1, 1))
        count = inside.sum(-1)
        # The j-th of the days inside, j uniform; a path that has none keeps weight zero.
        place = (torch.rand(n, generator=rng, dtype=torch.float64) * count).long() + 1
        pick = (inside.cumsum(-1) >= place[:, None]).to(torch.uint8).argmax(-1)
        return Drawn(self._rows(state, pick), (count.double() / atoms).log(), pick)

    def _rows(self, state: tuple[Tensor, ...], pick: Tensor) -> Tensor:
        days = self.market.days[pick]
        if not state:
            return days
        assert self.market.centre is not None and self.market.variance is not None
        return self.market.centre + (days - self.market.centre) * (state[0] / self.market.variance).sqrt()

    def _column(self, state: tuple[Tensor, ...], at: int) -> Tensor:
        """Returns that every day would give to series `at` now, (n or 1, T)."""
        days = self.market.days[:, at]
        if not state:
            return days[None]
        assert self.market.centre is not None and self.market.variance is not None
        centre = self.market.centre[at]
        return centre + (days - centre) * (state[0][:, at : at + 1] / self.market.variance[at]).sqrt()


def hold(rows: Tensor, limits: Sequence[Limit]) -> Tensor:
    """Rows with their limited columns exactly within the limits: no rounding puts them outside."""
    for at, low, high in limits:
        rows[:, at] = torch.minimum(torch.maximum(rows[:, at], low), high)
    return rows


def _no_values(limits: Sequence[Limit], who: str, series: Sequence[str]) -> None:
    fixed = [limit.column for limit in limits if bool((limit.low == limit.high).any())]
    if fixed:
        name = series[fixed[0]]
        raise SpecError(
            f"{who} gives no single value of {name} a density, so it cannot be clamped: use a view, "
            f'Condition("{name} ~ VALUE +- 0.002"), an interval, or a market with a density (EWMA, FactorEBM).'
        )
