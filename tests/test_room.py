"""Whether a choice leaves room under curved caps, against the convex solver on every choice."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_annealed import context
from test_capping import K, N, rng, world

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.mixed.branch_and_bound import Tree
from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.choosing.choosing import mixed_of
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.feasibility import feasible
from portfolio_ebm.construction.feasibility.room import Room, asked, least_value, room
from portfolio_ebm.context import Context
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.errors import InfeasibleError, SolverError

PLAIN, CHOICE = Budget() & LongOnly(), Cardinality(at_most=K)
CAPS = {
    "volatility": VolatilityCap(at_most=1.0), "CVaR": CVaRCap(at_most=1.0),
    "tracking": TrackingErrorCap(at_most=1.0, benchmark="index"),
}  # fmt: skip


def possible(rules: Constraint, ctx: Context) -> bool:
    """Whether any choice of names has a portfolio, each asked alone of a cone program."""
    return any(
        feasible.possible(region_of(rules & Box(caps=dict.fromkeys(names, 0.0)), ctx))
        for names in itertools.combinations(ctx.assets, N - K)
    )


@pytest.mark.parametrize("kind", CAPS)
def test_room_ends_where_the_least_of_all_choices_is(kind: str) -> None:
    ctx, rule = world(1), CAPS[kind]
    cap = region_of(rule, ctx).caps[0]
    seen = least_value(region_of(PLAIN & CHOICE, ctx), cap)
    assert seen.weights is not None
    assert float(cap.value(torch.as_tensor(seen.weights))) == pytest.approx(seen.least, abs=1e-10)
    assert seen.low == pytest.approx(seen.least, rel=1e-6)
    for share, there in ((0.999, False), (1.001, True)):
        limited = rule.replace(at_most=share * seen.least)
        assert possible(PLAIN & limited, ctx) == there
        region = region_of(PLAIN & CHOICE & limited, ctx)
        assert asked(region)
        found = room(region)
        assert found.empty != there
        assert (found.weights is not None) == there


@pytest.mark.parametrize("shares", [(1.0, 1.01), pytest.param((1.0001,), marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", CAPS)
def test_a_cap_at_its_least_has_a_portfolio_and_one_below_is_a_named_conflict(
    kind: str, shares: tuple[float, ...]
) -> None:
    ctx, rule = world(0), CAPS[kind]
    seen = least_value(region_of(PLAIN & CHOICE, ctx), region_of(rule, ctx).caps[0])
    for share in shares:
        rules = PLAIN & CHOICE & rule.replace(at_most=share * seen.least)
        found = AnnealedLangevin(chains=8).build(Return(), rules, ctx, rng())
        assert max(found.residuals.values()) <= 1e-9
        assert found.bound is not None
        assert found.bound <= found.energy
    below = rule.replace(at_most=0.999 * seen.least)
    with pytest.raises(InfeasibleError, match=r"at least .* allows|obeys .* together") as raised:
        AnnealedLangevin(chains=8).build(Return(), PLAIN & CHOICE & below, ctx, rng())
    assert repr(below) in raised.value.conflict
    assert repr(CHOICE) in raised.value.conflict


def test_two_caps_are_obeyed_together() -> None:
    ctx = world(0)
    region = region_of(PLAIN & CHOICE & VolatilityCap(at_most=0.09) & CVaRCap(at_most=0.16), ctx)
    found = room(region)
    assert found.weights is not None
    assert all(float(cap.excess(torch.as_tensor(found.weights))) <= 1e-9 for cap in region.caps)


def test_what_is_not_settled_is_said_with_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nodes only the root's relaxation bounds the cap."""
    ctx = context(20, 0)
    monkeypatch.setattr("portfolio_ebm.construction.feasibility.room.LOOK", 1)
    monkeypatch.setattr("portfolio_ebm.construction.feasibility.room.looks", lambda *_: (1, 1))
    rules = PLAIN & Cardinality(at_most=3)
    cap = region_of(CVaRCap(at_most=1.0), ctx).caps[0]
    seen = least_value(region_of(rules, ctx), cap)
    with pytest.raises(SolverError, match=r"not settled.*least seen is .*none is below"):
        AnnealedLangevin(chains=4).build(Return(), rules & CVaRCap(at_most=0.995 * seen.least), ctx, rng())


def test_a_tree_under_a_ceiling_takes_nothing_above_it() -> None:
    ctx = world(0)
    mixed = mixed_of(take_apart(Variance(), ctx), region_of(PLAIN & CHOICE, ctx))
    best = Tree(mixed, 0.0).grow(1000)
    above, below = (Tree(mixed, 0.0, ceiling=share * best.value) for share in (1.001, 0.999))
    assert above.grow(1000).value == pytest.approx(best.value)
    proof = below.grow(1000)
    assert proof.finished
    assert proof.weights is None
    assert proof.nodes <= best.nodes


def test_what_was_not_settled_says_what_is_known_and_no_more() -> None:
    ctx = world(0)
    cap = region_of(Budget() & VolatilityCap(0.1), ctx).caps[0]
    ends = ((0.2, 0.05), (float("inf"), 0.05), (float("inf"), -float("inf")))
    both, low, none = (feasible._open(Room(None, False, cap, *some)) for some in ends)
    assert "the least seen is 0.2, and none is below 0.05. Loosen it to what was seen, or" in both
    assert "rules none is below 0.05. Loosen it, or the choice" in low
    assert "not settled. Loosen it, or the choice" in none and "inf" not in none
