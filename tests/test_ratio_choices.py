"""Ratios under a choice of names: enumeration of the names, each by the convex door; true bounds; refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, count
from types import SimpleNamespace

import pytest
import torch
from test_convex_ratio import gaining

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.diversified import UCITS
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction import certifier, ratio_choices
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.certifier import BranchAndBound
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.construction.ratio_choices import Enough, ratio_of_choice
from portfolio_ebm.construction.stages import Found
from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Semideviation, Volatility
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError, SolverError, SpecError
from portfolio_ebm.types import generator

RATIOS: list[Energy] = [
    MaxRatio(),
    3.0 * MaxRatio(Return(), CVaR(0.9, centred=True)),
    MaxRatio(Return(), Semideviation()),
    MaximumDiversification(),
]
LONG = Budget() & LongOnly() & Box(upper=0.6)
SEARCH = AnnealedLangevin(chains=8, steps=5)


def enumerated(energy: Energy, rules: Constraint, ctx: Context, names: int, floor: float) -> float:
    """The least ratio over every choice of so many names, each held at `floor` at least."""
    best = float("inf")
    for chosen in combinations(range(ctx.n_assets), names):
        out = [name for k, name in enumerate(ctx.assets) if k not in chosen]
        floors = tuple((ctx.assets[k], floor) for k in chosen)
        box = Box(lower=0.0, upper=0.6, floors=floors, caps=tuple((name, 0.0) for name in out))
        try:
            region = region_of(rules & box, ctx)
            best = min(best, minimize_ratio(lone_ratio(energy), region, ctx).value)
        except InfeasibleError:
            continue
    return best


@pytest.mark.parametrize("seed", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "energy", [*RATIOS[:2], *(pytest.param(one, marks=pytest.mark.slow) for one in RATIOS[2:])], ids=repr
)
def test_the_best_ratio_of_three_names_is_that_of_enumeration(energy: Energy, seed: int) -> None:
    ctx = gaining(seed)
    rules = LONG & Group("sector", "odd", upper=0.7)
    asked = rules & Cardinality(exactly=3, min_weight=0.1)
    best = enumerated(energy, rules, ctx, 3, 0.1)
    for search in (SEARCH, BranchAndBound(time_limit=600.0, chains=8)):
        found = search.build(energy, asked, ctx, generator(0, "x"))
        assert found.energy == pytest.approx(best, rel=1e-8), search
        assert found.bound is not None and found.bound <= best + 1e-12 * abs(best)
        assert found.gap <= 1e-7 * abs(best) and "ratio in" in str(found.status).lower()


@pytest.mark.parametrize("energy", RATIOS[:2], ids=repr)
def test_a_bound_is_true_where_the_tree_had_no_nodes_to_close(energy: Energy) -> None:
    ctx = gaining(5)
    asked = LONG & Cardinality(exactly=3, min_weight=0.1)
    found = SEARCH.replace(nodes=1).build(energy, asked, ctx, generator(0, "x"))
    best = enumerated(energy, LONG, ctx, 3, 0.1)
    assert found.bound is not None and found.bound <= best * (1.0 - 1e-12) <= found.energy * (1.0 - 2e-12)


@pytest.mark.parametrize("seed", [1, 3])
def test_the_clock_is_kept_for_the_step_that_proves(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks when it is read, once a node, and without a look before the walkers: the tree of the first
    ratio, which proves nothing of the best, would take all the time."""
    ticks = count()
    monkeypatch.setattr(certifier, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(certifier, "FIRST_LOOK", 1)
    ctx, grown = gaining(seed), []
    monkeypatch.setattr(certifier, "_grown", lambda *given, grow=certifier._grown: grown.append(1) or grow(*given))
    asked = LONG & Cardinality(exactly=3, min_weight=0.1)
    free = minimize_ratio(lone_ratio(MaxRatio()), region_of(LONG, ctx), ctx).value
    found = BranchAndBound(time_limit=7.0, chains=8).build(MaxRatio(), asked, ctx, generator(0, "x"))
    best = enumerated(MaxRatio(), LONG, ctx, 3, 0.1)
    assert grown == [1] and "optimum is proven" in str(found.status) and found.diagnostics["proven"] == 1.0
    assert found.energy == pytest.approx(best, rel=1e-9) and free < found.bound <= best * (1.0 - 1e-12)
    assert found.gap <= 1e-9 * abs(best)


def test_steps_that_are_at_their_most_say_so_and_not_that_a_clock_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratio_choices, "STEPS", 1)
    monkeypatch.setattr(certifier, "FIRST_LOOK", 1)
    asked = LONG & Cardinality(exactly=3, min_weight=0.1)
    found = BranchAndBound(time_limit=600.0, chains=8).build(MaxRatio(), asked, gaining(1), generator(0, "x"))
    said = str(found.status)
    assert "Ratio in 1 step, the most that are taken, not proven" in said and "not asked for a proof" in said
    assert "clock" not in said


