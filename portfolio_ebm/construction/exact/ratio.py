"""The exact minimum of a ratio G(w) / R(w) over convex rules, by one convex problem or a short sequence of them.

    F(c) = min over w of  G(w) + c R(w)       falls below zero exactly where some portfolio has G/R < -c,

so the best ratio is -c at the root of F. Dinkelbach's step takes c = -G(w)/R(w) at the minimiser w: Newton's method on
the concave F, which only ever improves the portfolio and ends in a handful of steps. At any c, with R >= R_0 > 0 on
the rules and F(c) >= f (f <= 0, both proven by `minimize`),

    G(w) / R(w) >= -c + f / R_0      for every portfolio: the bound.

Where G is affine, R doubles with the portfolio and the rules are linear, Charnes and Cooper's homogeneous form is one
program instead (homogeneous.py); where no position at all obeys, as of dollar neutral portfolios, one over directions
(directions.py). Under other rules each of Dinkelbach's steps is a problem that the engines know, with every rule as it
is.

The ratio's multipliers are those of the least of G - r R over R(w): at the best ratio r it is zero, at w, so that
dr/d(limit) = (d least/d(limit)) / R(w), and the slope of G/R at w is that of G - r R over R(w).

Source: Dinkelbach, W. (1967), On nonlinear fractional programming, Management Science 13(7); Charnes, A. and Cooper,
W. W. (1962), Programming with linear fractional functionals, Naval Research Logistics Quarterly 9.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import torch

from portfolio_ebm.constraints.combine import region_residual
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.directions import best_direction
from portfolio_ebm.construction.exact.homogeneous import best_ratio
from portfolio_ebm.construction.exact.minimum import FEASIBLE, Minimum, minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energies.ratio import Ratio
from portfolio_ebm.energy import Energy, Scaled
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import Status

STEPS = 50
TIGHT = 1e-12
"""The ratio's relative change below which Newton's steps end."""

WIDE = 100.0
"""Weights of a portfolio without bounds, or of a direction, are taken to be within this."""

PROVEN = 1e-7
"""The relative gap below which a ratio counts as proven."""


def lone_ratio(energy: Energy) -> Scaled | None:
    """The ratio a formula consists of, with its positive coefficient, or None for any other formula."""
    parts = energy.terms()
    alone = len(parts) == 1 and isinstance(parts[0].energy, Ratio) and parts[0].coefficient > 0.0
    return parts[0] if alone else None


def minimize_ratio(part: Scaled, region: Region, ctx: Context) -> Minimum:
    """The least value of a ratio with its coefficient over a convex region, with a bound, the KKT residual of
    G + c R at the best c, and the ratio's own multipliers.

    Raises:
        SolverError: the risk is not positive on every portfolio of the region, or no portfolio gains.
        InfeasibleError: the region is empty.

    Example:
        >>> minimize_ratio(lone_ratio(MaxRatio(Return(), CVaR())), region_of(Budget() & LongOnly(), ctx), ctx).bound
    """
    energy = part.energy
    assert isinstance(energy, Ratio)
    # Without bounds on the weights the problem at a c too small falls without end: they are lent, and must not bind.
    lent = not bool((region.lower.isfinite() & region.upper.isfinite()).all())
    bounded = region.with_box(-WIDE, WIDE) if lent else region
    found = at_once(energy, region, bounded, ctx)
    found = by_direction(energy, region, ctx) if found is None else found
    found = by_steps(energy, bounded, ctx) if found is None else found
    if lent and float(found.weights.abs().max()) > 0.99 * WIDE:
        raise SolverError(
            f"{energy!r}{ctx.at}: the best ratio is only reached by ever larger long and short positions; bound the "
            "weights, or their sum."
        )
    c = part.coefficient
    return replace(
        found, value=c * found.value, bound=None if found.bound is None else c * found.bound,
        duals=None if found.duals is None else found.duals.scaled(c),
    )  # fmt: skip


def at_once(energy: Ratio, region: Region, bounded: Region, ctx: Context) -> Minimum | None:
    """The least ratio by the homogeneous form; None where that is not the problem, or is not proven."""
    best = best_ratio(energy, region, bounded, ctx)
    if best is None or not best.value - best.bound <= PROVEN * abs(best.value):
        return None
    weights = torch.as_tensor(best.weights).to(bounded.lower)
    if not float(region_residual(weights, bounded)) <= FEASIBLE:
        return None
    said = f"Exact minimum of a ratio in one convex program, by {best.engine}: gap {best.value - best.bound:.1e}, "
    said += f"KKT residual {best.kkt:.1e}."
    duals = best.duals.scaled(1.0 / float(energy.denominator.bind(ctx)(weights)))
    return Minimum(weights, best.value, best.bound, best.kkt, Status(True, said), duals)


def by_direction(energy: Ratio, region: Region, ctx: Context) -> Minimum | None:
    """The least ratio where no position at all obeys; None where that is not the problem, or is not proven."""
    best = best_direction(energy, region, ctx, WIDE)
    if best is None:
        return None
    weights, bound = best
    value = float(energy.bind(ctx)(weights))
    if not value - bound <= PROVEN * abs(value):
        return None
    said = f"Exact minimum of a ratio in one convex program over directions: gap {max(value - bound, 0.0):.1e}."
    return Minimum(weights, value, min(bound, value), None, Status(True, said), None)


def by_steps(energy: Ratio, region: Region, ctx: Context) -> Minimum:
    """The least ratio over a region with bounds on the weights, by Dinkelbach's steps.

    Raises: as `minimize_ratio`.
    """
    top, bottom = energy.numerator, energy.denominator
    gain, ratio = top.bind(ctx), energy.bind(ctx)
    safest = minimize(bottom, region, ctx)
    least = safest.bound
    start = safest if float(gain(safest.weights)) < 0.0 else minimize(top, region, ctx)
    if not float(gain(start.weights)) < 0.0:
        raise SolverError(
            f"{energy!r}{ctx.at}: no portfolio gains (the best has {-start.value:.3g}), so a ratio to risk says "
            "nothing; minimise the risk itself, or add Return() to it."
        )
    if least is None or not least > 0.0:
        raise SolverError(
            f"{energy!r}{ctx.at}: the risk of some portfolio is not above zero (least {safest.value:.3g}), so the "
            "ratio has no minimum; use a measure that is positive, e.g. a centred one, or rules that leave out cash."
        )
    weights, value = start.weights, float(ratio(start.weights))
    last: Minimum | None = None
    bound = -float("inf")
    for steps in count(1):
        found = minimize(top - value * bottom, region, ctx)
        # F at the ratio known so far: what the proven part of it leaves open below that ratio.
        below = -float("inf") if found.bound is None else value + min(found.bound, 0.0) / least
        bound, reached = max(bound, below), float(ratio(found.weights))
        # The multipliers are those of the portfolio that is kept, or of one as good.
        last = found if reached <= value + TIGHT * abs(value) else last
        if reached < value:
            weights, value, gained = found.weights, reached, value - reached
        else:
            gained = 0.0
        if gained <= TIGHT * abs(value) or steps == STEPS:
            break
    bound = min(bound, value)
    ok = value - bound <= PROVEN * abs(value)
    kkt = None if last is None else last.kkt
    proof = f"gap {value - bound:.1e}" + ("" if kkt is None else f", KKT residual {kkt:.1e}")
    sentence = (
        f"{'Exact minimum' if ok else 'Minimum, not proven to 1e-7,'} of a ratio in {steps} convex steps: {proof}."
    )
    duals = None if last is None or last.duals is None else last.duals.scaled(1.0 / float(bottom.bind(ctx)(weights)))
    return Minimum(weights, value, bound, kkt, Status(ok, sentence), duals)
