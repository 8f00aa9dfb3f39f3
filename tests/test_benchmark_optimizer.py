"""The optimizer benchmark's evaluator, which judges every side: against sums by hand, and each rule broken alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.optimizer.problem import Problem, formula, inputs, rules, worst_mean
from benchmarks.optimizer.sides import greedy, on_choice, ours, polished, rounding

COVARIANCE = np.diag([0.01, 0.02, 0.04, 0.08])
MEAN = np.array([0.01, 0.02, 0.03, 0.04])
SMALL = Problem("four names", MEAN, COVARIANCE, risk=2.0, reward=0.5, names=2, floor=0.1)
HEAVY = replace(SMALL, held=np.full(4, 0.25), volume=np.array([9.0, 4.0, 2.0, 1.0]), capital=0.1)
"""From all four names, by trades that have an impact."""


def test_energy_is_the_sum_by_hand() -> None:
    w = np.array([0.5, 0.0, 0.0, 0.5])
    scenarios = np.tile(np.array([[0.1, 0, 0, 0], [-0.2, 0, 0, 0.0]]), (20, 1))
    held = np.array([0.5, 0.5, 0.0, 0.0])
    problem = replace(SMALL, tail=1.0, scenarios=scenarios, held=held, rate=0.01, ticket=0.001, turnover=1.0)
    problem = replace(problem, volume=np.array([4.0, 4.0, 4.0, 2.0]), capital=8.0)
    impact = (0.1 * 0.0 + np.sqrt(0.02) * np.sqrt(8.0 / 4.0) + np.sqrt(0.08) * np.sqrt(8.0 / 2.0)) * 0.5**1.5
    assert problem.parts(w) == pytest.approx((2.0 * 0.25 * 0.09, -0.5 * 0.025, 0.1, 0.01, 0.002, impact))


def test_worst_twentieth_counts_the_last_scenario_by_its_fraction() -> None:
    assert worst_mean(-np.arange(1.0, 31.0)) == pytest.approx((30.0 + 0.5 * 29.0) / 1.5)


@pytest.mark.parametrize(
    ("change", "w", "broken"),
    [
        ({}, [0.5, 0.5, 0, 0], 0.0),
        ({}, [0.5, 0.4, 0, 0], 0.1),
        ({}, [1.1, -0.1, 0, 0], 0.1),
        ({}, [0.4, 0.3, 0.3, 0], 1.0),
        ({}, [0.95, 0.05, 0, 0], 0.05),
        ({"exactly": True}, [1, 0, 0, 0], 1.0),
        ({"names": 0, "floor": 0.0, "limits": "RIC 25/50"}, [0.25, 0.25, 0.25, 0.25], 0.5),
        ({"names": 0, "floor": 0.0, "limits": "UCITS"}, [0.7, 0.1, 0.1, 0.1], 0.6),
        ({"held": np.array([1.0, 0, 0, 0]), "turnover": 0.8}, [0.5, 0.5, 0, 0], 0.2),
        ({"cash": 0.15}, [0.5, 0.4, 0, 0], 0.0),
        ({"cash": 0.15}, [0.5, 0.2, 0, 0], 0.15),
        ({"lots": np.full(4, 0.2), "cash": 0.5}, [0.4, 0.45, 0, 0], 0.05),
    ],
)  # fmt: skip
def test_violation_names_the_rule_broken_by_most(change: dict[str, object], w: list[float], broken: float) -> None:
    assert replace(SMALL, **change).violation(np.array(w, dtype=float)) == pytest.approx(broken)


@pytest.mark.parametrize("problem", [SMALL, HEAVY, replace(HEAVY, rate=1e-3)], ids=["free", "impact", "rate as well"])
def test_every_side_is_feasible_and_none_is_below_what_all_pairs_reach(problem: Problem) -> None:
    pairs = [np.isin(np.arange(4), [i, j]) for i in range(4) for j in range(i)]
    least = min(problem.energy(w) for pair in pairs if (w := on_choice(problem, pair)) is not None)
    for found in (ours(problem), rounding(problem), greedy(problem)):
        assert found.weights is not None
        assert problem.violation(found.weights) <= 1e-9
        assert problem.energy(found.weights) >= least - 1e-10
    assert problem.energy(ours(problem).weights) == pytest.approx(least, abs=1e-10)


def test_the_slope_is_the_difference_of_energies() -> None:
    w, step = np.array([0.4, 0.3, 0.2, 0.1]), 1e-6
    problem = replace(HEAVY, rate=1e-3)
    found = [(problem.energy(w + step * row) - problem.energy(w - step * row)) / (2 * step) for row in np.eye(4)]
    assert problem.gradient(w) == pytest.approx(found, rel=1e-6)


def test_the_formula_is_the_evaluators_energy() -> None:
    import portfolio_ebm as pe

    found = pe.optimize(formula(SMALL), rules(SMALL), **inputs(SMALL))
    assert found.energy == pytest.approx(SMALL.energy(found.weights.to_numpy()), abs=1e-12)


def test_tracking_is_the_variance_of_what_is_left_of_the_index(tmp_path: Path) -> None:
    """Made-up prices: the quadratic with its constant is var(R w - r), and so is the variance of R - r."""
    from benchmarks.optimizer.tracking import tracked

    rng = np.random.default_rng(0)
    prices = 50.0 * np.exp(np.cumsum(0.02 * rng.standard_normal((6, 80)), axis=1))
    index = prices[:3].mean(0) * (1.0 + 0.001 * rng.standard_normal(80))
    np.savez(tmp_path / "indtrack1.npz", prices=prices, index=index)
    problem, constant, away = tracked(tmp_path, 1, 3)
    w = rng.dirichlet(np.ones(6))
    returns, market = prices[:, 1:] / prices[:, :-1] - 1.0, index[1:] / index[:-1] - 1.0
    truth = float(np.var(w @ returns - market))
    assert problem.energy(w) + constant == pytest.approx(truth, rel=1e-10)
    assert float(np.var(away @ w)) == pytest.approx(truth, rel=1e-10)
    assert ours(problem).weights is not None


def test_trades_in_lots_are_judged_and_solved_alike_by_all_sides() -> None:
    pytest.importorskip("pyscipopt")
    from benchmarks.optimizer.solvers import scip

    held = np.array([0.5, 0.25, 0.25, 0.0])
    problem = replace(
        SMALL, held=held, ticket=5e-4, turnover=0.6, volume=np.full(4, 50.0), capital=4.0, lots=np.full(4, 0.05),
        cash=0.1, names=3,
    )  # fmt: skip
    mine = ours(problem).weights
    theirs = polished(problem, scip(problem, 20.0, None, problem.scale(held)).weights)
    assert problem.violation(mine) <= 1e-9
    assert problem.violation(theirs) <= 1e-9
    assert problem.energy(mine) == pytest.approx(problem.energy(theirs), abs=1e-8)
    assert problem.energy(mine) <= problem.energy(rounding(problem).weights) + 1e-12
