"""LeastTrade: against a conic solver, its limits, and what it refuses."""

from __future__ import annotations

import json

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.backtesting.ledger import Book, drift
from portfolio_ebm.construction import least_trade
from portfolio_ebm.construction.least_trade import LeastTrade
from portfolio_ebm.construction.near.excess import allowed_excess, let_go
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.optimization import given_context
from portfolio_ebm.strategy import long_run


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


STILL = pe.Budget() & pe.LongOnly() & pe.Box(upper=0.3, floors=(("A0", 0.15),), caps=(("A0", 0.15),))
SHORT = pe.Budget(at_least=0.8) & pe.Box(lower=-0.2, upper=0.3) & pe.Leverage(1.6)
CURVED = RULES & pe.VolatilityCap(0.0085) & pe.Turnover(1.4)


@pytest.mark.parametrize("rules", [RULES, STILL, SHORT, CURVED], ids=["long", "one fixed", "shorts", "curved"])
@pytest.mark.parametrize(
    "energy",
    [
        pe.Variance(), pe.Return(), pe.CVaR(level=0.9) + pe.TradingCost(1e-4), pe.Variance() + 0.02 * pe.CVaR(0.9),
        pe.Return() + 2 * pe.Variance() + pe.TradingCost(2e-4), pe.Variance() + 0.01 * pe.MeanAbsoluteDeviation(),
        pe.Return() + pe.Variance() + 0.1 * pe.BoxReturn(observations=400),
    ],
    ids=repr,
)  # fmt: skip
def test_one_program_finds_what_the_search_finds(energy, rules, monkeypatch) -> None:
    draws, _, _, held = world(n=8, seed=1)
    names = [f"A{i}" for i in range(8)]
    inputs = {"scenarios": pd.DataFrame(draws, columns=names), "held": pd.Series(held, index=names)}

    def found() -> pe.Allocation:
        return pe.optimize(energy, rules, constructor=LeastTrade(0.05), **inputs)

    program = found()
    assert program.status and "in 2 convex steps" in str(program.status), "the program was not asked"
    monkeypatch.setattr(least_trade, "_at_once", lambda *_: None)
    search = found()
    assert search.status and "in 2 convex steps" not in str(search.status)
    assert program.diagnostics["excess"] <= program.diagnostics["excess allowed"] * (1 + 1e-12)
    assert abs(program.diagnostics["trade"] - search.diagnostics["trade"]) < 2e-7
    gap = program.diagnostics["trade"] - program.diagnostics["least trade"]
    assert 0.0 <= gap < 1e-10 and program.diagnostics["least trade"] <= search.diagnostics["trade"] + 1e-12


@pytest.mark.parametrize(
    "energy",
    [
        pe.Volatility(), pe.Variance() + 1e-5 * pe.NegativeEntropy(), pe.MaxDrawdown(),
        pe.RobustVariance(correlation=0.1),
    ],
    ids=repr,
)  # fmt: skip
def test_what_no_program_takes_is_searched(energy) -> None:
    draws, _, _, held = world(n=6)
    inputs = {"scenarios": draws[:60], "paths": draws[None, :60], "held": held}
    found = pe.optimize(energy, RULES, constructor=LeastTrade(), **inputs)
    assert found.status and found.diagnostics["excess"] <= found.diagnostics["excess allowed"] * (1 + 1e-12)
    assert found.diagnostics["trade"] - found.diagnostics["least trade"] < 1e-6


def test_an_energy_that_is_infinite_at_the_holdings() -> None:
    n = 6
    held = np.array([0.3, 0.3, 0.3, 0.1, 0.0, 0.0])
    found = pe.optimize(
        pe.RiskBudget(), RULES, covariance=0.04 * np.eye(n), held=held, constructor=LeastTrade(0.05)
    )  # fmt: skip
    assert found.status

    # Of names that are alike and uncorrelated the energy is n/2 w'w - sum log w / n, least at equal weights.
    def energy(w):
        return n / 2 * cp.sum_squares(w) - cp.sum(cp.log(w)) / n

    least = 0.5 + np.log(n)
    limit = least + 0.05 * least
    assert found.energy <= limit * (1 + 1e-12)
    assert abs(found.diagnostics["trade"] - by_cone(energy, limit, held)) < 2e-6


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


LASTING = LeastTrade(tolerance=0.02, unit="realised volatility")


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_price_of_trade_is_the_same_in_quiet_and_in_wild_times(scale: float) -> None:
    # S = s I, L = I: the optimum is (1/2, 1/2), V = s/2, U = 1/2. At (1/2 + d, 1/2 - d) the excess is 2 s d^2, which
    # may be 1/16 * (1.02^2 - 1) * U^2 / V = 0.0404 / (32 s). So s d, and with it the price dE/dT = 2 s d, is the same.
    found = pe.optimize(
        pe.Variance(), pe.Budget() & pe.LongOnly(), covariance=scale * np.eye(2), long_run=np.eye(2), held=[0.9, 0.1],
        constructor=LASTING,
    )  # fmt: skip
    assert found.status and np.isclose(found.diagnostics["excess"], 0.0404 / 32 / scale, rtol=1e-9)
    assert np.isclose(found.weights[0], 0.5 + (0.0404 / 64) ** 0.5 / scale, atol=1e-7)


