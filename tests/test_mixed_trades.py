"""Trades that cost a ticket, an impact and a turnover, in whole lots or not: programs, scores and searches against
Clarabel, enumeration and hand."""

from __future__ import annotations

import itertools
from functools import partial

import cvxpy as cp
import numpy as np
import pytest

from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.grids.integers import Slice
from portfolio_ebm.constraints.mixed.moves import best_moves
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice
from portfolio_ebm.constraints.mixed.programs.bent import BentProgram
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.impact import MarketImpact
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.optimization import optimize


def bent(n: int, seed: int, power: float = 2e-3, rate: float = 1e-4, turnover: float = 0.6) -> BentProgram:
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(n, 3)) * 0.05
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-3, 6e-3, n)))
    held = rng.dirichlet(np.full(n, 0.7))
    return BentProgram(
        matrix, -rng.normal(2e-3, 3e-3, n), np.zeros(n), np.ones(n), np.ones((1, n)), np.ones(1), np.ones(1), held,
        rate, turnover, power=rng.uniform(0.0, power, n),
    )  # fmt: skip


def clarabel(p: BentProgram, lower: np.ndarray, upper: np.ndarray) -> float:
    """The least energy on a box, by an independent model; +inf where there is none."""
    w = cp.Variable(p.n)
    z = w - p.held
    energy = 0.5 * cp.quad_form(w, cp.psd_wrap(p.matrix)) + p.linear @ w + p.rate * cp.norm1(z)
    energy = energy + p.power @ cp.power(cp.abs(z), 1.5)
    problem = cp.Problem(cp.Minimize(1e2 * energy), [w >= lower, w <= upper, cp.sum(w) == 1, cp.norm1(z) <= p.turnover])
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value) / 1e2 if problem.status.startswith("optimal") else np.inf


@pytest.mark.parametrize("seed", range(4))
def test_a_program_with_impact_is_clarabels(seed: int) -> None:
    p, rng = bent(12, seed), np.random.default_rng(seed)
    assert p.held is not None
    found = 0
    for _ in range(6):
        still = rng.random(p.n) < 0.4
        lower, upper = np.where(still, p.held, 0.0), np.where(still, p.held, 1.0)
        point, truth = p.minimum(lower, upper, p.rows, p.row_lower, p.row_upper), clarabel(p, lower, upper)
        assert (point is None) == np.isinf(truth)
        if point is not None:
            assert point.value == pytest.approx(truth, abs=1e-8)
            assert point.bound <= point.value
            assert point.value - point.bound <= 1e-9
            assert p.value(point.weights) == pytest.approx(point.value, abs=1e-15)
            found += 1
    assert found


@pytest.mark.parametrize("seed", range(10))
def test_few_names_from_many_are_bounded_to_rounding_under_an_impact(seed: int) -> None:
    """What leaves little room ends at its first point, and a trade near zero makes Newton's steps go to and fro: on
    both the point was the minimum, and its bound far below."""
    p, rng = bent(8, seed, power=3e-2, rate=0.0, turnover=np.inf), np.random.default_rng(seed)
    for size in (1, 2, 3, 5):
        upper = np.where(rng.permutation(p.n) < size, 1.0, 0.0)
        point = p.minimum(0.0 * upper, upper, p.rows, p.row_lower, p.row_upper)
        assert point is not None
        assert point.value == pytest.approx(clarabel(p, 0.0 * upper, upper), abs=1e-7)
        assert point.value - 1e-11 <= point.bound <= point.value


