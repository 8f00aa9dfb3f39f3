"""What a decision says of its proof is one story: the status, `proven`, the gap and the KKT residual."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases_problems import Problem, problem
from cases_terms import world

from portfolio_ebm.allocation import record
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.certifier import BranchAndBound
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact import minimum
from portfolio_ebm.construction.exact.duality import Duals, Proof
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.energies.budgeting import RiskBudget
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.deviation import Semideviation, Volatility
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.types import bps, generator

RULES = Budget() & LongOnly()
ZEROS = [TrackingError("index", Variance()), TradingCost(5 * bps)]


@pytest.mark.parametrize("constructor", [Convex(), AnnealedLangevin(chains=2, steps=2), BranchAndBound()], ids=repr)
@pytest.mark.parametrize("energy", ZEROS, ids=repr)
def test_a_minimum_of_zero_is_proven(energy, constructor):
    # The index, and what is held, obey the rules: the least energy is zero, and only its slopes have a size.
    ctx = world(held=True)
    said = record(constructor.build(energy, RULES, ctx, generator(0, "zero")), None)
    assert abs(said.energy) < 1e-15 and said.status and said.proven, (said.gap, said.status)


def test_a_choice_with_a_minimum_of_zero_is_proven():
    ctx = world()
    rules = RULES & Cardinality(ctx.n_assets)
    for constructor in (AnnealedLangevin(chains=2, steps=2), BranchAndBound()):
        said = record(constructor.build(ZEROS[0], rules, ctx, generator(0, "zero")), None)
        assert abs(said.energy) < 1e-15 and said.proven


def test_a_portfolio_far_from_a_minimum_of_zero_is_not_proven():
    ctx = world()
    found = Convex().build(ZEROS[0], RULES, ctx, generator(0, "zero"))
    far = torch.eye(ctx.n_assets, dtype=torch.float64)[0]
    energy = float(ZEROS[0].bind(ctx)(far))
    said = record(replace(found, weights=far, energy=energy, breakdown={"x": energy}), None)
    assert said.gap == pytest.approx(energy) and not said.proven


@pytest.mark.parametrize("rules", [RULES, LongOnly()], ids=repr)
def test_a_residual_is_relative_to_slopes_that_do_not_cancel(rules):
    # At the free minimum of risk budgeting all slopes are zero: they are no scale of their own.
    ctx = world()
    found = minimize(RiskBudget(), region_of(rules, ctx), ctx)
    assert found.status and found.kkt < 1e-12, found.status


def test_a_residual_that_proves_nothing_is_not_shown_beside_a_bound_that_does(monkeypatch):
    ctx, zero = world(), torch.zeros(8).numpy()

    def loose(formula, box, w, duals):
        return Proof(formula.evaluate(w), 2e-3, Duals(zero[:1], zero, zero, 0.0), 1.0)

    monkeypatch.setattr(minimum, "prove", loose)
    found = minimize(Variance(), region_of(RULES, ctx), ctx)
    assert found.status and found.kkt is None and str(found.status).endswith("proven by its bound.")


def at_the_index(measure) -> Problem:
    """The tails pull less than tracking costs: the index itself is the minimum, where tracking has its vertex."""
    terms = (EVaR(level=0.3, centred=True), TrackingError("index", measure))
    return problem(terms, ("Leverage", "ActiveShare"), 57981817)


@pytest.mark.parametrize("measure", [Volatility(), Semideviation(), Semideviation(centred=False)], ids=repr)
def test_a_minimum_at_the_vertex_of_a_smooth_term_is_proven(measure):
    case = at_the_index(measure)
    found = minimize(case.energy, region_of(case.rules, case.ctx), case.ctx)
    assert found.status and found.kkt is not None and found.kkt <= minimum.KKT, found.status
    assert found.bound is not None and found.value - found.bound <= minimum.KKT * found.size
    assert torch.allclose(found.weights, case.ctx.benchmark("index"), rtol=0.0, atol=1e-9)
    assert found.value == pytest.approx(float(case.energy.bind(case.ctx)(case.ctx.benchmark("index"))), rel=1e-8)


def test_what_clarabel_says_of_itself_proves_nothing_and_is_called_so(monkeypatch):
    case = at_the_index(Volatility())
    monkeypatch.setattr(minimum, "by_cuts", lambda *_: None)
    found = minimize(case.energy, region_of(case.rules, case.ctx), case.ctx)
    assert not found.status and found.kkt is not None and found.kkt <= minimum.KKT
    assert "not proven to 1e-8" in str(found.status)
    assert str(found.status).endswith("by Clarabel's own account.")


def test_a_portfolio_of_cash_alone_says_that_it_holds_nothing():
    ctx = world()
    rules = Budget(at_least=0.0) & LongOnly()
    found = record(Convex().build(Variance(), rules, ctx, generator(0, "cash")), ctx.assets)
    assert not found.weights.any() and "\n  holds nothing\n" in str(found)
