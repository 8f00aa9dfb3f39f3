"""Vertices of sums of hinges against a linear program, from starts near and far, with ties; a pool's bound is true."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog

from portfolio_ebm.constraints.mixed.branch_and_bound import Tree, branch_and_bound
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.construction.choosing.inner import answered, modelled
from portfolio_ebm.construction.exact import tails
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.tails import Pool, solvable, worst_mean
from portfolio_ebm.construction.exact.vertices import Hinges, descend, dual
from portfolio_ebm.context import Context
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

Array = NDArray[np.float64]
CASES = ("plain", "rows", "floors", "short", "twins", "few", "ties")


def pool(returns: Array, energy: Energy) -> Pool:
    n = returns.shape[1]
    market = Outlook(
        mean=torch.tensor(returns.mean(0)), scenarios=torch.tensor(returns), marginals=None, horizon=1.0,
        covariance=Structured(torch.eye(n).double(), torch.eye(n).double(), torch.zeros(n).double()),
    )  # fmt: skip
    ctx = Context(
        assets=tuple(map(str, range(n))), market=market, held=None, tradeable=torch.ones(n, dtype=torch.bool), groups={}
    )
    return Pool(take_apart(energy, ctx))


def problem(case: str, seed: int) -> tuple[Array, Box, Array]:
    """Returns (S, n), rules, and a start."""
    rng = np.random.default_rng(seed)
    n, size = 12, 40 if case == "few" else 300
    returns = 0.01 * (rng.standard_t(4, size=(size, n)) + rng.standard_t(4, size=(size, 1))) + 0.001 * rng.normal(
        size=n
    )
    if case == "twins":
        returns[:, n // 2 :] = returns[:, : n // 2]
    if case == "ties":
        returns = np.repeat(returns[:60], 5, axis=0).round(2)
    rows, low, high = [np.ones(n)], [1.0], [1.0]
    if case in ("rows", "twins"):
        rows += [rng.uniform(size=n), np.arange(n) < 4.0, np.arange(n) < 4.0]
        low += [-np.inf, 0.1, -np.inf]
        high += [0.5, 0.3, 0.3]
    lower, upper = np.zeros(n), np.full(n, 0.3)
    if case == "short":
        lower = np.full(n, -0.1)
    if case == "floors":
        lower, upper = np.where(rng.uniform(size=n) < 0.5, 0.02, 0.0), np.full(n, 0.15)
        upper[0] = lower[0]
    box = Box(lower, upper, np.array(rows), np.array(low), np.array(high), np.zeros(n), None)
    return returns, box, np.clip(rng.dirichlet(np.ones(n)), lower, upper)


def by_program(p: Pool, box: Box) -> float:
    """The same minimum by a linear program in (w, t, u)."""
    tail = p.tail
    size = len(tail.losses)
    cost = np.r_[p.formula.linear, tail.coefficient, np.full(size, tail.coefficient / tail.count)]
    hinges = np.hstack([tail.losses, -np.ones((size, 1)), -np.eye(size)])
    wide = np.hstack([box.rows, np.zeros((len(box.rows), 1 + size))])
    above, below = np.isfinite(box.row_upper), np.isfinite(box.row_lower)
    found = linprog(
        cost, A_ub=np.vstack([hinges, wide[above], -wide[below]]),
        b_ub=np.r_[np.zeros(size), box.row_upper[above], -box.row_lower[below]],
        bounds=[*zip(box.lower, box.upper, strict=True), (None, None), *[(0, None)] * size],
    )  # fmt: skip
    assert found.status == 0
    return float(found.fun)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("case", CASES)
def test_the_minimum_is_that_of_a_linear_program(case: str, seed: int) -> None:
    returns, box, start = problem(case, seed)
    p = pool(returns, 0.7 * CVaR(0.9) + 0.2 * Return())
    truth = by_program(p, box)
    found = p.minimum(box, start)
    assert found is not None
    assert found.value == pytest.approx(truth, abs=1e-9)
    assert truth - 1e-10 <= found.bound + 1e-9 and found.bound <= truth + 1e-10
    assert (found.weights >= box.lower).all() and (found.weights <= box.upper).all()
    at = box.rows @ found.weights
    assert (at >= box.row_lower - 1e-10).all() and (at <= box.row_upper + 1e-10).all()


@pytest.mark.parametrize("case", CASES)
def test_from_the_minimum_of_a_neighbour(case: str) -> None:
    returns, box, start = problem(case, 9)
    p = pool(returns, CVaR(0.9))
    first = p.minimum(box, start)
    assert first is not None
    out, into = int(first.weights.argmax()), int(first.weights.argmin())
    lower, upper = box.lower.copy(), box.upper.copy()
    upper[out] = lower[out]
    lower[into] = min(lower[into] + 0.05, upper[into])
    moved = replace(box, lower=lower, upper=upper)
    found = p.minimum(moved, first.weights)
    assert found is not None and found.value == pytest.approx(by_program(p, moved), abs=1e-9)


def test_an_empty_slice_has_no_vertex() -> None:
    returns, box, start = problem("plain", 0)
    assert pool(returns, CVaR(0.9)).minimum(replace(box, upper=np.full(12, 0.05)), start) is None


def test_what_is_solved_here() -> None:
    returns, _, _ = problem("plain", 0)
    assert solvable(pool(returns, CVaR() + Return()).formula)
    assert not solvable(pool(returns, CVaR() + CVaR(0.9)).formula)
    assert not solvable(pool(returns, CVaR() + Variance()).formula)


def test_the_mean_of_the_worst_by_hand() -> None:
    loss = np.array([1.0, 5.0, 3.0, 4.0, 2.0])
    assert worst_mean(loss, 2.0) == 4.5
    assert worst_mean(loss, 2.5) == pytest.approx((5 + 4 + 1.5) / 2.5)
    assert worst_mean(loss, 5.0) == 3.0


WAYS = {"few": (16, 500), "above": (0, 0), "below": (0, 500)}
"""Few names, many scenarios, neither: which way a child is solved from its parent."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_from_the_multipliers_of_a_parent(case: str, seed: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in zip(("FEW", "MANY"), WAYS[way], strict=True):
        monkeypatch.setattr(tails, name, number)
    returns, box, start = problem(case, 20 + seed)
    p = pool(returns, 0.7 * CVaR(0.9) + 0.2 * Return())
    parent = p.minimum(box, start)
    assert parent is not None
    lower, upper = box.lower.copy(), box.upper.copy()
    out = int(parent.weights.argmax())
    upper[out] = lower[out]
    part = replace(box, lower=lower, upper=upper)
    cut = replace(
        part, rows=np.vstack([part.rows, np.arange(12) % 2.0]), row_lower=np.append(part.row_lower, -np.inf),
        row_upper=np.append(part.row_upper, 0.62),
    )  # fmt: skip
    for slice_ in (part, cut):
        truth = by_program(p, slice_)
        found = p.minimum(slice_, parent.weights, parent)
        assert found is not None and found.value == pytest.approx(truth, abs=1e-9)
        assert truth - 1e-9 <= found.bound <= truth + 1e-10
        at = slice_.rows @ found.weights
        assert (at >= slice_.row_lower - 1e-10).all() and (at <= slice_.row_upper + 1e-10).all()
        assert (found.weights >= slice_.lower).all() and (found.weights <= slice_.upper).all()
        # Asked for less than all, it says no more than is true; asked for more, it goes to the end.
        half = parent.bound + 0.5 * (truth - parent.bound)
        closed = p.minimum(slice_, parent.weights, parent, enough=half)
        assert closed is not None and half <= closed.bound <= truth + 1e-10
        open_ = p.minimum(slice_, parent.weights, parent, enough=truth + 1e-6)
        assert open_ is not None and open_.value == pytest.approx(truth, abs=1e-9)


