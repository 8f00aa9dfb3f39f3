"""Orders: sums of money that add up, whole shares near their targets, files that brokers read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.orders.brokers import IBKR_COLUMNS, alpaca_lines, ibkr_basket, plain
from portfolio_ebm.orders.holdings import read_holdings
from portfolio_ebm.orders.sizing import Holdings, Orders, size_orders

NAMES = ["A", "B", "C", "D"]


def held(shares: dict[str, float], prices: dict[str, float], cash: float = 0.0) -> Holdings:
    return Holdings(pd.Series(shares, dtype=float), pd.Series(prices, dtype=float), cash)


def test_by_hand() -> None:
    # Worth 10 * 10 + 50 = 150, so 75 each: 7.5 shares of A, 2.5 of B. Down to 7 and 2, that leaves 20 in cash, and no
    # more than the target's zero is to stay: B's next share costs 30, A's 10, and A's half share is made whole.
    orders = size_orders({"A": 0.5, "B": 0.5}, held({"A": 10}, {"A": 10, "B": 30}, cash=50))
    assert orders.table["trade"].to_dict() == {"A": -2.0, "B": 2.0}
    assert orders.value == 150.0
    assert orders.cash_after == 50 + 20 - 60
    assert orders.costs == 0.0
    assert orders.table["weight_after"].to_dict() == pytest.approx({"A": 80 / 150, "B": 60 / 150})
    assert orders.off_target == pytest.approx(5 / 150 + 15 / 150)


def test_costs_come_out_of_cash() -> None:
    orders = size_orders({"A": 1.0}, held({}, {"A": 100}, cash=1010), cost_rate=0.01)
    assert orders.table.loc["A", "trade"] == 10.0  # 10 * 100 and 1 % of it, to the last cent
    assert orders.costs == pytest.approx(10.0)
    assert orders.cash_after == pytest.approx(0.0, abs=1e-9)
    assert orders.table.loc["A", "weight_after"] == pytest.approx(1.0)


prices = st.lists(st.floats(0.5, 900.0), min_size=4, max_size=4)
shares = st.lists(st.integers(0, 400), min_size=4, max_size=4)
weights = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4)


@given(prices, shares, weights, st.floats(1.0, 1e6), st.sampled_from([0.0, 0.0005, 0.01]), st.booleans())
def test_money_is_conserved_and_never_borrowed(
    price: list[float], count: list[int], weight: list[float], cash: float, rate: float, hold_a: bool
) -> None:
    target = np.array(weight) / max(sum(weight), 1.0)
    before = held(dict(zip(NAMES, count, strict=True)), dict(zip(NAMES, price, strict=True)), cash)
    frozen = frozenset({"A"}) if hold_a else frozenset()
    orders = size_orders(dict(zip(NAMES, target, strict=True)), before, cost_rate=rate, frozen=frozen)
    table = orders.table
    after = float((table["target"] * table["price"]).sum())
    assert after + orders.cash_after + orders.costs == pytest.approx(orders.value, rel=1e-12)
    assert orders.costs == pytest.approx(rate * float((table["trade"].abs() * table["price"]).sum()))
    assert (table["trade"] % 1.0 == 0.0).all()
    assert (table["target"] >= 0.0).all()
    if hold_a:
        assert "A" not in table.index or table.loc["A", "trade"] == 0.0
    else:
        assert orders.cash_after >= -1e-6
        ideal = table["target_weight"] * (orders.value - orders.costs) / table["price"]
        slack = 1.0 + rate * orders.value / table["price"] + 1e-6
        assert ((table["target"] - ideal).abs() <= slack).all()


def test_nothing_to_do_is_no_trade() -> None:
    before = held({"A": 3, "B": 4}, {"A": 7.0, "B": 19.0}, 0.0)
    assert size_orders(before.weights(), before, cost_rate=0.01).trades.empty


def test_what_is_not_wanted_is_sold_to_the_last_fraction() -> None:
    orders = size_orders({"B": 1.0}, held({"A": 2.345, "B": 1}, {"A": 100, "B": 10}))
    assert orders.table.loc["A", "trade"] == -2.345
    assert orders.table.loc["A", "target"] == 0.0
    assert list(orders.trades.index) == ["A", "B"]  # sells first


def test_fractions_hit_the_target() -> None:
    orders = size_orders({"A": 0.25, "B": 0.75}, held({}, {"A": 33.0, "B": 7.0}, 1000.0), lot=0.0)
    assert orders.table["weight_after"].tolist() == pytest.approx([0.25, 0.75])
    assert orders.cash_after == pytest.approx(0.0, abs=1e-9)


def test_what_cannot_be_valued_or_traded_is_told() -> None:
    with pytest.raises(DataError, match="no price for Z"):
        size_orders({"A": 1.0}, held({"Z": 1}, {"A": 10.0}, 100))
    with pytest.raises(DataError, match="No price for B"):
        size_orders({"A": 0.5, "B": 0.5}, held({}, {"A": 10.0, "B": np.nan}, 100))
    with pytest.raises(DataError, match="above zero"):
        size_orders({"A": 1.0}, held({}, {"A": 10.0}, 0.0))
    with pytest.raises(SpecError, match="negative"):
        size_orders({"A": 1.0}, held({}, {"A": 10.0}, 1.0), cost_rate=-0.1)


@pytest.fixture
def orders() -> Orders:
    return size_orders(
        {"BRK.B": 0.5, "KO": 0.5}, held({"OLD-A": 2.5, "KO": 100}, {"OLD-A": 8.0, "KO": 50.0, "BRK.B": 300.0}, 1000.0)
    )


def test_the_basket_is_what_tws_reads(orders: Orders) -> None:
    rows = list(csv.DictReader(io.StringIO(ibkr_basket(orders))))
    assert tuple(rows[0]) == IBKR_COLUMNS
    assert [(row["Action"], row["Quantity"], row["Symbol"]) for row in rows] == [
        ("SELL", "40", "KO"), ("SELL", "2.5", "OLD A"), ("BUY", "10", "BRK B"),
    ]  # fmt: skip
    assert {row["OrderType"] for row in rows} == {"MKT"}
    assert {row["SecType"] for row in rows} == {"STK"}


@pytest.mark.parametrize("size", ["qty", "notional"])
def test_alpaca_lines_have_one_size_each(orders: Orders, size: str) -> None:
    lines = [json.loads(line) for line in alpaca_lines(orders, size=size, tag="mine-2022").splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert ("qty" in line) != ("notional" in line)
        assert isinstance(line.get("qty", line.get("notional")), str)
        assert line["type"] == "market"
        assert line["client_order_id"].startswith("mine-2022-")
    by_name = {line["symbol"]: line for line in lines}
    assert by_name["OLD.A"] == by_name["OLD.A"] | {"side": "sell", "qty": "2.5"}  # a sale of everything is in shares
    assert by_name["BRK.B"]["side"] == "buy"
    if size == "notional":
        assert by_name["BRK.B"]["notional"] == "3000.00"


def test_an_unknown_size_is_refused(orders: Orders) -> None:
    with pytest.raises(SpecError, match="notional"):
        alpaca_lines(orders, size="both")


@pytest.mark.parametrize(("number", "text"), [(3.0, "3"), (2.5, "2.5"), (1e-7, "0.0000001"), (1e6, "1000000")])
def test_numbers_are_plain(number: float, text: str) -> None:
    assert plain(number) == text


def test_holdings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "holdings.csv"
    path.write_text("\ufeffTicker , Shares,note\nKO, 40,x\nAAPL,1.5,\n", encoding="utf-8")
    assert read_holdings(path).to_dict() == {"KO": 40.0, "AAPL": 1.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ticker,count\nKO,1\n", "shares"),
        ("ticker,shares\nKO,x\n", "line 2"),
        ("ticker,shares\nKO,1\nKO,2\n", "twice"),
        ("ticker,shares\n,1\n", "line 2"),
        ("ticker,shares\nKO,\n", "KO"),
        ("ticker,shares\nKO,inf\n", "KO"),
        ("", "CSV"),
    ],
)
def test_bad_holdings_are_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "holdings.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_holdings(path)
    with pytest.raises(DataError, match="no such"):
        read_holdings(tmp_path / "other.csv")
