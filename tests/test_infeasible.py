"""Rules in conflict: the smallest set is named, with numbers, and leaving out any one of it helps."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import cvxpy as cp
import numpy as np
import pytest
import torch
from cases_caps import Capped
from cases_convex import market
from cases_terms import rich

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.diversified import UCITS
from portfolio_ebm.constraints.exposures import BetaNeutral, DollarNeutral, FactorExposure, Group
from portfolio_ebm.constraints.leverage import ActiveShare, Leverage, ShortLimit
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
from portfolio_ebm.constraints.trading import Participation, Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.duality import Box as Walls
from portfolio_ebm.construction.exact.minimum import require_feasible
from portfolio_ebm.construction.feasibility.feasible import possible
from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
from portfolio_ebm.construction.relaxing import relaxed
from portfolio_ebm.context import Context
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.errors import InfeasibleError, SolverError
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


def said_the_same_each_time(case: object) -> str:
    return repr(sorted(case) if isinstance(case, set) else case)[:60]


@pytest.mark.parametrize(("rules", "conflict", "said"), PLANTED, ids=said_the_same_each_time)
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


def planted(seed: int, ctx: Context) -> tuple[list[Constraint], list[Constraint]]:
    """Rules around a conflict that was put there: (innocent rules, each of them obeyed by ONE, and the conflict)."""
    rng = np.random.default_rng(seed)
    a = float(rng.uniform(0.55, 0.9))
    conflicts = [*_linear_conflicts(a), *_cap_conflicts(a, ctx)]
    innocent: list[Constraint] = [
        LongOnly(), Box(lower=-0.2, upper=1.0), Group("sector", "even", upper=1.1), Turnover(1.9),
        Budget(at_least=-0.5), Group("sector", "odd", lower=-0.5), Leverage(1.5), ShortLimit(0.4),
        VolatilityCap(1.5 * float(ctx.covariance.quad(ONE).sqrt())), ActiveShare(1.0, "index"),
    ]  # fmt: skip
    conflict = conflicts[seed % len(conflicts)]
    others = [innocent[i] for i in rng.permutation(len(innocent))[: int(rng.integers(0, 5))]]
    return [rule for rule in others if rule not in conflict], conflict


def _linear_conflicts(a: float) -> list[list[Constraint]]:
    return [
        [Budget(), Box(lower=-0.05, upper=0.099 * a)],
        [Budget(), Group("sector", "odd", lower=a), Group("sector", "even", lower=1.05 - a)],
        [Group("sector", "odd", lower=a), Box(upper=0.19 * a)],
        [Turnover(0.9 * a), Group("sector", "odd", lower=a)],
        [Budget(a), Group("sector", "odd", upper=0.4 * a), Group("sector", "even", upper=0.5 * a)],
        [Budget(), Box(upper=0.3 * a), Cardinality(3)],
        [Cardinality(4, 0.2), Group("sector", "odd", lower=0.05, upper=0.19)],
        [LongOnly(), Budget(-0.1)],
        [DollarNeutral(within=0.1), Budget(a)],
        [Budget(), LongOnly(), FactorExposure("size", lower=1.2)],
    ]


def _cap_conflicts(a: float, ctx: Context) -> list[list[Constraint]]:
    """Each cap at a share of the least that its other rules leave, which is known by hand or by a linear program.

    min x'S x over g'x = d is d^2 / (g'S^-1 g): the least volatility of a budget, and of a distance in one sector.
    """
    inverse = torch.linalg.inv(ctx.covariance.dense()).numpy()
    ones, odd = np.ones(10), ctx.members("sector", "odd").numpy().astype(float)
    held = float(ctx.benchmark("index").numpy() @ odd)
    w = cp.Variable(10, nonneg=True)
    tail = cp.Problem(cp.Minimize(cp.sum_largest(-1e2 * ctx.scenarios.numpy() @ w, 10) / 10), [cp.sum(w) == 1])
    least_tail = 1e-2 * float(tail.solve(solver=cp.HIGHS))
    traded, capital = ctx.traded("Participation")
    room = float((traded / capital).numpy() @ odd)
    betas = BetaNeutral("index")._betas(ctx)
    return [
        [Budget(), VolatilityCap(a / float(ones @ inverse @ ones) ** 0.5)],
        [
            Group("sector", "odd", lower=held + 0.4),
            TrackingErrorCap(0.4 * a / float(odd @ inverse @ odd) ** 0.5, "index"),
        ],
        [Budget(), LongOnly(), CVaRCap(a * least_tail)],
        [Budget(), Leverage(a)],
        [ShortLimit(0.3 * a), Group("sector", "odd", upper=-0.3)],
        [Group("sector", "odd", upper=held - 0.4), ActiveShare(0.2 * a, "index")],
        [Participation(0.9 * a / room), Group("sector", "odd", lower=a)],
        [Budget(), LongOnly(), BetaNeutral("index", target=0.0, within=a * float(betas.min()))],
    ]


CHOICES = (5, 6)
"""Which of the conflicts hold a choice of names, whose enumeration takes long."""


def solvable(rules: list[Constraint], ctx) -> bool:
    """By the rules' cvxpy faces, which the explanation does not use; a choice of names is tried out."""
    patterns: list[torch.Tensor | None] = [None]
    count = [rule for rule in rules if isinstance(rule, Cardinality)]
    if count:
        patterns = [
            torch.tensor([1.0 if i in names else 0.0 for i in range(10)])
            for size in range(1, count[0].at_most + 1)
            for names in combinations(range(10), size)
        ]
    for near in patterns:
        w = cp.Variable(10)
        problem = cp.Problem(cp.Minimize(0), [part for rule in rules for part in rule.to_cvxpy(w, ctx, near)])
        problem.solve(solver=cp.CLARABEL)
        if problem.status in ("optimal", "optimal_inaccurate"):
            return True
    return False


@pytest.mark.parametrize(
    "seed", [i if i < 18 and i not in CHOICES else pytest.param(i, marks=pytest.mark.slow) for i in range(500)]
)
def test_planted_conflicts_among_innocent_rules(seed: int) -> None:
    ctx = rich(context())
    innocent, conflict = planted(seed, ctx)
    order = np.random.default_rng(seed).permutation(len(innocent) + len(conflict))
    rules = [[*innocent, *conflict][i] for i in order]
    error = explain_infeasible(All(parts=tuple(rules)), ctx)
    named = [rule for rule in rules if repr(rule) in error.conflict]
    assert len(named) == len(error.conflict) >= 1
    assert len(named) <= len(conflict), "a smaller set was there to be found"
    if any(isinstance(rule, Cardinality) for rule in named) and seed not in CHOICES:
        # Enumerating choices takes long; in these the mixed-integer oracle of the house must do.
        check = [possible(region_of(All(parts=tuple(r for r in named if r != rule)), ctx)) for rule in named]
        assert not possible(region_of(All(parts=tuple(named)), ctx)) and all(check)
        return
    assert not solvable(named, ctx)
    for rule in named:
        assert solvable([other for other in named if other != rule], ctx), f"{rule!r} is not needed"


def test_a_group_that_cannot_reach_its_floor_says_what_its_names_allow() -> None:
    ctx = replace(context(), tradeable=torch.tensor([True, True] * 4 + [True, False]), held=None)
    error = explain_infeasible(Budget(0.4) & LongOnly() & Box(upper=0.05) & Group("sector", "odd", lower=0.3), ctx)
    assert "Box(upper=0.05) on its 4 tradeable names allows at most 0.2 of the 0.3 that Group" in str(error)


@pytest.mark.parametrize("what", ["leverage", "shorts", "volatility", "tail"])
def test_caps_in_conflict_say_how_much_the_others_need(what: str) -> None:
    # The floor on the first name is what asks for more than the cap allows.
    ctx = context()
    floor = {"leverage": Box(lower=-1.0, upper=2.0, floors={"A0": 1.5}), "shorts": Budget(-0.25)}
    forced = floor.get(what, Budget(1.0) & Box(lower=0.0, upper=0.11))
    others = forced & Box(lower=-3.0, upper=4.0)

    def least(rules: list[Constraint]) -> float:
        w = cp.Variable(10)
        extent = {"leverage": cp.norm1(w), "shorts": cp.sum(cp.neg(w)),
                  "volatility": cp.norm2(ctx.covariance.root().numpy() @ w),
                  "tail": cp.sum_largest(-ctx.scenarios.numpy() @ w, 20) / 20}[what]  # fmt: skip
        problem = cp.Problem(cp.Minimize(extent), [part for rule in rules for part in rule.to_cvxpy(w, ctx)])
        return float(problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9))

    needed = least(list(others.rules()))
    rule = Capped(what, 0.8 * needed)
    error = explain_infeasible(rule & others, ctx)
    named = [other for other in others.rules() if repr(other) in error.conflict]
    assert repr(rule) in error.conflict and len(error.conflict) == len(named) + 1 < 4
    assert f"at least {least(named):.4g}, and {rule!r} allows {0.8 * needed:.4g}" in str(error)
    assert possible(region_of(Capped(what, 1.001 * needed) & others, ctx))


