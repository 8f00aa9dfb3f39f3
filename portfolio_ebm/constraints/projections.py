"""Nearest points, pure and batched: the last dimension is the assets, everything in front is a batch.

    capped_simplex       box + budget
    project_polyhedron   box + any number of linear rows + one L1 ball
    nearest_in           a whole convex Region: more L1 balls, ellipsoids and tails too

Inputs may be of any floating dtype; the work is done in float64 and given back in the dtype of y, on its
device. What leaves is measured: each function's residual is the largest violation left, in weight units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.capped import nearest_capped
from portfolio_ebm.constraints.caps import Ball
from portfolio_ebm.constraints.dual import Problem, first_guess, solve
from portfolio_ebm.constraints.exact import Cut, nearest
from portfolio_ebm.constraints.interior import nearest_inside
from portfolio_ebm.constraints.kinks import Kinks
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.simplex import box_budget_turnover
from portfolio_ebm.errors import DataError, InfeasibleError, ShapeError, SolverError
from portfolio_ebm.types import require_last

Array = NDArray[np.float64]

TOLERANCE = 1e-10
"""A residual above this marks a row that no point satisfies, or that was not solved."""

_ONE_BY_ONE_UP_TO = 48  # names; there a compiled active set for each row beats the batched dual on a CPU

HELD = 1e-9
"""A weight of at most this size counts as zero when names are counted."""


def require_weights(y: Tensor, n: int | None = None, what: str = "weights") -> Tensor:
    """`y` itself when it is (..., n), floating and finite.

    Raises:
        ShapeError: the last dimension is not n.
        DataError: an entry is NaN or infinite; the message says where.
    """
    if y.ndim == 0 or (n is not None and y.shape[-1] != n):
        require_last(y, n or 1, what)
    if not y.is_floating_point():
        raise DataError(f"{what}: got dtype {y.dtype}; pass floating point weights.")
    finite = torch.isfinite(y)
    if not bool(finite.all()):
        where = tuple(int(i) for i in (~finite).nonzero()[0])
        raise DataError(f"{what}: entry {where} is {float(y[where])}; check the energy's gradient and the step size.")
    return y


def capped_simplex(
    y: Tensor, lower: Tensor | float, upper: Tensor | float, total: float | tuple[float, float]
) -> Tensor:
    """The nearest point of {lower <= w <= upper, sum w = total}, or of {total[0] <= sum w <= total[1]}.

    Args:
        y: (..., n). lower, upper: anything that broadcasts against y; may be infinite.

    Raises:
        InfeasibleError: the caps cannot reach the total, or the floors exceed it.

    Example:
        >>> capped_simplex(torch.tensor([3.0, 1.0, 0.0]), 0.0, 0.6, 1.0)
        tensor([0.6000, 0.4000, 0.0000])
    """
    flat, low, high = _flatten(require_weights(y, what="capped_simplex"), lower, upper)
    least, most = total if isinstance(total, tuple) else (total, total)
    short, long = (high.sum(-1) < least - TOLERANCE), (low.sum(-1) > most + TOLERANCE)
    if bool(short.any()):
        raise InfeasibleError(
            f"The caps add up to {float(high.sum(-1).min()):g}, below the budget of {least:g}: raise a cap."
        )
    if bool(long.any()) or bool((low > high).any()):
        raise InfeasibleError(
            f"The floors add up to {float(low.sum(-1).max()):g} (budget {most:g}), or one is above its cap: lower it."
        )
    return box_budget_turnover(flat, low, high, (least, most), None, None).reshape(y.shape).to(y.dtype)


def project_polyhedron(
    y: Tensor, lower: Tensor, upper: Tensor, rows: Tensor, row_lower: Tensor, row_upper: Tensor,
    anchor: Tensor | None = None, turnover: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`nearest_in` for {lower <= w <= upper, row_lower <= A w <= row_upper, sum |w - anchor| <= turnover}.

    Args:
        y: (..., n). lower, upper: broadcast against y, so every row of the batch may have its own pattern.
        rows: A (m, n), shared; row_lower, row_upper: (m,). anchor: (n,); turnover is ignored without it.
    """
    if rows.ndim != 2 or rows.shape[-1] != y.shape[-1]:
        raise ShapeError(f"project_polyhedron rows: got shape {tuple(rows.shape)}, expected (m, {y.shape[-1]}).")
    free = Region.free(y.shape[-1], device=y.device)
    a, floor, cap = (x.to(free.lower) for x in (rows, row_lower, row_upper))
    held = None if anchor is None else anchor.to(a)
    region = replace(free, rows=a, row_lower=floor, row_upper=cap, anchor=held, turnover=turnover)
    return nearest_in(y, region, lower, upper)


