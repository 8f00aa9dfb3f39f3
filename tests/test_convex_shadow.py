"""Shadow prices: what loosening a rule is worth equals the change of re-solved problems, in the right units."""

from __future__ import annotations

import gc
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases_caps import Capped
from cases_convex import market
from test_convex import Concentration

import portfolio_ebm as pe
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.leverage import ActiveShare, Leverage
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.base import ShadowPrice
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.diversification import NegativeEntropy
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.types import bps, generator

N = 10
MIXED = Return() + 2.5 * Variance()
ENERGIES: list[Energy] = [
    MIXED,
    MIXED + TradingCost(20 * bps),
    Return() + 0.5 * CVaR(level=0.9, centred=True),
    2.0 * Return() + FactorRisk(5.0) + TradingCost(5 * bps),
    MIXED + 0.02 * Concentration(),
]
# A rule with its bound and side, in a formula of rules that make it bind.
LOOSER: list[tuple[str, str, float, Constraint, Constraint]] = [
    ("Box", "upper", 0.16, Box(lower=-0.05, upper=0.16), Budget() & Group("sector", "odd", upper=0.45)),
    ("Box", "lower", -0.03, Box(lower=-0.03, upper=0.3), Budget()),
    ("Group", "upper", 0.31, Group("sector", "odd", upper=0.31), Budget() & LongOnly() & Box(upper=0.4)),
    ("Group", "lower", 0.77, Group("sector", "odd", lower=0.77), Budget() & LongOnly()),
    ("Budget", "equal", 0.93, Budget(total=0.93), LongOnly() & Box(upper=0.3)),
    ("Turnover", "upper", 0.23, Turnover(at_most=0.23), Budget() & LongOnly()),
]
FIELD = {"Box": {"upper": "upper", "lower": "lower"}, "Group": {"upper": "upper", "lower": "lower"},
         "Budget": {"equal": "total"}, "Turnover": {"upper": "at_most"}}  # fmt: skip


def built(energy: Energy, rules: Constraint, seed: int = 3):
    return Convex().build(energy, rules, market(N, size=160, seed=seed), generator(0, "x"))


def test_prices_are_worked_out_when_they_are_first_read() -> None:
    """And what they were worked out from is let go then; copies in other processes bring them along."""
    rules = Budget() & LongOnly() & Box(upper=0.4)
    ctx = market(N, size=160, seed=3)
    kept = weakref.ref(ctx)
    found = Convex().build(MIXED, rules, ctx, generator(0, "x"))
    del ctx
    assert found.ranges and found.marginal is not None and found.marginal()
    gc.collect()
    assert kept() is not None, "nobody has asked for a price yet"
    assert found.shadow_prices == pickle.loads(pickle.dumps(built(MIXED, rules))).shadow_prices != ()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("case", LOOSER, ids=lambda case: f"{case[0]} {case[1]}")
@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
def test_a_shadow_price_is_the_slope_of_the_optimum(energy: Energy, case) -> None:
    kind, side, at, rule, others = case
    priced = built(energy, rule & others).shadow_prices
    mine = [price for price in priced if price.rule == repr(rule) and price.bound == side]
    step = 2e-5
    values = [built(energy, rule.replace(**{FIELD[kind][side]: at + move}) & others).energy for move in (-step, step)]
    slope = (values[1] - values[0]) / (2 * step)
    saved = slope if side == "lower" else -slope
    found = mine[0].value if mine else 0.0
    # The optimum is piecewise smooth: on a kink within one step the slope lies between two prices.
    assert found == pytest.approx(saved, abs=2e-4 * max(abs(saved), 1e-3))
    if mine:
        assert mine[0].at == pytest.approx(at)


def test_the_cases_do_bind() -> None:
    for kind, side, _, rule, others in LOOSER:
        bound = [
            any(
                price.rule == repr(rule) and price.bound == side for price in built(energy, rule & others).shadow_prices
            )
            for energy in ENERGIES
        ]
        assert sum(bound) >= 3, (kind, side, bound)