def test_a_slice_is_left_as_soon_as_its_bound_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "FEW", 0)
    early = 0
    for seed in range(6):
        returns, box, start = problem("plain", 40 + seed)
        p = pool(returns, CVaR(0.9))
        parent = p.minimum(box, start)
        assert parent is not None
        part = replace(box, upper=np.where(parent.weights == parent.weights.max(), 0.0, box.upper))
        found = p.minimum(part, parent.weights, parent, enough=parent.bound + 1e-9)
        assert found is not None and parent.bound + 1e-9 <= found.bound <= by_program(p, part) + 1e-10
        early += found.bound < by_program(p, part) - 1e-6
    assert early >= 3


@pytest.mark.parametrize("case", CASES)
def test_a_parent_closes_what_its_prices_forbid(case: str) -> None:
    returns, box, start = problem(case, 80)
    p = pool(returns, CVaR(0.9))
    parent = p.minimum(box, start)
    assert parent is not None
    dear = int(np.where(parent.weights == box.lower, parent.prices, -1.0).argmax())
    lower = box.lower.copy()
    lower[dear] = min(lower[dear] + 0.02, box.upper[dear])
    rise = parent.prices[dear] * (lower[dear] - box.lower[dear])
    assert rise > 0.0
    part, kept = replace(box, lower=lower), len(p.kept)
    closed = p.minimum(part, parent.weights, parent, enough=parent.bound + 0.99 * rise)
    assert closed is not None and closed.value == np.inf and len(p.kept) == kept
    assert closed.bound == pytest.approx(parent.bound + rise, rel=1e-9)
    assert closed.bound <= by_program(p, part) + 1e-10


