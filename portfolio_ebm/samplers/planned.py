"""A planned kernel: what moves is drawn beforehand, by chances that do not look at the chains; then the moves are made.

Each move is reversible, so that a plan and its reverse after it are a reversible step, and any plan leaves the law.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Move = TypeVar("Move")


class Planned(ABC, Generic[Move]):
    """A kernel for exp(-target / T); chains are the columns of x (d, chains). The temperature is one, or, but for
    PairGibbs and HitAndRun, one for each chain."""

    target: Callable[[Tensor], Tensor]

    @abstractmethod
    def plan(self, steps: int, rng: torch.Generator) -> list[Move]:
        """What moves, drawn beforehand."""

    @abstractmethod
    def sweep(self, x: Tensor, temperature: Any, plan: list[Move], rng: torch.Generator) -> Tensor:
        """x after the moves of `plan`, in order."""

    def run(self, x: Tensor, temperature: Any, steps: int, rng: torch.Generator) -> Tensor:
        """x after `steps` moves."""
        return self.sweep(x, temperature, self.plan(steps, rng), rng)

    def there_and_back(self, x: Tensor, temperature: Any, steps: int, rng: torch.Generator) -> Tensor:
        """x after `steps` moves and the same in reverse order: a reversible step."""
        plan = self.plan(steps, rng)
        return self.sweep(x, temperature, plan + plan[::-1], rng)


def by_chain(temperature: float | Tensor, x: Tensor) -> Tensor:
    """The temperature of every chain of x (d, chains), (chains,)."""
    return torch.as_tensor(temperature, dtype=x.dtype, device=x.device).expand(x.shape[1])
