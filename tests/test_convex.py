"""The exact minimum of convex formulas: optimality conditions, oracles, truths by hand, and true bounds."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from cases_convex import market, portfolios
from scipy.optimize import linprog

from portfolio_ebm.constraints.combine import project_region, region_of, region_residual
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.risk import VolatilityCap
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.duality import Box as Walls
from portfolio_ebm.construction.exact.duality import Multipliers, prove
from portfolio_ebm.construction.exact.engines import active_set, interior
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.construction.exact.oracle import KEPT, through_cvxpy
from portfolio_ebm.construction.exact.sides import by_sides
from portfolio_ebm.construction.naive import EqualWeight
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Bound, ConvexEnergy, Energy, to_cvxpy
from portfolio_ebm.errors import InfeasibleError, ShapeError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.optimization import optimize
from portfolio_ebm.types import bps, generator

N = 8
ENERGIES: list[Energy] = [
    Return(),
    Variance(),
    Return() + 2.5 * Variance(),
    CVaR(),
    CVaR(level=0.97),
    Return() + 0.5 * CVaR(level=0.9, centred=True),
    Return() + FactorRisk(5.0),
    Return() + 2.5 * Variance() + TradingCost(20 * bps),
    Return() + FactorRisk(5.0) + 0.5 * CVaR(centred=True) + TradingCost(5 * bps),
    0.3 * CVaR(0.8) + 0.7 * CVaR(0.95),
]
RULES = [
    Budget() & LongOnly(),
    Budget() & LongOnly() & Box(upper=0.3),
    Budget() & LongOnly() & Turnover(at_most=0.4),
    Budget(at_least=0.8) & Box(lower=-0.2, upper=0.5) & Group("sector", "odd", upper=0.4),
    Budget() & Box(lower=0.02, upper=0.4) & Group("sector", "even", lower=0.5) & Turnover(at_most=0.8),
]


class Concentration(ConvexEnergy):
    """A term that only cvxpy knows: the largest weight."""

    def bind(self, ctx: Context) -> Bound:
        return lambda w: w.amax(-1)

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return cp.max(w)


class Wave(Energy):
    """A term that is not convex."""

    def bind(self, ctx: Context) -> Bound:
        return lambda w: w.sin().sum(-1)


def oracle(energy: Energy, region: Region, ctx: Context) -> tuple[float, torch.Tensor]:
    """Clarabel, tight, on the objective scaled to order one; its weights put on the region exactly."""
    w = cp.Variable(region.n)
    scale = 1.0 / max(abs(float(energy.bind(ctx)(row))) for row in portfolios(20, region.n))
    walls = [(region.rows.numpy() @ w, region.row_lower.numpy(), region.row_upper.numpy())]
    walls.append((w, region.lower.numpy(), region.upper.numpy()))
    rows = []
    for at, low, high in walls:
        equal = low == high
        above, below = np.isfinite(high) & ~equal, np.isfinite(low) & ~equal
        rows += [at[np.flatnonzero(equal)] == low[equal]] if equal.any() else []
        rows += [at[np.flatnonzero(above)] <= high[above]] if above.any() else []
        rows += [at[np.flatnonzero(below)] >= low[below]] if below.any() else []
    if region.turnover is not None:
        rows.append(cp.norm1(w - region.anchor.numpy()) <= region.turnover)
    problem = cp.Problem(cp.Minimize(scale * to_cvxpy(energy, w, ctx)), rows)
    with warnings.catch_warnings():
        # Clarabel calls a gap of 1e-10 inaccurate at these tolerances; the oracle is re-evaluated below.
        warnings.simplefilter("ignore", UserWarning)
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    feasible = project_region(torch.tensor(w.value), region).weights
    return float(energy.bind(ctx)(feasible)), feasible


@pytest.mark.parametrize("rules", RULES, ids=repr)
@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_minimum_is_proven_and_never_above_the_oracle(energy, rules):
    ctx = market(N, size=120)
    region = region_of(rules, ctx)
    found = minimize(energy, region, ctx)
    assert found.status.ok, found.status
    assert float(region_residual(found.weights, region)) <= 1e-12
    assert found.value == float(energy.bind(ctx)(found.weights))
    value, _ = oracle(energy, region, ctx)
    size = max(abs(value), 1e-3)
    assert found.value <= value + 1e-10 * size
    assert found.bound is not None and 0.0 <= found.value - found.bound <= 1e-9 * size
    assert found.bound <= value + 1e-12
    assert found.kkt is not None and found.kkt <= 1e-8


@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_no_feasible_portfolio_is_below_the_bound(energy):
    ctx = market(N, size=60)
    region = region_of(RULES[4], ctx)
    found = minimize(energy, region, ctx)
    others = project_region(portfolios(200, N, seed=5), region).weights
    around = project_region(found.weights + 0.01 * portfolios(200, N, seed=6), region).weights
    assert bool((energy.bind(ctx)(torch.cat([others, around])) >= found.bound - 1e-14).all())


def test_the_bound_is_true_for_any_multipliers():
    ctx = market(N, size=50, seed=2)
    energy = Return() + 2.5 * Variance() + CVaR(0.9) + TradingCost(20 * bps)
    region = region_of(RULES[4], ctx)
    formula, box = take_apart(energy, ctx), Walls.of(region)
    best = minimize(energy, region, ctx)
    rng = np.random.default_rng(0)
    for _ in range(50):
        at = project_region(portfolios(1, N, seed=int(rng.integers(1e6)))[0], region).weights.numpy()
        noise = Multipliers(
            (rng.uniform(0, formula.tails[0].cap, 50),), rng.normal(size=len(box.rows)) * 0.05, rng.exponential() * 0.05
        )
        bound = prove(formula, box, at, noise).bound
        assert bound is not None and bound <= best.value + 1e-14


@pytest.mark.parametrize("cap", [None, 0.05, 0.4])
@pytest.mark.parametrize("rate", [0.0, 5 * bps, 100 * bps])
def test_trades_are_walked_from_side_to_side(rate, cap):
    """Where trading costs or is capped the active set ends at the proven minimum, with the interior point's price of a
    turnover that binds."""
    ctx = market(N, size=80, seed=4)
    rules = Budget() & LongOnly() if cap is None else Budget() & LongOnly() & Turnover(cap)
    formula = take_apart(Return() + 2.5 * Variance() + rate * TradingCost(1.0), ctx)
    box = Walls.of(region_of(rules, ctx))
    walked, other = by_sides(formula, box), interior(formula, box)
    assert other is not None and other.duals is not None
    if rate == 0.0 and cap is None:
        assert walked is None
        return
    assert walked is not None and walked.duals is not None
    proof = prove(formula, box, walked.weights, walked.duals)
    assert proof.bound is not None and formula.evaluate(walked.weights) - proof.bound <= 1e-12 and proof.kkt <= 1e-10
    np.testing.assert_allclose(walked.weights, other.weights, atol=1e-8)
    assert walked.duals.turnover == pytest.approx(other.duals.turnover, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_is_proven_where_caps_of_groups_add_up_to_the_budget(seed):
    """Rows that depend on one another have many multipliers; those that do not bind have none."""
    rng, names = np.random.default_rng(seed), [f"A{k}" for k in range(12)]
    loads = rng.normal(size=(12, 3))
    rules = Budget() & LongOnly() & Turnover(0.6)
    for label in "xyz":
        rules = rules & Group("sector", label=label, upper=0.4)
    found = optimize(
        Return() + 2.5 * Variance() + TradingCost(1 * bps), rules, mean=rng.normal(size=12) * 1e-3, assets=names,
        covariance=1e-4 * (loads @ loads.T + np.eye(12)), held=rng.dirichlet(np.ones(12)), constructor=Convex(),
        groups={"sector": {name: "xyz"[k % 3] for k, name in enumerate(names)}},
    )  # fmt: skip
    assert found.proven and "from side to side" in str(found.status)


@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_engines_agree(energy):
    ctx = market(N, size=80, seed=4)
    formula, box = take_apart(energy, ctx), Walls.of(region_of(RULES[1], ctx))
    values = [formula.evaluate(through_cvxpy(formula, box).weights)]
    engines = (active_set, by_sides, interior)
    values += [formula.evaluate(found.weights) for one in engines if (found := one(formula, box)) is not None]
    assert len(values) >= 2
    assert max(values) - min(values) <= 1e-7 * max(abs(values[0]), 1e-3)


def test_a_formula_is_compiled_once_for_boxes_of_one_structure():
    ctx = market(N, size=60, seed=8)
    energy, rules = CVaR(0.9) + 3 * Variance(), Budget() & LongOnly() & VolatilityCap(0.5)
    formula, box = take_apart(energy, ctx), Walls.of(region_of(rules & Box(upper=0.5), ctx))
    for top in (0.5, 0.3, 0.2):
        one = replace(box, upper=np.full(N, top))
        again, alone = through_cvxpy(formula, one), through_cvxpy(take_apart(energy, ctx), one)
        assert formula.evaluate(again.weights) == pytest.approx(formula.evaluate(alone.weights), rel=1e-8)
        assert again.weights.max() <= top + 1e-9
    assert len(formula.compiled) == 1
    for k in range(KEPT + 2):
        # A name whose end is not finite is another structure; few are kept.
        through_cvxpy(formula, replace(box, upper=np.where(np.arange(N) == k % N, np.inf, 0.5)))
        assert len(formula.compiled) == min(k + 2, KEPT)


def test_minimum_cvar_is_the_linear_program():
    ctx = market(N, size=150, seed=6)
    level, size = 0.93, 150
    region = region_of(Budget() & LongOnly() & Box(upper=0.25), ctx)
    found = minimize(CVaR(level), region, ctx)
    cost = np.concatenate([np.zeros(N), [1.0], np.full(size, 1.0 / (size * (1 - level)))])
    rows = np.hstack([-ctx.scenarios.numpy(), -np.ones((size, 1)), -np.eye(size)])
    total = np.concatenate([np.ones(N), np.zeros(size + 1)])[None]
    bounds = [(0, 0.25)] * N + [(None, None)] + [(0, None)] * size
    exact = linprog(cost, A_ub=rows, b_ub=np.zeros(size), A_eq=total, b_eq=[1.0], bounds=bounds, method="highs")
    assert found.value == pytest.approx(exact.fun, abs=1e-12)


def test_two_names_by_hand():
    # w'S w with S = diag(1, 4): the minimum on the simplex is (0.8, 0.2), value 0.8.
    ctx = market(2, held=True)
    ctx = replace(
        ctx,
        market=replace(ctx.market, covariance=Structured.from_dense(torch.diag(torch.tensor([1.0, 4.0]).double()))),
        held=torch.tensor([0.5, 0.5], dtype=torch.float64),
    )
    simplex = region_of(Budget() & LongOnly(), ctx)
    found = minimize(Variance(), simplex, ctx)
    torch.testing.assert_close(found.weights, torch.tensor([0.8, 0.2], dtype=torch.float64), rtol=0, atol=1e-14)
    assert found.value == pytest.approx(0.8, abs=1e-14)
    # Turnover of 0.2 from (0.5, 0.5) ends at (0.6, 0.4).
    capped = minimize(Variance(), region_of(Budget() & LongOnly() & Turnover(0.2), ctx), ctx)
    torch.testing.assert_close(capped.weights, torch.tensor([0.6, 0.4], dtype=torch.float64), rtol=0, atol=1e-13)
    # With a cost c, d/dx [x^2 + 4 (1-x)^2 + 2 c (x - 0.5)] = 0 at x = 0.8 - c/5; no trade from c = 1.5 on.
    part = minimize(Variance() + TradingCost(0.5), simplex, ctx)
    assert float(part.weights[0]) == pytest.approx(0.7, abs=1e-13)
    none = minimize(Variance() + TradingCost(1.6), simplex, ctx)
    torch.testing.assert_close(none.weights, ctx.held, rtol=0, atol=1e-13)


def test_turnover_and_cost_limits():
    ctx = market(N)
    base = Budget() & LongOnly()
    free = minimize(Return() + 2.5 * Variance(), region_of(base, ctx), ctx)
    loose = minimize(Return() + 2.5 * Variance(), region_of(base & Turnover(2.0), ctx), ctx)
    assert loose.value == pytest.approx(free.value, abs=1e-14)
    values = []
    for cap in (0.05, 0.2, 0.6):
        tight = minimize(Return() + 2.5 * Variance(), region_of(base & Turnover(cap), ctx), ctx)
        assert float((tight.weights - ctx.held).abs().sum()) <= cap + 1e-12
        values.append(tight.value)
    assert values[0] > values[1] > values[2] >= free.value - 1e-15
    stay = minimize(Return() + 2.5 * Variance() + TradingCost(1.0), region_of(base, ctx), ctx)
    torch.testing.assert_close(stay.weights, ctx.held, rtol=0, atol=1e-12)


def test_open_boxes_shorts_and_singular_covariances():
    ctx = market(N, size=300)
    region = region_of(Budget(), ctx)
    found = minimize(Variance(), region, ctx)
    s = ctx.covariance.dense()
    exact = torch.linalg.solve(s, torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(found.weights, exact / exact.sum(), rtol=1e-9, atol=1e-12)
    assert found.status.ok and found.value - found.bound <= 1e-12
    flat = replace(ctx, market=replace(ctx.market, covariance=Structured.from_dense(torch.cov(ctx.scenarios[:5].T))))
    low = minimize(Return() + Variance(), region_of(Budget() & LongOnly() & Box(upper=0.5), flat), flat)
    assert low.status.ok and low.kkt <= 1e-8


def test_an_energy_scaled_is_minimized_alike():
    ctx = market(N)
    region = region_of(RULES[1], ctx)
    energy = Return() + 2.5 * Variance() + 0.5 * CVaR()
    base = minimize(energy, region, ctx)
    for factor in (1e-7, 1e5):
        torch.testing.assert_close(minimize(factor * energy, region, ctx).weights, base.weights, rtol=0, atol=1e-11)


def test_frozen_names_stay():
    ctx = market(N)
    ctx = replace(ctx, tradeable=torch.tensor([False] + [True] * (N - 2) + [False]))
    for energy in ENERGIES:
        found = minimize(energy, region_of(Budget() & LongOnly() & Turnover(0.5), ctx), ctx)
        assert found.status.ok
        assert float(found.weights[0]) == float(ctx.held[0]) and float(found.weights[-1]) == float(ctx.held[-1])


def test_terms_only_cvxpy_knows():
    ctx = market(N)
    region = region_of(Budget() & LongOnly(), ctx)
    found = minimize(Concentration(), region, ctx)
    assert found.value == pytest.approx(1.0 / N, abs=1e-8)
    mixed = minimize(Return() + 2.5 * Variance() + 0.1 * Concentration(), region, ctx)
    value, _ = oracle(Return() + 2.5 * Variance() + 0.1 * Concentration(), region, ctx)
    assert mixed.value == pytest.approx(value, abs=1e-9)
    assert "cvxpy" in str(mixed.status) and mixed.status.ok
    assert value - 1e-7 <= mixed.bound <= value + 1e-12
    assert float(region_residual(mixed.weights, region)) <= 1e-12


def test_empty_regions_and_wrong_input():
    ctx = market(N)
    with pytest.raises(InfeasibleError):
        minimize(Variance(), region_of(Budget() & Box(upper=0.05), ctx), ctx)
    with pytest.raises(InfeasibleError):
        minimize(CVaR(), region_of(Budget(2.0) & LongOnly() & Turnover(0.1), ctx), ctx)
    with pytest.raises(SpecError, match="AnnealedLangevin"):
        minimize(Variance(), region_of(Budget() & Cardinality(2), ctx), ctx)
    with pytest.raises(ShapeError, match="one date"):
        minimize(Variance(), region_of(Budget(), ctx), replace(ctx, tradeable=ctx.tradeable.expand(3, N)))


def test_convex_refuses_what_it_cannot_prove():
    ctx, rng = market(N), generator(0, "x")
    with pytest.raises(SpecError, match=r"Wave\(\) is not convex.*AnnealedLangevin"):
        Convex().build(Return() + Wave(), Budget() & LongOnly(), ctx, rng)
    with pytest.raises(SpecError, match="upside down"):
        Convex().build(Return() - Variance(), Budget() & LongOnly(), ctx, rng)
    with pytest.raises(SpecError, match=r"Cardinality\(at_most=3\).*AnnealedLangevin"):
        Convex().build(Variance(), Budget() & LongOnly() & Cardinality(3), ctx, rng)


@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_convex_builds_a_certified_solution(energy):
    ctx = market(N)
    found = Convex().build(energy, RULES[1], ctx, generator(0, "x"))
    assert found.status.ok
    assert 0.0 <= found.gap <= 1e-11
    assert max(found.residuals.values()) <= 1e-12
    assert sum(found.breakdown.values()) == pytest.approx(found.energy, abs=1e-14)
    assert found.kkt <= 1e-8


def test_equal_weight():
    ctx, rng = market(N), generator(0, "x")
    found = EqualWeight().build(Variance(), Budget() & LongOnly(), ctx, rng)
    torch.testing.assert_close(found.weights, torch.full((N,), 1 / N, dtype=torch.float64))
    assert found.status.ok and found.energy == float(Variance().bind(ctx)(found.weights))
    frozen = replace(ctx, tradeable=torch.tensor([False, False] + [True] * (N - 2)))
    some = EqualWeight().build(Return() * 0.0, Budget(0.9) & LongOnly(), frozen, rng)
    assert float(some.weights.sum()) == pytest.approx(0.9, abs=1e-15)
    assert torch.equal(some.weights[:2], ctx.held[:2])
    assert float(some.weights[2:].std()) < 1e-16
    broken = EqualWeight().build(Variance(), Budget() & LongOnly() & Box(upper=0.1), ctx, rng)
    assert not broken.status.ok and "Box(upper=0.1) by 0.025" in str(broken.status)
    none = replace(ctx, held=None, tradeable=torch.zeros(N, dtype=torch.bool))
    with pytest.raises(InfeasibleError, match="none of the 8 names can be traded"):
        EqualWeight().build(Variance(), Budget() & LongOnly(), none, rng)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_many_random_markets_are_proven(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 25))
    ctx = market(n, size=int(rng.integers(20, 800)), seed=seed)
    for energy in ENERGIES:
        for rules in (Budget() & LongOnly(), Budget() & Box(lower=-1.0 / n, upper=2.5 / n) & Turnover(0.8)):
            found: Minimum = minimize(energy, region_of(rules, ctx), ctx)
            assert found.status.ok, (n, energy, rules, found.status)
