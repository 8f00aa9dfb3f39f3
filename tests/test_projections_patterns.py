"""Cardinality: against every pattern there is, and feasible output for every feasible region."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from portfolio_ebm.constraints import patterns
from portfolio_ebm.constraints.combine import project_region, region_residual, select_pattern
from portfolio_ebm.constraints.patterns import nearest_with_pattern, turnover_needed
from portfolio_ebm.constraints.projections import TOLERANCE, project_polyhedron
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import InfeasibleError

F64 = torch.float64


def region(
    n: int, *, upper: float | Tensor = 1.0, lower: float | Tensor = 0.0, total: tuple[float, float] | None = (1.0, 1.0),
    at_most: int | None = None, min_weight: float = 0.0, held: Tensor | None = None, turnover: float | None = None,
    frozen: Tensor | None = None,
) -> Region:  # fmt: skip
    r = Region.free(n).with_box(lower, upper)
    if total is not None:
        r = r.with_row(torch.ones(n), *total, "Budget()")
    if frozen is not None:
        at = torch.zeros(n, dtype=F64) if held is None else held
        r = replace(r, frozen=frozen, lower=torch.where(frozen, at, r.lower), upper=torch.where(frozen, at, r.upper))
    return replace(r, at_most=at_most, min_weight=min_weight, anchor=held if turnover else None, turnover=turnover)


def every_pattern(r: Region) -> Tensor:
    free = (~r.frozen).nonzero().flatten().tolist()
    most = len(free) if r.at_most is None else min(r.at_most, len(free))
    rows = []
    for k in range(most + 1):
        for chosen in combinations(free, k):
            row = torch.zeros(r.n, dtype=torch.bool)
            row[list(chosen)] = True
            rows.append(row)
    return torch.stack(rows)


def brute_force(y: Tensor, r: Region) -> tuple[Tensor, Tensor]:
    """The least squared distance over all patterns, inf where no pattern has a point; and which have one."""
    s = r.on(every_pattern(r))
    many = y.unsqueeze(1).expand(-1, len(s.lower), -1)
    w, left = project_polyhedron(many, s.lower, s.upper, r.rows, r.row_lower, r.row_upper, r.anchor, r.turnover)
    distance = (w - many).square().sum(-1) + torch.where(left > TOLERANCE, torch.inf, 0.0)
    return distance.amin(-1), left <= TOLERANCE


CASES = {
    "top k": {"upper": 0.6, "at_most": 3},
    "floor": {"upper": 0.5, "at_most": 4, "min_weight": 0.2},
    "floor alone": {"upper": 1.0, "min_weight": 0.15},
    "needs at least three": {"upper": 0.4, "at_most": 4, "min_weight": 0.1},
    "cash allowed": {"upper": 0.5, "at_most": 3, "min_weight": 0.1, "total": (0.0, 1.0)},
    "no budget": {"upper": 0.5, "at_most": 2, "total": None},
    "no budget, floor": {"upper": 0.5, "at_most": 2, "total": None, "min_weight": 0.2},
    "shorts": {"lower": -0.3, "upper": 0.8, "at_most": 3},
    "endless shorts": {"lower": -torch.inf, "upper": torch.inf, "at_most": 3},
    "market neutral": {"lower": -0.5, "upper": 0.5, "at_most": 4, "total": (0.0, 0.0)},
    "one name": {"at_most": 1},
    "more than there are": {"at_most": 40, "min_weight": 0.2, "upper": 0.5},
}


@pytest.mark.parametrize("name", CASES)
def test_the_projection_equals_brute_force(name: str) -> None:
    r = region(6, **CASES[name])
    y = 0.5 * torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=F64)
    y[:10] = y[:10].round(decimals=1)  # ties
    y[10] = 0.0
    w, pattern, left, proven = nearest_with_pattern(y, r)
    assert proven and float(left.max()) < 1e-12
    best, _ = brute_force(y, r)
    assert float(((w - y).square().sum(-1) - best).abs().max()) < 1e-12
    assert float(region_residual(w, r).max()) < 1e-12
    assert bool(((w != 0) <= pattern).all())


@pytest.mark.parametrize("held", [0.0, 0.02, 0.35])
@pytest.mark.parametrize("floor", [0.0, 0.15])
def test_frozen_names_are_not_counted_and_may_be_small(held: float, floor: float) -> None:
    frozen = torch.tensor([False, True, False, False, True, False, False])
    at = torch.tensor([0.0, held, 0.0, 0.0, held, 0.0, 0.0], dtype=F64)
    r = region(7, upper=0.6, at_most=2, min_weight=floor, held=at, frozen=frozen)
    y = 0.5 * torch.randn(30, 7, generator=torch.Generator().manual_seed(2), dtype=F64)
    w, pattern, left, proven = nearest_with_pattern(y, r)
    assert proven and float(left.max()) < 1e-12
    assert bool((w[:, frozen] == held).all()) and not bool((pattern & frozen).any())
    best, _ = brute_force(y, r)
    assert float(((w - y).square().sum(-1) - best).abs().max()) < 1e-12


def test_a_name_that_may_not_be_zero_is_always_held() -> None:
    lower = torch.tensor([0.0, 0.0, 0.2, 0.0, 0.0], dtype=F64)
    r = region(5, lower=lower, upper=0.9, at_most=2)
    y = torch.tensor([[0.9, 0.8, -1.0, 0.0, 0.0]], dtype=F64)
    w, pattern, left, _ = nearest_with_pattern(y, r)
    assert float(left) < 1e-12 and bool(pattern[0, 2]) and float(w[0, 2]) == 0.2
    assert float((w - y).square().sum() - brute_force(y, r)[0]) == pytest.approx(0.0, abs=1e-12)


def trades(seed: int) -> tuple[Tensor, Region]:
    """A random region with cardinality, floor and turnover; about half have a point."""
    g = np.random.default_rng(seed)
    n, k = int(g.integers(3, 8)), int(g.integers(1, 5))
    upper = float(g.choice([0.3, 0.4, 0.6, 1.0]))
    held = np.zeros(n)
    names = g.permutation(n)[: int(g.integers(1, n + 1))]
    held[names] = g.dirichlet(np.ones(len(names))) * g.choice([1.0, 0.9])
    if g.random() < 0.3:
        held = held.round(1)
    frozen = torch.tensor(g.random(n) < 0.15)
    low = 1.0 if g.random() < 0.7 else 0.8
    r = region(
        n, upper=upper, total=(low, 1.0), at_most=k, min_weight=float(g.choice([0.0, 0.05, 0.2])),
        held=torch.tensor(held), turnover=float(g.choice([0.1, 0.4, 0.8, 1.5])), frozen=frozen,
    )  # fmt: skip
    return torch.tensor(g.normal(size=(3, n)) * 0.4 + held), r


def possible(r: Region) -> bool:
    return bool((turnover_needed(every_pattern(r), r) <= r.turnover + 1e-12).any())


def check_trades(seeds: range) -> int:
    feasible = 0
    for seed in seeds:
        y, r = trades(seed)
        w, pattern, left, proven = nearest_with_pattern(y, r)
        found = bool((left <= TOLERANCE).all())
        assert found == possible(r), seed
        if not found:
            with pytest.raises(InfeasibleError, match="Turnover"):
                project_region(y, r)
            continue
        feasible += 1
        assert not proven
        assert float(region_residual(w, r).max()) <= TOLERANCE, seed
        assert bool(((w != 0) <= (pattern | r.frozen)).all()), seed
    return feasible


def test_a_feasible_region_gives_a_feasible_point() -> None:
    """A point comes out exactly when some pattern has one (the slow twin of this test takes thousands)."""
    assert 24 < check_trades(range(120)) < 112


@pytest.mark.slow
@pytest.mark.parametrize("first", range(120, 5120, 1000))
def test_thousands_of_feasible_regions_give_a_feasible_point(first: int) -> None:
    assert 200 < check_trades(range(first, first + 1000)) < 940


def test_the_pattern_is_near_the_best_one() -> None:
    """Not claimed to be nearest, never nearer than the nearest, and a little farther on average."""
    farther = []
    for seed in range(60):
        y, r = trades(seed)
        if possible(r):
            best, _ = brute_force(y, r)
            w, _, _, _ = nearest_with_pattern(y, r)
            distance = (w - y).square().sum(-1)
            assert bool((distance >= best - 1e-10).all())
            farther.append(float((distance.sqrt() - best.sqrt()).mean()))
    assert len(farther) > 10 and np.mean(farther) < 0.02


def test_the_turnover_a_pattern_needs_is_exact() -> None:
    for seed in range(25):
        _, r = trades(seed)
        all_of_them = every_pattern(r)
        needed = turnover_needed(all_of_them, r)
        s = r.on(all_of_them)
        for cap, least in ((1e-6, 1e-12), (-1e-6, -1.0)):
            for i in range(0, len(all_of_them), 3):
                if not bool(needed[i].isfinite()) or float(needed[i]) + cap <= 0:
                    continue
                _, left = project_polyhedron(
                    r.anchor, s.lower[i], s.upper[i], r.rows, r.row_lower, r.row_upper, r.anchor, float(needed[i]) + cap
                )
                assert (float(left) < 1e-12) if least > 0 else (float(left) > 1e-8)


def grouped(seed: int) -> tuple[Tensor, Region]:
    y, r = trades(seed)
    g = np.random.default_rng(10_000 + seed)
    for i in range(int(g.integers(1, 3))):
        row = torch.tensor((g.random(r.n) < 0.5).astype(float))
        r = r.with_row(row, *((-torch.inf, 0.5) if g.random() < 0.5 else (0.2, torch.inf)), f"Group {i}")
    if g.random() < 0.5:
        r = replace(r, upper=torch.where(r.frozen, r.upper, torch.tensor(g.choice([0.3, 0.5, 0.7], size=r.n))))
    return y, replace(r, turnover=None, anchor=None) if g.random() < 0.4 else r


def test_groups_and_unequal_caps_too() -> None:
    feasible = 0
    for seed in range(110, 135):
        y, r = grouped(seed)
        _, fits = brute_force(y[:1], r)
        w, _, left, _ = nearest_with_pattern(y, r)
        assert bool(((left <= TOLERANCE) == fits.any()).all()), seed
        if bool(fits.any()):
            feasible += 1
            assert float(region_residual(w, r).max()) <= TOLERANCE, seed
    assert 5 < feasible < 24


def test_the_main_job_in_numbers() -> None:
    """Twenty names, at most 8 of them between 3 % and 15 %, from a drifted portfolio that breaks both ends."""
    held = torch.zeros(20, dtype=F64)
    held[:8] = torch.tensor([0.16, 0.028, 0.14, 0.13, 0.15, 0.12, 0.12, 0.152], dtype=F64)
    r = region(20, upper=0.15, at_most=8, min_weight=0.03, held=held, turnover=0.1)
    y = held + 0.1 * torch.randn(200, 20, generator=torch.Generator().manual_seed(3), dtype=F64)
    out = project_region(y, r)
    assert out.status and "not proven nearest overall" in out.status.message
    w = out.weights
    assert float((w.sum(-1) - 1).abs().max()) < 1e-12 and float((w - held).abs().sum(-1).max()) <= 0.1 + 1e-12
    assert int((w > 0).sum(-1).max()) <= 8 and float(w[w > 0].min()) >= 0.03 and float(w.max()) <= 0.15
    assert bool((select_pattern(y, r) >= (w > 0)).all())


def test_when_no_trade_is_allowed_for_it_the_holdings_stay() -> None:
    """The cap on turnover is so tight that every name held must stay, whatever y says."""
    held = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    r = region(8, upper=0.5, at_most=4, min_weight=0.1, held=held, turnover=0.2)
    y = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]], dtype=F64)
    assert select_pattern(y, r).tolist() == [[True] * 4 + [False] * 4]
    assert project_region(y, r).weights[0].tolist() == pytest.approx([0.25] * 4 + [0.0] * 4, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_projecting_twice_changes_nothing(seed: int) -> None:
    y, r = trades(seed)
    w, _, left, _ = nearest_with_pattern(y, r)
    if float(left.max()) <= TOLERANCE:
        again, _, _, _ = nearest_with_pattern(w, r)
        assert float((again - w).abs().max()) < 1e-9


def test_batched_equals_looped() -> None:
    for seed in (3, 5, 8, 11):
        y, r = trades(seed)
        w, pattern, left, _ = nearest_with_pattern(y.reshape(3, 1, -1), r)
        assert w.shape == (3, 1, r.n) and left.shape == (3, 1)
        for i in range(3):
            one, chosen, _, _ = nearest_with_pattern(y[i], r)
            assert float((one - w[i, 0]).abs().max()) < 1e-12 and bool((chosen == pattern[i, 0]).all())


def test_no_rows_give_no_rows() -> None:
    r = region(5, at_most=2)
    assert project_region(torch.zeros(0, 5, dtype=F64), r).weights.shape == (0, 5)


def test_the_mixed_integer_fallback_finds_the_only_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every proposal taken away but one that fails, the small program still finds the pattern."""
    held = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64)
    r = region(4, upper=0.7, at_most=2, min_weight=0.1, held=held, turnover=0.3)
    r = r.with_row(torch.tensor([1.0, 0.0, 0.0, 1.0]), -torch.inf, 0.6, "Group")
    wrong = torch.tensor([False, False, True, True])
    monkeypatch.setattr(patterns, "_near_relaxation", lambda y, region, limit: wrong.expand(len(y), 1, 4))
    w, pattern, left, _ = nearest_with_pattern(torch.tensor([[0.0, 0.9, 0.3, 0.2]], dtype=F64), r)
    assert float(left) < 1e-12
    assert pattern[0].tolist() == [True, True, False, False]
    assert w[0].tolist() == pytest.approx([0.35, 0.65, 0.0, 0.0], abs=1e-12)
