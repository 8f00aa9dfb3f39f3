"""cvxpy with Clarabel: the engine for whatever is convex, and the oracle that the fast engines are held to.

A formula is turned into a cone program once for all boxes of one structure (the same rows, the same ends that are
finite, the same caps): what the ends are, and the scale of the objective, are parameters. Slices of one choice and
attempts in other units so cost one compilation.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.construction.exact.duality import Box, Duals
from portfolio_ebm.construction.exact.engines import Found, no_minimum, scale_of
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.energy import to_cvxpy
from portfolio_ebm.errors import SolverError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ATTEMPTS = ((1.0, 0.99), (1.0, 0.9), (10.0, 0.99), (0.1, 0.9), (0.01, 0.9))
"""In which units Clarabel sees the objective, and how far it steps towards a wall, until it solves the problem."""

CLOSED = 3e-9
"""Clarabel's own gap and residuals, relative to the energy, below which it is not asked again."""

KEPT = 4
"""Compiled programs kept beside a formula; a choice of names alternates between few structures."""


def through_cvxpy(formula: Formula, box: Box) -> Found:
    """The minimum by cvxpy and Clarabel, for formulas with terms that only cvxpy knows.

    Where Clarabel stalls it is asked again, in other units or with shorter steps, and the smallest gap is kept. The
    bound is Clarabel's dual objective less 5e-9 of the energy's scale, since its dual is feasible to a tolerance.

    Raises:
        SolverError: Clarabel did not reach its tolerance, or there is no minimum.
    """
    scale, compiled = scale_of(formula.plain, box), _compiled(formula, box)
    best, least, failed = None, np.inf, SolverError("")
    for unit, step in ATTEMPTS:
        try:
            found, gap = compiled.solve(box, unit * scale, step)
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


def _compiled(formula: Formula, box: Box) -> Compiled:
    """The formula's program for boxes like this one, made where there is none yet."""
    key, kept = _structure(box), formula.compiled
    if key not in kept:
        while len(kept) >= KEPT:
            del kept[next(iter(kept))]
        kept[key] = Compiled(formula, box)
    found: Compiled = kept[key]
    return found


def _structure(box: Box) -> Hashable:
    """What a program is compiled for: all of a box but the numbers at its ends."""
    masks = tuple(mask.tobytes() for mask in _sides(box))
    anchor = None if box.turnover is None else box.anchor.tobytes()
    return box.rows.shape, box.rows.tobytes(), masks, anchor, tuple(id(cap) for cap in box.caps)


class Compiled:
    """min scale * E(w) over boxes of one structure, as one parametrised cvxpy problem.

    The caps of `box` are kept, so that no other cap can come to stand at their place in memory.
    """

    def __init__(self, formula: Formula, box: Box) -> None:
        self.formula, self.caps = formula, box.caps
        self.w = cp.Variable(formula.n)
        self.scale = cp.Parameter(nonneg=True)
        self.ends = {name: cp.Parameter(np.shape(end)) for name, end in ends(box).items()}
        self.walls = rules(self.w, box, self.ends)
        energy = to_cvxpy(formula.energy, self.w, formula.ctx)
        self.problem = cp.Problem(cp.Minimize(self.scale * energy), list(self.walls.values()))

    def solve(self, box: Box, scale: float, step: float) -> tuple[Found, float]:
        """One solve of `scale` times the formula, and its gap relative to the scaled energy, at least one."""
        self.scale.value = scale
        for name, end in ends(box).items():
            self.ends[name].value = end
        problem, formula = self.problem, self.formula
        tolerances = {
            "tol_gap_abs": 1e-11,
            "tol_gap_rel": 1e-11,
            "tol_feas": 1e-11,
            "max_iter": 200,
            "max_step_fraction": step,
        }
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # "Inaccurate" is judged below by the gap, not by the solver.
            warnings.simplefilter("ignore", UserWarning)
            try:
                data, chain, inverse = problem.get_problem_data(cp.CLARABEL, solver_opts=tolerances)
                raw = chain.solve_via_data(problem, data, solver_opts=tolerances)
                solution = chain.invert(raw, inverse)
            except cp.error.SolverError as error:
                raise SolverError(f"Clarabel failed on {formula.energy!r}{formula.ctx.at}: {error}") from error
        if solution.status not in ("optimal", "optimal_inaccurate"):
            raise SolverError(no_minimum(solution.status, formula))
        # Not through cvxpy's own unpacking: it evaluates the objective and all cones in it, as long as a solve takes.
        for wall in self.walls.values():
            wall.save_dual_value(solution.dual_vars[wall.id])
        # What cvxpy takes out of the cone program's objective is the same constant in primal and dual.
        value = float(raw.obj_val)
        dual = float(solution.opt_val) + float(raw.obj_val_dual) - value
        size = max(1.0, abs(dual))
        bound = (dual - 5e-9 * size) / scale if np.isfinite(dual) else None
        kkt = max(float(raw.r_prim), float(raw.r_dual))
        weights, engine = np.array(solution.primal_vars[self.w.id]), f"Clarabel through cvxpy ({solution.status})"
        found = Found(weights, None, engine, bound, kkt, _duals(self.walls, box, scale))
        gap = abs(value - float(raw.obj_val_dual)) / size if np.isfinite(dual) else np.inf
        return found, max(gap, kkt)


def ends(box: Box) -> dict[str, Any]:
    """The numbers at the finite ends of the region, by what they hold: "lower", "upper", "equal", ..."""
    low, high, equal, above, below = _sides(box)
    found = {
        "lower": box.lower[low], "upper": box.upper[high], "equal": box.row_upper[equal],
        "above": box.row_upper[above], "below": box.row_lower[below],
    }  # fmt: skip
    some: dict[str, Any] = {name: end for name, end in found.items() if len(end)}
    return some if box.turnover is None else {**some, "turnover": box.turnover}


def rules(w: Any, box: Box, at: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The region as cvxpy constraints on `w`, by what they hold; `at` gives the ends where they are parameters."""
    low, high, equal, above, below = _sides(box)
    sizes = {
        "lower": lambda end: w[np.flatnonzero(low)] >= end,
        "upper": lambda end: w[np.flatnonzero(high)] <= end,
        "equal": lambda end: box.rows[equal] @ w == end,
        "above": lambda end: box.rows[above] @ w <= end,
        "below": lambda end: box.rows[below] @ w >= end,
        "turnover": lambda end: cp.norm1(w - box.anchor) <= end,
    }
    found = {name: sizes[name](end) for name, end in (ends(box) if at is None else at).items()}
    for k, one in enumerate(box.caps):
        found[f"cap {k}"] = one.to_cvxpy(w)
    return found


def _sides(box: Box) -> tuple[Mask, Mask, Mask, Mask, Mask]:
    """Finite lower and upper ends by name; equal, upper-bounded and lower-bounded rows."""
    return np.isfinite(box.lower), np.isfinite(box.upper), *box.sides


def _duals(walls: dict[str, Any], box: Box, scale: float) -> Duals | None:
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