@pytest.mark.parametrize("n", [30, 80])
def test_risk_caps_on_many_names_are_measured(n: int) -> None:
    ctx = market(n, size=250, seed=n)
    rules = Budget() & LongOnly() & Box(upper=0.4)
    w = cp.Variable(n, nonneg=True)
    root = ctx.covariance.root().numpy()
    problem = cp.Problem(cp.Minimize(cp.norm2(100.0 * root @ w)), [cp.sum(w) == 1, w <= 0.4])
    needed = 0.01 * float(problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10))
    cap = VolatilityCap(0.8 * needed)
    error = explain_infeasible(rules & cap, ctx)
    assert {"Budget()", repr(cap)} <= set(error.conflict) <= {"Budget()", "LongOnly()", repr(cap)}
    w = cp.Variable(n, nonneg="LongOnly()" in error.conflict)
    most = cp.Problem(cp.Maximize(cp.sum(w)), [cp.norm2(root / cap.at_most @ w) <= 1]).solve(solver=cp.CLARABEL)
    assert f"at most {most:.4g} of the 1 that Budget() needs" in str(error)
    eased, given = relaxed(rules & cap, [cap], ctx)
    assert given[cap] == pytest.approx(0.2 * needed, rel=1e-5)
    assert possible(region_of(eased, ctx))


