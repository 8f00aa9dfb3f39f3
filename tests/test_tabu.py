"""Tabu walks over modes: against enumeration, by hand, and the same from the same stream."""

from __future__ import annotations

import numpy as np
import pytest
from test_mixed import CASES, mixed, optimum

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.tabu import tabu, tabu_walks

HOLDING = np.array([1, 1, 0, 0])


def pairs() -> Search:
    """Two of four names, of which 0 and 1 hedge each other, 2 and 3 do, and no others; variances 1, 1, 0.9, 0.9."""
    matrix = np.array([[1.0, -0.9, 0, 0], [-0.9, 1.0, 0, 0], [0, 0, 0.9, -0.81], [0, 0, -0.81, 0.9]])
    one = np.ones((1, 4))
    program = Program(2 * matrix, np.zeros(4), np.zeros(4), np.ones(4), one, np.ones(1), np.ones(1))
    choices = Choices.of_names(np.arange(4), [(0.0, 0.0), (0.1, 1.0)], [(1, 0, 2, False)], "Cardinality")
    m = Mixed(program, choices)
    root = m.root()
    assert root is not None
    return Search(m, root)


def test_a_walk_leaves_a_pair_that_no_exchange_betters() -> None:
    search = pairs()
    assert search.descend(HOLDING).tolist() == [1, 1, 0, 0]
    found = tabu(search, HOLDING, 4, np.random.default_rng(0))
    assert found.tolist() == [0, 0, 1, 1]
    # Half in each: 0.9 (1/4 + 1/4) - 2 0.81 / 4.
    assert search.memo.value(found) == pytest.approx(0.045)


def test_no_step_is_taken_back() -> None:
    """From two names of four the first two steps end at the two others or at two different mixed pairs."""
    search = pairs()
    tabu(search, HOLDING, 2, np.random.default_rng(1))
    assert len(search.memo.point) >= 3
    assert all(point is None or point.weights.sum() == pytest.approx(1.0) for point in search.memo.point.values())


PLAIN = [case for case in CASES if case not in ("fixed cost", "both")]


@pytest.mark.parametrize(
    ("case", "seed"),
    [*((case, 0) for case in (*PLAIN, "both")),
     *(pytest.param(case, seed, marks=pytest.mark.slow) for case in PLAIN for seed in (1, 2))],
)  # fmt: skip
def test_walks_from_a_few_roundings_see_the_optimum_of_enumeration(case: str, seed: int) -> None:
    m = mixed(case, seed)
    root = m.root()
    assert root is not None
    search = Search(m, root)
    draws = np.random.default_rng(seed)
    starts = [rounded(m.choices, root, m.choices.weights(draws.dirichlet(np.ones(m.program.n)))) for _ in range(20)]
    alive = [one for one in starts if search.solve(one) is not None]
    tabu_walks(search, alive[:3], 3, 60, draws)
    values = [point.value for point in search.memo.point.values() if point is not None]
    assert min(values) == pytest.approx(optimum(case, seed), rel=1e-9)


def test_walks_are_decided_by_their_stream() -> None:
    seen = []
    for stream in (3, 3, 4):
        search = pairs()
        search.solve(HOLDING)
        tabu_walks(search, [HOLDING], 8, 5, np.random.default_rng(stream))
        seen.append(list(search.memo.point))
    assert seen[0] == seen[1]


def test_no_steps_no_walk_and_no_end_no_walk() -> None:
    search = pairs()
    search.solve(HOLDING)
    tabu_walks(search, [HOLDING], 8, 0, np.random.default_rng(0))
    tabu_walks(search, [np.array([1, 1, 1, 1])], 8, 5, np.random.default_rng(0))
    assert len(search.memo.point) == 1
