"""anneal: the one sampling loop.

    state_0 = init(x0);   state_{k+1} = step(state_k, E, T_k)

With a falling schedule it looks for low energies (Kirkpatrick, Gelatt and Vecchi, 1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.kernel import Kernel, State
from portfolio_ebm.samplers.schedules import Cooling


@dataclass(frozen=True)
class Annealed:
    """What a run of chains found.

    Attributes:
        state: where the chains ended.
        best: (..., n), the lowest-energy point each chain visited, its start included.
        best_energy: (...).
        trace: (n_steps + 1, ...), the energies visited.
        draws: (kept, ..., n), every `thin`-th point; none where thin is 0.
    """

    state: State
    best: Tensor
    best_energy: Tensor
    trace: Tensor
    draws: Tensor


def anneal(
    kernel: Kernel,
    energy: Bound,
    x0: Tensor,
    *,
    schedule: Cooling,
    n_steps: int,
    rng: torch.Generator,
    thin: int = 0,
) -> Annealed:
    """Run a batch of chains from x0 (..., n) for n_steps.

    Args:
        kernel: the step.
        energy: E: (..., n) -> (...).
        x0: starting points; dtype and device follow them.
        schedule: the temperature of every step.
        n_steps: how many; 0 evaluates the start alone.
        rng: the random stream, on the device of x0.
        thin: keep every thin-th point in `draws`; 0 keeps none.

    Raises:
        SolverError: an energy or gradient came out as NaN, or a temperature is negative or not finite; on another
            device than the host's said at the end.
        SpecError: n_steps or thin is negative.

    Example:
        >>> anneal(ULA(0.1), energy, torch.zeros(64, 3), schedule=Geometric(start=1.0, end=0.01), n_steps=500, rng=rng)
    """
    if n_steps < 0 or thin < 0:
        raise SpecError(f"anneal needs n_steps >= 0 and thin >= 0, got {n_steps} and {thin}.")
    state = kernel.init(x0, energy)
    best, lowest = state.x, state.energy
    trace, draws = [state.energy], []
    for k in range(n_steps):
        state = kernel.step(state, energy, schedule.at(k, n_steps), rng)
        better = state.energy < lowest
        best = torch.where(better.unsqueeze(-1), state.x, best)
        lowest = torch.where(better, state.energy, lowest)
        trace.append(state.energy)
        if thin and (k + 1) % thin == 0:
            draws.append(state.x)
    kept = torch.stack(draws) if draws else x0.new_zeros((0, *x0.shape))
    return Annealed(state.sound(), best, lowest, torch.stack(trace), kept)