def test_the_excess_of_the_long_run_by_hand() -> None:
    now, usual = np.diag([1.0, 3.0]), np.diag([2.0, 2.0])
    w = np.array([0.75, 0.25])  # V = 3/4, U = 5/4
    for energy, expected in (
        (2 * pe.Variance(), 2 * 0.0404 / 16 * 1.25**2 / 0.75),
        (3 * pe.Volatility(), 3 * 0.02 / 16 * 1.25 / 0.75**0.5),
        (pe.Return() + pe.Variance(), 0.0404 / 16 * 1.25**2 / 0.75),
    ):
        ctx = given_context(energy, RULES, mean=[0.1, 0.2], covariance=now, long_run=usual).ctx
        excess = allowed_excess(0.02, "realised volatility", energy, ctx.mean.new_tensor(w), ctx)
        assert np.isclose(excess, expected, rtol=1e-12)
    # Where now is as usual, a sixteenth of the tolerance of the estimate.
    ctx = given_context(pe.Variance(), RULES, covariance=now, long_run=now).ctx
    of = [allowed_excess(0.02, unit, pe.Variance(), ctx.mean.new_tensor(w), ctx) for unit in LASTING_AND_ESTIMATED]
    assert np.isclose(of[0], of[1] / 16, rtol=1e-12)


LASTING_AND_ESTIMATED = ("realised volatility", "volatility")


def test_a_long_run_that_is_missing_or_no_covariance_is_refused() -> None:
    _, cov, _, held = world()

    def ask(**more) -> None:
        pe.optimize(pe.Variance(), RULES, covariance=cov, held=held, constructor=LASTING, **more)

    with pytest.raises(SpecError, match="long_run="):
        ask()
    with pytest.raises(ShapeError, match="long_run"):
        ask(long_run=np.eye(3))
    with pytest.raises(DataError, match="long_run is not symmetric"):
        ask(long_run=np.triu(np.ones((12, 12))))
    with pytest.raises(DataError, match="long_run is not positive semi-definite"):
        ask(long_run=-np.eye(12))
    with pytest.raises(DataError, match="long_run is not finite"):
        ask(long_run=np.full((12, 12), np.nan))
    with pytest.raises(SpecError, match="unit='energy'"):
        pe.optimize(pe.Return(), RULES, mean=cov[0], covariance=cov, long_run=cov, held=held, constructor=LASTING)


def test_what_is_let_go_follows_the_tally() -> None:
    # p = 1/16 (1 + (1 - rise / (0.9 tolerance)) decisions / 24), within [1/16, 24/16], here for a tolerance of 2 %.
    def tally(decisions: int, rise: float) -> pe.Tally:
        one = np.array([1.0])
        return pe.Tally("", ("A",), one, one, decisions, squares=(1.0 + rise) ** 2, optimum_squares=1.0)

    assert let_go(0.02, None) == let_go(0.02, tally(0, 0.0)) == 1.0 / 16.0
    assert np.isclose(let_go(0.02, tally(24, 0.0)), 2.0 / 16.0)
    assert np.isclose(let_go(0.02, tally(12, 0.009)), 1.25 / 16.0)  # half of 0.018 is left, for half of 24 decisions
    assert np.isclose(let_go(0.02, tally(24, -0.018)), 3.0 / 16.0)  # below the optimum's leaves more
    assert let_go(0.02, tally(240, 0.018 + 1e-12)) == let_go(0.02, tally(240, 0.5)) == 1.0 / 16.0
    assert let_go(0.02, tally(10_000, 0.0)) == 24.0 / 16.0


