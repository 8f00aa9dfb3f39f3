"""The ablation's sides on four names: feasible by the evaluator, and none below what every choice reaches."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.optimizer import ablation_sides
from benchmarks.optimizer.ablation import Tally
from benchmarks.optimizer.ablation_sides import SIDES, rounds, skfolio
from benchmarks.optimizer.problem import Problem
from benchmarks.optimizer.sides import Found, on_choice, on_trades, ours
from portfolio_ebm.construction.choosing import trades

COVARIANCE = np.diag([0.01, 0.02, 0.04, 0.08])
MEAN = np.array([0.01, 0.02, 0.03, 0.04])
PAIR = Problem("two of four", MEAN, COVARIANCE, risk=2.0, reward=0.5, names=2, floor=0.1)
HELD = np.array([0.25, 0.25, 0.25, 0.25])
TRADED = replace(PAIR, names=0, floor=0.0, held=HELD, ticket=1e-3, turnover=0.8)


def least(problem: Problem) -> float:
    """The least energy, by solving every choice: which names are held, or which are traded."""
    if problem.held is None:
        pairs = (np.isin(np.arange(4), pair) for pair in itertools.combinations(range(4), 2))
        options = [on_choice(problem, pair) for pair in pairs]
    else:
        # Weights away from what is held and from zero say which names may move.
        moved = (np.where(np.array(mask), HELD + 0.1, HELD) for mask in itertools.product((0, 1), repeat=4))
        options = [on_trades(problem, w) for w in moved]
    return min(problem.energy(w) for w in options if w is not None)


@pytest.mark.parametrize("problem", [PAIR, TRADED], ids=["names", "trades"])
def test_every_side_is_feasible_and_none_is_below_the_least_of_all_choices(problem: Problem) -> None:
    truth = least(problem)
    for name, side in SIDES.items():
        found = side(problem, 0, 0.01)
        assert found.weights is not None, name
        assert problem.violation(found.weights) <= 1e-9, name
        assert problem.energy(found.weights) >= truth - 1e-10, name
        assert found.seconds > 0.0
    assert problem.energy(ours(problem).weights) == pytest.approx(truth, abs=1e-10)
    assert trades.NOISY > 0, "what is taken out for one side is put back"


def test_with_the_tree_four_names_are_solved_without_noise_and_without_swaps() -> None:
    for name in ("no noise", "no swaps"):
        assert PAIR.energy(SIDES[name](PAIR, 0, 0.0).weights) == pytest.approx(least(PAIR), abs=1e-10), name


def test_rounds_keep_the_best_that_is_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which every round takes a second: in 5.75 five rounds end, and more than half of a sixth fits."""
    monkeypatch.setattr(ablation_sides, "time", SimpleNamespace(process_time=itertools.count().__next__))
    good, better = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.6, 0.4, 0.0, 0.0])
    assert PAIR.energy(better) < PAIR.energy(good)
    answers = iter([good, None, better, np.array([1.0, 0.1, 0.0, 0.0]), good])
    asked: list[tuple[int, float]] = []

    def one(k: int, left: float) -> np.ndarray | None:
        asked.append((k, left))
        return next(answers, None)

    found = rounds(PAIR, one, 5.75, 0.0)
    assert asked == [(k, 5.75 - k) for k in range(6)] and found.seconds == 6.0
    assert np.array_equal(found.weights, better)


def test_a_cell_says_how_many_runs_are_at_the_best_and_how_far_the_worst_is() -> None:
    def shown(*runs: tuple[float | None, float, bool]) -> str:
        tally = Tally()
        for gap, seconds, late in runs:
            tally.add(gap, seconds, 1.0, late)
        return tally.shown()

    assert shown() == "-"
    assert shown((0.0, 1.0, False), (1e-9, 1.0, False)) == "="
    assert shown((0.0, 1.0, False), (0.02, 1.0, False)) == "1/2 2e-02"
    assert shown((0.01, 3.0, False), (0.02, 5.0, False)) == "2e-02 (4)"
    assert shown((None, 1.0, True)) == "none (>1)"


def test_skfolio_states_the_same_problem_or_none() -> None:
    pytest.importorskip("skfolio")
    pytest.importorskip("pyscipopt")
    assert skfolio(TRADED, 5.0) is None
    assert skfolio(replace(PAIR, exactly=True), 5.0) is None
    tail = replace(PAIR, risk=0.0, reward=0.0, tail=1.0)
    tail = replace(tail, scenarios=np.random.default_rng(0).normal(0.01, 0.1, (60, 4)) * np.sqrt([1.0, 2.0, 4.0, 8.0]))
    for problem in (PAIR, replace(PAIR, reward=0.0), tail):
        found = skfolio(problem, 5.0)
        assert isinstance(found, Found) and found.weights is not None, found
        assert problem.violation(found.weights) <= 1e-9
        assert problem.energy(found.weights) == pytest.approx(least(problem), abs=1e-8)
