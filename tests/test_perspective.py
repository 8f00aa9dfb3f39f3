"""The perspective relaxation of numbers of names: against its form in z, against all choices, and what it excludes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.constraints.mixed.branch_and_bound import branch_and_bound
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, propagate, relax
from portfolio_ebm.constraints.mixed.perspective import Perspective
from portfolio_ebm.constraints.mixed.programs.bent import BentProgram
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.splitting import Split
from portfolio_ebm.constraints.mixed.strengthening import strengthened


def counted(seed: int, n: int = 6, spread: float = 0.05, held: bool = False, impact: bool = False) -> Mixed:
    """At most, or exactly, K names of a least weight; a budget, a row, an upper bound; perhaps costs of trading."""
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(n, 2)) * spread
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-3, 6e-3, n)))
    rows, most = np.vstack([np.ones(n), (np.arange(n) < 3).astype(float)]), np.array([1.0, 0.8])
    data = matrix, -rng.normal(1e-3, 2e-3, n), np.zeros(n), np.full(n, 0.7), rows, np.array([1.0, -np.inf]), most
    was, rate, cap = (rng.dirichlet(np.ones(n)), 2e-4, 1.2) if held else (None, 0.0, np.inf)
    number, least = int(rng.integers(2, 5)), rng.choice([0.0, 0.02, 0.15])
    exactly = rng.random() < 0.3
    limit = (1, number if exactly else 0, number, False)
    p = Program(*data, was, rate, cap)
    if held and impact:
        p = BentProgram(*data, was, rng.choice([0.0, rate]), cap, power=rng.uniform(0.0, rng.choice([2e-3, 2e-2]), n))
    return Mixed(p, Choices.of_names(np.arange(n), [(0.0, 0.0), (least, 0.7)], [limit], "names"))


def strong(m: Mixed, value: float = np.inf) -> Mixed:
    root = m.root()
    assert root is not None
    return strengthened(m, root, value)


def enumerated(m: Mixed) -> float:
    """The optimum over all choices of names."""
    count = m.choices.limits[0]
    every = (np.array(one) for one in itertools.product((0, 1), repeat=m.choices.units))
    points = (on_slice(m, one) for one in every if count.least <= one.sum() <= count.most)
    return min((point.value for point in points if point is not None), default=np.inf)


def in_shares(m: Mixed, split: np.ndarray) -> float:
    """min 1/2 w'(Q - 2D)w + c'w + sum d w^2 / z over least z <= w <= most z, sum z <= K: the same relaxation."""
    p, c, n = m.program, m.choices, m.program.n
    w, z = cp.Variable(n), cp.Variable(n, nonneg=True)
    energy = 0.5 * cp.quad_form(w, cp.psd_wrap(p.matrix - 2 * np.diag(split))) + p.linear @ w
    energy += sum(split[i] * cp.quad_over_lin(w[i], z[i]) for i in range(n))
    rules = [z <= 1, cp.sum(z) <= c.limits[0].most, cp.sum(w) == 1, sum(w[:3]) <= 0.8]
    rules += [w >= cp.multiply(c.lower[:, 1], z), w <= cp.multiply(c.upper[:, 1], z)]
    problem = cp.Problem(cp.Minimize(1e3 * energy), rules)
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value) / 1e3


def at_its_best_price(m: Mixed, view: Perspective, root: np.ndarray) -> float:
    """By thirds: the bound is concave in the price."""

    def bound(price: float) -> float:
        point = relax(replace(m, perspective=replace(view, price=price), left=None), root)
        assert point is not None
        return point.bound

    low, high = 1e-3 * view.price, 50.0 * view.price
    for _ in range(30):
        left, right = (2 * low + high) / 3, (low + 2 * high) / 3
        low, high = (left, high) if bound(left) < bound(right) else (low, right)
    return bound(low)


@pytest.mark.parametrize(("seeds", "n", "least"), [(5, 8, 2), pytest.param(7, 9, 3, marks=pytest.mark.slow)])
def test_at_its_best_price_it_is_the_relaxation_in_shares(seeds: int, n: int, least: int) -> None:
    seen = 0
    for seed in range(seeds):
        m = strong(counted(seed, n=n))
        view, root = m.perspective, m.root()
        if view is None or root is None or m.choices.limits[0].least:
            continue
        best, truth = at_its_best_price(m, view, root), in_shares(m, view.split.diagonal)
        assert best <= truth + 1e-9
        assert best == pytest.approx(truth, rel=1e-5)
        seen += 1
    assert seen >= least


MANY = pytest.mark.slow


@pytest.mark.parametrize(
    ("impact", "seeds"),
    [(False, range(10)), (True, range(5)),
     *(pytest.param(False, range(k, k + 18), marks=MANY) for k in range(10, 100, 18)),
     *(pytest.param(True, range(k, k + 11), marks=MANY) for k in range(5, 60, 11))],
    ids=str,
)  # fmt: skip
def test_bounds_and_trees_against_all_choices(impact: bool, seeds: range) -> None:
    tighter = priced = 0
    for seed in seeds:
        m = counted(seed, held=impact or seed % 4 == 3, impact=impact)
        truth, root = enumerated(m), m.root()
        if not np.isfinite(truth) or root is None:
            continue
        one = strong(m)
        plain, point = relax(m, root), relax(one, root)
        assert plain is not None and point is not None
        assert point.bound <= truth + 1e-15
        proof = branch_and_bound(one, tolerance=1e-12)
        assert proof.finished and proof.bound <= truth + 1e-12
        assert proof.value == pytest.approx(truth, abs=1e-11)
        # With the optimum known, what is left holds it or nothing better.
        known = branch_and_bound(strong(m, truth), incumbent=proof.weights, value=truth, tolerance=1e-12)
        assert known.finished and known.value == pytest.approx(truth, abs=1e-11)
        priced += one.perspective is not None
        tighter += point.bound > plain.bound + 1e-6
    assert priced > len(seeds) // 2
    assert tighter > len(seeds) // 3


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=MANY) for seed in range(8, 16))])
def test_nodes_are_below_all_their_slices_and_close_no_better_one(seed: int) -> None:
    m, rng = counted(seed, n=8, held=seed % 4 > 1, impact=seed % 4 == 2), np.random.default_rng(seed)
    one, root = strong(m), m.root()
    assert root is not None
    for _ in range(8):
        allowed = propagate(m.choices, root & (rng.random(root.shape) < 0.8))
        if allowed is None:
            continue
        inside = [np.flatnonzero(row) for row in allowed]
        modes = [np.array([rng.choice(names) for names in inside]) for _ in range(15)]
        points = [(at, on_slice(m, at)) for at in modes]
        values = [(at, point.value) for at, point in points if point is not None]
        if not values:
            continue
        enough = float(np.median([value for _, value in values]))
        near = relax(one, allowed, None, enough)
        assert near is not None
        # Its parts ask another price, and are below all the same.
        again = relax(one, allowed, near, enough)
        assert again is not None
        for point in (near, again):
            for at, value in values:
                assert point.bound <= value + 1e-15
                if value < enough and point.open is not None:
                    assert point.open[np.arange(len(at)), at].all()


def test_planted_names_are_excluded_at_once() -> None:
    """Three names of a tenth of the others' variance, at most three held: all others are out, by the bound alone."""
    n, held = 30, 3
    variance = np.where(np.arange(n) < held, 1e-3, 1e-2)
    p = Program(
        2 * np.diag(variance), np.zeros(n), np.zeros(n), np.ones(n), np.ones((1, n)), np.array([1.0]), np.array([1.0])
    )
    m = Mixed(p, Choices.of_names(np.arange(n), [(0.0, 0.0), (0.05, 1.0)], [(1, 0, held, False)], "names"))
    # A third of each: 3 (1/3)^2 1e-3.
    value = 1e-3 / 3
    one = strong(m, value * (1.0 + 1e-6))
    assert one.left is not None
    assert not one.left[held:, 1].any() and one.left[:held, 1].all()
    proof = branch_and_bound(one, tolerance=1e-12)
    assert proof.finished and proof.value == pytest.approx(value, rel=1e-9)
    assert proof.nodes <= 3