def test_active_share_is_said_in_its_own_unit() -> None:
    # The benchmark holds half in odd names; at most .3 there leaves .2 on one side.
    ctx = replace(context(), benchmarks={"index": torch.full((10,), 0.1, dtype=torch.float64)})
    floor, cap = Group("sector", "odd", upper=0.3), ActiveShare(0.05, "index")
    rules = Budget() & LongOnly() & floor & cap
    error = explain_infeasible(rules, ctx)
    assert set(error.conflict) == {"Budget()", repr(floor), repr(cap)} or set(error.conflict) == {
        repr(floor),
        repr(cap),
    }
    eased, given = relaxed(rules, [cap], ctx)
    assert given[cap] == pytest.approx(0.15, abs=1e-6)
    w = torch.tensor([0.14, 0.06] * 5, dtype=torch.float64)
    assert float(eased.residual(w, ctx)) <= 1e-9 < float(cap.residual(w, ctx))
    assert float(cap.residual(w, ctx)) == pytest.approx(0.15)


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


@pytest.mark.parametrize("hair", [1e-5, pytest.param(1e-7, marks=pytest.mark.slow), 1e-8])
def test_rules_that_miss_one_another_by_a_hair_are_named(hair: float, capfd: pytest.CaptureFixture[str]) -> None:
    # Less than HiGHS's own tolerance for a mixed-integer program, which is 1e-6.
    box, count, ctx = Box(upper=0.2 - hair), Cardinality(5), market(10)
    rules = Budget() & LongOnly() & box & count & Group("sector", "odd", lower=0.1)
    error = explain_infeasible(rules, ctx)
    assert set(error.conflict) == {"Budget()", repr(box), repr(count)}
    assert f"at most {1.0 - 5.0 * hair:.10g} of the 1 that Budget() needs" in str(error)
    with pytest.raises(InfeasibleError, match=r"at most 0\.999"):
        AnnealedLangevin().build(Variance(), rules, ctx, generator(0, "hair"))
    assert capfd.readouterr().out == ""
    least = Cardinality(exactly=5, min_weight=0.2 + hair)
    assert set(explain_infeasible(Budget() & least & LongOnly(), ctx).conflict) == {"Budget()", repr(least)}
    assert possible(region_of(Budget() & LongOnly() & Box(upper=0.2) & count, ctx))


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


