"""Exact projections that need one multiplier at a time, batched over rows.

    box + budget              w = clip(y - nu, lower, upper), sum w = total           one root
    box + turnover            x = clip(soft(y - a, lam), l - a, u - a), sum |x| = tau one root
    box + budget + turnover   buys x+ = clip(v - alpha), sells x- = clip(beta - v)    two separate roots

with v = y - a, x = w - a, alpha = nu + lam and beta = nu - lam: with both the budget and the turnover tight,
sum x+ = (tau + t) / 2 and sum x- = (tau - t) / 2 for t = total - sum a, so the two multipliers decouple.
Every root is that of a falling piecewise linear function, found by Newton inside a bracket that is moved at
every evaluation; where Newton does not halve the error, the bracket is halved (Newton that only stays
inside a fixed bracket can walk between two points for ever).

Shapes: y (B, n); bounds (n,) or (B, n); totals (B,). Everything is in the dtype of y; callers pass float64.

On the host, steps end where nothing is left to do, and rows that need no more are left out. On another device the host
would have to wait to know, so there every row takes every step, in which those that are done stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from portfolio_ebm.types import elsewhere

Rows = Tensor | slice
"""Some rows of a batch: a mask (B,), their numbers, or all of them."""

_EPS = torch.finfo(torch.float64).eps
_MAX_STEPS = 200
_STACK_UP_TO = 20_000  # entries; below, one call for buys and sells saves more than shared bounds do
_SORT_UP_TO = 64  # names; beyond, Newton is the faster of the two


def take(x: Tensor, rows: Rows) -> Tensor:
    """The rows of a per-row tensor (B, ...); a shared one (fewer dimensions than 2) is given back as it is."""
    return x[rows] if x.ndim > 1 else x


def amended(w: Tensor, marked: Tensor, make: Callable[[Rows], Tensor]) -> Tensor:
    """w (B, n) with make(rows) in place of its rows that are marked (B,); on another device made for all of them."""
    if elsewhere(w):
        return torch.where(marked.unsqueeze(-1), make(slice(None)), w)
    if bool(marked.any()):
        w[marked] = make(marked)
    return w


def somewhere(lower: Tensor, upper: Tensor, total: Tensor) -> Tensor:
    """A point of {lower <= w <= upper, sum w = total}, (B, n), finite also where bounds are not.

    Where the budget cannot be met, the corner of the box that comes nearest to it.
    """
    base = torch.zeros_like(lower).maximum(lower).minimum(upper)
    missing = (total - base.sum(-1)).unsqueeze(-1)
    room = torch.where(missing >= 0, upper - base, base - lower)
    endless = torch.isinf(room)
    weight = torch.where(endless.any(-1, keepdim=True), endless.to(room.dtype), room)
    capacity = weight.sum(-1, keepdim=True)
    share = missing / capacity.clamp_min(torch.finfo(room.dtype).tiny)
    share = torch.where(endless.any(-1, keepdim=True), share, share.clamp(-1.0, 1.0))
    return base + share * weight


def shift_root(v: Tensor, lower: Tensor, upper: Tensor, total: Tensor) -> Tensor:
    """nu (B,) with sum clip(v - nu, lower, upper) = total, for rows whose budget can be met.

    Safeguarded Newton: f(nu) = sum clip(v - nu) - total falls from >= 0 at min(v - w0) to <= 0 at
    max(v - w0) for any feasible w0. Each evaluation moves one end of the bracket; a Newton step is taken
    only strictly inside it and only while |f| halves, else the bracket's secant and midpoint by turns.
    """
    gap = v - somewhere(lower, upper, total)
    nu = torch.zeros_like(total)
    left, right = gap.amin(-1), gap.amax(-1)
    noise = 8 * _EPS * v.shape[-1] ** 0.5 * (1.0 + v.abs().amax(-1))
    rows = torch.arange(v.shape[0], device=v.device)
    f_left, f_right = torch.full_like(left, torch.inf), torch.full_like(left, -torch.inf)
    before = torch.full_like(left, torch.inf)
    here = ((v.sum(-1) - total) / v.shape[-1]).maximum(left).minimum(right)
    for step in range(_MAX_STEPS):
        x = (v - here.unsqueeze(-1)).clamp(lower, upper)
        f = x.sum(-1) - total
        done = (f.abs() <= noise) | (right - left <= 2 * _EPS * here.abs())
        nu[rows] = here
        if bool(done.all()):
            break
        free = ((x > lower) & (x < upper)).sum(-1)
        up = f > 0
        left, f_left = torch.where(up, here, left), torch.where(up, f, f_left)
        right, f_right = torch.where(up, right, here), torch.where(up, f_right, f)
        newton = here + f / free
        good = (free > 0) & (newton > left) & (newton < right) & (f.abs() <= 0.5 * before)
        middle = 0.5 * (left + right)
        if step % 2:
            secant = left + (right - left) * (f_left / (f_left - f_right))
            middle = torch.where((secant > left) & (secant < right), secant, middle)
        before = f.abs()
        here = torch.where(done, here, torch.where(good, newton, middle))
        if 2 * int(done.sum()) > len(done):
            keep = ~done
            rows, v, here, total, noise = rows[keep], v[keep], here[keep], total[keep], noise[keep]
            lower, upper = take(lower, keep), take(upper, keep)
            left, right, f_left, f_right, before = (z[keep] for z in (left, right, f_left, f_right, before))
    return nu


def sorted_root(v: Tensor, lower: Tensor, upper: Tensor, total: Tensor) -> Tensor:
    """nu (B,) as in `shift_root`, by sorting the 2n breakpoints: fewer and larger steps, so faster for few names.

    Up to rounding in the cumulative sums; needs finite bounds. `fill` checks what comes out.
    """
    n = v.shape[-1]
    points, order = torch.cat([v - upper, v - lower], -1).sort(-1)
    free = torch.where(order < n, 1.0, -1.0).to(v.dtype).cumsum(-1)
    top = upper.expand_as(v).sum(-1, keepdim=True) - total.unsqueeze(-1)
    values = torch.cat([top, top - (free[:, :-1] * points.diff(dim=-1)).cumsum(-1)], -1)
    segment = (values > 0).sum(-1, keepdim=True).sub_(1).clamp_(0, 2 * n - 2)
    step = values.gather(-1, segment) / free.gather(-1, segment).clamp_min_(1.0)
    return (points.gather(-1, segment) + step).squeeze(-1)


def fill(v: Tensor, lower: Tensor, upper: Tensor, total: Tensor) -> Tensor:
    """The point of {lower <= x <= upper, sum x = total} nearest to v, (B, n); the nearest corner where
    the budget cannot be met. What rounding leaves of the budget is spread over the free names."""
    # A budget out of reach has no root to look for: its nearest corner has.
    total = total.maximum(lower.sum(-1)).minimum(upper.sum(-1))
    if elsewhere(v):
        return _spread(v, sorted_root(v, *_finite(v, lower, upper, total), total), lower, upper, total)
    if v.shape[-1] > _SORT_UP_TO or not bool((upper - lower).sum().isfinite()):
        return _spread(v, shift_root(v, lower, upper, total), lower, upper, total)
    x = _spread(v, sorted_root(v, lower, upper, total), lower, upper, total)

    def by_newton(rows: Rows) -> Tensor:
        few, low, high = v[rows], take(lower, rows), take(upper, rows)
        return _spread(few, shift_root(few, low, high, total[rows]), low, high, total[rows])

    return amended(x, (x.sum(-1) - total).abs() > 1e-14, by_newton)


def _finite(v: Tensor, lower: Tensor, upper: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (B, n) with the same point: between what any feasible point says of the multiplier."""
    gap = v - somewhere(lower, upper, total)
    return lower.maximum(v - gap.amax(-1, keepdim=True)), upper.minimum(v - gap.amin(-1, keepdim=True))