@pytest.mark.parametrize("rate", [0.0, 2e-3])
@pytest.mark.parametrize("gain", [1e-8, 3e-8, 1e-7])
def test_a_trade_that_hardly_pays_is_found_and_bounded_to_rounding(rate: float, gain: float) -> None:
    """A is to grow by 0.3, which B may give a part of: a first unit of B saves `gain` beside its rate, and its impact
    takes that back at 3/2 2e-3 |z|^(1/2) = gain."""
    slope = 0.02 * 0.6 + 1.5e-3 * 0.3**0.5 + rate
    linear = np.array([0.0, slope - 0.02 * 0.4 + rate + gain])
    p = BentProgram(
        0.02 * np.eye(2), linear, np.zeros(2), np.ones(2), np.ones((1, 2)), np.ones(1), np.ones(1),
        np.array([0.3, 0.4]), rate, np.inf, power=np.array([1e-3, 2e-3]),
    )  # fmt: skip
    point = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert point is not None and p.held is not None
    z = (gain / 3e-3) ** 2
    assert p.held[1] - point.weights[1] == pytest.approx(z, rel=0.01)
    assert point.value - 1e-11 <= point.bound <= point.value


def test_the_bound_of_a_program_with_impact_is_below_every_point() -> None:
    p, rng = bent(8, 5), np.random.default_rng(0)
    assert p.held is not None
    point = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert point is not None
    for w in rng.dirichlet(np.ones(8), 400):
        near = p.held + (w - p.held) * min(1.0, p.turnover / np.abs(w - p.held).sum())
        assert p.value(near) >= point.bound


def test_the_slope_and_the_curve_of_a_bend_are_derivatives_of_its_size() -> None:
    p = bent(6, 1)
    assert p.held is not None
    for trade in (-0.2, -0.01, 1e-4, 0.049, 0.3):
        w, h = p.held + trade, 1e-6
        size, slope, curve = p.bend(w)
        assert size == pytest.approx(p.power * abs(trade) ** 1.5, rel=1e-12)
        assert slope == pytest.approx((p.bend(w + h)[0] - p.bend(w - h)[0]) / (2 * h), abs=1e-7)
        assert curve == pytest.approx((p.bend(w + h)[1] - p.bend(w - h)[1]) / (2 * h), rel=1e-4)
    assert all((part == 0.0).all() for part in p.bend(p.held))


def places(p: Program, w: np.ndarray) -> np.ndarray:
    """Where each weight stands: on an end of its box, and on which side of what is held."""
    assert p.held is not None
    ends = 3 * ((w <= p.lower + 1e-9) - 1.0 * (w >= p.upper - 1e-9))
    return ends + np.sign(np.round(w - p.held, 9))


@pytest.mark.parametrize(("power", "near"), [(0.0, 1e-4), (2e-3, 0.1)])
def test_scores_of_moves_are_the_changes_that_the_program_finds(power: float, near: float) -> None:
    """Exact under a quadratic energy, and close under an impact, where no other name changes its end or its side; of
    two names that both move freely one answers the other, which promises no more than there is."""
    n, same = 16, 0
    for seed in range(4):
        p = bent(n, seed, power=power, turnover=np.inf)
        assert p.held is not None
        choices = Choices.of_names(np.arange(n), [(0.0, 0.0), (0.0, 1.0)], [], "FixedCost")
        choices.lower[:, 0], choices.upper[:, 0], choices.cost[:, 1] = p.held, p.held, 2e-4
        mixed = Mixed(p, choices)
        modes = (np.random.default_rng(seed).random(n) < 0.5).astype(np.int64)
        point = on_slice(mixed, modes)
        assert point is not None
        for moves in best_moves(p, choices, choices.exists, modes, point, 24):
            assert (np.diff(moves.scores) >= 0.0).all()
            for units, others, score in zip(moves.units, moves.modes, moves.scores, strict=True):
                changed = modes.copy()
                changed[units] = others
                after = on_slice(mixed, changed, point.weights)
                rest = np.setdiff1d(np.arange(n), units)
                if after is None or (places(p, after.weights) != places(p, point.weights))[rest].any():
                    continue
                change = after.value - point.value
                off = near * (abs(change) + 2e-4 * len(units))
                assert score >= change - off
                assert len(units) > 1 or score <= change + off
                same += 1
    assert same >= 20


