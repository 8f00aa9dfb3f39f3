"""The linear program behind a formula of affine terms alone, by HiGHS; and the rules as its rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from portfolio_ebm.construction.exact.duality import Box, Multipliers
from portfolio_ebm.construction.exact.engines import Found, no_minimum, scale_of
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.errors import SolverError

Array = NDArray[np.float64]

UNBOUNDED = 3
"""SciPy's status of a linear program that has portfolios, and no least one."""


def linear_program(formula: Formula, box: Box) -> Found | None:
    """The minimum of an affine formula on box, rows and turnover; None where a term is not affine or HiGHS fails.

    Raises:
        SolverError: the formula falls without end.
    """
    if formula.curve is not None or formula.tails or formula.smooth or formula.cost != 0.0:
        return None
    n, capped, scale = formula.n, box.turnover is not None, scale_of(formula, box)
    a_ub, b_ub, a_eq, b_eq = linear_rows(box)
    bounds, cost = np.column_stack([box.lower, box.upper]), scale * formula.linear
    if capped:
        bounds = np.concatenate([bounds, np.column_stack([np.zeros(n), np.full(n, np.inf)])])
        cost = np.concatenate([cost, np.zeros(n)])
    found = linprog(
        cost, A_ub=a_ub, b_ub=b_ub, A_eq=a_eq, b_eq=b_eq, bounds=bounds, method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    if found.status == UNBOUNDED:
        raise SolverError(no_minimum("unbounded", formula))
    if found.status != 0:
        return None
    # HiGHS gives slopes in the right-hand sides: minus the multipliers.
    equal, above, below = box.sides
    rows, one_sided = np.zeros(len(box.rows)), -np.asarray(found.ineqlin.marginals) / scale
    rows[equal] = -np.asarray(found.eqlin.marginals) / scale
    ups = int(above.sum())
    rows[above] += one_sided[:ups]
    rows[below] -= one_sided[ups : ups + int(below.sum())]
    turnover = float(one_sided[-1]) if capped else 0.0
    return Found(np.asarray(found.x)[:n], Multipliers((), rows, turnover), "linear program (HiGHS)")


def linear_rows(box: Box) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """A_ub, b_ub, A_eq, b_eq over (w, v), v >= |w - anchor| present under a turnover cap only."""
    n, capped = len(box.lower), box.turnover is not None
    pad = np.zeros((len(box.rows), n)) if capped else np.zeros((len(box.rows), 0))
    rows = np.concatenate([box.rows, pad], axis=1)
    equal, above, below = box.sides
    left, right = [rows[above], -rows[below]], [box.row_upper[above], -box.row_lower[below]]
    if capped:
        eye = np.eye(n)
        left += [np.hstack([eye, -eye]), np.hstack([-eye, -eye]), np.concatenate([np.zeros(n), np.ones(n)])[None]]
        right += [box.anchor, -box.anchor, np.array([box.turnover])]
    a_ub, b_ub = np.concatenate(left), np.concatenate(right)
    return (
        a_ub if len(a_ub) else None, b_ub if len(a_ub) else None,
        rows[equal] if equal.any() else None, box.row_upper[equal] if equal.any() else None,
    )  # fmt: skip
