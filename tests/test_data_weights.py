"""Benchmark weights, final returns and rates of cash: by hand, point in time, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.errors import DataError

DAYS = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08"])
NAN = np.nan
PRICES = pd.DataFrame({"A": [1.0, 2, 3, 4, 5], "B": [1.0, 2, 2, 4, 5], "C": [2.0, 3, NAN, NAN, NAN]}, index=DAYS)
WEIGHTS = pd.DataFrame(
    {"B": [0.6, NAN], "A": [0.4, 0.7], "Z": [NAN, 0.3]}, index=pd.to_datetime(["2020-01-03", "2020-01-07"])
)


def test_weights_stand_until_the_next_row_and_are_unknown_before_the_first() -> None:
    panel = Panel.from_prices(PRICES, benchmark_weights=WEIGHTS)
    expected = [[NAN, NAN, NAN], [0.4, 0.6, 0.0], [0.4, 0.6, 0.0], [0.7, 0.0, 0.0], [0.7, 0.0, 0.0]]
    np.testing.assert_array_equal(panel.benchmark_weights["benchmark"], expected)
    past = panel.past(2)
    np.testing.assert_array_equal(past.benchmark_weights["benchmark"], expected[:3])
    assert np.shares_memory(past.benchmark_weights["benchmark"], panel.benchmark_weights["benchmark"])
    assert panel.benchmark is None  # nothing is derived
    told = panel.describe()
    for fact in ("1 of 3 names have no prices here (Z)", "15.0% of the benchmark", "starts 2020-01-03", "do not drift"):
        assert fact in told, fact


def test_weights_have_names_and_may_be_long() -> None:
    long = WEIGHTS.rename_axis("date").reset_index().melt("date", var_name="ticker", value_name="weight").dropna()
    both = {"wide": WEIGHTS, "long": long.sample(frac=1.0, random_state=1)}
    panel = Panel.from_prices(PRICES, benchmark_weights=both)
    assert list(panel.benchmark_weights) == ["wide", "long"]
    np.testing.assert_array_equal(panel.benchmark_weights["wide"], panel.benchmark_weights["long"])
    assert panel.cut("2020-01-06").benchmark_weights["wide"].shape == (3, 3)


BAD_WEIGHTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "percent": (WEIGHTS * 100.0, ("2020-01-03", "100", "divide percent by 100")),
    "more than the whole": (WEIGHTS * 1.00001, ("2020-01-03", "1.00001", "fractions")),
    "negative": (WEIGHTS - 0.5, ("'A'", "2020-01-03", "-0.1", "distance")),
    "a blank row": (WEIGHTS.drop(index=DAYS[3]).reindex(WEIGHTS.index), ("2020-01-07 has no weight", "remove")),
    "other names": (WEIGHTS[["Z"]].dropna(), ("none of its names (Z)", "A, B, C")),
    "other years": (WEIGHTS.set_axis(WEIGHTS.index + pd.DateOffset(years=5)), ("no date in common",)),
    "a number": (0.5, ("float", "{'name': frame}")),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_cannot_be_are_refused(case: str) -> None:
    given, facts = BAD_WEIGHTS[case]
    with pytest.raises(DataError) as caught:
        Panel.from_prices(PRICES, benchmark_weights=given)
    for fact in facts:
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"


def test_rounding_above_one_is_no_error() -> None:
    panel = Panel.from_prices(PRICES, benchmark_weights=WEIGHTS * (1.0 + 5e-7))
    assert panel.benchmark_weights["benchmark"][1].sum() == pytest.approx(1.0 + 5e-7)


def final(date: Any, name: str = "C", value: Any = -0.4) -> pd.DataFrame:
    return pd.DataFrame({"asset": [name], "date": [date], "return": [value]})


@pytest.mark.parametrize(
    ("date", "row"),
    [("", 2), ("2020-01-03", 2), ("2020-01-04", 2), ("2020-01-06", 2), ("2020-01-07", 3), ("2020-01-08", 4)],
)
def test_a_final_return_is_booked_on_or_after_its_day(date: str, row: int) -> None:
    panel = Panel.from_prices(PRICES, delistings=final(date))
    expected = [NAN, 0.5, NAN, NAN, NAN]
    expected[row] = -0.4
    np.testing.assert_allclose(panel.returns[:, 2], expected)
    assert panel.exit_rows.tolist() == [5, 5, row] and dict(panel.delistings) == {"C": -0.4}
    assert not np.isfinite(panel.past(row - 1).returns[-1, 2]) or row == 2


def test_final_returns_in_every_form_are_the_same() -> None:
    plain = Panel.from_prices(PRICES, delistings={"C": -0.4}).fingerprint()
    for form in (
        pd.Series({"C": -0.4}),
        final(None)[["asset", "return"]],
        final(None).rename(columns={"asset": "Ticker", "return": "DLRET"}),
        final(pd.Timestamp("2020-01-03")).set_index("asset"),
        pd.DataFrame({"return": [-0.4]}, index=["C"]),
    ):
        assert Panel.from_prices(PRICES, delistings=form).fingerprint() == plain


def test_a_day_after_the_panel_is_left_out_and_told() -> None:
    panel = Panel.from_prices(PRICES, delistings=final("2020-02-03"))
    assert not panel.delistings and np.isnan(panel.returns[2:, 2]).all() and "2020-02-03 is after" in panel.describe()


BAD_FINALS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "before the last price": (final("2020-01-02"), ("'C'", "2020-01-02", "2020-01-03", "correct the date")),
    "an unknown name": (final("", "D"), ("'D'",)),
    "below -1": (final("", value=-40.0), ("'C'", "-40", "at least -1")),
    "blank": (final("", value=NAN), ("'C'", "nan")),
    "text": (final("", value="lost"), ("'return'", "lost")),
    "twice": (pd.concat([final(""), final("2020-01-06")]).reset_index(drop=True), ("'C'", "2 times")),
    "no return": (final("").drop(columns="return"), ("'return'",)),
    "text in a mapping": ({"C": "lost"}, ("'lost'", "'C'")),
}


@pytest.mark.parametrize("case", BAD_FINALS)
def test_final_returns_that_cannot_be_are_refused(case: str) -> None:
    given, facts = BAD_FINALS[case]
    with pytest.raises(DataError) as caught:
        Panel.from_prices(PRICES, delistings=given)
    for fact in ("delistings", *facts):
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"


def test_annual_percent_is_earned_from_date_to_date_at_what_was_known() -> None:
    rates = pd.Series([5.0, NAN, 3.65], index=pd.to_datetime(["2020-01-03", "2020-01-06", "2020-01-07"]))
    panel = Panel.from_prices(PRICES, cash_rate=rates, cash_are="annual_percent")
    # Friday to Monday: three days at 5%; the rate of the 7th is earned from the 7th on.
    expected = [0.0, 0.0, 1.05 ** (3 / 365) - 1, 1.05 ** (1 / 365) - 1, 1.0365 ** (1 / 365) - 1]
    np.testing.assert_allclose(panel.cash_rate, expected, atol=1e-15)
    assert "annual percent" in panel.describe()
    flat = Panel.from_prices(PRICES, cash_rate=-0.5, cash_are="annual_percent").cash_rate
    np.testing.assert_allclose(flat[[0, 2]], [0.0, 0.995 ** (3 / 365) - 1], atol=1e-15)


def test_rates_that_cannot_be_are_refused() -> None:
    for given, kind, fact in (
        (0.04, None, "annual_percent"),
        (0.0, "percent", "'percent' is unknown"),
        (500.0, "annual_percent", "500% a year"),
        (pd.Series([1.0], index=pd.to_datetime(["2030-01-01"])), "annual_percent", "no date in common"),
    ):
        with pytest.raises(DataError, match=fact):
            Panel.from_prices(PRICES, cash_rate=given, cash_are=kind)
