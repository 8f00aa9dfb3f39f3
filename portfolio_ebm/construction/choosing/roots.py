"""Choices under a volatility or a tracking error: the program whose nodes are quadratics (programs/rooted.py).

Its local model, which scores swaps and gives a price of names its units, has the curvature of a portfolio of the choice
and not of the relaxation: a relaxation may hold the benchmark itself, where a tracking error has a kink.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs.rooted import RootedProgram
from portfolio_ebm.constraints.mixed.programs.slice import Array
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.construction.choosing.inner import FormulaProgram
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.energies.deviation import Volatility
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Energy
from portfolio_ebm.types import as_numpy

Root = tuple[Array, Array]
"""V (n, n) and b (n,) of ((w - b)'V(w - b))^(1/2)."""

SLIGHT = 1e-6
"""A root below this share of what single names have is a kink, and no scale."""


def root_of(formula: Formula) -> Root | None:
    """The root of a formula that is one and a linear part, with a rate of trading; None of another."""
    if formula.curve is not None or formula.tails or formula.other or len(formula.smooth) != 1:
        return None
    found = [(part.coefficient, part.energy) for part in formula.energy.terms() if squared(part.energy)]
    if len(found) != 1:
        return None
    (c, term), ctx = found[0], formula.ctx
    centre = as_numpy(ctx.benchmark(term.benchmark)) if isinstance(term, TrackingError) else np.zeros(formula.n)
    matrix = c**2 * as_numpy(ctx.covariance.dense())
    return (np.ascontiguousarray(matrix), centre) if matrix.diagonal().max() > 0.0 else None


def squared(term: Energy) -> Energy | None:
    """The quadratic whose root a term is; None of another term."""
    if isinstance(term, Volatility):
        return Variance()
    if isinstance(term, TrackingError) and isinstance(term.measure, Volatility):
        return TrackingError(term.benchmark, Variance())
    return None


def with_root(mixed: Mixed, root: Root, formula: Formula, box: Box) -> Mixed:
    """The mixed program with the root in it."""
    usual = float(np.sqrt(root[0].diagonal().mean()))
    first = replace(mixed, program=_program(mixed, root, usual, formula, box))
    open_ = first.root()
    near = None if open_ is None else relax(first, open_)
    if open_ is None or near is None:
        return first
    modes = rounded(first.choices, open_, first.choices.weights(near.weights))
    point = on_slice(first, modes, near) or near
    away = point.weights - root[1]
    size = float(np.sqrt(max(float(away @ root[0] @ away), 0.0)))
    return replace(mixed, program=_program(mixed, root, size if size > SLIGHT * usual else usual, formula, box))


def _program(mixed: Mixed, root: Root, size: float, formula: Formula, box: Box) -> RootedProgram:
    p, matrix, centre = mixed.program, root[0] / size, root[1]
    linear = p.linear - matrix @ centre
    data = p.lower, p.upper, p.rows, p.row_lower, p.row_upper, p.held, p.rate, p.turnover
    otherwise = FormulaProgram(matrix, linear, *data, formula=formula, box=box)
    return RootedProgram(matrix, linear, *data, size=size, flat=p.linear, centre=centre, otherwise=otherwise)
