"""What a convex region leaves room for where its caps are curved: the questions of feasible.py as one cone program.

    min  cost'w + sum |w - moved|    or    min  t, the walls of `loose` let out by t >= 0,    over the region

Tangent cuts answer the same, but with twenty names under a cap on volatility they need hundreds of rounds.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.constraints.cone import TIGHT, ask_clarabel
from portfolio_ebm.constraints.region import Region, curved_names
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.oracle import rules
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]


def least_by_cone(region: Region, cost: Array | None, moved: Array | None, loose: Region | None) -> float | None:
    """The least value of the question above; None where the region is empty, -inf where nothing bounds it.

    Raises:
        SolverError: Clarabel ended otherwise.
    """
    w, t = cp.Variable(region.n), cp.Variable(nonneg=True)
    walls = list(rules(w, Box.of(region)).values())
    # Risks are small beside solvers' tolerances: t is counted in the unit of the cap that it lets out.
    unit = 1.0 if loose is None else min([1.0, *(cap.unit for cap in loose.curved)])
    value: Any = t
    if loose is not None:
        walls += _let_out(w, loose, unit * t)
    if cost is not None:
        value = value + cost @ w
    if moved is not None:
        value = value + cp.norm1(w - moved)
    problem = cp.Problem(cp.Minimize(value), walls)
    doubt = f"Clarabel could not tell what {curved_names(region, loose)} leave"
    ask_clarabel(problem, doubt, **TIGHT)
    if problem.status.startswith("infeasible"):
        return None
    if problem.status.startswith("unbounded"):
        return -np.inf
    if not problem.status.startswith("optimal"):
        raise SolverError(f"{doubt}: {problem.status}.")
    return unit * float(problem.value)


def _let_out(w: cp.Variable, loose: Region, by: Any) -> list[Any]:
    """Every bound of `loose` let out by `by`, in its own units."""
    low, high = as_numpy(loose.lower), as_numpy(loose.upper)
    rows, row_low, row_high = (as_numpy(x) for x in (loose.rows, loose.row_lower, loose.row_upper))
    walls = []
    for expression, least, most in ((w, low, high), (rows @ w, row_low, row_high)):
        down, up = np.flatnonzero(np.isfinite(least)), np.flatnonzero(np.isfinite(most))
        walls += [expression[down] >= least[down] - by] if len(down) else []
        walls += [expression[up] <= most[up] + by] if len(up) else []
    if loose.turnover is not None and loose.anchor is not None:
        walls.append(cp.norm1(w - as_numpy(loose.anchor)) <= loose.turnover + by)
    for cap in loose.caps:
        left, right = cap.to_cvxpy(w).args
        walls.append(left <= right + by / cap.unit)
    return walls
