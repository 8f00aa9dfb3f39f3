"""The least ratio G(w) / R(w) where names are a choice: Dinkelbach's steps, each a choice under a convex energy.

    F(c) = min over choices and their weights of  G(w) + c R(w)

is below zero exactly where some portfolio has G/R < -c, whatever the set of portfolios is, convex or not (Dinkelbach
1967). Each step is what the pattern engine knows: at the ratio r known so far it looks for the least of G - r R, which
is zero at a portfolio of that ratio, and either a portfolio of a lower one is found or, where the tree closed, none is.
With F(-r) >= f (f <= 0, the tree's own bound) and R >= R_0 > 0 on the rules without the choice,

    G(w) / R(w) >= r + f / R_0      for every portfolio: the bound, also where the tree did not close.

Where no position at all obeys, R_0 is zero, and f says something only where it is not below zero.

The steps set out from the best ratio without the choice, which is below all others: its own bound holds too. So f is
worth a proof at the last ratio alone, below which no portfolio is known. Before that a portfolio of a lower one is
`Enough`, and whoever proves under a clock keeps its time for the last step.

Source: Dinkelbach, W. (1967), On nonlinear fractional programming, Management Science 13(7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from torch import Tensor

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.ablation import FINAL
from portfolio_ebm.construction.cases import Bounded
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.exact.ratio import PROVEN, STEPS, TIGHT, lone_ratio, minimize_ratio
from portfolio_ebm.construction.rugged.chains import tightened
from portfolio_ebm.context import Context
from portfolio_ebm.energies.ratio import Ratio
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import counted

NOTHING = 1e-6
"""Weights this small are what an engine leaves of none at all. Names of up to 1e-9 count as none, so that the ratio of
such a portfolio would be that of names it may not hold."""

Enough = Callable[[Tensor], bool]
"""Whether weights (n,) make another step certain, so that no proof of this one is of use."""

Choose = Callable[[Energy, Enough], Bounded]
"""The best portfolio over the choices for a convex energy, None where no choice has one, and the bound."""


def ratio_of_choice(energy: Energy, region: Region, ctx: Context, choose: Choose) -> Bounded | None:
    """The least value of a ratio that stands alone over a choice, and its bound; None for another formula, and where no
    portfolio gains or the risk of some is below zero. (None, inf): no choice has a portfolio.

    Raises:
        InfeasibleError: the region is empty without its choice.
    """
    part = lone_ratio(energy)
    if part is None:
        return None
    hull = tightened(region.relaxed())
    if not bool((hull.lower.isfinite() & hull.upper.isfinite()).all()):
        return None
    one = part.energy
    assert isinstance(one, Ratio)
    try:
        loose, least = minimize_ratio(part.replace(coefficient=1.0), hull, ctx), minimize(one.denominator, hull, ctx)
    except SolverError:
        return None
    if loose.bound is None or least.bound is None:
        return None
    # Where the ratio is proven no risk is below zero, so that a bound there is rounding.
    return _steps(one, part.coefficient, (loose.value, loose.bound, max(least.bound, 0.0)), ctx, choose)


def _steps(
    one: Ratio, coefficient: float, known: tuple[float, float, float], ctx: Context, choose: Choose
) -> Bounded | None:
    """Dinkelbach's steps from `known`: the least ratio without the choice, its bound, and the least risk."""
    asked, bound, least = known
    best: Tensor | None = None
    ratio, value = one.bind(ctx), float("inf")

    def reach(w: Tensor) -> float:
        return float(ratio(w)) if float(w.abs().max()) > NOTHING else float("inf")

    def gains(w: Tensor) -> bool:
        reached = reach(w)
        return reached < 0.0 and (best is None or value - reached > TIGHT * abs(value))

    for steps in count(1):
        step = one.numerator if asked == 0.0 else one.numerator - asked * one.denominator
        # The first ratio asked about is below all: there the least of G - r R is above zero, and says no more.
        found, low = choose(step, (lambda _: True) if steps == 1 else gains)
        if found is None:
            return None, float("inf")
        if low is not None and low >= 0.0:
            bound = max(bound, asked)
        elif low is not None and least > 0.0:
            bound = max(bound, asked + low / least)
        reached, more = reach(found.weights), gains(found.weights)
        if not reached < 0.0:
            if best is not None:
                # What is known is the best, as good at its own ratio as no position is.
                break
            # G - r R is convex for r < 0 alone: what gains most is the last to be asked.
            if asked == 0.0:
                return None
            asked = 0.0
            continue
        if reached < value:
            best, value = found.weights, reached
        if not more or steps == STEPS:
            break
        asked = value
    assert found is not None and best is not None
    bound = min(bound, value)
    ended = "" if value - bound <= PROVEN * abs(value) else ", not proven"
    ended = f", the most that are taken{ended}" if more else ended
    message = f"ratio in {counted(steps, 'step')}{ended}, the last by {found.message}"
    stages = {FINAL: coefficient * value}
    return replace(found, weights=best, message=message, ablation=stages, size=0.0), coefficient * bound
