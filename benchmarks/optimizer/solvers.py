"""SCIP and HiGHS on the same problems: CPU seconds in the solver alone, one thread, objectives scaled to size one."""

from __future__ import annotations

import time

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.optimizer.problem import FUNDS, Array, Problem
from benchmarks.optimizer.sides import Found
from benchmarks.optimizer.trades import add_lots, add_names, add_trades

SAME = 1e-6
"""A value within this share of the scale is the same value."""


def scip(problem: Problem, cap: float, target: float | None, scale: float) -> Found:
    """Quadratic energies in SCIP, until proven, `cap` seconds, or an incumbent of the energy `target`.

    w'Sw = |y|^2 with y = F'w, S = F F', in one convex constraint, below the square of a volatility where there is one.
    Building the model is not counted.
    """
    from pyscipopt import Model, quicksum

    model, n = Model(), problem.n
    model.hideOutput()
    model.setParams({"limits/time": cap, "timing/clocktype": 1, "parallel/maxnthreads": 1})
    w = [model.addVar(lb=0.0, ub=1.0) for _ in range(n)]
    model.addCons(quicksum(w) <= 1.0)
    model.addCons(quicksum(w) >= 1.0 - problem.cash)
    values, vectors = np.linalg.eigh(problem.covariance)
    kept = values > 1e-12 * values.max()
    factor = vectors[:, kept] * np.sqrt(
        values[kept] * (problem.root**2 / scale if problem.root else problem.risk) / scale
    )
    squares = []
    for column in factor.T:
        y = model.addVar(lb=None)
        model.addCons(quicksum(float(f) * v for f, v in zip(column, w, strict=True)) == y)
        squares.append(y * y)
    square = model.addVar(lb=0.0)
    model.addCons(quicksum(squares) <= (square * square if problem.root else square))
    objective = square - quicksum(float(m) * problem.reward / scale * v for m, v in zip(problem.mean, w, strict=True))
    if problem.limits:
        fund, parts = FUNDS[problem.limits], []
        for v in w:
            z = model.addVar(vtype="B")
            part = model.addVar(lb=0.0)
            model.addCons(v <= fund.threshold + (fund.largest - fund.threshold) * z)
            model.addCons(part >= v - fund.threshold * (1 - z))
            model.addCons(part <= fund.largest * z)
            parts.append(part)
        model.addCons(quicksum(parts) <= fund.together)
    if problem.held is not None:
        objective = objective + add_trades(model, w, problem, scale)
    if problem.names:
        add_names(model, w, problem)
    if problem.lots is not None:
        # Weights that are off the grid by a solver's usual millionth are not whole lots.
        model.setParam("numerics/feastol", 1e-9)
        add_lots(model, w, problem)
    model.setObjective(objective, "minimize")
    if target is not None:
        model.setParam("limits/primal", target / scale + SAME)
    model.optimize()
    found = None if not model.getNSols() else np.array([model.getVal(v) for v in w])
    return Found(found, model.getSolvingTime(), model.getStatus() == "optimal", said=model.getStatus())


def highs(problem: Problem, cap: float) -> Found:
    """CVaR in HiGHS as a mixed-integer linear program (Rockafellar and Uryasev), until proven or `cap` seconds."""
    assert problem.scenarios is not None
    n, (size, _) = problem.n, problem.scenarios.shape
    scale = float(np.abs(problem.scenarios).std())
    # w, z, the part above the threshold, t, u
    eye, zero, none = sparse.eye(n), sparse.csr_matrix((n, n)), sparse.csr_matrix((n, 1 + size))
    cost = np.concatenate([np.zeros(3 * n), [1.0], np.full(size, 1.0 / (0.05 * size))])
    ones, blank = np.ones((1, n)), np.zeros((1, n))
    wide = np.zeros((1, 1 + size))
    rows = [(sparse.csr_matrix(np.hstack([ones, blank, blank, wide])), 1.0, 1.0)]
    tail = sparse.hstack(
        [problem.scenarios / scale, sparse.csr_matrix((size, 2 * n)), np.ones((size, 1)), sparse.eye(size)]
    )
    rows.append((tail, 0.0, np.inf))
    if problem.limits:
        fund = FUNDS[problem.limits]
        rows.append((sparse.hstack([eye, -(fund.largest - fund.threshold) * eye, zero, none]), -np.inf, fund.threshold))
        rows.append((sparse.hstack([eye, fund.threshold * eye, -eye, none]), -np.inf, fund.threshold))
        rows.append((sparse.csr_matrix(np.hstack([blank, blank, ones, wide])), -np.inf, fund.together))
    else:
        rows.append((sparse.hstack([eye, -eye, zero, none]), -np.inf, 0.0))
        rows.append((sparse.hstack([eye, -problem.floor * eye, zero, none]), 0.0, np.inf))
        least = problem.names if problem.exactly else -np.inf
        rows.append((sparse.csr_matrix(np.hstack([blank, ones, blank, wide])), least, problem.names))
    lower = np.concatenate([np.zeros(3 * n), [-np.inf], np.zeros(size)])
    upper = np.concatenate([np.ones(3 * n), np.full(1 + size, np.inf)])
    whole = np.concatenate([np.zeros(n), np.ones(n), np.zeros(n + 1 + size)])
    start = time.process_time()
    found = milp(
        cost, constraints=[LinearConstraint(*row) for row in rows], bounds=Bounds(lower, upper), integrality=whole,
        options={"time_limit": cap, "mip_rel_gap": 1e-8},
    )  # fmt: skip
    seconds = time.process_time() - start
    weights: Array | None = None if found.x is None else found.x[:n]
    return Found(weights, seconds, found.status == 0, said=found.message)
