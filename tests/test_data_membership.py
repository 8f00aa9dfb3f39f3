"""Membership: spells to a mask by hand, what a Past may trade and must sell, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.errors import DataError

DAYS = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08"])
NAN = np.nan
PRICES = pd.DataFrame({"A": [1.0, 2, 3, 4, 5], "B": [1.0, 2, NAN, 4, 5], "C": [NAN, NAN, 3, 4, NAN]}, index=DAYS)


def spells(*rows: tuple[str, str, Any], names: tuple[str, str, str] = ("asset", "start", "end")) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(names))


HAND = spells(
    ("A", "2020-01-03", "2020-01-06"),
    ("A", "2020-01-08", ""),
    ("B", "2019-01-01", "2020-01-06"),
    ("C", "2020-01-04", ""),
)


def test_spells_by_hand_with_both_days_included() -> None:
    panel = Panel.from_prices(PRICES, membership=HAND)
    assert panel.members is not None
    assert panel.members[:, 0].tolist() == [False, True, True, False, True]
    assert panel.members[:, 1].tolist() == [True, True, True, False, False]
    assert panel.members[:, 2].tolist() == [False, False, True, True, True]
    assert panel.tradeable[:, 1].tolist() == [True, True, False, True, True]  # what has a price


def test_a_past_trades_members_and_sells_who_left() -> None:
    panel = Panel.from_prices(PRICES, membership=HAND)
    assert panel.past(0).tradeable.tolist() == [False, True, False]
    assert panel.past(0).leaving.tolist() == [True, False, False]
    assert panel.past(2).tradeable.tolist() == [True, False, True]  # B is a member without a price
    assert panel.past(2).leaving.tolist() == [False, False, False]
    assert panel.past(3).tradeable.tolist() == [False, False, True]
    assert panel.past(3).leaving.tolist() == [True, True, False]
    assert panel.past(4).tradeable.tolist() == [True, False, False]  # C is one too, and has no price
    plain = Panel.from_prices(PRICES)
    assert plain.members is None and not plain.past(1).leaving.any() and not plain.past(1).leaving.flags.writeable
    np.testing.assert_array_equal(plain.past(2).tradeable, plain.tradeable[2])


FORMS: dict[str, Any] = {
    "ticker and long names": HAND.set_axis(["Ticker", "Start Date", "End Date"], axis=1),
    "symbol as the index": HAND.rename(columns={"asset": "symbol"}).set_index("symbol"),
    "dates": HAND.assign(start=pd.to_datetime(HAND["start"]), end=pd.to_datetime(HAND["end"].replace("", None))),
    "another order": HAND.iloc[::-1],
    "true and false": pd.DataFrame(
        {
            "A": [False, True, True, False, True],
            "B": [True, True, True, False, False],
            "C": [False, False, True, True, True],
        },
        index=DAYS,
    ),
    "ones and zeros as text": pd.DataFrame(
        {"A": list("01101"), "B": list("11100"), "C": ["False", "no", "yes", "TRUE", "1.0"]}, index=DAYS
    ),
    "a list of members a day": pd.DataFrame(
        [(day, name) for day, names in zip(DAYS, ("B", "AB", "ABC", "C", "AC"), strict=True) for name in names],
        columns=["date", "ticker"],
    ),
    "a long table of true and false": pd.DataFrame(
        [
            (day, name, name in names)
            for day, names in zip(DAYS, ("B", "AB", "ABC", "C", "AC"), strict=True)
            for name in "ABC"
        ],
        columns=["date", "ticker", "member"],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_mask(form: str) -> None:
    assert (
        Panel.from_prices(PRICES, membership=FORMS[form]).fingerprint()
        == Panel.from_prices(PRICES, membership=HAND).fingerprint()
    )


def test_a_wide_table_stands_until_its_next_row() -> None:
    table = pd.DataFrame({"A": [True, False], "B": [True, True]}, index=pd.to_datetime(["2020-01-03", "2020-01-07"]))
    panel = Panel.from_prices(PRICES, membership=table)
    assert panel.members is not None and panel.members[:, 0].tolist() == [False, True, True, False, False]
    assert panel.members[:, 2].tolist() == [False] * 5
    assert "before it nobody is a member" in panel.describe() and "never a member (C)" in panel.describe()


def test_a_day_of_a_spell_holds_at_every_hour() -> None:
    hours = pd.DatetimeIndex(["2020-01-02 10:00", "2020-01-02 16:00", "2020-01-03 10:00"])
    panel = Panel.from_prices(
        pd.DataFrame({"A": [1.0, 2.0, 3.0]}, index=hours), membership=spells(("A", "2020-01-01", "2020-01-02"))
    )
    assert panel.members is not None and panel.members[:, 0].tolist() == [True, True, False]


def test_spells_may_share_a_day_and_no_more() -> None:
    shared = spells(("A", "2020-01-02", "2020-01-06"), ("A", "2020-01-06", ""))
    panel = Panel.from_prices(PRICES, membership=shared)
    assert panel.members is not None and panel.members[:, 0].all()


def test_members_without_prices_are_counted_and_named() -> None:
    more = pd.concat(
        [HAND, spells(("Y", "2010-01-01", "2012-01-01"), ("Z", "2010-01-01", ""), ("Z2", "2011-01-01", ""))]
    )
    told = Panel.from_prices(PRICES, membership=more.reset_index(drop=True)).describe()
    assert "3 of 6 members have no prices here (Y, Z, Z2)" in told and "survived" in told
    assert "Members: 1 to 3 on a date, 3 of 3 names" in told


def test_built_factors_hold_members_only() -> None:
    prices = pd.DataFrame({"A": [1.0, 1.1, 1.21], "B": [1.0, 2.0, 4.0]}, index=DAYS[:3])
    panel = Panel.from_prices(prices, membership=spells(("A", "2020-01-01", ""), ("B", "2020-01-03", "")))
    np.testing.assert_allclose(panel.factor_returns[:, 0], [NAN, 0.1, (0.1 + 1.0) / 2.0], atol=1e-12)


def test_a_cut_and_a_fingerprint_know_the_members() -> None:
    panel = Panel.from_prices(PRICES, membership=HAND)
    cut = panel.cut("2020-01-03", "2020-01-06")
    assert cut.members is not None and cut.members.shape == (2, 3)
    assert panel.fingerprint() != Panel.from_prices(PRICES).fingerprint()


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a list": (["A"], ("list", "asset, start, end")),
    "no spell": (HAND.iloc[:0], ("no spell",)),
    "no start": (spells(("A", "", "2020-01-03")), ("'start'", "row 1", "YYYY-MM-DD")),
    "no end column": (HAND[["asset", "start"]], ("'end'", "blank")),
    "no asset column": (HAND[["start", "end"]], ("'asset'",)),
    "two asset columns": (HAND.assign(ticker="A"), ("'asset'", "'ticker'", "keep one")),
    "no name": (spells((" ", "2020-01-02", "")), ("'asset'", "row 1")),
    "american dates": (spells(("A", "2020-01-02", "1/3/2020")), ("'end'", "row 1", "1/3/2020")),
    "no such day": (spells(("B", "2020-01-02", ""), ("A", "2020-02-30", "")), ("'start'", "row 2", "2020-02-30")),
    "the end before the start": (
        spells(("A", "2020-01-06", "2020-01-03")),
        ("row 1", "A ends 2020-01-03", "start 2020-01-06"),
    ),
    "overlapping spells": (
        spells(("A", "2020-01-02", "2020-01-07"), ("B", "2020-01-02", ""), ("A", "2020-01-06", "")),
        ("A", "row 1", "ends 2020-01-07", "row 3", "2020-01-06", "overlapping"),
    ),
    "a forgotten end": (
        spells(("A", "2020-01-02", ""), ("A", "2020-01-06", "2020-01-07")),
        ("row 1 has no end", "row 2", "2020-01-06"),
    ),
    "nobody we know": (spells(("X", "2020-01-02", "")), ("none of its 1 members", "X", "A, B, C")),
    "a blank among true and false": (
        pd.DataFrame({"A": [True, None]}, index=DAYS[:2]),
        ("'A'", "2020-01-03", "neither true nor false"),
    ),
    "a price among true and false": (PRICES[["A"]], ("'A'", "row 2", "neither true nor false", "start and end")),
    "the same pair twice": (
        pd.DataFrame({"date": ["2020-01-02"] * 2, "asset": ["A", "A"], "member": [1, 0]}),
        ("A on 2020-01-02", "rows 1 and 2"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    given, facts = REFUSED[case]
    with pytest.raises(DataError) as caught:
        Panel.from_prices(PRICES, membership=given)
    for fact in ("membership", *facts):
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"
