"""The Gaussian energy, E(x) = (x - m)^2 / (2 s^2): the reference every quadrature is held against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from portfolio_ebm.models.density import Density


class Gaussian(Density):
    """E(x) = (x - location)^2 / (2 scale^2), log Z = log(scale sqrt(2 pi)).

    Args:
        location, scale: tensors that broadcast to `batch`; scale > 0.
    """

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location, self.scale = location, scale

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * ((x - self.location) / self.scale).square()

    def closed_log_z(self) -> Tensor:
        return self.scale.log() + 0.5 * math.log(2 * math.pi) + torch.zeros(self.batch).to(self.scale)
