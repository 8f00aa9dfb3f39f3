"""Ratios by one homogeneous program: the same minimum as Dinkelbach's steps and Clarabel's, and true bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_problems import judge
from cases_terms import N, world
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.exposures import FactorExposure, Group
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.ratio import at_once, by_steps, lone_ratio, minimize_ratio
from portfolio_ebm.energies.cash import Cash
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation, Semideviation, Volatility
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energy import Energy
from portfolio_ebm.types import generator

RISKS: list[Energy] = [
    Volatility(),
    CVaR(0.9, centred=True),
    MeanAbsoluteDeviation(),
    Semideviation(),
    MeanAbsoluteDeviation() + 0.4 * CVaR(0.8, centred=True),
]
GAINS: list[Energy] = [Return(), Return() + Cash(1e-4, excess=True)]
RULES = [
    Budget() & LongOnly(),
    Budget(0.8) & LongOnly() & Box(upper=0.25),
    Budget() & Box(lower=-0.2, upper=0.5) & Group("sector", "odd", upper=0.6, lower=0.2),
    Budget() & Box(lower=0.02, upper=0.6) & FactorExposure("size", upper=0.55),
    Budget() & Box(lower=-0.5, upper=1.0) & FactorExposure("beta", upper=1.0, lower=1.0),
]


def gaining(seed: int):
    """A context in which every rule leaves portfolios that gain."""
    ctx = world(seed, size=60)
    ctx = replace(ctx, market=replace(ctx.market, mean=ctx.mean.abs() + 0.002))
    return replace(ctx, groups={"sector": tuple("even" if i % 2 == 0 else "odd" for i in range(N))})


@pytest.mark.parametrize("rules", RULES, ids=repr)
@pytest.mark.parametrize("risk", RISKS, ids=repr)
def test_one_program_ends_where_the_steps_and_clarabel_do(risk, rules):
    for seed, gain in enumerate(GAINS):
        ctx = gaining(seed)
        energy, region = MaxRatio(gain, risk), region_of(rules, ctx)
        found = at_once(energy, region, region, ctx)
        assert found is not None and found.status.ok
        assert float(rules.residual(found.weights, ctx)) <= 1e-9
        assert found.value == pytest.approx(float(energy.bind(ctx)(found.weights)), rel=1e-12)
        assert 0.0 <= found.value - found.bound <= 1e-7 * abs(found.value)
        steps = by_steps(energy, region, ctx)
        assert found.value == pytest.approx(steps.value, rel=1e-8)
        # At the best ratio -c the least of G + c R is zero.
        zero = judge(gain - found.value * risk, rules, ctx)
        size = float(risk.bind(ctx)(found.weights)) * abs(found.value)
        assert abs(zero.value) <= 1e-7 * size


@given(seed=st.integers(0, 500), risk=st.sampled_from(RISKS), rules=st.sampled_from(RULES), gain=st.sampled_from(GAINS))
@settings(max_examples=25, deadline=None)
def test_no_portfolio_is_below_the_bound(seed, risk, rules, gain):
    ctx = gaining(seed)
    energy, region = MaxRatio(gain, risk), region_of(rules, ctx)
    found = minimize_ratio(lone_ratio(energy), region, ctx)
    draws = torch.tensor(np.random.default_rng(seed).dirichlet(np.full(N, 0.4), 200))
    tried = rules.project(torch.cat([draws, found.weights + 0.02 * torch.randn(50, N).double()]), ctx).weights
    assert float(energy.bind(ctx)(tried).min()) >= found.bound - 1e-12


def test_the_entropic_ratio_ends_where_the_steps_do():
    ctx = gaining(1)
    region = region_of(RULES[1], ctx)
    energy = MaxRatio(Return(), EVaR(0.9, centred=True))
    found = at_once(energy, region, region, ctx)
    assert found is not None and found.value == pytest.approx(by_steps(energy, region, ctx).value, rel=1e-9)


def test_the_steps_take_what_one_program_does_not():
    ctx = gaining(0)
    bent = MaxRatio(Return(), Volatility())
    region = region_of(Budget() & LongOnly() & Turnover(at_most=0.9), replace(ctx, held=torch.full((N,), 1.0 / N)))
    assert at_once(bent, region, region, ctx) is None
    free = region_of(Box(lower=0.05, upper=0.3), ctx)  # nothing fixes the size of w
    assert at_once(bent, free, free, ctx) is None
    for where in (region, free):
        assert minimize_ratio(lone_ratio(bent), where, ctx).status.ok
    low = replace(ctx, market=replace(ctx.market, mean=-ctx.mean - 0.01))
    long = region_of(Budget() & LongOnly(), low)
    assert at_once(bent, long, long, low) is None


def test_the_most_diversified_portfolio_comes_from_one_program():
    ctx = gaining(3)
    region = region_of(Budget() & LongOnly(), ctx)
    found = minimize_ratio(lone_ratio(2.0 * MaximumDiversification()), region, ctx)
    steps = by_steps(MaximumDiversification(), region, ctx)
    assert "one convex program" in str(found.status)
    assert found.value == pytest.approx(2.0 * steps.value, rel=1e-10)
    torch.testing.assert_close(found.weights, steps.weights, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rules", [*RULES[:3], Either(RULES[0] & Box(upper=0.3), RULES[1])], ids=repr)
@pytest.mark.parametrize("energy", [MaxRatio(), 2.0 * MaxRatio(Return(), CVaR(0.9, centred=True))], ids=repr)
def test_the_default_constructor_proves_a_lone_ratio_too(energy, rules):
    ctx = gaining(3)
    found = AnnealedLangevin(chains=4, steps=3).build(energy, rules, ctx, generator(0, "x"))
    assert found.status.ok and "xact engine: exact minimum of a ratio" in str(found.status)
    assert "local minimum" not in str(found.status)
    assert 0.0 <= found.gap <= 1e-7 * abs(found.energy)
    exact = [Convex().build(energy, one, ctx, generator(0, "x")).energy for one in rules.cases()]
    assert found.energy == pytest.approx(min(exact), rel=1e-7)


def test_a_ratio_that_no_proof_covers_is_still_searched():
    ctx = gaining(3)
    losing = replace(ctx, market=replace(ctx.market, mean=-ctx.mean))
    search = AnnealedLangevin(chains=4, steps=3)
    for rules, where in ((RULES[0], losing), (RULES[0] & Cardinality(3), losing)):
        found = search.build(MaxRatio(), rules, where, generator(0, "x"))
        assert found.bound is None and "local minimum" in str(found.status)
    # Whole lots: the bound of fractions holds, and nothing says that the lots are the best.
    lots = Budget(1.0, at_least=0.8) & LongOnly() & RoundLots(lot=5.0)
    priced = replace(ctx, prices=torch.linspace(5.0, 20.0, N).double(), capital=1000.0)
    found = search.build(MaxRatio(), lots, priced, generator(0, "x"))
    assert found.bound <= found.energy and "which nothing proves best" in str(found.status)
