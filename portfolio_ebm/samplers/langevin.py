"""Langevin kernels.

    ULA    x' = x - h grad E(x) + sqrt(2 h T) xi,   xi ~ N(0, I)
    MALA   the same proposal, taken with probability min(1, exp(-D / T)),
           D = E(x') - E(x) + (|x - x' + h grad E(x')|^2 - |x' - x + h grad E(x)|^2) / (4 h)

ULA is biased by its step: on the Gaussian E = x'Ax/2 its covariance is T A^-1 (I - h A / 2)^-1. MALA is exact.
At T = 0 ULA is gradient descent; so is MALA while D <= 0, which on a quadratic is every h < 2 / L.

Sources: Roberts and Tweedie (1996), Bernoulli 2, 341-363; Besag's discussion of Grenander and Miller (1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.kernel import Info, Kernel, Noise, State, Temperature, evaluate, spread


@dataclass(frozen=True)
class ULA(Kernel):
    """The unadjusted Langevin algorithm with step h, in squared units of x per unit of energy.

    Stable on a smooth energy for h < 2 / L, L the largest curvature.

    Raises:
        SpecError: h is not positive and finite.
    """

    step_size: float

    def __post_init__(self) -> None:
        _require_step(self.step_size)

    def propose(self, state: State, temperature: Temperature, noise: Noise) -> Tensor:
        return _proposal(state, self.step_size, temperature, noise)

    def settle(
        self, state: State, proposal: Tensor, energy: Bound, temperature: Temperature, noise: Noise
    ) -> tuple[State, Info]:
        arrived = self.init(proposal, energy)
        one = torch.ones_like(arrived.energy)
        return arrived, Info(one, one.bool())


@dataclass(frozen=True)
class MALA(Kernel):
    """The Metropolis-adjusted Langevin algorithm with step h.

    Best mixing near an acceptance of 0.57 (Roberts and Rosenthal, 1998). A proposal of infinite energy is rejected.

    Raises:
        SpecError: h is not positive and finite.
    """

    exact: ClassVar[bool] = True
    step_size: float

    def __post_init__(self) -> None:
        _require_step(self.step_size)

    def propose(self, state: State, temperature: Temperature, noise: Noise) -> Tensor:
        return _proposal(state, self.step_size, temperature, noise)

    def settle(
        self, state: State, proposal: Tensor, energy: Bound, temperature: Temperature, noise: Noise
    ) -> tuple[State, Info]:
        there = evaluate(proposal, energy)
        h = self.step_size
        forth = (proposal - state.x + h * state.gradient).square().sum(-1)
        back = (state.x - proposal + h * there.gradient).square().sum(-1)
        uphill = there.energy - state.energy + (back - forth) / (4.0 * h)
        heat = spread(temperature, state.x).squeeze(-1)
        # T log u <= -D instead of u <= exp(-D / T): the same test, and T = 0 needs no case of its own.
        accepted = heat * noise.uniform.log() <= -uphill
        chance = torch.where(heat > 0.0, torch.exp((-uphill / heat).clamp_max(0.0)), accepted.to(uphill.dtype))
        return _choose(accepted, there, state), Info(chance, accepted)


def _proposal(state: State, h: float, temperature: Temperature, noise: Noise) -> Tensor:
    return state.x - h * state.gradient + (2.0 * h * spread(temperature, state.x)).sqrt() * noise.normal


def _choose(accepted: Tensor, there: State, here: State) -> State:
    taken = accepted.unsqueeze(-1)
    return State(
        torch.where(taken, there.x, here.x),
        torch.where(accepted, there.energy, here.energy),
        torch.where(taken, there.gradient, here.gradient),
    )


def _require_step(h: float) -> None:
    if not 0.0 < h < float("inf"):
        raise SpecError(f"step_size must be positive and finite, got {h!r}.")
