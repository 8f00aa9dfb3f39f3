"""A quadratic under a cost of trading, or a cap on it, by the active set from side to side of what is held.

The walk is that of every choice's slices (constraints/mixed/programs/sides.py). It hands back weights and prices
d = M w + m - A'v; the rows' multipliers v are read off these, and the proof is that of any engine.
"""

from __future__ import annotations

import numpy as np

from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.sides import from_sides
from portfolio_ebm.constraints.mixed.programs.slice import FEASIBLE, Slice
from portfolio_ebm.construction.exact.duality import Box, Multipliers
from portfolio_ebm.construction.exact.engines import Found, scale_of
from portfolio_ebm.construction.exact.formula import SMALL, Formula


def by_sides(formula: Formula, box: Box) -> Found | None:
    """The minimum of a quadratic whose trades cost a rate or are capped, counted from the same weights; None for
    another formula, for many names, and where the walk comes to no end."""
    costly, capped = formula.cost > 0.0, box.turnover is not None
    matrix = formula.matrix if formula.n <= SMALL else None
    if matrix is None or formula.tails or formula.smooth or not (costly or capped):
        return None
    held = formula.held if costly else box.anchor
    if held is None or (costly and capped and not np.array_equal(held, box.anchor)):
        return None
    scale = scale_of(formula, box)
    program = Program(
        scale * matrix, scale * formula.linear, box.lower, box.upper, box.rows, box.row_lower, box.row_upper,
        held, scale * formula.cost, np.inf if box.turnover is None else box.turnover,
    )  # fmt: skip
    found = from_sides(Slice(program, box.lower, box.upper, box.rows, box.row_lower, box.row_upper), None)
    if found is None:
        return None
    pull = (program.slope(found.weights) - found.prices) / scale
    # Rows that do not bind have none: caps of groups add up to the budget, so that all rows share what some pull.
    at, rows = box.rows @ found.weights, np.zeros(len(box.rows))
    binds = (at <= box.row_lower + FEASIBLE) | (at >= box.row_upper - FEASIBLE)
    if binds.any():
        rows[binds] = np.linalg.lstsq(box.rows[binds].T, -pull)[0]
    turnover = float(found.toll - program.rate) / scale
    return Found(found.weights, Multipliers((), rows, turnover), "active set (daqp) from side to side of what is held")
