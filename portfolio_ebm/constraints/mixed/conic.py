"""A slice on which the active set fails: by Clarabel, bounded by its dual.

Source: Goulart, P. and Chen, Y. (2024), Clarabel: an interior-point solver for conic programs with quadratic
objectives, arXiv 2405.12762.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from portfolio_ebm.constraints.mixed.slice import Point, Slice, snapped
from portfolio_ebm.errors import SolverError

CONE = {cp.OPTIMAL: 1e-9, cp.OPTIMAL_INACCURATE: 1e-4}
"""What Clarabel's minimum may be above the true one, relative to the energy or the largest slope, by what it says."""


def by_cone(s: Slice) -> Point | None:
    """The minimum by Clarabel, bounded by its dual; None where it finds none either.

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
        return None
    if problem.status in ("unbounded", "unbounded_inaccurate"):
        raise SolverError(
            "The energy falls without end before names are chosen; bound the weights (Box, Leverage) or add a risk."
        )
    if w.value is None:
        return None
    weights = snapped(np.asarray(w.value), s.lower, s.upper)
    value = p.value(weights)
    return Point(weights, value, p.slope(weights), value - CONE.get(problem.status, np.inf) * max(abs(value), p.scale))
