"""Replica exchange: chains at rising temperatures trade places, so that the coldest hear of modes far away.

    levels T_1 < ... < T_L,  one chain of each level makes a family;  neighbours trade with probability
    min(1, exp((1 / T_l - 1 / T_{l+1}) (E_l - E_{l+1})))

The product of the levels' laws is invariant, so the coldest level is an exact sample of its own. Chains are columns,
level by level: column l * families + f.

Sources: Geyer, C. (1991), Markov chain Monte Carlo maximum likelihood, Computing Science and Statistics 23; Swendsen
and Wang (1986), Physical Review Letters 57.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exchanged(
    energy: Tensor, levels: Tensor, odd: bool, rng: torch.Generator, walls: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Which chain stands in each column after neighbours traded, (L * families,): levels (0, 1), (2, 3), ..., or,
    where `odd`, (1, 2), (3, 4), ...; `energy` is by column. `walls`: V by column and lambda by level, where the levels'
    laws are exp(-E / T_l - lambda_l V); the chance then has (lambda_l - lambda_{l+1}) (V_l - V_{l+1}) too.

    Example:
        >>> order = exchanged(energy, levels, odd=False, rng=rng)
        >>> x, energy = x[:, order], energy[order]
    """
    count = len(levels)
    families = energy.shape[0] // count
    order = torch.arange(energy.shape[0], device=energy.device).reshape(count, families)
    value = energy.reshape(count, families)
    low = torch.arange(count - 1, device=energy.device)[int(odd) :: 2]
    gain = (1.0 / levels[low] - 1.0 / levels[low + 1]).unsqueeze(-1) * (value[low] - value[low + 1])
    if walls is not None:
        wall, stiff = walls[0].reshape(count, families), walls[1]
        gain = gain + (stiff[low] - stiff[low + 1]).unsqueeze(-1) * (wall[low] - wall[low + 1])
    uniform = torch.rand(gain.shape, generator=rng, dtype=energy.dtype, device=energy.device)
    traded = uniform < torch.exp(gain.clamp_max(0.0))
    found = order.clone()
    found[low] = torch.where(traded, order[low + 1], order[low])
    found[low + 1] = torch.where(traded, order[low], order[low + 1])
    return found.flatten()
