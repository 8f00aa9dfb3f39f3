"""Nearest points under several curved caps at once, held to the variational inequality by a solver of others."""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch

from portfolio_ebm.constraints.capped import _Solver, nearest_capped
from portfolio_ebm.constraints.caps import Ball, Ellipsoid, Tail
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.roots import Inner
from portfolio_ebm.linear import Structured

N = 8


def simplex(n: int = N) -> Region:
    zero, one = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    return Region.free(n).with_box(zero, one).with_row(one, 1.0, 1.0, "Budget()")


def matrix(rng: np.random.Generator, n: int = N) -> Structured:
    loadings = torch.as_tensor(rng.normal(size=(n, 2)) * 0.1 + [0.2, 0.0])
    return Structured(loadings, torch.eye(2, dtype=torch.float64), torch.as_tensor(rng.uniform(0.01, 0.05, n)))


def two_ellipsoids(seed: int, room: float, near: float) -> Region:
    """A cap on volatility and one on tracking error around a portfolio, `near` of whose shape it shares."""
    rng = np.random.default_rng(seed)
    s = matrix(rng)
    other = matrix(rng)
    mixed = Structured(s.loadings, s.core, near * s.diagonal + (1.0 - near) * other.diagonal)
    middle, index = (torch.as_tensor(rng.dirichlet(np.ones(N))) for _ in range(2))
    zero = torch.zeros(N, dtype=torch.float64)
    caps = [Ellipsoid("volatility", 1.0, zero, s), Ellipsoid("tracking", 1.0, index, mixed)]
    return replace(simplex(), caps=tuple(replace(c, limit=float(c.value(middle)) * (1.0 + room)) for c in caps))


def falls_short(w: np.ndarray, y: np.ndarray, region: Region) -> float:
    """max over x of (y - w)'(x - w), which is zero where w is the nearest point to y."""
    x = cp.Variable(region.n)
    ends = region.lower.numpy(), region.upper.numpy(), region.rows.numpy(), region.row_lower.numpy()
    rules = [x >= ends[0], x <= ends[1], ends[2] @ x == ends[3], *(cap.to_cvxpy(x) for cap in region.caps)]
    move = (y - w) / max(float(np.linalg.norm(y - w)), 1e-12)
    problem = cp.Problem(cp.Maximize(move @ (x - w)), rules)
    return float(problem.solve(solver=cp.CLARABEL))


def check(region: Region, points: np.ndarray) -> None:
    y = torch.as_tensor(points)
    found, left = nearest_capped(y, region.lower, region.upper, region)
    assert float(left.max()) <= 1e-9
    for w, one in zip(found.numpy(), points, strict=True):
        assert falls_short(w, one, region) < 1e-6


@pytest.mark.parametrize("seed, near, room", [
    (27, 0.0, 0.3), (31, 0.999, 0.02), (57, 0.999, 0.001), (80, 0.0, 0.001), (303, 0.9, 0.3),
])  # fmt: skip
def test_from_corners_where_nothing_moves_yet(seed: int, near: float, room: float) -> None:
    """Without multipliers the nearest point is a corner, so that the dual of the caps has no curvature there, and
    between faces that meet two caps at a corner it has none along a line; these came to no end."""
    points = [2.0 * np.eye(N), np.random.default_rng(seed).normal(size=(2, N))]
    check(two_ellipsoids(seed, room, near), np.concatenate(points))


@pytest.mark.parametrize("seed", range(3))
def test_balls_and_a_tail_beside_an_ellipsoid(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    zero, one = torch.zeros(N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    middle = torch.as_tensor(rng.dirichlet(np.ones(N)))
    caps = (
        Ellipsoid("volatility", 1.0, zero, matrix(rng)),
        Ball("active share", 0.6, middle, one, one),
        Ball("shorts", 0.2, zero, zero, one),
        Tail("largest three", 1.0, 3.0 * torch.eye(N, dtype=torch.float64), 3.0),
    )
    region = replace(simplex().with_box(-one, one), lower=-0.3 * one)
    region = replace(region, caps=tuple(
        c if isinstance(c, Ball) else replace(c, limit=float(c.value(middle)) * 1.02) for c in caps
    ))  # fmt: skip
    check(region, rng.normal(size=(6, N)))


def test_a_box_that_is_a_point() -> None:
    """Every name is fixed: the point is the answer where it obeys the rows, and the set is empty where it does not."""
    fixed = torch.as_tensor([0.5, 0.5] + [0.0] * (N - 2), dtype=torch.float64)
    cap = Tail("largest", 0.6, torch.eye(N, dtype=torch.float64), 1.0)
    region = replace(simplex(), caps=(cap,))
    y = torch.ones(1, N, dtype=torch.float64)
    found, left = nearest_capped(y, fixed, fixed, region)
    assert torch.equal(found[0], fixed) and float(left) == 0.0
    _, left = nearest_capped(y, 0.9 * fixed, 0.9 * fixed, region)
    assert float(left) > 1e-2


@pytest.mark.parametrize("seed", range(4))
def test_nested_roots_are_those_of_the_steps(seed: int) -> None:
    """What stands in where the steps do not arrive ends at the same portfolio."""
    region = two_ellipsoids(seed, 0.02, 0.5)
    solver = _Solver.of(region)
    y = np.random.default_rng(seed).normal(size=N)
    inner = Inner(y, solver.cut, solver.matrices, solver.centres, np.clip(y, 0.0, 1.0))
    steps, nested = inner.several_roots(np.zeros(2)), inner.one_root(np.zeros(2), 1)
    assert steps is not None and nested is not None
    assert steps[0] == pytest.approx(nested[0], abs=1e-10)
    assert steps[1] == pytest.approx(nested[1], rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("off", [1e-9, 1e-11])
def test_points_beside_a_corner_of_a_tail_cap_are_reached_one_after_the_other(off: float) -> None:
    # The four largest add up to .96 at most, so that the others, at one hundredth each, all tie, and x = 1 - 7 a. A cut
    # met as well as the active set meets a row was added again and again, and the nearest point "not reached".
    cap = Tail("TopSum", 0.96, 4.0 * torch.eye(N, dtype=torch.float64), 4.0)
    region = replace(simplex(), caps=(cap,))
    a = (1.0 - 0.96) / 4.0
    draw = torch.Generator().manual_seed(1)
    y = a + off * torch.randn(40, N, generator=draw, dtype=torch.float64)
    y[:, 6] += 1.0 - 8.0 * a
    w, left = nearest_capped(y, region.lower, region.upper, region)
    assert float(left.max()) <= 1e-10
    assert float((w.sum(-1) - 1.0).abs().max()) <= 1e-10
    assert float((w - y).abs().max()) <= 10.0 * off + 1e-10