def test_the_dual_problem_by_hand() -> None:
    # min z + 2 max(1 - z, 0) over [0, 3]: z = 1, sum 1; its dual is max y over [0, 2] and y <= 1, so y = 1.
    line = np.array([[-1.0]])
    one = Hinges(
        np.ones(1), np.zeros(1), np.full(1, 3.0), line, line.T, np.full(1, -1.0), np.zeros(1), np.full(1, 2.0),
        np.zeros(1, dtype=bool), 1e4,
    )  # fmt: skip
    first, second = descend(one, np.array([2.5]), 50), descend(dual(one), np.array([0.5]), 50)
    assert first is not None and second is not None
    assert first.z == pytest.approx(1.0) and first.multipliers == pytest.approx(1.0)
    assert second.z == pytest.approx(1.0) and second.multipliers == pytest.approx(-1.0)


@pytest.mark.parametrize("seed", range(2))
def test_a_tree_of_slices_is_true_to_enumeration(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "FEW", 16 * seed)
    returns, box, _ = problem("few", 60 + seed)
    box, held = replace(box, upper=np.full(12, 0.6)), [(0.0, 0.0), (0.1, 0.6)]
    p = pool(returns, CVaR(0.9))
    bare = Program(
        np.zeros((12, 12)), p.formula.linear, box.lower, box.upper, box.rows, box.row_lower, box.row_upper
    )  # fmt: skip
    choices = Choices.of_names(np.arange(12), held, [(1, 0, 3, False)], "three names")
    mixed = modelled(Mixed(bare, choices), p.formula, box)
    parts = [np.isin(np.arange(12), some) for k in (2, 3) for some in itertools.combinations(range(12), k)]
    truth = min(by_program(p, replace(box, lower=0.1 * part, upper=0.6 * part)) for part in parts)
    size = abs(truth)
    tree, level = Tree(mixed, 1e-9 * size), -np.inf
    for nodes in (1, 3, 9, 27, 10_000):
        proof = tree.grow(nodes)
        assert level <= proof.bound <= truth + 1e-9 * size
        level = proof.bound
    assert proof.finished and proof.value == pytest.approx(truth, rel=1e-8)
    # What is already known closes nodes early, and hides nothing that is better.
    assert proof.weights is not None
    known = branch_and_bound(mixed, incumbent=proof.weights, value=proof.value, tolerance=1e-9 * size)
    assert known.finished and known.value == proof.value and known.bound >= truth - 2e-9 * size
    worse = branch_and_bound(mixed, incumbent=proof.weights, value=truth + 1e-3 * size, tolerance=1e-9 * size)
    assert worse.finished and worse.value == pytest.approx(truth, rel=1e-8)


def test_names_that_are_free_answer_what_moves_by_the_local_model() -> None:
    # M = diag(1, 1, 2), sum 1: the half taken from the first name goes to the others as 2 to 1, or as far as they go.
    box = Box(np.zeros(3), np.array([0.0, 1.0, 1.0]), np.ones((1, 3)), np.ones(1), np.ones(1), np.zeros(3), None)
    w, matrix = np.array([0.3, 0.4, 0.3]), np.diag([1.0, 1.0, 2.0])
    assert answered(matrix, box, w) == pytest.approx([0.0, 0.6, 0.4])
    assert answered(matrix, replace(box, upper=np.array([0.0, 0.5, 1.0])), w) == pytest.approx([0.0, 0.5, 0.4])
    assert answered(matrix, replace(box, upper=np.ones(3)), w).tolist() == w.tolist()
