"""Tally: by hand, beside the ledger, names that come and go, no look-ahead, what it writes and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.backtesting import walk_forward
from portfolio_ebm.backtesting.ledger import Book, drift, leave
from portfolio_ebm.errors import DataError

HALF, ALL = np.array([0.5, 0.5]), np.array([1.0, 0.0])
CALM = pe.Strategy(
    name="calm", market=pe.LedoitWolf(lookback=20), energy=pe.Variance(), constructor=pe.LeastTrade(0.01)
)


def panel(moves: np.ndarray, names: str) -> pe.Panel:
    index = pd.bdate_range("2021-01-04", periods=len(moves))
    return pe.Panel.from_returns(pd.DataFrame(moves, index=index, columns=list(names)))


def test_rise_and_savings_by_hand() -> None:
    # Ten percent up and ten down of A alone: 0.1 and -0.1; of half: 0.05, and -0.055 / 1.05 of what it is worth then.
    start = pe.Tally("", ("A", "B"), ALL, HALF)
    assert start.rise == start.saved == 0.0
    after = start.earned([[0.1, 0.0], [-0.1, 0.0]])
    assert np.isclose(after.squares, 0.02) and np.isclose(after.optimum_squares, 0.05**2 + (0.055 / 1.05) ** 2)
    assert np.isclose(after.rise, (after.squares / after.optimum_squares) ** 0.5 - 1.0) and after.rise > 0.9
    assert np.allclose(after.weights, ALL) and np.allclose(after.optimum, [0.495 / 0.995, 0.5 / 0.995])
    done = after.decided(np.array([0.8, 0.2]), np.array([0.0, 1.0]), ("A", "B"), "")
    assert np.isclose(done.traded, 0.4) and np.isclose(done.optimum_traded, 2 * 0.495 / 0.995)
    assert np.isclose(done.saved, 1.0 - 0.4 / done.optimum_traded) and done.decisions == 2


def test_it_drifts_as_the_ledger_does() -> None:
    g = np.random.default_rng(0)
    moves, cash = 0.05 * g.standard_normal((30, 4)), 0.001 * g.random(30)
    moves[g.random(moves.shape) < 0.1] = np.nan
    w = np.array([0.4, 0.5, -0.2, 0.1])
    found = pe.Tally("", tuple("ABCD"), w, w / 2).earned(moves, cash)
    for start, end, squares in ((w, found.weights, found.squares), (w / 2, found.optimum, found.optimum_squares)):
        book, total = Book(start), 0.0
        for move, rate in zip(moves, cash, strict=True):
            book, gross = drift(book, move, float(rate))
            total += gross**2
        assert np.allclose(book.weights, end, rtol=1e-12) and np.isclose(total, squares, rtol=1e-11)


def test_periods_are_those_after_its_date_and_none_later() -> None:
    moves = 0.02 * np.random.default_rng(1).standard_normal((9, 2))
    days = panel(moves, "AB")
    day = [str(date.date()) for date in pd.DatetimeIndex(days.dates)]
    start = pe.Tally(day[2], ("A", "B"), ALL, HALF)
    found, by_hand = start.upto(days.past(day[6])), start.earned(moves[3:7])
    assert found.date == day[6] and np.array_equal(found.weights, by_hand.weights) and found.squares == by_hand.squares
    poisoned = panel(np.where(np.arange(9)[:, None] > 6, np.nan, moves), "AB")
    assert start.upto(poisoned.past(day[6])).plain() == found.plain()
    assert start.upto(days.past(day[2])).plain() == start.plain()
    with pytest.raises(DataError, match=f"of {day[2]}, after {day[1]}"):
        start.upto(days.past(day[1]))


def test_names_that_come_are_zero_and_names_that_go_stay_as_they_are() -> None:
    days = panel(np.full((3, 2), 0.01), "BC")
    first = str(pd.DatetimeIndex(days.dates)[0].date())
    found = pe.Tally(first, ("A", "B", "X"), np.array([0.5, 0.5, 0.0]), np.array([0.0, 1.0, 0.0])).upto(days.past(-1))
    assert found.assets == ("B", "C", "A")
    grown = 0.5 * 1.01**2
    assert np.allclose(found.weights, [grown / (grown + 0.5), 0.0, 0.5 / (grown + 0.5)])
    after = found.decided(np.array([0.5, 0.5]), np.array([1.0, 0.0]), ("B", "C"), "2021-02-01")
    assert np.isclose(after.traded, abs(0.5 - grown / (grown + 0.5)) + 0.5)  # A is gone, which is no trade
    assert after.assets == ("B", "C") and after.optimum_traded == 0.0
    halted = found.decided(
        np.array([0.5, 0.5]), np.array([0.5, 0.5]), ("B", "C"), "2021-02-01", np.array([True, False])
    )
    assert np.isclose(halted.traded, abs(0.5 - grown / (grown + 0.5))) and np.isclose(halted.optimum_traded, 0.5)


def test_what_is_written_is_read_back_bit_for_bit_and_nothing_else_is_read() -> None:
    w = np.random.default_rng(2).dirichlet(np.ones(3))
    one = pe.Tally("2021-01-04", tuple("ABC"), w, w[::-1].copy(), 7, 0.1 + 0.2, 1.0 / 3.0, 0.7, 0.9)
    again = pe.Tally.of(json.loads(json.dumps(one.plain())))
    assert again.plain() == one.plain() and np.array_equal(again.weights, w) and again.rise == one.rise
    damage = (
        ("squares", None), ("squares", -1.0), ("squares", 10**400), ("traded", float("nan")), ("optimum", {"A": 1.0}),
        ("weights", 3), ("weights", {"A": "x", "B": 0.0, "C": 0.0}), ("decisions", float("inf")), ("decisions", 2.7),
        ("decisions", -5), ("date", None), ("date", "soon"), ("date", "2021-13-01"), ("date", "20210104"),
    )  # fmt: skip
    for broken in ({}, [1], None, *({**one.plain(), key: value} for key, value in damage)):
        with pytest.raises(DataError, match="no tally"):
            pe.Tally.of(broken)


def test_what_cannot_be_is_refused_in_words() -> None:
    one = pe.Tally("", ("A", "B"), ALL, HALF)
    for returns, cash, words in (
        (np.zeros((1, 3)), 0.0, r"got shape \(1, 3\), and the tally is of 2 assets"),
        (np.zeros((2, 2, 2)), 0.0, r"got shape \(2, 2, 2\)"),
        ([[-1.0, 0.0]], 0.0, "lost all its value"), ([["a", "b"]], 0.0, "not made of numbers"),
        ([[np.inf, 0.0]], 0.0, "infinite"), ([[0.1, 0.0]], np.nan, "infinite, or one of cash"),
        (np.zeros((2, 2)), [0.0] * 3, "of 2 periods, and those of cash of 3"),
        (pd.DataFrame([[0.1, 0.0]], columns=["B", "A"]), 0.0, "another order"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            one.earned(returns, cash)
    assert one.earned(np.zeros((0, 2))).plain() == one.plain()
    named = pd.DataFrame([[0.1, 0.0]], columns=["A", "B"])
    assert one.earned(named).plain() == one.earned(named.to_numpy()).plain()
    for parts in ((np.ones(3), HALF), (np.array([np.nan, 1.0]), HALF), (ALL, np.ones((2, 2)))):
        with pytest.raises(DataError, match="no tally"):
            pe.Tally("", ("A", "B"), *parts)


def test_a_tally_of_something_else_is_refused_at_both_doors() -> None:
    past = panel(0.01 * np.random.default_rng(3).standard_normal((40, 2)), "AB").past(-1)
    frame = pd.DataFrame(np.eye(2), list("AB"), list("AB"))

    def live(tally) -> pe.Allocation:
        return pe.rebalance(CALM, past, HALF, tally=tally)

    def own(tally) -> pe.Allocation:
        return pe.optimize(pe.Variance(), pe.Budget(), covariance=frame, tally=tally, constructor=pe.Convex())

    done = live(None)
    for door in (live, own):
        for other in (done, done.tally.plain(), "rebalance.json"):
            with pytest.raises(DataError, match="of the last decision, not"):
                door(other)
        with pytest.raises(DataError, match="holds X and nothing"):
            door(pe.Tally("2021-01-04", ("X", "A"), ALL, ALL))
    with pytest.raises(DataError, match="of this very date"):
        live(done.tally)
    with pytest.raises(DataError, match="has no date"):
        live(pe.Tally("", ("A", "B"), ALL, HALF))
    assert live(pe.Tally("2021-01-04", ("A", "B"), ALL, HALF)).tally.decisions == 2


def test_where_a_day_has_several_rows_the_time_of_day_counts() -> None:
    moves = 0.02 * np.random.default_rng(4).standard_normal((80, 2))
    hours = pd.DatetimeIndex(
        [d + pd.Timedelta(hours=h) for d in pd.bdate_range("2021-01-04", periods=40) for h in (10, 16)]
    )
    days = pe.Panel.from_returns(pd.DataFrame(moves, hours, list("AB")))
    first = pe.rebalance(CALM, days.past(40), None).tally
    assert first.date == "2021-02-01T10:00:00"
    assert first.upto(days.past(44)).squares == first.earned(moves[41:45]).squares
    assert pe.rebalance(CALM, days.past(41), HALF, tally=first).tally.date == "2021-02-01T16:00:00"


def test_a_decision_that_failed_leaves_the_tally_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    given, handed = [], []

    def sometimes(*args, tally, **settings) -> pe.Allocation:
        given.append(tally)
        if len(given) == 2:
            raise DataError("no data today")
        handed.append(pe.rebalance(*args, tally=tally, **settings))
        return handed[-1]

    monkeypatch.setattr(walk_forward, "rebalance", sometimes)
    found = pe.backtest(CALM, panel(0.01 * np.random.default_rng(5).standard_normal((88, 2)), "AB"))
    assert found.decisions["ok"].tolist() == [True, False, True, True]
    assert given[:3] == [None, handed[0].tally, handed[0].tally] and given[3] is handed[1].tally
    assert handed[-1].tally.decisions == 3


def test_beside_the_ledger_with_names_that_come_halt_and_are_delisted() -> None:
    g = np.random.default_rng(6)
    prices = pd.DataFrame(
        100 * np.exp((0.01 * g.standard_normal((400, 5))).cumsum(0)),
        pd.bdate_range("2020-01-01", periods=400), list("ABCDE"),
    )  # fmt: skip
    prices.iloc[:150, 0], prices.iloc[195:205, 1], prices.iloc[300:, 2] = np.nan, np.nan, np.nan
    days = pe.Panel.from_prices(prices, delistings={"C": -0.6})
    strategy = pe.Strategy(
        name="calm", market=pe.LedoitWolf(lookback=60), energy=pe.Variance(), breaches="at once", tolerance=0.002,
        constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.4),
        constructor=pe.LeastTrade(0.05, unit="realised volatility"),
    )  # fmt: skip
    found, tally = pe.backtest(strategy, days, costs=0.0, delay=0), None
    for when in found.decisions.index:
        t, held = days.row(when), None
        if tally is not None:
            book, _ = drift(Book(found.weights.shift(1).loc[when].to_numpy()), days.returns[t], 0.0)
            held = leave(book, days.exit_rows <= t).weights
            before = tally.upto(days.past(t))
            assert np.isclose(before.squares, (found.gross.loc[:when] ** 2).sum(), rtol=1e-12)
            assert before.rise == found.decisions.loc[when, "search: rise so far"]
        tally = pe.Tally.of(
            json.loads(json.dumps(pe.rebalance(strategy, days.past(t), held, tally=tally).tally.plain()))
        )
    assert set(found.decisions["reason"]) == {"schedule", "breach"} and len(found.events) == 1
    assert tally.decisions == len(found.decisions)
    assert np.isclose(tally.traded, found.trades.abs().to_numpy()[1:].sum(), rtol=1e-9)
