"""The figures against empyrical, by hand, and the interval of a difference of Sharpe ratios."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.backtesting import metrics
from portfolio_ebm.backtesting.result import Result

empyrical = pytest.importorskip("empyrical", reason="empyrical-reloaded is not installed")


def series(seed: int, days: int = 800) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.0004 + 0.011 * rng.standard_t(4, days) / np.sqrt(2.0)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_empyricals(seed: int) -> None:
    net, cash = series(seed), np.full(800, 0.00008)
    assert metrics.annual_return(net, 252) == pytest.approx(empyrical.annual_return(net), rel=1e-12)
    assert metrics.volatility(net, 252) == pytest.approx(empyrical.annual_volatility(net), rel=1e-12)
    assert metrics.sharpe(net, cash, 252) == pytest.approx(empyrical.sharpe_ratio(net, 0.00008), rel=1e-12)
    assert metrics.sortino(net, cash, 252) == pytest.approx(empyrical.sortino_ratio(net, 0.00008), rel=1e-12)
    assert metrics.drawdowns(net).min() == pytest.approx(empyrical.max_drawdown(net), rel=1e-12)
    assert metrics.skewness(net) == pytest.approx(pd.Series(net).skew(), rel=1e-10)


def test_drawdown_counts_a_loss_on_the_first_day() -> None:
    assert metrics.drawdowns(np.array([-0.1, 0.0])).tolist() == pytest.approx([-0.1, -0.1])


def test_expected_shortfall_by_hand() -> None:
    # 30 periods, worst 5 % = 1.5 of them: all of the loss of 6 % and half of the loss of 4 %, over 1.5.
    net = np.array([-0.06, -0.04] + [0.01] * 28)
    assert metrics.expected_shortfall(net) == pytest.approx((0.06 + 0.5 * 0.04) / 1.5)


def test_a_constant_series_has_no_ratio() -> None:
    flat = np.full(10, 0.001)
    assert np.isnan(metrics.sharpe(flat, np.zeros(10), 252))
    assert np.isnan(metrics.sortino(flat, np.zeros(10), 252))
    assert metrics.annual_return(np.array([-1.0, 0.5]), 252) == -1.0


def run(days: int = 400) -> Result:
    rng = np.random.default_rng(5)
    index = pd.bdate_range("2020-01-01", periods=days)
    frame = 100 * pd.DataFrame(1 + 0.01 * rng.standard_normal((days, 3)), index=index, columns=list("ABC")).cumprod()
    return pe.backtest(pe.Strategy(name="x", constructor=pe.EqualWeight()), pe.Panel.from_prices(frame))


def test_the_interval_of_a_strategy_against_itself_is_zero() -> None:
    result = run()
    assert metrics.sharpe_difference(result, result).tolist() == [0.0, 0.0, 0.0]


def test_the_interval_orders_holds_the_truth_and_repeats() -> None:
    result = run()
    better = replace(result, net=result.net + 0.002)
    low, middle, high = metrics.sharpe_difference(better, result, seed=3)
    truth = better.summary()["Sharpe ratio (annual)"] - result.summary()["Sharpe ratio (annual)"]
    assert 0.0 < low < truth < high
    assert low < middle < high
    assert metrics.sharpe_difference(better, result, seed=3).tolist() == [low, middle, high]


def test_a_short_record_has_no_interval() -> None:
    assert np.isnan(metrics.sharpe_difference(run(60), run(60))).all()


def test_the_summary_leaves_out_the_day_on_which_nothing_was_held_yet() -> None:
    result = run()
    net = result.net.to_numpy()[1:]
    assert result.summary()["annual return"] == pytest.approx(empyrical.annual_return(net))
    assert result.summary()["turnover a year"] == pytest.approx(result.turnover.sum() / (len(net) / 252))
