"""The least ratio G(w) / R(w) where no position at all obeys the rules: one convex program over directions.

    min R(y)   over the cone of the rules at zero,   G(y) = -g

A dollar neutral portfolio may be made ever smaller, and its risk with it, so that no risk above zero bounds all of
them. But G is linear there, R doubles with the portfolio, and the rules hold every part w of a portfolio s w, s >= 1:
the ratio depends on the direction alone. Of the rules those that bind at zero are left, a' w <= 0, and the best
direction y has the ratio -g/R(y). Its largest multiple that obeys all rules is the portfolio.

Source: Charnes, A. and Cooper, W. W. (1962), Programming with linear fractional functionals, Naval Research Logistics
Quarterly 9, in the case where what scales the portfolio has no end.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import region_residual
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.homogeneous import affine, doubles, square_of_risk
from portfolio_ebm.construction.exact.minimum import FEASIBLE, minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energies.ratio import Ratio
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError

ROUNDING = 1e-12
"""A rule with less room at zero than this binds there."""
HALVINGS = 200
SLIGHT = 1e-7
"""A risk below zero by less than this share of the best direction's is rounding."""


def best_direction(energy: Ratio, region: Region, ctx: Context, wide: float) -> tuple[Tensor, float] | None:
    """The portfolio (n,) of the least ratio over a convex region that holds zero, and a bound below every ratio.

    None where zero does not obey or a cap binds there, where the gain is not linear, where the risk is not known to
    double with the portfolio, as one from a benchmark does not, or may be below zero, and where no direction gains
    within weights of `wide`, the gain of even weights taken for one.

    Raises:
        SolverError: as `minimize`.
    """
    gain, cone = take_apart(energy.numerator, ctx), _at_zero(region)
    if cone is None or not affine(gain) or gain.constant != 0.0 or not doubles(take_apart(energy.denominator, ctx)):
        return None
    slope = torch.as_tensor(gain.linear).to(region.lower)
    asked = float(slope.abs().mean())
    if asked == 0.0:
        return None
    square = square_of_risk(energy.denominator)
    try:
        gaining = cone.with_box(-wide, wide).with_row(slope / asked, -1.0, -1.0, "gain")
        found = minimize(energy.denominator if square is None else square, gaining, ctx)
    except InfeasibleError:
        return None
    if found.bound is None or not found.bound > 0.0 or float(found.weights.abs().max()) > 0.99 * wide:
        return None
    if square is None and not _never_negative(energy.denominator, cone, ctx, SLIGHT * found.value):
        return None
    weights = _largest(found.weights, region)
    return None if weights is None else (weights, -asked / (found.bound if square is None else sqrt(found.bound)))


def _never_negative(risk: Energy, cone: Region, ctx: Context, slight: float) -> bool:
    """Whether no direction of the cone has a risk below zero: one that loses, too, would have a ratio below zero."""
    least = minimize(risk, cone.with_box(-1.0, 1.0), ctx).bound
    return least is not None and least >= -slight


def _at_zero(region: Region) -> Region | None:
    """The cone of the rules that bind at zero; None where zero breaks a rule, or a cap binds there."""
    zero = torch.zeros_like(region.lower)
    traded = 0.0 if region.anchor is None else float(region.anchor.abs().sum())
    tight = region.turnover is not None and traded > region.turnover - ROUNDING
    if tight or region.discrete or any(float(cap.excess(zero)) > -ROUNDING for cap in region.caps):
        return None
    if float(region_residual(zero, region)) > 0.0:
        return None

    def ends(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.zeros_like(below).masked_fill(below <= -ROUNDING, -torch.inf),
            torch.zeros_like(above).masked_fill(above >= ROUNDING, torch.inf),
        )

    (lower, upper), (row_lower, row_upper) = ends(region.lower, region.upper), ends(region.row_lower, region.row_upper)
    return replace(
        region, lower=lower, upper=upper, row_lower=row_lower, row_upper=row_upper, turnover=None, anchor=None, caps=()
    )


def _largest(y: Tensor, region: Region) -> Tensor | None:
    """The largest multiple of y (n,) that obeys the rules; y itself where every multiple does; None where none does by
    more than rounding."""
    size = float(y.abs().max())
    low, high = 0.0, 1.0 / size

    def obeys(t: float) -> bool:
        return float(region_residual(t * y, region)) <= 0.1 * FEASIBLE * min(1.0, t * size)

    for _ in range(HALVINGS):
        if not obeys(high):
            break
        low, high = high, 2.0 * high
        if high * size > 1.0 / FEASIBLE:
            return y
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if obeys(middle) else (low, middle)
    # A hair less, so that what bisection leaves of its tolerance is within the rules.
    return low * (1.0 - FEASIBLE) * y if low * size > FEASIBLE else None
