"""The nearest point of a box cut by several linear rows and L1 balls, through its dual, batched.

    w(nu, lam) = clip(a + soft(y - A' nu - a, lam), lower, upper)
    minimise over theta = (nu, lam), lam >= 0:   sum of sup(theta_i) - min_w Lagrangian(w, theta),

where row i is a two-sided one: sup(theta) = U theta for theta > 0 and L theta for theta < 0, and turnover is the
row [-inf, tau] of value sum |w - a|; further balls are further such rows, and their soft threshold together is the
median of kinks.py. The dual is convex and piecewise quadratic; its gradient is
(bound - row value) and its generalised Hessian G G' with G = [A; sign(w - a)] on the names that are
free to move. Each step is Newton's with an exact line search (a bracketed root of the slope along the
step), stopped where a multiplier would change sign; a row of the batch that has converged freezes.
Source: Bertsekas (1982), Projected Newton methods for optimization problems with simple constraints,
SIAM J. Control Optim. 20; Qi and Sun (1993), A nonsmooth version of Newton's method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portfolio_ebm.constraints.kinks import Kinks
from portfolio_ebm.constraints.simplex import Rows, take
from portfolio_ebm.types import elsewhere

_EPS = torch.finfo(torch.float64).eps
_UNSEEN = 12
"""Steps of a line search that nobody looks at."""


@dataclass(frozen=True)
class Problem:
    """B projections at once: y (B, n), bounds (n,) or (B, n), rows A (m, n), bounds (M,) with M = m, or
    m + 1 where the last is turnover around `anchor`, or m + K where the last K are balls (then `anchor` is None)."""

    y: Tensor
    lower: Tensor
    upper: Tensor
    rows: Tensor
    low: Tensor
    high: Tensor
    anchor: Tensor | None
    kinks: Kinks | None = None

    def at(self, rows: Rows) -> Problem:
        """The problems of some rows of the batch."""
        return replace(self, y=self.y[rows], lower=take(self.lower, rows), upper=take(self.upper, rows))

    def primal(self, theta: Tensor) -> Tensor:
        """w(theta), (B, n)."""
        m = self.rows.shape[0]
        shifted = self.y - theta[:, :m] @ self.rows
        if self.kinks is not None:
            shifted = self.kinks.prox(shifted, theta[:, m:])
        elif self.anchor is not None:
            move = shifted - self.anchor
            shifted = self.anchor + move.sign() * (move.abs() - theta[:, m:]).clamp_min(0.0)
        return shifted.clamp(self.lower, self.upper)

    def values(self, w: Tensor) -> Tensor:
        """The value of every row at w, (B, M)."""
        linear = w @ self.rows.T
        if self.kinks is not None:
            return torch.cat([linear, self.kinks.values(w)], -1)
        if self.anchor is None:
            return linear
        return torch.cat([linear, (w - self.anchor).abs().sum(-1, keepdim=True)], -1)

    def directions(self, w: Tensor) -> Tensor:
        """G (B, M, n): how the row values move with the names that are free to move."""
        free = ((w > self.lower) & (w < self.upper)).to(w.dtype)
        if self.kinks is not None:
            free = free * ~self.kinks.resting(w)
            every = torch.cat([self.rows.expand(len(w), -1, -1), self.kinks.slopes(w)], 1)
            return free.unsqueeze(1) * every
        if self.anchor is None:
            return free.unsqueeze(1) * self.rows
        move = (w - self.anchor).sign()
        # With lam > 0 a name at its anchor sits at the kink and does not move.
        return (free * move.abs()).unsqueeze(1) * torch.cat([self.rows.expand(len(w), -1, -1), move.unsqueeze(1)], 1)

    def excess(self, values: Tensor) -> Tensor:
        """How far each row value is outside [low, high], signed, (B, M)."""
        return (values - self.high).clamp_min(0.0) - (self.low - values).clamp_min(0.0)


def solve(problem: Problem, theta: Tensor, tolerance: Tensor, max_steps: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """(w, theta, converged) from a first guess theta (B, M) of the multipliers; rows that do not converge
    in `max_steps` are marked and left to the caller. `tolerance` (B,) is on the row values."""
    theta = _possible(problem, theta)
    best = theta.clone()
    w = problem.primal(theta)
    converged = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    rows = torch.arange(len(theta), device=theta.device)
    part = problem
    for step in range(max_steps + 1):
        here = part.primal(theta)
        target, error = _off(part, theta, here)
        done = error.abs().amax(-1) <= tolerance
        w[rows], best[rows], converged[rows] = here, theta, done
        if bool(done.all()) or step == max_steps:
            break
        keep = ~done
        rows, part, theta, tolerance = rows[keep], part.at(keep), theta[keep], tolerance[keep]
        theta = _advance(part, theta, here[keep], target[keep], error[keep])
    return _tidy(problem, w, best), best, converged


def solve_unseen(problem: Problem, theta: Tensor, tolerance: Tensor, steps: int) -> Tensor:
    """w (B, n) after so many steps of every row: as `solve`, but nothing on the way is read."""
    theta = _possible(problem, theta)
    for _ in range(steps):
        w = problem.primal(theta)
        target, error = _off(problem, theta, w)
        done = error.abs().amax(-1, keepdim=True) <= tolerance.unsqueeze(-1)
        theta = torch.where(done, theta, _advance(problem, theta, w, target, error))
    return _tidy(problem, problem.primal(theta), theta)


def _possible(problem: Problem, theta: Tensor) -> Tensor:
    """theta with no multiplier on a side that has no bound."""
    theta = torch.where(torch.isinf(problem.high), theta.clamp_max(0.0), theta)
    return torch.where(torch.isinf(problem.low), theta.clamp_min(0.0), theta)


def _off(problem: Problem, theta: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The bound each row value should reach, as `_target`, and how far w (B, n) is from it, (B, M)."""
    values = problem.values(w)
    target = _target(problem, theta, values)
    return target, torch.where(target.isnan(), torch.zeros_like(values), values - target)


