"""One row at a time, exactly: the fallback for what the batched dual does not settle.

    minimise 1/2 |w - y|^2   over the box, the rows and the L1 ball,

by a dual active set (daqp), with t_i >= |w_i - a_i| where turnover has a kink; and the least-distance
pattern by a small mixed-integer program (HiGHS) where no candidate pattern has a point.
Source: Arnstroem, Bemporad and Axehill (2022), A dual active-set solver for embedded quadratic programming.
"""

from __future__ import annotations

from ctypes import c_int
from dataclasses import dataclass

import daqp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

_BIG = 1e30
_LIFT = 1e-9
_NO_POINT = 2  # scipy's status for an infeasible program
_EMPTY = -1  # daqp's flag for an empty set
_WIDE = 1e3  # an endless bound, where a finite one is needed


@dataclass(frozen=True)
class Cut:
    """A box (n,) cut by rows (m, n) with bounds (m,) and, where there is an anchor (n,), by turnover."""

    lower: Array
    upper: Array
    rows: Array
    low: Array
    high: Array
    anchor: Array | None
    turnover: float


def nearest(y: Array, cut: Cut, start: Array) -> tuple[Array, Array, float] | None:
    """(w, nu, lam): the nearest point and its multipliers; None where daqp gave up.

    y (n,); `start` (n,) guesses which bounds are tight.
    Only names that may both rise and fall from their anchor are lifted. Where one is, the point is exact up
    to the small curvature the lifted variables are given, so the caller refines it from the multipliers.

    Raises:
        InfeasibleError: the set is empty.
    """
    lower, upper, rows, low, high, anchor = cut.lower, cut.upper, cut.rows, cut.low, cut.high, cut.anchor
    n, m = len(y), len(rows)
    if anchor is None:
        curvature, cost, matrix, primal = np.eye(n), -y, rows, start
        below, above = np.concatenate([lower, low]), np.concatenate([upper, high])
    else:
        lifted = np.flatnonzero((lower < anchor) & (anchor < upper))
        k = len(lifted)
        sign = np.where(anchor <= lower, 1.0, -1.0)
        sign[lifted] = 0.0
        curvature = np.diag(np.concatenate([np.ones(n), np.full(k, _LIFT)]))
        cost = np.concatenate([-y, np.zeros(k)])
        pick, eye = np.eye(n)[lifted], np.eye(k)
        traded = np.concatenate([sign, np.ones(k)])[None]
        matrix = np.vstack([np.c_[rows, np.zeros((m, k))], traded, np.c_[pick, -eye], np.c_[-pick, -eye]])
        below = np.concatenate([lower, np.zeros(k), low, np.full(1 + 2 * k, -_BIG)])
        above = np.concatenate(
            [upper, np.full(k, _BIG), high, [cut.turnover + sign @ anchor], anchor[lifted], -anchor[lifted]]
        )
        primal = np.concatenate([start, np.abs(start - anchor)[lifted]])
    sense = np.where(below == above, 5, 0).astype(c_int)
    x, _, flag, info = daqp.solve(
        curvature, cost, np.ascontiguousarray(matrix), np.clip(above, -_BIG, _BIG), np.clip(below, -_BIG, _BIG),
        sense, primal_start=primal, primal_tol=1e-11, dual_tol=1e-12, iter_limit=20_000,
    )  # fmt: skip
    if flag == _EMPTY:
        raise InfeasibleError("The box, the rows and the turnover cap have no point in common.")
    if flag < 0:
        return None
    duals = np.asarray(info["lam"])[len(cost) :]
    return np.asarray(x)[:n], duals[:m], 0.0 if anchor is None else float(duals[m])


def possible_pattern(
    y: Array, cut: Cut, at_most: int, floor: float, frozen: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """A pattern (n,) whose slice is not empty, nearest to y in the L1 sense; None where there is none.

    Variables w (n), z (n, 0 or 1), e (n) >= |w - y| and t (n) >= |w - anchor|.

    Raises:
        SolverError: HiGHS gave up without an answer.
    """
    n = len(y)
    lower, upper = np.clip(cut.lower, -_WIDE, _WIDE), np.clip(cut.upper, -_WIDE, _WIDE)
    rows, anchor = cut.rows, cut.anchor
    eye, none = np.eye(n), np.zeros((n, n))
    top, bottom = np.where(frozen, 0.0, np.maximum(upper, 0.0)), np.where(frozen, 0.0, np.minimum(lower, 0.0))
    least = np.where(frozen, 0.0, np.maximum(floor, np.where(floor > 0, lower, 0.0)))
    loose = np.diag(frozen.astype(float)) * _WIDE
    move = y if anchor is None else anchor
    tests = [
        LinearConstraint(np.c_[rows, np.zeros((len(rows), 3 * n))], cut.low, cut.high),
        LinearConstraint(np.c_[eye, -np.diag(top) - loose, none, none], -np.inf, 0.0),
        LinearConstraint(np.c_[eye, np.diag(np.where(floor > 0, -least, -bottom)) + loose, none, none], 0.0, np.inf),
        LinearConstraint(np.c_[eye, none, -eye, none], -np.inf, y),
        LinearConstraint(np.c_[eye, none, eye, none], y, np.inf),
        LinearConstraint(np.c_[eye, none, none, -eye], -np.inf, move),
        LinearConstraint(np.c_[eye, none, none, eye], move, np.inf),
        LinearConstraint(np.r_[np.zeros(n), (~frozen).astype(float), np.zeros(2 * n)][None], 0, at_most),
    ]
    if anchor is not None:
        tests.append(LinearConstraint(np.r_[np.zeros(3 * n), np.ones(n)][None], 0, cut.turnover))
    box = Bounds(np.r_[lower, np.zeros(n), np.zeros(2 * n)], np.r_[upper, np.ones(n), np.full(2 * n, np.inf)])
    whole = np.r_[np.zeros(n), np.ones(n), np.zeros(2 * n)]
    near = np.r_[np.zeros(2 * n), np.ones(n), np.zeros(n)]
    # HiGHS now and then ends in an error on a sound program; without presolve, or asked for any point, it does not.
    for cost, presolve in ((near, True), (near, False), (0.0 * near, True)):
        found = milp(cost, constraints=tests, bounds=box, integrality=whole, options={"presolve": presolve})
        if found.x is not None:
            pattern: NDArray[np.bool_] = (found.x[n : 2 * n] > 0.5) & ~frozen
            return pattern
        if found.status == _NO_POINT:
            return None
    raise SolverError(f"The search for names that fit the rules ended with: {found.message}; loosen a rule a little.")
