"""The exact minimum of a ratio G(w) / R(w) over convex rules, by a short sequence of convex problems.

    F(c) = min over w of  G(w) + c R(w)       falls below zero exactly where some portfolio has G/R < -c,

so the best ratio is -c at the root of F. Dinkelbach's step takes c = -G(w)/R(w) at the minimiser w: Newton's method on
the concave F, which only ever improves the portfolio and ends in a handful of steps. At any c, with R >= R_0 > 0 on
the rules and F(c) >= f (f <= 0, both proven by `minimize`),

    G(w) / R(w) >= -c + f / R_0      for every portfolio: the bound.

Charnes and Cooper's homogeneous form, min R(y) over G(y) = -1 with every rule scaled by a variable, is the same
problem when R is positively homogeneous. Here each step is a problem that the exact engines know, with every rule as it
is.

Source: Dinkelbach, W. (1967), On nonlinear fractional programming, Management Science 13(7); Charnes, A. and Cooper,
W. W. (1962), Programming with linear fractional functionals, Naval Research Logistics Quarterly 9.
"""

from __future__ import annotations

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.convex import Minimum, minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energies.ratio import Ratio
from portfolio_ebm.energy import Energy, Scaled
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import Status

STEPS = 50
TIGHT = 1e-12
"""The ratio's relative change below which Newton's steps end."""

WIDE = 100.0
"""Weights of a portfolio without bounds are taken to be within this."""

PROVEN = 1e-7
"""The relative gap below which a ratio counts as proven."""


def lone_ratio(energy: Energy) -> Scaled | None:
    """The ratio a formula consists of, with its positive coefficient, or None for any other formula."""
    parts = energy.terms()
    alone = len(parts) == 1 and isinstance(parts[0].energy, Ratio) and parts[0].coefficient > 0.0
    return parts[0] if alone else None


def minimize_ratio(part: Scaled, region: Region, ctx: Context) -> Minimum:
    """The least value of a ratio with its coefficient over a convex region, with a bound.

    Raises:
        SolverError: the risk is not positive on every portfolio of the region, or no portfolio gains.
        InfeasibleError: the region is empty.

    Example:
        >>> minimize_ratio(lone_ratio(MaxRatio(Return(), CVaR())), region_of(Budget() & LongOnly(), ctx), ctx).bound
    """
    energy = part.energy
    assert isinstance(energy, Ratio)
    top, bottom = energy.numerator, energy.denominator
    # Without bounds on the weights the problem at a c too small falls without end: they are lent, and must not bind.
    lent = not bool((region.lower.isfinite() & region.upper.isfinite()).all())
    region = region.with_box(-WIDE, WIDE) if lent else region
    safest = minimize(bottom, region, ctx)
    least = safest.bound
    if least is None or not least > 0.0:
        raise SolverError(
            f"{energy!r}{ctx.at}: the risk of some portfolio is not above zero (least {safest.value:.3g}), so the "
            "ratio has no minimum; use a measure that is positive, e.g. a centred one, or rules that leave out cash."
        )
    gain, ratio = top.bind(ctx), energy.bind(ctx)
    start = safest if float(gain(safest.weights)) < 0.0 else minimize(top, region, ctx)
    if not float(gain(start.weights)) < 0.0:
        raise SolverError(
            f"{energy!r}{ctx.at}: no portfolio gains (the best has {-start.value:.3g}), so a ratio to risk says "
            "nothing; minimise the risk itself, or add Return() to it."
        )
    weights, value = start.weights, float(ratio(start.weights))
    steps, bound = 0, -float("inf")
    while steps < STEPS:
        steps += 1
        found = minimize(top - value * bottom, region, ctx)
        # F at the ratio known so far: what the proven part of it leaves open below that ratio.
        below = -float("inf") if found.bound is None else value + min(found.bound, 0.0) / least
        bound, reached = max(bound, below), float(ratio(found.weights))
        if reached < value:
            weights, value, gained = found.weights, reached, value - reached
        else:
            gained = 0.0
        if gained <= TIGHT * abs(value):
            break
    bound = min(bound, value)
    if lent and float(weights.abs().max()) > 0.99 * WIDE:
        raise SolverError(
            f"{energy!r}{ctx.at}: the best ratio is only reached by ever larger long and short positions; bound the "
            "weights, or their sum."
        )
    ok = value - bound <= PROVEN * abs(value)
    proof = f"gap {value - bound:.1e}"
    sentence = (
        f"{'Exact minimum' if ok else 'Minimum, not proven to 1e-7,'} of a ratio in {steps} convex steps: {proof}."
    )
    c = part.coefficient
    return Minimum(
        weights=weights,
        value=c * value,
        bound=c * bound,
        kkt=None,
        status=Status(ok, sentence),
    )
