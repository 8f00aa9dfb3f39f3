"""Exact kernels over patterns: the law against enumeration of every pattern, invariance, permutations, limits."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.samplers.chords import fresh_on_chord, log_mass
from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.pattern_gibbs import PatternGibbs
from portfolio_ebm.samplers.pattern_set import HELD, PatternSet, simplex_sizes
from portfolio_ebm.samplers.polyhedron import Ball

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names_of(n: int, slots: int, least: int, floor: float, *, ruled: bool = False) -> PatternSet:
    """At most `slots` of n names on the simplex; ruled: a group cap, a count in a group, a ball and a cap by name."""
    group = (torch.arange(n) < n // 2).to(F64)[None]
    none, empty = torch.zeros(0, n, dtype=F64), torch.zeros(0, dtype=F64)
    p = PatternSet(
        lower=torch.full((n,), max(floor, HELD), dtype=F64), upper=torch.ones(n, dtype=F64), rows=none,
        row_lower=empty, row_upper=empty, counts=none, count_lower=empty, count_upper=empty, slots=slots, least=least,
        log_size=simplex_sizes(slots, floor, 1.0),
    )  # fmt: skip
    if not ruled:
        return p
    one = torch.ones(1, dtype=F64)
    ball = Ball(torch.full((n,), 1.0 / n, dtype=F64), torch.ones(n, dtype=F64), 0.5 * torch.ones(n, dtype=F64), 0.8)
    return replace(
        p, upper=torch.full((n,), 0.7, dtype=F64), rows=group, row_lower=-torch.inf * one, row_upper=0.75 * one,
        counts=group, count_lower=one, count_upper=2.0 * one, balls=(ball,),
    )  # fmt: skip


def quadratic(n: int, seed: int = 0, kinks: bool = False) -> Target:
    root = torch.randn(n, n + 2, generator=rng(seed), dtype=F64)
    linear = torch.randn(n, generator=rng(seed + 1), dtype=F64)
    if not kinks:
        return Target(root @ root.T / n, linear)
    return Target(root @ root.T / n, linear, torch.full((n,), 0.4, dtype=F64), torch.full((n,), 1.0 / n, dtype=F64))


def enumerated(p: PatternSet, target: Target, temperature: float, floor: float, count: int = 20_000) -> Tensor:
    """Exact draws (n, about `count`) by rejection: a random pattern, uniform on its simplex, the rules, E."""
    every = [c for m in range(max(p.least, 1), p.slots + 1) for c in combinations(range(p.n), m)]
    g, found, most = np.random.default_rng(3), [], 600_000
    for pattern in every:
        m, k = len(pattern), most // len(every)
        x = np.zeros((p.n, k))
        x[list(pattern)] = (floor + (1.0 - m * floor) * g.dirichlet(np.ones(m), k)).T
        found.append(x)
    x = torch.as_tensor(np.concatenate(found, axis=1))
    x = x[:, p.holds(x)]
    value = target(x)
    chance = torch.exp(-(value - value.min()) / temperature)
    kept = x[:, torch.as_tensor(g.random(len(chance))) < chance]
    assert kept.shape[1] > 5000
    return kept[:, torch.as_tensor(g.permutation(kept.shape[1])[:count])]


def same_law(a: Tensor, b: Tensor) -> None:
    """Chi-square over patterns and KS over names, for two samples (n, draws) of independent draws."""
    codes = [((x > 0.5 * HELD).T.numpy() @ (1 << np.arange(len(x)))).astype(int) for x in (a, b)]
    table = np.array([np.bincount(c, minlength=1 << len(a)) for c in codes])
    often = table.sum(0) >= 20
    table = np.column_stack([table[:, often], table[:, ~often].sum(1)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] > 1:
        assert stats.chi2_contingency(table).pvalue > 1e-3
    for one, other in zip(a, b, strict=True):
        assert stats.ks_2samp(one[one > 0.0], other[other > 0.0]).pvalue > 1e-3 / len(a)


SETS = [
    pytest.param(3, 3, 0.05, False, id="exactly"),
    pytest.param(3, 1, 0.05, False, id="at most", marks=pytest.mark.slow),
    pytest.param(3, 1, 0.0, False, id="at most, no least weight"),
    pytest.param(3, 3, 0.05, True, id="exactly, ruled", marks=pytest.mark.slow),
    pytest.param(4, 2, 0.1, True, id="between, ruled"),
]


CHORDS = [
    pytest.param(0.3, 2.0, 0.1, -0.2, 0.5, id="across the mode"),
    pytest.param(-30.0, 2.0, 0.1, -0.2, 0.5, id="far tail"),
    pytest.param(400.0, 900.0, 1.0, 0.0, 0.1, id="edge of the tail"),
    pytest.param(3.0, 1e-9, 1.0, 0.1, 0.3, id="exponential"),
    pytest.param(0.0, 1e-9, 1.0, 0.1, 0.3, id="flat"),
    pytest.param(-50.0, 900.0, 0.01, 0.0, 0.2, id="narrow"),
]


@pytest.mark.parametrize("slope, curvature, heat, low, high", CHORDS)
def test_chords_weigh_what_quadrature_says(
    slope: float, curvature: float, heat: float, low: float, high: float
) -> None:
    grid = np.linspace(low, high, 1_000_001)
    log = -(slope * grid + 0.5 * curvature * grid * grid) / heat
    density = np.exp(log - log.max())
    given = [torch.full((20_000,), v, dtype=F64) for v in (slope, curvature, heat, low, high)]
    assert float(log_mass(*given)[0]) == pytest.approx(log.max() + np.log(np.trapezoid(density, grid)), abs=1e-7)
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    t = fresh_on_chord(*given, rng()).numpy()
    assert stats.kstest(np.interp(t, grid, cdf / cdf[-1]), "uniform").pvalue > 1e-3
    assert float(log_mass(*given[:3], given[4], given[3])[0]) == -np.inf


@pytest.mark.parametrize("curvature", [1e-9, 1e-20, 1e-200])
def test_a_flat_chord_weighs_its_width(curvature: float) -> None:
    given = [torch.full((1,), v, dtype=F64) for v in (0.0, curvature, 1.0, -0.1, 0.3)]
    assert float(log_mass(*given)) == pytest.approx(math.log(0.4), abs=1e-9)


@pytest.mark.parametrize("kinks", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("slots, least, floor, ruled", SETS)
def test_chains_from_one_portfolio_reach_the_law(
    slots: int, least: int, floor: float, ruled: bool, kinks: bool
) -> None:
    p, target, heat = names_of(6, slots, least, floor, ruled=ruled), quadratic(6, kinks=kinks), 0.15
    truth = enumerated(p, target, heat, floor)
    start = truth[:, :1].expand(-1, 6000).contiguous()
    found = PatternGibbs(target, p).run(start, heat, 250, rng(1))
    assert bool(p.holds(found, 1e-12).all()) and torch.allclose(found.sum(0), torch.ones(6000, dtype=F64), atol=1e-12)
    same_law(found, truth)


def test_every_chain_has_its_own_temperature() -> None:
    p, target = names_of(5, 3, 1, 0.05), quadratic(5, seed=4)
    heat = torch.tensor([0.05, 0.5], dtype=F64).repeat_interleave(4000)
    start = torch.zeros(5, 8000, dtype=F64)
    start[0] = 1.0
    found = PatternGibbs(target, p).run(start, heat, 250, rng(1))
    same_law(found[:, :4000], enumerated(p, target, 0.05, 0.05))
    same_law(found[:, 4000:], enumerated(p, target, 0.5, 0.05))


def test_heavy_units_stay_within_their_limit_and_the_law_within_it() -> None:
    p, target = names_of(6, 4, 4, 0.05), quadratic(6, seed=2)
    heavy = Heavy(torch.tensor([0, 0, 1, 2, 3, 3]), torch.full((4,), 0.3, dtype=F64), 0.45, torch.zeros(4, dtype=F64))
    p = replace(p, heavy=(heavy,))
    truth = enumerated(p, target, 0.3, 0.05)
    x = truth[:, :1].expand(-1, 6000).contiguous()
    found = PatternGibbs(target, p).run(x, 0.3, 400, rng(1))
    assert bool(p.holds(found, 1e-12).all())
    same_law(found, truth)


@pytest.mark.slow
def test_names_in_another_order_have_the_same_law_in_that_order() -> None:
    p, target, order = names_of(6, 3, 1, 0.05, ruled=True), quadratic(6, seed=6), torch.randperm(6, generator=rng(2))
    ball = p.balls[0]
    turned = replace(
        p, rows=p.rows[:, order], counts=p.counts[:, order],
        balls=(Ball(ball.centre[order], ball.up[order], ball.down[order], ball.limit),),
    )  # fmt: skip
    other = Target(target.matrix[order][:, order], target.linear[order])
    start = enumerated(p, target, 0.2, 0.05)[:, :1].expand(-1, 6000).contiguous()
    one = PatternGibbs(target, p).run(start, 0.2, 300, rng(1))
    two = PatternGibbs(other, turned).run(start[order].contiguous(), 0.2, 300, rng(5))
    same_law(one[order], two)


def test_every_plan_by_itself_leaves_the_law() -> None:
    # Chains share their plan. A kernel that is exact only on average over plans would pass where plans are many.
    p, target = names_of(5, 3, 2, 0.05), quadratic(5, seed=4)
    truth = enumerated(p, target, 0.3, 0.05, 40_000)
    half = truth.shape[1] // 2
    kernel, g = PatternGibbs(target, p), rng(3)
    for move in ((0, 0, 1), (1, 0, 0), (2, 0, 1), (2, 2, 0)):
        x = truth[:, :half].contiguous()
        for _ in range(3):
            x = kernel.sweep(x, 0.3, [move], g)
        same_law(x, truth[:, half:])
