"""Large problems: the columns left out are priced, so that the few names solved for give the minimum over all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from portfolio_ebm.constraints import active_set as quadratic
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of, region_residual
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.columns import by_columns
from portfolio_ebm.construction.exact.duality import Box as Walls
from portfolio_ebm.construction.exact.engines import active_set, scale_of
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize, solve
from portfolio_ebm.context import Context
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

RULES: list[Constraint] = [
    Budget() & LongOnly(),
    Budget() & Box(upper=0.01),
    Budget() & LongOnly() & Group("sector", "odd", lower=0.7) & Group("third", "0", upper=0.2),
    Budget() & Box(lower=0.0005, upper=0.05),
    Budget(at_least=0.5) & Box(lower=-0.001, upper=0.02),
]


def large(n: int, seed: int = 0, factors: int = 5) -> Context:
    rng = np.random.default_rng(seed)
    loadings = 0.01 * (rng.normal(size=(n, factors)) * 0.4 + (np.arange(factors) == 0))
    residual = rng.uniform(0.005, 0.02, size=n) ** 2
    eye = torch.eye(factors, dtype=torch.float64)
    return Context(
        assets=tuple(f"A{i}" for i in range(n)),
        market=Outlook(
            mean=torch.tensor(rng.normal(2e-4, 2e-4, size=n)),
            covariance=Structured(torch.tensor(loadings), eye, torch.tensor(residual)),
            scenarios=None, marginals=None, horizon=1.0,
        ),
        held=None, tradeable=torch.ones(n, dtype=torch.bool),
        groups={"sector": tuple("odd" if i % 2 else "even" for i in range(n)),
                "third": tuple(str(i % 3) for i in range(n))},
    )  # fmt: skip


@pytest.mark.parametrize("rules", RULES, ids=repr)
@pytest.mark.parametrize("energy", [Variance(), Return() + 2.5 * Variance()], ids=repr)
def test_columns_give_the_minimum_over_all_names(energy, rules) -> None:
    ctx = large(300)
    formula, region = take_apart(energy, ctx), region_of(rules, ctx)
    box = Walls.of(region)
    scale = scale_of(formula, box)
    few = by_columns(formula, box, scale)
    assert "matrix" not in formula.__dict__, "the whole matrix was formed"
    whole = quadratic.minimum(
        scale * formula.matrix, scale * formula.linear, (box.lower, box.upper), box.rows, (box.row_lower, box.row_upper)
    )
    assert isinstance(whole, quadratic.Minimum)
    if few is None:
        # Zero is inside every box, so that no name rests on a bound, or too many names are held.
        assert ((box.lower < 0.0) & (box.upper > 0.0)).all() or (whole.x > 1e-9).mean() > 0.3
        return
    np.testing.assert_allclose(few[0], whole.x, atol=1e-9)
    found = minimize(energy, region, ctx)
    assert found.status.ok and found.kkt <= 1e-10
    assert float(region_residual(found.weights, region)) <= 1e-12


def test_columns_are_used_where_it_counts() -> None:
    ctx = large(500)
    for rules in RULES[:3]:
        assert "by columns" in str(minimize(Variance(), region_of(rules, ctx), ctx).status)


def test_a_warm_start_changes_nothing_but_the_way() -> None:
    ctx = large(400, seed=2)
    region = region_of(RULES[2], ctx)
    formula = take_apart(Return() + 2.5 * Variance(), ctx)
    box = Walls.of(region)
    cold = active_set(formula, box)
    for start in (cold.weights, np.eye(400)[7], np.full(400, 1 / 400)):
        warm = active_set(formula, box, start)
        np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-10)


def test_the_structured_products_are_the_matrix() -> None:
    ctx = large(250)
    lazy, formed = (take_apart(Return() + 2.5 * Variance(), ctx) for _ in range(2))
    assert formed.matrix is not None
    w = np.random.default_rng(0).normal(size=250)
    names = np.array([3, 77, 249])
    assert lazy.large and not formed.large
    np.testing.assert_allclose(lazy.slope(w)[1], formed.slope(w)[1], rtol=1e-12)
    assert lazy.slope(w)[0] == pytest.approx(formed.slope(w)[0], rel=1e-13)
    np.testing.assert_allclose(lazy.block(names), formed.block(names), rtol=1e-12)


def test_objectives_near_1e_5_are_solved_as_exactly_as_any() -> None:
    # Solvers compare at 1e-8 absolute: a variance of 1e-5 a day would be "optimal" anywhere near its minimum.
    base = large(40, seed=1)
    region = region_of(Budget() & LongOnly() & Box(upper=0.2), base)
    reference = None
    for size in (1.0, 1e-3, 1e-6, 1e-9):
        formula = take_apart(size * (Return() + 2.5 * Variance()), base)
        found = solve(formula, region)
        assert found.status.ok and found.kkt <= 1e-10
        assert found.value - found.bound <= 1e-11 * abs(found.value)
        reference = found.weights if reference is None else reference
        torch.testing.assert_close(found.weights, reference, rtol=0, atol=1e-9)
