"""The most return under curved caps and a choice of names, against the convex solver on every choice."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_annealed import context

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.choosing.capping import CappedProgram
from portfolio_ebm.construction.choosing.choosing import mixed_of
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError

N, K = 7, 3
CAPS = {
    "volatility": VolatilityCap(at_most=0.085), "CVaR": CVaRCap(at_most=0.14), "both": VolatilityCap(at_most=0.09)
    & CVaRCap(at_most=0.16), "tracking": TrackingErrorCap(at_most=0.05, benchmark="index"),
    "empty": VolatilityCap(at_most=0.02),
}  # fmt: skip
FORMULAS = {"return": Return(), "tail": Return() + 0.1 * CVaR(level=0.9), "cost": Return() + TradingCost(0.002)}


def world(seed: int) -> Context:
    held = np.random.default_rng(seed).dirichlet(np.ones(N)).tolist()
    ctx = context(N, seed, held=held)
    return replace(ctx, benchmarks={"index": torch.full((N,), 1.0 / N, dtype=torch.float64)})


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def enumerated(energy: Energy, rules: Constraint, ctx: Context) -> float:
    """By `minimize` and not by `Convex()`: that would find the rules in conflict for every choice that has none."""
    best = np.inf
    for names in itertools.combinations(ctx.assets, N - K):
        without = rules & Box(caps=dict.fromkeys(names, 0.0))
        with suppress(InfeasibleError):
            best = min(best, minimize(energy, region_of(without, ctx), ctx).value)
    return best


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("cap", CAPS)
def test_the_best_of_all_choices_is_found_and_proven(cap: str, formula: str, seed: int) -> None:
    ctx, energy, rules = world(seed), FORMULAS[formula], Budget() & LongOnly() & CAPS[cap]
    truth = enumerated(energy, rules, ctx)
    if truth == np.inf:
        with pytest.raises(InfeasibleError):
            AnnealedLangevin(chains=8).build(energy, rules & Cardinality(at_most=K), ctx, rng())
        return
    found = AnnealedLangevin(chains=8).build(energy, rules & Cardinality(at_most=K), ctx, rng())
    assert found.energy == pytest.approx(truth, abs=2e-8)
    assert found.bound is not None
    assert truth - 1e-6 <= found.bound <= truth + 1e-9
    assert max(found.residuals.values()) <= 1e-9


def test_a_slice_under_caps_is_the_convex_minimum_from_any_start() -> None:
    """Names that rested at the start join in where their price says so."""
    ctx = world(0)
    rules = Budget() & LongOnly() & VolatilityCap(at_most=0.085) & CVaRCap(at_most=0.16)
    truth = Convex().build(Return(), rules, ctx, rng())
    mixed = mixed_of(take_apart(Return(), ctx), region_of(rules & Cardinality(at_most=N), ctx))
    p = mixed.program
    assert isinstance(p, CappedProgram)
    for start in (None, np.eye(N)[0], np.eye(N)[3], np.full(N, 1.0 / N)):
        found = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper, start)
        assert found is not None
        assert found.value == pytest.approx(truth.energy, abs=1e-8)
        assert found.bound == pytest.approx(truth.energy, abs=1e-7)
        assert found.bound <= truth.energy + 1e-12
    alone = np.eye(N)[0]
    assert float(CAPS["volatility"].residual(torch.as_tensor(alone), ctx)) > 0.0
    assert p.minimum(np.zeros(N), alone, p.rows, p.row_lower, p.row_upper) is None


@pytest.mark.parametrize("cap", [VolatilityCap(at_most=0.2), CVaRCap(at_most=0.4)], ids=repr)
def test_a_slice_of_one_point_and_a_start_where_all_rest_are_solved(cap: Constraint) -> None:
    """At a start of no weight none would move."""
    ctx = world(0)
    rules = Budget(at_least=0.3) & LongOnly() & cap
    mixed = mixed_of(take_apart(Return(), ctx), region_of(rules & Cardinality(at_most=N), ctx))
    p, even = mixed.program, np.full(N, 0.5 / N)
    assert isinstance(p, CappedProgram)
    only = p.minimum(even, even, p.rows, p.row_lower, p.row_upper)
    assert only is not None
    assert only.weights == pytest.approx(even)
    assert only.bound == pytest.approx(-float(ctx.mean.numpy() @ even), abs=1e-9)
    found = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper, np.zeros(N))
    assert found is not None
    assert found.value == pytest.approx(Convex().build(Return(), rules, ctx, rng()).energy, abs=1e-8)
