"""The Student-t energy, E(x) = (a + 1)/2 log(1 + z^2 / a): a finite power law of index a."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from portfolio_ebm.models.density import Density
from portfolio_ebm.models.quadrature import NODES
from portfolio_ebm.models.special import t_cdf, t_quantile


class StudentT(Density):
    """E(x) = (freedom + 1)/2 log(1 + z^2 / freedom), z = (x - location) / scale.

    log Z = log Gamma(a/2) - log Gamma((a+1)/2) + log(a pi)/2 + log scale.

    Args:
        location, scale, freedom: tensors that broadcast to `batch`; scale, freedom > 0.

    Example:
        >>> StudentT(torch.tensor(0.0), torch.tensor(0.01), torch.tensor(4.0)).log_prob(torch.tensor(-0.05))
    """

    def __init__(self, location: Tensor, scale: Tensor, freedom: Tensor) -> None:
        self.location, self.scale, self.freedom = torch.broadcast_tensors(location, scale, freedom)

    @property
    def tail(self) -> Tensor:
        found: Tensor = self.freedom
        return found

    def energy(self, x: Tensor) -> Tensor:
        z = (x - self.location) / self.scale
        found: Tensor = 0.5 * (self.freedom + 1) * torch.log1p(z * z / self.freedom)
        return found

    def log_z(self, nodes: int = NODES) -> Tensor:
        """In closed form; `nodes` is not used."""
        a = self.freedom
        return torch.lgamma(a / 2) - torch.lgamma((a + 1) / 2) + 0.5 * torch.log(a * math.pi) + self.scale.log()

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        return t_cdf((x - self.location) / self.scale, self.freedom)

    def _invert(self, u: Tensor) -> Tensor:
        return self.location + self.scale * t_quantile(u, self.freedom)
