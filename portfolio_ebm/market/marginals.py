"""Marginals: the independent parts of a market as quadrature tables, for free energies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
