"""Drawdowns by the interior point: planes that lie below them, and minima that Clarabel confirms."""

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
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.chain import Chain
from portfolio_ebm.construction.exact.duality import Box as Walls
from portfolio_ebm.construction.exact.duality import prove
from portfolio_ebm.construction.exact.engines import interior
from portfolio_ebm.construction.exact.falls import Falls, shares
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.drawdown import CDaR, MaxDrawdown
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Energy
from portfolio_ebm.types import bps

FALLING: list[Energy] = [
    CDaR(0.9),
    CDaR(0.0),
    CDaR(0.9999),
    MaxDrawdown(),
    MaxDrawdown(level=0.7),
    MaxDrawdown(level=0.99),
    TrackingError("index", CDaR(0.8)),
]
BESIDE: list[Energy] = [
    Return(),
    Variance(),
    0.3 * CVaR(0.9, centred=True) + TradingCost(5 * bps),
    0.5 * MaxDrawdown(level=0.5) + 0.2 * CDaR(0.5),
]
RULES = [Budget() & LongOnly(), Budget() & Box(lower=-0.2, upper=0.5) & Turnover(at_most=1.2)]


def along(seed: int, paths: int, steps: int):
    ctx = world(seed, held=True)
    draw = np.random.default_rng(seed)
    given = draw.normal(5e-4, 0.01, (paths, steps, N)) + draw.normal(0.0, 0.008, (paths, steps, 1))
    return replace(ctx, market=replace(ctx.market, paths=torch.tensor(given)))


def falls_of(energy: Energy, ctx) -> Falls:
    pieces = take_apart(energy, ctx).pieces
    assert pieces is not None
    return pieces.falls[0]


def touching(falls: Falls, w: np.ndarray) -> np.ndarray:
    """The F (S, h) of the plane that touches at w: what counts flows from its drawdown back to the peak before it."""
    depth = falls.depths(w)
    counts = depth == depth.max(1, keepdims=True) if falls.whole else np.full(depth.shape, True)
    mass = np.zeros_like(depth)
    mass[counts] = shares(depth[counts], falls.count, falls.coefficient)
    flow = np.zeros_like(depth)
    for path, step in np.argwhere(mass > 0.0):
        for t in range(step, -1, -1):
            if depth[path, t] == 0.0:
                break
            flow[path, t] += mass[path, step]
    return flow


@given(seed=st.integers(0, 10**6), term=st.sampled_from(FALLING), shape=st.sampled_from([(1, 30), (5, 8)]))
@settings(max_examples=60, deadline=None)
def test_every_plane_lies_below_and_the_best_one_touches(seed, term, shape):
    ctx = along(seed % 50, *shape)
    falls, value = falls_of(2.5 * term, ctx), (2.5 * term).bind(ctx)
    draw = np.random.default_rng(seed)
    tried = draw.normal(0.1, 0.3, (20, N))
    at = value(torch.as_tensor(tried)).numpy()
    for w, own in zip(tried, at, strict=True):
        assert falls.value(w) == pytest.approx(own, rel=1e-12, abs=1e-15)
        best = touching(falls, w)
        np.testing.assert_allclose(falls.repair(best), best, rtol=1e-12, atol=1e-14)
        slope, level = falls.plane(best)
        assert slope @ w + level == pytest.approx(own, rel=1e-12, abs=1e-15)
        noisy = best + 10.0 ** draw.uniform(-3, 1) * draw.normal(size=best.shape)
        slope, level = falls.plane(falls.repair(noisy))
        assert (tried @ slope + level <= at + 1e-12).all()


@pytest.mark.parametrize("shape", [(1, 60), (12, 10)], ids=str)
@pytest.mark.parametrize("term", FALLING, ids=repr)
def test_the_interior_point_ends_where_clarabel_does_and_proves_it(term, shape):
    for seed, beside in enumerate(BESIDE):
        ctx, rules = along(seed, *shape), RULES[seed % 2]
        energy = term + beside
        formula, box = take_apart(energy, ctx), Walls.of(region_of(rules, ctx))
        found = interior(formula, box)
        assert found is not None and found.duals is not None
        proof, value = prove(formula, box, found.weights, found.duals), formula.evaluate(found.weights)
        size = max(abs(value), float(np.abs(formula.gradient(found.weights)).max()))
        # Under a turnover cap, and where several drawdowns of one path say nearly the same, rounding is felt sooner.
        close = 1e-7 if rules is RULES[0] else 1e-6
        assert proof.bound is not None and -1e-12 * size <= value - proof.bound <= close * size
        assert value == pytest.approx(judge(energy, rules, ctx).value, abs=close * size)


@pytest.mark.parametrize("term", FALLING, ids=repr)
def test_a_minimum_is_proven_and_no_other_library_is_asked(term):
    for seed in range(3):
        ctx = along(10 + seed, 1, 250)
        found = minimize(term, region_of(RULES[0], ctx), ctx)
        assert found.status.ok and "interior point" in str(found.status)
        assert found.bound is not None and found.value - found.bound <= 1e-8 * max(1.0, found.value)


def test_a_newton_step_is_that_of_the_whole_system():
    # The elimination beside the matrix of all equations at once: s = D d + R w + m, and the products to first order.
    draw = np.random.default_rng(0)
    t, k = 12, 3
    first = np.isin(np.arange(t), [0, 5])
    level = np.where(np.arange(t) < 9, k, k + 1)
    cap = np.where(np.arange(t) < 9, 0.7, np.inf)
    chain = Chain(draw.normal(size=(t, k)), draw.normal(size=t), first, level, cap, np.zeros(t))
    slack, dual = draw.uniform(0.1, 2.0, chain.pairs), draw.uniform(0.1, 2.0, chain.pairs)
    q, a = chain.split(dual)[2], chain.split(dual)[3]
    a[:] = 0.7 - (q[:9] * 0.3)
    q[:9] = 0.7 - a
    z, dz, aims = draw.normal(size=k + 2), draw.normal(size=k + 2), draw.normal(size=chain.pairs)
    missing = chain.residuals(z, slack, dual)
    link = chain.link(slack, dual, missing)
    assert link is not None
    dslack, ddual = link.back(aims, dz)
    after = chain.residuals(z + dz, slack + dslack, dual + ddual)
    assert max(float(np.abs(part).max()) for part in after) < 1e-10
    np.testing.assert_allclose(slack * ddual + dual * dslack, aims, atol=1e-10)
    # What it puts into the system of z is what the multipliers then pull.
    block = np.zeros((k + 2, k + 2))
    link.into(block)
    pulled = chain.pull(dual + ddual, k + 2) - chain.pull(dual, k + 2)
    np.testing.assert_allclose(block @ dz - link.right(aims, k + 2), pulled, atol=1e-9)
