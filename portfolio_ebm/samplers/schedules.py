"""Cooling schedules: the temperature of step k of N.

Constant    T_k = value
Geometric   T_k = start (end / start)^(k / (N - 1))
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import Field

from portfolio_ebm.types import Spec


class Cooling(Spec, ABC):
    """A temperature for every step.

    Example:
        >>> [Geometric(start=1.0, end=0.01).at(k, 3) for k in range(3)]
        [1.0, 0.1, 0.01]
    """

    @abstractmethod
    def at(self, step: int, n_steps: int) -> float:
        """T of step 0 <= step < n_steps; a single step is taken at the start."""


class Constant(Cooling):
    """One temperature throughout; 0 is descent."""

    value: float = Field(ge=0.0)

    def at(self, step: int, n_steps: int) -> float:
        return self.value


class Geometric(Cooling):
    """From start to end by a constant factor; both positive."""

    start: float = Field(gt=0.0)
    end: float = Field(gt=0.0)

    def at(self, step: int, n_steps: int) -> float:
        share = step / (n_steps - 1) if n_steps > 1 else 0.0
        return float(self.start ** (1.0 - share) * self.end**share)