@pytest.mark.parametrize(
    ("what", "at", "others"),
    [
        ("leverage", 1.31, Budget() & Box(lower=-0.3, upper=0.4)),
        ("leverage", 0.83, Budget(at_least=0.0) & LongOnly()),  # folds to a row
        ("shorts", 0.21, Budget() & Box(lower=-0.3, upper=0.4)),
        ("active", 0.57, Budget() & LongOnly() & Turnover(at_most=0.9)),
        ("volatility", 0.0405, Budget() & LongOnly()),
        ("tail", 0.0805, Budget() & LongOnly()),
    ],
)
def test_the_price_of_a_cap_is_the_slope_of_the_optimum(what: str, at: float, others: Constraint) -> None:
    energy = Return() + 0.2 * Variance()
    rule = Capped(what, at)
    (price,) = [item for item in built(energy, rule & others).shadow_prices if item.rule == repr(rule)]
    step = 1e-4 * at
    low, high = (built(energy, rule.replace(at_most=at + move) & others).energy for move in (-step, step))
    assert price.bound == "upper" and price.at == at
    assert price.value == pytest.approx(-(high - low) / (2 * step), rel=2e-3)


def test_two_names_by_hand() -> None:
    # min a^2 + 4 (1 - a)^2 with a <= 0.5: at a = 0.5 the slope in a is 2a - 8 (1 - a) = -3.
    found = pe.optimize(
        Variance(), Budget() & LongOnly() & Box(upper=0.9, caps={"A": 0.5}),
        covariance=np.diag([1.0, 4.0]), assets=["A", "B"], constructor=Convex(),
    )  # fmt: skip
    frame = found.shadow_prices
    cap = frame[frame["bound"] == "upper"].iloc[0]
    assert cap["value"] == pytest.approx(3.0, abs=1e-12) and cap["at"] == 0.5 and cap["names"] == ("A",)
    assert np.isnan(cap["worth"])
    assert "lower the energy by 0.03 per holding period" in cap["words"]
    # Budget: b = total - a with a at its cap; dE/dtotal = 8 b = 4, so raising it by one saves -4.
    total = frame[frame["bound"] == "equal"].iloc[0]
    assert total["rule"] == "Budget()" and total["value"] == pytest.approx(-4.0, abs=1e-12)
    assert "raise it by" in total["words"]


def test_worth_is_in_expected_return_whatever_the_scale_of_the_formula() -> None:
    rules = Budget() & LongOnly() & Group("sector", "odd", upper=0.3)
    once, thrice = (built(factor * MIXED, rules).shadow_prices for factor in (1.0, 3.0))
    assert [price.rule for price in once] == [price.rule for price in thrice]
    for one, three in zip(once, thrice, strict=True):
        assert three.value == pytest.approx(3.0 * one.value, rel=1e-8)
        assert three.worth == pytest.approx(one.worth, rel=1e-8)


def test_tied_bounds_belong_to_both_rules() -> None:
    # LongOnly and a box from zero hold the same names at zero: neither alone gives way.
    priced = built(MIXED, Budget() & LongOnly() & Box(upper=0.4)).shadow_prices
    at_zero = [price for price in priced if price.bound == "lower"]
    assert at_zero and at_zero[0].rule == "LongOnly() and Box(upper=0.4)"


def test_what_does_not_bind_has_no_price_and_frozen_names_none() -> None:
    ctx = market(N, size=160, seed=3)
    rules = Budget() & LongOnly() & Group("sector", "odd", upper=0.99) & Turnover(at_most=1.99)
    found = Convex().build(MIXED, rules, ctx, generator(0, "x"))
    assert {price.rule for price in found.shadow_prices} == {"Budget()", "LongOnly()"}
    frozen = replace(ctx, tradeable=torch.tensor([False] * 3 + [True] * (N - 3)))
    found = Convex().build(MIXED, rules, frozen, generator(0, "x"))
    assert not {"A0", "A1", "A2"} & {name for price in found.shadow_prices for name in price.names}


