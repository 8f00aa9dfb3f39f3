"""The frontier: its ends are the single optima, it falls and bends the right way, and nothing lies below it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from cases_convex import market

import portfolio_ebm as pe
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.frontiers import sweep
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import DataError, InfeasibleError, SpecError

N = 9
PAIRS: list[tuple[Energy, Energy]] = [
    (Variance(), Return()),
    (Return(), Variance()),
    (CVaR(0.9), Return()),
    (Variance(), CVaR(0.9)),
    (Variance(), TradingCost(1.0)),
    (FactorRisk(5.0), Return() + TradingCost(0.002)),
]
RULES = [
    Budget() & LongOnly() & Box(upper=0.3),
    Budget() & Box(lower=-0.1, upper=0.4) & Group("sector", "odd", upper=0.5) & Turnover(at_most=1.0),
]


@pytest.mark.parametrize("rules", RULES, ids=repr)
@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_the_frontier_is_monotone_convex_and_ends_at_the_optima(pair, rules) -> None:
    a, b = pair
    ctx = market(N, size=120, seed=4)
    region = region_of(rules, ctx)
    points = sweep(a, b, region, ctx, n=15)
    assert len(points) == 15 and all(point.proven for point in points)
    xs, ys = (np.array([getattr(point, name) for point in points]) for name in ("a", "b"))
    least_a, least_b = minimize(a, region, ctx).value, minimize(b, region, ctx).value
    assert xs[0] == pytest.approx(least_a, abs=1e-9 * max(abs(least_a), 1e-3))
    assert ys[-1] == pytest.approx(least_b, abs=1e-9 * max(abs(least_b), 1e-3))
    assert (np.diff(xs) > 0).all() and (np.diff(ys) < 0).all()
    slopes = np.diff(ys) / np.diff(xs)
    assert (np.diff(slopes) >= -1e-6 * np.abs(slopes[:-1])).all()
    # Spread evenly: no step is more than four times the mean one.
    steps = np.hypot(np.diff(xs) / (xs[-1] - xs[0]), np.diff(ys) / (ys[0] - ys[-1]))
    assert steps.max() <= 4 * steps.mean()
    # No feasible portfolio is below it; what is left or right of its ends does not count.
    rng = np.random.default_rng(0)
    start = points[7].weights
    far = np.concatenate([start + 0.3 * rng.normal(size=(200, N)), start + 0.01 * rng.normal(size=(200, N))])

    others = project_region(torch.tensor(far), region).weights
    oa, ob = a.bind(ctx)(others).numpy(), b.bind(ctx)(others).numpy()
    inside = (oa > xs[0]) & (oa < xs[-1])
    assert inside.any()
    # Between two points a convex curve lies above the chords on either side, drawn on.
    k = np.searchsorted(xs, oa[inside]) - 1
    left = np.where(k > 0, ys[k] + slopes[np.maximum(k - 1, 0)] * (oa[inside] - xs[k]), -np.inf)
    right = np.where(
        k < len(slopes) - 1, ys[k + 1] + slopes[np.minimum(k + 1, len(slopes) - 1)] * (oa[inside] - xs[k + 1]), -np.inf
    )
    assert (ob[inside] >= np.maximum(left, right) - 1e-9 * (ys[0] - ys[-1])).all()


@pytest.mark.parametrize("pair", PAIRS[:4], ids=repr)
def test_each_point_is_the_least_b_for_its_a(pair) -> None:
    """Against Clarabel: minimise b subject to a <= a(point)."""
    import cvxpy as cp

    from portfolio_ebm.energy import to_cvxpy

    a, b = pair
    ctx = market(N, size=100, seed=7)
    rules = RULES[0]
    for point in sweep(a, b, region_of(rules, ctx), ctx, n=7)[1:-1]:
        w = cp.Variable(N)
        # Both scaled to order one, since solvers compare absolutely.
        size_a, size_b = abs(point.a) or 1.0, abs(point.b) or 1.0
        walls = [part for rule in rules.rules() for part in rule.to_cvxpy(w, ctx)]
        problem = cp.Problem(
            cp.Minimize(to_cvxpy(b, w, ctx) / size_b),
            [*walls, to_cvxpy(a, w, ctx) / size_a <= point.a / size_a],
        )
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert problem.value * size_b == pytest.approx(point.b, abs=2e-7 * size_b)


def test_two_names_by_hand() -> None:
    # Means 0 and 1, covariance I: w = (1 - x, x); variance (1-x)^2 + x^2 least at x = 1/2, return x least at x = 1.
    found = pe.frontier(
        Variance(), Return(), Budget() & LongOnly(), mean=[0.0, 1.0], covariance=np.eye(2), assets=["A", "B"], n=9
    )
    x = found.weights["B"].to_numpy()
    assert x[0] == pytest.approx(0.5, abs=1e-6) and x[-1] == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found.energies["Variance()"], (1 - x) ** 2 + x**2, atol=1e-12)
    np.testing.assert_allclose(found.energies["Return()"], -x, atol=1e-12)
    assert found.proven.all() and len(found) == 9 and "9 proven" in str(found)


def test_the_efficient_end_is_chosen_where_the_minimum_is_not_unique() -> None:
    # A and B earn the same and most; the end of Return is the one of them with the least variance.
    found = pe.frontier(
        Variance(), Return(), Budget() & LongOnly(),
        mean=[1.0, 1.0, 0.0], covariance=np.diag([4.0, 1.0, 0.1]), n=5,
    )  # fmt: skip
    np.testing.assert_allclose(found.weights.iloc[-1], [0.2, 0.8, 0.0], atol=1e-5)


def test_one_portfolio_is_best_at_both() -> None:
    found = pe.frontier(Variance(), 2 * Variance(), Budget() & LongOnly(), covariance=np.diag([1.0, 2.0]), n=10)
    assert len(found) == 1
    np.testing.assert_allclose(found.weights.iloc[0], [2 / 3, 1 / 3], atol=1e-12)


def test_names_and_refusals() -> None:
    returns = pd.DataFrame(np.random.default_rng(0).normal(0.001, 0.01, (80, 3)), columns=list("ABC"))
    rules = Budget() & LongOnly()
    found = pe.frontier(Variance(), Return(), rules, scenarios=returns, n=3)
    assert list(found.weights.columns) == list("ABC") and found.energies.columns.tolist() == ["Variance()", "Return()"]
    with pytest.raises(SpecError, match="n=1"):
        pe.frontier(Variance(), Return(), rules, scenarios=returns, n=1)
    with pytest.raises(SpecError, match="upside down"):
        pe.frontier(-1.0 * Variance(), Return(), rules, scenarios=returns)
    with pytest.raises(SpecError, match="choice of names"):
        pe.frontier(Variance(), Return(), rules & pe.Cardinality(2), scenarios=returns)
    with pytest.raises(InfeasibleError, match="Box"):
        pe.frontier(Variance(), Return(), rules & Box(upper=0.2), scenarios=returns)
    with pytest.raises(DataError, match="not finite for B"):
        pe.frontier(Variance(), Return(), rules, scenarios=returns.assign(B=np.nan))


def test_a_frontier_with_caps_goes_through_cvxpy() -> None:
    from cases_caps import Capped

    ctx = market(N, size=60, seed=2)
    region = region_of(Budget() & Box(lower=-0.3, upper=0.5) & Capped("leverage", 1.4), ctx)
    points = sweep(Variance(), Return(), region, ctx, n=5)
    assert len(points) == 5 and all(point.proven for point in points)
    assert all(np.abs(point.weights).sum() <= 1.4 + 1e-9 for point in points)