def test_a_solver_that_fails_is_an_error_of_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise cp.error.SolverError("out of luck")

    monkeypatch.setattr(cp.Problem, "solve", failing)
    region = region_of(Budget() & LongOnly() & VolatilityCap(at_most=0.05), market(10)).folded()
    for ask in (possible, lambda one: require_feasible(Walls.of(one), one.names)):
        with pytest.raises(SolverError, match=r"could not tell whether .*VolatilityCap.*: out of luck"):
            ask(region)


def test_nothing_is_not_said_to_be_less_than_nothing() -> None:
    said = str(explain_infeasible(Budget() & Box(lower=-0.1, upper=0.0), market(10)))
    assert "allows at most 0 of the 1 that Budget() needs" in said


@pytest.mark.parametrize("turned", [False, True])
def test_among_many_rules_the_pair_is_named_and_not_the_larger_conflict(turned: bool) -> None:
    """Behind a conflict of three, and before it: leaving rules out one by one keeps whichever comes last."""
    pair: list[Constraint] = [
        Box(lower=-1.0, upper=1.0, floors={"A0": 0.2}),
        Box(lower=-1.0, upper=1.0, caps={"A0": 0.1}),
    ]
    larger = [Budget(), Group("sector", "odd", upper=0.3), Group("sector", "even", upper=0.5)]
    loose: list[Constraint] = [Box(lower=-2.0 - k, upper=2.0 + k) for k in range(15)]
    rules = [*larger, *loose, Leverage(9.0), Turnover(50.0), *pair]
    assert len(rules) == 22
    error = explain_infeasible(All(parts=tuple(reversed(rules) if turned else rules)), context())
    assert set(error.conflict) == {repr(rule) for rule in pair}
    assert "A0 weighs at least 0.2 and at most 0.1" in str(error)
    assert "was not settled" not in str(error)


def test_past_the_last_question_the_conflict_is_not_called_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio_ebm.construction.feasibility.infeasible.ASKED", 0)
    rules = Budget() & LongOnly() & Box(upper=0.05) & Turnover(0.5)
    error = explain_infeasible(rules, context())
    named = [rule for rule in rules.rules() if repr(rule) in error.conflict]
    assert len(named) == 2
    assert "Whether fewer rules than 2 contradict one another too was not settled." in str(error)
    for rule in named:
        assert possible(region_of(All(parts=tuple(other for other in named if other != rule)), context()))