def budget_row(rows: Tensor) -> int:
    """The first of the rows (m, n) that is all ones; -1 where none is."""
    found = (rows == 1.0).all(-1).nonzero().flatten()
    return int(found[0]) if len(found) else -1


def first_guess(problem: Problem, w: Tensor, row: int | None = None) -> Tensor:
    """Multipliers (B, M) that a point found without the other rows suggests: on its free names y - w is
    nu + lam for a buy and nu - lam for a sell, nu on the budget row, `row` where that is known already."""
    theta = problem.y.new_zeros(len(w), len(problem.low))
    budget = budget_row(problem.rows) if row is None else row
    if budget < 0:
        return theta
    free = (w > problem.lower) & (w < problem.upper)
    gap = problem.y - w

    def mean(mask: Tensor) -> Tensor:
        return torch.where(mask, gap, torch.zeros_like(gap)).sum(-1) / mask.sum(-1)

    if problem.anchor is None:
        theta[:, budget] = mean(free).nan_to_num(0.0)
        return theta
    buys, sells = mean(free & (w > problem.anchor)), mean(free & (w < problem.anchor))
    both = ~buys.isnan() & ~sells.isnan()
    alone = torch.where(buys.isnan(), sells, buys).nan_to_num(0.0)
    theta[:, budget] = torch.where(both, 0.5 * (buys + sells), alone)
    theta[:, -1] = torch.where(both, 0.5 * (buys - sells), torch.zeros_like(alone)).clamp_min(0.0)
    return theta


def _target(problem: Problem, theta: Tensor, values: Tensor) -> Tensor:
    """The bound each row value should reach, (B, M); NaN for a row that rests: no multiplier and inside."""
    equal = problem.low == problem.high
    up = equal | (theta > 0) | ((theta == 0) & (values > problem.high))
    down = ~up & ((theta < 0) | (values < problem.low))
    rest = torch.full_like(values, torch.nan)
    return torch.where(up, problem.high, torch.where(down, problem.low, rest))


def _newton(g: Tensor, error: Tensor, moving: Tensor, floor: Tensor) -> Tensor:
    hessian = (g @ g.mT) * (moving.unsqueeze(1) & moving.unsqueeze(2))
    # A row no free name reaches has no curvature here: it gets its full one, which is a gradient step.
    diagonal = torch.diagonal(hessian, dim1=-2, dim2=-1)
    ridge = torch.where(diagonal > 1e-12 * floor, 1e-10 * floor, floor)
    hessian = hessian + torch.diag_embed(torch.where(moving, ridge, torch.ones_like(ridge)))
    right = torch.where(moving, error, torch.zeros_like(error))
    # `solve` would read whether all went well; what did not is far from its bound, and seen there.
    step: Tensor = torch.linalg.solve_ex(hessian, right).result
    return step


