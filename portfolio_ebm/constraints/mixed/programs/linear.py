"""What linear programs say of a slice, by HiGHS: its minimum where there is no curvature, and whether it is empty.

Source: Huangfu, Q. and Hall, J. A. J. (2018), Parallelizing the dual revised simplex method, Mathematical Programming
Computation 10.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from portfolio_ebm.constraints.mixed.programs.slice import FEASIBLE, Array, Slice

TIGHT = {"primal_feasibility_tolerance": FEASIBLE, "dual_feasibility_tolerance": FEASIBLE}
"""HiGHS's own are 1e-7, by which weights would break a rule."""


def linear_minimum(
    slope: Array, rows: Array, box: tuple[Array, Array], low: Array, high: Array
) -> tuple[Array, Array] | None:
    """argmin of slope'w over box and rows, and the rows' multipliers; None where HiGHS finds none."""
    scale = max(float(np.abs(slope).max()), 1e-300)
    equal = high - low <= 1e-14
    above, below = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    left, right = np.concatenate([rows[above], -rows[below]]), np.concatenate([high[above], -low[below]])
    found = linprog(
        slope / scale, A_ub=left if len(left) else None, b_ub=right if len(left) else None,
        A_eq=rows[equal] if equal.any() else None, b_eq=high[equal] if equal.any() else None,
        bounds=np.column_stack(box), method="highs-ds", options=TIGHT,
    )  # fmt: skip
    if found.status != 0:
        return None
    duals = np.zeros(len(rows))
    count = int(above.sum())
    duals[equal] = found.eqlin.marginals if equal.any() else 0.0
    duals[above] = found.ineqlin.marginals[:count]
    duals[below] -= found.ineqlin.marginals[count:]
    return np.asarray(found.x), scale * duals


def least_traded(s: Slice) -> Array | None:
    """A point of the slice with the least trading, (n,), by a linear program; None where there is none."""
    p, n = s.program, s.program.n
    held = np.zeros(n) if p.held is None else p.held
    eye, equal = np.eye(n), s.high - s.low <= 1e-14
    above, below = ~equal & np.isfinite(s.high), ~equal & np.isfinite(s.low)
    wide = np.hstack([s.rows, np.zeros((len(s.rows), n))])
    left = np.vstack([wide[above], -wide[below], np.hstack([eye, -eye]), np.hstack([-eye, -eye])])
    right = np.concatenate([s.high[above], -s.low[below], held, -held])
    bounds = np.vstack([np.column_stack([s.lower, s.upper]), np.column_stack([np.zeros(n), np.full(n, np.inf)])])
    found = linprog(
        np.r_[np.zeros(n), np.ones(n)], A_ub=left, b_ub=right, A_eq=wide[equal] if equal.any() else None,
        b_eq=s.high[equal] if equal.any() else None, bounds=bounds, method="highs", options=TIGHT,
    )  # fmt: skip
    if found.status != 0 or found.fun > p.turnover + 1e-9:
        return None
    return np.asarray(found.x[:n])


def is_empty(s: Slice) -> bool:
    """Whether the slice has no point: by one row alone, or by a linear program."""
    ends = np.where(s.rows > 0.0, s.lower, s.upper), np.where(s.rows > 0.0, s.upper, s.lower)
    with np.errstate(invalid="ignore"):
        least, most = (np.where(s.rows == 0.0, 0.0, s.rows * end).sum(axis=1) for end in ends)
    if ((least > s.high + FEASIBLE) | (most < s.low - FEASIBLE)).any():
        return True
    return least_traded(s) is None