def _spread(v: Tensor, nu: Tensor, lower: Tensor, upper: Tensor, total: Tensor) -> Tensor:
    x = (v - nu.unsqueeze(-1)).clamp(lower, upper)
    for _ in range(2):
        left = total - x.sum(-1)
        much = left.abs() > 4 * _EPS
        if not elsewhere(v) and not bool(much.any()):
            break
        free = (x > lower) & (x < upper)
        # Nothing for a row that has nothing left: what it is must not depend on the rows beside it.
        share = torch.where(much, left / free.sum(-1).clamp_min(1), 0.0)
        x = torch.where(free, x + share.unsqueeze(-1), x).clamp(lower, upper)
    return x


def near_anchor(y: Tensor, lower: Tensor, upper: Tensor, anchor: Tensor, turnover: Tensor) -> Tensor:
    """The nearest point of the box with sum |w - anchor| = turnover, (B, n), for rows where the cap binds."""
    v, low, high = y - anchor, lower - anchor, upper - anchor
    zero = torch.zeros_like(low)
    lows = torch.cat([low.maximum(zero), (-high).maximum(zero)], -1)
    highs = torch.cat([high.maximum(zero), (-low).maximum(zero)], -1)
    buys, sells = fill(torch.cat([v, -v], -1), lows, highs, turnover).chunk(2, -1)
    return anchor + (buys - sells)


