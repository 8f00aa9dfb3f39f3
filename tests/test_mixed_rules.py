"""Every rule that is not convex, and every pair, against enumeration: each slice is written here from the rule's own
text, solved by an active set, and the least of all is the optimum. The names are few, the proof is complete."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import daqp
import numpy as np
import pytest
import torch
from cases_modes import BASE, F64, HELD, LANDS, RULES, N, Slice, context, convex, row, traded

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510, TopSum
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.context import Context
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.impact import MarketImpact
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import DataError, InfeasibleError, SpecError
from portfolio_ebm.optimization import optimize

ENERGY = Return() + 2.0 * Variance()


def least(ctx: Context, slices: Iterator[Slice] | list[Slice]) -> float:
    """The least energy over all slices; +inf where none has a portfolio."""
    q, c = 4.0 * ctx.covariance.dense().numpy(), -ctx.mean.numpy()
    best = np.inf
    for one in slices:
        if (one.lower > one.upper + 1e-12).any():
            continue
        high, low = np.r_[one.upper, one.high], np.r_[one.lower, one.low]
        sense = np.where(high - low <= 1e-14, 5, 0).astype(np.int32)
        found, _, flag, _ = daqp.solve(
            np.ascontiguousarray(100 * q), 100 * c, np.ascontiguousarray(one.rows), high, low, sense, primal_tol=1e-11
        )
        if flag > 0:
            w = np.asarray(found)
            best = min(best, float(0.5 * w @ q @ w + c @ w) + one.cost)
    return best


def agrees(energy: Energy, rules: Constraint, ctx: Context, truth: float) -> None:
    build = AnnealedLangevin(chains=8).build
    if truth == np.inf:
        with pytest.raises(InfeasibleError):
            build(energy, rules, ctx, torch.Generator().manual_seed(0))
        return
    found = build(energy, rules, ctx, torch.Generator().manual_seed(0))
    assert found.energy == pytest.approx(truth, abs=1e-9)
    assert found.bound is not None
    assert found.bound <= truth + 1e-9
    assert found.energy - found.bound <= 1e-9, "not proven"
    assert max(found.residuals.values()) <= 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RULES)
def test_one_rule(name: str, seed: int) -> None:
    ctx, (rule, slices) = context(seed), RULES[name]
    agrees(ENERGY, BASE & rule, ctx, least(ctx, [convex() & one for one in slices]))


def two_rules(pair: tuple[str, str], seed: int) -> None:
    ctx, ((one, first), (two, second)) = context(seed), (RULES[name] for name in pair)
    agrees(ENERGY, BASE & one & two, ctx, least(ctx, (convex() & a & b for a in first for b in second)))


PAIRS = list(itertools.combinations(RULES, 2))


@pytest.mark.parametrize("pair", PAIRS[::9], ids=" + ".join)
def test_some_pairs(pair: tuple[str, str]) -> None:
    two_rules(pair, 0)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=" + ".join)
def test_every_pair(pair: tuple[str, str]) -> None:
    for seed in (1, 2):
        two_rules(pair, seed)


@pytest.mark.parametrize("name", [None, "at most", "5/10/40"])
@pytest.mark.parametrize("ticket", [1e-4, 1e-3])
def test_tickets(name: str | None, ticket: float) -> None:
    for seed in range(2):
        ctx, slices = context(seed), (convex() & one for one in traded(ticket))
        if name is None:
            agrees(ENERGY + FixedCost(rate=ticket), BASE, ctx, least(ctx, slices))
        else:
            rule, others = RULES[name]
            agrees(
                ENERGY + FixedCost(rate=ticket), BASE & rule, ctx, least(ctx, (a & b for a in slices for b in others))
            )


@pytest.mark.parametrize("seed", range(3))
def test_either_is_the_better_of_both(seed: int) -> None:
    ctx = context(seed)
    (one, first), (two, second) = RULES["5/10/40"], RULES["at most"]
    truth = least(ctx, [convex() & part for part in (*first, *second)])
    agrees(ENERGY, BASE & Either(one, two), ctx, truth)


@pytest.mark.parametrize("seed", range(3))
def test_rules_beside_turnover_and_groups(seed: int) -> None:
    ctx, (rule, slices) = context(seed), RULES["at most"]
    moved = [
        row(np.array(sides), -np.inf, 0.5 + float(np.array(sides) @ HELD))
        for sides in itertools.product((-1.0, 1.0), repeat=N)
    ]
    cap = convex() & row(np.array([land == "US" for land in LANDS], dtype=float), 0.1, 0.3)
    for side in moved:
        cap = cap & side
    agrees(
        ENERGY, BASE & rule & Turnover(0.5) & Group("land", "US", 0.3, 0.1), ctx, least(ctx, [cap & s for s in slices])
    )


@pytest.mark.parametrize(
    "energy",
    [CVaR(0.9), Return() + 0.5 * CVaR(0.9), pytest.param(ENERGY + MarketImpact(), marks=pytest.mark.slow)],
    ids=repr,
)
@pytest.mark.parametrize("name", ["at most", "exactly", "25/50"])
def test_other_energies_are_no_better_on_any_slice(energy: Energy, name: str) -> None:
    """Convex slices by the convex constructor's engines: none is below what was found and proven."""
    from portfolio_ebm.constraints.combine import region_of
    from portfolio_ebm.construction.exact.minimum import minimize

    ctx, (rule, slices) = context(0), RULES[name]
    found = AnnealedLangevin(chains=8).build(energy, BASE & rule, ctx, torch.Generator().manual_seed(0))
    best = np.inf
    for one in slices:
        region = region_of(BASE, ctx).with_box(torch.tensor(one.lower), torch.tensor(one.upper))
        for values, low, high in zip(one.rows, one.low, one.high, strict=True):
            region = region.with_row(torch.tensor(values), float(low), float(high), "slice")
        try:
            best = min(best, minimize(energy, region, ctx).value)
        except InfeasibleError:
            continue
    assert found.energy == pytest.approx(best, rel=1e-7)
    assert found.bound is not None
    assert found.energy - found.bound <= 2e-8, "not proven"


