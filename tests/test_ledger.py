"""The ledger's identities, and a hand-worked example of three days."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfolio_ebm.backtesting.ledger import Book, drift, leave, trade
from portfolio_ebm.errors import DataError

N = 4
vectors = st.lists(st.floats(0.0, 1.0), min_size=N, max_size=N).map(np.array)
returns = st.lists(st.floats(-0.5, 0.8), min_size=N, max_size=N).map(np.array)
masks = st.lists(st.booleans(), min_size=N, max_size=N).map(np.array)


def scaled(x: np.ndarray, total: float) -> np.ndarray:
    return x / max(x.sum(), 1.0) * total


def test_three_days_by_hand() -> None:
    # Day 1: 100 in cash. Buy half A, half B, costs 1 % of what is traded. q = 0.01 * (1 - q), so q = 1/101.
    # Value after costs 100 * 100/101 = 99.0099; 49.505 in each.
    bought = trade(Book(np.zeros(2)), np.array([0.5, 0.5]), 0.01)
    assert bought.fraction == pytest.approx(1 / 101, abs=1e-15)
    assert bought.book.weights == pytest.approx([0.5, 0.5])
    assert bought.traded == pytest.approx([50 / 101, 50 / 101], abs=1e-15)
    assert bought.turnover == pytest.approx(1.0)
    # Day 2: A +20 %, B -10 %: gross = 0.5 * 0.2 - 0.5 * 0.1 = 0.05; weights 0.6 / 1.05 = 4/7 and 0.45 / 1.05 = 3/7.
    book, gross = drift(bought.book, np.array([0.2, -0.1]), 0.0)
    assert gross == pytest.approx(0.05, abs=1e-15)
    assert book.weights == pytest.approx([4 / 7, 3 / 7], abs=1e-15)
    # Back to half and half: A is sold and B is bought. u_A = 0.5 (1 - q) - 4/7 < 0 and u_B = 0.5 (1 - q) - 3/7 > 0,
    # |u_A| + |u_B| = 4/7 - 3/7 = 1/7 whatever q is, so q = 0.01 / 7 and net = 1.05 (1 - q) - 1.
    back = trade(book, np.array([0.5, 0.5]), 0.01)
    assert back.fraction == pytest.approx(0.01 / 7, abs=1e-15)
    assert (1 + gross) * (1 - back.fraction) - 1 == pytest.approx(0.0485, abs=1e-15)
    # Day 3: nothing moves but cash, of which there is none.
    still, gross = drift(back.book, np.zeros(2), 0.01)
    assert gross == pytest.approx(0.0, abs=1e-16)
    assert still.cash == pytest.approx(0.0, abs=1e-15)
    # Wealth: 100 * 100/101 * 1.05 * (1 - 1/700) = 103.811881...
    wealth = 100 * (1 - bought.fraction) * 1.05 * (1 - back.fraction)
    assert wealth == pytest.approx(100 * 100 / 101 * 1.05 * 699 / 700, abs=1e-12)


def test_in_money_the_trade_pays_exactly_the_rate_on_what_it_trades() -> None:
    # 1000 with 300 in A, 700 in cash; the target is 0.8 A. At 50 bp: x = traded money, value after = 1000 - 0.005 x,
    # 300 + x = 0.8 (1000 - 0.005 x), so x = 500 / 1.004.
    done = trade(Book(np.array([0.3])), np.array([0.8]), 0.005)
    assert done.traded[0] * 1000 == pytest.approx(500 / 1.004, abs=1e-10)
    assert done.fraction * 1000 == pytest.approx(0.005 * 500 / 1.004, abs=1e-12)


@given(vectors, vectors, returns, st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.05), st.floats(-0.01, 0.01))
def test_weights_and_cash_are_one_and_net_is_gross_less_costs(
    held: np.ndarray, wanted: np.ndarray, r: np.ndarray, a: float, b: float, rate: float, cash: float
) -> None:
    book, gross = drift(Book(scaled(held, a)), r, cash)
    assert book.weights.sum() + book.cash == pytest.approx(1.0, abs=1e-14)
    done = trade(book, scaled(wanted, b), rate)
    assert done.book.weights.sum() + done.book.cash == pytest.approx(1.0, abs=1e-14)
    # Costs are the rate on what was traded, and money is conserved: positions + cash before = after + costs.
    assert done.fraction == pytest.approx(rate * np.abs(done.traded).sum(), abs=1e-14)
    left = 1.0 - done.fraction
    assert (book.weights + done.traded) / left == pytest.approx(done.book.weights, abs=1e-13)
    cash_after = book.cash - done.traded.sum() - done.fraction
    assert cash_after / left == pytest.approx(done.book.cash, abs=1e-13)
    costs = (1 + gross) * done.fraction
    assert gross - costs == pytest.approx((1 + gross) * (1 - done.fraction) - 1, abs=1e-14)


@given(vectors, vectors, masks, st.floats(0, 0.02))
def test_names_without_a_price_keep_their_value_and_nothing_is_bought_on_credit(
    held: np.ndarray, wanted: np.ndarray, fixed: np.ndarray, rate: float
) -> None:
    before, target = scaled(held, 1.0), scaled(wanted, 1.0)
    done = trade(Book(before), target, rate, fixed)
    assert np.abs(done.traded[fixed]).max(initial=0.0) == 0.0
    assert done.book.weights[fixed] * (1 - done.fraction) == pytest.approx(before[fixed], abs=1e-14)
    bought = done.traded[~fixed]
    if before[fixed].sum() <= target.sum() * (1 - rate):
        assert done.book.weights.sum() <= max(target.sum(), before.sum()) + 1e-9
    assert np.isfinite(bought).all()


@given(vectors, st.floats(0, 0.05))
def test_to_trade_to_what_is_held_costs_nothing(held: np.ndarray, rate: float) -> None:
    book = Book(scaled(held, 1.0))
    done = trade(book, book.weights, rate)
    assert done.fraction == 0.0
    assert done.turnover == 0.0


def test_dearer_trading_leaves_less() -> None:
    book, target = Book(np.array([0.7, 0.0])), np.array([0.2, 0.6])
    fractions = [trade(book, target, rate).fraction for rate in (0.0, 0.001, 0.01, 0.1)]
    assert fractions[0] == 0.0
    assert all(np.diff(fractions) > 0)


def test_a_missing_return_moves_nothing() -> None:
    book, gross = drift(Book(np.array([0.5, 0.5])), np.array([np.nan, 0.1]), 0.0)
    assert gross == pytest.approx(0.05)
    assert book.weights == pytest.approx([0.5 / 1.05, 0.55 / 1.05])


def test_ruin_is_an_error_with_its_date() -> None:
    with pytest.raises(DataError, match=r"2020-03-01.*no value left"):
        drift(Book(np.array([2.0])), np.array([-0.5]), 0.0, "2020-03-01")


def test_who_leaves_becomes_cash() -> None:
    book = leave(Book(np.array([0.25, 0.5])), np.array([True, False]))
    assert book.weights.tolist() == [0.0, 0.5]
    assert book.cash == 0.5