def test_a_tally_is_read_handed_on_and_told() -> None:
    # As in the test of the price: 2 s d^2 may be p 0.0404 U^2 / V with s = 1, and p is 2/16 after 24 decisions.
    half = np.array([0.5, 0.5])
    known = pe.Tally("", ("A", "B"), np.array([0.7, 0.3]), half, 24, 2.0, 2.0, 0.3, 0.4)
    ask = {"covariance": pd.DataFrame(np.eye(2), list("AB"), list("AB")), "long_run": np.eye(2), "held": [0.9, 0.1]}
    found = pe.optimize(pe.Variance(), pe.Budget() & pe.LongOnly(), tally=known, constructor=LASTING, **ask)
    assert np.isclose(found.diagnostics["excess"], 2 * 0.0404 / 32, rtol=1e-9)
    assert "25% of the optimum's turnover was saved, and volatility was +0.00% beside it" in str(found.status)
    assert np.isclose(found.diagnostics["saved so far"], 0.25) and found.diagnostics["rise so far"] == 0.0
    after, a = found.tally, float(found.weights["A"])
    assert after.decisions == 25 and np.array_equal(after.weights, found.weights) and np.allclose(after.optimum, half)
    assert np.isclose(after.traded, 0.3 + 2 * abs(a - 0.7)) and np.isclose(after.optimum_traded, 0.4)
    alone = pe.optimize(pe.Variance(), pe.Budget() & pe.LongOnly(), constructor=LASTING, **ask)
    assert "No tally of earlier decisions was given" in str(alone.status) and alone.tally.decisions == 1
    bought = pe.optimize(pe.Variance(), pe.Budget() & pe.LongOnly(), constructor=LASTING, **{**ask, "held": None}).tally
    assert np.array_equal(bought.weights, bought.optimum) and bought.rise == bought.saved == 0.0
    assert pe.optimize(pe.Variance(), RULES, covariance=np.eye(4), constructor=pe.Convex()).tally is None


def panel_of(moves: np.ndarray) -> pe.Panel:
    index = pd.bdate_range("2021-01-01", periods=len(moves))
    return pe.Panel.from_prices(pd.DataFrame(100 * np.exp(moves.cumsum(0)), index=index, columns=list("ABCDE")))


def moves_of(seed: int) -> np.ndarray:
    g = np.random.default_rng(seed)
    return 0.01 * g.standard_normal((105, 5)) @ (np.eye(5) + 0.4 * g.standard_normal((5, 5)))


CALM = pe.Strategy(
    name="calm", market=pe.LedoitWolf(lookback=40), energy=pe.Variance(),
    constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.5), rebalance=pe.Monthly(),
    constructor=LeastTrade(tolerance=0.02, unit="volatility"),
)  # fmt: skip


def test_the_long_run_is_of_all_the_past_and_of_nothing_else() -> None:
    moves = moves_of(3)
    poisoned = np.where(np.arange(105)[:, None] < 90, moves, 9 * moves_of(4))
    past, other = (panel_of(of).past(89) for of in (moves, poisoned))
    seen = long_run(past, 21.0).dense().numpy()
    days = np.expm1(moves[1:90])
    assert np.allclose(np.diag(seen).sum(), 21 * np.var(days, axis=0).sum(), rtol=1e-12)
    assert np.abs(seen - 21 * np.cov(days, rowvar=False, bias=True)).max() < 0.1 * seen.max()
    assert np.array_equal(seen, long_run(other, 21.0).dense().numpy())
    strategy, held = CALM.replace(constructor=LASTING), [0.2, 0.2, 0.2, 0.2, 0.2]
    one, two = (pe.rebalance(strategy, of, held) for of in (past, other))
    assert one.status and np.array_equal(one.weights.to_numpy(), two.weights.to_numpy())
    # The door for one's own estimates gives the same.
    model = pe.LedoitWolf(lookback=40).fit(past).covariance.dense().numpy()
    mine = pe.optimize(
        pe.Variance(), strategy.constraint, covariance=model, long_run=seen / 21, held=held, constructor=LASTING
    )
    assert np.allclose(mine.weights, one.weights.to_numpy(), atol=1e-6)


@pytest.mark.parametrize("calm", [CALM, CALM.replace(constructor=LASTING)], ids=["estimated", "realised"])
def test_live_is_the_backtest_and_trades_less_than_the_optimum(calm: pe.Strategy) -> None:
    panel = panel_of(moves_of(3))
    found, optimum = (
        pe.backtest(strategy, panel, costs=0.0, delay=0) for strategy in (calm, calm.replace(constructor=pe.Convex()))
    )
    assert len(found.decisions) == 3 and found.decisions["ok"].all()
    tally = None
    for when in found.decisions.index:
        # The book of the day before, drifted over the day.
        held = None
        if when != found.weights.index[0]:
            book, _ = drift(Book(found.weights.shift(1).loc[when].to_numpy()), panel.returns[panel.row(when)], 0.0)
            held = book.weights
        live = pe.rebalance(calm, panel.past(str(when.date())), held, tally=tally)
        tally = pe.Tally.of(json.loads(json.dumps(live.tally.plain())))
        assert np.array_equal(live.weights.to_numpy(), found.weights.loc[when].to_numpy())
    assert tally.plain() == found.tally.plain() and optimum.tally is None, "live goes on where the backtest ended"
    assert tally.decisions == 3 and found.decisions["search: saved so far"].notna().tolist() == [False, True, True]
    # The first purchase is the same; after it less is traded.
    traded, needed = found.trades.abs().sum(axis=1), optimum.trades.abs().sum(axis=1)
    assert traded.iloc[1:].sum() < needed.iloc[1:].sum()
