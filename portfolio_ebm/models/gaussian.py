"""The Gaussian energy, E(x) = (x - m)^2 / (2 s^2): the reference every quadrature is held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from portfolio_ebm.models.density import Density
from portfolio_ebm.models.quadrature import NODES


class Gaussian(Density):
    """E(x) = (x - location)^2 / (2 scale^2), log Z = log(scale sqrt(2 pi)).

    Args:
        location, scale: tensors that broadcast to `batch`; scale > 0.
    """

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location, self.scale = torch.broadcast_tensors(location, scale)

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.location) / self.scale).square()

    def log_z(self, nodes: int = NODES) -> Tensor:
        """In closed form; `nodes` is not used."""
        return self.scale.log() + 0.5 * math.log(2 * math.pi)

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        found: Tensor = torch.special.ndtr((x - self.location) / self.scale)
        return found

    def _invert(self, u: Tensor) -> Tensor:
        found: Tensor = self.location + self.scale * torch.special.ndtri(u)
        return found
