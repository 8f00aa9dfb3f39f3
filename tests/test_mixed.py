"""Choices that are not convex: program, relaxation, search and tree, against enumeration and Clarabel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from test_mixed_rules import BASE, RULES, context

from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.mixed.branch_and_bound import Tree, branch_and_bound, children
from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, propagate, relax
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Point
from portfolio_ebm.constraints.mixed.reading import assign
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.construction.choosing.choosing import mixed_of
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energy import Energy

CASES = ("at most", "exactly", "at least", "short", "5/10/40", "issuers", "fixed cost", "both")
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))


def program(n: int, seed: int, *, lower: float = 0.0, upper: float = 0.6) -> Program:
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(n, 3)) * 0.02
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-4, 6e-4, n)))
    rows = np.vstack([np.ones(n), (np.arange(n) % 3 == 0).astype(float)])
    box = np.full(n, lower), np.full(n, upper)
    return Program(matrix, -rng.normal(5e-4, 6e-4, n), *box, rows, np.array([1.0, -np.inf]), np.array([1.0, 0.7]))


def choices(case: str, n: int) -> Choices:
    names = np.arange(n)
    held = [(0.0, 0.0), (0.1, 0.6)]
    if case == "at most":
        return Choices.of_names(names, held, [(1, 0, 3, False)], case)
    if case == "exactly":
        return Choices.of_names(names, held, [(1, 4, 4, False)], case)
    if case == "at least":
        return Choices.of_names(names, [(0.0, 0.0), (0.15, 0.6)], [(1, 5, np.inf, False)], case)
    if case == "short":
        return Choices.of_names(names, [(0.0, 0.0), (0.2, 0.6), (-0.3, -0.1)], [(0, n - 4, np.inf, False)], case)
    if case == "5/10/40":
        return Choices.of_names(names, [(0.0, 0.15), (0.0, 0.4)], [(1, 0, 0.5, True)], case)
    issuers = Choices.of_groups(
        np.array([0, 0, 1, 2, 2, 3, 4][:n]), [(0.0, 0.15), (0.0, 0.5)], [(1, 0, 0.6, True)], case
    )
    if case == "issuers":
        return issuers
    if case == "both":
        return issuers.joined(Choices.of_names(names[:5], held, [(1, 0, 3, False)], case))
    found = Choices.of_names(names, [(1 / n, 1 / n), (0.0, 0.6)], [], case)
    found.cost[:, 1] = 4e-5
    return found


def mixed(case: str, seed: int, n: int = 7) -> Mixed:
    return Mixed(program(n, seed, lower=-0.3 if case == "short" else 0.0), choices(case, n))


def clarabel(m: Mixed) -> Callable[[np.ndarray], float]:
    """The least energy with the modes given, by an independent model; +inf where there is none. Compiled once."""
    p, c, w = m.program, m.choices, cp.Variable(m.program.n)
    unit = np.zeros((c.units, p.n))
    unit[c.unit, c.name] = 1.0
    low, high = cp.Parameter(c.units), cp.Parameter(c.units)
    rules = [w >= p.lower, w <= p.upper, p.rows[0] @ w == 1, p.rows[1] @ w <= p.row_upper[1]]
    rules += [unit @ w >= low, unit @ w <= high]
    masses = [(limit, cp.Parameter(p.n)) for limit in c.limits if limit.mass]
    rules += [of @ w <= limit.most for limit, of in masses]
    problem = cp.Problem(cp.Minimize(1e3 * (0.5 * cp.quad_form(w, cp.psd_wrap(p.matrix)) + p.linear @ w)), rules)

    def least(modes: np.ndarray) -> float:
        def here(limit: Limit) -> list[int]:
            return [u for u in limit.units if modes[u] in limit.modes]

        if any(not limit.least <= len(here(limit)) <= limit.most for limit in c.limits if not limit.mass):
            return np.inf
        for limit, of in masses:
            of.value = unit[here(limit)].sum(axis=0)
        low.value, high.value = (ends[np.arange(c.units), modes] for ends in (c.lower, c.upper))
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        cost = float(c.cost[np.arange(c.units), modes].sum())
        return float(problem.value) / 1e3 + cost if problem.status.startswith("optimal") else np.inf

    return least


def enumerated(m: Mixed) -> float:
    """The optimum over all modes there are, each slice by the exact program."""
    modes = [np.flatnonzero(row) for row in m.choices.exists]
    points = (on_slice(m, np.array(one)) for one in itertools.product(*modes))
    return min((point.value for point in points if point is not None), default=np.inf)


@cache
def optimum(case: str, seed: int) -> float:
    """Enumerated once for all tests that look at it."""
    return enumerated(mixed(case, seed))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_tree_finds_the_optimum_of_enumeration(case: str, seed: int) -> None:
    m, truth = mixed(case, seed), optimum(case, seed)
    assert np.isfinite(truth)
    proof = branch_and_bound(m, tolerance=1e-13)
    assert proof.finished
    assert proof.value == pytest.approx(truth, rel=1e-9)
    assert proof.bound <= truth + 1e-12


@pytest.mark.parametrize("case", CASES)
def test_slices_are_clarabels(case: str) -> None:
    m, rng = mixed(case, 5), np.random.default_rng(0)
    least, seen = clarabel(m), 0
    for _ in range(60):
        modes = np.array([rng.choice(np.flatnonzero(row)) for row in m.choices.exists])
        mine, theirs = on_slice(m, modes), least(modes)
        assert (mine is None) == np.isinf(theirs)
        if mine is not None:
            assert mine.value == pytest.approx(theirs, rel=1e-7)
            seen += 1
    assert seen > 0 or case in ("exactly", "at least", "short")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_relaxation_is_below_all_its_slices(case: str, seed: int) -> None:
    m, rng = mixed(case, seed), np.random.default_rng(seed)
    root = m.root()
    assert root is not None
    for _ in range(25):
        allowed = propagate(m.choices, root & (rng.random(root.shape) < 0.75))
        if allowed is None:
            continue
        bound = relax(m, allowed)
        inside = [np.flatnonzero(row) for row in allowed]
        for _ in range(10):
            point = on_slice(m, np.array([rng.choice(one) for one in inside]))
            if point is not None:
                assert bound is not None
                assert bound.value <= point.value + 1e-12


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("fixed cost", "both")])
def test_swap_descents_from_a_few_starts_reach_the_optimum(case: str) -> None:
    for seed in range(3):
        m, rng = mixed(case, seed), np.random.default_rng(seed)
        root = m.root()
        assert root is not None
        relaxed = relax(m, root)
        assert relaxed is not None
        search, x = Search(m, root), m.choices.weights(relaxed.weights)
        starts = [rounded(m.choices, root, x * np.exp(0.7 * k * rng.normal(size=len(x)))) for k in range(4)]
        starts += [rounded(m.choices, root, rng.dirichlet(np.full(len(x), 0.3))) for _ in range(20)]
        ends = [search.descend(one) for one in starts if search.solve(one) is not None]
        found = min((search.memo.value(end) for end in ends), default=np.inf)
        assert found <= optimum(case, seed) + 1e-3 * abs(optimum(case, seed))


def test_an_interrupted_tree_gives_a_true_bound() -> None:
    m, truth = mixed("at most", 3), optimum("at most", 3)
    for nodes in (1, 3, 7, 15):
        proof = branch_and_bound(m, most_nodes=nodes)
        assert proof.bound <= truth + 1e-12
        assert proof.value >= truth - 1e-12


@pytest.mark.parametrize("case", ["5/10/40", "short"])
def test_a_tree_taken_up_again_ends_as_one_grown_at_once(case: str) -> None:
    m = mixed(case, 3)
    whole, tree = Tree(m, 1e-13).grow(1_000_000), Tree(m, 1e-13, relax(m, m.root()))
    bounds = [tree.grow(nodes).bound for nodes in (1, 3, 7)]
    ended = tree.grow(1_000_000)
    assert (ended.value, ended.nodes, ended.finished) == (whole.value, whole.nodes, True)
    assert bounds == sorted(bounds) and bounds[-1] <= whole.value
    # The optimum handed to a tree that is open closes it, and is not lost.
    young = Tree(m, 1e-13)
    young.grow(1)
    told = young.grow(1_000_000, whole.weights, whole.value)
    assert told.finished and told.nodes <= whole.nodes and told.value == whole.value


def test_limits_on_numbers_are_propagated_by_hand() -> None:
    c = choices("at most", 4)
    allowed = c.exists.copy()
    allowed[:3, 0] = False  # three are in, and three may be: the fourth is out
    found = propagate(c, allowed)
    assert found is not None
    assert found[3].tolist() == [True, False]
    allowed[3, 0] = False
    assert propagate(c, allowed) is None


@pytest.mark.parametrize("rate", [0.0, 1e-4, 1e-3])
@pytest.mark.parametrize("turnover", [np.inf, 0.1, 0.5, 1.5])
@pytest.mark.parametrize("n", [5, 20, 90])
def test_costs_and_caps_of_trading_are_clarabels(rate: float, turnover: float, n: int) -> None:
    for seed in range(2):
        rng = np.random.default_rng(100 * seed + n)
        p, held = program(n, seed, upper=max(0.3, 2 / n)), rng.dirichlet(np.full(n, 0.3))
        p = Program(p.matrix, p.linear, p.lower, p.upper, p.rows, p.row_lower, p.row_upper, held, rate, turnover)
        w = cp.Variable(n)
        rules = [w >= p.lower, w <= p.upper, p.rows[0] @ w == 1, p.rows[1] @ w <= 0.7]
        rules += [cp.norm1(w - held) <= turnover] if np.isfinite(turnover) else []
        energy = 0.5 * cp.quad_form(w, cp.psd_wrap(p.matrix)) + p.linear @ w + rate * cp.norm1(w - held)
        problem = cp.Problem(cp.Minimize(1e3 * energy), rules)
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
        mine = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
        assert (mine is not None) == problem.status.startswith("optimal")
        if mine is not None:
            assert mine.value == pytest.approx(problem.value / 1e3, rel=1e-7, abs=1e-11)
            assert np.abs(mine.weights - held).sum() <= turnover + 1e-9


def test_names_left_unasked_would_not_have_moved() -> None:
    """Optimality over all of 400 names, though few are ever solved for: prices by the signs of their bounds."""
    p = program(400, 0, upper=0.05)
    point = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert point is not None
    low, high = point.weights <= p.lower, point.weights >= p.upper
    assert point.prices[low].min() >= -1e-9 * p.scale
    assert point.prices[high].max(initial=-1.0) <= 1e-9 * p.scale
    assert np.abs(point.prices[~low & ~high]).max() <= 1e-9 * p.scale


@pytest.mark.parametrize("case", ["at most", "5/10/40", pytest.param("fixed cost", marks=pytest.mark.slow)])
def test_an_active_set_that_fails_is_not_an_empty_slice(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a branch with the optimum in it would be closed, and the proof would be false."""
    truth = optimum(case, 0)
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.programs.columns._minimum", lambda *args: None)
    proof = branch_and_bound(mixed(case, 0))
    assert proof.value == pytest.approx(truth, rel=1e-6)
    assert proof.bound <= truth + 1e-12