def test_a_conflict_that_needs_no_dear_question_is_named_beside_a_cap_that_cuts_do_not_settle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten names of which at most .4 is in names above .05 hold at most .7. Whether ten names have a volatility of 2.5%
    is a mixed question that cuts do not settle: it must be asked with few rounds, and its answer not matter."""
    asked: list[int] = []

    def counted(region: Region, rounds: int = 300) -> bool:
        if region.curved and region.discrete:
            asked.append(rounds)
        return possible(region, rounds)

    monkeypatch.setattr("portfolio_ebm.construction.feasibility.infeasible.possible", counted)
    ctx = market(60)
    ctx = replace(ctx, groups={**ctx.groups, "issuer": ctx.assets})
    conflict: list[Constraint] = [Budget(), Cardinality(at_most=10), UCITS()]
    others = [LongOnly(), VolatilityCap(0.025), Group("sector", "odd", lower=0.2), Group("sector", "even", lower=0.2)]
    error = explain_infeasible(All(parts=(*others, *conflict)), ctx)
    assert set(error.conflict) == {repr(rule) for rule in conflict}
    assert "at most 0.7 of the 1 that Budget() needs" in str(error)
    assert "was not settled" not in str(error), "no two of the rules contradict one another"
    assert len(asked) <= 10 and max(asked) <= 10
    for rule in conflict:
        assert possible(region_of(All(parts=tuple(other for other in conflict if other != rule)), ctx))


def test_where_no_question_with_a_cap_is_settled_a_conflict_is_named_and_not_called_the_smallest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(region: Region, rounds: int = 300) -> bool:
        if region.curved:
            raise SolverError("out of luck")
        return possible(region, rounds)

    monkeypatch.setattr("portfolio_ebm.construction.feasibility.infeasible.possible", failing)
    rules = Budget() & LongOnly() & VolatilityCap(0.5) & Box(upper=0.05)
    error = explain_infeasible(rules, context())
    assert set(error.conflict) == {"Budget()", "Box(upper=0.05)"}
    assert "Whether fewer rules than 2 contradict one another too was not settled." in str(error)
    with pytest.raises(SolverError, match="out of luck"):
        explain_infeasible(Budget() & LongOnly() & VolatilityCap(0.5), context())


@pytest.mark.parametrize("primes", [(2, 3, 5), (2, 3, 5, 7, 11, 13)])
def test_lots_that_never_add_up_are_said_so(primes: tuple[int, ...]) -> None:
    """Whole multiples of square roots of different primes add up to no whole number: lots of such weights never make
    up exactly everything. Three names do not come nearer than the rules' tolerance either, six do, and with a little
    cash all do."""
    ctx = market(len(primes))
    prices = 10.0 * torch.tensor(primes, dtype=torch.float64).sqrt()
    ctx = replace(ctx, prices=prices, capital=4000.0)
    exact, chains = Budget() & LongOnly() & RoundLots(), AnnealedLangevin(chains=4, steps=5)
    if len(primes) == 3:
        with pytest.raises(InfeasibleError, match=r"Budget\(\)") as caught:
            chains.build(Variance(), exact, ctx, torch.Generator().manual_seed(0))
        assert {"RoundLots()", "Budget()"} <= set(caught.value.conflict)
    else:
        near = chains.build(Variance(), exact, ctx, torch.Generator().manual_seed(0))
        assert 0.0 < max(near.residuals.values()) <= 1e-9
    room = Budget(at_least=0.97) & LongOnly() & RoundLots()
    found = AnnealedLangevin(chains=4, steps=5).build(Variance(), room, ctx, torch.Generator().manual_seed(0))
    lots = found.weights * 4000.0 / prices
    assert float((lots - lots.round()).abs().max()) <= 1e-6


@pytest.mark.parametrize("open_", [True, False], ids=["possible by its tolerance", "not settled"])
def test_whole_lots_that_were_not_found_are_not_called_impossible(open_: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> bool:
        if open_:
            return True
        raise SolverError("no answer")

    monkeypatch.setattr("portfolio_ebm.construction.feasibility.infeasible._possible", asked)
    ctx = replace(market(6), prices=torch.full((6,), 10.0, dtype=torch.float64), capital=1000.0)
    rules = Budget() & LongOnly() & RoundLots()
    with pytest.raises(SolverError, match=r"whole lots was found.*Budget\(\) asks for one exact sum.*was not settled"):
        explain_infeasible(rules, ctx)
    # Where every number of lots was looked at, there is none, whatever the solver says.
    assert "There is none" in str(explain_infeasible(rules, ctx, looked=True))


def test_whole_lots_are_not_blamed_for_what_others_rule_out() -> None:
    """Six names of at most .1 never make up 1, in whole lots or not: the lots are no part of the conflict."""
    ctx = replace(market(6), prices=torch.full((6,), 10.0, dtype=torch.float64), capital=1000.0)
    error = explain_infeasible(Budget() & Box(upper=0.1) & LongOnly() & RoundLots(), ctx)
    assert set(error.conflict) == {"Budget()", "Box(upper=0.1)"}
