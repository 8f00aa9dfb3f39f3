"""Context = market + holdings + groups + date: everything a term or a rule may ask for, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook
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
    """

    assets: tuple[str, ...]
    market: Outlook | None
    held: Tensor | None
    tradeable: Tensor
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    date: str = ""
    leaving: Tensor | None = None

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
                "This formula has a scenario term (CVaR), and no scenarios were given: "
                "pass scenarios=, or use a market model."
            )
        return found

    @property
    def marginals(self) -> Marginals:
        """The factor and residual densities as quadrature tables, for free energies."""
        found = self._outlook("FactorRisk").marginals
        if found is None:
            raise SpecError(
                "FactorRisk adds the free energies of trained factor models, and this market has none: "
                "use market=FactorEBM(...)."
            )
        return found

    def members(self, grouping: str, label: str) -> Tensor:
        """Bool (n,): which assets carry `label` in `grouping`.

        Raises:
            SpecError: no such grouping or label; near matches are listed.
        """
        if grouping not in self.groups:
            raise SpecError(
                f"No grouping '{grouping}'; there is {_listed(grouping, self.groups)}. "
                "Pass it with groups= (CLI: --groups FILE)."
            )
        labels = self.groups[grouping]
        found = torch.tensor([item == label for item in labels], device=self.tradeable.device)
        if not bool(found.any()):
            raise SpecError(f"No asset has {grouping} '{label}'; there is {_listed(label, dict.fromkeys(labels))}.")
        return found

    def _outlook(self, who: str) -> Outlook:
        if self.market is None:
            raise SpecError(
                f"{who} needs a market model, and the strategy has none: "
                "set market=SampleMoments(...) or FactorEBM(...)."
            )
        return self.market


def _listed(name: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(name, list(known), n=3) or list(known)[:8]
    return ", ".join(f"'{item}'" for item in near) if near else "none at all"