def fill_near_anchor(
    y: Tensor, lower: Tensor, upper: Tensor, total: Tensor, anchor: Tensor, turnover: Tensor
) -> Tensor:
    """The nearest point of the box with sum w = total and sum |w - anchor| = turnover, (B, n), for rows
    where the cap binds: buys and sells are two capped simplexes of their own."""
    v, low, high = y - anchor, lower - anchor, upper - anchor
    zero = torch.zeros_like(low)
    drift = total - anchor.expand_as(y).sum(-1)
    lows, highs = (low.maximum(zero), (-high).maximum(zero)), (high.maximum(zero), (-low).maximum(zero))
    goals = (0.5 * (turnover + drift), 0.5 * (turnover - drift))
    if v.numel() > _STACK_UP_TO:
        buys, sells = fill(v, lows[0], highs[0], goals[0]), fill(-v, lows[1], highs[1], goals[1])
    else:
        floors, caps = (torch.cat([x.expand_as(v) for x in pair]) for pair in (lows, highs))
        buys, sells = fill(torch.cat([v, -v]), floors, caps, torch.cat(goals)).chunk(2)
    return anchor + (buys - sells)


def box_budget_turnover(
    y: Tensor,
    lower: Tensor,
    upper: Tensor,
    total: tuple[float, float] | None,
    anchor: Tensor | None,
    turnover: float | None,
) -> Tensor:
    """The nearest point of the box with total[0] <= sum w <= total[1] and sum |w - anchor| <= turnover, (B, n).

    Exact: a constraint that the optimum without it breaks is tight at the optimum with it, so the cases
    are tried from the fewest tight constraints up, row by row.
    """
    if total is not None and total[0] >= total[1]:
        return _exact_budget(y, lower, upper, y.new_full((y.shape[0],), total[0]), anchor, turnover)
    w = y.clamp(lower, upper)
    if turnover is not None and anchor is not None:

        def near(rows: Rows) -> Tensor:
            few = y[rows]
            return near_anchor(few, take(lower, rows), take(upper, rows), take(anchor, rows), _tau(turnover, few))

        w = amended(w, (w - anchor).abs().sum(-1) > turnover, near)
    if total is None:
        return w
    found = w.sum(-1)
    goal = found.clamp(total[0], total[1])

    def tight(rows: Rows) -> Tensor:
        held = None if anchor is None else take(anchor, rows)
        return _exact_budget(y[rows], take(lower, rows), take(upper, rows), goal[rows], held, turnover)

    return amended(w, found != goal, tight)


def _exact_budget(
    y: Tensor, lower: Tensor, upper: Tensor, goal: Tensor, anchor: Tensor | None, turnover: float | None
) -> Tensor:
    w = fill(y, lower, upper, goal)
    if turnover is None or anchor is None:
        return w

    def near(rows: Rows) -> Tensor:
        few, held = y[rows], take(anchor, rows)
        return fill_near_anchor(few, take(lower, rows), take(upper, rows), goal[rows], held, _tau(turnover, few))

    return amended(w, (w - anchor).abs().sum(-1) > turnover, near)


def _tau(turnover: float, rows: Tensor) -> Tensor:
    return rows.new_full((rows.shape[0],), turnover)
