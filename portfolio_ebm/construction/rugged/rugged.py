"""The gradient engine: low energies where nothing but gradients is known.

    1. probe     descents from many starts; where they agree there is one minimum, and no more is done
    2. kick      cycles of 15 Langevin steps at 3 sd / (n / 2) and 30 of descent, kept where lower; before each the
                 worst quarter of the chains starts anew from copies of the best quarter, and these are kicked at
                 30 sd / (n / 2)

How hot a kick must be to leave a well depends on in how many directions the energy moves: 3 is enough where all n of
them raise E; where few do, most of the noise is lost on the others. The copies try what their originals do not.

Nothing found this way is proven: the result is the best point seen.

All of it is for chains (..., m, n), in front the problems that walk in one batch (landscapes.py). None of them sees
another, and they share the noise of a step, (m, n), which is what each of them would draw alone.

Source: Wales and Doye (1997), Global optimization by basin-hopping, J. Phys. Chem. A 101, for the cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.kernel import Kernel, State, Temperature, evaluate
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.wrappers import Projected

PROBE_STEPS, KICK_STEPS, DESCENT_STEPS = 60, 15, 30
KICK_HEAT, COPY_HEAT = 3.0, 30.0
AGREE = 1e-6


class Terrain(Protocol):
    """What walks ask of an energy on a region: numbers where it is one problem's (chains.Landscape), (P, 1) where it is
    that of P problems (landscapes.Landscapes)."""

    @property
    def energy(self) -> Bound: ...
    @property
    def spread(self) -> float | Tensor: ...
    @property
    def heat(self) -> float | Tensor: ...
    @property
    def step(self) -> float | Tensor: ...

    def project(self, w: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Explored:
    """What the gradient engine saw.

    Attributes:
        weights: (m, n), where the chains ended.
        energy: (m,).
        probed: (m,), the energies of the plain descents.
        agreed: whether the descents ended at one energy.
        cycles: how many kicks were done.
    """

    weights: Tensor
    energy: Tensor
    probed: Tensor
    agreed: bool
    cycles: int


def explore(landscape: Terrain, x0: Tensor, n_steps: int, rng: torch.Generator) -> Explored:
    """Look for low energies from x0 (m, n) within about n_steps gradient evaluations per chain."""
    seen = probed(landscape, x0, n_steps)
    if bool(agreed(landscape, seen)):
        return Explored(seen.x, seen.energy, seen.energy, True, 0)
    now = cycled(landscape, seen, cycles(n_steps), rng)
    return Explored(now.x, now.energy, seen.energy, False, cycles(n_steps))


def cycles(n_steps: int) -> int:
    """How many kicks about n_steps gradient evaluations are."""
    return max((n_steps - PROBE_STEPS) // (KICK_STEPS + DESCENT_STEPS), 1)


def probed(landscape: Terrain, x0: Tensor, n_steps: int) -> State:
    """Where descents from x0 (..., m, n) end that take a fifth of n_steps, and PROBE_STEPS at most."""
    return descend(landscape, x0, max(min(n_steps // 5, PROBE_STEPS), 1)).sound()


def agreed(landscape: Terrain, probe: State) -> Tensor:
    """Whether the descents of a problem ended at one energy, (...)."""
    width = probe.energy.amax(-1, keepdim=True) - probe.energy.amin(-1, keepdim=True)
    return (width <= AGREE * landscape.spread).squeeze(-1)


def cycled(landscape: Terrain, now: State, count: int, rng: torch.Generator) -> State:
    """The state of chains (..., m, n) after so many kicks, each with a descent after it."""
    kernel = Projected(ULA(landscape.step), landscape.project)
    heats = now.energy.new_full(now.energy.shape[-1:], KICK_HEAT)
    heats[len(heats) - len(heats) // 4 :] = COPY_HEAT
    for _ in range(count):
        now = _replace_worst(now)
        kicked = kick(landscape, kernel, now, rng, heats)
        now = _better(now, descend(landscape, kicked.x, DESCENT_STEPS)).after(kicked)
    return now.sound()


def kick(
    landscape: Terrain, kernel: Kernel, state: State, rng: torch.Generator, heat: Temperature = KICK_HEAT
) -> State:
    """A few Langevin steps at a temperature in sd / (n / 2), one for all chains or one for each, (m,)."""
    one = state.x[(0,) * (state.x.ndim - 2)]
    for _ in range(KICK_STEPS):
        state = kernel.move(state, landscape.energy, heat * landscape.heat, kernel.draw(one, rng))
    return state


def descend(landscape: Terrain, x: Tensor, n_steps: int) -> State:
    """Projected gradient descent with a step of its own for every row, never uphill: (..., m, n) -> (..., m, n).

    A step that would raise the energy is not taken and halved; one that was taken grows by a fifth.
    """
    now = evaluate(landscape.project(x), landscape.energy)
    h = torch.zeros_like(now.energy) + landscape.step
    for _ in range(n_steps):
        there = evaluate(landscape.project(now.x - h.unsqueeze(-1) * now.gradient), landscape.energy)
        down = there.energy < now.energy
        h = torch.where(down, 1.2 * h, 0.5 * h)
        now = _take(down, there, now)
    return now


def _better(one: State, other: State) -> State:
    return _take(other.energy < one.energy, other, one)


def _take(mask: Tensor, there: State, here: State) -> State:
    wide = mask.unsqueeze(-1)
    return State(
        torch.where(wide, there.x, here.x),
        torch.where(mask, there.energy, here.energy),
        torch.where(wide, there.gradient, here.gradient),
    ).after(there, here)


def _replace_worst(now: State) -> State:
    """The chains, best first, with copies of the best quarter in place of the worst: the last quarter of the rows."""
    order = now.energy.argsort(dim=-1, stable=True)
    quarter = order.shape[-1] // 4
    if quarter:
        order = torch.cat([order[..., :-quarter], order[..., :quarter]], -1)
    wide = order.unsqueeze(-1).expand(now.x.shape)
    # What was not a number stays on record, also of chains that are left out.
    unsound = None if now.unsound is None else now.unsound.gather(-1, order) | now.unsound.any(-1, keepdim=True)
    return State(now.x.gather(-2, wide), now.energy.gather(-1, order), now.gradient.gather(-2, wide), unsound)
