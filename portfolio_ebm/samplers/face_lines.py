"""Lines of q + 1 coordinates that q equations leave open: who moves, which way, and what holds along it.

    x + t d,   d = 0 but on i, j and q - 1 others,   A d = 0,   d_i = 1

Source: see face_gibbs.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from portfolio_ebm.samplers.face_set import FaceTarget
from portfolio_ebm.samplers.face_table import LOWER, SLOPE, UPPER, FaceTable, looked
from portfolio_ebm.samplers.polyhedron import side

WITHIN, ACROSS, REST = 0, 1, 2
"""The ways of drawing who moves, see face_gibbs.py."""

SLACK = 1e-12
"""A sum that a limit meets may be beyond it by its rounding."""

STEEP = 1e-4
"""Equations whose determinant is below this, in units of their largest entry, are not solved for these names."""


class State(NamedTuple):
    """All chains: x (d, chains), the slot of every mode (d, chains), and sums (2 + L, chains): how many ranges count,
    what the names at their points weigh, and what the limits on numbers count. They are the kernel's own, and a move
    changes them in place."""

    x: Tensor
    slot: Tensor
    sums: Tensor


class Line(NamedTuple):
    """The lines of all chains: who moves, where these are, their slots and d, (q + 1, chains) each; which chains have
    one, and whether i may take j's place among those that the equations give (chains,); the ends that all but i's and
    j's modes leave, and slope at t = 0 and curvature of the energy without these modes (chains,)."""

    who: Tensor
    at: Tensor
    slot: Tensor
    d: Tensor
    valid: Tensor
    turns: Tensor
    low: Tensor
    high: Tensor
    slope: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class Lines:
    """Draws the lines of all chains under one law, whose modes stand in `table`."""

    law: FaceTarget
    table: FaceTable

    @cached_property
    def q(self) -> int:
        """How many equations there are."""
        return len(self.law.faces.equations)

    @cached_property
    def even(self) -> tuple[Tensor, Tensor] | None:
        """d (2, 1) and "yes" where any two exchange weight one to one; None elsewhere."""
        if self.q > 1 or bool((self._scaled != self._scaled[0, 0]).any()):
            return None
        one = torch.ones_like(self._scaled[:, :1])
        return torch.cat([one, -one]), one[0] > 0.0

    def drawn(self, state: State, kind: int, rng: torch.Generator) -> Line:
        """The lines of a move of one `kind`."""
        who, valid = self._movers(state.slot >= self.table.points, kind, rng)
        d, solved, turns = self._direction(who)
        at, slot = state.x.gather(0, who), state.slot.gather(0, who)
        low, high = self._ends(state, who, at, d)
        slope, curvature = self._along(state, who, d)
        if self.q > 1:
            others = looked(self.table.values, slot[2:], who[2:])
            one, other = crossed(others[LOWER] - at[2:], others[UPPER] - at[2:], d[2:])
            low, high = low.maximum(one.amax(0)), high.minimum(other.amin(0))
            slope = slope + (others[SLOPE] * d[2:]).sum(0)
        # A breach by rounding is a limit that is met.
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
        return Line(who, at, slot, d, valid & solved, turns, low, high, slope, curvature)

    def _movers(self, free: Tensor, kind: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Who moves (q + 1, chains), and which chains have so many that may; `free` (d, chains) have a range."""
        (n, chains), q = free.shape, self.q
        uniforms = torch.rand(q + 1, chains, generator=rng, dtype=self.law.price.dtype, device=free.device)
        if kind == REST:
            who = _different(uniforms, torch.full_like(uniforms[0], n))
            return who, free.sum(0) == free.gather(0, who).sum(0)
        if kind == WITHIN:
            return _among(free, uniforms)
        first = (uniforms[:1] * n).long()
        others, valid = _among(free.scatter(0, first, False), uniforms[1:])
        return torch.cat([first, others]), valid

    def _direction(self, who: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d with A d = 0 and 1 for i; whether the equations give the others; whether i may stand in for j."""
        if self.even is not None:
            d, always = self.even
            return d.expand(-1, who.shape[1]), always.expand(who.shape[1]), always.expand(who.shape[1])
        columns = self._scaled[:, who]
        if self.q == 1:
            base = columns[0, 1]
            solved = base.abs() > STEEP
            second = -columns[0, 0] / torch.where(solved, base, 1.0)
            return torch.stack([torch.ones_like(second), second]), solved, columns[0, 0].abs() > STEEP
        matrix = columns[:, 1:].permute(2, 0, 1)
        size = torch.linalg.det(matrix)
        solved = size.abs() > STEEP
        matrix = torch.where(solved[:, None, None], matrix, torch.eye(self.q, dtype=matrix.dtype, device=matrix.device))
        rest = -torch.linalg.solve(matrix, columns[:, 0].T.unsqueeze(-1)).squeeze(-1).T
        return torch.cat([torch.ones_like(rest[:1]), rest]), solved, (size * rest[0]).abs() > STEEP

    def _ends(self, state: State, who: Tensor, at: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of t that rows and balls leave, (chains,) each."""
        p = self.law.faces.polyhedron
        high = torch.full_like(d[0], torch.inf)
        low = -high
        if len(self._rows[0]):
            rows, below, above = self._rows
            there = rows @ state.x
            pace = (rows[:, who] * d).sum(1)
            still = pace.abs() <= 1e-14
            one, other = crossed(below - there, above - there, torch.where(still, 0.0, pace))
            low, high = low.maximum(one.amax(0)), high.minimum(other.amin(0))
        for ball in p.balls:
            gap, up, down = at - ball.centre[who], ball.up[who], ball.down[who]
            rest = ball.limit - ball.value(state.x) + side(gap, up, down).sum(0)
            # Each side of a kink is a line, and the ball is where all of them are low enough.
            lines = torch.where(self._sides, up, -down)
            pace = (lines * d).sum(1)
            end = (rest - (lines * gap).sum(1)).clamp_min(0.0) / pace
            high = high.minimum(torch.where(pace > 0.0, end, torch.inf).amin(0))
            low = low.maximum(torch.where(pace < 0.0, end, -torch.inf).amax(0))
        return low, high

    def _along(self, state: State, who: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Slope at t = 0 and curvature of the energy without modes, (chains,) each."""
        columns = self._energy.index_select(1, who.flatten()).view(-1, *who.shape)
        pull = columns[:, 0]  # d is 1 for i
        for k in range(1, len(who)):
            pull = torch.addcmul(pull, columns[:, k], d[k])
        slope = (pull[:-1] * state.x).sum(0) + pull[-1]
        return slope, (pull.gather(0, who) * d).sum(0).clamp_min(self.law.quadratic.flat)

    @cached_property
    def _energy(self) -> Tensor:
        """The matrix of the quadratic, and below it what is linear, (d + 1, d)."""
        return torch.cat([self.law.quadratic.matrix, self.law.quadratic.linear.unsqueeze(0)])

    @cached_property
    def _scaled(self) -> Tensor:
        """The equations, the largest entry of each 1."""
        rows = self.law.faces.equations
        return rows / rows.abs().amax(1, keepdim=True)

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows that are no equations, and their ends (r, 1)."""
        p = self.law.faces.polyhedron
        open_ = ~p.equal
        return p.rows[open_], p.row_lower[open_].unsqueeze(-1), p.row_upper[open_].unsqueeze(-1)

    @cached_property
    def _sides(self) -> Tensor:
        """On which side of its kink each of q + 1 names is, all ways there are, (2^(q+1), q + 1, 1)."""
        both = torch.tensor([False, True], device=self.law.price.device)
        return torch.cartesian_prod(*[both] * (self.q + 1)).unsqueeze(-1)


def _different(uniforms: Tensor, count: Tensor) -> Tensor:
    """Different whole numbers below `count` (chains,), as many as there are uniforms (m, chains), in random order."""
    found = (uniforms[:1] * count).long()
    for k in range(1, len(uniforms)):
        # One of those that are left, and past those that are taken.
        one = (uniforms[k] * (count - k)).long()
        for taken in found.sort(0).values:
            one = one + (one >= taken)
        found = torch.cat([found, one.unsqueeze(0)])
    return found


def _among(free: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Different coordinates that are `free` (d, chains), one for each of uniforms (m, chains), and which chains have so
    many."""
    before = free.cumsum(0)
    ranks = _different(uniforms, before[-1])
    who = (before <= ranks.unsqueeze(1)).sum(1).clamp_max(len(free) - 1)
    return who, before[-1] >= len(uniforms)


def crossed(below: Tensor, above: Tensor, pace: Tensor, *, moving: bool = False) -> tuple[Tensor, Tensor]:
    """The ends of t with below <= pace t <= above; where nothing moves all t, or none where zero is not between."""
    if moving:
        one, other = below / pace, above / pace
        return one.minimum(other), one.maximum(other)
    still = pace == 0.0
    step = torch.where(still, 1.0, pace)
    one, other = below / step, above / step
    outside = (below > SLACK) | (above < -SLACK)
    low = torch.where(still, torch.where(outside, torch.inf, -torch.inf), one.minimum(other))
    return low, torch.where(still, torch.where(outside, -torch.inf, torch.inf), one.maximum(other))
