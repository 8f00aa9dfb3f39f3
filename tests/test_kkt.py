"""Every answer of a convex problem says its KKT residual and its shadow prices, at every door."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from portfolio_ebm.allocation import Allocation
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.risk import VolatilityCap
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.certifier import BranchAndBound
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import KKT, proven_at, solve
from portfolio_ebm.construction.least_trade import LeastTrade
from portfolio_ebm.construction.naive import EqualWeight
from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.frontiers import frontier
from portfolio_ebm.many import optimize_many
from portfolio_ebm.optimization import given_context, optimize

N = 6
RULES = Budget() & LongOnly() & Box(upper=0.3)
FEW = AnnealedLangevin(chains=2, steps=2)


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    mixed = rng.normal(size=(120, N)) @ rng.normal(size=(N, N)) * 0.01
    return pd.DataFrame(mixed + np.linspace(0.001, 0.004, N), columns=[f"A{i}" for i in range(N)])


def priced(found: Allocation) -> list[tuple[str, str, float]]:
    return [(price.rule, price.bound, price.value) for price in found.prices]


@pytest.mark.parametrize("constructor", [Convex(), FEW, BranchAndBound(chains=2), LeastTrade()], ids=repr)
def test_whoever_solves_a_convex_problem_tells_its_residual_and_its_prices(returns, constructor) -> None:
    energy = Return() + 2.0 * Variance()
    found = optimize(energy, RULES, scenarios=returns, constructor=constructor)
    exact = optimize(energy, RULES, scenarios=returns, constructor=Convex())
    assert found.kkt is not None and found.kkt <= KKT
    assert priced(found) == priced(exact) and len(priced(found)) > 0
    assert found.priced == "the other rules"


@pytest.mark.parametrize("constructor", [Convex(), FEW], ids=repr)
@pytest.mark.parametrize("rules", [RULES, RULES & VolatilityCap(0.05)], ids=["linear", "with a cap"])
@pytest.mark.parametrize("energy", [MaxRatio(), MaximumDiversification(), MaxRatio(Return(), CVaR(0.9))], ids=repr)
def test_a_ratio_says_its_residual(returns, energy: Energy, rules: Constraint, constructor) -> None:
    found = optimize(energy, rules, scenarios=returns, constructor=constructor)
    assert found.kkt is not None and found.kkt <= KKT
    assert f"KKT residual {found.kkt:.1e}" in str(found.status)


@pytest.mark.parametrize(
    ("rules", "constructor"),
    [
        (Budget() & LongOnly() & Cardinality(3), FEW),
        (Budget() & LongOnly() & Cardinality(3), BranchAndBound(chains=2)),
        (Budget() & LongOnly() & Either(Box(upper=0.3), Box(upper=0.4)), FEW),
        (Budget() & LongOnly() & Either(Box(upper=0.3), Box(upper=0.4)), BranchAndBound(chains=2)),
        (RULES, EqualWeight()),
    ],
    ids=repr,
)
def test_where_the_conditions_say_nothing_there_is_no_residual(returns, rules, constructor) -> None:
    found = optimize(Variance(), rules, scenarios=returns, constructor=constructor)
    assert found.kkt is None and found.prices == ()
    assert "KKT" not in str(found.status)


def test_the_nearest_portfolio_within_a_tolerance_is_no_minimum(returns) -> None:
    held = pd.Series(1.0 / N, index=returns.columns)
    found = optimize(Variance(), RULES, scenarios=returns, constructor=LeastTrade(0.05), held=held)
    assert found.kkt is None and found.prices == ()


def test_every_row_of_many_has_what_it_has_alone(returns) -> None:
    energies = {"calm": Return() + 5.0 * Variance(), "bold": Return() + 1.0 * Variance(), "ratio": MaxRatio()}
    many = optimize_many(energies, RULES, scenarios=returns)
    for label, energy in energies.items():
        alone = optimize(energy, RULES, scenarios=returns, constructor=Convex())
        assert many.kkt[label] == alone.kkt is not None
        assert many.prices[label] == alone.prices != ()
        pd.testing.assert_frame_equal(
            many.shadow_prices.loc[[label]].reset_index(drop=True), alone.shadow_prices, check_exact=True
        )
    assert many.shadow_prices.index.name == "problem"


def test_a_failed_row_has_neither(returns) -> None:
    bad = returns.mean() * np.nan
    many = optimize_many(
        Return() + Variance(), RULES, covariance=returns.cov(), mean={"no": bad, "yes": returns.mean()}
    )
    assert not many.ok["no"] and np.isnan(many.kkt["no"]) and "no" not in many.prices
    assert many.kkt["yes"] <= KKT and set(many.shadow_prices.index) == {"yes"}


def test_the_prices_of_a_frontier_are_of_the_second_energy_at_the_same_first(returns) -> None:
    found = frontier(Variance(), Return(), RULES, scenarios=returns, n=7)
    assert (found.kkt <= KKT).all() and found.shadow_prices.index.name == "point"
    step = 1e-5

    def least(energy: Energy, upper: float, *more: Constraint) -> float:
        rules = Budget() & LongOnly() & Box(upper=upper)
        for rule in more:
            rules = rules & rule
        return optimize(energy, rules, scenarios=returns, constructor=Convex()).energy

    def price(point: int) -> float:
        rows = found.shadow_prices.loc[[point]]
        return float(rows.loc[(rows["bound"] == "upper") & (rows["rule"] == repr(Box(upper=0.3))), "value"].sum())

    for point in (2, 4):
        cap = VolatilityCap(float(found.energies.iloc[point, 0]) ** 0.5)
        slope = (least(Return(), 0.3 + step, cap) - least(Return(), 0.3 - step, cap)) / (2.0 * step)
        assert price(point) == pytest.approx(-slope, rel=1e-3, abs=1e-8) and price(point) > 0.0
    slope = (least(Variance(), 0.3 + step) - least(Variance(), 0.3 - step)) / (2.0 * step)
    assert price(0) == pytest.approx(-slope, rel=1e-3, abs=1e-10)
    worth = found.shadow_prices.loc[4, "worth"]
    np.testing.assert_allclose(worth, found.shadow_prices.loc[4, "value"], rtol=1e-12)


@pytest.mark.parametrize("pair", [(Variance(), Return()), (Return(), Variance()), (CVaR(0.9), Return())], ids=repr)
def test_a_point_of_a_frontier_says_its_own_residual(returns, pair) -> None:
    found = frontier(*pair, RULES, scenarios=returns, n=5)
    said = [(kkt, words) for kkt, words in zip(found.kkt, found.status, strict=True) if "Half" not in words]
    assert len(said) >= 3
    for kkt, words in said:
        assert f"KKT residual {kkt:.1e}" in words if kkt == kkt else "KKT" not in words


def test_the_middles_of_straight_pieces_have_a_residual_too(returns) -> None:
    found = frontier(CVaR(0.9), Return(), RULES, scenarios=returns.head(30), n=60)
    assert found.status.str.startswith("Half of each neighbour").sum() > 3
    assert found.kkt.notna().all() and (found.kkt <= KKT).all()
    assert set(found.prices) == set(range(len(found))) and all(found.prices.values())


def test_a_middle_is_not_taken_for_a_minimum_where_it_is_none(returns) -> None:
    energy = Return() + 2.0 * Variance()
    ctx = given_context(energy, RULES, scenarios=returns).ctx
    formula, region = take_apart(energy, ctx), region_of(RULES, ctx)
    best = solve(formula, region)
    other = torch.full((N,), 1.0 / N, dtype=torch.float64).numpy()
    far = proven_at(formula, region, other, best.multipliers)
    assert far is not None and not far.status and far.kkt is not None and far.kkt > 1e-4
    same = proven_at(formula, region, best.weights.numpy(), best.multipliers)
    assert same is not None and same.status and same.kkt == best.kkt
