"""Screening of a choice of names: what it rules out is checked against every choice there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.screening import screened

N, K = 9, 3
Array = NDArray[np.float64]


def problem(seed: int, floor: float, least: int, *, mean: float = 0.0) -> Mixed:
    """At most K of N names, `floor` or more each; one factor and noise; a second row holds a group at 60 %."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(1.0, 0.3, (N, 1))
    matrix = loadings @ loadings.T * 0.02 + np.diag(rng.uniform(0.05, 0.3, N))
    rows = np.vstack([np.ones(N), np.arange(N) < 4])
    low, high = np.array([1.0, -np.inf]), np.array([1.0, 0.6])
    program = Program(matrix, mean * rng.normal(size=N), np.zeros(N), np.ones(N), rows, low, high)
    modes = [(0.0, 0.0), (floor, 0.7)]
    return Mixed(program, Choices.of_names(np.arange(N), modes, [(1, least, K, False)], "Cardinality"))


def every(mixed: Mixed) -> dict[tuple[int, ...], float]:
    """The least energy of every choice that has a portfolio."""
    found = {}
    for size in range(1, K + 1):
        for held in combinations(range(N), size):
            modes = np.isin(np.arange(N), held).astype(np.int64)
            point = on_slice(mixed, modes)
            if point is not None:
                found[held] = point.value
    return found


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
@pytest.mark.parametrize(
    ("floor", "least", "mean"), [(0.05, 0, 0.0), (0.05, K, 0.0), (0.3, 0, 0.02), (0.0, 0, 0.0), (0.05, 0, 0.2)]
)
def test_what_falls_out_is_in_no_better_choice(seed: int, floor: float, least: int, mean: float) -> None:
    mixed = problem(seed, floor, least, mean=mean)
    values = every(mixed)
    best = min(values.values())
    root = mixed.root()
    assert root is not None
    start = relax(mixed, root)
    assert start is not None
    for value in (best + 1e-9, best + 0.01 * abs(best), best + 0.1 * abs(best)):
        left = screened(mixed, value, start.weights)
        assert left is not None and left.bound <= min(best, value) + 1e-12
        assert left.mixed is not None, "the best choice is below the incumbent"
        c = left.mixed.choices
        for held, energy in values.items():
            if energy < value:
                assert set(held) <= set(left.names.tolist())
                whole = np.isin(np.arange(N), held).astype(np.int64)
                assert left.open[np.arange(N), whole].all()
                modes = np.isin(left.names, held).astype(np.int64)
                assert c.exists[np.arange(c.units), modes].all()
                fewer = on_slice(left.mixed, modes)
                assert fewer is not None and fewer.value == pytest.approx(energy, abs=1e-10)


def test_it_decides_much_of_noise_of_different_sizes_and_proves_the_best() -> None:
    """Independent names: the K of the least variance are the best, and with all of the quadratic split off the
    relaxation is nearly the choice itself."""
    variance = np.geomspace(0.01, 1.0, N)
    mixed = problem(0, 0.05, 0)
    p = replace(
        mixed.program, matrix=np.diag(variance), rows=np.ones((1, N)), row_lower=np.ones(1), row_upper=np.ones(1)
    )
    mixed = replace(mixed, program=p)
    best = min(every(mixed).values())
    left = screened(mixed, best + 1e-9, np.full(N, 1.0 / N))
    assert left is not None
    assert left.names.tolist() == [0, 1, 2]
    assert left.decided == N
    assert left.whole(np.array([0.5, 0.3, 0.2])).tolist() == [0.5, 0.3, 0.2, *[0.0] * (N - 3)]


@pytest.mark.parametrize("change", ["ticket", "mass", "short"])
def test_other_problems_are_left_alone(change: str) -> None:
    mixed = problem(0, 0.05, 0)
    c = mixed.choices
    if change == "ticket":
        c = replace(c, cost=np.where(np.arange(2) == 1, 0.01, c.cost))
    elif change == "mass":
        c = replace(c, limits=(replace(c.limits[0], mass=True, most=0.5),))
    else:
        c = replace(c, lower=np.where(np.arange(2) == 1, -0.3, c.lower))
    assert screened(replace(mixed, choices=c), 1.0, np.full(N, 1.0 / N)) is None
