"""Nearest points of one convex region that the host never waits for.

What depends on the region alone is read once, before. Then box, budget and turnover are closed forms, and other rows
and balls so many Newton steps of the dual (dual.py), whether a row of the batch needs them or not. Where that was not
enough, the nearest point w of box, budget and turnover is drawn in,

    m + t (w - m),   t = min over the rows and balls that w breaks of (limit - value(m)) / (value(w) - value(m)),

m a portfolio of the region: since the values are convex, this obeys all of them. On the host it is better to stop early
and to be exact (projections.py); chains on another device would wait for it at every step.

Ellipsoids, tails and choices are not of this kind: their nearest points are found on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portfolio_ebm.constraints.dual import Problem, budget_row, first_guess, solve_unseen
from portfolio_ebm.constraints.projections import TOLERANCE, missed, problem_of, total_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.simplex import box_budget_turnover

STEPS = 12
"""Newton steps of the dual: enough for all but a few points near the region, and for most that are as far from it as it
is wide."""


@dataclass(frozen=True)
class Steady:
    """The nearest points of one region.

    Attributes:
        problem: the rules; its y holds no points.
        inside: (n,), a portfolio of the region.
        total: the range of the sum of weights, or None.
        anchor, turnover: the cap on sum |w - anchor|, or None.
        budget: the row of ones, or -1.
        rows: whether there is more than box, budget and one turnover.
    """

    problem: Problem
    inside: Tensor
    total: tuple[float, float] | None
    anchor: Tensor | None
    turnover: float | None
    budget: int
    rows: bool

    @classmethod
    def of(cls, region: Region, inside: Tensor) -> Steady | None:
        """None where the region has choices, ellipsoids or tails."""
        r = region.folded()
        if r.discrete or r.curved:
            return None
        r = r.to(r.lower.new_zeros(0, dtype=torch.float64))
        problem = problem_of(r, r.lower.new_zeros(0, r.n), r.lower, r.upper)
        more = problem.kinks is not None or not bool((r.rows == 1.0).all())
        here = inside.to(r.lower).clamp(r.lower, r.upper)
        return cls(problem, here, total_of(problem), r.anchor, r.turnover, budget_row(r.rows), more)

    def __call__(self, y: Tensor) -> Tensor:
        """The nearest portfolios to y (..., n), in its dtype, or drawn in ones where the steps were not enough."""
        flat = y.reshape(-1, y.shape[-1]).to(torch.float64)
        problem = replace(self.problem, y=flat)
        w = box_budget_turnover(flat, problem.lower, problem.upper, self.total, self.anchor, self.turnover)
        if self.rows:
            tolerance = 1e-13 * (1.0 + flat.abs().amax(-1))
            better = solve_unseen(problem, first_guess(problem, w, self.budget), tolerance, STEPS)
            settled = (missed(problem, better) <= TOLERANCE).unsqueeze(-1)
            there = (missed(problem, w) <= 1e-13).unsqueeze(-1)
            w = torch.where(there, w, torch.where(settled, better, self._drawn_in(w)))
        return w.reshape(y.shape).to(y.dtype)

    def _drawn_in(self, w: Tensor) -> Tensor:
        """The furthest points from `inside` to w (B, n) that obey every row and ball."""
        p, inside = self.problem, self.inside.unsqueeze(0)
        here, there = p.values(inside), p.values(w)
        limit = torch.where(there > p.high, p.high, p.low)
        share = (limit - here) / (there - here)
        # An exact sum that w misses by its last bit would draw it all the way in.
        broken = p.excess(there).abs() > TOLERANCE
        t = torch.where(broken, share, torch.ones_like(share)).clamp(0.0, 1.0).amin(-1, keepdim=True)
        return inside + t * (w - inside)