def test_the_sentence() -> None:
    price = ShadowPrice((repr(Group("sector", "Energy", upper=0.3)),), "upper", 0.3, 0.016, 0.008)
    assert price.sentence("a month") == "One more percent of Energy (at most 0.3 now) would be worth 0.8 bps a month."
    floor = ShadowPrice(("Box(lower=0.02)",), "lower", 0.02, 0.5, 0.25, ("A", "B"))
    assert floor.sentence() == (
        "One percent less in each of A and B, where Box asks for at least 0.02, would be worth 25 bps per holding "
        "period."
    )
    assert "One percent less in A, where Box" in replace(floor, names=("A",)).sentence()
    assert "in each of A, B, C, D, E and F, where" in replace(floor, names=tuple("ABCDEF")).sentence()
    assert "in each of A, B, C, D, E and 2 others, where" in replace(floor, names=tuple("ABCDEFG")).sentence()
    cap = replace(floor, bound="upper", rules=("Box(upper=0.15)", "Box(upper=0.15, lower=-1.0)"), at=0.15)
    assert "One more percent in each of A and B, where Box and Box allow at most 0.15, would" in cap.sentence()
    short = replace(floor, rules=("LongOnly()",), at=0.0)
    assert short.sentence("a month") == (
        "Going short by one percent in each of A and B, which LongOnly forbids, would be worth 25 bps a month."
    )
    assert "which LongOnly and Box forbid, would" in replace(short, rules=("LongOnly()", "Box(upper=0.4)")).sentence()
    total = ShadowPrice(("Budget()",), "equal", 1.0, -0.001, -0.001)
    assert total.sentence() == "One more percent of Budget (1 now) would cost 0.1 bps per holding period."
    # A percent more of a volatility near one would double it: risks are loosened by a basis point.
    risk = ShadowPrice(("VolatilityCap(at_most=0.009)",), "upper", 0.009, 0.3, 0.3, step=1e-4)
    assert risk.sentence() == (
        "One more basis point of VolatilityCap (at most 0.009 now) would be worth 0.3 bps per holding period."
    )
    better = replace(price, worth=None, ratio=True)
    assert better.sentence() == "One more percent of Energy (at most 0.3 now) would raise the ratio by 0.00016."


@pytest.mark.parametrize("label", ["Oil and Gas", "Macy's", "Oil (and Gas", 'say "no"'])
def test_a_label_is_said_as_it_is_written(label: str) -> None:
    price = ShadowPrice((repr(Group("g", label, upper=0.3)),), "upper", 0.3, 0.016, 0.008)
    assert price.sentence().startswith(f"One more percent of {label} (at most 0.3 now) would")
    both = replace(price, rules=(*price.rules, "Box(upper=0.3)"), names=("A",))
    assert "where Group and Box allow at most 0.3, would" in both.sentence()
    assert both.rule == f"{price.rule} and Box(upper=0.3)"


def test_what_can_be_let_out_comes_before_what_kind_of_portfolio_it_is() -> None:
    """No short positions in any of the names is dearer than each cap, and nobody lets that out by a percent."""
    priced = built(MIXED, Budget() & LongOnly() & Box(upper=0.4)).shadow_prices
    assert [(price.rule, price.bound, price.mandate) for price in priced] == [
        ("Box(upper=0.4)", "upper", False),
        ("LongOnly() and Box(upper=0.4)", "lower", True),
        ("Budget()", "equal", True),
    ]
    assert priced[1].value > priced[0].value, "the order is not that of the prices"
    assert priced[1].sentence().startswith("Going short by one percent in each of A0, A1, A7, A8 and A9, which")


def test_a_decision_says_it_per_month() -> None:
    rng = np.random.default_rng(0)
    index = pd.bdate_range("2019-01-01", periods=300)
    returns = 0.01 * rng.standard_normal((300, 5)) + 0.0003 * np.arange(5)
    panel = pe.Panel.from_prices(100 * pd.DataFrame(1 + returns, index=index, columns=list("ABCDE")).cumprod())
    strategy = pe.Strategy(
        name="mv", market=pe.SampleMoments(lookback=200), energy=Return() + Variance(),
        constraint=Budget() & Box(upper=0.3), constructor=Convex(),
    )  # fmt: skip
    found = pe.rebalance(strategy, panel.past(280), None)
    words = found.shadow_prices["words"].tolist()
    assert words and all(text.endswith("a month.") for text in words)
    assert words[0] in str(found)
    # The estimates are for one month, so the price of the cap is the month's: check it against the re-solved month.
    cap = found.shadow_prices.set_index("bound").loc["upper"]
    other = pe.rebalance(strategy.replace(constraint=Budget() & Box(upper=0.3001)), panel.past(280), None)
    assert cap["value"] == pytest.approx((found.energy - other.energy) / 1e-4, rel=1e-3)


RATIOS: list[Energy] = [
    MaxRatio(),
    2.0 * MaxRatio(Return() + TradingCost(2 * bps), CVaR(level=0.9, centred=True)),
    MaximumDiversification(),
]