def test_a_least_weight_lengthens_the_line_by_hand() -> None:
    # price 1e-4, split 0.01: the knee would be at 0.1; from 0.2 on it is 1e-4 + 0.01 t^2, and the line ends at 5e-4.
    one = np.ones(1)
    e = Envelope.of(0.0 * one, 1e-4 * one, np.ones((1, 2)), 0.01 * one, 0.0 * one, 0.2)
    at = [float(e.square(x * one)[0]) for x in (0.1, 0.2, 0.4)]
    assert at == pytest.approx([2.5e-4, 5e-4, 1e-4 + 0.0016])
    assert float(e.share(0.1 * one)[0]) == pytest.approx(0.5)


def test_of_many_names_the_split_is_of_those_that_move() -> None:
    rng = np.random.default_rng(0)
    loads = rng.normal(size=(20, 2)) * 0.05
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-3, 6e-3, 20)))
    among = np.arange(20) < 8
    whole, part = Split.of(matrix), Split.of(matrix, among=among)
    assert whole is not None and part is not None
    assert (part.diagonal[~among] == 0.0).all()
    assert part.diagonal.sum() > whole.diagonal[among].sum()
    assert np.linalg.eigvalsh(part.rest[np.ix_(among, among)])[0] > 0.0


def even(n: int, k: int, cap: float = np.inf, impact: bool = False) -> Mixed:
    """All of n names held alike, a cost of trading, at most k of them to stay: what a relaxation answers is to stay."""
    rng = np.random.default_rng(n)
    loads = rng.normal(size=(n, 3)) * 0.03
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-3, 4e-3, n)))
    p = Program(
        matrix, -rng.normal(1e-3, 5e-4, n), np.zeros(n), np.ones(n), np.ones((1, n)), np.ones(1), np.ones(1),
        np.full(n, 1.0 / n), 0.0 if impact else 2e-3, cap,
    )  # fmt: skip
    if impact:
        p = BentProgram(**{**vars(p), "power": np.full(n, 6e-3)})
    return Mixed(p, Choices.of_names(np.arange(n), [(0.0, 0.0), (0.02, 1.0)], [(1, 0, k, False)], "names"))


