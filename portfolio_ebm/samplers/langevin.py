"""The Langevin kernel.

    ULA    x' = x - h grad E(x) + sqrt(2 h T) xi,   xi ~ N(0, I)

It is biased by its step: on the Gaussian E = x'Ax/2 its covariance is T A^-1 (I - h A / 2)^-1. It searches here, and
samples nothing. At T = 0 it is gradient descent.

Source: Roberts and Tweedie (1996), Bernoulli 2, 341-363.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.kernel import Kernel, State, Temperature, spread


@dataclass(frozen=True)
class ULA(Kernel):
    """The unadjusted Langevin algorithm with step h, in squared units of x per unit of energy.

    Stable on a smooth energy for h < 2 / L, L the largest curvature.

    Raises:
        SpecError: h is not positive and finite.
    """

    step_size: float

    def __post_init__(self) -> None:
        if not 0.0 < self.step_size < float("inf"):
            raise SpecError(f"step_size must be positive and finite, got {self.step_size!r}.")

    def propose(self, state: State, temperature: Temperature, noise: Tensor) -> Tensor:
        h = self.step_size
        return state.x - h * state.gradient + (2.0 * h * spread(temperature, state.x)).sqrt() * noise
