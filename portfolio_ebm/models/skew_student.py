"""The skewed Student-t energy of Hansen: a t law stretched by 1 - skew on the left of its mode, 1 + skew on the right.

    E(x) = (nu + 1)/2 log(1 + (y / (1 + skew sign y))^2 / (nu - 2)),   y = a + b z,   z = (x - location) / scale,
    c = Gamma((nu+1)/2) / (sqrt(pi (nu - 2)) Gamma(nu/2)),  a = 4 skew c (nu-2)/(nu-1),  b^2 = 1 + 3 skew^2 - a^2,
    log Z = log scale - log b - log c.

z has mean 0 and variance 1, so that location and scale are the law's mean and standard deviation.

Source: B. E. Hansen (1994), Autoregressive conditional density estimation, International Economic Review 35.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.quadrature import NODES
from portfolio_ebm.models.special import t_cdf, t_quantile


class SkewStudent(Density):
    """Hansen's standardised skewed t.

    Args:
        location, scale: mean and standard deviation; scale > 0.
        freedom: nu > 2.
        skew: in (-1, 1); positive has the longer tail on the right, 0 is Student's t of variance scale^2.

    Raises:
        FitError: freedom at or below 2, or |skew| at or above 1.

    Example:
        >>> law = SkewStudent(*torch.tensor([0.0, 0.01, 5.0, -0.1]))
        >>> law.log_prob(torch.tensor(-0.03)), law.cdf(torch.tensor(-0.03))
    """

    def __init__(self, location: Tensor, scale: Tensor, freedom: Tensor, skew: Tensor) -> None:
        self.location, self.scale, self.freedom, self.skew = torch.broadcast_tensors(location, scale, freedom, skew)
        if not bool(((self.freedom > 2) & (self.skew.abs() < 1)).all()):
            raise FitError("A skewed t needs freedom above 2 and skew between -1 and 1; bound the parameters.")
        nu = self.freedom
        self._log_c = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * torch.log(math.pi * (nu - 2))
        self._shift = 4 * self.skew * self._log_c.exp() * (nu - 2) / (nu - 1)
        self._stretch = (1 + 3 * self.skew.square() - self._shift.square()).sqrt()

    @property
    def tail(self) -> Tensor:
        found: Tensor = self.freedom
        return found

    def energy(self, x: Tensor) -> Tensor:
        y, side = self._sided(x)
        found: Tensor = 0.5 * (self.freedom + 1) * torch.log1p((y / side).square() / (self.freedom - 2))
        return found

    def log_z(self, nodes: int = NODES) -> Tensor:
        """In closed form; `nodes` is not used."""
        found: Tensor = self.scale.log() - self._stretch.log() - self._log_c
        return found

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        y, side = self._sided(x)
        # Both halves by the lower tail, which keeps its digits: F = side T(y / side), or 1 - side T(-y / side).
        low = side * t_cdf(-y.abs() / side * (self.freedom / (self.freedom - 2)).sqrt(), self.freedom)
        return torch.where(y < 0, low, 1 - low)

    def _invert(self, u: Tensor) -> Tensor:
        left = u < (1 - self.skew) / 2
        side = torch.where(left, 1 - self.skew, 1 + self.skew)
        far = t_quantile(torch.where(left, u, 1 - u) / side, self.freedom) * side
        y = torch.where(left, far, -far) * ((self.freedom - 2) / self.freedom).sqrt()
        found: Tensor = self.location + self.scale * (y - self._shift) / self._stretch
        return found

    def _sided(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self._shift + self._stretch * (x - self.location) / self.scale
        return y, torch.where(y < 0, 1 - self.skew, 1 + self.skew)
