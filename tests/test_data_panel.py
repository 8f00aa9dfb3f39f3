"""The panel: nothing of the future is in a Past, ragged universes, alignment by hand, read-only arrays."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from panel_worlds import assert_identical, content

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.errors import DataError, ShapeError

N, T = 7, 760
DATES = pd.bdate_range("2018-01-02", periods=T)
NAMES = [f"S{i}" for i in range(N)]


def ragged_prices() -> pd.DataFrame:
    """Seven names: one enters late, one leaves early, one has gaps."""
    rng = np.random.default_rng(11)
    prices = 50.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.015, (T, N)), axis=0))
    prices[:300, 1] = np.nan
    prices[600:, 2] = np.nan
    prices[[40, 41, 350, 355], 3] = np.nan
    return pd.DataFrame(prices, index=DATES, columns=NAMES)


def everything(rng: np.random.Generator) -> dict[str, Any]:
    def table(columns: list[str], scale: float) -> pd.DataFrame:
        return pd.DataFrame(scale * rng.standard_normal((T, len(columns))), index=DATES, columns=columns)

    factors = table(["market", "style"], 0.01)
    factors.iloc[:30, 1] = np.nan
    return {
        "factors": factors,
        "factors_are": "returns",
        "groups": {"sector": dict.fromkeys(NAMES, "x")},
        "benchmark": table(["index"], 0.01)["index"],
        "benchmark_are": "returns",
        "cash_rate": pd.Series(0.0001 * rng.random(T), index=DATES),
        "volume": table(NAMES, 1.0).abs() * 1e6,
        "forecasts": {"alpha": table(NAMES, 0.02)},
        "signals": table(["vix"], 1.0).abs(),
    }


def poisoned(frame: Any, row: int, how: str) -> Any:
    """Every valid value after `row` replaced, by ten times itself or by another one of its column."""
    out = frame.copy()
    if how == "x10":
        out.iloc[row + 1 :] *= 10.0
        return out
    rng = np.random.default_rng(5)
    values = out.to_numpy(copy=True).reshape(len(out), -1)
    for column in values.T:
        later = np.flatnonzero(np.isfinite(column) & (np.arange(len(column)) > row))
        column[later] = column[rng.permutation(later)]
    return (
        pd.DataFrame(values, out.index, out.columns)
        if isinstance(out, pd.DataFrame)
        else pd.Series(values[:, 0], out.index, name=out.name)
    )


MONTH_END = int(np.flatnonzero(DATES[1:].month != DATES[:-1].month)[20])
CUTS = (0, 45, 299, MONTH_END, MONTH_END + 1, 599, 700, T - 10)


@pytest.mark.parametrize("how", ["x10", "shuffled"])
@pytest.mark.parametrize("built", [True, False], ids=["built factors", "own factors"])
def test_the_future_is_not_in_the_past(how: str, built: bool) -> None:
    prices, extras = ragged_prices(), everything(np.random.default_rng(0))
    if built:
        extras = {"volume": extras["volume"]}
    panel = Panel.from_prices(prices, **extras)
    for row in CUTS:
        changed = {name: _poison(item, row, how) for name, item in extras.items()}
        other = Panel.from_prices(poisoned(prices, row, how), **changed)
        assert other.fingerprint() != panel.fingerprint()
        assert_identical(panel.past(row), other.past(row))


def _poison(item: Any, row: int, how: str) -> Any:
    # Returns times ten would rightly be refused as percent: they are shuffled, or halved.
    if isinstance(item, dict) and all(isinstance(entry, pd.DataFrame) for entry in item.values()):
        return {name: poisoned(entry, row, how) for name, entry in item.items()}
    if not isinstance(item, pd.DataFrame | pd.Series):
        return item
    return (
        poisoned(item, row, how)
        if how == "shuffled" or np.nanmax(np.abs(item.to_numpy())) > 1.0
        else _halved(item, row)
    )


def _halved(item: Any, row: int) -> Any:
    out = item.copy()
    out.iloc[row + 1 :] *= 0.5
    return out


@pytest.mark.parametrize("built", [True, False], ids=["built factors", "own factors"])
def test_the_past_of_a_longer_file_is_the_past_of_the_shorter_one(built: bool) -> None:
    prices = ragged_prices()
    extras = {} if built else everything(np.random.default_rng(0))
    panel = Panel.from_prices(prices, **extras)
    for row in (310, MONTH_END, MONTH_END + 1, 620, T - 2):
        short = {name: _head(item, row) for name, item in extras.items()}
        assert_identical(panel.past(row), Panel.from_prices(prices.iloc[: row + 1], **short).past(-1))


def _head(item: Any, row: int) -> Any:
    if isinstance(item, pd.DataFrame | pd.Series):
        return item.iloc[: row + 1]
    return {name: _head(entry, row) for name, entry in item.items()} if isinstance(item, dict) else item


def test_a_ragged_universe_by_hand() -> None:
    nan = np.nan
    index = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08"])
    frame = pd.DataFrame(
        {
            "whole": [100, 110, 99, 99, 108.9],
            "late": [nan, nan, 50, 55, 55],
            "gone": [10, 5, nan, nan, nan],
            "gap": [8, nan, nan, 4, 6],
        },
        index=index,
    )
    panel = Panel.from_prices(frame, delistings={"gone": -0.4})
    np.testing.assert_allclose(panel.returns[:, 0], [nan, 0.1, -0.1, 0.0, 0.1], atol=1e-15)
    np.testing.assert_allclose(panel.returns[:, 1], [nan, nan, nan, 0.1, 0.0], atol=1e-15)
    np.testing.assert_allclose(panel.returns[:, 2], [nan, -0.5, -0.4, nan, nan], atol=1e-15)
    np.testing.assert_allclose(panel.returns[:, 3], [nan, nan, nan, -0.5, 0.5], atol=1e-15)
    assert panel.tradeable.tolist() == [
        [True, False, True, True],
        [True, False, True, False],
        [True, True, False, False],
        [True, True, False, True],
        [True, True, False, True],
    ]
    np.testing.assert_array_equal(panel.past(2).prices, [99.0, 50.0, 5.0, 8.0])
    assert panel.past(0).prices is not None and np.isnan(panel.past(0).prices[1])
    assert panel.last_rows.tolist() == [4, 4, 1, 4]


def test_a_delisting_is_not_booked_while_the_name_still_trades() -> None:
    frame = pd.DataFrame({"A": [1.0, 2.0], "B": [1.0, 1.0]}, index=pd.bdate_range("2020-01-02", periods=2))
    panel = Panel.from_prices(frame, delistings={"A": -1.0})
    assert panel.returns[-1].tolist() == [1.0, 0.0]


def test_returns_multiply_back_to_the_prices_over_every_gap() -> None:
    prices = ragged_prices()
    panel = Panel.from_prices(prices)
    for column in range(N):
        known = prices.iloc[:, column].dropna().to_numpy()
        grown = np.prod(1.0 + np.nan_to_num(panel.returns[:, column]))
        assert grown == pytest.approx(known[-1] / known[0], rel=1e-12)


def test_prices_and_their_returns_make_the_same_panel() -> None:
    prices = ragged_prices()[["S0", "S4", "S5", "S6"]]
    a = Panel.from_prices(prices)
    b = Panel.from_returns(prices.pct_change().iloc[1:])
    np.testing.assert_allclose(a.returns[1:], b.returns, atol=1e-14)
    np.testing.assert_array_equal(a.tradeable[1:], b.tradeable)
    np.testing.assert_allclose(a.factor_returns[1:, 0], b.factor_returns[:, 0], atol=1e-14)
    assert b.prices is None and b.past(5).prices is None


def test_everything_is_read_only() -> None:
    panel = Panel.from_prices(ragged_prices(), **everything(np.random.default_rng(0)))
    past = panel.past(400)
    arrays = [value for value in content(past).values() if isinstance(value, np.ndarray)]
    arrays += [
        getattr(panel, item.name)
        for item in dataclasses.fields(panel)
        if isinstance(getattr(panel, item.name), np.ndarray)
    ]
    assert len(arrays) > 15
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = array
    with pytest.raises(ValueError, match="WRITEABLE"):
        past.returns.flags.writeable = True
    with pytest.raises(TypeError):
        panel.groups["sector"] = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        panel.assets = ()
    past.groups["sector"] = ("changed",)  # a Past has its own copy
    assert panel.past(400).groups["sector"][0] == "x"


def test_the_caller_s_arrays_are_neither_kept_nor_changed() -> None:
    frame = ragged_prices()
    before = frame.copy()
    panel = Panel.from_prices(frame)
    told = panel.fingerprint()
    frame.iloc[:, :] = 1.0
    assert panel.fingerprint() == told and Panel.from_prices(before).fingerprint() == told


def test_a_past_is_a_view_and_not_a_copy() -> None:
    panel = Panel.from_prices(ragged_prices())
    assert np.shares_memory(panel.past(500).returns, panel.returns)


def test_rows_and_dates_find_the_last_date_on_or_before() -> None:
    panel = Panel.from_prices(ragged_prices())
    assert panel.row("2018-01-06") == panel.row(pd.Timestamp("2018-01-05")) == 3  # a Saturday
    assert panel.row(DATES[10].date()) == panel.row(np.datetime64("2018-01-16")) == panel.row(np.int64(10)) == 10
    assert panel.row(-1) == T - 1 and len(panel.past("2100-01-01")) == T
    assert panel.past(10).date == "2018-01-16" and len(panel.past(10)) == 11
    for wrong in ("2017-12-31", "no date", "2018-02", T, -T - 1, None, True):
        with pytest.raises(DataError):
            panel.row(wrong)


def test_a_cut_is_the_same_data_between_two_dates() -> None:
    panel = Panel.from_prices(ragged_prices(), **everything(np.random.default_rng(0)))
    cut = panel.cut("2018-06-02", "2019-06-01")
    assert (cut.start, cut.end) == ("2018-06-04", "2019-05-31")
    first = panel.row(cut.start)
    np.testing.assert_array_equal(cut.returns, panel.returns[first : first + len(cut)])
    np.testing.assert_array_equal(cut.forecasts["alpha"], panel.forecasts["alpha"][first : first + len(cut)])
    assert panel.cut().fingerprint() == panel.fingerprint() != cut.fingerprint()
    with pytest.raises(DataError, match="No date"):
        panel.cut("2018-06-02", "2018-06-03")


def test_the_fingerprint_is_of_the_content() -> None:
    extras = everything(np.random.default_rng(0))
    panel = Panel.from_prices(ragged_prices(), **extras)
    assert Panel.from_prices(ragged_prices(), **extras).fingerprint() == panel.fingerprint()
    for name in ("factors", "groups", "benchmark", "cash_rate", "volume", "forecasts", "signals"):
        assert (
            Panel.from_prices(ragged_prices(), **{k: v for k, v in extras.items() if k != name}).fingerprint()
            != panel.fingerprint()
        )
    one = ragged_prices()
    one.iloc[700, 0] = np.nextafter(one.iloc[700, 0], 1e9)
    assert Panel.from_prices(one, **extras).fingerprint() != panel.fingerprint()
    assert len(panel.fingerprint()) == 64


def test_a_panel_travels_to_a_worker_and_stays_read_only() -> None:
    panel = Panel.from_prices(ragged_prices(), **everything(np.random.default_rng(0)))
    copy = pickle.loads(pickle.dumps(panel))
    assert copy.fingerprint() == panel.fingerprint() and not copy.returns.flags.writeable


def test_factors_as_prices_and_as_returns_agree_and_detection_is_told() -> None:
    prices = ragged_prices()
    levels = 100.0 * (1.0 + everything(np.random.default_rng(1))["factors"].fillna(0.0)).cumprod()
    by_price = Panel.from_prices(prices, factors=levels)
    by_return = Panel.from_prices(prices, factors=levels.pct_change().iloc[1:])
    np.testing.assert_allclose(by_price.factor_returns[1:], by_return.factor_returns[1:], atol=1e-14)
    assert "taken as prices" in by_price.describe() and "taken as returns" in by_return.describe()
    assert by_price.market == "market" and not by_price.built_factors


def test_the_market_is_named_or_found_by_name() -> None:
    prices, factors = ragged_prices(), everything(np.random.default_rng(1))["factors"]
    assert Panel.from_prices(prices, factors=factors.rename(columns={"market": "Mkt-RF"})).market == "Mkt-RF"
    assert Panel.from_prices(prices, factors=factors.rename(columns={"market": "other"})).market is None
    assert Panel.from_prices(prices, factors=factors, market="style").market == "style"
    with pytest.raises(DataError, match="near it there is style"):
        Panel.from_prices(prices, factors=factors, market="styl")


def test_daily_factors_compound_within_the_weeks_of_a_weekly_panel() -> None:
    days = pd.bdate_range("2020-01-06", periods=20)
    daily = pd.DataFrame({"market": np.full(20, 0.01), "part": [0.02] * 9 + [np.nan] + [0.02] * 10}, index=days)
    weekly = pd.DataFrame(
        {"A": [1.0, 2.0, 3.0, 4.0]}, index=pd.to_datetime(["2020-01-10", "2020-01-17", "2020-01-24", "2020-02-01"])
    )
    panel = Panel.from_prices(weekly, factors=daily, factors_are="returns")
    np.testing.assert_allclose(panel.factor_returns[:, 0], [0.01, *[1.01**5 - 1] * 3], atol=1e-15)
    np.testing.assert_allclose(panel.factor_returns[:, 1], [0.02, np.nan, 1.02**5 - 1, 1.02**5 - 1], atol=1e-15)
    levels = (1.0 + daily[["market"]]).cumprod()
    priced = Panel.from_prices(weekly, factors=levels, factors_are="prices")
    np.testing.assert_allclose(priced.factor_returns[:, 0], [np.nan, *[1.01**5 - 1] * 3], atol=1e-14)


def test_a_missing_factor_day_goes_into_the_next_when_prices_were_given() -> None:
    index = pd.bdate_range("2020-01-06", periods=4)
    prices = pd.DataFrame({"A": [1.0, 2.0, 3.0, 4.0]}, index=index)
    factors = pd.DataFrame({"market": [100.0, 110.0, 121.0]}, index=index[[0, 1, 3]])
    panel = Panel.from_prices(prices, factors=factors, factors_are="prices")
    np.testing.assert_allclose(panel.factor_returns[:, 0], [np.nan, 0.1, np.nan, 0.1], atol=1e-14)


def test_forecasts_stand_until_the_next_and_cash_takes_the_last_known_rate() -> None:
    index = pd.bdate_range("2020-01-06", periods=5)
    prices = pd.DataFrame({"A": [1.0, 2, 3, 4, 5], "B": [1.0, 2, 3, 4, 5]}, index=index)
    alpha = pd.DataFrame({"A": [0.5, 0.7], "B": [0.1, np.nan]}, index=index[[1, 3]])
    cash = pd.Series([0.0001, np.nan, 0.0003], index=index[1:4])
    panel = Panel.from_prices(prices, forecasts={"alpha": alpha}, cash_rate=cash)
    np.testing.assert_array_equal(panel.forecasts["alpha"][:, 0], [np.nan, 0.5, 0.5, 0.7, 0.7])
    np.testing.assert_array_equal(panel.forecasts["alpha"][:, 1], [np.nan, 0.1, 0.1, np.nan, np.nan])
    np.testing.assert_array_equal(panel.cash_rate, [0.0, 0.0001, 0.0001, 0.0003, 0.0003])
    assert Panel.from_prices(prices, cash_rate=0.0002).cash_rate.tolist() == [0.0002] * 5


def test_time_zones_and_times_of_day_go_once() -> None:
    frame = ragged_prices()
    plain = Panel.from_prices(frame).fingerprint()
    for index in (
        DATES.tz_localize("America/New_York"),
        (DATES + pd.Timedelta(hours=16)).tz_localize("UTC"),
        DATES.astype("datetime64[s]"),
        DATES.strftime("%Y-%m-%d"),
        DATES.strftime("%Y%m%d").astype(int),
        pd.Index([f"{item:%Y-%m-%d} 00:00:00{'-04:00' if 3 < item.month < 11 else '-05:00'}" for item in DATES]),
        pd.PeriodIndex(DATES, freq="D"),
    ):
        assert Panel.from_prices(frame.set_axis(index, axis=0)).fingerprint() == plain, index.dtype


def test_a_month_is_dated_by_its_last_day() -> None:
    frame = pd.DataFrame({"A": [1.0, 2.0, 3.0]}, index=pd.period_range("2020-01", periods=3, freq="M"))
    assert [str(item)[:10] for item in Panel.from_prices(frame).dates] == ["2020-01-31", "2020-02-29", "2020-03-31"]


def test_dates_without_a_single_price_are_left_out_and_told() -> None:
    frame = ragged_prices()
    frame.iloc[100] = np.nan
    panel = Panel.from_prices(frame)
    assert len(panel) == T - 1 and "left out, the first 2018-05-22" in panel.describe()


def test_describe_tells_what_fools_a_backtest() -> None:
    told = Panel.from_prices(ragged_prices()).describe()
    for fact in (
        "built from the returns of these very assets",
        "1 name(s) start after",
        "1 end before",
        "4 gap(s)",
        "S2",
        "Cash earns nothing",
    ):
        assert fact in told, fact
    assert "No name ever leaves" in Panel.from_prices(ragged_prices()[["S0", "S3"]]).describe()
    jump = ragged_prices()
    jump.iloc[200:, 0] /= 4.0
    assert f"S0 {DATES[200]:%Y-%m-%d} -7" in Panel.from_prices(jump).describe()
    assert "delistings=" not in Panel.from_prices(ragged_prices(), delistings={"S2": -0.3}).describe()


def test_groups_in_every_form_are_the_same() -> None:
    prices = ragged_prices()[["S0", "S1"]]
    column = pd.Series({"S1": "b", "S0": "a"}, name="sector")
    forms: list[Any] = [
        column,
        column.to_frame(),
        column.rename_axis("ticker").reset_index(),
        {"sector": {"S0": "a", "S1": "b"}},
        {"sector": ("a", "b")},
        {"sector": column},
    ]
    for form in forms:
        assert dict(Panel.from_prices(prices, groups=form).groups) == {"sector": ("a", "b")}


def test_a_benchmark_may_be_a_factor() -> None:
    panel = Panel.from_prices(ragged_prices(), benchmark="market")
    assert panel.benchmark is not None and panel.benchmark_name == "market"
    np.testing.assert_array_equal(panel.benchmark, panel.factor_returns[:, 0])


def test_wrong_shapes_and_unknown_extras_are_refused() -> None:
    panel = Panel.from_prices(ragged_prices())
    with pytest.raises(ShapeError, match="returns"):
        dataclasses.replace(panel, returns=panel.returns[:, :2])
    with pytest.raises(TypeError, match="takes no 'factor'"):
        Panel.from_prices(ragged_prices(), factor=None)


def test_a_return_before_the_first_date_is_not_the_first_period_s() -> None:
    weekly = pd.DataFrame({"A": [1.0, 2.0, 3.0]}, index=pd.to_datetime(["2020-01-11", "2020-01-17", "2020-01-24"]))
    daily = pd.DataFrame({"market": np.full(15, 0.01)}, index=pd.bdate_range("2020-01-06", periods=15))
    panel = Panel.from_prices(weekly, factors=daily, factors_are="returns")
    np.testing.assert_allclose(panel.factor_returns[:, 0], [np.nan, 1.01**5 - 1, 1.01**5 - 1], atol=1e-15)


def test_the_periods_of_a_year_are_counted_on_the_dates_seen() -> None:
    months = pd.date_range("2010-01-31", periods=24, freq="ME")
    index = months.append(pd.bdate_range("2012-01-02", periods=200))  # monthly at first, then daily
    panel = Panel.from_prices(pd.DataFrame({"A": np.arange(1.0, 225.0)}, index=index))
    assert (
        panel.past(23).periods_per_year == 12.0 and panel.past(-1).periods_per_year == panel.periods_per_year == 252.0
    )
