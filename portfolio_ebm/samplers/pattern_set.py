"""Portfolios with a choice of names: a pattern, the set of names held, and their weights.

    a pattern P:   least <= |P| <= slots,   count_lower <= B 1_P <= count_upper
    on it:         lower_i <= x_i <= upper_i for i in P, 0 outside,   sum x fixed,   row_lower <= A x <= row_upper,
                   L1 balls,   heavy units together at most so much

Slices of patterns with different numbers of names have different dimensions, so that the measure has to be stated:

    mu = sum over P of  exp(log_size[|P|])  x  Lebesgue measure of |P| - 1 of the weights of P

The budget gives the last weight, and it makes no difference which one that is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.polyhedron import Ball

HELD = 1e-9
"""A weight of at most this is not held."""


@dataclass(frozen=True)
class PatternSet:
    """The set above.

    Attributes:
        lower, upper: (n,), of a name that is held; lower is raised to HELD.
        rows: A (r, n), row_lower, row_upper (r,); the budget is not among them.
        counts: B (b, n), count_lower, count_upper (b,).
        slots, least: the largest and the least number of names.
        log_size: (slots + 1,), the logarithm of the measure's weight by number of names.
    """

    lower: Tensor
    upper: Tensor
    rows: Tensor
    row_lower: Tensor
    row_upper: Tensor
    counts: Tensor
    count_lower: Tensor
    count_upper: Tensor
    slots: int
    least: int
    log_size: Tensor
    balls: tuple[Ball, ...] = ()
    heavy: tuple[Heavy, ...] = ()

    @property
    def n(self) -> int:
        return self.lower.shape[-1]

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Names that rows and counts cannot tell apart: of each name its kind (n,); by kind the columns of A (r, c)
        and of B (b, c)."""
        both, kind = torch.unique(torch.cat([self.rows, self.counts]).T, dim=0, return_inverse=True)
        return kind, both[:, : len(self.rows)].T.contiguous(), both[:, len(self.rows) :].T.contiguous()

    def holds(self, x: Tensor, slack: float = 1e-9) -> Tensor:
        """Whether x (n, chains) is in the set, to `slack`, (chains,); the sum is not looked at."""
        held = x > 0.5 * HELD
        size = held.sum(0)
        inside = (size >= self.least) & (size <= self.slots) & ((x == 0.0) | held).all(0)
        low, high = self.lower.unsqueeze(-1) - slack, self.upper.unsqueeze(-1) + slack
        inside = inside & (~held | ((x >= low) & (x <= high))).all(0)
        for matrix, below, above, what in (
            (self.rows, self.row_lower, self.row_upper, x),
            (self.counts, self.count_lower, self.count_upper, held.to(x.dtype)),
        ):
            at = matrix @ what
            inside = inside & ((at >= below.unsqueeze(-1) - slack) & (at <= above.unsqueeze(-1) + slack)).all(0)
        for ball in self.balls:
            inside = inside & (ball.value(x) <= ball.limit + slack)
        for limit in self.heavy:
            inside = inside & limit.holds(x)
        return inside


def simplex_sizes(slots: int, floor: float, total: float) -> Tensor:
    """log_size that makes each pattern's simplex {x >= floor, sum x = total} weigh one: with m names its Lebesgue
    measure is (total - m floor)^(m - 1) / (m - 1)!, and a single name's is one. Infinite where it is empty."""
    found = [math.inf, 0.0]
    for m in range(2, slots + 1):
        room = total - m * floor
        found.append(math.lgamma(m) - (m - 1) * math.log(room) if room > 0.0 else math.inf)
    return torch.tensor(found, dtype=torch.float64)
