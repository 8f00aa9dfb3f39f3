"""Portfolios whose weights have modes: points where a name rests, and ranges that it may move in.

    a face:        a mode for every coordinate, [lower, upper] or a point,   count_lower <= B counts <= count_upper
    on it:         A x = b,   row_lower <= R x <= row_upper,   L1 balls,   heavy units together at most so much

"Out at zero, or between 1 % and 10 %", "held as it is, or traded", "short, out, or long" are modes. Faces with other
numbers of ranges have other dimensions, so that the measure has to be stated:

    mu = sum over faces of  exp(log_weight)  x  Lebesgue measure of the weights in a range, cut by A x = b

cut as by thin ranges around b, of the same width on every face: |C| - q of the weights, over |det A_P| of the q others,
and it makes no difference which q those are.

Source: Kolmogorov's limit of conditional laws, e.g. Chang, J. and Pollard, D. (1997), Conditioning as disintegration,
Statistica Neerlandica 51.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.polyhedron import Polyhedron
from portfolio_ebm.samplers.references import Reference


class Faces(NamedTuple):
    """Chains: x (d, chains); mode (d, chains); tally (L, chains), what the counts have; size (chains,), how many ranges
    count; rest (chains,), what the names at their points weigh."""

    x: Tensor
    mode: Tensor
    tally: Tensor
    size: Tensor
    rest: Tensor


@dataclass(frozen=True)
class FaceSet:
    """The set above, d coordinates with M modes at most.

    Attributes:
        lower, upper: (d, M), equal where a mode is a point, lower > upper where there is none. No two modes of a
            coordinate have more than an end in common.
        counts: B (L, d, M), count_lower, count_upper (L,).
        polyhedron: the equations, rows and balls; its box is not looked at.
        named: (d,), which coordinates are names; the others (cash) always have a range, and count for no dimension.
        reference: log_weight, by the number of ranges and what rests.
    """

    lower: Tensor
    upper: Tensor
    counts: Tensor
    count_lower: Tensor
    count_upper: Tensor
    polyhedron: Polyhedron
    named: Tensor
    reference: Reference
    heavy: tuple[Heavy, ...] = ()

    @property
    def n(self) -> int:
        return self.lower.shape[0]

    @cached_property
    def ranged(self) -> Tensor:
        """Which modes are ranges, bool (d, M)."""
        return self.lower < self.upper

    @cached_property
    def exists(self) -> Tensor:
        """Which modes there are, bool (d, M)."""
        return self.lower <= self.upper

    @cached_property
    def sized(self) -> Tensor:
        """Which modes count for the dimension, (d, M)."""
        return (self.ranged & self.named.unsqueeze(-1)).long()

    @cached_property
    def points(self) -> Tensor:
        """What a name weighs at its point, 0 for ranges, (d, M)."""
        return torch.where(self.exists & ~self.ranged, self.lower, 0.0)

    @cached_property
    def system(self) -> Tensor:
        """A and b, (q, d + 1), the rows of A independent."""
        p = self.polyhedron
        kept: list[Tensor] = []
        for row, value in zip(p.rows[p.equal], p.row_upper[p.equal], strict=True):
            if int(torch.linalg.matrix_rank(torch.stack([*(own[:-1] for own in kept), row]))) > len(kept):
                kept.append(torch.cat([row, value.reshape(1)]))
        return torch.stack(kept)

    @property
    def equations(self) -> Tensor:
        """A (q, d)."""
        return self.system[:, :-1]

    def modes(self, x: Tensor) -> Tensor:
        """The mode of every coordinate of x (d, chains): the point it is exactly at, or the nearest range."""
        at = x.unsqueeze(1)
        low, high = self.lower.unsqueeze(-1), self.upper.unsqueeze(-1)
        gap = (low - at).maximum(at - high).clamp_min(0.0)
        point = (self.exists & ~self.ranged).unsqueeze(-1)
        # Not argmin, which takes ten times as long along an inner dimension.
        return torch.where(point & (at != low), torch.inf, gap).min(1).indices

    def faces(self, x: Tensor) -> Faces:
        """The chains at x (d, chains)."""
        mode = self.modes(x)
        tally = self.counts.gather(2, mode.expand(len(self.counts), -1, -1)).sum(1)
        return Faces(x, mode, tally, self.sized.gather(1, mode).sum(0), self.points.gather(1, mode).sum(0))

    def holds(self, x: Tensor, slack: float = 1e-9) -> Tensor:
        """Whether x (d, chains) is in the set, to `slack`, (chains,)."""
        found = self.faces(x)
        low, high = self.lower.gather(1, found.mode), self.upper.gather(1, found.mode)
        inside = ((x >= low - slack) & (x <= high + slack)).all(0)
        below, above = self.count_lower.unsqueeze(-1), self.count_upper.unsqueeze(-1)
        inside = inside & ((found.tally >= below - slack) & (found.tally <= above + slack)).all(0)
        return inside & self.within(x, slack)

    def within(self, x: Tensor, slack: float) -> Tensor:
        """Whether x (d, chains) obeys the rows, balls and limits on heavy units, to `slack`, (chains,)."""
        p = self.polyhedron
        at = p.rows @ x
        inside = ((at >= p.row_lower[:, None] - slack) & (at <= p.row_upper[:, None] + slack)).all(0)
        for ball in p.balls:
            inside = inside & (ball.value(x) <= ball.limit + slack)
        for limit in self.heavy:
            inside = inside & limit.holds(x)
        return inside


@dataclass(frozen=True)
class FaceTarget:
    """E(x) = 1/2 x'Mx + m'x + sum_i price_i(mode of x_i) + slope_i(mode of x_i) x_i; price, slope (d, M)."""

    quadratic: Target
    price: Tensor
    slope: Tensor
    faces: FaceSet

    def __call__(self, x: Tensor) -> Tensor:
        """E at x (d, chains), (chains,)."""
        mode = self.faces.modes(x)
        return self.quadratic(x) + (self.price.gather(1, mode) + self.slope.gather(1, mode) * x).sum(0)
