"""Every pair of terms under every pair of rules against Clarabel: feasible to 1e-9, at the minimum, never silent."""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from cases_problems import FEASIBLE, RULE_PAIRS, RULES, TERM_PAIRS, judge, outcome, problem
from cases_terms import RATIOS, VIEWS, N, world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.constraints.exposures import DollarNeutral, Group
from portfolio_ebm.constraints.families import CapRule
from portfolio_ebm.constraints.risk import VolatilityCap
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.diversification import NegativeEntropy
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energies.views import Views
from portfolio_ebm.errors import InfeasibleError, SolverError

PAIRS = {"terms": st.sampled_from(TERM_PAIRS), "rules": st.sampled_from(RULE_PAIRS), "seed": st.integers(0, 10**6)}
CALM = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@given(**PAIRS)
@settings(max_examples=60, derandomize=True, **CALM)
def test_two_terms_under_two_rules(terms, rules, seed):
    found = outcome(problem(terms, rules, seed))
    assert not found.wrong, found
    assert len(found.message) > 20


@given(ratio=st.sampled_from(RATIOS), rules=PAIRS["rules"], seed=PAIRS["seed"])
@settings(max_examples=12, derandomize=True, **CALM)
def test_ratios_under_two_rules(ratio, rules, seed):
    # At the best ratio -c, and nowhere below, the least of G + c R is zero: Clarabel is asked for that least.
    case = problem((ratio,), rules, seed)
    top, bottom = ratio.numerator, ratio.denominator
    try:
        found = minimize_ratio(lone_ratio(ratio), region_of(case.rules, case.ctx), case.ctx)
    except InfeasibleError:
        assert judge(bottom, case.rules, case.ctx).status == "infeasible"
        return
    except SolverError as error:
        assert "ratio" in str(error)
        least = judge(bottom, case.rules, case.ctx)
        gain = judge(top, case.rules, case.ctx)
        unbounded = gain.status != "optimal"
        assert least.value < 1e-4 or gain.value > -1e-6 or unbounded, (error, least, gain)
        return
    assert float(case.rules.residual(found.weights, case.ctx)) <= FEASIBLE
    zero = judge(top - found.value * bottom, case.rules, case.ctx)
    size = float(bottom.bind(case.ctx)(found.weights))
    assert zero.value >= -1e-6 * abs(found.value) * size, (zero, found)
    assert found.bound <= found.value and bool(found.status.ok) == (
        found.value - found.bound <= 1e-7 * abs(found.value)
    )


# benchmarks/terms_problems.py deals ten thousand others, and says how each ended.
@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_problems(part: int) -> None:
    """A thousand of them, the same every time: hypothesis draws by what else is imported, too."""
    draw = np.random.default_rng(part)
    for _ in range(1_000):
        terms, rules = (pairs[draw.integers(len(pairs))] for pairs in (TERM_PAIRS, RULE_PAIRS))
        seed = int(draw.integers(10**6))
        found = outcome(problem(terms, rules, seed))
        assert not found.wrong, (terms, rules, seed, found)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_broken_by_as_much_on_the_torch_face_as_in_cvxpy(name):
    # In the rule's own units; a cap stands in cvxpy in units of `Cap.unit`.
    draw = np.random.default_rng(len(name))
    broken = 0
    for seed in range(40):
        ctx = world(seed, held=True)
        ctx = replace(ctx, groups={**ctx.groups, "land": tuple("east" if i % 3 else "west" for i in range(N))})
        if seed % 2:
            ctx = replace(ctx, tradeable=torch.tensor([i != seed % N for i in range(N)]))
        rule = RULES[name](draw, ctx, torch.tensor(draw.dirichlet(np.ones(N))), float(draw.choice([0.0, 0.02, 0.2])))
        w = torch.tensor(draw.normal(0.1, 0.3, N))
        variable = cp.Variable(N)
        variable.value = w.numpy()
        worst = max(float(np.max(one.violation())) for one in rule.to_cvxpy(variable, ctx))
        if isinstance(rule, CapRule):
            worst *= rule.cap(ctx).unit / rule.per
        found = float(rule.residual(w, ctx))
        assert found == pytest.approx(worst, rel=1e-9, abs=1e-12), (rule, found, worst)
        broken += found > 1e-6
    assert broken >= 10


def test_an_entropic_tail_beside_a_quadratic_under_a_risk_cap():
    # The cap sends the formula to cvxpy, where the tail's own variables meet a quadratic objective.
    ctx = world()
    energy = EVaR() + Variance()
    free = minimize(energy, region_of(Budget() & LongOnly(), ctx), ctx)
    loose = minimize(energy, region_of(Budget() & LongOnly() & VolatilityCap(1.0), ctx), ctx)
    assert loose.value == pytest.approx(free.value, rel=1e-7)
    assert loose.bound is not None and loose.bound <= loose.value


def test_energies_without_a_minimum_say_why():
    ctx = world()
    with pytest.raises(SolverError, match="falls without end"):
        minimize(Return() + TradingCost(1e-5), region_of(DollarNeutral(), ctx), ctx)
    # Clarabel calls weights of 1e32 a minimum of this one.
    runaway = problem((Return(forecast="alpha", over=None, shrink=0.4), Views(VIEWS)), ("Budget", "FactorExposure"), 0)
    with pytest.raises(SolverError, match="falls without end"):
        minimize(runaway.energy, region_of(runaway.rules, runaway.ctx), runaway.ctx)
    # A soft rule is asked for its nearest point on the way: it must not be asked at weights of nan, nor of 1e22.
    views = Views(VIEWS, tau=0.2, benchmark="index", risk_aversion=3.0)
    soft = problem((views, Relaxed(Group("sector", "even", upper=0.3))), ("Group", "ShortLimit"), 442)
    with pytest.raises(SolverError, match="falls without end"):
        minimize(soft.energy, region_of(soft.rules, soft.ctx), soft.ctx)
    far = problem((EVaR(), Relaxed(Group("sector", "even", upper=0.3))), ("Participation", "VolatilityCap"), 222741990)
    assert not outcome(far).wrong
    with pytest.raises(SolverError, match="infinite on every portfolio"):
        minimize(NegativeEntropy(), region_of(Budget(total=-1.0), ctx), ctx)
    # At the edge of its domain the entropy is finite: the one portfolio is found.
    only = minimize(NegativeEntropy() + Variance(), region_of(DollarNeutral(), ctx), ctx)
    assert abs(only.value) < 1e-12 and 0.0 <= float(only.weights.min()) <= float(only.weights.max()) < 1e-12


def test_a_fall_without_end_is_refused_though_clarabel_calls_a_point_its_minimum():
    # A direction of zero sum, and of zero weight in one sector, along which the return rises: there is no minimum.
    case = problem((Return(), Return(forecast="alpha")), ("Group", "DollarNeutral"), 205606)
    found = outcome(case)
    assert found.kind == "refused" and "falls without end" in found.message and not found.wrong
    # With an end, the same rules have a minimum, and a refusal would be wrong.
    assert outcome(replace(case, rules=case.rules & Box(lower=-2.0, upper=2.0))).kind == "proven"
