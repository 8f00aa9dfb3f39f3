"""Many slices of many programs at once, on any device, in so many steps and without a look at how they are doing.

    min 1/2 w'Qw + c'w + sum rate |w - held|   over   lower <= w <= upper,   a <= A w <= b,   sum |w - held| <= turnover

Slices of one program differ in their boxes alone, so that one inverse serves them all and a step is a product:

    w <- (Q + rho I + A'RA)^-1 (rho z - y - c + A'(R s - x))      z <- nearest to w + y / rho, box, kinks and turnover
    y <- y + rho (w - z)     x <- x + R (A w - s)                 s <- nearest to A w + R^-1 x in [a, b]

The value is that of the augmented Lagrangian at z, wrong by the square of what z misses the rows by. A slice that is
empty misses them by much, and its multipliers grow at every step: its value is above all others.

Source: Boyd, S. et al. (2011), Distributed optimization and statistical learning via the alternating direction method
of multipliers; Stellato, B. et al. (2020), OSQP, for steps that go beyond w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.simplex import near_anchor

RHO = 3.0
"""Stiffness in units, of names and of rows of length one; of longer rows it is less by their length."""
OVER = 100.0
"""What a unit of turnover beyond the cap costs, where not even the nearest point of a box is within it."""
BEYOND = 1.6
"""How far a step goes on the way to w."""


@dataclass(frozen=True)
class Slices:
    """Where the steps have come to on slices (P, B): w and z (P, B, n), s (P, B, m), and the multipliers y and x."""

    w: Tensor
    z: Tensor
    s: Tensor
    y: Tensor
    x: Tensor

    def at(self, place: Tensor) -> Slices:
        """The slices at `place` (P, B')."""
        return Slices(*(_rows(item, place) for item in (self.w, self.z, self.s, self.y, self.x)))


@dataclass(frozen=True)
class Family:
    """Programs of one shape, in units of their mean curvature, or of how far slopes lie apart or what trades cost where
    that is more: prices that are many units take many steps to build up.

    Attributes:
        matrix: (P, n, n). linear, held, rate: (P, n). rows: (P, m, n). low, high: (P, m). turnover: (P,).
        unit: (P,), what energies are divided by.
        inverse: (P, n, n), of Q + rho I + A'RA. stiffness: (P, 1, m), of the rows.
        kinked, capped: whether trades cost anything, or turnover is capped, in any of them.
    """

    matrix: Tensor
    linear: Tensor
    held: Tensor
    rate: Tensor
    rows: Tensor
    low: Tensor
    high: Tensor
    turnover: Tensor
    unit: Tensor
    inverse: Tensor
    stiffness: Tensor
    kinked: bool
    capped: bool

    @classmethod
    def of(cls, programs: Sequence[Program], device: torch.device) -> Family:
        """Of programs with as many names and rows each."""

        def stacked(items: Sequence[object]) -> Tensor:
            return torch.as_tensor(np.array(items, dtype=np.float64)).to(device)

        unit = stacked([max(p.diagonal.mean(), p.linear.std(), np.mean(p.rate), 1e-12 * p.scale) for p in programs])
        matrix = stacked([p.matrix for p in programs]) / unit[:, None, None]
        rows, low, high = (stacked([getattr(p, name) for p in programs]) for name in ("rows", "row_lower", "row_upper"))
        stiffness = RHO / rows.norm(dim=-1).clamp_min(1e-300).unsqueeze(1)
        flat = RHO * torch.eye(matrix.shape[-1], dtype=torch.float64, device=device)
        rate = [np.broadcast_to(p.rate, p.n) for p in programs]
        return cls(
            matrix=matrix, linear=stacked([p.linear for p in programs]) / unit[:, None],
            held=stacked([np.zeros(p.n) if p.held is None else p.held for p in programs]),
            rate=stacked(rate) / unit[:, None], rows=rows, low=low, high=high,
            turnover=stacked([p.turnover for p in programs]), unit=unit,
            inverse=torch.linalg.inv(matrix + flat + (rows.mT * stiffness) @ rows), stiffness=stiffness,
            kinked=bool(np.any(rate)), capped=any(np.isfinite(p.turnover) for p in programs),
        )  # fmt: skip

    def started(self, w: Tensor) -> Slices:
        """Slices (P, B) at portfolios w (P, B, n), no multiplier known."""
        at = w @ self.rows.mT
        return Slices(w, w, at, torch.zeros_like(w), torch.zeros_like(at))

    def step(self, now: Slices, lower: Tensor, upper: Tensor) -> Slices:
        """One step on slices with boxes (P, B, n)."""
        r, linear = self.stiffness, self.linear.unsqueeze(1)
        pull = RHO * now.z - now.y - linear + (r * now.s - now.x) @ self.rows
        w = pull @ self.inverse
        ahead, sums = now.z + BEYOND * (w - now.z), now.s + BEYOND * (w @ self.rows.mT - now.s)
        z = self._nearest(ahead + now.y / RHO, lower, upper)
        s = (sums + now.x / r).maximum(self.low.unsqueeze(1)).minimum(self.high.unsqueeze(1))
        return Slices(w, z, s, now.y + RHO * (ahead - z), now.x + r * (sums - s))

    def _nearest(self, v: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The point of each box that is nearest to v (P, B, n) but for what trades cost, within the cap on them."""
        held = self.held.unsqueeze(1)
        if self.kinked:
            z = v - held
            v = held + z.sign() * (z.abs() - self.rate.unsqueeze(1) / RHO).clamp_min(0.0)
        z = v.maximum(lower).minimum(upper)
        if not self.capped:
            return z
        flat = v.shape[0] * v.shape[1], v.shape[2]
        cap = self.turnover.unsqueeze(1).expand(v.shape[:2])
        least = (held - held.maximum(lower).minimum(upper)).abs().sum(-1)
        goal = cap.maximum(least).minimum((z - held).abs().sum(-1)).reshape(-1)
        around = held.expand_as(v).reshape(flat)
        near = near_anchor(v.reshape(flat), lower.reshape(flat), upper.reshape(flat), around, goal).reshape(v.shape)
        return torch.where(((z - held).abs().sum(-1) > cap).unsqueeze(-1), near, z)

    def prices(self, now: Slices) -> Tensor:
        """The slope at z with what rows pull, without what trades cost, (P, B, n)."""
        return now.z @ self.matrix + self.linear.unsqueeze(1) + now.x @ self.rows

    def value(self, now: Slices) -> Tensor:
        """About the least energy of each slice, (P, B), in the programs' own units."""
        z, at = now.z, now.z @ self.rows.mT
        smooth = ((0.5 * (z @ self.matrix) + self.linear.unsqueeze(1)) * z).sum(-1)
        missed = at - at.maximum(self.low.unsqueeze(1)).minimum(self.high.unsqueeze(1))
        trade = (z - self.held.unsqueeze(1)).abs()
        spent = (self.rate.unsqueeze(1) * trade).sum(-1)
        beyond = (trade.sum(-1) - self.turnover.unsqueeze(1)).clamp_min(0.0)
        apart = (now.x * missed + 0.5 * self.stiffness * missed.square()).sum(-1)
        return (smooth + spent + apart + OVER * beyond) * self.unit.unsqueeze(1)


def _rows(x: Tensor, place: Tensor) -> Tensor:
    return x.gather(1, place.unsqueeze(-1).expand(*place.shape, x.shape[-1]))
