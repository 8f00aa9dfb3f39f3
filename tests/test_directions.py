"""The best ratio where no position at all obeys: against cone programs over directions, and by enumeration."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import cvxpy as cp
import numpy as np
import pytest
import torch
from cases_terms import N, world

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of, region_residual
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.exposures import DollarNeutral, Group
from portfolio_ebm.constraints.leverage import Leverage
from portfolio_ebm.constraints.risk import VolatilityCap
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.ratio_choices import ratio_of_choice
from portfolio_ebm.construction.stages import Found
from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Volatility
from portfolio_ebm.energies.ratio import MaxRatio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import generator

NEUTRAL = DollarNeutral() & Box(-0.2, 0.2)
SHARPE = MaxRatio(Return(), Volatility())
SEARCHES: list[Constructor] = [Convex(), AnnealedLangevin(chains=8)]


def built(ratio: MaxRatio, rules: Constraint, ctx: Context, search: Constructor) -> Solution:
    return search.build(ratio, rules, ctx, generator(0, "x"))


def by_cone(ctx: Context, budget: bool, lower: np.ndarray | float, free: np.ndarray | None = None) -> float:
    """-1 / the least volatility of a direction that gains 1: dollar neutral, or long beside cash."""
    y, root = cp.Variable(N), np.linalg.cholesky(ctx.covariance.dense().numpy())
    rules = [ctx.mean.numpy() @ y == 0.01, y >= lower]
    rules += [cp.sum(y) == 0.0] if budget else []
    rules += [] if free is None else [y[np.flatnonzero(~free)] == 0.0]
    problem = cp.Problem(cp.Minimize(cp.norm2(root.T @ y)), rules)
    problem.solve(solver=cp.CLARABEL)
    return -0.01 / float(problem.value) if problem.status.startswith("optimal") else np.inf


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_a_dollar_neutral_sharpe_ratio_is_that_of_the_best_direction(seed: int, search: Constructor) -> None:
    ctx = world(seed)
    best = by_cone(ctx, True, -np.inf)
    for rules in (NEUTRAL, NEUTRAL & Leverage(0.5), NEUTRAL & VolatilityCap(1e-3)):
        found = built(SHARPE, rules, ctx, search)
        assert found.energy == pytest.approx(best, rel=1e-7)
        assert found.proven and found.bound is not None and found.bound <= found.energy


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_cash_beside_long_names_is_a_matter_of_direction_too(search: Constructor) -> None:
    ctx = world(1)
    found = built(SHARPE, Budget(1.0, 0.0) & LongOnly(), ctx, search)
    assert found.energy == pytest.approx(by_cone(ctx, False, 0.0), rel=1e-7) and found.proven
    assert float(found.weights.sum()) == pytest.approx(1.0, abs=1e-8)  # the largest that obeys


def test_the_largest_portfolio_of_the_direction_is_taken() -> None:
    """A cap binds, and any more would break it."""
    ctx = world(0)
    rules = NEUTRAL & Leverage(0.5) & VolatilityCap(5e-3)
    found, region = built(SHARPE, rules, ctx, Convex()), region_of(rules, ctx)
    assert float(region_residual(found.weights, region)) <= 1e-9
    assert float(region_residual(1.001 * found.weights, region)) > 1e-7


def test_a_tail_is_a_risk_of_directions_as_well() -> None:
    """By Rockafellar and Uryasev's linear program over directions that gain 1 %."""
    ctx = world(2)
    losses, y, at = -ctx.scenarios.numpy(), cp.Variable(N), cp.Variable()
    tail = at + cp.sum(cp.pos(losses @ y - at)) / (0.1 * len(losses))
    rules = [ctx.mean.numpy() @ y == 0.01, cp.sum(y) == 0.0]
    problem = cp.Problem(cp.Minimize(tail), rules)
    problem.solve(solver=cp.CLARABEL)
    found = built(MaxRatio(Return(), CVaR(level=0.9)), NEUTRAL, ctx, Convex())
    assert found.energy == pytest.approx(-0.01 / float(problem.value), rel=1e-6) and found.proven


def test_where_no_direction_gains_it_is_said() -> None:
    ctx = world(0)
    ctx = replace(ctx, market=replace(ctx.market, mean=-ctx.mean.abs()))
    with pytest.raises(SolverError, match="no portfolio gains"):
        built(SHARPE, Budget(1.0, 0.0) & LongOnly(), ctx, Convex())


def test_a_few_names_of_a_neutral_book_are_the_best_of_all_choices() -> None:
    """Boxes alone bind beside the choice, so each has the ratio of its best direction. The bound is that without it."""
    ctx = world(3)
    few = NEUTRAL & Cardinality(at_most=3)
    best = min(by_cone(ctx, True, -np.inf, np.isin(np.arange(N), names)) for names in combinations(range(N), 3))
    found = built(SHARPE, few, ctx, AnnealedLangevin())
    assert found.energy == pytest.approx(best, rel=1e-6)
    assert found.bound is not None and found.bound <= best + 1e-9
    assert int((found.weights.abs() > 1e-9).sum()) <= 3


