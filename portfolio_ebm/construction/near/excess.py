"""How much worse than the optimum is still good enough: a tolerance in words, as an excess of energy.

    unit "energy"       excess = tolerance * sum over terms of |share at the optimum|
    unit "volatility"   excess = what the variance and volatility terms gain when sigma* becomes (1 + tolerance) sigma*:
                        c ((1 + tolerance)^2 - 1) sigma*^2 for c * Variance(),  c tolerance sigma* for c * Volatility()
    unit "realised volatility"   a part p of the same in terms U of the long run, times U over the terms V of now:
                        excess = p sum over terms of rise U^2 / V

The first is relative to the sizes of the terms, not to their sum, which may be near zero.

The third holds the price of trade still. Least average variance at a given average turnover means the same price a unit
of trade on every date (one multiplier for one budget). Near the optimum, where E - E* = d' S d and dE = price dT, what
such a price leaves is price^2 over the scale of S: the excess goes with 1 / V, so that little is let go in times of
large variance, which decide what is realised over the years, and in which estimates lag behind most. U is w*' L w*,
with L the covariance in the long run: where the latest window flatters the optimum, less is traded for it.

What is realised rises by another amount than what is let go by the estimates, mostly by more, since they do not know
how covariances move on; by how much differs from universe to universe, and shows as months go by. So the tally of the
decisions so far (tally.py) says which part is let go:

    p = 1/16 (1 + (1 - rise / (0.9 tolerance)) decisions / 24),    at least 1/16 and at most 24/16.

The longer realised volatility stays below nine tenths of the tolerance, the more; what the first months happen to bring
counts little; and a rise beyond it never takes back what is let go at first, since trading more does not undo what has
been realised. The numbers are measured, not derived, on monthly decisions: benchmarks/least_trade.py --development.

Source for one multiplier: Everett, H. (1963), Generalized Lagrange multiplier method for solving problems of optimum
allocation of resources, Operations Research 11(3).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Volatility
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy, Scaled, breakdown
from portfolio_ebm.errors import SpecError
from portfolio_ebm.tally import Tally

Unit = Literal["energy", "volatility"]
Goal = Literal[Unit, "realised volatility"]

FIRST, MOST = 1.0 / 16.0, 24.0 / 16.0
"""The part of a tolerance of realised volatility that the estimates let go: before anything is known, and at most."""

AIM = 0.9
"""The part of the tolerance that the realised rise is led to: what is yet to come may be worse than what has been."""

PATIENCE = 24
"""Decisions without any rise after which twice the first part is let go."""


def allowed_excess(tolerance: float, unit: Goal, energy: Energy, optimum: Tensor, ctx: Context) -> float:
    """The energy above the optimum's that a tolerance allows.

    Raises:
        SpecError: a unit of volatility and no Variance or Volatility in the formula; no covariance of the long run for
            "realised volatility"; or an optimum whose size is zero.

    Example:
        >>> allowed_excess(0.01, "volatility", Variance(), weights, ctx)  # 2.01 % of the least variance
    """
    if unit == "energy":
        excess = tolerance * sum(abs(float(share)) for share in breakdown(energy, optimum, ctx).values())
    else:
        usual = None if unit == "volatility" else _in_the_long_run(ctx)
        part = 1.0 if unit == "volatility" else let_go(tolerance, ctx.tally)
        excess = part * sum(_rise(tolerance, term, optimum, ctx, usual) for term in _risks(energy))
    if not excess > 0.0:
        when = ", now or by the covariance of the long run" if unit == "realised volatility" else ""
        raise SpecError(
            f"{energy!r} is zero at its optimum{ctx.at}{when}, so that a relative tolerance allows nothing."
        )
    return excess


def let_go(tolerance: float, tally: Tally | None) -> float:
    """The part of a tolerance of realised volatility that is let go by the estimates; FIRST where nothing is known."""
    if tally is None:
        return FIRST
    room = 1.0 - tally.rise / (AIM * tolerance)
    return min(FIRST * (1.0 + max(room, 0.0) * tally.decisions / PATIENCE), MOST)


def _risks(energy: Energy) -> list[Scaled]:
    """The terms that are variances or volatilities."""
    found = [part for part in energy.terms() if isinstance(part.energy, (Variance, Volatility))]
    if not found:
        raise SpecError(
            f"{energy!r} has no Variance() or Volatility(), so that a tolerance in volatility says nothing; "
            "use unit='energy'."
        )
    return found


def _rise(tolerance: float, part: Scaled, optimum: Tensor, ctx: Context, usual: Context | None) -> float:
    """What one term may gain: rise * V, or rise * U^2 / V with its value U in the `usual` context."""
    rise = (1.0 + tolerance) ** 2 - 1.0 if isinstance(part.energy, Variance) else tolerance
    now = float(part.energy.bind(ctx)(optimum))
    if usual is None or not now > 0.0:
        return part.coefficient * rise * now
    return part.coefficient * rise * float(part.energy.bind(usual)(optimum)) ** 2 / now


def _in_the_long_run(ctx: Context) -> Context:
    """The same surroundings with the covariance of the long run."""
    if ctx.long_run is None or ctx.market is None:
        raise SpecError(
            f"A tolerance of realised volatility needs the covariance of the long run{ctx.at}: pass long_run= to "
            "optimize, the covariance of all that is known; a Strategy takes it from its past."
        )
    return replace(ctx, market=replace(ctx.market, covariance=ctx.long_run))
