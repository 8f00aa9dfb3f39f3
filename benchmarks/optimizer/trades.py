"""SCIP on trades: tickets, 3/2 impact, whole lots, a turnover cap and a number of names, in one model."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.optimizer.problem import Problem


def add_trades(model: Any, w: list[Any], problem: Problem, scale: float) -> Any:
    """The rules and costs of trading on w, in place; the costs, over `scale`.

    A trade is bought and sold parts, each under a binary of the name. |trade|^(3/2) is a power of their sum under one
    variable a name, so that SCIP cuts each alone.
    """
    from pyscipopt import quicksum

    assert problem.held is not None
    most = min((problem.turnover + 1.0 - float(problem.held.sum())) / 2.0, 1.0)
    trades, costs = [], []
    for v, h, slope in zip(w, problem.held, problem.impact, strict=True):
        buy, sell = model.addVar(lb=0.0, ub=most), model.addVar(lb=0.0, ub=float(h))
        model.addCons(v == float(h) + buy - sell)
        trades += [buy, sell]
        if problem.rate:
            costs.append(problem.rate / scale * (buy + sell))
        if problem.choosing_trades:
            z = model.addVar(vtype="B")
            model.addCons(buy <= most * z)
            model.addCons(sell <= float(h) * z)
            costs.append(problem.ticket / scale * z)
        if slope:
            power = model.addVar(lb=0.0)
            model.addCons((buy + sell) ** 1.5 <= power)
            costs.append(float(slope) / scale * power)
    if np.isfinite(problem.turnover):
        model.addCons(quicksum(trades) <= problem.turnover)
    return quicksum(costs)


def add_lots(model: Any, w: list[Any], problem: Problem) -> None:
    """w_i is a whole number of lots."""
    assert problem.lots is not None
    for v, step in zip(w, problem.lots, strict=True):
        number = model.addVar(vtype="I", lb=0, ub=int(np.floor(1.0 / step)))
        model.addCons(v == float(step) * number)


def add_names(model: Any, w: list[Any], problem: Problem) -> None:
    """At most, or exactly, so many names, each of the least weight."""
    from pyscipopt import quicksum

    chosen = [model.addVar(vtype="B") for _ in w]
    for v, z in zip(w, chosen, strict=True):
        model.addCons(v <= z)
        model.addCons(v >= problem.floor * z)
    held = quicksum(chosen)
    model.addCons(held == problem.names if problem.exactly else held <= problem.names)
