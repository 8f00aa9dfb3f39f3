"""A convex set with closed-form chords: box, rows, and weighted L1 balls.

    P = { x :  lower <= x <= upper,   row_lower <= A x <= row_upper,
               sum_i up_i (x_i - c_i)_+ + down_i (c_i - x_i)_+ <= limit   for every ball }

Chains stand in columns, x is (n, chains): a coordinate of all chains is one contiguous row, which the inner loops of
samplers read and write. A chord is the interval of t for which x + t d stays in P.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

EQUAL = 1e-14
"""A row whose ends are nearer than this is an equation."""


@dataclass(frozen=True)
class Ball:
    """A weighted L1 ball: `centre`, `up`, `down` (n,), up and down not negative."""

    centre: Tensor
    up: Tensor
    down: Tensor
    limit: float

    def value(self, x: Tensor) -> Tensor:
        """The left side at x (n, chains), (chains,)."""
        move = x - self.centre.unsqueeze(-1)
        return self.up @ move.clamp_min(0.0) + self.down @ (-move).clamp_min(0.0)


def side(gap: Tensor, up: Tensor | float, down: Tensor | float) -> Tensor:
    """What one coordinate adds to a ball, by its gap from the centre: up (gap)_+ + down (-gap)_+."""
    return (up * gap).maximum(-down * gap)


@dataclass(frozen=True)
class Polyhedron:
    """The set above; lower, upper (n,) may be infinite, rows (m, n), row_lower and row_upper (m,)."""

    lower: Tensor
    upper: Tensor
    rows: Tensor
    row_lower: Tensor
    row_upper: Tensor
    balls: tuple[Ball, ...] = ()

    @property
    def n(self) -> int:
        return self.lower.shape[-1]

    @property
    def equal(self) -> Tensor:
        """Which rows are equations, bool (m,)."""
        return self.row_upper - self.row_lower <= EQUAL

    def violation(self, x: Tensor) -> Tensor:
        """The largest breach of any limit at x (n, chains), (chains,); zero inside."""
        worst = (self.lower.unsqueeze(-1) - x).maximum(x - self.upper.unsqueeze(-1)).amax(0).clamp_min(0.0)
        if len(self.rows):
            at = self.rows @ x
            beyond = (self.row_lower.unsqueeze(-1) - at).maximum(at - self.row_upper.unsqueeze(-1))
            worst = worst.maximum(beyond.amax(0))
        for ball in self.balls:
            worst = worst.maximum(ball.value(x) - ball.limit)
        return worst

    def chord(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """The ends (low <= 0 <= high) of t with x + t d in P, for x (n, chains) in P and one direction d (n,).

        A breach of x by rounding is taken as a limit that is met. Both ends are infinite where nothing stops the ray.
        """
        moving = d != 0.0
        step, inner = d[moving].unsqueeze(-1), x[moving]
        one, other = (
            (self.lower[moving].unsqueeze(-1) - inner) / step,
            (self.upper[moving].unsqueeze(-1) - inner) / step,
        )
        low, high = one.minimum(other).amax(0), one.maximum(other).amin(0)
        slope = self.rows @ d
        tilted = (slope.abs() > 1e-12 * self.rows.abs().sum(-1) * d.abs().max()) & ~self.equal
        if bool(tilted.any()):
            at, pace = self.rows[tilted] @ x, slope[tilted].unsqueeze(-1)
            one, other = ((end[tilted].unsqueeze(-1) - at) / pace for end in (self.row_lower, self.row_upper))
            low, high = low.maximum(one.minimum(other).amax(0)), high.minimum(one.maximum(other).amin(0))
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
        for ball in self.balls:
            high = _exit(ball, x, d, high)
            low = -_exit(ball, x, -d, -low)
        return low, high

    def conserving(self) -> bool:
        """Whether the sum of x is fixed by an equation, so that moves of weight between two coordinates suffice."""
        ones = self.rows[self.equal]
        return bool(((ones == ones[:, :1]) & (ones != 0.0)).all(-1).any()) if len(ones) else False


def _exit(ball: Ball, x: Tensor, d: Tensor, high: Tensor) -> Tensor:
    """The last t in [0, high] with x + t d in the ball: Newton's method from outside, exact on a piecewise line."""
    step, up, down = (part.unsqueeze(-1) for part in (d, ball.up, ball.down))
    final = float(ball.up @ d.clamp_min(0.0) + ball.down @ (-d).clamp_min(0.0))
    if final <= 0.0:
        return high  # the function never rises along d
    gap = x - ball.centre.unsqueeze(-1)
    # Beyond its last kink the function is a line: there it leaves the ball, or before.
    last = (-gap / torch.where(step == 0.0, torch.inf, step)).amax(0).clamp_min(0.0)
    t = high.minimum(last + (ball.limit - ball.value(x + last * step)).clamp_min(0.0) / final)
    for _ in range(2 * len(d) + 2):
        move = gap + t * step
        over = (up * move).maximum(-down * move).sum(0) - ball.limit
        outside = (over > 1e-15) & (t > 0.0)
        if not bool(outside.any()):
            break
        rising = torch.where((move > 0.0) | ((move == 0.0) & (step > 0.0)), up, -down) * step
        t = torch.where(outside, (t - over / rising.sum(0).clamp_min(1e-300)).clamp_min(0.0), t)
    return t


def with_slack(p: Polyhedron) -> tuple[Polyhedron, bool]:
    """`p` itself where the sum of x is fixed, else `p` with one coordinate more, s = total - sum x, and the equation
    sum x + s = total; moves between two coordinates then reach all of it, and Lebesgue measure on x is unchanged.

    Rows of ones that bound the sum become the bounds of s, with total = 0 where there is none.
    """
    if p.conserving():
        return p, False
    ones = ((p.rows == p.rows[:, :1]) & (p.rows != 0.0)).all(-1) if len(p.rows) else p.rows.new_zeros(0).bool()
    low, high = p.lower.new_tensor(-torch.inf), p.lower.new_tensor(torch.inf)
    if bool(ones.any()):
        scale = p.rows[ones, 0]
        ends = torch.stack([p.row_lower[ones] / scale, p.row_upper[ones] / scale])
        low, high = ends.amin(0).amax(), ends.amax(0).amin()
    total = high if bool(torch.isfinite(high)) else torch.zeros_like(high)
    rows = pad(p.rows[~ones], (0, 1))
    one = torch.ones_like(total).reshape(1)
    return Polyhedron(
        lower=torch.cat([p.lower, (total - high).reshape(1)]),
        upper=torch.cat([p.upper, (total - low).reshape(1)]),
        rows=torch.cat([rows, torch.ones_like(rows[:1]) if len(rows) else p.lower.new_ones(1, p.n + 1)]),
        row_lower=torch.cat([p.row_lower[~ones], total * one]),
        row_upper=torch.cat([p.row_upper[~ones], total * one]),
        balls=tuple(Ball(pad(b.centre, (0, 1)), pad(b.up, (0, 1)), pad(b.down, (0, 1)), b.limit) for b in p.balls),
    ), True  # fmt: skip
