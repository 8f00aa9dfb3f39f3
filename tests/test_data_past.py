"""Nothing of the future is in a Past: every field, with everything after the date changed, added or taken away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from panel_worlds import NAMES, assert_identical, content, until, world

from portfolio_ebm.data.panel import Panel

ROWS = (0, 12, 119, 121, 160, 201, 255, 262, 285, 300, 309)


@pytest.mark.parametrize("built", [True, False], ids=["built factors", "own factors"])
def test_a_past_does_not_know_that_the_file_goes_on(built: bool) -> None:
    prices, extras = world()
    if built:
        del extras["factors"], extras["factors_are"]
    panel = Panel.from_prices(prices, **extras)
    for row in ROWS[1:]:
        day = prices.index[row]
        known = {name: until(item, day) for name, item in extras.items()}
        known = {name: item for name, item in known.items() if not (isinstance(item, pd.DataFrame) and item.empty)}
        known["benchmark_weights"] = {n: item for n, item in known["benchmark_weights"].items() if len(item)}
        short = Panel.from_prices(prices.iloc[: row + 1].dropna(axis=1, how="all"), **_without(prices, row, known))
        here, there = panel.past(row), short.past(-1)
        if here.assets == there.assets and set(here.benchmark_weights) == set(there.benchmark_weights):
            assert_identical(here, there)
        else:
            assert row < 121  # a name without a price yet is no column of the shorter file
            _assert_same_names(content(here), content(there), there.assets)


def _without(prices: pd.DataFrame, row: int, known: dict[str, Any]) -> dict[str, Any]:
    """Extras without the names that have no price up to the row; a panel has no use for them."""
    gone = [name for name in NAMES if prices[name].iloc[: row + 1].isna().all()]
    out = dict(known)
    for name in ("volume", "dividends", "splits"):
        if name in out:
            out[name] = out[name].drop(columns=gone)
    out["forecasts"] = {name: item.drop(columns=gone) for name, item in out["forecasts"].items()}
    out["groups"] = {g: {k: v for k, v in item.items() if k not in gone} for g, item in out["groups"].items()}
    return out


def _assert_same_names(here: dict[str, Any], there: dict[str, Any], names: tuple[str, ...]) -> None:
    columns = [NAMES.index(name) for name in names]
    for name, value in there.items():
        if name in ("assets", "factor_returns") or name.startswith("groups"):
            continue
        other = here[name]
        if isinstance(value, np.ndarray):
            if other.shape[-1:] == (len(NAMES),):
                other = other[..., columns]
            assert value.tobytes() == np.ascontiguousarray(other).tobytes(), name
        else:
            assert value == other, name


@pytest.mark.parametrize("built", [True, False], ids=["built factors", "own factors"])
@pytest.mark.parametrize("seed", [0, 1])
def test_another_future_is_the_same_past(built: bool, seed: int) -> None:
    prices, extras = world()
    if built:
        del extras["factors"], extras["factors_are"]
    panel = Panel.from_prices(prices, **extras)
    for row in ROWS[1:]:
        day = prices.index[row]
        rng = np.random.default_rng(seed)
        changed = {name: _changed(name, item, day, rng) for name, item in extras.items()}
        later = prices.copy()
        later.iloc[row + 1 :] *= np.exp(rng.normal(0.0, 0.05, later.iloc[row + 1 :].shape))
        other = Panel.from_prices(later, **changed)
        assert other.fingerprint() != panel.fingerprint()
        assert_identical(panel.past(row), other.past(row))
        np.testing.assert_array_equal(panel.factor_returns[: row + 1], other.factor_returns[: row + 1])


def _changed(name: str, item: Any, day: pd.Timestamp, rng: np.random.Generator) -> Any:
    """The same up to the day and something else after it."""
    if name in ("groups", "factors_are", "benchmark_are", "cash_are"):
        return item  # labels are static, and what a file holds is said
    if isinstance(item, dict):
        return {key: _changed(name, entry, day, rng) for key, entry in item.items()}
    text = f"{day:%Y-%m-%d}"
    if name == "membership":
        # Whoever is a member on the day leaves on the next one, and whoever starts later never does.
        known = item[item["start"] <= text].copy()
        going = (known["end"] == "") | (known["end"] > text)
        known.loc[going, "end"] = f"{day + pd.Timedelta(days=1):%Y-%m-%d}"
        return known
    if name == "delistings":
        return item.assign(**{"return": -0.9}) if item["date"].iloc[0] > text else item
    out = item.astype(float).copy()
    later = out.index > day
    factor = 0.5 + 0.4 * rng.random((int(later.sum()), *out.shape[1:]))
    out.loc[later] = out.loc[later] * factor
    if name == "dividends":
        out.loc[later] = rng.random((int(later.sum()), out.shape[1])) * 0.001
    return out


def test_an_end_that_comes_later_is_as_good_as_none() -> None:
    prices, extras = world()
    spells = extras["membership"]
    row, text = 200, f"{prices.index[200]:%Y-%m-%d}"
    blank = spells.assign(end=spells["end"].where(spells["end"] <= text, ""))
    assert (blank["end"] != spells["end"]).sum() == 2
    with_ends = Panel.from_prices(prices, **extras)
    without = Panel.from_prices(prices, **(extras | {"membership": blank}))
    for t in range(row + 1):
        assert_identical(with_ends.past(t), without.past(t))
    assert with_ends.past(262).tradeable[3] != without.past(262).tradeable[3]


def test_what_a_term_names_is_the_last_row_known_at_the_date() -> None:
    """Weights and forecasts by name, volume, prices and labels: by hand, over rows that come later."""
    days = pd.bdate_range("2020-01-01", periods=5)
    prices = pd.DataFrame({"A": [10.0, 11.0, 12.0, np.nan, 14.0], "B": [5.0] * 5}, index=days)
    weights = pd.DataFrame({"A": [0.6, 0.1], "B": [0.4, 0.9]}, index=days[[1, 4]])
    alpha = pd.DataFrame({"A": [0.02, np.nan], "B": [0.01, 0.03]}, index=days[[0, 4]])
    labels = pd.DataFrame({"sector": ["tech", "bank"], "issuer": ["x", "y"]}, index=["A", "B"])
    panel = Panel.from_prices(
        prices, benchmark_weights={"index": weights}, forecasts={"alpha": alpha}, groups=labels, volume=prices * 100
    )
    past = panel.past(days[3])
    assert past.benchmark_weights["index"][-1].tolist() == [0.6, 0.4]
    assert past.forecasts["alpha"][-1].tolist() == [0.02, 0.01]
    assert past.volume is not None and past.prices is not None
    np.testing.assert_array_equal(past.volume[-1], [np.nan, 500.0])
    assert past.prices.tolist() == [12.0, 5.0]
    np.testing.assert_array_equal(past.price_history, prices.iloc[:4])
    assert past.price_history is not None and not past.price_history.flags.writeable
    assert Panel.from_returns(prices.pct_change(fill_method=None).iloc[1:]).past(1).price_history is None
    assert past.tradeable.tolist() == [False, True]
    assert past.groups["sector"] == ("tech", "bank") and past.groups["issuer"] == ("x", "y")
    assert np.isnan(panel.past(days[0]).benchmark_weights["index"][-1]).all()
    assert panel.past(days[4]).benchmark_weights["index"][-1].tolist() == [0.1, 0.9]
    np.testing.assert_array_equal(panel.past(days[4]).forecasts["alpha"][-1], [np.nan, 0.03])
