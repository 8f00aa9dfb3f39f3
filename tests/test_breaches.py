"""Passive breaches: drift past a rule between two decisions is told by the next one, which obeys the rule again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.report.html import render

RULE = pe.Box(upper=0.5)
STRATEGY = pe.Strategy(
    name="halves", constraint=pe.Budget() & pe.LongOnly() & RULE, constructor=pe.EqualWeight(), rebalance=pe.Monthly()
)


def test_drift_is_reported_and_cured_at_the_next_trade() -> None:
    # A earns 1 % a day and B nothing: halves drift to a share g / (1 + g) of A, g its growth since the trade.
    dates = pd.bdate_range("2020-01-01", "2020-03-31")
    prices = pd.DataFrame({"A": 1.01 ** np.arange(len(dates)), "B": 1.0}, index=dates)
    panel = pe.Panel.from_prices(prices)
    found = pe.backtest(STRATEGY, panel, costs=None, delay=0)
    rows = found.decisions
    assert rows["ok"].all() and rows["breached"].iloc[0] == ""
    for k in range(1, len(rows)):
        when, before = rows.index[k], rows.index[k - 1]
        growth = prices.loc[when, "A"] / prices.loc[before, "A"]
        by = growth / (1.0 + growth) - 0.5
        assert by > 0.01 and rows["breached"].iloc[k] == f"{RULE!r} by {by:.4g}"
        assert found.weights.loc[when].max() == pytest.approx(0.5, abs=1e-12)
    # The live path says the same of the same holdings.
    held = pd.Series({"A": growth / (1.0 + growth), "B": 1.0 / (1.0 + growth)})
    live = pe.rebalance(STRATEGY, panel.past(str(when.date())), held)
    assert live.breaches == {repr(RULE): pytest.approx(by, abs=1e-12)}
    assert "had drifted past Box(upper=0.5)" in str(live)
    assert pe.rebalance(STRATEGY, panel.past(-1), None).breaches == {}


@pytest.mark.parametrize("delay", [0, 1])
def test_at_once_it_is_cured_on_the_day_it_breaks(delay: int) -> None:
    # From halves, k days of 1 % bring A to g / (1 + g), g = 1.01^k: past 0.5 + 0.02 after nine days, not after eight.
    assert 1.01**8 / (1 + 1.01**8) - 0.5 < 0.02 < 1.01**9 / (1 + 1.01**9) - 0.5
    dates = pd.bdate_range("2020-01-01", "2020-03-31")
    prices = pd.DataFrame({"A": 1.01 ** np.arange(len(dates)), "B": 1.0}, index=dates)
    panel = pe.Panel.from_prices(prices)
    at_once = STRATEGY.replace(breaches="at once", tolerance=0.02)
    found = pe.backtest(at_once, panel, costs=None, delay=delay)
    rows = found.decisions
    since, expected = delay, []
    for t in range(1, len(dates)):
        scheduled = dates[t].month != dates[t - 1].month
        if scheduled or t - since == 9:
            expected.append((dates[t], "schedule" if scheduled else "breach"))
            since = t + delay
    assert list(zip(rows.index[1:], rows["reason"][1:], strict=True)) == expected
    assert {"schedule", "breach"} == set(rows["reason"]) and rows["ok"].all()
    # Nothing is ever held past the tolerance but over the days that the trade takes.
    grown = 1.01 ** (8 + delay)
    assert found.weights["A"].max() == pytest.approx(grown / (1.0 + grown), abs=1e-12)
    late = pe.backtest(STRATEGY, panel, costs=None, delay=delay)
    assert (late.decisions["reason"] == "schedule").all() and late.weights["A"].max() > found.weights["A"].max() + 0.01


def test_the_live_path_cures_the_same_day_with_the_same_weights() -> None:
    rng = np.random.default_rng(2)
    dates = pd.bdate_range("2020-01-01", periods=60)
    prices = pd.DataFrame(np.exp(np.cumsum(0.02 * rng.normal(size=(60, 4)), axis=0)), index=dates, columns=list("ABCD"))
    panel = pe.Panel.from_prices(prices)
    strategy = pe.Strategy(
        name="mv", market=pe.SampleMoments(lookback=30), energy=pe.Variance(), constructor=pe.Convex(),
        constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.3) & pe.VolatilityCap(at_most=1.0),
        breaches="at once",
    )  # fmt: skip
    found = pe.backtest(strategy, panel, costs=None, delay=0, seed=1)
    cured = found.decisions.index[found.decisions["reason"] == "breach"]
    assert len(cured) >= 2
    for when in found.weights.index[1:]:
        t = panel.row(when)
        held = found.weights.shift(1).loc[when].to_numpy()
        held = held * (1 + panel.returns[t]) / (1 + held @ panel.returns[t])
        past = pe.Panel.from_prices(prices.loc[:when]).past(-1)
        due = pe.cure_due(strategy, past, held)
        beyond = held.max() - 0.3
        assert due == ({"Box(upper=0.3)": pytest.approx(beyond, abs=1e-12)} if beyond > 0.005 else {})
        if when in cured:
            live = pe.rebalance(strategy, past, held, seed=1)
            np.testing.assert_allclose(live.weights, found.weights.loc[when], atol=1e-12)
            assert live.breaches and due
    # What lies after a date changes nothing up to it.
    cut = cured[0]
    bad = prices.copy()
    bad.loc[bad.index > cut] = 10 * bad.loc[bad.index > cut].iloc[::-1].to_numpy()
    again = pe.backtest(strategy, pe.Panel.from_prices(bad), costs=None, delay=0, seed=1)
    pd.testing.assert_frame_equal(found.weights.loc[:cut], again.weights.loc[:cut], check_exact=True)
    same = [name for name in found.decisions if name != "executed"]
    pd.testing.assert_frame_equal(
        found.decisions.loc[:cut, same], again.decisions.loc[:cut, same], check_exact=True, check_dtype=False
    )
    assert not found.weights.equals(again.weights)


def test_the_report_shows_what_had_drifted_and_what_was_cured_at_once() -> None:
    dates = pd.bdate_range("2020-01-01", "2020-03-31")
    prices = pd.DataFrame({"A": 1.01 ** np.arange(len(dates)), "B": 1.0}, index=dates)
    panel = pe.Panel.from_prices(prices)
    at_once = STRATEGY.replace(breaches="at once", tolerance=0.02)
    found = pe.backtest(at_once, panel, costs=None, delay=0)
    page = render(at_once, panel, [found])
    cured = found.decisions["reason"] == "breach"
    told = found.decisions["breached"][found.decisions["breached"] != ""]
    assert cured.sum() >= 3 and len(told) > cured.sum()
    for text in told:
        assert text in page
    assert page.count(": cured at once") == cured.sum()
    calm = pe.backtest(STRATEGY.replace(constraint=pe.Budget() & pe.LongOnly()), panel, costs=None, delay=0)
    assert "cured at once" not in render(STRATEGY, panel, [calm])
