"""Passive breaches: drift past a rule between two decisions is told by the next one, which obeys the rule again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe

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
