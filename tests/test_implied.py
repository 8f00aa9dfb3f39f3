"""Rows that a choice of names implies for a sum of the largest, and the cap as linear rows; against enumeration."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from test_annealed import context as plain

from portfolio_ebm import (
    Box,
    Budget,
    Cardinality,
    LongOnly,
    NegativeEntropy,
    TopSum,
    Variance,
)  # fmt: skip
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.caps import Tail
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.mixed.of_region import hull_of
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.feasibility.feasible import least
from portfolio_ebm.context import Context
from portfolio_ebm.errors import InfeasibleError

N = 7


def context(n: int) -> Context:
    """`n` names in pairs, each pair a sector."""
    return replace(plain(n), groups={"sector": tuple(f"S{i // 2}" for i in range(n))})


def most_held(rule: Constraint, top: TopSum, ctx: Context) -> float:
    """The largest total weight of any choice of names that the rule allows, by a program each."""
    (tail,) = (cap for cap in region_of(LongOnly() & top, ctx).caps if isinstance(cap, Tail))
    rows, ends = tail.lifted()
    size, best = rows.shape[1] - N, 0.0
    for held in itertools.product((False, True), repeat=N):
        w = torch.tensor([0.01 * one for one in held], dtype=torch.float64)
        if float(rule.residual(w, ctx)) > 0.0:
            continue
        bounds = [(0.0, None if one else 0.0) for one in held] + [(None, None)] + [(0.0, None)] * (size - 1)
        found = linprog(np.r_[-np.ones(N), np.zeros(size)], A_ub=rows, b_ub=ends, bounds=bounds)
        best = max(best, -found.fun)
    return best


@pytest.mark.parametrize(
    ("rule", "exact"),
    [
        (Cardinality(at_most=2), True), (Cardinality(at_most=3), True), (Cardinality(at_most=5), True),
        (Cardinality(exactly=4, min_weight=0.001), True), (Cardinality(at_most=1, groups="sector"), True),
        (Cardinality(at_most=4) & Cardinality(at_most=1, groups="sector"), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_row_is_the_most_that_a_choice_of_names_can_weigh(rule: Constraint, exact: bool, count: int) -> None:
    ctx = context(N)
    top = TopSum(count, at_most=0.3)
    hull = hull_of(region_of(LongOnly() & top & rule, ctx))
    (at,) = [k for k, name in enumerate(hull.names) if name.startswith("TopSum")]
    # The row is of count times the weights.
    allowed = float(hull.row_upper[at]) / float(hull.rows[at, 0])
    most = most_held(rule, top, ctx)
    assert allowed >= most - 1e-9
    if exact:
        assert allowed == pytest.approx(most, abs=1e-9)


def test_no_row_where_a_name_may_be_short() -> None:
    ctx = context(N)
    rules = Box(lower=-0.1, upper=0.5) & TopSum(2, at_most=0.3) & Cardinality(at_most=3)
    assert not [name for name in hull_of(region_of(rules, ctx)).names if name.startswith("TopSum")]


def test_a_tail_as_rows_is_the_tail() -> None:
    rng = np.random.default_rng(0)
    for count in (1.0, 2.0, 2.6, 5.0):
        tail = Tail("tail", 0.4, torch.as_tensor(rng.normal(size=(6, N))), count)
        rows, ends = tail.lifted()
        for _ in range(40):
            w = rng.normal(size=N) * 0.3
            free = [(None, None)] + [(0.0, None)] * 6
            fits = linprog(np.zeros(7), A_ub=rows[:, N:], b_ub=ends - rows[:, :N] @ w, bounds=free).status == 0
            excess = float(tail.excess(torch.as_tensor(w)))
            assert abs(excess) < 1e-6 or fits == (excess < 0.0)


@pytest.mark.parametrize("rule", [Cardinality(at_most=8), Cardinality(exactly=8, min_weight=0.01)])
def test_too_few_names_for_a_sum_of_the_largest_are_named(rule: Constraint) -> None:
    """Eight names of which five are at most .4 together weigh .64 at most."""
    ctx = context(20)
    top = TopSum(5, at_most=0.4)
    with pytest.raises(InfeasibleError, match=r"allow at most 0\.64 of the 1 that Budget"):
        AnnealedLangevin().build(Variance(), Budget() & LongOnly() & top & rule, ctx, torch.Generator().manual_seed(0))
    assert least(region_of(Budget() & LongOnly() & TopSum(5, at_most=0.626) & rule, ctx)) is not None


def test_an_entropy_of_a_name_that_is_held_at_zero() -> None:
    """Its slope there is endless, and says nothing of names that can move."""
    ctx = context(N)
    energy, box = NegativeEntropy(), Box(caps={ctx.assets[2]: 0.0})
    rules = Budget() & LongOnly() & box & Cardinality(at_most=3)
    found = AnnealedLangevin().build(energy, rules, ctx, torch.Generator().manual_seed(0))
    # The least sum of w log w over three names is at equal weights.
    assert found.energy == pytest.approx(-np.log(3.0), abs=1e-7)
    assert found.weights[2] == 0.0
