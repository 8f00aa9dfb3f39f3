"""relax=: what was declared gives way first, as little as possible, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases_convex import market

import portfolio_ebm as pe
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.feasibility.feasible import possible
from portfolio_ebm.construction.relaxing import LetOut, build_relaxed, relaxed
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.errors import InfeasibleError, SpecError
from portfolio_ebm.types import generator

ONE = torch.tensor([1.0] + [0.0] * 9, dtype=torch.float64)
BASE = Budget() & LongOnly()


def context():
    return replace(market(10), held=ONE)


def build(rules, relax, constructor=None, ctx=None):
    return build_relaxed(
        constructor or Convex(), Variance(), rules, ctx or context(), generator(0, "x"), relax
    )  # fmt: skip


def test_by_hand_the_least_that_is_needed() -> None:
    # Ten names of at most 0.05 hold 0.5 of the 1: the cap has to rise to 0.1.
    cap = Box(upper=0.05)
    found = build(BASE & cap, [cap])
    assert found.relaxed == {repr(cap): pytest.approx(0.05, abs=1e-7)}
    assert "gave way by 0.05" in str(found.status) and found.status.ok
    assert found.residuals[repr(cap)] == pytest.approx(0.05, abs=1e-7)
    assert found.residuals["Budget()"] <= 1e-9 and found.residuals["LongOnly()"] <= 1e-9
    torch.testing.assert_close(found.weights, torch.full((10,), 0.1, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_first_named_gives_way_first() -> None:
    # All in A0 (even): the odd sector needs 0.7, turnover allows a trade of 0.5, hence 0.25 in odd; 0.45 short.
    floor, trade = Group("sector", "odd", lower=0.7), Turnover(at_most=0.5)
    rules = BASE & floor & trade
    first = build(rules, [floor, trade])
    assert first.relaxed == {repr(floor): pytest.approx(0.45, abs=1e-7)}
    assert first.residuals[repr(trade)] <= 1e-9
    second = build(rules, [trade, floor])
    assert second.relaxed == {repr(trade): pytest.approx(0.9, abs=1e-7)}
    assert second.residuals[repr(floor)] <= 1e-9
    # Where the first alone is not enough, the next gives way as well, and only by what is left.
    both = build(BASE & floor & trade & Group("sector", "odd", upper=0.6), [trade, Group("sector", "odd", upper=0.6)])
    assert both.relaxed == {
        repr(Group("sector", "odd", upper=0.6)): pytest.approx(0.1, abs=1e-7),
        repr(trade): pytest.approx(0.9, abs=1e-6),
    }


def test_rules_that_can_be_obeyed_are_left_alone() -> None:
    cap = Box(upper=0.4)
    found = build(BASE & cap, [cap])
    plain = Convex().build(Variance(), BASE & cap, context(), generator(0, "x"))
    assert found.relaxed == {} and torch.equal(found.weights, plain.weights) and found.status == plain.status


def test_without_relax_and_with_hard_conflicts_it_raises() -> None:
    cap = Box(upper=0.05)
    with pytest.raises(InfeasibleError):
        build(BASE & cap, [])
    with pytest.raises(InfeasibleError) as caught:
        build(BASE & cap & Turnover(0.5), [Turnover(0.5)])
    assert set(caught.value.conflict) == {"Budget()", repr(cap)}
    with pytest.raises(SpecError, match=r"Box\(upper=0.06\), which is not one of"):
        build(BASE & cap, [Box(upper=0.06)])
    with pytest.raises(SpecError, match="choice of names"):
        build(BASE & Cardinality(3), [Cardinality(3)])
    with pytest.raises(SpecError, match="which is not one of"):
        pe.Strategy(name="x", constraint=BASE, relax=(cap,))


def test_a_choice_of_names_stays_a_choice() -> None:
    # At most 3 names of at most 0.2 hold 0.6 of the 1.
    cap = Box(upper=0.2)
    rules = BASE & cap & Cardinality(3)
    found = build(rules, [cap], AnnealedLangevin(chains=8))
    assert found.relaxed == {repr(cap): pytest.approx(1 / 3 - 0.2, abs=1e-6)}
    assert int((found.weights.abs() > 1e-9).sum()) == 3
    assert found.residuals[repr(Cardinality(3))] == 0.0


RANDOM_RULES = [
    lambda r: Box(upper=float(r.uniform(0.02, 0.15))),
    lambda r: Group("sector", "odd", lower=float(r.uniform(0.3, 0.9))),
    lambda r: Group("sector", "even", lower=float(r.uniform(0.3, 0.9))),
    lambda r: Turnover(at_most=float(r.uniform(0.05, 1.0))),
    lambda r: Group("sector", "odd", upper=float(r.uniform(0.1, 0.5))),
]


@pytest.mark.parametrize("seed", range(25))
def test_what_gave_way_was_needed_and_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ctx = context()
    picked = [RANDOM_RULES[i](rng) for i in rng.permutation(len(RANDOM_RULES))[:3]]
    rules = BASE & picked[0] & picked[1] & picked[2]
    relax = [rule for rule in rules.rules() if rule in picked]
    eased, given = relaxed(rules, relax, ctx)
    assert possible(region_of(eased, ctx))
    # What did not give way still stands, by its own name.
    kept = [rule for rule in rules.rules() if rule not in given]
    assert all(rule in eased.rules() for rule in kept)
    # A little less for any one of them is impossible, given that all named after it stay as they are.
    for rule, by in given.items():
        later = relax[relax.index(rule) + 1 :]
        parts = [*BASE.rules(), LetOut(rule, by=0.999 * by)]
        parts += [LetOut(other, by=given[other] + 2e-8) if other in given else other for other in later]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole & part
        assert not possible(region_of(whole, ctx))
    if not given:
        assert possible(region_of(rules, ctx))


def test_let_out_has_faces_that_agree() -> None:
    ctx = context()
    for rule in (Box(upper=0.2), Group("sector", "odd", upper=0.3, lower=0.1), Turnover(0.3), Budget(), LongOnly()):
        loose = LetOut(rule, by=0.07)
        far = torch.randn(50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        near = loose.project(far, ctx).weights
        assert float(loose.residual(near, ctx).max()) <= 1e-9
        assert float(rule.residual(near, ctx).max()) <= 0.07 + 1e-9
        assert float(rule.residual(near, ctx).max()) >= 0.07 - 1e-9
        assert pe.Strategy.from_json(pe.Strategy(name="x", constraint=loose).model_dump_json()).constraint == loose
        assert "let out by 0.07" in loose.explain()


def test_the_doors_take_it_and_the_backtest_keeps_walking() -> None:
    rng = np.random.default_rng(0)
    index = pd.bdate_range("2019-01-01", periods=200)
    frame = 100 * pd.DataFrame(1 + 0.01 * rng.standard_normal((200, 5)), index=index, columns=list("ABCDE")).cumprod()
    cap = pe.Box(upper=0.15)
    strategy = pe.Strategy(
        name="mv", market=pe.SampleMoments(lookback=60), energy=pe.Variance(), constraint=BASE & cap,
        constructor=Convex(), relax=(cap,),
    )  # fmt: skip
    panel = pe.Panel.from_prices(frame)
    hard = pe.backtest(strategy.replace(relax=()), panel)
    assert not hard.decisions["ok"].any()
    soft = pe.backtest(strategy, panel)
    assert soft.decisions["ok"].all()
    assert soft.decisions["relaxed"].str.contains(r"Box\(upper=0.15\) by 0.05").all()
    live = pe.rebalance(strategy, panel.past(150), None)
    assert live.relaxed == {repr(cap): pytest.approx(0.05, abs=1e-7)}
    found = pe.optimize(pe.Variance(), BASE & cap, covariance=np.eye(4), relax=[cap], constructor=Convex())
    assert found.relaxed == {repr(cap): pytest.approx(0.10, abs=1e-7)}


def test_one_rule_may_be_given_without_a_list() -> None:
    cap = Box(upper=0.05)
    assert build(BASE & cap, cap).relaxed == build(BASE & cap, [cap]).relaxed
    with pytest.raises(SpecError, match=r"relax= names Box\(upper=0.06\), which is not one of the rules"):
        build(BASE & cap, Box(upper=0.06))
