"""Portfolios near any point where roundings end on empty slices: dives, samples, and sides not gone to and fro."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import portfolio_ebm as pe
from portfolio_ebm.constraints.combine import project_any, region_of, region_residual
from portfolio_ebm.constraints.mixed import nearest
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.diving import dive
from portfolio_ebm.constraints.mixed.nearest import near_by_modes
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs import program, sides
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.construction.certificate import probes
from portfolio_ebm.construction.choosing.choosing import choose
from portfolio_ebm.construction.choosing.swaps import Plan
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.optimization import given_context

N = 12
NAMES = [f"A{i}" for i in range(N)]


def narrow(seed: int) -> Mixed:
    """Nearest to a point far away: groups that a few names of those allowed have to fill, so that roundings fail."""
    rng = np.random.default_rng(seed)
    n = 7
    groups = (rng.integers(0, 3, n)[None] == np.arange(3)[:, None]).astype(float)
    rows, low = np.vstack([np.ones(n), groups]), np.r_[1.0, np.full(3, 0.2)]
    p = Program(np.eye(n), -2.0 * np.eye(n)[0], np.zeros(n), np.full(n, 0.45), rows, low, np.r_[1.0, np.full(3, 0.5)])
    limit = (1, 0, int(rng.integers(3, 5)), False)
    return Mixed(p, Choices.of_names(np.arange(n), [(0.0, 0.0), (0.1, 0.45)], [limit], "names"))


@pytest.mark.parametrize("seed", range(30))
def test_a_dive_ends_on_a_slice_wherever_there_is_one(seed: int) -> None:
    m = narrow(seed)
    root = m.root()
    above = None if root is None else relax(m, root)
    most = m.choices.limits[0].most
    every = (np.array(one) for one in itertools.product((0, 1), repeat=7) if sum(one) <= most)
    there = any(on_slice(m, one) is not None for one in every)
    if root is None or above is None:
        assert not there
        return
    found = dive(m, root, above, 10_000)
    assert (found is not None) == there
    if found is not None:
        w, p = found.weights, m.program
        assert np.count_nonzero(w > 1e-9) <= most and (w[w > 1e-9] >= 0.1 - 1e-9).all()
        at = p.rows @ w
        assert (at >= p.row_lower - 1e-9).all() and (at <= p.row_upper + 1e-9).all()
    assert dive(m, root, above, 0) is None


def test_walkers_set_out_from_a_portfolio_that_is_known_where_all_roundings_are_empty() -> None:
    """One name of eight under a row of a half, which the relaxation meets by those of 0 and 1, and 6 and 7 meet
    alone."""
    n, row = 8, np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    rows, ends = np.vstack([np.ones(n), row]), np.array([1.0, 0.5])
    slope = np.array([-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 0.5])
    p = Program(1e-2 * np.eye(n), slope, np.zeros(n), np.ones(n), rows, ends, ends)
    m = Mixed(p, Choices.of_names(np.arange(n), [(0.0, 0.0), (0.1, 1.0)], [(1, 0, 1, False)], "names"))
    plan = Plan(starts=2, walkers=1, sweeps=0, swaps=True, nodes=0)

    def found(known: np.ndarray | None) -> Any:
        return choose(m, plan, torch.Generator().manual_seed(0), lambda _: None, known)

    assert found(None) is None
    # Without a node of a tree, what is known is the worse of the two, and one exchange away from the other.
    best = found(np.eye(n)[6])
    assert best.rounding == np.inf
    assert best.weights == pytest.approx(np.eye(n)[7]) and best.value == pytest.approx(0.5 + 0.5e-2)


def of(rules: pe.Constraint) -> tuple[pe.Region, pe.Context]:
    held = np.full(N, 1.0 / N)
    groups = {"g": {name: f"g{i % 3}" for i, name in enumerate(NAMES)}, "issuer": {name: name for name in NAMES}}
    ctx = given_context(pe.Variance(), rules, covariance=np.eye(N), assets=NAMES, held=held, groups=groups).ctx
    return region_of(rules, ctx), ctx


BASE = pe.Budget() & pe.LongOnly()
TIGHT = {
    "names, groups and trades": BASE
    & pe.Cardinality(at_most=5, min_weight=0.05)
    & pe.Group("g", "g0", upper=0.4)
    & pe.Group("g", "g1", lower=0.3)
    & pe.Turnover(at_most=1.4),
    "fund limits and trades": BASE
    & pe.RIC2550(issuers="issuer")
    & pe.Turnover(at_most=1.1)
    & pe.Group("g", "g2", upper=0.3),
    "names by group": BASE & pe.Cardinality(at_most=2, groups="g", min_weight=0.05) & pe.Turnover(at_most=1.5),
}


@pytest.mark.parametrize("name", TIGHT)
def test_a_sample_obeys_the_rules_on_more_than_one_choice_and_takes_few_searches(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    region, ctx = of(TIGHT[name])
    known = pe.optimize(
        pe.Variance(), TIGHT[name], covariance=np.diag(np.linspace(1, 2, N)), assets=NAMES, held=np.full(N, 1 / N),
        groups={key: dict(zip(NAMES, labels, strict=True)) for key, labels in ctx.groups.items()},
    ).weights.to_numpy()  # fmt: skip
    searches: list[int] = []
    one = nearest._nearest
    monkeypatch.setattr(nearest, "_nearest", lambda *given, **more: searches.append(1) or one(*given, **more))
    weights = torch.tensor(known)
    points = probes(weights, ctx, torch.Generator().manual_seed(0))
    found = project_any(points, [region], prove=False, known=weights).weights
    assert len(searches) <= nearest.SEARCHED
    assert float(region_residual(found, region).max()) <= 1e-9
    assert len({tuple(row) for row in (found > 0.0501).tolist()}) > 1
    # Near to where they were asked for: nearer than the one that is known, all told.
    assert float((found - points).square().sum()) < float((weights - points).square().sum())
    # It needs no portfolio that is known.
    alone = near_by_modes(points, region.to(points), points[:0])
    assert float(region_residual(alone, region).max()) <= 1e-9


def test_a_sample_of_nothing_is_an_error() -> None:
    region, _ = of(BASE & pe.RIC2550(issuers="issuer") & pe.Cardinality(at_most=4) & pe.Box(upper=0.2))
    with pytest.raises(InfeasibleError, match="No portfolio was found"):
        near_by_modes(torch.randn(8, N, dtype=torch.float64), region, torch.zeros(0, N, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(20))
def test_a_cap_on_trades_that_does_not_bind_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 12
    sets = (rng.random((12, n)) < 0.6).astype(float)
    rows, held = np.vstack([np.ones(n), sets]), np.full(n, 0.05)
    low, high = np.r_[0.6, np.full(12, -np.inf)], np.r_[0.62, 0.08 + 0.05 * sets.sum(axis=1)]
    data = np.eye(n), -rng.normal(0.05, 0.05, n), np.zeros(n), np.full(n, 0.1), rows, low, high
    best = Program(*data).minimum(*data[2:])
    assert best is not None
    away = float(np.abs(best.weights - held).sum())
    for room in (0.05, -0.3 * away):
        found = Program(*data, held, 0.0, away + room).minimum(*data[2:], rng.random(n))
        assert found is not None
        assert found.value - found.bound <= 1e-12
        if room > 0.0:
            assert found.weights == pytest.approx(best.weights, abs=1e-9) and found.bound <= best.value + 1e-12
        else:
            assert float(np.abs(found.weights - held).sum()) <= away + room + 1e-9
            assert found.value > best.value


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(40, 200), marks=pytest.mark.slow)])
def test_a_cost_of_trading_from_what_is_held_alike_comes_to_the_minimum(seeds: range) -> None:
    """Names that stand at what is held, each at half of its cap, may all cross at once and all come back."""
    n = 10
    held, one = np.full(n, 0.1), np.ones((1, n))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        loads = rng.normal(0.0, 0.05, (n, 4))
        q, m, rate = loads @ loads.T, rng.normal(0.0, 0.01, n), float(rng.choice([2e-4, 2e-3]))
        p = Program(q, -m, np.zeros(n), np.full(n, 0.2), one, np.ones(1), np.ones(1), held, rate)
        found = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
        assert found is not None
        assert found.value - found.bound <= 3e-9 * max(abs(found.value), p.scale), seed


def test_what_is_held_to_rounding_is_held() -> None:
    """A curvature of rank two leaves weights a hair off what is held, which are asked to cross it all the same."""
    loads = np.array([[0.03, 0.01], [-0.02, 0.04], [0.01, -0.03], [0.05, 0.02]])
    rows, held = np.array([[1.0, 1, 1, 1], [1, 0, 1, 0]]), np.array([0.24, 0.24, 0.27, 0.25])
    for seed in range(200):
        rng = np.random.default_rng(seed)
        mean = rng.normal(0.0, 0.01, 4)
        mixed = loads[rng.permutation(4)] * rng.choice([0.3, 1.0, 3.0])
        p = Program(
            6.0 * mixed @ mixed.T, -mean, np.zeros(4), np.ones(4), rows, np.array([1.0, -np.inf]), np.array([1.0, 0.6]),
            held, 5e-4,
        )  # fmt: skip
        found = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
        assert found is not None
        assert found.value - found.bound <= 3e-9 * max(abs(found.value), p.scale), seed


def test_a_sample_gives_up_on_what_a_dive_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine names of at most 13 %, each 13 % if held: the budget is met by none; a tree would take minutes to say so."""
    n = 24
    names = [f"A{i}" for i in range(n)]
    share = pe.Group("g", "x", lower=0.2)
    few = pe.Cardinality(at_most=5, min_weight=0.05) & share
    none = pe.Box(upper=0.13) & pe.Cardinality(at_most=9, min_weight=0.13) & share
    rules = pe.Budget() & pe.LongOnly() & pe.Either(few, none)
    variance = np.random.default_rng(0).uniform(1.0, 2.0, n)
    found = pe.optimize(
        pe.Variance(), rules, covariance=np.diag(variance), assets=names,
        groups={"g": {k: "xy"[i % 2] for i, k in enumerate(names)}},
    )  # fmt: skip
    trees: list[int] = []
    one = nearest.branch_and_bound

    def counted(*given: Any, most_nodes: int, **more: Any) -> Any:
        trees.append(most_nodes)
        return one(*given, most_nodes=most_nodes, **more)

    monkeypatch.setattr(nearest, "branch_and_bound", counted)
    least, largest = found.ranges["Variance()"]
    assert least < largest and trees and max(trees) == 0