def test_whole_lots_by_enumeration() -> None:
    """A few large lots: every point of the grid is looked at."""
    ctx = context(0)
    rules = Budget(1.0, 0.8) & LongOnly() & Box(upper=0.45) & RoundLots(lot=5.0)
    step = RoundLots(lot=5.0).step(ctx).numpy()
    counts = [np.arange(int(0.45 / size + 1e-9) + 1) for size in step]
    grid = np.array(list(itertools.product(*counts)), dtype=float) * step
    grid = grid[(grid.sum(1) <= 1.0 + 1e-12) & (grid.sum(1) >= 0.8 - 1e-12)]
    truth = float(ENERGY.bind(ctx)(torch.tensor(grid)).min())
    found = AnnealedLangevin(chains=8).build(ENERGY, rules, ctx, torch.Generator().manual_seed(0))
    assert max(found.residuals.values()) <= 1e-9
    assert found.bound is not None and found.bound <= truth + 1e-12
    assert truth - 1e-12 <= found.energy <= truth + 0.02 * abs(truth)
    assert "without whole lots" in found.ablation


def test_whole_lots_through_the_door() -> None:
    prices = {"A": 50.0, "B": 120.0, "C": 310.0}
    best = optimize(
        Variance(), Budget(at_least=0.97) & LongOnly() & RoundLots(lot=10), covariance=np.diag([0.04, 0.05, 0.09]),
        mean=np.zeros(3), assets=["A", "B", "C"], prices=prices, capital=1e5,
    )  # fmt: skip
    shares = best.weights * 1e5 / np.array([50.0, 120.0, 310.0])
    assert np.abs(shares / 10 - np.round(shares / 10)).max() < 1e-9
    assert 0.97 - 1e-9 <= best.weights.sum() <= 1.0 + 1e-9
    assert best.gap is not None and best.gap <= 0.01 * best.energy


def test_what_is_lacking_is_refused_by_name() -> None:
    bare = Context(("A", "B"), None, None, torch.ones(2, dtype=torch.bool), {"sector": ("x", "y")})
    for rule, says in (
        (UCITS(), "No grouping 'issuer'"), (RIC2550("sectr"), "there is 'sector'"),
        (RoundLots(), "size of the portfolio"), (Diversified75510("sector"), "fund's size"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=says):
            rule.project(torch.zeros(2, dtype=F64), bare)
    gaps = Context(("A", "B"), None, None, torch.ones(2, dtype=torch.bool), {"issuer": ("x", "")})
    with pytest.raises(DataError, match="B have no issuer"):
        UCITS().project(torch.zeros(2, dtype=F64), gaps)
    with pytest.raises(SpecError, match="min_weight above 0"):
        Cardinality(at_least=3)
    with pytest.raises(SpecError, match="no number is given"):
        Cardinality(min_weight=0.1)
    with pytest.raises(SpecError, match="either rate"):
        FixedCost()


def test_a_conflict_of_numbers_is_named() -> None:
    ctx = context(0)
    with pytest.raises(InfeasibleError) as error:
        AnnealedLangevin(chains=8).build(
            ENERGY, Budget() & LongOnly() & UCITS("house") & TopSum(2, 0.9), ctx, torch.Generator().manual_seed(0)
        )
    assert set(error.value.conflict) == {"Budget()", "UCITS(issuers='house')"}
