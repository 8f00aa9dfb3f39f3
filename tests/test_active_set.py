"""The one door to daqp, and each of its callers, where curvature, boxes and rows are as bad as they get.

Truth is the KKT conditions, by hand: with the multipliers found, no point of box and rows can be lower by more than

    gap = sum_i max over the box of -d_i (x_i - w_i)  +  sum_k |y_k| slack_k,     d = H w + c + A'y
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints import active_set
from portfolio_ebm.constraints.active_set import Failure, Minimum, minimum
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.exact import Cut, nearest
from portfolio_ebm.constraints.mixed.grids.integers import Slice
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.roots import Inner
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.construction.exact.duality import Box, Multipliers, prove
from portfolio_ebm.construction.exact.engines import active_set as engine
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

Array = NDArray[np.float64]
Problem = tuple[Array, Array, Array, Array, Array, Array, Array]
"""H, c, lower, upper, A, low, high."""

ONE = np.ones(1)
KINDS = ("spread", "singular", "nearly singular", "tiny box", "thin rows", "flat")


def problem(kind: str, seed: int) -> Problem:
    draw = np.random.default_rng(seed)
    n = int(draw.integers(3, 25))
    loadings = 0.1 * draw.normal(size=(n, 2))
    matrix = loadings @ loadings.T + np.diag(draw.uniform(1e-3, 1e-1, n))
    linear = 0.01 * draw.normal(size=n)
    inside = draw.dirichlet(np.ones(n))
    lower, upper, rows, low, high = np.zeros(n), np.ones(n), np.ones((1, n)), ONE, ONE
    if kind == "spread":
        size = 10.0 ** draw.uniform(-5.5, 0.0, n)
        matrix, linear = matrix * np.outer(size, size), linear * size
    elif kind == "singular":
        matrix = loadings @ loadings.T
    elif kind == "nearly singular":
        matrix = loadings @ loadings.T + np.diag(10.0 ** draw.uniform(-16.0, -8.0, n))
    elif kind == "tiny box":
        width = 10.0 ** draw.uniform(-12.0, -6.0, (2, n))
        lower, upper = inside - width[0], inside + width[1]
    elif kind == "thin rows":
        rows = np.vstack([rows, (draw.uniform(size=(3, n)) < 0.4) * 1.0])
        at, room = rows @ inside, np.r_[0.0, 10.0 ** draw.uniform(-8.0, -2.0, 3)]
        low, high = at - room, at + room
    elif kind == "flat":
        matrix = 1e-9 * matrix
    return matrix, linear, lower, upper, rows, low, high


def opened(p: Problem, w: Array, duals: Array) -> tuple[float, float]:
    """(violation, gap) of w (n,) with multipliers of the rows, positive at upper ends."""
    matrix, linear, lower, upper, rows, low, high = p
    at, prices = rows @ w, matrix @ w + linear + duals @ rows
    off = max(float(x.max()) for x in (lower - w, w - upper, low - at, at - high))
    gap = float(np.where(prices > 0.0, prices * (w - lower), prices * (w - upper)).sum())
    return off, gap + float(np.abs(duals) @ np.where(duals > 0.0, high - at, at - low))


@pytest.mark.parametrize("steep", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_no_point_is_lower_whatever_curvature_boxes_and_rows_are_like(kind: str, steep: float) -> None:
    for seed in range(60):
        matrix, linear, lower, upper, rows, low, high = problem(kind, seed)
        linear = steep * linear
        found = minimum(matrix, linear, (lower, upper), rows, (low, high))
        if kind == "flat" and found is Failure.FLAT:
            assert np.abs(matrix).max() < 1e-12 * np.abs(linear).max()
            continue
        assert isinstance(found, Minimum), (seed, found)
        off, gap = opened((matrix, linear, lower, upper, rows, low, high), found.x, found.rows)
        assert off <= 1.1e-10
        assert gap <= 1e-9 * max(np.abs(matrix).max(), np.abs(linear).max())
        # With the box's own multipliers the slope is nothing at all.
        slope = matrix @ found.x + linear + found.box + found.rows @ rows
        assert np.abs(slope).max() <= 1e-11 * max(np.abs(matrix).max(), np.abs(linear).max())


def test_what_two_names_minimise_by_hand_in_any_unit() -> None:
    """1/2 (a x^2 + b y^2) with x + y = 1 is least at x = b / (a + b), at the multiplier -ab / (a + b)."""
    for a, b, unit in itertools.product((1.0, 1e-6, 1e-11), (1.0, 1e-3), (1e-20, 1.0, 1e12)):
        zero = np.zeros(2)
        found = minimum(unit * np.diag([a, b]), zero, (zero, zero + 1.0), np.ones((1, 2)), (ONE, ONE))
        assert isinstance(found, Minimum)
        assert found.x[1] == pytest.approx(a / (a + b), rel=1e-5)
        assert found.rows[0] == pytest.approx(-unit * a * b / (a + b), rel=1e-5)


def test_ends_without_end_and_a_guess_change_nothing() -> None:
    for seed in range(20):
        matrix, linear, lower, upper, rows, *_ = problem("thin rows", seed)
        bare = minimum(matrix, linear, (lower, upper), rows[:1], (ONE, ONE))
        loose = np.r_[1.0, np.full(3, np.inf)]
        wide = minimum(matrix, linear, (lower, np.full(len(upper), np.inf)), rows, (np.r_[1.0, -loose[1:]], loose))
        guess = minimum(matrix, linear, (lower, upper), rows[:1], (ONE, ONE), upper / len(upper))
        for other in (wide, guess):
            assert isinstance(bare, Minimum) and isinstance(other, Minimum)
            np.testing.assert_allclose(other.x, bare.x, atol=1e-9)


def test_each_failure_is_told_from_the_others() -> None:
    zero, one = np.zeros(2), np.ones(2)
    box, row, half = (zero, one), np.ones((1, 2)), 0.5 * ONE
    assert minimum(np.eye(2), zero, box, row, (3.0 * ONE, 3.0 * ONE)) is Failure.EMPTY
    assert minimum(np.eye(2), zero, box, np.vstack([row, -row]), (np.r_[half, -0.4], np.r_[half, 1.0])) is Failure.EMPTY
    assert minimum(1e-15 * np.eye(2), one, box, row, (half, half)) is Failure.FLAT
    endless = np.full(2, np.inf)
    assert minimum(np.diag([1.0, 0.0]), -one, (zero, endless), row, (half, endless[:1])) is Failure.UNENDED
    assert len({failure.value for failure in Failure}) == 3 and all(failure.value.endswith(".") for failure in Failure)


def test_what_is_called_optimal_is_believed_only_where_rows_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    solve, asked = active_set.daqp.solve, []

    def off(*args: Array, **how: float) -> object:
        x, value, flag, info = solve(*args, **how)
        asked.append(how["eps_prox"])
        return x + 1e-9 * (len(asked) <= wrong), value, flag, info

    monkeypatch.setattr(active_set.daqp, "solve", off)
    box = np.zeros(2), np.ones(2)
    wrong = 1
    assert isinstance(minimum(np.eye(2), np.zeros(2), box, np.ones((1, 2)), (ONE, ONE)), Minimum)
    assert len(asked) == 2
    wrong = 9
    assert minimum(np.eye(2), np.zeros(2), box, np.ones((1, 2)), (ONE, ONE)) is Failure.UNENDED


# Its callers, each to what it claims.


def spread_context(seed: int) -> Context:
    """Variances eleven orders of magnitude apart."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(5, 20))
    size = np.r_[1.0, 10.0**-5.5, 10.0 ** draw.uniform(-5.5, 0.0, n - 2)]
    loadings, rest = 0.1 * draw.normal(size=(n, 2)) * size[:, None], draw.uniform(1e-3, 1e-1, n) * size**2
    eye = torch.eye(2, dtype=torch.float64)
    outlook = Outlook(
        mean=torch.tensor(0.01 * draw.normal(size=n) * size),
        covariance=Structured(torch.tensor(loadings), eye, torch.tensor(rest)),
        scenarios=None, marginals=None, horizon=1.0,
    )  # fmt: skip
    return Context(
        assets=tuple(f"A{i}" for i in range(n)), market=outlook, held=None,
        tradeable=torch.ones(n, dtype=torch.bool),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_the_convex_door_proves_its_minimum_at_the_first_engine(seed: int) -> None:
    ctx = spread_context(seed)
    formula, region = take_apart(Variance(), ctx), region_of(Budget() & LongOnly(), ctx)
    box = Box.of(region)
    found = engine(formula, box)
    assert found is not None and isinstance(found.duals, Multipliers)
    proof = prove(formula, box, found.weights, found.duals)
    # Relative to the least variance of a name alone, which no portfolio of these is far from.
    single = float(np.diag(ctx.market.covariance.dense().numpy()).min())
    assert formula.evaluate(found.weights) - proof.bound <= 1e-8 * single
    least = minimize(Variance(), region, ctx)
    assert least.status.ok and least.bound is not None
    assert least.value - least.bound <= 1e-8 * single


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_of_a_choice_is_minimal_and_its_bound_true(kind: str) -> None:
    for seed in range(40):
        p = problem(kind, seed)
        matrix, linear, lower, upper, rows, low, high = p
        program = Program(matrix, linear, lower, upper, rows, low, high)
        found = program.minimum(lower, upper, rows, low, high)
        assert found is not None
        at = rows @ found.weights
        assert (found.weights >= lower).all() and (found.weights <= upper).all()
        assert ((at >= low - 1e-9) & (at <= high + 1e-9)).all()
        size = max(np.abs(matrix).max(), np.abs(linear).max())
        assert found.value - found.bound <= 1e-9 * size
        other = minimum(matrix, linear, (lower, upper), rows, (low, high))
        assert isinstance(other, Minimum)
        assert found.bound <= 0.5 * other.x @ matrix @ other.x + linear @ other.x + 1e-11 * size


@pytest.mark.parametrize("seed", range(10))
def test_whole_lots_of_names_whose_variances_differ_by_far_are_those_of_enumeration(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = np.array([1e-5, 1e-3, 3e-3, 1.0])
    matrix = (0.02 + np.diag(draw.uniform(0.05, 0.1, 4))) * np.outer(size, size)
    linear = -(matrix @ draw.uniform(0.5, 4.5, 4))
    low, high, endless = np.zeros(4), np.full(4, 5.0), np.full(1, np.inf)
    model = Slice(np.arange(4), matrix, linear, np.ones((1, 4)), -endless, np.full(1, 12.0), low, high)
    grid = np.array(list(itertools.product(range(6), repeat=4)), dtype=float)
    grid = grid[grid.sum(axis=1) <= 12.0]
    worth = np.array([model.value(k) for k in grid])
    start = minimum(matrix, linear, (low, high), model.rows, (model.low, model.high))
    assert isinstance(start, Minimum)
    base = model.value(start.x)
    found = model.best(lambda k: model.value(k) - base, start.x, np.inf, 20_000)
    assert found is not None
    assert model.value(found) == pytest.approx(worth.min(), abs=1e-12 * np.abs(worth).max())


def plain_cut(lower: Array, upper: Array, rows: Array, low: Array, high: Array) -> Cut:
    none = np.zeros((0, len(lower)))
    return Cut(lower, upper, rows, low, high, none, none, none, np.zeros(0))


@pytest.mark.parametrize("far", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["spread", "tiny box", "thin rows"])
def test_the_nearest_point_is_the_nearest(kind: str, far: float) -> None:
    for seed in range(40):
        _, linear, lower, upper, rows, low, high = problem(kind, seed)
        y = far * 100.0 * linear
        found = nearest(y, plain_cut(lower, upper, rows, low, high), np.clip(y, lower, upper))
        assert found is not None
        off, gap = opened((np.eye(len(y)), -y, lower, upper, rows, low, high), found[0], found[1])
        assert off <= 1.1e-10
        assert gap <= 1e-10 * max(1.0, np.abs(y).max())


@pytest.mark.parametrize("several", [1, 2])
def test_the_nearest_point_under_ellipsoids_eleven_orders_long(several: int) -> None:
    """H = I + sum mu_j S_j, so that the KKT conditions are those of a quadratic program with that curvature."""
    ended = 0
    for seed in range(12):
        draw = np.random.default_rng(seed)
        shapes = []
        for k in range(several):
            matrix, linear, lower, upper, rows, low, high = problem("spread", seed)
            turned = np.roll(np.arange(len(linear)), k)
            start = draw.dirichlet(np.ones(len(linear)))
            shapes.append(matrix[np.ix_(turned, turned)])
            shapes[-1] = shapes[-1] / (start @ shapes[-1] @ start)
        n = len(linear)
        y = draw.normal(size=n)
        centres = tuple(np.zeros(n) for _ in shapes)
        inner = Inner(y, plain_cut(lower, upper, rows, low, high), tuple(shapes), centres, np.full(n, 1.0 / n))
        solve: Callable[[Array], tuple[Array, Array, Array] | None]
        solve = inner.one_root if several == 1 else inner.several_roots
        found = solve(np.zeros(several))
        if found is None:
            continue
        ended += 1
        w, mu, duals = found
        assert all(w @ shape @ w <= 1.0 + 1e-10 for shape in shapes)
        curve = np.eye(n) + sum(m * shape for m, shape in zip(mu, shapes, strict=True))
        assert (mu >= 0.0).all()
        # The rows' multipliers are those of the program scaled to a curvature of one.
        size = max(1.0, float(np.abs(curve).max()))
        off, gap = opened((curve, -y, lower, upper, rows, low, high), w, size * duals)
        assert off <= 1.1e-10
        assert gap <= 1e-8 * size
        assert all(m == 0.0 or w @ s @ w >= 1.0 - 1e-9 for m, s in zip(mu, shapes, strict=True))
    assert ended >= 10