@pytest.mark.parametrize("seed", range(3))
def test_the_best_neighbour_is_among_the_moves_scored_best(seed: int) -> None:
    """Under a cap of turnover that binds, where scores are no more than close."""
    n = 12
    p = bent(n, seed, turnover=0.4)
    assert p.held is not None
    choices = Choices.of_names(np.arange(n), [(0.0, 0.0), (0.0, 1.0)], [], "FixedCost")
    choices.lower[:, 0], choices.upper[:, 0], choices.cost[:, 1] = p.held, p.held, 2e-4
    mixed, modes = Mixed(p, choices), (np.random.default_rng(seed).random(n) < 0.6).astype(np.int64)
    point = on_slice(mixed, modes)
    assert point is not None
    every = [(i,) for i in range(n)] + list(itertools.combinations(range(n), 2))
    truth = {}
    for units in every:
        changed = modes.copy()
        changed[list(units)] = 1 - changed[list(units)]
        after = on_slice(mixed, changed)
        truth[units] = np.inf if after is None else after.value
    scored = [
        tuple(sorted(row)) for moves in best_moves(p, choices, choices.exists, modes, point, 16) for row in moves.units
    ]
    gain = point.value - min(truth.values())
    assert gain > 0.0
    assert point.value - min(truth[units] for units in scored) >= 0.95 * gain


def _in_lots(p: Program, step: np.ndarray, order: np.ndarray, least: float, k: np.ndarray) -> float:
    w = np.zeros(p.n)
    w[order] = k * step[order]
    return p.value(w) - least


def test_whole_numbers_on_a_slice_are_the_least_of_all() -> None:
    rng = np.random.default_rng(4)
    for seed in range(4):
        p = bent(4, seed, power=0.0, rate=0.0, turnover=np.inf)
        p = Program(p.matrix, p.linear, p.lower, p.upper, p.rows, np.array([0.8]), p.row_upper)
        step = rng.uniform(0.04, 0.09, 4)
        point = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
        assert point is not None
        counts = [np.arange(int(1.0 / s) + 1) for s in step]
        grid = np.array(list(itertools.product(*counts)), dtype=float)
        total = grid @ step
        grid = grid[(total <= 1.0) & (total >= 0.8)]
        values = np.array([p.value(k * step) for k in grid])
        slice_ = Slice.of(p, point, (p.lower, p.upper), step, 1.0, 8)
        assert slice_ is not None
        order = slice_.names

        value = point.value
        energy = partial(_in_lots, p, step, order, value)
        found = slice_.best(energy, point.weights[order] / step[order], 1.0, 5000)
        assert found is not None
        assert energy(found) == pytest.approx(values.min() - value, abs=1e-12)


N = 5
PRICES = np.array([40.0, 55.0, 75.0, 90.0, 120.0])
CAPITAL = 1000.0


def problem(seed: int, on_grid: bool) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(N, 2)) * 0.05
    held = rng.dirichlet(np.full(N, 0.8))
    lots = PRICES / CAPITAL
    return {
        "mean": rng.normal(4e-3, 6e-3, N), "covariance": loads @ loads.T + np.diag(rng.uniform(1e-3, 4e-3, N)),
        "held": np.floor(held / lots) * lots if on_grid else held, "prices": PRICES, "capital": CAPITAL,
        "volume": np.full(N, 4e4),
    }  # fmt: skip


FORMULA = Return() + 2.0 * Variance() + FixedCost(rate=8e-4) + MarketImpact() + TradingCost(2e-4)


