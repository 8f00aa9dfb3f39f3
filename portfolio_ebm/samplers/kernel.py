"""Kernels: pure steps (state, rng) -> state that every search by chains is made of.

A kernel moves a batch of chains x of shape (..., n) on an energy E: (..., n) -> (...) at a temperature T;
what it aims at is p(x) = exp(-E(x) / T) / Z. It owns no state and no random stream, and no step is refused. A step
has two parts, so that wrappers can come between them and noise can be given from outside:

    draw     the noise of one step, the only use of the random stream
    propose  where the chains go

At T = 0 the noise is drawn and counts for nothing, so a step is a step of descent and the random stream
advances as at any other temperature. After the kernels of blackjax (Cabezas et al., 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import ShapeError, SolverError
from portfolio_ebm.types import elsewhere

Temperature = float | Tensor
"""One number, or a tensor that broadcasts against the chains, shape (...)."""


@dataclass(frozen=True)
class State:
    """Where the chains are.

    Attributes:
        x: (..., n).
        energy: E(x), (...).
        gradient: of E at x, (..., n).
        unsound: (...), where the energy or its gradient has not been a number, or the temperature negative or not
            finite, here or on the way, on a device that the host would have to wait for; None on the host's, where that
            is refused at once.
    """

    x: Tensor
    energy: Tensor
    gradient: Tensor
    unsound: Tensor | None = None

    def after(self, *others: State) -> State:
        """The state with what was not a number in others too."""
        seen = [one.unsound for one in (self, *others) if one.unsound is not None]
        return replace(self, unsound=torch.stack(seen).any(0)) if seen else self

    def sound(self) -> State:
        """The state itself: the one look that another device is waited for.

        Raises:
            SolverError: the energy or its gradient has not been a number for a chain, or the temperature has been
                negative or not finite, here or on the way.
        """
        if self.unsound is not None and bool(self.unsound.any()):
            raise SolverError(
                f"The energy, its gradient or the temperature is not finite for {_count(self.unsound)} chains on their "
                "way, or the temperature is negative; check the estimates behind the terms for missing values and the "
                "temperatures given, and start chains where the energy is defined."
            )
        return self


class Kernel(ABC):
    """One step of a Markov chain, for any energy and temperature.

    Example:
        >>> state = kernel.init(torch.zeros(64, 3), energy)
        >>> state = kernel.step(state, energy, 1.0, torch.Generator().manual_seed(0))
    """

    def init(self, x: Tensor, energy: Bound) -> State:
        """The state at x (..., n).

        Raises:
            SolverError: the energy or its gradient is not finite for a chain.
        """
        state = evaluate(x, energy)
        if state.unsound is not None:
            return replace(state, unsound=state.unsound | torch.isposinf(state.energy))
        if not bool(torch.isfinite(state.energy).all()):
            raise SolverError(
                f"{_count(~torch.isfinite(state.energy))} of the chains stand where the energy is not finite; "
                "start them where the energy is defined."
            )
        return state

    @final
    def draw(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """The noise of one step for chains of the shape of x, standard normal."""
        normal = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=rng)
        # One number a chain that nothing reads: without it, the same seed would give other answers than it did.
        torch.rand(x.shape[:-1], dtype=x.dtype, device=x.device, generator=rng)
        return normal

    @abstractmethod
    def propose(self, state: State, temperature: Temperature, noise: Tensor) -> Tensor:
        """Where the chains go, (..., n)."""

    @final
    def move(self, state: State, energy: Bound, temperature: Temperature, noise: Tensor) -> State:
        """One step with the noise (..., n) given: a function of its arguments alone."""
        moved = self.init(self.propose(state, temperature, noise), energy).after(state)
        if moved.unsound is None or not isinstance(temperature, Tensor) or not elsewhere(temperature):
            return moved
        # A projection can make a number again of what the noise made none.
        return replace(moved, unsound=moved.unsound | ~_warm(temperature))

    @final
    def step(self, state: State, energy: Bound, temperature: Temperature, rng: torch.Generator) -> State:
        """One step.

        Raises:
            SolverError: the energy or its gradient came out as not finite, or the temperature is negative or not
                finite; of another device only noted in the state.
        """
        return self.move(state, energy, temperature, self.draw(state.x, rng))


def evaluate(x: Tensor, energy: Bound) -> State:
    """E and its gradient at x (..., n), by automatic differentiation.

    An energy of +inf marks a point outside the support; its gradient is taken as zero.

    Raises:
        SolverError: NaN, which would otherwise be carried along without a word; on another device only noted, so that
            the host need not wait (State.sound).
        ShapeError: the energy does not give one number per chain.
    """
    point = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = energy(point)
        if value.shape != x.shape[:-1]:
            raise ShapeError(
                f"energy of chains {tuple(x.shape)}: got {tuple(value.shape)}, expected {tuple(x.shape[:-1])}."
            )
        found = torch.autograd.grad(value.sum(), point, allow_unused=True)[0] if value.requires_grad else None
    value = value.detach()
    gradient = torch.zeros_like(x) if found is None else found.detach()
    outside = torch.isposinf(value)
    gradient = torch.where(outside.unsqueeze(-1), torch.zeros_like(gradient), gradient)
    if elsewhere(x):
        steep = ~torch.isfinite(gradient).all(-1)
        return State(x.detach(), value, gradient, steep | ~(torch.isfinite(value) | outside))
    if not bool(torch.isfinite(value.sum() + gradient.sum())):  # one cheap look; the careful one only on suspicion
        _require(value, gradient, outside)
    return State(x.detach(), value, gradient)


def _require(value: Tensor, gradient: Tensor, outside: Tensor) -> None:
    bad = ~(torch.isfinite(value) | outside)
    if bool(bad.any()):
        raise SolverError(
            f"The energy is NaN or -inf for {_count(bad)} chains; "
            "check the estimates behind its terms for missing values."
        )
    steep = ~torch.isfinite(gradient).all(-1)
    if bool(steep.any()):
        raise SolverError(
            f"The gradient of the energy is not finite for {_count(steep)} chains, where the energy itself is; "
            "a term has an infinite slope there, such as a square root at zero."
        )


def _count(mask: Tensor) -> str:
    return f"{int(mask.sum())} of {mask.numel()}"


def spread(temperature: Temperature, like: Tensor) -> Tensor:
    """The temperature as a tensor that multiplies x (..., n): one more dimension at the end.

    Raises:
        SolverError: it is negative or not finite; of another device that is only noted in the state (Kernel.move).
    """
    if isinstance(temperature, Tensor):
        heat = temperature.to(like)
        here = heat if elsewhere(temperature) else temperature
        wrong = not elsewhere(here) and not bool(_warm(here).all())
    else:
        heat, wrong = like.new_full((), temperature), not 0.0 <= temperature < float("inf")
    if wrong:
        raise SolverError(f"A temperature must be finite and not negative, got {temperature}.")
    return heat.unsqueeze(-1)


def _warm(temperature: Tensor) -> Tensor:
    """Where it is a temperature, (...)."""
    return torch.isfinite(temperature) & (temperature >= 0.0)
