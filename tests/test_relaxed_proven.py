"""Soft rules under exact engines: the model of the nearest point against differences, and minima with proofs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_problems import RULES, judge
from cases_terms import N, world

from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance

HARD = Budget() & LongOnly()
LINEAR = ["Budget", "LongOnly", "Box", "Group", "FactorExposure", "BetaNeutral", "DollarNeutral"]


def soft(name, seed, priority=0):
    ctx = world(seed, held=True)
    ctx = replace(ctx, groups={**ctx.groups, "land": tuple("east" if i % 3 else "west" for i in range(N))})
    draw = np.random.default_rng(seed)
    return Relaxed(rule=RULES[name](draw, ctx, torch.tensor(draw.dirichlet(np.ones(N))), 0.02), priority=priority), ctx


@pytest.mark.parametrize("name", RULES)
def test_the_model_is_the_energy_to_second_order(name):
    term, ctx = soft(name, 4)
    value, model = term.bind(ctx), term.taylor(ctx)
    w = torch.tensor(np.random.default_rng(5).normal(0.1, 0.4, N))
    face, step = model(w), 1e-5
    assert float(face(w)) == pytest.approx(float(value(w)), rel=1e-9, abs=1e-12)
    slopes = [model(w + sign * step * row) for row in torch.eye(N).double() for sign in (1.0, -1.0)]
    pulls = torch.stack([one.matrix.matvec(w + sign * step * torch.eye(N).double()[i // 2]) + one.linear
                         for i, (one, sign) in enumerate(zip(slopes, [1.0, -1.0] * N, strict=True))])  # fmt: skip
    measured = (pulls[0::2] - pulls[1::2]) / (2.0 * step)
    assert torch.allclose(face.matrix.dense(), measured, atol=2e-3)
    # The tangent is never above: what a bound is made of.
    others = torch.tensor(np.random.default_rng(6).normal(0.1, 0.4, (50, N)))
    tangent = face(w) + (others - w) @ (face.matrix.matvec(w) + face.linear)
    assert (value(others) >= tangent - 1e-9).all()


@pytest.mark.parametrize("name", RULES)
def test_the_minimum_is_that_of_clarabel(name):
    term, ctx = soft(name, 1)
    energy = Return() + Variance() + term
    found, other = minimize(energy, region_of(HARD, ctx), ctx), judge(energy, HARD, ctx)
    assert found.value == pytest.approx(other.value, abs=1e-7 * found.size)
    assert found.bound is not None and found.bound <= other.value + 1e-9 * found.size


@pytest.mark.parametrize("priority", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 2)), 3])
@pytest.mark.parametrize("name", LINEAR)
def test_soft_linear_rules_are_proven_at_every_priority(name, priority):
    # Relative to the formula's own terms: the slope of a stiff rule far from it is no scale for a gap.
    term, ctx = soft(name, 1, priority)
    found = minimize(Variance() + term, region_of(HARD, ctx), ctx)
    alone = minimize(Variance(), region_of(HARD, ctx), ctx)
    assert found.status and found.size <= max(2.0 * alone.size, abs(found.value)), found.status
    assert found.value - found.bound <= 1e-8 * found.size
