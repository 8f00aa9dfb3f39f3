"""The three engines behind `minimize`: active set, interior point, cvxpy; each gives weights and multipliers.

The active set (daqp) takes strictly convex quadratics on polyhedra; the interior point takes smooth terms, the pieces
of pieces.py and every cap too; cvxpy with Clarabel takes whatever is convex. All work on an objective scaled to order
one: portfolio energies are near 1e-5, below what solvers' tolerances see.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.construction.columns import by_columns, by_daqp
from portfolio_ebm.construction.duality import Box, Duals, Multipliers
from portfolio_ebm.construction.formula import Formula
from portfolio_ebm.construction.interior import interior_point
from portfolio_ebm.construction.lowering import lowered, program_of, read, sides
from portfolio_ebm.energy import to_cvxpy
from portfolio_ebm.errors import SolverError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ATTEMPTS = ((1.0, 0.99), (1.0, 0.9), (10.0, 0.99), (0.1, 0.9), (0.01, 0.9))
"""In which units Clarabel sees the objective, and how far it steps towards a wall, until it solves the problem."""

CLOSED = 3e-9
"""Clarabel's own gap and residuals, relative to the energy, below which it is not asked again."""


@dataclass(frozen=True)
class Found:
    """What an engine gives: weights, and multipliers that prove them. Cvxpy, on terms only it knows, gives a bound, a
    KKT residual and multipliers of the rules of its own instead; cutting planes give `own` ones."""

    weights: Array
    duals: Multipliers | None
    engine: str
    bound: float | None = None
    kkt: float | None = None
    rules: Duals | None = None
    own: bool = False


def scale_of(formula: Formula, box: Box) -> float:
    """The factor that brings the objective's slopes to order one."""
    start = inside(box)
    _, gradient = formula.slope(start)
    sizes = [float(np.abs(gradient).max(initial=0.0)), formula.cost]
    sizes += [tail.coefficient * float(np.abs(tail.losses).mean()) for tail in formula.tails]
    if formula.other:
        sizes.append(float(np.abs(formula.gradient(start)).max(initial=0.0)))
    largest = max(sizes)
    return 1.0 / largest if largest > 0.0 else 1.0


def inside(box: Box, share: float = 0.2) -> Array:
    """A point inside the box, off its ends by a share of its width where it has one, near equal weight."""
    n = len(box.lower)
    width = np.minimum(np.where(np.isfinite(box.upper - box.lower), box.upper - box.lower, np.inf), 1.0)
    low = np.where(np.isfinite(box.lower), box.lower + share * width, -np.inf)
    high = np.where(np.isfinite(box.upper), box.upper - share * width, np.inf)
    return np.asarray(np.clip(np.full(n, 1.0 / n), low, high))


def active_set(formula: Formula, box: Box, start: Array | None = None) -> Found | None:
    """The exact minimum of a quadratic on a polyhedron by daqp; None where daqp does not end at one.

    Large problems are solved on the names that matter, first those of `start`, the weights of a problem close by.
    """
    if formula.curve is None or formula.tails or formula.smooth or formula.cost != 0.0 or box.turnover is not None:
        return None
    scale = scale_of(formula, box)
    found, engine = by_columns(formula, box, scale, start), "active set (daqp) by columns"
    if found is None and formula.matrix is not None:
        engine = "active set (daqp)"
        found = by_daqp(
            scale * formula.matrix, scale * formula.linear, box.lower, box.upper,
            box.rows, box.row_lower, box.row_upper,
        )  # fmt: skip
    return None if found is None else Found(found[0], Multipliers((), found[1] / scale, 0.0), engine)


def interior(formula: Formula, box: Box) -> Found | None:
    """The minimum of a formula of known terms, pieces and caps, by the interior point; None where it fails."""
    free = box.upper - box.lower > 1e-14
    # Drawdowns grow with the weights: equal weights, or near, are the better start for them.
    falling = formula.pieces is not None and bool(formula.pieces.falls)
    near = np.where(free, inside(box, 0.01 if falling else 0.2), box.lower)
    parts = lowered(formula, box, free, scale_of(formula, box), near)
    if parts is None:
        return None
    with np.errstate(all="ignore"):
        ended = interior_point(program_of(parts), parts.start)
    if not ended.converged:
        return None
    w, duals = read(parts, ended.z, ended.q, ended.row_dual, ended.equal_dual, ended.flow)
    engine = f"interior point, {ended.steps} steps" + (", then exact on its active set" if ended.exact else "")
    return Found(w, duals, engine)


def through_cvxpy(formula: Formula, box: Box) -> Found:
    """The minimum by cvxpy and Clarabel, for formulas with terms that only cvxpy knows.

    Where Clarabel stalls it is asked again, in other units or with shorter steps, and the smallest gap is kept. The
    bound is Clarabel's dual objective less 5e-9 of the energy's scale, since its dual is feasible to a tolerance.

    Raises:
        SolverError: Clarabel did not reach its tolerance, or there is no minimum.
    """
    scale = scale_of(formula, box)
    best, least, failed = None, np.inf, SolverError("")
    for unit, step in ATTEMPTS:
        try:
            found, gap = _clarabel(formula, box, unit * scale, step)
        except SolverError as error:
            failed = error
            continue
        if gap < least or best is None:
            best, least = found, gap
        if least <= CLOSED:
            break
    if best is None:
        raise failed
    return best


