"""Clarabel through cvxpy, for questions about rules: its failures are errors of this package, without warnings."""

from __future__ import annotations

import warnings
from typing import Any

import cvxpy as cp

from portfolio_ebm.errors import SolverError

TIGHT = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
"""Tolerances for answers that are numbers."""


def ask_clarabel(problem: Any, doubt: str, **tolerances: float) -> None:
    """Solve a cvxpy problem in place; `doubt` says what stays open where Clarabel fails ("... could not tell ...").

    Whether an end that is inaccurate will do is for the caller to judge, by the problem's status.

    Raises:
        SolverError: Clarabel failed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            problem.solve(solver=cp.CLARABEL, **tolerances)
        except cp.error.SolverError as error:
            raise SolverError(f"{doubt}: {error}") from error
