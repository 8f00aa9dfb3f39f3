"""What a market model gives: a Market at one date, and its Outlook over one holding period."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portfolio_ebm.data.past import Past
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import Spec, Status


@dataclass(frozen=True)
class Marginals:
    """Independent one-dimensional parts of a market as quadrature tables, for free energies.

    Part k (a factor, or one asset's residual) has the centred holding-period return `values[k, g]` with
    probability `exp(log_mass[k, g])` at node g; densities are truncated to declared bounds and renormalised,
    so that the exponential moments a free energy takes exist. r = exposures @ parts + mean.

    Attributes:
        names: the K parts, e.g. "market", "MTUM", ..., "AAPL residual".
        exposures: (..., n, K).
        values: (..., K, G), centred returns.
        log_mass: (..., K, G), logsumexp over G is zero.
        bound: the truncation, in the part's own standard deviations.
    """

    names: tuple[str, ...]
    exposures: Tensor
    values: Tensor
    log_mass: Tensor
    bound: float

    def to(self, device: torch.device) -> Marginals:
        return replace(
            self,
            exposures=self.exposures.to(device),
            values=self.values.to(device),
            log_mass=self.log_mass.to(device),
        )


@dataclass(frozen=True)
class Outlook:
    """Estimates for one holding period: what energies and rules see of the market.

    Attributes:
        mean: simple returns, (..., n).
        covariance: F C F' + D.
        scenarios: (..., S, n) simple returns, or None.
        marginals: factor and residual densities, or None where the market has none.
        horizon: the holding period in periods of the panel.
    """

    mean: Tensor
    covariance: Structured
    scenarios: Tensor | None
    marginals: Marginals | None
    horizon: float

    def to(self, device: torch.device) -> Outlook:
        return replace(
            self,
            mean=self.mean.to(device),
            covariance=self.covariance.to(device),
            scenarios=None if self.scenarios is None else self.scenarios.to(device),
            marginals=None if self.marginals is None else self.marginals.to(device),
        )


class Market(ABC):
    """A fitted market at one date."""

    assets: tuple[str, ...]
    status: Status
    refitted: tuple[str, ...]
    """What was estimated anew for this market ("factor MTUM", "loadings", ...), and not read from the store."""

    @abstractmethod
    def outlook(self, horizon: int, rng: torch.Generator) -> Outlook:
        """Mean, covariance, scenarios and marginals over the next `horizon` periods."""


class MarketModel(Spec, ABC):
    """A spec of how to estimate a market from the past alone."""

    @property
    @abstractmethod
    def history(self) -> int:
        """The least number of periods `fit` needs."""

    def lacking(self, past: Past) -> str | None:
        """What history is still missing before this market can be fitted to `past`, or None: a walk forward starts
        on the first date on which nothing is. Depends on which cells are there, never on what they say."""
        if len(past) >= self.history:
            return None
        return f"{self.history} periods of history are needed and there are {len(past)} up to {past.date}"

    @abstractmethod
    def fit(self, past: Past) -> Market:
        """The market as it was known at the end of `past`.

        Raises:
            DataError: too little history, or a series that cannot be used; the message names it.
            FitError: training did not reach a usable model.
        """