def _advance(part: Problem, theta: Tensor, w: Tensor, target: Tensor, error: Tensor) -> Tensor:
    """One Newton step with line search, (B, M)."""
    g = part.directions(w)
    floor = part.rows.square().sum(-1)
    if part.kinks is not None:
        floor = torch.cat([floor, part.kinks.floor])
    elif part.anchor is not None:
        floor = torch.cat([floor, floor.new_full((1,), float(w.shape[-1]))])
    moving = ~target.isnan()
    d = _newton(g, error, moving, floor)
    one_sided = part.low != part.high
    # At zero a multiplier may only go where its bound pushes it; else it waits for this step.
    for _ in range(2):
        stuck = one_sided & (theta == 0) & moving & (d * error <= 0)
        if not elsewhere(stuck) and not bool(stuck.any()):
            break
        moving = moving & ~stuck
        d = _newton(g, error, moving, floor)
    lost = ((d * torch.where(moving, error, torch.zeros_like(error))).sum(-1) <= 0) | (
        one_sided & (theta == 0) & (d * error < 0)
    ).any(-1)
    d = torch.where(lost.unsqueeze(-1), torch.where(error.isnan(), torch.zeros_like(error), error) / floor, d)
    ratio = torch.where(one_sided & (theta * d < 0), -theta / d, torch.full_like(d, torch.inf))
    stop, first = ratio.min(-1)
    length = _line_search(part, theta, d, torch.where(target.isnan(), torch.zeros_like(target), target), stop)
    theta_new = theta + length.unsqueeze(-1) * d
    hit = length >= stop
    zeroed = theta_new.scatter(-1, first.unsqueeze(-1), 0.0)
    theta_new = torch.where(hit.unsqueeze(-1), zeroed, theta_new)
    # Rounding must not carry a one-sided multiplier across zero.
    return torch.where(one_sided & (theta * theta_new < 0), torch.zeros_like(theta), theta_new)


def _line_search(part: Problem, theta: Tensor, d: Tensor, target: Tensor, stop: Tensor) -> Tensor:
    """Step lengths t (B,): a root, to a tenth, of the dual's slope d . (target - values(theta + t d))."""

    def slope(rows: Rows, t: Tensor) -> Tensor:
        sub = part.at(rows)
        values = sub.values(sub.primal(theta[rows] + t.unsqueeze(-1) * d[rows]))
        return (d[rows] * (target[rows] - values)).sum(-1)

    t = torch.ones_like(stop).minimum(stop)
    start = slope(slice(None), torch.zeros_like(t))
    low, f_low = torch.zeros_like(t), start.clone()
    high, f_high = stop.clone(), torch.full_like(t, torch.nan)
    rows: Rows = slice(None) if elsewhere(t) else torch.arange(len(t))
    for step in range(_UNSEEN if elsewhere(t) else 60):
        here = t[rows]
        f = slope(rows, here)
        fine = (f.abs() <= 0.1 * start[rows].abs()) | ((f <= 0) & (here >= stop[rows]))
        if isinstance(rows, Tensor):
            rows, here, f = rows[~fine], here[~fine], f[~fine]
            if len(here) == 0:
                break
        over = f > 0
        low[rows], f_low[rows] = torch.where(over, low[rows], here), torch.where(over, f_low[rows], f)
        high[rows], f_high[rows] = torch.where(over, here, high[rows]), torch.where(over, f, f_high[rows])
        share = f_low[rows] / (f_low[rows] - f_high[rows])
        share = torch.full_like(share, 0.5) if step % 3 == 2 else share.clamp(0.02, 0.98)
        inside = low[rows] + share * (high[rows] - low[rows])
        moved = torch.where(f_high[rows].isnan(), (4.0 * here).minimum(stop[rows]), inside)
        t[rows] = moved if isinstance(rows, Tensor) else torch.where(fine, here, moved)
    return t


def _tidy(problem: Problem, w: Tensor, theta: Tensor) -> Tensor:
    """Take what rounding left of the tight rows out of w, along the free names only."""
    for _ in range(2):
        values = problem.values(w)
        target = _target(problem, theta, values)
        moving = ~target.isnan()
        error = torch.where(moving, values - target, torch.zeros_like(values))
        near = error.abs().amax(-1) < 1e-6
        g = problem.directions(w)
        floor = g.square().sum(-1) + _EPS
        step = (g.mT @ _newton(g, error, moving, floor).unsqueeze(-1)).squeeze(-1)
        w = torch.where(near.unsqueeze(-1), (w - step).clamp(problem.lower, problem.upper), w)
    return w
