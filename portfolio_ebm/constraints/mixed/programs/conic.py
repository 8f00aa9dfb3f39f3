"""A slice on which the active set fails: by Clarabel, bounded by its dual.

Source: Goulart, P. and Chen, Y. (2024), Clarabel: an interior-point solver for conic programs with quadratic
objectives, arXiv 2405.12762.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from portfolio_ebm.constraints.mixed.programs.linear import least_traded
from portfolio_ebm.constraints.mixed.programs.mending import mended
from portfolio_ebm.constraints.mixed.programs.slice import FEASIBLE, Array, Point, Slice, snapped
from portfolio_ebm.errors import SolverError

CONE = {cp.OPTIMAL: 1e-9, cp.OPTIMAL_INACCURATE: 1e-4}
"""What Clarabel's minimum may be above the true one, relative to the energy or the largest slope, by what it says."""


def by_cone(s: Slice) -> Point | None:
    """The minimum by Clarabel, bounded by its dual; None where the slice is empty. Where Clarabel comes to no end, a
    point of the slice, which nothing bounds.

    Raises:
        SolverError: the energy falls without end.
    """
    p, w, scale = s.program, cp.Variable(s.program.n), 1.0 / s.program.scale
    low, high = np.isfinite(s.low), np.isfinite(s.high)
    box = [w[at] >= end[at] if k == 0 else w[at] <= end[at]
           for k, end in enumerate((s.lower, s.upper)) if (at := np.flatnonzero(np.isfinite(end))).size]  # fmt: skip
    rules = [*box, s.rows[low] @ w >= s.low[low], s.rows[high] @ w <= s.high[high]]
    energy = 0.5 * cp.quad_form(w, cp.psd_wrap(scale * p.matrix)) + (scale * p.linear) @ w
    if p.held is not None and p.kinked:
        away = cp.abs(w - p.held)
        energy = energy + (scale * p.rate * np.ones(p.n)) @ away
        rules += [cp.sum(away) <= p.turnover] if np.isfinite(p.turnover) else []
    problem = cp.Problem(cp.Minimize(energy), rules)
    try:
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    except cp.error.SolverError:
        return _anywhere(s)
    if problem.status in ("unbounded", "unbounded_inaccurate"):
        raise SolverError(
            "The energy falls without end before names are chosen; bound the weights (Box, Leverage) or add a risk."
        )
    if problem.status == cp.INFEASIBLE:
        return None
    if w.value is None:
        return _anywhere(s)
    weights = snapped(np.asarray(w.value), s.lower, s.upper)
    value, off = p.value(weights), CONE.get(problem.status, np.inf)
    if _missed(s, weights) > FEASIBLE:
        off = max(off, CONE[cp.OPTIMAL_INACCURATE])
    return _point(s, weights, value - off * max(abs(value), p.scale))


def _anywhere(s: Slice) -> Point | None:
    """A point of the slice; None where there is none."""
    found = least_traded(s)
    return None if found is None else _point(s, found, -np.inf)


def _point(s: Slice, w: Array, low: float) -> Point | None:
    """w (n,), brought onto the slice where it breaks a rule by more than rounding, over the bound `low`; None where
    that ends at no point."""
    near = mended(s, (), w) if _missed(s, w) > FEASIBLE else w
    if near is None:
        return None
    value = s.program.value(near)
    return Point(near, value, s.program.slope(near), min(low, value))


def _missed(s: Slice, w: Array) -> float:
    """By how much w (n,), which is in its box, breaks a row or the turnover cap."""
    p, at = s.program, s.rows @ w
    over = float(np.abs(w - p.held).sum()) - p.turnover if p.held is not None and np.isfinite(p.turnover) else 0.0
    return max(over, float((at - s.high).max(initial=0.0)), float((s.low - at).max(initial=0.0)))
