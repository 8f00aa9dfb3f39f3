"""The exact minimum of a ratio as one convex program: Charnes and Cooper's homogeneous form.

For G(w) = g'w + g_0 and a measure R that doubles with the portfolio, put y = k w with k > 0 fixed by the gain:

    min R(y)    s.t.    g'y + g_0 k = -1,    lo k <= A y <= up k,    l k <= y <= u k,

where a'w = b, b not zero, is one of the rules (the budget), so that k = a'y / b is no variable. The ratio is at its
minimum -1/R at w = y / k. R's square takes its place where that is the quadratic that the active set knows.

The proof is of the original problem and trusts no engine. Divided by the multiplier of the gain, those of the rules
prove G + c R >= f over the rules at -c the ratio reached (duality.py), f zero to rounding; with R >= R_0 > 0 there,
no ratio is below -c + f / R_0. A crude R_0 will do.

Source: Charnes, A. and Cooper, W. W. (1962), Programming with linear fractional functionals, Naval Research Logistics
Quarterly 9; Schaible, S. (1974), Parameter-free convex equivalent and dual programs of fractional programming
problems, Zeitschrift fuer Operations Research 18.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.duality import Box, Duals, Multipliers, prove
from portfolio_ebm.construction.exact.engines import Found, active_set, interior
from portfolio_ebm.construction.exact.formula import Formula, take_apart
from portfolio_ebm.construction.exact.minimum import cleaned, minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Semideviation, Semivariance, Volatility
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.ratio import Ratio
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

DOUBLES = (Volatility, Semideviation, EVaR)
"""Smooth terms that double with the portfolio."""


@dataclass(frozen=True)
class Best:
    """The best portfolio (n,), its ratio, a bound below every ratio, the engine, the multipliers of the rules that
    prove the least of G + c R, and the KKT residual there."""

    weights: Array
    value: float
    bound: float
    engine: str
    duals: Duals
    kkt: float


@dataclass(frozen=True)
class _Cone:
    """The rules of y, the gain's row last.

    Every other row is that of a rule, of a single name or of none, less its level times a / b: `sources` are the rows
    of the region, -1 where there is none; `levels` the levels. `unit` is what the gain's row is divided by.
    """

    box: Box
    share: Array
    budget: int
    sources: Ints
    levels: Array
    unit: float


def best_ratio(energy: Ratio, region: Region, bounded: Region, ctx: Context) -> Best | None:
    """The least gain over risk on the region in one program; None where its form is another, or no engine ends.

    `bounded` is the region with bounds on every weight, over which the bound is proven.

    Example:
        >>> best_ratio(MaxRatio(), region, region, ctx).value  # minus the largest Sharpe ratio
    """
    box = Box.of(region)
    if box.caps or box.turnover is not None:
        return None
    top, risk = take_apart(energy.numerator, ctx), take_apart(energy.denominator, ctx)
    if not affine(top) or not doubles(risk):
        return None
    walls, cone = Box.of(bounded), _cone(box, top)
    found = None if cone is None else _solved(energy.denominator, risk, cone.box, ctx)
    if cone is None or found is None or found.duals is None:
        return None
    size = float(cone.share @ found.weights)
    if not size > 1e-9 * float(np.abs(found.weights).sum()) or not found.duals.rows[-1] > 0.0:
        return None
    w = cleaned(found.weights / size, walls, bounded)
    gain, risky = top.evaluate(w), risk.evaluate(w)
    if not gain < 0.0 or not risky > 0.0:
        return None
    value = gain / risky
    whole = take_apart(energy.numerator - value * energy.denominator, ctx)
    proof = prove(whole, walls, w, _multipliers(found.duals, cone, box, top))
    least = _least_risk(energy.denominator, risk, walls, cone.budget, bounded, w)
    if proof.bound is None or least is None:
        return None
    return Best(w, value, value + min(proof.bound, 0.0) / least, found.engine, proof.duals, proof.kkt)


def affine(formula: Formula) -> bool:
    """Whether a formula is a slope and a constant."""
    return formula.exact and not (formula.tails or formula.smooth or formula.cost or formula.curve is not None)


def doubles(formula: Formula) -> bool:
    """Whether every term of a formula doubles with the portfolio, as far as is known."""
    pieces, smooth = formula.pieces, sum(isinstance(part.energy, DOUBLES) for part in formula.energy.terms())
    if pieces is None or formula.curve is not None or formula.constant != 0.0 or formula.cost != 0.0:
        return False
    moved = [t.moved for t in pieces.tails] + [k.centre for k in pieces.kinks] + [h.offsets for h in pieces.hinges]
    moved += [f.moved for f in pieces.falls]
    still = pieces.constant == 0.0 and not any(np.any(x) for x in moved)
    return still and not pieces.squares and not pieces.smooth and smooth == len(formula.smooth)


def _cone(box: Box, top: Formula) -> _Cone | None:
    """The rules of y; None where no equation fixes the size of w, or nothing gains."""
    equal = box.sides[0]
    fixed = np.where(equal, box.row_upper, 0.0)
    budget = int(np.abs(fixed).argmax()) if len(fixed) else 0
    if not len(fixed) or fixed[budget] == 0.0:
        return None
    share, n, eye = box.rows[budget] / fixed[budget], len(box.lower), np.eye(len(box.lower))
    gain = top.linear + top.constant * share
    unit = float(np.abs(gain).max())
    if unit == 0.0:
        return None
    implied = replace(box, upper=np.where(box.upper > 0.0, np.inf, box.upper)).implied()[1]
    low = np.isfinite(box.lower) & (box.lower != 0.0)
    high = np.isfinite(box.upper) & (box.upper != 0.0) & (implied > box.upper)
    others, none = np.delete(np.arange(len(fixed)), budget), np.full(n, -1)
    rows, levels = np.concatenate([box.rows[others], eye]), [box.row_lower[others], box.row_upper[others]]
    levels = [
        np.concatenate([levels[0], np.where(low, box.lower, -np.inf)]),
        np.concatenate([levels[1], np.where(high, box.upper, np.inf)]),
    ]
    sources = np.concatenate([others, none])
    same = np.concatenate([equal[others], np.zeros(n, dtype=bool)])
    below, above = np.flatnonzero(np.isfinite(levels[0]) & ~same), np.flatnonzero(np.isfinite(levels[1]))
    place = np.concatenate([below, above])
    level = np.concatenate([levels[0][below], levels[1][above]])
    # The row of k itself: no rule, with the level -1.
    whole = np.concatenate([rows[place] - level[:, None] * share, share[None], gain[None] / unit])
    least = np.concatenate([np.zeros(len(below)), np.where(same[above], 0.0, -np.inf), [0.0, -1.0]])
    most = np.concatenate([np.full(len(below), np.inf), np.zeros(len(above)), [np.inf, -1.0]])
    ends = np.where(box.lower == 0.0, 0.0, -np.inf), np.where(box.upper == 0.0, 0.0, np.inf)
    return _Cone(
        Box(*ends, whole, least, most, np.zeros(n), None), share, budget,
        np.append(sources[place], -1), np.append(level, -1.0), unit,
    )  # fmt: skip


def _solved(denominator: Energy, risk: Formula, box: Box, ctx: Context) -> Found | None:
    """The least risk of y. Multipliers of a square stand for those of its root, but for a factor."""
    square = square_of_risk(denominator)
    if square is None:
        return interior(risk, box)
    formula = take_apart(square, ctx)
    return active_set(formula, box) or interior(formula, box)


def square_of_risk(denominator: Energy) -> Energy | None:
    """The quadratic, or smooth, term that is the square of a risk; None of another risk."""
    if isinstance(denominator, Volatility):
        return Variance()
    return Semivariance(centred=denominator.centred) if isinstance(denominator, Semideviation) else None


def _multipliers(duals: Multipliers, cone: _Cone, box: Box, top: Formula) -> Multipliers:
    """Those of min G + c R over the rules themselves, from those of the cone, whose gain has the multiplier 1/c."""
    factor = cone.unit / float(duals.rows[-1])
    own, rows = factor * duals.rows[:-1], np.zeros(len(box.rows))
    named = cone.sources >= 0
    np.add.at(rows, cone.sources[named], own[named])
    level = box.row_upper[cone.budget]
    rows[cone.budget] = (top.constant - float(own @ cone.levels)) / level
    return Multipliers(
        tuple(factor * q for q in duals.tails),
        rows,
        0.0,
        hinges=tuple(factor * q for q in duals.hinges),
        falls=tuple(factor * q for q in duals.falls),
    )


def _least_risk(denominator: Energy, risk: Formula, walls: Box, budget: int, bounded: Region, w: Array) -> float | None:
    """A bound above zero below the risk of every portfolio; None where there is none.

    First that of the plane that touches R at w: R(x) >= s'x, s a subgradient, and over the box and the budget alone the
    least of s'x is its dual at one of the breakpoints.
    """
    slope, a, b = risk.gradient(w), walls.rows[budget], walls.row_upper[budget]
    on, (lower, upper) = a != 0.0, walls.implied()
    points = -slope[on] / a[on]
    prices = slope + points[:, None] * a
    with np.errstate(invalid="ignore"):
        ends = np.minimum(prices * lower, prices * upper)
    planes = np.where(prices == 0.0, 0.0, ends).sum(1) - points * b
    found = float(planes.max(initial=-np.inf))
    if found > 0.0:
        return found
    square = square_of_risk(denominator)
    bound = minimize(denominator if square is None else square, bounded, risk.ctx).bound
    if bound is None or not bound > 0.0:
        return None
    return bound if square is None else float(bound**0.5)
