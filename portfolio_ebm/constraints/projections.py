"""Nearest points, pure and batched: the last dimension is the assets, everything in front is a batch.

    capped_simplex       box + budget
    project_polyhedron   box + any number of linear rows + one L1 ball

Inputs may be of any floating dtype; the work is done in float64 and given back in the dtype of y, on its
device. What leaves is measured: each function's residual is the largest violation left, in weight units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.constraints.dual import Problem, solve
from portfolio_ebm.constraints.exact import nearest
from portfolio_ebm.constraints.simplex import box_budget_turnover
from portfolio_ebm.errors import DataError, InfeasibleError, ShapeError
from portfolio_ebm.types import require_last

TOLERANCE = 1e-10
"""A residual above this marks a row that no point satisfies, or that was not solved."""

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
            f"The floors add up to {float(low.sum(-1).max()):g} (budget {most:g}), or one is above its cap: lower a floor."
        )
    return box_budget_turnover(flat, low, high, (least, most), None, None).reshape(y.shape).to(y.dtype)


def project_polyhedron(
    y: Tensor, lower: Tensor, upper: Tensor, rows: Tensor, row_lower: Tensor, row_upper: Tensor,
    anchor: Tensor | None = None, turnover: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The nearest point of {lower <= w <= upper, row_lower <= A w <= row_upper, sum |w - anchor| <= turnover}.

    Box, budget and turnover are solved in closed form up to roots in one unknown; other rows by the dual
    (dual.py), with an exact active set for the rows of the batch that the dual leaves over.

    Args:
        y: (..., n). lower, upper: broadcast against y, so every row of the batch may have its own pattern.
        rows: A (m, n), shared; row_lower, row_upper: (m,). anchor: (n,); turnover is ignored without it.

    Returns:
        w (..., n) in the dtype of y, and the largest violation left (...), in float64, measured before w is
        given back in that dtype: above `TOLERANCE` only where the set is empty or the search failed.
    """
    flat, low, high = _flatten(require_weights(y, what="project_polyhedron"), lower, upper)
    if rows.ndim != 2 or rows.shape[-1] != y.shape[-1]:
        raise ShapeError(f"project_polyhedron rows: got shape {tuple(rows.shape)}, expected (m, {y.shape[-1]}).")
    a, floor, cap = rows.to(flat), row_lower.to(flat), row_upper.to(flat)
    held = None if anchor is None or turnover is None else anchor.to(flat)
    budget = (a == 1.0).all(-1)
    total = (float(floor[budget].amax()), float(cap[budget].amin())) if bool(budget.any()) else None
    if total is not None and total[0] > total[1]:
        total = (total[1], total[1])
    w = box_budget_turnover(flat, low, high, total, held, turnover)
    left = violation(w, low, high, a, floor, cap, held, turnover)
    open_ = left > 1e-13
    if not bool(budget.all()) and bool(open_.any()):
        w[open_], left[open_] = _by_dual(
            Problem(flat, low, high, *_bounds(a, floor, cap, turnover if held is not None else None), held).at(open_),
            turnover,
        )
    return w.reshape(y.shape).to(y.dtype), left.reshape(y.shape[:-1])


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


def _bounds(rows: Tensor, low: Tensor, high: Tensor, turnover: float | None) -> tuple[Tensor, Tensor, Tensor]:
    if turnover is None:
        return rows, low, high
    one = low.new_ones(1)
    return rows, torch.cat([low, -torch.inf * one]), torch.cat([high, turnover * one])


def _by_dual(problem: Problem, turnover: float | None) -> tuple[Tensor, Tensor]:
    m = problem.rows.shape[0]

    def measured(part: Problem, w: Tensor) -> Tensor:
        return violation(w, part.lower, part.upper, part.rows, part.low[:m], part.high[:m], part.anchor, turnover)

    scale = 1.0 + problem.y.abs().amax(-1)
    w, _, converged = solve(problem, problem.y.new_zeros(len(problem.y), len(problem.low)), 1e-13 * scale)
    left = measured(problem, w)
    for i in (~converged | (left > TOLERANCE)).nonzero().flatten():
        one = i.unsqueeze(0)
        part = problem.at(one)
        point = _one_exactly(part, turnover)
        if point is None:
            # The set is empty (or could not be searched): the violation left says so.
            left[i] = measured(part, w[one]).clamp_min(2 * TOLERANCE)[0]
            continue
        start, theta = point
        refined, _, settled = solve(part, theta, 1e-12 * scale[one])
        better = settled & (measured(part, refined) <= TOLERANCE)
        w[one] = torch.where(better.unsqueeze(-1), refined, start)
        left[i] = measured(part, w[one])[0]
    return w, left


def _one_exactly(part: Problem, turnover: float | None) -> tuple[Tensor, Tensor] | None:

    n, m = part.y.shape[-1], part.rows.shape[0]
    low, high = part.lower.expand(1, n)[0], part.upper.expand(1, n)[0]
    if bool((low > high).any()):
        return None
    anchor = None if part.anchor is None else part.anchor.expand(1, n)[0].cpu().numpy()
    found = nearest(
        part.y[0].cpu().numpy(), low.cpu().numpy(), high.cpu().numpy(), part.rows.cpu().numpy(),
        part.low[:m].cpu().numpy(), part.high[:m].cpu().numpy(), anchor, turnover or 0.0,
    )  # fmt: skip
    if found is None:
        return None
    w, nu, lam = found
    theta = [*nu, lam] if anchor is not None else [*nu]
    return part.y.new_tensor(w).unsqueeze(0), part.y.new_tensor(theta).unsqueeze(0)
