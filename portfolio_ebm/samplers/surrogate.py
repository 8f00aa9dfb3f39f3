"""Metropolis over a surrogate: many cheap exact moves on a quadratic, then one look at the true energy.

    y = P_1 ... P_L P_L ... P_1 x,   P_k reversible for exp(-q / T)
    taken with probability min(1, exp(-((E(y) - q(y)) - (E(x) - q(x))) / T))

The moves there and back make the whole a reversible step for exp(-q/T), so that the acceptance is exact for any q;
q only decides how often it says yes. An energy of +inf marks what lies outside of further limits.

Source: Liu, J. S. (2001), Monte Carlo Strategies in Scientific Computing, section 9.4 (surrogate transitions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SolverError
from portfolio_ebm.samplers.planned import Planned


@dataclass(frozen=True)
class Surrogate:
    """The kernel: `moves` for q, the true `energy` (chains, n) -> (chains,), and the number L of moves there."""

    moves: Planned[Any]
    energy: Bound
    length: int

    def step(
        self, x: Tensor, value: Tensor, temperature: float | Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (n, chains) with its energies (chains,) after one step; and the probability with which it was taken.

        Raises:
            SolverError: the energy came out as NaN.
        """
        y = self.moves.there_and_back(x, temperature, self.length, rng)
        proposed = self.energy(y.T)
        if bool(proposed.isnan().any()):
            raise SolverError("The energy is NaN for some chains; check the estimates behind its terms.")
        target = self.moves.target
        change = (proposed - target(y)) - (value - target(x))
        chance = torch.exp((-change / temperature).clamp_max(0.0))
        uniform = torch.rand(chance.shape, generator=rng, dtype=x.dtype, device=x.device)
        taken = uniform < chance
        return torch.where(taken, y, x), torch.where(taken, proposed, value), chance
