"""Heavy: a limit on what the large units (names, issuers) weigh together, such as 5/10/40 and 25/50.

    sum of s_u over the units with s_u > over_u  <=  most,    s_u the weight of unit u

Not convex: between its pieces a unit jumps over its threshold. Kernels take it by a Metropolis step: a move drawn from
the law without the limit, and kept only within it, leaves the law within the limit as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Heavy:
    """The units above their threshold weigh at most `most` together.

    Attributes:
        unit: (n,), of every coordinate the number of its unit, or U where it has none.
        over: (U,), the thresholds.
        fixed: (U,), what the units have beside these coordinates.
    """

    unit: Tensor
    over: Tensor
    most: float
    fixed: Tensor

    def sums(self, x: Tensor) -> Tensor:
        """The units' weights, (U, chains), of x (n, chains)."""
        found = x.new_zeros(len(self.over) + 1, x.shape[1]).index_add(0, self.unit, x)[:-1]
        return found + self.fixed.unsqueeze(-1)

    def weight(self, sums: Tensor) -> Tensor:
        """What the heavy ones of units with weights `sums` (U, chains) weigh together, (chains,)."""
        found: Tensor = (sums * (sums > self.over.unsqueeze(-1))).sum(0)
        return found

    def holds(self, x: Tensor) -> Tensor:
        """Whether the limit holds at x (n, chains), (chains,)."""
        return self.weight(self.sums(x)) <= self.most