@pytest.mark.parametrize("impact", [False, True])
@pytest.mark.parametrize("cap", [np.inf, 1.4])
def test_what_trades_cost_is_in_the_bound_where_all_is_held_and_few_may_stay(cap: float, impact: bool) -> None:
    m = even(9, 3, cap, impact)
    best, root = enumerated(m), m.root()
    assert root is not None
    plain, one = relax(m, root), strong(m, best)
    assert plain is not None and one.perspective is not None
    bound = relax(one, one.root() if one.root() is not None else root, None)
    # Two thirds are sold and bought again at 2e-3: the relaxation says so only with the rate in its lines.
    assert plain.bound < best - 2e-3
    assert bound is None or best - 2e-4 < bound.bound <= best + 1e-12
    proof = branch_and_bound(one, tolerance=1e-10)
    assert proof.finished and (proof.weights is None or proof.value == pytest.approx(best, abs=1e-9))
    assert branch_and_bound(strong(m, best * (1 + 1e-6) + 1e-6), tolerance=1e-10).value == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("turnover", [pytest.param(None, marks=MANY), 1.2])
def test_few_of_many_that_are_held_alike_are_proven_best_under_an_impact(turnover: float | None) -> None:
    """As above with |trade|^(3/2): no bound knew that eight of twenty cannot be held without it."""
    returns = pe.bundled().returns_frame().tail(750)
    rules = pe.Budget() & pe.LongOnly() & pe.Cardinality(at_most=8, min_weight=0.02)
    rules = rules if turnover is None else rules & pe.Turnover(at_most=turnover)
    given = {"scenarios": returns, "capital": 1e6, "volume": pd.Series(1e6, returns.columns)}
    held = pd.Series(0.05, returns.columns)
    found = pe.optimize(pe.Return() + 5 * pe.Variance() + pe.MarketImpact(), rules, held=held, **given)
    assert found.proven
    # Twelve sales of 0.05 cost this at least, of which the bound without it knew nothing.
    power = np.sort(returns.std(ddof=1).to_numpy())[:12]
    assert found.breakdown["MarketImpact()"] >= float((power * 0.05**1.5).sum())