def test_a_slice_whose_point_misses_a_mode_has_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inner solver that is off by more than a mode's end would else be asked for the same slice without end."""
    whole = mixed("at most", 0)
    held = np.arange(7) < 3
    one = replace(whole, left=np.column_stack([~held, held]))
    truth, solved = branch_and_bound(one), relax
    assert truth.proven and truth.nodes == 1

    def off(*args: Any) -> Point | None:
        point = solved(*args)
        return None if point is None else replace(point, weights=point.weights - 1e-3)

    monkeypatch.setattr("portfolio_ebm.constraints.mixed.branch_and_bound.relax", off)
    proof = branch_and_bound(one, most_nodes=100)
    assert proof.finished and proof.nodes == 1 and proof.weights is None
    assert proof.bound == pytest.approx(truth.value)


@pytest.mark.parametrize("case", CASES)
def test_the_parts_of_a_node_are_smaller_than_it_and_hold_all_its_choices(case: str) -> None:
    whole = mixed(case, 1)
    root = whole.root()
    assert root is not None
    nodes, seen = [root], 0
    while nodes and seen < 200:
        node, seen = nodes.pop(), seen + 1
        point = relax(whole, node)
        if point is None or (node.sum(axis=1) == 1).all():
            continue
        parts = children(whole, node, point, *assign(whole.choices, node, point.weights))
        assert all(part.sum() < node.sum() and (part <= node).all() for part in parts)
        for modes in itertools.product(*(np.flatnonzero(row) for row in node)) if node.sum() < 14 else []:
            slice_ = np.zeros_like(node)
            slice_[np.arange(len(modes)), modes] = True
            if propagate(whole.choices, slice_) is not None:
                assert sum((slice_ <= part).all() for part in parts) == 1
        nodes += parts


