"""Dividends and splits: total returns by hand, against an account kept share by share, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.errors import DataError

DAYS = pd.bdate_range("2020-01-01", periods=5)  # Wednesday to Tuesday
NAN = np.nan


def series(values: list[float], name: str = "A") -> pd.DataFrame:
    return pd.DataFrame({name: values}, index=DAYS[: len(values)])


def acted(prices: list[float], dividends: list[float] | None = None, splits: list[float] | None = None) -> Any:
    keep = {"B": 1.0}  # a second name, so that no row is without a price
    frames: dict[str, Any] = {}
    if dividends is not None:
        frames["dividends"] = series(dividends)
    if splits is not None:
        frames["splits"] = series(splits)
    return Panel.from_prices(series(prices).assign(**keep), **frames)


def test_a_dividend_is_part_of_the_return() -> None:
    panel = acted([100.0, 99.0, 99.0], [NAN, 2.0, NAN])
    np.testing.assert_allclose(panel.returns[:, 0], [NAN, 0.01, 0.0], atol=1e-15)
    assert panel.prices is not None and panel.prices[1, 0] == 99.0
    assert "1 dividend(s) and 0 split(s)" in panel.describe()


def test_a_split_does_not_make_or_lose_money() -> None:
    panel = acted([100.0, 55.0, 55.0], splits=[NAN, 2.0, NAN])
    np.testing.assert_allclose(panel.returns[:, 0], [NAN, 0.10, 0.0], atol=1e-15)
    reverse = acted([1.0, 9.0, 9.0], splits=[NAN, 0.1, NAN])
    np.testing.assert_allclose(reverse.returns[:, 0], [NAN, -0.1, 0.0], atol=1e-15)


def test_a_dividend_on_the_day_of_a_split_is_per_new_share() -> None:
    panel = acted([100.0, 55.0], [NAN, 1.0], [NAN, 2.0])
    np.testing.assert_allclose(panel.returns[1, 0], (55.0 + 1.0) * 2.0 / 100.0 - 1.0, atol=1e-15)


def test_actions_over_a_gap_by_hand() -> None:
    # One share at 100. Day 1: 4 in cash. Day 2: two shares, 1 on each: 2 in cash. Day 3: two shares at 50.
    panel = acted([100.0, NAN, NAN, 50.0], [NAN, 4.0, 1.0, NAN], [NAN, NAN, 2.0, NAN])
    np.testing.assert_allclose(panel.returns[:, 0], [NAN, NAN, NAN, (100.0 + 4.0 + 2.0) / 100.0 - 1.0], atol=1e-15)
    # The same in the other order: two shares first, then 4 on each of them.
    other = acted([100.0, NAN, NAN, 50.0], [NAN, NAN, 4.0, NAN], [NAN, 2.0, NAN, NAN])
    np.testing.assert_allclose(other.returns[3, 0], (100.0 + 8.0) / 100.0 - 1.0, atol=1e-15)


def test_an_ex_date_that_is_no_date_of_the_panel_goes_to_the_next() -> None:
    saturday = pd.DataFrame({"A": [3.0]}, index=pd.DatetimeIndex(["2020-01-04"]))
    panel = Panel.from_prices(series([100.0, 100.0, 100.0, 100.0]), dividends=saturday)
    np.testing.assert_allclose(panel.returns[:, 0], [NAN, 0.0, 0.0, 0.03], atol=1e-15)


def test_what_comes_before_the_first_price_is_nobody_s() -> None:
    panel = acted([NAN, 50.0, 50.0], [7.0, 7.0, NAN], [5.0, 2.0, NAN])
    np.testing.assert_array_equal(panel.returns[:, 0], [NAN, NAN, 0.0])


def test_what_comes_after_the_last_price_is_told_and_not_booked() -> None:
    panel = acted([100.0, 100.0, NAN, NAN], [NAN, NAN, 5.0, NAN])
    assert np.isnan(panel.returns[2:, 0]).all() and "after the last price of 1 name(s) (A)" in panel.describe()
    later = pd.DataFrame({"A": [5.0]}, index=pd.DatetimeIndex(["2021-01-04"]))
    panel = Panel.from_prices(series([100.0, 100.0]), dividends=later)
    assert panel.returns[1, 0] == 0.0 and "after the last date" in panel.describe()


def test_without_actions_the_returns_are_those_of_the_prices_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.uniform(5, 9, (300, 4)), pd.bdate_range("2020-01-01", periods=300), list("ABCD"))
    frame = frame.mask(rng.random(frame.shape) < 0.1)
    blank = pd.DataFrame(np.nan, frame.index, frame.columns)
    plain, acted = Panel.from_prices(frame), Panel.from_prices(frame, dividends=blank, splits=blank)
    assert plain.returns.tobytes() == acted.returns.tobytes()


def test_prices_as_traded_with_splits_are_adjusted_prices() -> None:
    rng = np.random.default_rng(1)
    days = pd.bdate_range("2020-01-01", periods=200)
    adjusted = pd.DataFrame(50 * np.exp(np.cumsum(rng.normal(0, 0.01, (200, 3)), axis=0)), days, list("ABC"))
    splits = pd.DataFrame(np.nan, days, list("ABC"))
    splits.iloc[50, 0], splits.iloc[120, 0], splits.iloc[77, 2] = 4.0, 1.5, 0.05
    traded = adjusted / splits.fillna(1.0).cumprod()
    one, other = Panel.from_prices(adjusted), Panel.from_prices(traded, splits=splits)
    np.testing.assert_allclose(one.returns, other.returns, atol=1e-13)


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[float], list[float], list[float]]:
    size = draw(st.integers(2, 12))
    prices = draw(st.lists(st.one_of(st.just(NAN), st.floats(5.0, 20.0)), min_size=size, max_size=size))
    cash = draw(st.lists(st.one_of(st.just(NAN), st.floats(0.0, 0.2)), min_size=size, max_size=size))
    ratio = draw(st.lists(st.one_of(st.just(NAN), st.floats(0.8, 1.25)), min_size=size, max_size=size))
    return prices, cash, ratio


@settings(max_examples=150, deadline=None)
@given(lives())
def test_the_return_is_what_an_account_of_one_share_earns(life: tuple[list[float], list[float], list[float]]) -> None:
    prices, cash, ratio = life
    days = pd.bdate_range("2020-01-01", periods=len(prices))
    frame = pd.DataFrame({"A": prices, "B": 1.0}, index=days)
    if frame["A"].notna().sum() == 0:
        return
    extras = {
        "dividends": pd.DataFrame({"A": cash, "B": NAN}, index=days),
        "splits": pd.DataFrame({"A": ratio, "B": NAN}, index=days),
    }
    extras = {name: item for name, item in extras.items() if item["A"].notna().any()}
    got = Panel.from_prices(frame, **extras).returns[:, 0]
    shares, money, paid = 0.0, 0.0, 0.0
    for t, price in enumerate(prices):
        if np.isfinite(ratio[t]):
            shares *= ratio[t]
        if np.isfinite(cash[t]):
            money += shares * cash[t]
        if not np.isfinite(price):
            assert np.isnan(got[t])
            continue
        if shares == 0.0:
            assert np.isnan(got[t])
        else:
            assert got[t] == pytest.approx((shares * price + money) / paid - 1.0, abs=1e-12)
        shares, money, paid = 1.0, 0.0, price


REFUSED: dict[str, tuple[dict[str, list[float]], tuple[str, ...]]] = {
    "a negative dividend": ({"dividends": [NAN, -1.0, NAN]}, ("'A'", "2020-01-02", "negative", "blank")),
    "a dividend above the price": ({"dividends": [NAN, 101.0, NAN]}, ("'A'", "2020-01-02", "101", "100", "cents")),
    "a dividend above the price of a new share": (
        {"dividends": [NAN, 60.0, NAN], "splits": [NAN, 2.0, NAN]},
        ("2020-01-02", "60", "50 after splits"),
    ),
    "a split of zero": ({"splits": [0.0, 2.0, 0.0]}, ("'A'", "2020-01-01", "0 new shares", "blank")),
    "a negative split": ({"splits": [NAN, -2.0, NAN]}, ("'A'", "2020-01-02", "-2 new shares")),
    "an infinite split": ({"splits": [NAN, np.inf, NAN]}, ("'A'", "2020-01-02", "not finite")),
    "splits without end": ({"splits": [1e200, 1e200, 1e200]}, ("'A', 2020-01-0", "larger than anything")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_impossible_action_is_refused(case: str) -> None:
    frames, facts = REFUSED[case]
    prices = [100.0, 98.0, 99.0] if case != "splits without end" else [NAN, NAN, 99.0]
    with pytest.raises(DataError) as caught:
        acted(prices, **frames)
    for fact in facts:
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"


def test_a_dividend_of_all_the_price_was_is_possible() -> None:
    assert acted([100.0, 1.0], [NAN, 100.0]).returns[1, 0] == pytest.approx(0.01)


def test_prices_adjusted_for_splits_already_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 1 splits, such as A 2020-01-02 \(4 for 1, price 100 to 101\).*adjusted"):
        acted([100.0, 101.0, 102.0], splits=[NAN, 4.0, NAN])
    # A small stock dividend cannot be told from the noise, and a crash on the day of a split is one of several.
    acted([100.0, 101.0, 102.0], splits=[NAN, 1.05, NAN])
    days = pd.bdate_range("2020-01-01", periods=3)
    prices = pd.DataFrame({"A": [100.0, 150.0, 1.0], "B": [9.0, 3.0, 3.0], "C": [8.0, 4.0, 4.0]}, index=days)
    splits = pd.DataFrame({"A": [NAN, 2.0, NAN], "B": [NAN, 3.0, NAN], "C": [NAN, 2.0, NAN]}, index=days)
    assert Panel.from_prices(prices, splits=splits).returns[1].tolist() == pytest.approx([2.0, 0.0, 0.0])


def test_returns_beside_prices_are_taken_as_they_are() -> None:
    prices = pd.DataFrame({"A": [10.0, 11.0, NAN, 12.0], "B": [5.0, 5.0, 5.0, 5.0]}, index=DAYS[:4])
    returns = pd.DataFrame({"A": [NAN, 0.12, 0.5, 0.03], "B": [NAN, 0.01, 0.02, NAN]}, index=DAYS[:4])
    panel = Panel.from_prices(prices, returns=returns)
    np.testing.assert_array_equal(panel.returns[:, 0], [NAN, 0.12, NAN, 0.03])
    np.testing.assert_array_equal(panel.returns[:, 1], [NAN, 0.01, 0.02, NAN])
    assert panel.prices is not None and panel.tradeable[3].all() and "1 of them blank" in panel.describe()
    with pytest.raises(DataError, match="leave these out"):
        Panel.from_prices(prices, returns=returns, dividends=prices)


def test_returns_hold_their_dividends_already() -> None:
    with pytest.raises(DataError, match="splits: returns are given already"):
        Panel.from_returns(series([0.01, 0.02, 0.01]), splits=series([NAN, 2.0, NAN]))


def test_a_long_list_of_dividends_is_the_wide_one() -> None:
    prices = pd.DataFrame({"A": [100.0, 99.0, 98.0], "B": [50.0, 50.0, 49.0]}, index=DAYS[:3])
    rows = pd.DataFrame({"ticker": ["B", "A"], "ex_date": ["2020-01-03", "2020-01-02"], "dividend": [1.0, 2.0]})
    wide = pd.DataFrame({"A": [2.0, NAN], "B": [NAN, 1.0]}, index=DAYS[1:3])
    one, other = Panel.from_prices(prices, dividends=rows), Panel.from_prices(prices, dividends=wide)
    assert one.fingerprint() == other.fingerprint() and one.returns[1, 0] == pytest.approx(0.01)