def test_ranges_of_a_fund_with_lots_and_a_cap_on_trades_are_drawn_in_a_breath(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rules under which a search of its own for each of 64 portfolios took hours: names that stand at what is held went
    to and fro between its sides, round after round, on slices where the cap does not bind."""
    returns = pe.bundled().returns_frame().tail(750)
    names = list(returns.columns)
    rules = (
        pe.Budget(at_least=0.97) & pe.LongOnly() & pe.UCITS(issuers="issuer") & pe.Group("sector", "a", upper=0.4)
        & pe.Turnover(at_most=0.8) & pe.Cardinality(at_most=18, min_weight=0.01) & pe.RoundLots(lot=10)
    )  # fmt: skip
    found = pe.optimize(
        pe.Return() + 5 * pe.Variance(), rules, scenarios=returns, held=pd.Series(0.05, names), capital=2e6,
        prices=pd.Series(np.linspace(40.0, 400.0, 20), names),
        groups={"sector": {k: "abc"[i % 3] for i, k in enumerate(names)}, "issuer": {k: k for k in names}},
    )  # fmt: skip
    rounds: list[int] = []
    one, whole = sides.by_columns, sides.from_sides

    def counted(*given: Any) -> Any:
        rounds[-1] += 1
        return one(*given)

    monkeypatch.setattr(sides, "by_columns", counted)
    monkeypatch.setattr(program, "from_sides", lambda *given: rounds.append(0) or whole(*given))
    least, largest = found.ranges["Variance()"]
    assert least < found.breakdown["Variance()"] < largest and found.idle == ()
    assert len(rounds) < 1000 and max(rounds) < 30
