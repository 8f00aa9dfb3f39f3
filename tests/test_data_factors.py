"""Factors built from the assets: truths by hand, laws of causality and of long-short sorts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.factors import BUILT, build
from portfolio_ebm.data.panel import Panel

T, N = 800, 9
DATES = pd.bdate_range("2015-01-01", periods=T).to_numpy().astype("datetime64[ns]")
OPEN = np.ones((T, N), dtype=bool)


def some_returns(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.01, (T, N))


def test_the_market_is_the_mean_of_what_was_tradeable_the_day_before() -> None:
    nan = np.nan
    returns = np.array([[nan, nan, nan], [0.1, 0.3, nan], [0.2, nan, nan], [0.0, 0.8, 0.4]])
    tradeable = np.array([[True, True, False], [True, True, False], [True, False, True], [True, True, True]])
    market = build(DATES[:4], returns, tradeable)[:, 0]
    # The last row: the second name was not to be had on the row before, its return is over a gap.
    np.testing.assert_allclose(market, [nan, 0.2, 0.2, 0.2], atol=1e-15)


def test_momentum_by_hand() -> None:
    drift = np.linspace(-0.004, 0.004, N)
    returns = np.tile(drift, (T, 1))
    momentum = build(DATES, returns, OPEN)[:, BUILT.index("momentum")]
    known = np.isfinite(momentum)
    assert known.any() and not known[:252].any()
    np.testing.assert_allclose(momentum[known], drift[-3:].mean() - drift[:3].mean(), atol=1e-15)


def test_momentum_skips_the_last_month() -> None:
    returns = some_returns() * 0.01
    returns[:, 0] += 0.001  # the steady winner ...
    start = int(
        np.flatnonzero(pd.DatetimeIndex(DATES).month != pd.DatetimeIndex(DATES - np.timedelta64(7, "D")).month)[-1]
    )
    first = int(np.flatnonzero(pd.DatetimeIndex(DATES).to_period("M") == pd.Timestamp(DATES[start]).to_period("M"))[0])
    crashed = returns.copy()
    crashed[first - 15 : first, 0] = -0.05  # ... falls within the last month before the sort, and stays in the long leg
    out = [build(DATES, item, OPEN)[first, 1] for item in (returns, crashed)]
    assert out[0] == out[1]


def test_low_volatility_is_long_the_calm() -> None:
    returns = some_returns() * np.linspace(0.2, 2.0, N)
    factor = build(DATES, returns, OPEN)[:, BUILT.index("low_volatility")]
    known = np.isfinite(factor)
    np.testing.assert_allclose(factor[known], (returns[:, :3].mean(1) - returns[:, -3:].mean(1))[known], atol=1e-15)


def test_size_sorts_by_traded_value_where_there_is_one() -> None:
    returns = some_returns()
    value = np.tile(np.linspace(9.0, 1.0, N), (T, 1))  # the last names are small
    factor = build(DATES, returns, OPEN, value)[:, BUILT.index("size_proxy")]
    known = np.isfinite(factor)
    assert known.sum() > 400
    np.testing.assert_allclose(factor[known], (returns[:, -3:].mean(1) - returns[:, :3].mean(1))[known], atol=1e-15)
    grown = build(DATES, np.tile(np.linspace(-0.004, 0.004, N), (T, 1)), OPEN)[:, BUILT.index("size_proxy")]
    np.testing.assert_allclose(grown[np.isfinite(grown)], -0.006, atol=1e-15)  # long what has shrunk


@pytest.mark.parametrize("column", range(1, len(BUILT)))
def test_long_short_sorts_do_not_see_what_all_names_have_in_common(column: int) -> None:
    returns = some_returns()
    common = np.random.default_rng(1).normal(0.0, 0.002, (T, 1))
    common[: T - 15] = 0.0  # added after the last sort, so that it cannot change an order
    a, b = build(DATES, returns, OPEN)[:, column], build(DATES, returns + common, OPEN)[:, column]
    np.testing.assert_allclose(a, b, atol=1e-15)
    assert np.isfinite(a[-15:]).all()


def test_a_sort_uses_data_before_the_day_only() -> None:
    returns = some_returns()
    rows = pd.DatetimeIndex(DATES)
    first = int(np.flatnonzero(rows.to_period("M") == pd.Period("2017-06"))[0])
    changed = returns.copy()
    changed[first:] = np.random.default_rng(9).normal(0.0, 0.05, changed[first:].shape)
    legs = []
    for item in (returns, changed):
        basis = np.eye(N) * 1e-3
        probe = []
        for unit in basis:  # the weights of the day are read off by adding to one name's return at a time
            shifted = item.copy()
            shifted[first] += unit
            probe.append(build(DATES, shifted, OPEN)[first, 1:] - build(DATES, item, OPEN)[first, 1:])
        legs.append(np.array(probe) / 1e-3)
    np.testing.assert_allclose(legs[0], legs[1], atol=1e-9)
    np.testing.assert_allclose(np.abs(legs[0]).sum(axis=0), 2.0, atol=1e-9)


def test_names_enter_a_sort_when_they_have_the_history() -> None:
    returns = some_returns()
    returns[:600, 3:] = np.nan
    tradeable = np.isfinite(returns)
    out = build(DATES, returns, tradeable)
    assert np.isfinite(out[560, 1:]).all()  # three names are enough for thirds of one
    two = build(DATES, np.where(np.arange(N) < 2, returns, np.nan), tradeable & (np.arange(N) < 2))
    assert np.isnan(two[:, 1:]).all() and np.isfinite(two[:, 0]).all()


def test_a_total_loss_does_not_break_the_sorts() -> None:
    returns = some_returns()
    returns[400, 0] = -1.0
    returns[401:, 0] = np.nan
    out = build(DATES, returns, np.isfinite(returns))
    assert np.isfinite(out[560:]).all()


def test_built_factors_stand_in_a_panel_that_says_so() -> None:
    panel = Panel.from_returns(pd.DataFrame(some_returns(), index=pd.DatetimeIndex(DATES), columns=list("ABCDEFGHI")))
    assert panel.factors == BUILT and panel.market == "market" and panel.built_factors
    assert "past growth in price" in panel.describe()
    monthly = pd.DataFrame(
        some_returns()[:60], index=pd.period_range("2010-01", periods=60, freq="M"), columns=list("ABCDEFGHI")
    )
    known = np.isfinite(Panel.from_returns(monthly).factor_returns).argmax(axis=0)
    assert known.tolist() == [0, 12, 12, 24]