def test_a_fund_limit_costs_ratio_and_the_bound_says_so() -> None:
    ctx = replace(gaining(2), groups={**gaining(2).groups, "issuer": gaining(2).assets})
    rules = Budget(at_least=0.5) & LongOnly()
    free = minimize_ratio(lone_ratio(MaxRatio()), region_of(rules, ctx), ctx).value
    found = SEARCH.build(MaxRatio(), rules & UCITS(issuers=None), ctx, generator(0, "x"))
    assert found.bound <= found.energy and found.energy > free + 1e-6 and found.gap <= 1e-7 * abs(found.energy)


def test_a_first_step_to_a_portfolio_that_loses_is_not_the_last() -> None:
    # A choice by hand: the first answer is a name that loses; asked for gain alone it gives the one that gains.
    ctx = gaining(1)
    mean = torch.full((ctx.n_assets,), -0.001, dtype=torch.float64)
    mean[0], mean[1] = 0.002, 0.0
    ctx = replace(ctx, market=replace(ctx.market, mean=mean))
    asked: list[Energy] = []
    worst = torch.zeros(ctx.n_assets, dtype=torch.float64)
    worst[2] = 1.0
    best = torch.zeros(ctx.n_assets, dtype=torch.float64)
    best[0] = 1.0

    def choose(energy: Energy, enough: Enough) -> tuple[Found, float]:
        asked.append(energy)
        assert enough(worst) == (len(asked) == 1), "the first ratio is below all, and later a loss is nothing"
        w = worst if len(asked) == 1 else best
        return Found(w, "hand", {}, w.unsqueeze(0), {}), float(energy.bind(ctx)(w))

    found, bound = ratio_of_choice(MaxRatio(), region_of(Budget() & LongOnly(), ctx), ctx, choose) or (None, 0)
    assert found is not None and bool((found.weights == best).all()) and asked[1] == Return()
    assert bound == pytest.approx(float(MaxRatio().bind(ctx)(best)), rel=1e-9)


def test_what_steps_cannot_prove_is_searched_and_branch_and_bound_refuses_it_in_words() -> None:
    ctx = gaining(3)
    losing = replace(ctx, market=replace(ctx.market, mean=-ctx.mean))
    asked = LONG & Cardinality(at_most=3)
    assert ratio_of_choice(Volatility(), region_of(asked, ctx), ctx, lambda *_: (None, None)) is None
    assert SEARCH.build(MaxRatio(), asked, losing, generator(0, "x")).bound is None
    with pytest.raises(SolverError, match="ratio"):
        BranchAndBound(time_limit=1.0).build(MaxRatio(), asked, losing, generator(0, "x"))
    # A ticket beside a ratio is no ratio any more.
    held = replace(ctx, held=torch.full((ctx.n_assets,), 1.0 / ctx.n_assets, dtype=torch.float64))
    beside = MaxRatio() + FixedCost(1e-4)
    assert SEARCH.build(beside, asked, held, generator(0, "x")).bound is None
    with pytest.raises(SpecError, match="MaxRatio"):
        BranchAndBound(time_limit=1.0).build(beside, asked, held, generator(0, "x"))
    with pytest.raises(InfeasibleError, match="Cardinality"):
        SEARCH.build(
            MaxRatio(), Budget() & LongOnly() & Box(upper=0.2) & Cardinality(at_most=3), ctx, generator(0, "x")
        )
