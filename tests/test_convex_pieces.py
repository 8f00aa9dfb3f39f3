"""Our own proofs under every cap and for every kink: true bounds, Clarabel's minima, and what used to stay open."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from cases_problems import RULE_PAIRS, judge, problem, slope, solved
from cases_terms import CONVEX, world

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.leverage import Leverage, ShortLimit
from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.cuts import by_cuts
from portfolio_ebm.construction.exact.duality import Box as Walls
from portfolio_ebm.construction.exact.duality import Multipliers, prove
from portfolio_ebm.construction.exact.engines import interior
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.exact.oracle import through_cvxpy
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation
from portfolio_ebm.energies.drawdown import CDaR
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.impact import BorrowCost, MarketImpact
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.robust import BoxReturn, RobustVariance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Energy

WIDE = Box(lower=-0.3, upper=0.6)
ENERGIES: list[Energy] = [
    Return() + 3.0 * Variance() + TradingCost(1e-3),
    FactorRisk(20.0) + 0.3 * MeanAbsoluteDeviation(),
    2.0 * Return() + CVaR(0.9) + BorrowCost(rate=1e-4) + BoxReturn(observations=252, errors=0.5),
    Return() + 4.0 * RobustVariance(frobenius=0.1, correlation=0.3) + MarketImpact(),
    Return() + EVaR(level=0.999) + TrackingError("index", CVaR(0.9)),
    Return() + 2.0 * Variance() + 0.2 * TrackingError("index", MeanAbsoluteDeviation(centred=False)),
]
CAPS: list[Constraint] = [
    Budget() & WIDE & VolatilityCap(0.042),
    Budget() & LongOnly() & TrackingErrorCap(0.012, benchmark="index"),
    Budget() & WIDE & CVaRCap(0.075, level=0.9) & Leverage(1.3),
    Budget() & WIDE & ShortLimit(0.05) & Turnover(0.4) & VolatilityCap(0.05),
]


@pytest.mark.parametrize("rules", CAPS, ids=repr)
@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_caps_and_kinks_are_proven_without_cvxpy(energy: Energy, rules: Constraint) -> None:
    ctx = world(3, held=True)
    found = minimize(energy, region_of(rules, ctx), ctx)
    assert found.status.ok and "interior point" in str(found.status), found.status
    assert found.bound is not None and float(rules.residual(found.weights, ctx)) <= 1e-9
    said, size = judge(energy, rules, ctx), max(abs(found.value), slope(energy, ctx))
    assert said.status.startswith("optimal") and abs(found.value - said.value) <= 1e-6 * size


@pytest.mark.parametrize("rules", CAPS, ids=repr)
@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_any_multipliers_give_a_bound_that_no_portfolio_is_below(energy: Energy, rules: Constraint) -> None:
    ctx = world(3, held=True)
    region = region_of(rules, ctx)
    formula, box = take_apart(energy, ctx), Walls.of(region)
    best = interior(formula, box)
    assert best is not None and best.duals is not None
    least = formula.evaluate(best.weights)
    rng, d, closest = np.random.default_rng(0), best.duals, -np.inf

    def stir(x):
        return x * np.exp(0.3 * rng.normal(size=np.shape(x))) + 1e-3 * rng.normal(size=np.shape(x))

    for _ in range(20):
        noise = Multipliers(
            tuple(stir(q) for q in d.tails), stir(d.rows), float(stir(d.turnover)), tuple(stir(q) for q in d.hinges),
            tuple(float(stir(y)) for y in d.squares), tuple(float(stir(y)) for y in d.caps),
            tuple(stir(q) for q in d.cap_tails),
        )  # fmt: skip
        at = best.weights + 0.02 * rng.normal(size=len(best.weights))
        bound = prove(formula, box, at, noise).bound
        assert bound is None or bound <= least + 1e-9 * max(abs(least), 1e-3)
        closest = max(closest, -np.inf if bound is None else bound)
    # The law would hold of minus infinity too.
    assert np.isfinite(closest)
    assert prove(formula, box, best.weights, d).bound == pytest.approx(least, abs=1e-9)


PAIRS = list(combinations(CONVEX, 2))
# Problems on which Clarabel stalls: by pair of terms, pair of rules and seed.
STALLED = [
    (968, 12, 886077844), (1081, 102, 974927699), (1457, 27, 672086261), (985, 0, 144861576), (966, 4, 433112427),
    (957, 13, 7606387), (549, 66, 847054100), (981, 86, 249778460), (227, 68, 105603427), (924, 13, 738527591),
    (549, 8, 96115349),
]  # fmt: skip


@pytest.mark.parametrize("deal", STALLED)
def test_what_clarabel_leaves_open_is_proven(deal) -> None:
    terms, rules, seed = deal
    case = problem(PAIRS[terms], RULE_PAIRS[rules], seed)
    found = solved(case)
    assert found.status.ok, found.status
    assert float(case.rules.residual(found.weights, case.ctx)) <= 1e-9
    said = judge(case.energy, case.rules, case.ctx)
    if np.isfinite(said.value):
        assert found.value <= said.value + 1e-6 * max(abs(found.value), slope(case.energy, case.ctx))


def test_no_shorts_imply_the_bounds_of_no_shorts() -> None:
    with np.errstate(all="raise"):
        lower, upper = Walls.of(region_of(ShortLimit(at_most=0.0), world(1))).implied()
    assert (lower == 0.0).all() and (upper == np.inf).all()


def test_by_hand_under_a_volatility_cap() -> None:
    # min -m'w under |w|_S <= v alone: w = v S^-1 m / sqrt(m'S^-1 m), and a unit more of v is worth sqrt(m'S^-1 m).
    ctx = world(1)
    s, m = ctx.covariance.dense(), ctx.mean
    lift = torch.linalg.solve(s, m)
    sharpe = float((m @ lift).sqrt())
    found = minimize(Return(), region_of(VolatilityCap(0.02), ctx), ctx)
    assert found.status.ok and found.value == pytest.approx(-0.02 * sharpe, rel=1e-9)
    assert found.bound == pytest.approx(found.value, rel=1e-8)
    assert torch.allclose(found.weights, 0.02 / sharpe * lift, atol=1e-8)
    assert found.duals is not None and found.duals.caps[0] == pytest.approx(sharpe, rel=1e-7)


def test_an_interior_minimum_on_an_open_box_is_a_proof_of_its_own() -> None:
    # The slopes of the terms cancel to rounding, which must not be what the residual is relative to.
    ctx = world(2, held=True)
    found = minimize(MarketImpact() + 5.0 * Variance(), region_of(Box(lower=-9.0), ctx), ctx)
    assert found.status.ok and found.kkt is not None and found.kkt < 1e-10


def test_a_drawdown_is_cut_where_cvxpy_stalls() -> None:
    case = problem(PAIRS[968], RULE_PAIRS[12], 886077844)
    assert any(isinstance(part.energy, CDaR) for part in case.energy.terms())
    formula, box = take_apart(case.energy, case.ctx), Walls.of(region_of(case.rules, case.ctx))
    found = by_cuts(formula, box, through_cvxpy(formula, box), 1.0)
    assert found is not None and found.bound is not None
    value = formula.evaluate(found.weights)
    assert found.bound <= value <= found.bound + 1e-8
    assert solved(case).value == pytest.approx(value, abs=1e-8)
