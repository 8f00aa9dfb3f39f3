"""Labels by date: what a group was at the time, by hand, and laws against a table of every day."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from panel_worlds import NAMES, assert_identical, world
from torch import Generator

from portfolio_ebm import (
    Budget,
    Convex,
    EveryPeriod,
    FactorEBM,
    Group,
    LongOnly,
    SampleMoments,
    Strategy,
    Variance,
    backtest,
)
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError

DAYS = pd.bdate_range("2020-01-01", periods=6)
PRICES = pd.DataFrame(np.arange(10.0, 22.0).reshape(6, 2), DAYS, ["A", "B"])


def dated(*rows: tuple[int, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        [(DAYS[day], asset, sector, issuer) for day, asset, sector, issuer in rows],
        columns=["date", "asset", "sector", "issuer"],
    )


MOVED = dated((0, "A", "tech", "a"), (0, "B", "bank", "b"), (3, "A", "media", ""), (5, "B", "", "a"))


def test_a_label_stands_from_its_day_until_the_next() -> None:
    panel = Panel.from_prices(PRICES, groups=MOVED.sample(frac=1.0, random_state=0))
    assert [panel.past(t).groups["sector"][0] for t in range(6)] == ["tech"] * 3 + ["media"] * 3
    assert [panel.past(t).groups["sector"][1] for t in range(6)] == ["bank"] * 6
    assert [panel.past(t).groups["issuer"] for t in range(6)] == [("a", "b")] * 5 + [("a", "a")]
    assert panel.groups["sector"] == ("media", "bank")
    assert "sector are as they stood at each date; they change on 1 days" in panel.describe()
    assert "the same on every date" not in panel.describe()


def test_before_its_first_day_a_label_is_not_known_and_this_is_told() -> None:
    panel = Panel.from_prices(PRICES, groups=dated((0, "A", "tech", "a"), (2, "B", "bank", "b")))
    assert [panel.past(t).groups["sector"] for t in (1, 2)] == [("tech", "unknown"), ("tech", "bank")]
    assert "1 name(s) have a price before their first sector (B until 2020-01-03): it is 'unknown' there" in str(
        panel.notes
    )
    late = PRICES.assign(B=PRICES["B"].where(PRICES.index >= DAYS[2]))
    assert "before their first" not in str(
        Panel.from_prices(late, groups=dated((0, "A", "t", "a"), (2, "B", "b", "b"))).notes
    )


def test_labels_before_the_panel_count_and_labels_after_it_do_not() -> None:
    rows = dated((0, "A", "old", "a"), (1, "A", "tech", "a"), (0, "B", "bank", "b"), (5, "A", "media", "a"))
    panel = Panel.from_prices(PRICES.iloc[2:5], groups=rows)
    assert not panel.relabels and panel.groups["sector"] == ("tech", "bank")


def every_day(seed: int) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """A world, and its sectors drawn anew now and then, as a table of every day."""
    prices, extras = world(120)
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.choice(["x", "y", "z"], prices.shape), prices.index, NAMES)
    table = table.where(rng.random(prices.shape) < 0.05)
    table.iloc[0] = "x"
    return prices, extras, table.ffill()


def long(table: pd.DataFrame) -> pd.DataFrame:
    found = table.rename_axis("date").reset_index().melt("date", var_name="asset", value_name="sector")
    return found.sample(frac=1.0, random_state=1)


@pytest.mark.parametrize("seed", range(3))
def test_every_past_has_the_row_of_its_day_and_no_other_future_changes_it(seed: int, tmp_path: Path) -> None:
    prices, extras, table = every_day(seed)
    panel = Panel.from_prices(prices, **(extras | {"groups": long(table)}))
    other = table.copy()
    other.iloc[60:] = "poison"
    poisoned = Panel.from_prices(prices, **(extras | {"groups": long(other)}))
    for t in range(len(prices)):
        assert panel.past(t).groups["sector"] == tuple(table.iloc[t])
        if t < 60:
            assert_identical(
                replace(panel.past(t), spellings={}), replace(poisoned.past(t), spellings={})
            )  # read for spelling alone
    assert poisoned.past(60).groups["sector"][0] == "poison"
    cut = panel.cut(20, 80)
    for t in range(len(cut)):
        assert_identical_labels(cut.past(t).groups, panel.past(20 + t).groups)
    again = Panel.load(panel.save(tmp_path / "saved"))
    assert again.fingerprint() == panel.fingerprint() and again.relabels == panel.relabels


def assert_identical_labels(a: Any, b: Any) -> None:
    assert dict(a) == dict(b)


def test_a_file_of_dated_labels(tmp_path: Path) -> None:
    PRICES.rename_axis("date").to_csv(tmp_path / "prices.csv")
    MOVED.rename(columns={"sector": "my grouping"}).to_csv(tmp_path / "groups.csv", index=False)
    for panel in (read_panel(tmp_path), read_panel(tmp_path / "prices.csv", groups=tmp_path / "groups.csv")):
        assert panel.past(2).groups["my grouping"] == ("tech", "bank")
        assert panel.past(3).groups["my grouping"] == ("media", "bank")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (MOVED.assign(asset="A"), ["A on 2020-01-01 is there twice", "keep one"]),
        (MOVED[MOVED["asset"] == "A"], ["'sector' has no label for 'B'"]),
        (MOVED.replace("B", "Bb"), ["'Bb' is no asset", "near it there is B"]),
        (MOVED.assign(date="soon"), ["'soon' is not a date"]),
        (MOVED.drop(columns="date"), ["asset 'A' is there 2 times", "column 'date'"]),
    ],
    ids=["twice", "lacking", "unknown", "no date", "undated"],
)
def test_bad_labels_are_refused_in_words(rows: pd.DataFrame, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        Panel.from_prices(PRICES, groups=rows)
    assert all(word in str(caught.value) for word in words), caught.value


def test_markets_of_many_days_are_those_of_each_day_where_labels_change() -> None:
    """A name without a history has the loadings of its group: of the group it was in at the time."""
    rng = np.random.default_rng(0)
    days = pd.bdate_range("2015-01-01", periods=700)
    factor = rng.normal(0.0, 0.01, 700)
    beta = np.array([0.4, 0.5, 1.6, 1.5, 1.0])
    returns = pd.DataFrame(beta * factor[:, None] + rng.normal(0.0, 0.005, (700, 5)), days, list("ABCDE"))
    returns.loc[days[:660], "E"] = np.nan
    rows = [(days[0], name, "low" if name in "AB" else "high") for name in "ABCD"]
    rows += [(days[0], "E", "low"), (days[682], "E", "high")]
    panel = Panel.from_returns(
        returns, groups=pd.DataFrame(rows, columns=["date", "asset", "kind"]), factors_are="returns",
        factors=pd.DataFrame({"market": factor}, days),
    )  # fmt: skip
    model = FactorEBM(factors=("market",), lookback=600, min_history=252, groups="kind")
    chosen = [664, 668, 672, 678, 684, 690]
    batch = model.fit_days(panel, chosen)
    outlook = batch.outlook(1, Generator().manual_seed(0))
    for i, row in enumerate(chosen):
        one = model.fit(panel.past(row - 1)).outlook(1, Generator().manual_seed(0))
        np.testing.assert_allclose(
            outlook.covariance.dense()[i].numpy(), one.covariance.dense().numpy(), rtol=1e-8, atol=1e-12
        )


def walked(label: str) -> Any:
    """A backtest under a rule on a label; "C" is renamed from "old" to "new" on row 90."""
    rng = np.random.default_rng(1)
    days = pd.bdate_range("2020-01-01", periods=120)
    returns = pd.DataFrame(rng.normal(0.0, [0.02, 0.02, 0.005], (120, 3)), days, list("ABC"))
    rows = [(days[0], "A", "x"), (days[0], "B", "x"), (days[0], "C", "old"), (days[90], "C", "new")]
    panel = Panel.from_returns(returns, groups=pd.DataFrame(rows, columns=["date", "asset", "sector"]))
    strategy = Strategy(
        name="ruled",
        market=SampleMoments(lookback=60),
        energy=Variance(),
        constraint=Budget() & LongOnly() & Group("sector", label, upper=0.2),
        constructor=Convex(),
        rebalance=EveryPeriod(),
    )
    result = backtest(strategy, panel, start=days[80])
    chosen = result.weights["C"]
    return chosen.loc[days[82] : days[90]], chosen.loc[days[92] :]


def test_a_rule_on_a_label_holds_while_there_is_somebody_under_it() -> None:
    before, after = walked("new")
    assert (before > 0.5).all() and (after < 0.25).all()
    before, after = walked("old")
    assert (before < 0.25).all() and (after > 0.5).all()


def test_a_label_that_nobody_ever_has_is_misspelt() -> None:
    with pytest.raises(Exception, match="No asset has sector 'nwe'"):
        walked("nwe")