@pytest.mark.parametrize("turnover", [None, pytest.param(1.2, marks=MANY)])
def test_few_of_many_that_are_held_alike_are_proven_best(turnover: float | None) -> None:
    """Every choice costs alike to trade into, and a relaxation without that in its lines answers to hold all: a search
    from there ended above the optimum, and no tree of 1,500 nodes said so."""
    returns = pe.bundled().returns_frame().tail(750)
    rules = pe.Budget() & pe.LongOnly() & pe.Cardinality(at_most=8, min_weight=0.02)
    rules = rules if turnover is None else rules & pe.Turnover(at_most=turnover)
    found = pe.optimize(
        pe.Return() + 5 * pe.Variance() + pe.TradingCost(5 * pe.bps), rules, scenarios=returns,
        held=pd.Series(0.05, returns.columns),
    )  # fmt: skip
    assert found.proven
    # Whoever starts with nothing pays for no sale and chooses among the same: its names cost 12 sales and as many buys.
    free = pe.optimize(pe.Return() + 5 * pe.Variance(), rules, scenarios=returns)
    assert found.energy <= free.energy + 1.2 * 5e-4 + 1e-4
    assert found.breakdown["TradingCost(rate=0.0005)"] >= 1.2 * 5e-4 - 1e-9


@pytest.mark.parametrize("impact", [False, True])
@pytest.mark.parametrize("seed", [0, 3, *(pytest.param(seed, marks=MANY) for seed in (1, 2, 4, 5, 6, 7))])
def test_costs_of_trading_under_few_names_against_all_choices(seed: int, impact: bool) -> None:
    rng = np.random.default_rng(seed)
    n, k = 6, int(rng.integers(2, 4))
    loads = rng.normal(0.0, 0.03, (n, 2))
    names = [f"A{i}" for i in range(n)]
    given = {
        "mean": rng.normal(0.003, 0.004, n), "covariance": loads @ loads.T + np.diag(rng.uniform(2e-4, 3e-3, n)),
        "assets": names, "held": rng.dirichlet(np.full(n, rng.choice([0.5, 5.0, 50.0]))),
        "groups": {"g": {name: "xy"[i % 2] for i, name in enumerate(names)}},
    }  # fmt: skip
    energy = pe.Return() + 3 * pe.Variance() + pe.TradingCost(float(rng.choice([5.0, 20.0, 80.0])) * pe.bps)
    if impact:
        energy = pe.Return() + 3 * pe.Variance() + pe.MarketImpact() + (seed % 3) * pe.TradingCost(5 * pe.bps)
        given |= {"volume": 10.0 ** rng.uniform(6.0, 8.0, n), "capital": 1e7}
    least, base = float(rng.choice([0.0, 0.15])), pe.Budget() & pe.LongOnly() & pe.Group("g", "x", upper=0.7)
    base = base & pe.Turnover(at_most=1.7) if seed % 2 else base
    best = np.inf
    for chosen in itertools.chain(*(itertools.combinations(names, size) for size in range(1, k + 1))):
        box = pe.Box(caps={a: 0.0 for a in names if a not in chosen}, floors=dict.fromkeys(chosen, least))
        try:
            best = min(best, pe.optimize(energy, base & box, constructor=pe.Convex(), **given).energy)
        except pe.errors.InfeasibleError:
            continue
    found = pe.optimize(energy, base & pe.Cardinality(at_most=k, min_weight=least), **given)
    assert found.proven and found.energy == pytest.approx(best, abs=1e-9)
    assert found.bound is not None and found.bound <= best + 1e-11


def test_what_it_does_not_price_is_left_as_it_is() -> None:
    m = counted(0)
    free = replace(m.choices, limits=(replace(m.choices.limits[0], most=np.inf),))
    costly = replace(m.choices, cost=np.where(m.choices.exists, 1e-4, 0.0) * np.array([0.0, 1.0]))
    flat = replace(m.program, matrix=np.zeros_like(m.program.matrix))
    for other in (replace(m, choices=free), replace(m, choices=costly), replace(m, program=flat)):
        assert strong(other).perspective is None
