"""LeastTrade: against a conic solver, its limits, and what it refuses."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.backtesting.ledger import Book, drift
from portfolio_ebm.construction.least_trade import LeastTrade
from portfolio_ebm.errors import SpecError


def world(n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    draws = 0.01 * g.standard_normal((400, n)) @ (np.eye(n) + 0.3 * g.standard_normal((n, n)))
    draws = draws + 0.001 * g.standard_normal(n)
    held = g.dirichlet(np.ones(n))
    return draws, np.cov(draws, rowvar=False), draws.mean(0), held


RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=0.3)


def by_cone(make, limit: float, held: np.ndarray) -> float:
    w = cp.Variable(len(held))
    rules = [cp.sum(w) == 1, w >= 0, w <= 0.3, make(w) <= limit]
    problem = cp.Problem(cp.Minimize(cp.norm1(w - held)), rules)
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [0.002, 0.02, 0.2])
def test_it_trades_as_little_as_a_conic_solver_finds(seed: int, tolerance: float) -> None:
    _, cov, mean, held = world(seed=seed)
    energy = pe.Return() + 3 * pe.Variance()
    found = pe.optimize(energy, RULES, mean=mean, covariance=cov, held=held, constructor=LeastTrade(tolerance))
    assert found.status
    best = pe.optimize(energy, RULES, mean=mean, covariance=cov, held=held, constructor=pe.Convex())
    limit = best.energy + tolerance * sum(abs(share) for share in best.breakdown.values())
    root = np.linalg.cholesky(cov)
    scale = 1.0 / abs(limit)
    theirs = by_cone(lambda w: scale * (3 * cp.sum_squares(root.T @ w) - mean @ w), scale * limit, held)
    assert found.energy <= limit * (1 + 1e-12 * np.sign(limit))
    assert abs(found.diagnostics["trade"] - theirs) < 2e-6
    assert found.diagnostics["least trade"] <= theirs + 1e-6


@pytest.mark.parametrize("seed", range(2))
def test_tails_that_are_piecewise_linear(seed: int) -> None:
    draws, _, _, held = world(seed=seed)
    energy = pe.CVaR(level=0.9)
    found = pe.optimize(energy, RULES, scenarios=draws, held=held, constructor=LeastTrade(0.05))
    best = pe.optimize(energy, RULES, scenarios=draws, held=held, constructor=pe.Convex())
    theirs = by_cone(lambda w: cp.sum_largest(-draws @ w, 40) / 40 / best.energy, 1.05, held)
    assert found.status and abs(found.diagnostics["trade"] - theirs) < 1e-5


def test_the_unit_of_volatility_is_volatility() -> None:
    _, cov, _, held = world()
    best = pe.optimize(pe.Variance(), RULES, covariance=cov, constructor=pe.Convex())
    found = pe.optimize(
        pe.Variance(), RULES, covariance=cov, held=held, constructor=LeastTrade(0.01, unit="volatility")
    )
    assert np.isclose((found.energy / best.energy) ** 0.5, 1.01, atol=1e-9)
    with pytest.raises(SpecError, match="unit='energy'"):
        pe.optimize(pe.CVaR(), RULES, scenarios=world()[0], held=held, constructor=LeastTrade(0.01, unit="volatility"))


def test_what_is_good_enough_is_kept_and_nothing_held_buys_the_optimum() -> None:
    _, cov, _, _ = world()
    best = pe.optimize(pe.Variance(), RULES, covariance=cov, constructor=pe.Convex())
    near = 0.999 * best.weights + 0.001 / len(best.weights)
    kept = pe.optimize(pe.Variance(), RULES, covariance=cov, held=near, constructor=LeastTrade(0.05))
    assert np.allclose(kept.weights, near, atol=1e-9) and kept.diagnostics["trade"] < 1e-8
    first = pe.optimize(pe.Variance(), RULES, covariance=cov, constructor=LeastTrade(0.05))
    assert np.allclose(first.weights, best.weights, atol=1e-8)


def test_holdings_that_break_the_rules_are_brought_back() -> None:
    _, cov, _, held = world()
    held = np.eye(len(held))[0]
    found = pe.optimize(pe.Variance(), RULES, covariance=cov, held=held, constructor=LeastTrade(1e3))
    assert np.isclose(found.diagnostics["trade"], 1.4) and found.weights.max() <= 0.3 + 1e-9


def test_choices_of_names_are_refused() -> None:
    _, cov, _, held = world()
    with pytest.raises(SpecError, match="Cardinality"):
        pe.optimize(
            pe.Variance(), RULES & pe.Cardinality(at_most=5), covariance=cov, held=held, constructor=LeastTrade()
        )
    with pytest.raises(SpecError):
        LeastTrade(0.0)


def test_live_is_the_backtest_and_trades_less_than_the_optimum() -> None:
    g = np.random.default_rng(3)
    moves = 0.01 * g.standard_normal((105, 5)) @ (np.eye(5) + 0.4 * g.standard_normal((5, 5)))
    index = pd.bdate_range("2021-01-01", periods=105)
    panel = pe.Panel.from_prices(pd.DataFrame(100 * np.exp(moves.cumsum(0)), index=index, columns=list("ABCDE")))
    calm = pe.Strategy(
        name="calm", market=pe.LedoitWolf(lookback=40), energy=pe.Variance(),
        constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.5), rebalance=pe.Monthly(),
        constructor=LeastTrade(0.02, unit="volatility"),
    )  # fmt: skip
    found, optimum = (
        pe.backtest(strategy, panel, costs=0.0, delay=0) for strategy in (calm, calm.replace(constructor=pe.Convex()))
    )
    assert len(found.decisions) == 3 and found.decisions["ok"].all()
    for when in found.decisions.index:
        # The book of the day before, drifted over the day.
        held = None
        if when != found.weights.index[0]:
            book, _ = drift(Book(found.weights.shift(1).loc[when].to_numpy()), panel.returns[panel.row(when)], 0.0)
            held = book.weights
        live = pe.rebalance(calm, panel.past(str(when.date())), held)
        assert np.array_equal(live.weights.to_numpy(), found.weights.loc[when].to_numpy())
    # The first purchase is the same; after it less is traded.
    traded, needed = found.trades.abs().sum(axis=1), optimum.trades.abs().sum(axis=1)
    assert traded.iloc[1:].sum() < needed.iloc[1:].sum()
