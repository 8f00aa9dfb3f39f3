"""The main job in the small: the shipped strategy on the bundled data, live beside backtest, and one factor more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def panel() -> pe.Panel:
    return pe.bundled()


@pytest.fixture(scope="module")
def strategy() -> pe.Strategy:
    return pe.Strategy.load(ROOT / "strategies" / "factor_ebm.py")


@pytest.fixture(scope="module")
def result(panel: pe.Panel, strategy: pe.Strategy) -> pe.Result:
    return pe.backtest(strategy, panel, start="2022-11-01")


def test_every_decision_is_certified_and_bounded(result: pe.Result) -> None:
    decisions = result.decisions
    assert decisions["ok"].all()
    assert (decisions["worst_residual"] <= 1e-9).all()
    assert (decisions["gap"] >= -1e-9).all()
    held = result.weights.iloc[-1]
    assert (held > 0).sum() <= 8
    # What the search kept is never worse than what it was offered.
    stages = decisions.filter(like="stage: ").fillna(np.inf)  # a stage that was not needed
    assert (decisions["energy"].to_numpy()[:, None] <= stages.to_numpy() + 1e-9).all()


def test_no_term_decides_nothing(panel: pe.Panel, strategy: pe.Strategy, result: pe.Result) -> None:
    held = result.weights.loc[:"2022-12-01"].iloc[-1]
    allocation = pe.rebalance(strategy, panel.past("2022-12-01"), held)
    width = {name: high - low for name, (low, high) in allocation.ranges.items()}
    assert len(width) == 4
    assert min(width.values()) > 0.0


def test_live_is_the_backtest_bit_for_bit(panel: pe.Panel, strategy: pe.Strategy, result: pe.Result) -> None:
    first, second = result.decisions.index[:2]
    live = pe.rebalance(strategy, panel.past(str(first.date())), None)
    again = pe.rebalance(strategy, panel.past(str(second.date())), result.weights.loc[second].to_numpy())
    # Traded at the next close: the weights after that close are the target, to the last bit.
    for date, allocation in ((first, live), (second, again)):
        executed = result.weights.index[result.weights.index.get_loc(date) + 1]
        np.testing.assert_array_equal(result.weights.loc[executed].to_numpy(), allocation.weights.to_numpy())


def test_adding_a_factor_trains_that_factor_only(
    panel: pe.Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    prices, factors = tables(panel)
    # Of few stocks, each of which is trained twice: on the factors, and on the wider set of them.
    past = remade(prices.iloc[:, :3], factors).past("2022-12-01")

    def stored() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*.safetensors")}

    pe.FactorEBM(factors=("market", "MTUM")).fit(past)
    before = stored()
    wider = pe.FactorEBM(factors=("market", "MTUM", "VLUE")).fit(past)
    after = stored()
    assert before
    assert all(after[name] == content for name, content in before.items())
    assert any("VLUE" in item for item in wider.refitted)
    assert not any("MTUM" in item for item in wider.refitted)
    # Loadings, residuals and the dependence stand on all factors, and are listed.
    assert any("loadings" in item for item in wider.refitted)
    assert any("residual" in item for item in wider.refitted)
    assert any("dependence" in item for item in wider.refitted)


def tables(panel: pe.Panel) -> tuple[pd.DataFrame, pd.DataFrame]:
    prices = pd.DataFrame(panel.prices, index=panel.dates, columns=list(panel.assets))
    return prices, pd.DataFrame(panel.factor_returns, index=panel.dates, columns=list(panel.factors))


def remade(prices: pd.DataFrame, factors: pd.DataFrame) -> pe.Panel:
    return pe.Panel.from_prices(prices, factors=factors, factors_are="returns", market="market")


def test_the_future_changes_no_decision_of_the_main_job(panel: pe.Panel, strategy: pe.Strategy) -> None:
    row = panel.row("2022-12-01")
    rng = np.random.default_rng(1)
    clean = remade(*tables(panel))
    prices, factors = tables(panel)
    prices.iloc[row + 1 :] = 10 * rng.permutation(prices.iloc[row + 1 :].to_numpy())
    factors.iloc[row + 1 :] = rng.permutation(factors.iloc[row + 1 :].to_numpy())
    found = [
        pe.rebalance(strategy, item.past(row), None).weights.to_numpy() for item in (clean, remade(prices, factors))
    ]
    np.testing.assert_array_equal(*found)
