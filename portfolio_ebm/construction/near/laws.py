"""What laws exp(-E/T) near an optimum have in common: the names they are on, E, the measure, where chains start.

optimal.py is the law on convex rules; patterns.py, faces.py, lots.py and unions.py those with
a choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from portfolio_ebm.construction.exact.minimum import Minimum
from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.planned import Planned
from portfolio_ebm.samplers.polyhedron import Polyhedron
from portfolio_ebm.samplers.surrogate import Surrogate


@dataclass(frozen=True)
class NearLaw(ABC):
    """exp(-E/T) on the names `kept` (k,), the others standing at `base` (n,).

    Coordinates are the weights of the kept names, and cash where the budget is open and the kernel asks for it, (d,).

    Attributes:
        best: the optimum, or the best portfolio known; its value is what the excess is counted from.
        energy: E on whole portfolios (chains, n), infinite beyond curved caps; None where the kernel knows all of it.
        value: E on whole portfolios.
        excess: the tolerated energy above the best portfolio's.
        k: what the excess is divided by for the first guess of T.
        measure: the measure in words.
    """

    kept: Tensor
    base: Tensor
    best: Minimum
    energy: Bound | None
    value: Bound
    excess: float
    k: float
    measure: str

    @abstractmethod
    def placed(self, w: Tensor) -> Tensor:
        """Coordinates (d, chains) of portfolios w (chains, n)."""

    def whole(self, x: Tensor) -> Tensor:
        """Portfolios (chains, n) of coordinates (d, chains)."""
        w = self.base.expand(x.shape[1], -1).clone()
        w[:, self.kept] = x[: len(self.kept)].T
        return w

    def energies(self, x: Tensor) -> Tensor:
        """E of coordinates x (d, chains), infinite beyond curved caps, (chains,)."""
        return (self.energy or self.value)(self.whole(x))

    def start(self, chains: int) -> Tensor:
        """The best portfolio in coordinates, (d, chains)."""
        return self.placed(self.best.weights.unsqueeze(0)).repeat(1, chains)


HARD = 1e30
"""The stiffness of a wall that nothing passes."""


@dataclass(frozen=True)
class ChoiceLaw(NearLaw):
    """A law where names, or their modes, are a choice; `kernel` draws from all of it, or from what it knows of E."""

    kernel: Planned[Any]
    title: ClassVar[str]
    """The kernel's name."""
    stride: ClassVar[int] = 8
    """Segments between draws at first, and about those between looks of the pilot run."""
    advice: ClassVar[str] = (
        "or ask for fewer names. Where a name that comes in takes more than one other can give (a largest weight below "
        "twice the least), no move joins such portfolios: give weights more room."
    )
    """What else to do where chains did not mix."""

    @property
    @abstractmethod
    def pace(self) -> int:
        """Half of the moves between two exchanges; where it is too few the thinning doubles."""

    @property
    @abstractmethod
    def budget(self) -> int:
        """The most moves of a chain, where none are given."""

    def modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mode of every name in x (k, chains), here whether it is held; and whether its weight may move there."""
        held = x != 0.0
        return held.long(), held

    def moved(
        self, x: Tensor, value: Tensor, heat: Tensor, stiffness: Tensor, moves: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x (d, chains) and its energies after about so many moves at temperatures `heat` (chains,), and the chance
        that a Metropolis step was taken; None where every move is exact. `stiffness` (chains,) is of the `walls`."""
        if self.energy is None:
            x = self.kernel.run(x, heat, moves, rng)
            return x, self.energies(x), None
        length, chances = max(self.pace // 2, 2), []
        over = Surrogate(self.kernel, lambda w: self.energies(w.T), length)
        for _ in range(max(moves // (2 * length), 1)):
            x, value, chance = over.step(x, value, heat, rng)
            chances.append(chance)
        return x, value, torch.stack(chances).mean(0)

    def walls(self, x: Tensor) -> Tensor:
        """By how much x (d, chains) is outside of what exchange may leave for a while, (chains,)."""
        return torch.zeros_like(x[0])

    def ladder(self, x: Tensor, heat: float, moves: int, rng: torch.Generator) -> Tensor:
        """The stiffness of the walls above the hottest chains x (d, chains), falling; none where there are no walls."""
        return torch.zeros_like(x[0, :0])

    def inside(self, x: Tensor) -> Tensor:
        """Which cases of `Either` x (d, chains) is in, bool (K, chains); no rows where there are none."""
        return torch.zeros(0, x.shape[1], dtype=torch.bool, device=x.device)

    def strangers(self, places: Tensor, chains: int, heat: float, moves: int, rng: torch.Generator) -> Tensor:
        """Starts that know little of the best portfolio, (d, chains): from `places` (m, n) by turns, and then hot."""
        return self.kernel.run(self.by_turns(places, chains), heat, moves, rng)

    def by_turns(self, places: Tensor, chains: int) -> Tensor:
        """Coordinates (d, chains) of `places` (m, n), each for two chains at a time."""
        return self.placed(places)[:, torch.arange(chains, device=places.device) // 2 % len(places)]


def with_cash(x: Tensor, p: Polyhedron) -> Tensor:
    """x (k, chains) with what is not spent below it where `p` has a coordinate for it, see `with_slack`."""
    if p.n == len(x):
        return x
    return torch.cat([x, (p.row_upper[-1] / p.rows[-1, -1] - x.sum(0)).unsqueeze(0)])