def nearest_in(
    y: Tensor, region: Region, lower: Tensor | None = None, upper: Tensor | None = None, *, prove: bool = True
) -> tuple[Tensor, Tensor]:
    """The nearest point of a convex region for every row of y (..., n).

    Box, budget and turnover are solved in closed form up to roots in one unknown; other rows and balls by the dual
    (dual.py), with an exact active set for the rows of the batch that the dual leaves over, and an interior point
    method (interior.py) for those that the active set calls empty or gives up. Ellipsoids and tails are solved one row
    at a time (capped.py), where without `prove` a violation may also mean that the point was not reached.

    Args:
        lower, upper: (..., n), bounds in place of the region's, within them: each row by its own (the slices of a
            pattern).

    Returns:
        w (..., n) in the dtype of y, and the largest violation left (...), in float64, measured before w is
        given back in that dtype: above `TOLERANCE` only where the set is empty or the search failed.
    """
    low, high = region.lower if lower is None else lower, region.upper if upper is None else upper
    flat, low, high = _flatten(require_weights(y, region.n, "nearest_in"), low, high)
    r = region.folded().to(flat)
    if r.curved:
        w, left = nearest_capped(flat, low, high, r, prove=prove)
    else:
        problem = problem_of(r, flat, low, high)
        w, left = _nearest(problem, box_budget_turnover(flat, low, high, total_of(problem), r.anchor, r.turnover))
    return w.reshape(y.shape).to(y.dtype), left.reshape(y.shape[:-1])


def problem_of(r: Region, y: Tensor, lower: Tensor, upper: Tensor) -> Problem:
    """The nearest points to y (B, n) under rows, turnover and balls of a folded region and bounds of their own."""
    balls, held = r.balls, None
    if r.anchor is not None and r.turnover is not None:
        one = torch.ones_like(r.anchor)
        balls = (Ball("turnover", r.turnover, r.anchor, one, one), *balls)
        held = r.anchor
    limits = y.new_tensor([ball.limit for ball in balls])
    floor, cap = torch.cat([r.row_lower, torch.full_like(limits, -torch.inf)]), torch.cat([r.row_upper, limits])
    if not r.caps:
        return Problem(y, lower, upper, r.rows, floor, cap, held)
    return Problem(y, lower, upper, r.rows, floor, cap, None, Kinks.of(balls))


def _nearest(problem: Problem, w: Tensor) -> tuple[Tensor, Tensor]:
    """(w, violation) from the point `w` (B, n) that is nearest under box, budget and turnover alone."""
    left = missed(problem, w)
    more = left > 1e-13
    known = problem.kinks is None and bool((problem.rows == 1.0).all())
    if not known and bool(more.any()):
        w[more], left[more] = _by_dual(problem.at(more), w[more], left[more])
    return w, left


def total_of(problem: Problem) -> tuple[float, float] | None:
    """The range of the sum of weights, where rows of ones bound it."""
    budget = (problem.rows == 1.0).all(-1)
    if not bool(budget.any()):
        return None
    m = problem.rows.shape[0]
    total = float(problem.low[:m][budget].amax()), float(problem.high[:m][budget].amin())
    return total if total[0] <= total[1] else (total[1], total[1])


def missed(problem: Problem, w: Tensor) -> Tensor:
    """The largest violation of a bound, row or ball at w (B, n), (B,)."""
    worst = (problem.lower - w).maximum(w - problem.upper).amax(-1).clamp_min(0.0)
    if len(problem.low) == 0:
        return worst
    values = problem.values(w)
    return worst.maximum((problem.low - values).maximum(values - problem.high).amax(-1))


def violation(
    w: Tensor, lower: Tensor, upper: Tensor, rows: Tensor, row_lower: Tensor, row_upper: Tensor,
    anchor: Tensor | None, turnover: float | None,
) -> Tensor:  # fmt: skip
    """The largest violation of any bound, row or of turnover at w (..., n), (...)."""
    worst = (lower - w).maximum(w - upper).amax(-1).clamp_min(0.0)
    if rows.shape[0]:
        values = w @ rows.T
        worst = worst.maximum((row_lower - values).maximum(values - row_upper).amax(-1))
    if anchor is not None and turnover is not None:
        worst = worst.maximum((w - anchor).abs().sum(-1) - turnover)
    return worst


