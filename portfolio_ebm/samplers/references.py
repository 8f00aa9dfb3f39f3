"""The mass of a face before the energy has its say: that its reference set, of the same kind on all faces, weighs one.

    simplex   { x_C >= floor,          low <= sum x_C + rest <= high }      where there is no ceiling
    box       { floor <= x_C <= top,   low <= sum x_C + rest <= high }

with m names in a range and the others weighing `rest`. For low = high the volumes are (s - m floor)^(m-1) / (m-1)! with
s = low - rest, and (top - floor)^(m-1) f_m((s - m floor) / (top - floor)), f_m the density of a sum of m uniforms
(Irwin and Hall); else what lies between the ends. One name whose weight the sum fixes has volume one, and so has none.

Source: Feller, W. (1971), An Introduction to Probability Theory and Its Applications II, section I.9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

GRID = 64
"""Points to a unit where f_m is tabulated."""

NONE = 1e-9
"""Where less than this is left to move, the names have nothing to choose."""


@dataclass(frozen=True)
class Reference:
    """log_weight(m, rest) = -log(volume of the reference set), for m names at most `most`; 0 where `flat`: there all
    faces have one dimension and Lebesgue measure compares them."""

    floor: float
    top: float
    low: float
    high: float
    most: int
    flat: bool = False

    @property
    def fixed(self) -> bool:
        """Whether the sum is an equation."""
        return self.high - self.low <= NONE

    def log_weight(self, size: Tensor, rest: Tensor) -> Tensor:
        """By elements, -inf where the reference set is empty."""
        if self.flat:
            return torch.zeros_like(rest)
        spread = size - 1 if self.fixed else size
        ends = tuple(end - rest - size.to(rest) * self.floor for end in (self.low, self.high))
        found = self._simplex(spread, *ends) if math.isinf(self.top) else self._box(size, spread, *ends)
        return torch.where(spread <= 0, 0.0, found)

    def _simplex(self, spread: Tensor, low: Tensor, high: Tensor) -> Tensor:
        log, many = high.clamp_min(1e-300).log(), spread.to(high)
        volume = many * log - self._factorials[spread.clamp(0, self.most)]
        if not self.fixed:
            share = many * (low.clamp_min(1e-300).log() - log)
            volume = volume + torch.log1p(-torch.exp(torch.where(low > 0.0, share, -torch.inf).clamp_max(-1e-12)))
        return torch.where(high > NONE, -volume, -torch.inf)

    def _box(self, size: Tensor, spread: Tensor, low: Tensor, high: Tensor) -> Tensor:
        width = self.top - self.floor
        above = self._at(size, high / width)
        part = above if self.fixed else above - self._at(size, low / width)
        volume = part.clamp_min(1e-300).log() + spread.to(part) * math.log(width)
        return torch.where(part > 1e-290, -volume, -torch.inf)

    def _at(self, size: Tensor, z: Tensor) -> Tensor:
        """f_m(z), or where the sum is not fixed its integral up to z, between the points of the table a line."""
        place = (z * GRID).clamp(0.0, self._table.shape[1] - 1.0)
        left = place.floor().clamp_max(self._table.shape[1] - 2.0)
        flat = self._table.flatten()
        start = size.clamp(0, self.most) * self._table.shape[1] + left.long()
        return torch.lerp(flat[start], flat[start + 1], place - left)

    @cached_property
    def _factorials(self) -> Tensor:
        """log m!, (most + 1,)."""
        return torch.lgamma(torch.arange(self.most + 1, dtype=torch.float64) + 1.0)

    @cached_property
    def _table(self) -> Tensor:
        """f_m, or its integral, at the points k / GRID of [0, most], (most + 1, points)."""
        z = torch.arange(self.most * GRID + 1, dtype=torch.float64) / GRID
        density = [torch.zeros_like(z), (z <= 1.0).to(z), (1.0 - (z - 1.0).abs()).clamp_min(0.0)]
        while len(density) <= self.most:
            m, whole = len(density), _integral(density[-1])
            found = whole - torch.nn.functional.pad(whole, (GRID, 0))[: len(whole)]
            # Above the middle a difference of near equals has no digits: there the other half is read backwards.
            half, end = m * GRID // 2, m * GRID
            found[half + 1 : end + 1] = found[: end - half].flip(0)
            found[end:] = 0.0
            density.append(found)
        density = density[: self.most + 1]
        if self.fixed:
            return torch.stack(density)
        return torch.stack(
            [torch.zeros_like(z), z.clamp_max(1.0), *(_integral(one) for one in density[2:])][: self.most + 1]
        )


def _integral(values: Tensor) -> Tensor:
    """The integral up to every point of a grid, by trapezoids."""
    steps = 0.5 * (values[1:] + values[:-1]) / GRID
    return torch.nn.functional.pad(steps.cumsum(0), (1, 0))
