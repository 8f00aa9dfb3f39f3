"""Names that leave the universe are sold, names that join may be bought, and neither before it is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from portfolio_ebm import (
    AnnealedLangevin,
    Box,
    Budget,
    Cardinality,
    Convex,
    EqualWeight,
    LongOnly,
    Panel,
    SampleMoments,
    Strategy,
    TradingCost,
    Turnover,
    Variance,
    backtest,
    rebalance,
)
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.context import Context

NAMES = ["A", "B", "C", "D", "E"]
DAYS = pd.bdate_range("2020-01-01", periods=160)
LEFT = DAYS[100]


def prices(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    steps = 0.01 * rng.standard_normal((len(DAYS), len(NAMES)))
    return pd.DataFrame(100 * np.exp(np.cumsum(steps, axis=0)), index=DAYS, columns=NAMES)


def spells(end: pd.Timestamp | None = LEFT) -> pd.DataFrame:
    rows = [(name, DAYS[0], pd.NaT) for name in NAMES[:3]] + [("D", DAYS[0], end), ("E", DAYS[120], pd.NaT)]
    return pd.DataFrame(rows, columns=["ticker", "start", "end"])


def strategy(constructor: object = None, **changes: object) -> Strategy:
    rules = Budget() & LongOnly() & Box(upper=0.6) & Turnover(at_most=0.05)
    given: dict[str, object] = {
        "name": "universe", "market": SampleMoments(lookback=60), "energy": Variance() + TradingCost(0.0005),
        "constraint": rules, "constructor": constructor or Convex(),
    }  # fmt: skip
    return Strategy(**(given | changes))


@pytest.mark.parametrize("rules", [(), (Cardinality(at_most=3, min_weight=0.01),)])
def test_a_name_that_left_is_sold_whatever_the_turnover_cap_says(rules: tuple[Cardinality, ...]) -> None:
    panel = Panel.from_prices(prices(), membership=spells())
    past = panel.past(DAYS[110])
    held = pd.Series({"A": 0.25, "B": 0.25, "D": 0.5})
    spec = strategy(AnnealedLangevin(chains=8) if rules else Convex())
    for rule in rules:
        spec = spec.replace(constraint=spec.constraint & rule)
    found = rebalance(spec, past, held)
    assert found.status
    assert found.weights["D"] == 0.0
    assert found.weights["E"] == 0.0  # not a member yet
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-9)
    traded = (found.weights - held.reindex(NAMES, fill_value=0.0)).abs().sum()
    assert traded <= 0.05 + 2 * 0.5 + 1e-9
    assert max(found.residuals.values()) <= 1e-9


def test_the_cap_counts_what_is_chosen_and_not_what_is_forced() -> None:
    held = torch.tensor([0.3, 0.2, 0.0, 0.5, 0.0], dtype=torch.float64)
    leaving = torch.tensor([False, False, False, True, False])
    ctx = Context(tuple(NAMES), None, held, ~leaving, leaving=leaving)
    # Half has to be sold and bought elsewhere: a turnover of 1 is forced, and 0.1 is left to choose with.
    region = region_of(Turnover(at_most=0.1), ctx)
    assert region.turnover == pytest.approx(1.1)
    assert region.lower[3] == region.upper[3] == 0.0
    nearest = project_region(held, region_of(Budget() & LongOnly() & Turnover(at_most=0.1), ctx)).weights
    assert nearest[3] == 0.0
    rule = Turnover(at_most=0.1)
    assert float(rule.residual(nearest, ctx)) <= 1e-12
    far = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert float(rule.residual(far, ctx)) == pytest.approx(2.0 - 1.1)


def test_a_name_that_left_without_a_price_stays_as_it_is_held() -> None:
    table = prices()
    table.loc[DAYS[105] : DAYS[112], "D"] = np.nan
    past = Panel.from_prices(table, membership=spells()).past(DAYS[110])
    assert not past.leaving[3]
    held = pd.Series({"A": 0.25, "B": 0.25, "D": 0.5})
    assert rebalance(strategy(), past, held).weights["D"] == pytest.approx(0.5, abs=1e-12)
    assert rebalance(strategy(EqualWeight()), past, held).weights["D"] == 0.5


def test_equal_weight_is_over_the_members() -> None:
    past = Panel.from_prices(prices(), membership=spells()).past(DAYS[110])
    weights = rebalance(strategy(EqualWeight(), constraint=Budget()), past, pd.Series({"D": 1.0})).weights
    assert weights.tolist() == [1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]


def test_the_backtest_sells_at_the_next_decision_and_pays_for_it() -> None:
    panel = Panel.from_prices(prices(), membership=spells())
    result = backtest(strategy(constraint=Budget() & LongOnly() & Box(upper=0.6)), panel, start="2020-04-01")
    assert result.decisions["ok"].all()
    weights = result.weights
    after = weights.index > LEFT + pd.offsets.MonthBegin(1) + pd.Timedelta(days=5)
    assert (weights.loc[after, "D"] == 0.0).all()
    assert (weights.loc[: LEFT - pd.Timedelta(days=1), "D"] > 0).any()
    assert (weights.loc[: DAYS[119], "E"] == 0.0).all()
    sold = result.decisions.index[result.decisions.index > LEFT][0]
    assert result.costs[result.decisions.loc[sold, "executed"]] > 0


def test_an_end_that_is_not_known_yet_changes_nothing_before_it() -> None:
    panels = [Panel.from_prices(prices(), membership=spells(end)) for end in (LEFT, None)]
    held = pd.Series({"A": 0.5, "D": 0.5})
    one, two = (rebalance(strategy(), panel.past(LEFT), held).weights for panel in panels)
    assert one.tolist() == two.tolist()
    one, two = (rebalance(strategy(), panel.past(DAYS[101]), held).weights for panel in panels)
    assert one.tolist() != two.tolist()
