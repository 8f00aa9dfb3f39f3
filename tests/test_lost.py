"""What a minimum's multipliers leave open: by hand, and where variances differ by twelve orders of magnitude."""

from __future__ import annotations

import numpy as np
import pytest

from portfolio_ebm.constraints.mixed.programs.lost import lost
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Slice, Solved
from portfolio_ebm.errors import SolverError


def budgeted(matrix: np.ndarray, linear: np.ndarray) -> tuple[Program, Slice]:
    n, one = len(linear), np.ones(1)
    p = Program(matrix, linear, np.zeros(n), np.ones(n), np.ones((1, n)), one, one)
    return p, Slice(p, p.lower, p.upper, p.rows, p.row_lower, p.row_upper)


def solved(p: Program, w: list[float], duals: list[float], prices: list[float]) -> Solved:
    at = np.array(w)
    return Solved(at, np.array(duals), np.array(prices), p.slope(at))


def test_at_a_minimum_nothing_and_beside_it_what_names_can_gain_by_hand() -> None:
    p, s = budgeted(np.diag([1.0, 1.0]), np.zeros(2))
    # Half of each is the minimum, at the multiplier 1/2; at (1, 0) with the same one, prices are 1/2 and -1/2.
    assert lost(s, solved(p, [0.5, 0.5], [0.5], [0.0, 0.0])) == 0.0
    beside = solved(p, [1.0, 0.0], [0.5], [0.5, -0.5])
    assert lost(s, beside) == pytest.approx(1.0)
    # A kink upwards of the second holds it.
    assert lost(s, beside, (np.array([0.5, 0.0]), beside.prices)) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(20))
def test_no_point_is_below_the_bound_where_variances_differ_by_far(seed: int) -> None:
    draw, n = np.random.default_rng(seed), 9
    size = 10.0 ** draw.uniform(-4, 2, n)
    loadings = draw.normal(size=(n, 2)) * 0.1
    matrix = (loadings @ loadings.T + np.diag(draw.uniform(1e-3, 1e-1, n))) * np.outer(size, size)
    p, s = budgeted(matrix, draw.normal(size=n) * 0.01 * size)
    found = p.minimum(s.lower, s.upper, s.rows, s.low, s.high)
    assert found is not None
    part = 1.0 / size**2
    tried = [*np.eye(n), part / part.sum(), *draw.dirichlet(part / part.max() * 9.0 + 1e-3, 300)]
    least = min(p.value(w) for w in tried)
    assert found.bound <= least
    # And the minimum is one.
    assert found.value - found.bound <= 1e-6 * (abs(found.value) + np.abs(p.linear) @ found.weights)


def test_a_way_without_an_end_gains_what_the_curvature_leaves_by_hand() -> None:
    """1/2 (2 x^2 + 4 y^2) from (1, 1), without rows: the prices are 2 and 4, and the least energy is 0, 3 below."""
    endless = np.full(2, np.inf)
    free = Program(np.diag([2.0, 4.0]), np.zeros(2), -endless, endless, np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    s = Slice(free, free.lower, free.upper, free.rows, free.row_lower, free.row_upper)
    at = solved(free, [1.0, 1.0], [], [2.0, 4.0])
    # (2^2 + 4^2) / (2 * 2), with the least curvature of both: not below what is true.
    assert lost(s, at) == pytest.approx(5.0)
    # An end for the second leaves the first's share alone: 2^2 / 4, and the way of one times its price.
    ended = Slice(free, np.array([-np.inf, 0.0]), free.upper, free.rows, free.row_lower, free.row_upper)
    assert lost(ended, at) == pytest.approx(1.0 + 4.0)
    # Where there is no curvature nothing is known.
    flat = Program(np.ones((2, 2)), np.zeros(2), -endless, endless, free.rows, free.row_lower, free.row_upper)
    bare = Slice(flat, flat.lower, flat.upper, flat.rows, flat.row_lower, flat.row_upper)
    assert lost(bare, solved(flat, [1.0, 1.0], [], [2.0, 2.0])) == np.inf
    assert lost(bare, solved(flat, [0.0, 0.0], [], [0.0, 0.0])) == 0.0


@pytest.mark.parametrize("seed", range(10))
def test_long_and_short_without_an_end_the_bound_is_below_the_minimum_in_closed_form(seed: int) -> None:
    draw, n = np.random.default_rng(seed), 8
    size = 10.0 ** draw.uniform(-3, 1, n)
    loadings = draw.normal(size=(n, 2)) * 0.1
    matrix = (loadings @ loadings.T + np.diag(draw.uniform(1e-3, 1e-1, n))) * np.outer(size, size)
    linear, one, endless = draw.normal(size=n) * 0.01 * size, np.ones(1), np.full(n, np.inf)
    p = Program(matrix, linear, -endless, endless, np.ones((1, n)), one, one)
    found = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert found is not None
    system = np.block([[matrix, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    truth = p.value(np.linalg.solve(system, np.append(-linear, 1.0))[:n])
    rounding = 1e-9 * (abs(truth) + np.abs(linear) @ np.abs(found.weights))
    assert found.bound <= truth + rounding
    assert found.value == pytest.approx(truth, abs=1e-6 * rounding / 1e-9)


def test_an_energy_without_an_end_is_refused_in_words() -> None:
    endless, one = np.full(3, np.inf), np.ones(1)
    p = Program(np.zeros((3, 3)), np.array([1.0, 2.0, 3.0]), -endless, endless, np.ones((1, 3)), one, one)
    with pytest.raises(SolverError, match=r"falls without end.*bound the weights"):
        p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