@pytest.mark.parametrize("names", [None, 3])
@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_tickets_impact_lots_turnover_and_numbers_together(seed: int, on_grid: bool, names: int | None) -> None:
    """Every point of the grid is looked at; what the search finds is the best of them, and its bound is below."""
    given = problem(seed, on_grid)
    held, lots = np.asarray(given["held"]), PRICES / CAPITAL
    rules = Budget(1.0, 0.8) & LongOnly() & Turnover(0.9) & RoundLots()
    grid = np.array(list(itertools.product(*(range(int(1.0 / lot) + 1) for lot in lots[:4])))) * lots[:4]
    grid = grid[grid.sum(1) <= 1.0 + 1e-12]
    last = np.arange(int(1.0 / lots[4]) + 1) * lots[4]
    grid = np.column_stack([np.repeat(grid, len(last), axis=0), np.tile(last, len(grid))])
    total = grid.sum(1)
    obeys = (total <= 1.0 + 1e-12) & (total >= 0.8 - 1e-12) & (np.abs(grid - held).sum(1) <= 0.9 + 1e-12)
    if names is not None:
        rules = rules & Cardinality(at_most=names, min_weight=0.1)
        obeys &= ((grid > 0).sum(1) <= names) & ((grid == 0) | (grid >= 0.1 - 1e-12)).all(1)
    grid = grid[obeys]
    assert len(grid)
    z = np.abs(grid - held)
    width = np.sqrt(np.diag(np.asarray(given["covariance"])))
    truth = (
        -grid @ np.asarray(given["mean"]) + 2.0 * np.einsum("ki,ij,kj->k", grid, np.asarray(given["covariance"]), grid)
        + 8e-4 * (z > 1e-9).sum(1) + z**1.5 @ (width * np.sqrt(CAPITAL / 4e4)) + 2e-4 * z.sum(1)
    ).min()  # fmt: skip
    found = optimize(FORMULA, rules, **given)
    assert max(found.residuals.values()) <= 1e-9
    assert found.bound is not None
    assert found.bound <= truth + 1e-12
    assert found.energy == pytest.approx(truth, abs=1e-10)
    assert found.proven and "proven best by columns of lots" in str(found.status)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_tickets_impact_turnover_and_numbers_by_all_slices(seed: int) -> None:
    """Each name stays, is sold, or is traded and held; Clarabel on every one of the slices."""
    given = problem(seed, False)
    held, mean, covariance = (np.asarray(given[key]) for key in ("held", "mean", "covariance"))
    slopes = np.sqrt(np.diag(covariance)) * np.sqrt(CAPITAL / 4e4)
    best = np.inf
    for modes in itertools.product(("still", "sold", "held"), repeat=N):
        count = sum(mode == "held" or (mode == "still" and h > 0.0) for mode, h in zip(modes, held, strict=True))
        if count > 3 or any(mode == "still" and h < 0.1 for mode, h in zip(modes, held, strict=True)):
            continue
        low = np.array([{"still": h, "sold": 0.0, "held": 0.1}[mode] for mode, h in zip(modes, held, strict=True)])
        high = np.array([{"still": h, "sold": 0.0, "held": 1.0}[mode] for mode, h in zip(modes, held, strict=True)])
        if low.sum() > 1.0 or high.sum() < 1.0 or np.abs(np.clip(held, low, high) - held).sum() > 0.9:
            continue
        w = cp.Variable(N)
        z = cp.abs(w - held)
        energy = (
            -mean @ w + 2.0 * cp.quad_form(w, cp.psd_wrap(covariance)) + slopes @ cp.power(z, 1.5) + 2e-4 * cp.sum(z)
        )
        task = cp.Problem(cp.Minimize(1e2 * energy), [w >= low, w <= high, cp.sum(w) == 1.0, cp.sum(z) <= 0.9])
        task.solve(solver=cp.CLARABEL)
        if task.status.startswith("optimal"):
            best = min(best, float(task.value) / 1e2 + 8e-4 * sum(mode != "still" for mode in modes))
    rules = Budget() & LongOnly() & Turnover(0.9) & Cardinality(at_most=3, min_weight=0.1)
    found = optimize(FORMULA, rules, **given)
    assert found.energy == pytest.approx(best, abs=1e-7)
    assert found.proven
    assert max(found.residuals.values()) <= 1e-9
    assert found.bound is not None and found.bound <= best + 1e-7