def _clarabel(formula: Formula, box: Box, scale: float, step: float) -> tuple[Found, float]:
    """One solve of `scale` times the formula, and its gap relative to the scaled energy, at least one."""
    w = cp.Variable(formula.n)
    walls = rules(w, box)
    problem = cp.Problem(cp.Minimize(scale * to_cvxpy(formula.energy, w, formula.ctx)), list(walls.values()))
    tolerances = {
        "tol_gap_abs": 1e-11,
        "tol_gap_rel": 1e-11,
        "tol_feas": 1e-11,
        "max_iter": 200,
        "max_step_fraction": step,
    }
    with warnings.catch_warnings():
        # "Inaccurate" is judged below by the gap, not by the solver.
        warnings.simplefilter("ignore", UserWarning)
        try:
            data, chain, inverse = problem.get_problem_data(cp.CLARABEL, solver_opts=tolerances)
            raw = chain.solve_via_data(problem, data, solver_opts=tolerances)
            problem.unpack_results(raw, chain, inverse)
        except cp.error.SolverError as error:
            raise SolverError(f"Clarabel failed on {formula.energy!r}{_where(formula)}: {error}") from error
    if w.value is None or problem.status not in ("optimal", "optimal_inaccurate"):
        raise SolverError(no_minimum(problem.status, formula))
    # What cvxpy takes out of the cone program's objective is the same constant in primal and dual.
    value = float(raw.obj_val)
    dual = float(chain.invert(raw, inverse).opt_val) + float(raw.obj_val_dual) - value
    size = max(1.0, abs(dual))
    bound = (dual - 5e-9 * size) / scale if np.isfinite(dual) else None
    kkt = max(float(raw.r_prim), float(raw.r_dual))
    weights, engine = np.asarray(w.value), f"Clarabel through cvxpy ({problem.status})"
    found = Found(weights, None, engine, bound, kkt, _duals(walls, box, weights, scale))
    gap = abs(value - float(raw.obj_val_dual)) / size if np.isfinite(dual) else np.inf
    return found, max(gap, kkt)


def no_minimum(status: str, formula: Formula) -> str:
    """The sentence for a solver status without a minimum, on rules that have portfolios."""
    what = f"{formula.energy!r}{_where(formula)}"
    if status.startswith("unbounded"):
        return f"{what} falls without end under these rules; bound the weights (Box, Leverage) or add a risk."
    if status.startswith("infeasible"):
        return (
            f"{what} is infinite on every portfolio that the rules allow; loosen the rules, or leave out the term that "
            "needs positive weights or exposures."
        )
    if status == "off":
        return f"{what}: Clarabel's weights break a rule by more than 1e-9; bound the weights (Box), check units."
    return (
        f"Clarabel ended with '{status}' on {what}; check that the energy is bounded below over the rules and its "
        "coefficients are finite."
    )


def rules(w: Any, box: Box) -> dict[str, Any]:
    """The region as cvxpy constraints on `w`, by what they hold: "lower", "upper", "equal", "above", "below", ..."""
    found: dict[str, Any] = {}
    low, high, equal, above, below = _sides(box)
    if low.any():
        found["lower"] = w[np.flatnonzero(low)] >= box.lower[low]
    if high.any():
        found["upper"] = w[np.flatnonzero(high)] <= box.upper[high]
    if equal.any():
        found["equal"] = box.rows[equal] @ w == box.row_upper[equal]
    if above.any():
        found["above"] = box.rows[above] @ w <= box.row_upper[above]
    if below.any():
        found["below"] = box.rows[below] @ w >= box.row_lower[below]
    if box.turnover is not None:
        found["turnover"] = cp.norm1(w - box.anchor) <= box.turnover
    for k, one in enumerate(box.caps):
        found[f"cap {k}"] = one.to_cvxpy(w)
    return found


def _sides(box: Box) -> tuple[Mask, Mask, Mask, Mask, Mask]:
    """Finite lower and upper ends by name; equal, upper-bounded and lower-bounded rows."""
    return np.isfinite(box.lower), np.isfinite(box.upper), *sides(box)


def _duals(walls: dict[str, Any], box: Box, weights: Array, scale: float) -> Duals | None:
    """The multipliers that cvxpy found for `rules`, in the energy's own units."""
    values = {name: wall.dual_value for name, wall in walls.items()}
    if any(value is None for value in values.values()):
        return None
    rows, ends = np.zeros(len(box.rows)), (np.zeros(len(box.lower)), np.zeros(len(box.lower)))
    low, high, equal, above, below = _sides(box)
    for name, where, target, sign in (
        ("lower", low, ends[0], 1.0), ("upper", high, ends[1], 1.0),
        ("equal", equal, rows, 1.0), ("above", above, rows, 1.0), ("below", below, rows, -1.0),
    ):  # fmt: skip
        if name in values:
            target[where] += sign * np.asarray(values[name], dtype=np.float64).reshape(-1) / scale
    caps = []
    for k, one in enumerate(box.caps):
        caps.append(float(values[f"cap {k}"]) / (scale * one.unit))
    return Duals(rows, *ends, float(values.get("turnover", 0.0)) / scale, tuple(caps))


def _where(formula: Formula) -> str:
    return f" at {formula.ctx.date}" if formula.ctx.date else ""
