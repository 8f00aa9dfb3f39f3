"""Choices of names under a volatility or a tracking error, U^(1/2) of a quadratic U, by way of U.

Alone, c U^(1/2) has the least portfolio of U, and U >= u means E >= c u^(1/2). So whoever knows quadratics knows it
too, with all that only they have: screening, prices of names, walks.

With F beside it, a portfolio no worse than one of energy v has c U^(1/2) <= v - f, f the least of F, and U >= u. The
root lies above its chord between s = u^(1/2) and t = (v - f) / c, so that for all of those

    E >= c (U + s t) / (s + t) + F

where the limit on names has a price again; the relaxations of a tracking error itself, which hold the benchmark, say
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, sqrt

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.cases import Bounded
from portfolio_ebm.construction.choosing.roots import squared
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.ratio_choices import Choose
from portfolio_ebm.construction.rugged.chains import tightened
from portfolio_ebm.context import Context
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Energy, add
from portfolio_ebm.errors import SolverError

OPEN = 1e-9
"""A relative gap that asks for another bound."""


def square_of(energy: Energy) -> tuple[float, Energy] | None:
    """c and U; None of another formula.

    Example:
        >>> square_of(2.0 * Volatility())
        (2.0, Variance())
    """
    parts = energy.terms()
    if len(parts) != 1 or not parts[0].coefficient > 0.0:
        return None
    square = squared(parts[0].energy)
    return None if square is None else (parts[0].coefficient, square)


def square_of_choice(energy: Energy, choose: Choose) -> Bounded | None:
    """The least value of a root that stands alone over a choice, and its bound; None for another formula."""
    asked = square_of(energy)
    if asked is None:
        return None
    c, square = asked
    found, low = choose(square, lambda _: False)

    def root(value: float) -> float:
        return c * sqrt(max(value, 0.0))

    bound = None if low is None else root(low)
    if found is None:
        return None, bound
    stages = {name: root(value) for name, value in found.ablation.items()}
    return replace(found, message=f"{found.message}; by its square", ablation=stages, size=0.0), bound


def above_chord(
    energy: Energy, region: Region, ctx: Context, best: Bounded, choose: Callable[[Energy], Bounded]
) -> Bounded:
    """`best` with the bound of the chord where that is higher; as it is where its gap is closed, or for a formula
    without a single tracking error with more beside it."""
    found, low = best
    roots = [part for part in energy.terms() if isinstance(part.energy, TrackingError) and squared(part.energy)]
    rest = [part for part in energy.terms() if part not in roots]
    if found is None or len(roots) != 1 or not rest:
        return best
    value = float(energy.bind(ctx)(found.weights))
    if low is not None and value - low <= OPEN * abs(value):
        return best
    try:
        least = minimize(add(rest), tightened(region.relaxed()), ctx).bound
    except SolverError:
        return best
    c, square = roots[0].coefficient, squared(roots[0].energy)
    if least is None or square is None or not isfinite(least) or not value > least:
        return best
    _, u = choose(square)
    t, s = (value - least) / c, sqrt(max(u or 0.0, 0.0))
    _, under = choose(c / (s + t) * square + add(rest))
    if s > t or under is None:
        return best
    under = min(value, under + c * s * t / (s + t))
    return found, under if low is None else max(low, under)
