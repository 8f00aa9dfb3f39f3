"""LeastTrade(tolerance): the portfolio nearest to what is held among those nearly as good as the optimum.

    min  T(w) = sum |w - held|     s.t.  E(w) <= E* + excess,  every rule

What proves it is a bound: for every tau > 0 and every portfolio within the excess,

    T(w) >= (min (E + tau T) - E* - excess) / tau,

with the minimum from below by its dual bound. For formulas of quadratics, tails and kinks one program gives the
portfolio with its tau, and with the multipliers for the bound (exact/level.py). For others tau is searched: portfolios
that minimise E + tau T make a convex curve in (T, E) from the optimum to the least trade the rules allow, and between a
point within the excess and one beyond it, tau normal to their chord gives a point below the chord, or proves that the
chord is the curve. The answer mixes the two ends so that the excess is met: E is convex, so the mixture is within it,
and its distance to the bound is told.

Sources: Cohon, J. L. (1978), Multiobjective Programming and Planning, chapter 7; for no-trade regions around an
optimum, Davis, M. H. A. and Norman, A. R. (1990), Portfolio selection with transaction costs, Mathematics of
Operations Research 15(4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.certificate import certify
from portfolio_ebm.construction.convex import minimum_under
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.level import nearest_on_level
from portfolio_ebm.construction.exact.minimum import Minimum, minimize, proven_at
from portfolio_ebm.construction.near.excess import Goal, allowed_excess
from portfolio_ebm.construction.shadow import told
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.tally import Tally
from portfolio_ebm.types import Status

STEPS = 40
WAYS, ROUNDS = 64, 9
"""Mixtures looked at side by side, and how often, between the last within and the first beyond: 64^9 = 2^54."""

TIGHT = 1e-6
"""The trade counts as least where it is within this of its bound, as a fraction of the portfolio."""


@dataclass(frozen=True)
class Point:
    """One portfolio of the curve: weights (n,), its energy and its trade."""

    weights: Tensor
    energy: float
    trade: float


@dataclass(frozen=True)
class Found:
    """The nearest portfolio within `limit`, the proven least trade, and how many convex solves it took."""

    point: Point
    least: float
    steps: int


class LeastTrade(Constructor):
    """The portfolio nearest to what is held, by sum |w - held|, among those within `tolerance` of the optimum.

    Exact for convex formulas and rules. `energy` of the Solution is at most the optimum's plus the excess, `bound` is
    the optimum's own bound; the status says the trade, and its least value that is proven. Where nothing is held the
    optimum is bought; only then is there a KKT residual, and are there shadow prices: they are those of a minimum.

    Attributes:
        tolerance: how much worse than the optimum is good enough, as a fraction.
        unit: of what: "energy", the sizes of the formula's terms at the optimum; "volatility", the optimum's
            volatility by the estimates of the date, in formulas with Variance() or Volatility(). What is realised
            rises by more, for what the estimates did not know. "realised volatility", over the years: a part of the
            tolerance is let go by the estimates, more of it in quiet times and less in wild ones, so that the price
            of trade stands still, and more the longer the realised rise leaves room. Aimed at, not promised;
            docs/EVIDENCE_OPTIMIZER.md says how often it held. Needs the covariance of the long run: a Strategy takes
            that of all its past, optimize long_run=. And the tally of the decisions before: `Allocation.tally`, which
            a backtest hands on, and who decides live with tally=. Formulas: construction/near/excess.py.

    Example:
        >>> Strategy(name="quiet-min-variance", market=LedoitWolf(lookback=500), energy=Variance(),
        ...          constructor=LeastTrade(0.01, unit="realised volatility"))

    Sources: see construction/least_trade.py.
    """

    tolerance: float = Field(default=0.01, gt=0.0)
    unit: Goal = "energy"

    def asks(self) -> frozenset[str]:
        """See Constructor."""
        return frozenset({"long run"} if self.unit == "realised volatility" else ())

    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """See Constructor.

        Raises:
            SpecError: a term or a rule is not convex; a tolerance in a unit that the formula does not have.
            InfeasibleError: no portfolio obeys the rules; names the smallest set in conflict.
            SolverError: no minimum was reached.
        """
        region, best = minimum_under(energy, constraint, ctx, "LeastTrade()")
        if ctx.held is None:
            said = Status(best.status.ok, f"Nothing is held, so the optimum is bought. {best.status}")
            return certify(
                best.weights, energy, constraint, ctx, bound=best.bound, status=said, rng=rng,
                tally=_tallied(best.weights, best.weights, ctx), **told(best, energy, constraint, ctx),
            )  # fmt: skip
        excess = allowed_excess(self.tolerance, self.unit, energy, best.weights, ctx)
        found = nearest_within(energy, region, ctx, best, best.value + excess)
        point, away = found.point, _trade(ctx)(best.weights)
        gap = point.trade - found.least
        ok = best.status.ok and gap <= TIGHT * max(1.0, point.trade)
        proof = f"{'proven' if ok else 'not proven'} to {max(gap, 0.0):.1e}"
        status = Status(
            ok,
            f"Trades {point.trade:.4g} where the optimum would trade {float(away):.4g}: the nearest portfolio within "
            f"{self.tolerance:.3g} of the optimum's {self.unit}, {proof} "
            f"in {found.steps} convex steps.{self._so_far(ctx)}",
        )  # fmt: skip
        return certify(
            point.weights, energy, constraint, ctx, bound=best.bound, status=status, rng=rng, size=best.size,
            tally=_tallied(point.weights, best.weights, ctx),
            diagnostics={
                "trade": point.trade, "least trade": found.least, "trade of the optimum": float(away),
                "excess": point.energy - best.value, "excess allowed": excess, **_known(ctx),
            },
        )  # fmt: skip

    def _so_far(self, ctx: Context) -> str:
        """What the decisions before have saved, and what that cost, in words."""
        if ctx.tally is None:
            lost = self.unit == "realised volatility"
            return " No tally of earlier decisions was given, so that little is let go." if lost else ""
        return (
            f" So far, on paper, {ctx.tally.saved:.0%} of the optimum's turnover was saved, and volatility was "
            f"{ctx.tally.rise:+.2%} beside it."
        )


def _known(ctx: Context) -> dict[str, float]:
    """The same as numbers."""
    return {} if ctx.tally is None else {"saved so far": ctx.tally.saved, "rise so far": ctx.tally.rise}


def _tallied(weights: Tensor, optimum: Tensor, ctx: Context) -> Tally:
    """The tally after the decision for `weights` (n,) beside the `optimum` (n,)."""
    w, best = (one.detach().cpu().double().numpy().copy() for one in (weights, optimum))
    if ctx.tally is None:
        return Tally(ctx.date, ctx.assets, w, best)
    priced = ctx.tradeable if ctx.leaving is None else ctx.tradeable | ctx.leaving
    return ctx.tally.decided(w, best, ctx.assets, ctx.date, priced.cpu().numpy())


def nearest_within(energy: Energy, region: Region, ctx: Context, best: Minimum, limit: float) -> Found:
    """The portfolio with E <= `limit` that is nearest to what is held.

    Raises: as `minimize`.
    """
    value, trade = energy.bind(ctx), _trade(ctx)
    near = _point(best.weights, value, trade)
    at_once = _at_once(energy, region, ctx, near, limit)
    if at_once is not None:
        return at_once
    quiet = minimize(TradingCost(1.0), region, ctx)
    far = _point(quiet.weights, value, trade)
    least = far.trade if quiet.bound is None else min(quiet.bound, far.trade)
    if far.energy <= limit:
        return Found(far, least, 2)
    mixed, steps = _mixed(near, far, value, trade, limit), 2
    if not math.isfinite(far.energy):
        # No chord leads there: the last finite mixture on the way does as well, and least is a bound still.
        far = _mixed(near, far, value, trade, math.nextafter(math.inf, 0.0))
    while steps < STEPS and mixed.trade - least > 0.1 * TIGHT and near.trade - far.trade > 1e-12:
        tau = max((far.energy - near.energy) / (near.trade - far.trade), 1e-300)
        solved = minimize(energy + TradingCost(tau), region, ctx)
        steps += 1
        if solved.bound is not None:
            least = max(least, min((solved.bound - limit) / tau, mixed.trade))
        point = _point(solved.weights, value, trade)
        # Where the chord is the curve, to the digits that a solve has, there is nothing more to find.
        below = near.energy + tau * near.trade - point.energy - tau * point.trade
        if point.energy <= limit:
            near, moved = point, point.trade < near.trade
        else:
            far, moved = point, point.trade > far.trade or point.energy < far.energy
        found = _mixed(near, far, value, trade, limit)
        mixed = found if found.trade < mixed.trade else mixed
        if not moved or below <= 1e-14 * (abs(near.energy) + tau * near.trade):
            break
    return Found(mixed, least, steps)


def _at_once(energy: Energy, region: Region, ctx: Context, near: Point, limit: float) -> Found | None:
    """The same by one program; None where it does not take the formula, or its bound does not prove it."""
    if near.trade <= 0.0:
        return None
    found = nearest_on_level(take_apart(energy, ctx), Box.of(region), limit, (limit - near.energy) / near.trade)
    if found is None:
        return None
    tau, value, trade = found.tau, energy.bind(ctx), _trade(ctx)
    proof = proven_at(take_apart(energy + TradingCost(tau), ctx), region, found.weights, found.duals)
    if proof is None or proof.bound is None:
        return None
    point = _mixed(near, _point(proof.weights, value, trade), value, trade, limit)
    least = min((proof.bound - limit) / tau, point.trade)
    return Found(point, least, 2) if point.trade - least <= 0.1 * TIGHT else None


def _mixed(near: Point, far: Point, value: Bound, trade: Bound, limit: float) -> Point:
    """The mixture of two portfolios, one within the limit and one beyond, that is as far as the limit lets it."""
    low, high, way = 0.0, 1.0, far.weights - near.weights
    for _ in range(ROUNDS):
        shares = torch.linspace(low, high, WAYS + 1, dtype=way.dtype, device=way.device)
        inside = value(near.weights + shares.unsqueeze(-1) * way) <= limit
        last = int(inside[1:].cummin(0).values.sum())  # E is convex: once beyond the limit, it stays there
        low, high = float(shares[last]), float(shares[min(last + 1, WAYS)])
    return _point(near.weights + low * way, value, trade)


def _trade(ctx: Context) -> Bound:
    return TradingCost(1.0).bind(ctx)


def _point(w: Tensor, value: Bound, trade: Bound) -> Point:
    return Point(w, float(value(w)), float(trade(w)))
