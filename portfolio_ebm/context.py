"""Context = market + holdings + groups + date: everything a term or a rule may ask for, by name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook
from portfolio_ebm.tally import Tally
from portfolio_ebm.types import require_last


@dataclass(frozen=True)
class Context:
    """One decision's surroundings (or a batch of them, with the dates in front).

    Attributes:
        assets: names of the n assets.
        market: estimates for one holding period, or None for constructions that need none.
        held: weights held before the trade, after drift, (..., n); None when nothing is held.
        tradeable: bool (..., n); a name that cannot be traded stays as it is held, or out.
        leaving: bool (..., n), names that have a price but left the universe: not tradeable here, they are sold.
        groups: by grouping name ("sector"), the label of every asset.
        date: the decision's date, for messages.
        benchmarks: by name, weights (..., n) that stood at the date.
        forecasts: by name, numbers by asset (..., n) that were known at the date: expected returns, borrow rates.
        exposures: by factor, the exposure of every asset (..., n).
        volume: traded value of every asset a period of the panel, in money (..., n), or None.
        prices: last known prices (..., n), or None.
        capital: money that the weights are fractions of, or None where it is not known.
        span: the holding period in periods of the panel; None takes the market's.
        spellings: by grouping, labels that are right though nobody has them at the date.
        long_run: covariance of simple returns over one holding period in the long run, that of all the past, where a
            constructor asks for it.
        tally: what earlier decisions saved and cost beside the optimum, or None where they are not known.
    """

    assets: tuple[str, ...]
    market: Outlook | None
    held: Tensor | None
    tradeable: Tensor
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    date: str = ""
    leaving: Tensor | None = None
    benchmarks: Mapping[str, Tensor] = field(default_factory=dict)
    forecasts: Mapping[str, Tensor] = field(default_factory=dict)
    exposures: Mapping[str, Tensor] = field(default_factory=dict)
    volume: Tensor | None = None
    prices: Tensor | None = None
    capital: float | None = None
    span: float | None = None
    spellings: Mapping[str, frozenset[str]] = field(default_factory=dict)
    long_run: Structured | None = None
    tally: Tally | None = None

    @cached_property
    def kept(self) -> dict[Hashable, Any]:
        """What terms have worked out from these very estimates, so that it is worked out once."""
        return {}

    @property
    def horizon(self) -> float:
        """The holding period in periods of the panel; 1 where neither the door nor the market says another."""
        if self.span is not None:
            return self.span
        return 1.0 if self.market is None else self.market.horizon

    @property
    def fixed(self) -> Tensor:
        """The weights of the names that are no choice, (..., n): as held, and zero for those that leave."""
        if self.held is None:
            return torch.zeros(self.tradeable.shape, dtype=torch.float64, device=self.tradeable.device)
        held = require_last(self.held, self.n_assets, "held weights")
        return held if self.leaving is None else held.masked_fill(self.leaving, 0.0)

    @property
    def forced(self) -> float | Tensor:
        """The weight that has to be sold because its names left the universe, (...)."""
        if self.held is None or self.leaving is None:
            return 0.0
        return (self.held * self.leaving).abs().sum(-1)

    @property
    def n_assets(self) -> int:
        return len(self.assets)

    @property
    def mean(self) -> Tensor:
        """Expected simple returns per holding period, (..., n)."""
        return self._outlook("Return").mean

    @property
    def covariance(self) -> Structured:
        """Covariance of simple returns per holding period."""
        return self._outlook("Variance").covariance

    @property
    def scenarios(self) -> Tensor:
        """Joint scenarios of simple returns per holding period, (..., S, n); one set, shared by all terms."""
        found = self._outlook("a scenario term").scenarios
        if found is None:
            raise SpecError(
                "This formula has a scenario term, and no scenarios were given: pass scenarios=, or use a market model."
            )
        return found

    @property
    def paths(self) -> Tensor:
        """Joint paths of simple returns, one a period of the holding period, (..., S, h, n)."""
        found = self._outlook("a drawdown term").paths
        if found is None:
            raise SpecError(
                "This formula has a drawdown term, and no paths were given: pass paths=, or use a market model."
            )
        return found

    @property
    def marginals(self) -> Marginals:
        """The factor and residual densities as quadrature tables, for free energies."""
        found = self._outlook("FactorRisk").marginals
        if found is None:
            raise SpecError(
                "FactorRisk adds the free energies of trained factor models, and this market has none: "
                "use market=FactorEBM(...), without a Condition, under which its factors are no longer independent."
            )
        return found

    def labels(self, grouping: str) -> tuple[str, ...]:
        """The labels of a grouping, in the order of the assets.

        Raises:
            SpecError: no such grouping; near matches are listed.
        """
        if grouping not in self.groups:
            raise SpecError(
                f"No grouping '{grouping}'; there is {listed(grouping, self.groups)}. "
                "Pass it with groups= (CLI: --groups FILE)."
            )
        return tuple(dict.fromkeys(self.groups[grouping]))

    @property
    def factors(self) -> tuple[str, ...]:
        """The factors that `exposure` knows."""
        table = None if self.market is None else self.market.marginals
        return tuple(dict.fromkeys((*self.exposures, *(() if table is None else table.names))))

    def members(self, grouping: str, label: str) -> Tensor:
        """Bool (n,): which assets carry `label` in `grouping`; none, where it is one of its `spellings` at other dates.

        Raises:
            SpecError: no such grouping or label; near matches are listed.
        """
        labels = self.labels(grouping)
        found = torch.tensor([item == label for item in self.groups[grouping]], device=self.tradeable.device)
        if not bool(found.any()) and label not in self.spellings.get(grouping, ()):
            raise SpecError(f"No asset has {grouping} '{label}'; there is {listed(label, dict.fromkeys(labels))}.")
        return found

    def benchmark(self, name: str) -> Tensor:
        """Weights (..., n) of the benchmark called `name`; the name of an asset is that asset alone.

        Raises:
            SpecError: no such benchmark; near matches are listed.
            DataError: its weights are not known yet at the date.
        """
        if name in self.benchmarks:
            found = require_last(self.benchmarks[name], self.n_assets, f"benchmark '{name}'")
            if not bool(found.isfinite().all()):
                raise DataError(f"The weights of benchmark '{name}' are not known{self.at}; start later.")
            return found
        if name in self.assets:
            return torch.eye(self.n_assets, dtype=torch.float64, device=self.tradeable.device)[self.assets.index(name)]
        known = listed(name, dict.fromkeys((*self.benchmarks, *self.assets)))
        raise SpecError(
            f"No benchmark '{name}'; there is {known}. Pass its weights with benchmarks= to optimize, or with "
            "benchmark_weights= to a Panel."
        )

    def forecast(self, name: str) -> Tensor:
        """The numbers called `name`, (..., n); zero where there is none for a name that cannot be traded.

        Raises:
            SpecError: no such forecast; near matches are listed.
            DataError: a tradeable name has none at the date.
        """
        if name not in self.forecasts:
            raise SpecError(f"No forecast '{name}'; there is {listed(name, self.forecasts)}. Pass it with forecasts=.")
        found = require_last(self.forecasts[name], self.n_assets, f"forecast '{name}'")
        self.refuse(~found.isfinite(), f"Forecast '{name}' has no number", "give 0 for no view, or leave them out")
        return torch.where(found.isfinite(), found, torch.zeros_like(found))

    def exposure(self, factor: str) -> Tensor:
        """The exposure (..., n) of every asset to `factor`: as given, else that of the market's factor models.

        Raises:
            SpecError: no such factor; near matches are listed.
            DataError: a tradeable name has none at the date.
        """
        if factor in self.exposures:
            found = require_last(self.exposures[factor], self.n_assets, f"exposure '{factor}'")
            self.refuse(~found.isfinite(), f"Exposure '{factor}' has no number", "give 0 for none, or leave them out")
            return torch.where(found.isfinite(), found, torch.zeros_like(found))
        table = None if self.market is None else self.market.marginals
        known = () if table is None else table.names
        if table is None or factor not in known:
            near = listed(factor, dict.fromkeys((*self.exposures, *known)))
            raise SpecError(
                f"No factor '{factor}'; there is {near}. Pass exposures=, or use market=FactorEBM(factors=...)."
            )
        return table.exposures[..., known.index(factor)]

    def traded(self, who: str) -> tuple[Tensor, float]:
        """(traded value a period (..., n) of every asset, capital), both in one money.

        Raises:
            SpecError: volume or capital is not known.
            DataError: a tradeable name has no volume above zero.
        """
        if self.capital is None or not self.capital > 0.0:
            raise SpecError(f"{who} depends on the size of the portfolio: give Strategy(capital=...) or capital=.")
        if self.volume is None:
            raise SpecError(f"{who} needs traded volume, and there is none: give the panel volume= and prices.")
        found = require_last(self.volume, self.n_assets, "volume")
        self.refuse(~(found > 0.0), "Traded volume is not above zero", "drop them or mend their volume")
        return torch.where(found > 0.0, found, torch.ones_like(found)), self.capital

    def refuse(self, bad: Tensor, what: str, remedy: str) -> None:
        """Raise DataError naming the tradeable assets where `bad` (..., n) holds, if there are any."""
        found = (bad & self.tradeable).reshape(-1, self.n_assets).any(0)
        if bool(found.any()):
            who = [name for name, is_bad in zip(self.assets, found.tolist(), strict=True) if is_bad]
            more = f" and {len(who) - 5} more" if len(who) > 5 else ""
            raise DataError(f"{what}{self.at} for {', '.join(who[:5])}{more}; {remedy}.")

    @property
    def at(self) -> str:
        """ " at 2020-01-31", or nothing where there is no date."""
        return f" at {self.date}" if self.date else ""

    def _outlook(self, who: str) -> Outlook:
        if self.market is None:
            raise SpecError(
                f"{who} needs a market model, and the strategy has none: "
                "set market=SampleMoments(...) or FactorEBM(...)."
            )
        return self.market


def stacked(items: Sequence[Any]) -> Any:
    """What many problems know as one, the problems in front of every tensor: contexts, or any part of them.

    What is one and the same object for all stays as it is; dataclasses and mappings are taken field by field.

    Raises:
        ShapeError: tensors of other shapes, kinds or devices, or something else that is not alike.

    Example:
        >>> stacked([one, other]).mean.shape
        torch.Size([2, 20])
    """
    first = items[0]
    if all(item is first for item in items):
        return first
    if len({type(item) for item in items}) == 1:
        if isinstance(first, Tensor):
            if len({(item.shape, item.dtype, item.device) for item in items}) == 1:
                return torch.stack(list(items))
        elif is_dataclass(first) and not isinstance(first, type):
            names = [one.name for one in fields(first)]
            return replace(first, **{name: stacked([getattr(item, name) for item in items]) for name in names})
        elif isinstance(first, Mapping):
            if all(item.keys() == first.keys() for item in items):
                return {key: stacked([item[key] for item in items]) for key in first}
        elif all(item == first for item in items):
            return first
    raise ShapeError(f"Problems that are not alike cannot be one: {first!r:.60} stands beside another.")


def listed(name: str, known: Mapping[str, object]) -> str:
    """The near matches of `name` among `known`, or the first few of them, in quotes."""
    near = get_close_matches(name, list(known), n=3) or list(known)[:8]
    return ", ".join(f"'{item}'" for item in near) if near else "none at all"