def of_formula(energy: Energy) -> Mixed:
    ctx = context(0)
    return mixed_of(take_apart(energy, ctx), region_of(BASE & RULES["at most"][0], ctx))


def test_no_failing_engine_closes_a_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula whose engines end at no minimum leaves a portfolio and no bound."""
    whole = of_formula(CVaR(0.9))
    truth = branch_and_bound(whole).value
    monkeypatch.setattr("portfolio_ebm.construction.choosing.inner._solve", lambda *args: None)
    proof = branch_and_bound(whole, most_nodes=50)
    assert proof.weights is not None
    assert proof.value >= truth - 1e-12
    assert proof.bound <= truth


@pytest.mark.parametrize("energy", [CVaR(0.9), CVaR(0.9) + TradingCost(1e-3)], ids=["vertices", "interior point"])
def test_a_formula_on_rows_that_exclude_each_other_has_no_point(energy: Energy) -> None:
    """Two cuts with the same row may leave it a least value above its most."""
    p = of_formula(energy).program
    row = np.ones((1, p.n))
    point = p.minimum(p.lower, p.upper, row, np.array([0.8]), np.array([0.8]))
    assert point is not None
    for start in (None, point.weights):
        assert p.minimum(p.lower, p.upper, row, np.array([0.9]), np.array([0.8]), start) is None
