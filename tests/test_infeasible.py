"""Rules in conflict: the smallest set is named, with numbers, and leaving out any one of it helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases_convex import market

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.infeasible import explain_infeasible, possible
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.types import generator

ONE = torch.tensor([1.0] + [0.0] * 9, dtype=torch.float64)
"""All in the first of ten names, which is in the even sector."""

PLANTED: list[tuple[Constraint, set[str], list[str]]] = [
    (
        Budget() & Box(upper=0.05) & Turnover(2.0),
        {"Budget()", "Box(upper=0.05)"},
        ["Box(upper=0.05) on 10 tradeable names allows at most 0.5 of the 1 that Budget() needs"],
    ),
    (
        Budget() & LongOnly() & Group("sector", "odd", lower=0.7) & Group("sector", "even", lower=0.6) & Box(upper=0.9),
        {
            "Budget()",
            "Group(grouping='sector', label='odd', lower=0.7)",
            "Group(grouping='sector', label='even', lower=0.6)",
        },
        ["at least 1.3", "allows 1"],
    ),
    (
        Budget() & LongOnly() & Group("sector", "even", upper=0.3) & Turnover(0.5) & Box(upper=1.0),
        {"Group(grouping='sector', label='even', upper=0.3)", "Turnover(at_most=0.5)"},
        ["0.5"],
    ),
    (
        Budget() & Box(upper=0.2) & Cardinality(at_most=3, min_weight=0.01) & Group("sector", "odd", upper=0.9),
        {"Budget()", "Box(upper=0.2)", "Cardinality(at_most=3, min_weight=0.01)"},
        ["at most 0.6 of the 1"],
    ),
    (
        Budget() & Cardinality(at_most=8, min_weight=0.3) & Group("sector", "odd", lower=0.25, upper=0.28),
        {"Cardinality(at_most=8, min_weight=0.3)", "Group(grouping='sector', label='odd', upper=0.28, lower=0.25)"},
        ["0.2"],
    ),
    (
        Box(lower=0.06) & Box(lower=0.0, upper=0.05) & Budget(at_least=0.0),
        {"Box(lower=0.06)", "Box(upper=0.05)"},
        ["A0", "at least 0.06", "at most 0.05"],
    ),
    (
        Budget() & LongOnly() & Turnover(0.3) & Box(upper=0.4),
        {"Turnover(at_most=0.3)", "Box(upper=0.4)"},
        ["turnover of at least 0.6", "allows 0.3"],
    ),
]


def context():
    return replace(market(10), held=ONE)


@pytest.mark.parametrize(("rules", "conflict", "said"), PLANTED, ids=lambda x: repr(x)[:60])
def test_planted_conflicts_are_found_and_minimal(rules, conflict, said):
    ctx = context()
    error = explain_infeasible(rules, ctx)
    assert isinstance(error, InfeasibleError)
    assert set(error.conflict) == conflict
    for part in said:
        assert part in str(error)
    assert "2020-01-31" in str(error)
    named = [rule for rule in rules.rules() if repr(rule) in conflict]
    assert not possible(region_of(All(parts=tuple(named)), ctx))
    for rule in named:
        assert possible(region_of(All(parts=tuple(r for r in named if r != rule)), ctx))


def test_frozen_names_are_counted():
    ctx = replace(context(), tradeable=torch.tensor([False] * 6 + [True] * 4))
    error = explain_infeasible(Budget(0.5) & LongOnly(), ctx)
    assert error.conflict == ("Budget(total=0.5)", "LongOnly()")
    assert "6 of 10 names cannot be traded and stay at a total weight of 1" in str(error)
    alone = explain_infeasible(
        Group("sector", "even", upper=0.5) & LongOnly(), replace(ctx, tradeable=~torch.ones(10).bool())
    )
    assert alone.conflict == ("Group(grouping='sector', label='even', upper=0.5)",)
    assert "What is held needs at least 1" in str(alone)


def test_rules_that_can_be_obeyed_say_so():
    error = explain_infeasible(Budget() & LongOnly(), context())
    assert error.conflict == () and "can be obeyed" in str(error)


def test_convex_raises_the_conflict():
    ctx = context()
    with pytest.raises(InfeasibleError, match=r"Box\(upper=0.05\) on 10 tradeable names") as caught:
        Convex().build(Variance(), Budget() & LongOnly() & Box(upper=0.05), ctx, generator(0, "x"))
    assert set(caught.value.conflict) == {"Budget()", "Box(upper=0.05)"}


def test_possible_agrees_with_what_was_built():
    ctx = market(6)
    for rules in (
        Budget() & LongOnly() & Cardinality(2, 0.1),
        Budget() & Box(lower=-0.5, upper=0.5) & Cardinality(2),
        Budget() & LongOnly() & Turnover(0.01),
    ):
        assert possible(region_of(rules, ctx))
    assert not possible(region_of(Budget() & Box(upper=0.45) & Cardinality(2), ctx))