@pytest.mark.parametrize("case", LOOSER, ids=lambda case: f"{case[0]} {case[1]}")
@pytest.mark.parametrize("energy", RATIOS, ids=repr)
def test_the_price_of_a_rule_under_a_ratio_is_the_slope_of_the_best_ratio(energy: Energy, case) -> None:
    kind, side, at, rule, others = case
    found = built(energy, rule & others)
    mine = [price for price in found.shadow_prices if price.rule == repr(rule) and price.bound == side]
    step = 2e-5
    values = [built(energy, rule.replace(**{FIELD[kind][side]: at + move}) & others).energy for move in (-step, step)]
    slope = (values[1] - values[0]) / (2 * step)
    saved = slope if side == "lower" else -slope
    assert (mine[0].value if mine else 0.0) == pytest.approx(saved, abs=2e-4 * max(abs(saved), 0.1))
    assert found.kkt <= 1e-8


def test_the_price_of_a_volatility_cap_under_a_ratio() -> None:
    # Of what costs to trade less is bought than the best ratio without costs would have: the cap binds.
    energy, rule, others = (
        MaxRatio(Return() + TradingCost(30 * bps), CVaR(level=0.9)),
        Capped("volatility", 0.0405),
        Budget() & LongOnly(),
    )
    (price,) = [item for item in built(energy, rule & others).shadow_prices if item.rule == repr(rule)]
    step = 1e-4 * 0.0405
    low, high = (built(energy, rule.replace(at_most=0.0405 + move) & others).energy for move in (-step, step))
    assert price.value == pytest.approx(-(high - low) / (2 * step), rel=2e-3)


def test_a_ratio_of_two_names_by_hand() -> None:
    # m = (2, 1) %, S = 1: the ratio of (a, 1 - a) with a <= 0.5 falls short of a = 2/3; its slope at a = 0.5 is
    # (m_a - m_b) / s - m'w (w_a - w_b) / s^3 = 0.01 / s with s = sqrt(1/2), and E = -ratio.
    found = pe.optimize(
        MaxRatio(), Budget() & LongOnly() & Box(upper=0.9, caps={"A": 0.5}), mean=[0.02, 0.01],
        covariance=np.eye(2), assets=["A", "B"], constructor=Convex(),
    )  # fmt: skip
    cap = found.shadow_prices.set_index("bound").loc["upper"]
    assert cap["value"] == pytest.approx(0.01 * 2**0.5, rel=1e-8) and cap["names"] == ("A",)
    assert cap["words"] == "One more percent in A, where Box allows at most 0.5, would raise the ratio by 0.000141."


@pytest.mark.parametrize("rules", [Budget() & LongOnly(), Budget() & LongOnly() & Turnover(at_most=0.9)], ids=repr)
def test_active_share_is_priced_in_its_own_unit(rules: Constraint) -> None:
    # Half of sum |w - b|: one more percent of it is two of the sum.
    ctx = replace(market(N, size=160, seed=3), benchmarks={"index": torch.full((N,), 1.0 / N, dtype=torch.float64)})

    def at(limit: float):
        return Convex().build(MIXED, ActiveShare(limit, benchmark="index") & rules, ctx, generator(0, "x"))

    (price,) = [item for item in at(0.3).shadow_prices if "ActiveShare" in item.rule]
    assert price.at == pytest.approx(0.3)
    assert price.value == pytest.approx((at(0.2999).energy - at(0.3001).energy) / 2e-4, rel=2e-3)


@pytest.mark.parametrize("others", [Budget(total=2.0, at_least=0.0), Turnover(at_most=1.2)], ids=repr)
def test_leverage_has_its_price_where_the_formula_keeps_weights_positive(others: Constraint) -> None:
    energy = 0.01 * NegativeEntropy() + Variance()
    (price,) = built(energy, Leverage(0.8) & others).shadow_prices
    low, high = (built(energy, Leverage(at) & others).energy for at in (0.7999, 0.8001))
    assert price.rule == "Leverage(at_most=0.8)" and price.at == pytest.approx(0.8)
    assert price.value == pytest.approx((low - high) / 2e-4, rel=2e-3)


def test_weights_that_the_formula_keeps_from_falling_are_held_by_no_rule() -> None:
    # So little entropy leaves weights of zero to rounding; neither rule has any part in that.
    rules = Budget() & Box(lower=-0.2, upper=0.9) & Leverage(at_most=1.5)
    found = built(1e-6 * NegativeEntropy() + Variance(), rules)
    assert float(found.weights.min()) < 1e-9
    assert [price.rule for price in found.shadow_prices] == ["Budget()"]