def _flatten(y: Tensor, lower: Tensor | float, upper: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """y as (B, n) in float64, bounds as (n,) where shared or (B, n)."""
    n = y.shape[-1]
    flat = y.reshape(-1, n).to(torch.float64)
    bounds = []
    for bound in (lower, upper):
        b = torch.as_tensor(bound, dtype=torch.float64, device=y.device)
        if b.ndim and b.shape[-1] not in (1, n):
            raise ShapeError(f"bounds: got shape {tuple(b.shape)}, expected (..., {n}) or a number.")
        shared = b.ndim <= 1
        bounds.append(b.expand(n) if shared else b.expand(y.shape).reshape(-1, n))
    return flat, bounds[0], bounds[1]


def _by_dual(problem: Problem, near: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """(w, violation) for the rows of a problem: by the batched dual where names are many or the device is an
    accelerator, and one by one where they are few or the dual has not converged. `near` (B, n) with violation
    `left` is what is given back for a row whose set is empty."""
    device = problem.y.device
    scale = 1.0 + problem.y.abs().amax(-1)
    w, still = near.clone(), torch.ones(len(near), dtype=torch.bool, device=device)

    def accept(rows: Tensor, part: Problem, theta: Tensor, steps: int) -> None:
        found, _, settled = solve(part, theta, 1e-13 * scale[rows], steps)
        error = missed(part, found)
        good = settled & (error <= TOLERANCE)
        w[rows[good]], left[rows[good]], still[rows[good]] = found[good], error[good], False

    if device.type != "cpu" or problem.y.shape[-1] > _ONE_BY_ONE_UP_TO:
        every = torch.arange(len(near), device=device)
        accept(every, problem, first_guess(problem, near), 40)
    rest = still.nonzero().flatten()
    solved = [] if len(rest) == 0 else _one_by_one(problem.at(rest), near[rest])
    full = [i for i, point in enumerate(solved) if point is not None]
    if not full:
        return w, torch.where(still, left.clamp_min(2 * TOLERANCE), left)
    rows = rest[full]
    part = problem.at(rows)
    w[rows] = torch.stack([point[0] for point in solved if point is not None])
    theta = torch.stack([point[1] for point in solved if point is not None])
    left[rows] = missed(part, w[rows])
    empty = still.clone()
    empty[rows] = False
    accept(rows, part, theta, 3)
    rows = (still & ~empty).nonzero().flatten()
    if len(rows):
        w[rows], left[rows] = _proven(problem.at(rows), w[rows])
    return w, torch.where(empty, left.clamp_min(2 * TOLERANCE), left)


def _cuts(part: Problem) -> Callable[[int], Cut]:
    """The set of each row of a problem as arrays."""
    m = part.rows.shape[0]
    lower, upper = (x.expand(part.y.shape).cpu().numpy() for x in (part.lower, part.upper))
    rows, low, high = (x.cpu().numpy() for x in (part.rows, part.low[:m], part.high[:m]))
    radii = part.high[m:].cpu().numpy()
    centres = ups = downs = np.zeros((0, part.y.shape[1]))
    if part.kinks is not None:
        centres, ups, downs = (x.cpu().numpy() for x in (part.kinks.centres, part.kinks.ups, part.kinks.downs))
    elif part.anchor is not None:
        centres = part.anchor.cpu().numpy()[None]
        ups = downs = np.ones_like(centres)
    return lambda i: Cut(lower[i], upper[i], rows, low, high, centres, ups, downs, radii)


def _one_by_one(part: Problem, near: Tensor) -> list[tuple[Tensor, Tensor] | None]:
    """(w, theta) of every row by the exact active set, and by the interior point method where that finds nothing;
    None where the set is proven empty or neither found the point."""
    y, start = part.y.cpu().numpy(), near.cpu().numpy()
    cuts = _cuts(part)
    points: list[tuple[Tensor, Tensor] | None] = []
    for i in range(len(y)):
        cut, found = cuts(i), None
        try:
            if (cut.lower <= cut.upper).all():
                found = _nearest_of(y[i], cut, start[i])
        except InfeasibleError:
            if part.lower.ndim == part.upper.ndim == 1:
                return [None] * len(y)  # One set for every row: empty for one, empty for all.
        points.append(found and _as_tensors(part, found))
    return points


def _nearest_of(y: Array, cut: Cut, start: Array) -> tuple[Array, Array, Array] | None:
    """(w, nu, lam); what the active set calls empty is believed only on the interior point method's proof."""
    try:
        found = nearest(y, cut, start)
    except InfeasibleError:
        found = None
    if found is not None:
        return found
    try:
        return nearest_inside(y, cut)
    except SolverError:
        return None


def _as_tensors(part: Problem, found: tuple[Array, Array, Array]) -> tuple[Tensor, Tensor]:
    w, nu, lam = found
    return part.y.new_tensor(w), part.y.new_tensor(np.concatenate([nu, lam]))


def _proven(part: Problem, w: Tensor) -> tuple[Tensor, Tensor]:
    """(w, violation) with the interior point method's points in place of those (B, n) that the dual did not settle."""
    y, cuts = part.y.cpu().numpy(), _cuts(part)
    for i in range(len(y)):
        try:
            found = _as_tensors(part, nearest_inside(y[i], cuts(i)))
        except (InfeasibleError, SolverError):
            continue
        w[i] = found[0]
    return w, missed(part, w)