def test_what_an_engine_leaves_of_no_position_is_no_portfolio() -> None:
    """Answers by hand: dust of four names whose ratio none of the three allowed has, dust without a risk, whose ratio
    is no number, and between them the portfolio that gains."""
    ctx = world(3)
    region = region_of(NEUTRAL & Cardinality(at_most=3), ctx)
    whole = built(SHARPE, NEUTRAL, ctx, Convex()).weights
    best = built(SHARPE, NEUTRAL & Box(-0.2, 0.2, caps={"A5": 0.0}, floors={"A5": 0.0}), ctx, Convex()).weights
    answers = iter([1e-10 * whole, best, 1e-170 * whole])
    ratio = SHARPE.bind(ctx)
    assert float(ratio(1e-10 * whole)) < float(ratio(best)) and not torch.isfinite(ratio(1e-170 * whole))
    given = ratio_of_choice(
        SHARPE, region, ctx, lambda *_: (Found(next(answers), "by hand", {}, best.unsqueeze(0), {}), None)
    )
    assert given is not None and given[0] is not None
    assert torch.equal(given[0].weights, best) and given[1] is not None and given[1] <= float(ratio(best))


def test_a_rule_that_binds_at_zero_stays() -> None:
    """No net weight in a group is a rule of directions; what may be in it is not."""
    ctx = world(1)
    labels = tuple("ab"[k % 2] for k in range(N))
    ctx = replace(ctx, groups={"side": labels})
    odd = np.array([label == "a" for label in labels], dtype=float)
    found = built(SHARPE, NEUTRAL & Group("side", "a", lower=0.0, upper=0.0), ctx, Convex())
    y, root = cp.Variable(N), np.linalg.cholesky(ctx.covariance.dense().numpy())
    rules = [ctx.mean.numpy() @ y == 0.01, cp.sum(y) == 0.0, odd @ y == 0.0]
    problem = cp.Problem(cp.Minimize(cp.norm2(root.T @ y)), rules)
    problem.solve(solver=cp.CLARABEL)
    assert found.energy == pytest.approx(-0.01 / float(problem.value), rel=1e-7)
    assert float(torch.as_tensor(odd) @ found.weights) == pytest.approx(0.0, abs=1e-9)


def test_a_risk_from_a_benchmark_does_not_double_and_is_no_matter_of_direction() -> None:
    """Away from the benchmark the risk is above zero where nothing is held, so the size of a portfolio matters: no
    convex program over directions knows it, and the truth is that of the perspective, |root' (y - b t)| least."""
    ctx = world(1)
    b, root = ctx.benchmark("index").numpy(), np.linalg.cholesky(ctx.covariance.dense().numpy())
    y, t = cp.Variable(N), cp.Variable(nonneg=True)
    rules = [ctx.mean.numpy() @ y == 0.01, cp.sum(y) == 0.0, cp.abs(y) <= 0.2 * t]
    problem = cp.Problem(cp.Minimize(cp.norm2(root.T @ (y - b * t))), rules)
    problem.solve(solver=cp.CLARABEL)
    found = built(MaxRatio(Return(), TrackingError("index")), NEUTRAL, ctx, Convex())
    assert found.energy == pytest.approx(-0.01 / float(problem.value), rel=1e-6) and found.proven


def test_a_risk_that_falls_faster_than_the_portfolio_is_not_proven_at_any_size() -> None:
    """Half of a portfolio has twice the gain per variance: no portfolio is the best one."""
    with pytest.raises(SolverError, match="not above zero"):
        built(MaxRatio(Return(), Variance()), NEUTRAL, world(0), Convex())


def test_a_loser_without_a_tail_is_no_reason_for_a_bound() -> None:
    """A name that is expected to lose and gains in every scenario has a loss over a risk below zero, and as low a ratio
    as mixtures like: the best of the directions that gain bounds none of them."""
    ctx = world(2)
    scenarios, mean = ctx.scenarios.clone(), ctx.mean.abs()
    scenarios[:, 0], mean[0] = scenarios[:, 0].abs() + 0.01, -0.01
    ctx = replace(ctx, market=replace(ctx.market, scenarios=scenarios, mean=mean))
    ratio, rules = MaxRatio(Return(), CVaR(level=0.9)), Budget(1.0, 0.0) & LongOnly()
    assert float(ratio.bind(ctx)(torch.eye(N, dtype=torch.float64)[0])) < 0.0
    with pytest.raises(SolverError, match="not above zero"):
        built(ratio, rules, ctx, Convex())


def test_where_no_position_is_left_it_is_said() -> None:
    """A least weight is one of long names; dollar neutral, none of them can be held."""
    few = NEUTRAL & Cardinality(at_most=3, min_weight=0.05)
    with pytest.raises(SolverError, match="no position at all"):
        built(SHARPE, few, world(0), AnnealedLangevin(chains=8))
