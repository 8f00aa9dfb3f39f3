"""What every table of choices judges its sides by: feasible to 1e-9, then how far above the best of them."""

from __future__ import annotations

import numpy as np

from benchmarks.optimizer.problem import FEASIBLE, Problem
from benchmarks.optimizer.sides import Found, polished
from benchmarks.optimizer.solvers import highs, scip

SAME = 1e-8
"""A share of the scale within which two energies are the same."""


def feasible_value(problem: Problem, found: Found) -> float:
    known = found.weights is not None and problem.violation(found.weights) <= FEASIBLE
    return problem.energy(found.weights) if known else np.inf


def excess(problem: Problem, found: Found, best: float) -> float | None:
    """How far above `best`, in scales; None where the weights are not feasible."""
    if found.weights is None or problem.violation(found.weights) > FEASIBLE:
        return None
    return (problem.energy(found.weights) - best) / max(problem.scale(found.weights), 1e-300)


def solver(problem: Problem, cap: float, target: float | None, scale: float) -> Found:
    """HiGHS for a CVaR, else SCIP, its weights solved again on the names it chose."""
    found = highs(problem, cap) if problem.tail else scip(problem, cap, target, scale)
    if found.weights is None:
        return found
    return Found(polished(problem, found.weights), found.seconds, found.proven, said=found.said)


def stopped(found: Found, cap: float) -> bool:
    """Whether the clock ended it: HiGHS keeps the wall's, so its CPU seconds may be fewer."""
    return found.seconds >= 0.98 * cap or "time" in found.said.lower()
