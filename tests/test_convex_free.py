"""The free minimum of risk budgets, and the tilt behind EVaR: both beside another way to the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_terms import N, world
from scipy.optimize import brentq

from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.duality import Box as Walls
from portfolio_ebm.construction.exact.duality import prove
from portfolio_ebm.construction.exact.engines import interior
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.free_minimum import free_minimum
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.energies.budgeting import FactorRiskBudget, RiskBudget
from portfolio_ebm.energies.entropic import tilt
from portfolio_ebm.energies.risk import Variance

BUDGETS = [
    RiskBudget(),
    RiskBudget({f"A{i}": 1.0 + i for i in range(N)}, total=0.7),
    FactorRiskBudget({"beta": 0.7, "size": 0.3}),
]


@pytest.mark.parametrize("energy", BUDGETS, ids=repr)
def test_the_free_minimum_is_the_interior_points(energy):
    for seed in range(4):
        ctx = world(seed)
        formula = take_apart(2.0 * energy, ctx)
        walls = Box(-2.0, 2.0) if isinstance(energy, FactorRiskBudget) else LongOnly()
        box = Walls.of(region_of(Budget(energy.total) & walls, ctx))
        found, other = free_minimum(formula, box), interior(formula, box)
        assert found is not None and other is not None
        np.testing.assert_allclose(found.weights, other.weights, rtol=0, atol=1e-8)
        proof = prove(formula, box, found.weights, found.duals)
        value = formula.evaluate(found.weights)
        assert proof.bound is not None and 0.0 <= value - proof.bound + 1e-12 <= 1e-9


def test_a_rule_that_pulls_is_left_to_the_other_engines():
    ctx = world(1)
    formula = take_apart(RiskBudget(), ctx)
    most = float(RiskBudget().free_minimum(ctx).max())
    for rules in (Budget() & LongOnly() & Box(upper=0.9 * most), Budget(0.9) & LongOnly()):
        region = region_of(rules, ctx)
        assert free_minimum(formula, Walls.of(region)) is None
        assert minimize(RiskBudget(), region, ctx).status.ok
    assert free_minimum(take_apart(RiskBudget() + Variance(), ctx), Walls.of(region_of(Budget(), ctx))) is None


def test_what_is_kept_of_a_context_is_not_taken_to_another():
    ctx = world(2)
    first = RiskBudget().free_minimum(ctx)
    assert RiskBudget().free_minimum(ctx).equal(first) and RiskBudget() in ctx.kept
    wider = replace(ctx, market=replace(ctx.market, covariance=world(3).covariance))
    assert not RiskBudget().free_minimum(wider).allclose(first)
    given = RiskBudget({f"A{i}": 1.0 + i for i in range(N)})
    assert not given.free_minimum(ctx).allclose(first)


@pytest.mark.parametrize("law", ["normal", "cauchy", "two points", "one far"])
@pytest.mark.parametrize("level", [0.05, 0.5, 0.95, 0.995])
def test_the_tilt_lies_as_far_as_asked(law, level):
    draw = np.random.default_rng(4)
    loss = {
        "normal": draw.normal(0.0, 0.01, 400), "cauchy": draw.standard_cauchy(400),
        "two points": np.where(np.arange(400) < 1, 1.0, 0.0), "one far": np.r_[draw.normal(0, 1e-4, 399), 5.0],
    }[law]  # fmt: skip
    far, size = -math.log1p(-level), len(loss)

    def miss(u):
        y = math.exp(u) * (loss - loss.max())
        p = np.exp(y) / np.exp(y).sum()
        return float(p @ y - math.log(np.exp(y).sum()) + math.log(size) - far)

    g, inside = tilt(torch.as_tensor(loss), far)
    assert bool(inside)
    reach = math.log(max(np.ptp(loss), 1e-300))
    exact = brentq(miss, -12.0 - reach, 20.0 - reach, xtol=1e-13, rtol=1e-14)
    value = [
        (np.log(np.exp(t * (loss - loss.max())).mean()) + far) / t + loss.max() for t in (float(g), math.exp(exact))
    ]
    assert value[0] == pytest.approx(value[1], rel=1e-12, abs=1e-15)
    assert float(g) == pytest.approx(math.exp(exact), rel=1e-6)
