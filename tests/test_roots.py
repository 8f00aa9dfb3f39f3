"""Choices under a volatility or a tracking error: Clarabel on slices, enumeration of the names, true bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from cases_convex import market

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.diversified import UCITS
from portfolio_ebm.constraints.mixed.node import Mixed, relax
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.rooted import Counted, RootedProgram
from portfolio_ebm.constraints.mixed.programs.splitting import Split
from portfolio_ebm.constraints.mixed.strengthening import strengthened
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.certifier import BranchAndBound
from portfolio_ebm.construction.choosing.choosing import mixed_of
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.squares import square_of
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.deviation import Semideviation, Volatility
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import as_numpy, generator

LONG = Budget() & LongOnly()
FEW = Cardinality(at_most=3, min_weight=0.05)
SEARCH = AnnealedLangevin(chains=8, walkers=2, sweeps=2)
MANY = pytest.mark.slow


def world(seed: int, n: int = 7) -> Context:
    """A market, what is held in it, and an index of all names."""
    draw = np.random.default_rng(seed)
    ctx = market(n, seed=seed)
    index = torch.tensor(draw.dirichlet(np.ones(n)))
    names = tuple(f"h{k}" for k in range(n))
    return replace(
        ctx, benchmarks={"index": index}, held=torch.tensor(draw.dirichlet(np.ones(n))), groups={"issuer": names}
    )


def program(seed: int, centred: bool, rate: float, n: int = 6) -> RootedProgram:
    draw = np.random.default_rng(seed)
    factor = draw.normal(size=(n, 3)) * 0.05
    matrix = factor @ factor.T + np.diag(draw.uniform(0.02, 0.1, n) ** 2)
    flat, centre = draw.normal(size=n) * 0.01, draw.dirichlet(np.ones(n)) if centred else np.zeros(n)
    box = np.zeros(n), np.full(n, 0.7), np.ones((1, n)), np.ones(1), np.ones(1)
    held = draw.dirichlet(np.ones(n)) if rate else None
    data = *box, held, rate
    size = 0.07
    linear = flat - matrix / size @ centre
    plain = Program(matrix / size, linear, *data)
    return RootedProgram(matrix / size, linear, *data, size=size, flat=flat, centre=centre, otherwise=plain)


def clarabel(p: RootedProgram) -> Callable[[np.ndarray, np.ndarray], float]:
    """The least energy between two ends by an independent model. Compiled once."""
    w, root = cp.Variable(p.n), np.linalg.cholesky(p.size * p.matrix)
    low, high = cp.Parameter(p.n), cp.Parameter(p.n)
    energy = cp.norm2(root.T @ (w - p.centre)) + p.flat @ w
    if p.held is not None:
        energy = energy + p.rate * cp.norm1(w - p.held)
    problem = cp.Problem(cp.Minimize(energy), [w >= low, w <= high, cp.sum(w) == 1.0])

    def least(lower: np.ndarray, upper: np.ndarray) -> float:
        low.value, high.value = lower, upper
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
        return float(problem.value)

    return least


def of_few(p: RootedProgram, k: int) -> float:
    """The least energy of all choices of k names."""
    least, names = clarabel(p), np.arange(p.n)
    every = (np.where(np.isin(names, chosen), p.upper, 0.0) for chosen in combinations(names, k))
    return min(least(p.lower, upper) for upper in every)


class Nothing(Program):
    """Another engine that finds no minimum."""

    def minimum(self, *given: Any) -> None:
        return None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rate", [0.0, 0.002])
@pytest.mark.parametrize("centred", [False, True])
def test_the_minimum_of_a_slice_is_clarabels(seed: int, centred: bool, rate: float) -> None:
    p = program(seed, centred, rate)
    lower, upper = p.lower.copy(), p.upper.copy()
    lower[0], upper[1:3] = 0.1, 0.0
    found = p.minimum(lower, upper, p.rows, p.row_lower, p.row_upper)
    best = clarabel(p)(lower, upper)
    assert found is not None
    assert found.value == pytest.approx(best, abs=1e-9) == p.value(found.weights)
    assert best - 1e-8 * p.size <= found.bound + 1e-9 and found.bound <= best + 1e-10


def test_a_kink_that_a_slice_holds_is_its_minimum_and_its_bound_is_true() -> None:
    # All but the benchmark costs more than it gains: E is zero there, and c'w beside it.
    p = program(0, True, 0.0)
    p = replace(p, flat=np.zeros(p.n), linear=p.linear - p.flat, otherwise=Nothing(**vars(p.otherwise)))
    found = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert found is not None and np.abs(found.weights - p.centre).max() < 1e-4
    assert -1e-4 * p.size < found.bound <= 1e-15 and 0.0 <= found.value < 1e-4 * p.size


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=MANY) for seed in range(3, 8))])
@pytest.mark.parametrize("rate", [0.0, 0.002])
def test_the_price_of_a_limit_gives_a_bound_that_no_portfolio_of_few_names_is_below(seed: int, rate: float) -> None:
    """At any price, right or wrong; and one of them is worth more than no price."""
    p, k = program(seed, False, rate), 2
    split = Split.of(p.matrix)
    assert split is not None
    ends = p.lower, p.upper, p.rows, p.row_lower, p.row_upper
    best, bare = of_few(p, k), p.minimum(*ends)
    assert bare is not None
    counted, bounds = Counted(np.ones(p.n, dtype=bool), k), []
    for price in np.geomspace(1e-3, 10.0, 9) * float(split.diagonal.mean()):
        found = p.priced(split, float(price), counted).minimum(*ends)
        assert found is not None and found.bound <= best + 1e-10
        bounds.append(found.bound)
    assert max(bounds) > bare.bound + 0.05 * (best - bare.bound)


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 6), marks=MANY)])
@pytest.mark.parametrize("held", ["short", "some short"])
def test_a_price_is_true_where_names_are_held_short_that_may_only_be_long(held: str, seeds: range) -> None:
    """A short name that is out pays for buying it back, and one that is in pays for more."""
    k = 2
    for seed in seeds:
        p = program(seed, False, 0.02)
        split = Split.of(p.matrix)
        assert split is not None and p.held is not None
        p = replace(p, held=-p.held if held == "short" else p.held - 0.15)
        ends = p.lower, p.upper, p.rows, p.row_lower, p.row_upper
        best = of_few(p, k)
        for price in np.geomspace(1e-3, 10.0, 7) * float(split.diagonal.mean()):
            found = p.priced(split, float(price), Counted(np.ones(p.n, dtype=bool), k)).minimum(*ends)
            assert found is not None and found.bound <= best + 1e-10


def test_what_is_split_off_leaves_a_product_of_the_names_that_stay_at_a_weight_too() -> None:
    ctx = world(8, n=10)
    ctx = replace(ctx, tradeable=torch.tensor([False] + 9 * [True]), held=torch.tensor([0.3] + 9 * [0.0]).double())
    region = region_of(Budget() & Box(0.0, 0.6) & Cardinality(at_most=4), ctx)
    mixed = mixed_of(take_apart(Volatility() + 0.1 * Return(), ctx), region)
    root = mixed.root()
    assert root is not None
    view = strengthened(mixed, root).perspective
    assert view is not None and view.split.diagonal[0] > 0.0
    assert float(np.linalg.eigvalsh(view.split.rest)[0]) > -1e-12


@pytest.mark.parametrize("energy", [Volatility() + Return(), Volatility() + Return() + TradingCost(30e-4)], ids=repr)
def test_a_name_without_risk_is_no_end_of_the_steps(energy: Energy) -> None:
    ctx = world(2, n=6)
    covariance = ctx.covariance.dense().clone()
    covariance[0], covariance[:, 0] = 0.0, 0.0
    ctx = replace(ctx, market=replace(ctx.market, covariance=Structured.from_dense(covariance)))
    best = enumerated(energy, LONG, ctx, 3, 0.05)
    found = SEARCH.build(energy, LONG & FEW, ctx, generator(0, "x"))
    assert found.energy == pytest.approx(best, abs=1e-9) and found.proven
    assert found.bound is not None and found.bound <= best + 1e-9


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 8), marks=MANY)])
def test_names_that_are_decided_are_among_those_that_are_counted(seeds: range) -> None:
    """One name is in for certain, and one other may be: the bound is that of two, not of one beside what is decided."""
    for seed in seeds:
        p = program(seed, False, 0.0)
        split = Split.of(p.matrix)
        assert split is not None
        lower = p.lower.copy()
        lower[0] = 0.3
        ends = lower, p.upper, p.rows, p.row_lower, p.row_upper
        least = clarabel(p)
        best = min(least(lower, np.where(np.isin(np.arange(p.n), (0, other)), p.upper, 0.0)) for other in range(1, p.n))
        open_ = np.arange(p.n) > 0
        for price in np.geomspace(1e-2, 10.0, 7) * float(split.diagonal.mean()):
            found = p.priced(split, float(price), Counted(open_, 1)).minimum(*ends)
            assert found is not None and found.bound <= best + 1e-10


def enumerated(energy: Energy, rules: Constraint, ctx: Context, names: int, floor: float) -> float:
    """The least energy over every choice of at most so many names, each held at `floor` at least."""
    best = float("inf")
    for size in range(1, names + 1):
        for chosen in combinations(range(ctx.n_assets), size):
            out = tuple((name, 0.0) for k, name in enumerate(ctx.assets) if k not in chosen)
            box = Box(lower=0.0, floors=tuple((ctx.assets[k], floor) for k in chosen), caps=out)
            try:
                best = min(best, minimize(energy, region_of(rules & box, ctx), ctx).value)
            except InfeasibleError:
                continue
    return best


SUMS = [
    Volatility() + 0.3 * Return(),
    2.0 * Volatility() + Return() + TradingCost(20e-4),
    TrackingError("index") + 0.2 * Return(),
    TrackingError("index") + TradingCost(10e-4),
]
ALONE = [Volatility(), 3.0 * TrackingError("index")]
TRADED = LONG & Turnover(1.0)


@cache
def optimum(energy: Energy, rules: Constraint, seed: int, n: int) -> float:
    """Enumerated once for all tests that look at it."""
    return enumerated(energy, rules, world(seed, n), 3, 0.05)


@pytest.mark.parametrize(
    ("energy", "rules", "seed", "n"),
    [*((energy, LONG, 1, 6) for energy in (*SUMS, *ALONE)), *((energy, TRADED, 1, 6) for energy in SUMS[1:3]),
     *(pytest.param(*given, 7, marks=MANY) for given in product((*SUMS, *ALONE), (LONG, TRADED), (1, 2)))],
    ids=repr,
)  # fmt: skip
def test_the_best_few_names_are_those_of_enumeration(energy: Energy, rules: Constraint, seed: int, n: int) -> None:
    ctx, best = world(seed, n), optimum(energy, rules, seed, n)
    for search in (SEARCH, BranchAndBound(time_limit=600.0, chains=8)):
        found = search.build(energy, rules & FEW, ctx, generator(0, "x"))
        assert found.energy == pytest.approx(best, rel=1e-8), search
        assert found.proven and found.bound is not None and found.bound <= best + 1e-9 * abs(best)


@pytest.mark.parametrize(
    ("energy", "seed", "n"),
    [*((energy, 1, 6) for energy in (*SUMS, *ALONE)),
     *(pytest.param(*given, 7, marks=MANY) for given in product((*SUMS, *ALONE), (4, 5)))],
    ids=repr,
)  # fmt: skip
def test_a_bound_is_true_where_the_tree_had_no_nodes_to_close(energy: Energy, seed: int, n: int) -> None:
    found = SEARCH.replace(nodes=1).build(energy, LONG & FEW, world(seed, n), generator(0, "x"))
    best = optimum(energy, LONG, seed, n)
    assert found.bound is not None and found.bound <= best + 1e-9 * abs(best) <= found.energy + 2e-9 * abs(best)


def test_a_tracking_error_with_more_beside_it_is_bounded_by_its_chord() -> None:
    """The relaxation holds the index, and says no more than that the error is above zero."""
    ctx = world(6, n=10)
    energy = TrackingError("index") + TradingCost(10e-4)
    found = SEARCH.replace(nodes=1).build(energy, LONG & FEW, ctx, generator(0, "x"))
    relaxed = Convex().build(energy, LONG, ctx, generator(0, "x"))
    assert found.bound is not None and relaxed.energy < 0.1 * found.energy
    assert found.bound > relaxed.energy + 0.25 * (found.energy - relaxed.energy)


@pytest.mark.parametrize("energy", [TrackingError("index") + TradingCost(10e-4), TrackingError("index")], ids=repr)
def test_tickets_are_part_of_what_a_bound_speaks_of(energy: Energy) -> None:
    """Every name stays as it is held, is sold, or is traded: the chord knows weights alone."""
    ctx = world(1, n=5)
    ticket = 2e-2
    best = float("inf")
    for modes in product("out", repeat=5):
        if modes.count("o") < 2 or any(m == "u" and h < 0.05 for m, h in zip(modes, ctx.held.tolist(), strict=True)):
            continue
        ends = {name: (0.0, 0.0) if m == "o" else (float(h), float(h)) if m == "u" else (0.05, 1.0)
                for name, m, h in zip(ctx.assets, modes, ctx.held.tolist(), strict=True)}  # fmt: skip
        box = Box(0.0, caps={k: v[1] for k, v in ends.items()}, floors={k: v[0] for k, v in ends.items()})
        try:
            found = minimize(energy, region_of(LONG & box, ctx), ctx)
        except InfeasibleError:
            continue
        best = min(best, found.value + ticket * sum(m != "u" for m in modes))
    for nodes in (1, 1500):
        search = SEARCH.replace(nodes=nodes)
        one = search.build(energy + FixedCost(rate=ticket), LONG & FEW, ctx, generator(0, "x"))
        assert one.bound is not None and one.bound <= best + 1e-9 and one.energy >= best - 1e-9


def test_a_root_that_stands_alone_has_the_names_of_its_square() -> None:
    ctx = world(7, n=10)
    for energy, square in [(Volatility(), Variance()), (TrackingError("index"), TrackingError("index", Variance()))]:
        one = SEARCH.build(2.0 * energy, LONG & FEW, ctx, generator(0, "x"))
        other = SEARCH.build(square, LONG & FEW, ctx, generator(0, "x"))
        assert torch.equal(one.weights, other.weights) and "by its square" in str(one.status)
        assert one.energy == pytest.approx(2.0 * other.energy**0.5, rel=1e-12)
        assert one.proven and one.bound == pytest.approx(one.energy, rel=1e-8)
        assert set(one.ablation) == set(other.ablation)
    assert square_of(Volatility() + Return()) is None and square_of(TrackingError("index", Semideviation())) is None
    assert square_of(-1.0 * Volatility()) is None


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=MANY)])
def test_a_kink_of_the_relaxation_is_no_scale_for_a_proof(seed: int) -> None:
    """Where the relaxation holds the index a tracking error bends without end; a gap that was relative to how much
    closed every tree at once, at whatever the first rounding was."""
    ctx, energy = world(seed), TrackingError("index", Semideviation())
    model = mixed_of(take_apart(energy, ctx), region_of(LONG & FEW, ctx)).program
    found = SEARCH.build(energy, LONG & FEW, ctx, generator(0, "x"))
    w = as_numpy(found.weights)
    assert float(w @ model.matrix @ w) < 100.0 * found.energy
    best = optimum(energy, LONG, seed, 7)
    assert found.energy == pytest.approx(best, rel=1e-6)
    assert found.bound is not None and found.bound <= best * (1.0 + 1e-8)


def test_an_index_that_a_choice_can_hold_is_held_and_proven() -> None:
    ctx = world(3)
    index = torch.zeros(7, dtype=torch.float64)
    index[1], index[4] = 0.3, 0.7
    ctx = replace(ctx, benchmarks={"index": index})
    energy = TrackingError("index") + 0.01 * Return()
    found = SEARCH.build(energy, LONG & FEW, ctx, generator(0, "x"))
    assert float((found.weights - index).abs().max()) < 1e-6 and found.proven


def test_a_limit_of_a_root_is_priced_and_the_relaxation_is_tighter_for_it() -> None:
    ctx = world(8, n=9)
    region = region_of(LONG & Cardinality(at_most=3, min_weight=0.01), ctx)
    mixed = mixed_of(take_apart(Volatility() + 0.1 * Return(), ctx), region)
    assert isinstance(mixed, Mixed) and isinstance(mixed.program, RootedProgram)
    root = mixed.root()
    assert root is not None
    stronger = strengthened(mixed, root)
    before, after = relax(mixed, root), relax(stronger, root)
    best = enumerated(Volatility() + 0.1 * Return(), LONG, ctx, 3, 0.01)
    assert before is not None and after is not None
    assert before.bound < after.bound <= best + 1e-10 and best - after.bound < 0.7 * (best - before.bound)


def test_limits_of_a_fund_meet_a_root_too() -> None:
    ctx, energy = world(9, n=14), Volatility() + 0.3 * Return()
    found = SEARCH.build(energy, Budget(at_least=0.8) & LongOnly() & UCITS("issuer"), ctx, generator(0, "x"))
    assert found.proven and found.bound == pytest.approx(found.energy, rel=1e-8)
    assert float(found.weights[found.weights > 0.05 + 1e-9].sum()) <= 0.4 + 1e-9
