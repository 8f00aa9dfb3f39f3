"""The Langevin kernel.

    ULA    x' = x - h grad E(x) + sqrt(2 h T) xi,   xi ~ N(0, I)

It is biased by its step: on the Gaussian E = x'Ax/2 its covariance is T A^-1 (I - h A / 2)^-1. It searches here, and
samples nothing. At T = 0 it is gradient descent.

Source: Roberts and Tweedie (1996), Bernoulli 2, 341-363.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.kernel import Kernel, State, Temperature, spread
from portfolio_ebm.types import elsewhere


@dataclass(frozen=True)
class ULA(Kernel):
    """The unadjusted Langevin algorithm with step h, in squared units of x per unit of energy.

    Stable on a smooth energy for h < 2 / L, L the largest curvature.

    Attributes:
        step_size: h, one number, or a tensor that broadcasts against the chains, shape (...); of another device than
            the host's it is not looked at.

    Raises:
        SpecError: h is not positive and finite.
    """

    step_size: float | Tensor

    def __post_init__(self) -> None:
        h = self.step_size
        if isinstance(h, Tensor):
            good = elsewhere(h) or bool((torch.isfinite(h) & (h > 0.0)).all())
        else:
            good = 0.0 < h < float("inf")
        if not good:
            raise SpecError(f"step_size must be positive and finite, got {h!r}.")

    def propose(self, state: State, temperature: Temperature, noise: Tensor) -> Tensor:
        h = self.step_size.unsqueeze(-1) if isinstance(self.step_size, Tensor) else self.step_size
        return state.x - h * state.gradient + (2.0 * h * spread(temperature, state.x)).sqrt() * noise
