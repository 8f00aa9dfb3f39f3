"""What a minimum's multipliers leave open: by hand, and where variances differ by twelve orders of magnitude."""

from __future__ import annotations

import numpy as np
import pytest

from portfolio_ebm.constraints.mixed.lost import lost
from portfolio_ebm.constraints.mixed.program import Program, Slice, Solved


def budgeted(matrix: np.ndarray, linear: np.ndarray) -> tuple[Program, Slice]:
    n, one = len(linear), np.ones(1)
    p = Program(matrix, linear, np.zeros(n), np.ones(n), np.ones((1, n)), one, one)
    return p, Slice(p, p.lower, p.upper, p.rows, p.row_lower, p.row_upper)


def test_at_a_minimum_nothing_and_beside_it_what_names_can_gain_by_hand() -> None:
    _, s = budgeted(np.diag([1.0, 1.0]), np.zeros(2))
    # Half of each is the minimum, at the multiplier 1/2; at (1, 0) with the same one, prices are 1/2 and -1/2.
    assert lost(s, Solved(np.array([0.5, 0.5]), np.array([0.5]), np.zeros(2))) == 0.0
    beside = Solved(np.array([1.0, 0.0]), np.array([0.5]), np.array([0.5, -0.5]))
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
