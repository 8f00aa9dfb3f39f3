"""Tally: by hand, beside the ledger, names that come and go, no look-ahead, what it writes and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.backtesting.ledger import Book, drift
from portfolio_ebm.errors import DataError

HALF, ALL = np.array([0.5, 0.5]), np.array([1.0, 0.0])


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
    assert np.isclose(after.traded, abs(0.5 - grown / (grown + 0.5)) + 0.5 + 0.5 / (grown + 0.5))
    assert after.assets == ("B", "C") and after.optimum_traded == 0.0


def test_what_is_written_is_read_back_bit_for_bit_and_nothing_else_is_read() -> None:
    w = np.random.default_rng(2).dirichlet(np.ones(3))
    one = pe.Tally("2021-01-04", tuple("ABC"), w, w[::-1].copy(), 7, 0.1 + 0.2, 1.0 / 3.0, 0.7, 0.9)
    again = pe.Tally.of(json.loads(json.dumps(one.plain())))
    assert again.plain() == one.plain() and np.array_equal(again.weights, w) and again.rise == one.rise
    for broken in ({}, {**one.plain(), "squares": None}, {**one.plain(), "optimum": {"A": 1.0}},
                   {**one.plain(), "weights": 3}, {**one.plain(), "traded": float("nan")}):  # fmt: skip
        with pytest.raises(DataError, match="no tally"):
            pe.Tally.of(broken)


def test_what_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="of 2 assets, and the returns are of 3"):
        pe.Tally("", ("A", "B"), ALL, HALF).earned(np.zeros((1, 3)))
    with pytest.raises(DataError, match="lost all its value"):
        pe.Tally("", ("A", "B"), ALL, HALF).earned([[-1.0, 0.0]])
