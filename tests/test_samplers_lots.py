"""Lot-Gibbs: the law against every portfolio of the grid, invariance, reversed plans, limits."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.samplers.face_set import FaceSet, FaceTarget
from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.lot_gibbs import LotGibbs
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.polyhedron import Ball, Polyhedron
from portfolio_ebm.samplers.references import Reference

F64, INF, HOLE, HEAT = torch.float64, math.inf, 1e-9, 0.15
STEP = torch.tensor([0.1, 0.07, 0.13], dtype=F64)
HELD = torch.tensor([0.4, 0.21, 0.26], dtype=F64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def law(*, ruled: bool) -> LotGibbs:
    """Between 80 % and all of the budget; ruled: tickets and a rate, a least weight, at most two names bought or sold,
    a cap on two names, a ball, and large names together at most 80 %."""
    modes: list[list[tuple[float, ...]]] = [[(0.0, 1.0, 0.0, 0.0)] for _ in range(3)]
    rows, balls, heavy, traded = [([1.0] * 3, 0.8, 1.0)], (), (), torch.zeros(0, 3, 1, dtype=F64)
    if ruled:
        modes = [
            [(0.0, 0.0, 0.1 + 0.2 * h, 0.0), (h, h, 0.0, 0.0), (0.15, h - HOLE, 0.1 + 0.2 * h, -0.2),
             (h + HOLE, 1.0, 0.1 - 0.2 * h, 0.2)]
            for h in HELD.tolist()
        ]  # fmt: skip
        rows.append(([1.0, 1.0, 0.0], -INF, 0.75))
        balls = (Ball(HELD, torch.ones(3, dtype=F64), 0.5 * torch.ones(3, dtype=F64), 0.6),)
        heavy = (Heavy(torch.arange(3), torch.full((3,), 0.45, dtype=F64), 0.8, torch.zeros(3, dtype=F64)),)
        traded = torch.tensor([[[1.0, 0.0, 1.0, 1.0]] * 3], dtype=F64)
    full = torch.tensor(modes, dtype=F64)
    row, low, high = (torch.tensor(part, dtype=F64) for part in zip(*rows, strict=True))
    poly = Polyhedron(torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64), row, low, high, balls)
    ends = torch.tensor([[0.0], [2.0]], dtype=F64)[:, : len(traded)]
    faces = FaceSet(
        full[..., 0], full[..., 1], traded, ends[0], ends[1], poly, torch.ones(3, dtype=torch.bool),
        Reference(0.0, INF, 1.0, 1.0, 3), heavy,
    )  # fmt: skip
    root = torch.randn(3, 5, generator=rng(3), dtype=F64)
    quadratic = Target(root @ root.T / 3, torch.tensor([0.2, -0.3, 0.1], dtype=F64))
    return LotGibbs(FaceTarget(quadratic, full[..., 2], full[..., 3], faces), STEP)


def every(kernel: LotGibbs, *, ruled: bool) -> tuple[Tensor, np.ndarray]:
    """Every portfolio of the grid (3, k), and its probability, by the rules and the energy written out."""
    lots = [np.arange(int(1.0 / s) + 1) for s in STEP.tolist()]
    x = torch.tensor(np.array(list(product(*lots))).T, dtype=F64) * STEP.unsqueeze(-1)
    inside = (x.sum(0) >= 0.8 - 1e-10) & (x.sum(0) <= 1.0 + 1e-10)
    quadratic = kernel.target.quadratic
    energy = 0.5 * (x * (quadratic.matrix @ x)).sum(0) + quadratic.linear @ x
    if ruled:
        trade = x - HELD.unsqueeze(-1)
        moved = trade.abs() > 1e-9
        energy = energy + 0.2 * trade.abs().sum(0) + 0.1 * moved.to(F64).sum(0)
        inside &= (moved.sum(0) <= 2) & ((x == 0.0) | (x >= 0.15)).all(0) & (x[:2].sum(0) <= 0.75 + 1e-10)
        inside &= (trade.clamp_min(0.0) + 0.5 * (-trade).clamp_min(0.0)).sum(0) <= 0.6 + 1e-10
        inside &= torch.where(x > 0.45, x, 0.0).sum(0) <= 0.8
    x, energy = x[:, inside], energy[inside]
    chance = torch.exp(-(energy - energy.min()) / HEAT).numpy()
    return x, chance / chance.sum()


def counted(x: Tensor, points: Tensor) -> np.ndarray:
    """How often each of the points (3, k) occurs in x (3, chains); every one has to be among them."""
    lots, known = ((y / STEP.unsqueeze(-1)).round().long() for y in (x, points))
    power = torch.tensor([[1], [100], [10_000]])
    order = (known * power).sum(0)
    found = ((lots * power).sum(0).unsqueeze(-1) == order).to(torch.int64)
    assert bool((found.sum(-1) == 1).all())
    return found.sum(0).numpy()


def fits(times: np.ndarray, chance: np.ndarray) -> bool:
    often = chance * times.sum() >= 8
    seen, wanted = (np.append(v[often], v[~often].sum()) for v in (times, chance * times.sum()))
    return bool(stats.chisquare(seen[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3)


@pytest.mark.parametrize("ruled", [False, True])
def test_chains_from_one_portfolio_meet_every_one_as_often_as_they_should(ruled: bool) -> None:
    kernel = law(ruled=ruled)
    points, chance = every(kernel, ruled=ruled)
    assert len(chance) > 15
    start = kernel.on_grid(points[:, -1:].repeat(1, 4000))
    found = kernel.run(start, HEAT, 150, rng(1))
    assert bool(kernel.holds(found).all()) and fits(counted(found, points), chance)


@pytest.mark.parametrize("ruled", [False, True])
def test_every_plan_and_its_reverse_leave_the_law(ruled: bool) -> None:
    kernel = law(ruled=ruled)
    points, chance = every(kernel, ruled=ruled)
    for k, move in enumerate([(0, 1, 1, 0), (0, 2, 2, 1), (1, 4, 2, 3)]):
        draws = np.random.default_rng(k).choice(len(chance), 6000, p=chance)
        x = kernel.on_grid(points[:, draws])
        y = kernel.sweep(x, HEAT, [move, (2, 1, 1, 2), move], rng(k))
        assert not torch.equal(x, y) and fits(counted(y, points), chance)


def test_the_set_is_what_the_rules_say() -> None:
    kernel = law(ruled=True)
    lots = torch.tensor(np.array(list(product(range(11), range(15), range(8)))).T, dtype=F64)
    x = kernel.on_grid(lots * STEP.unsqueeze(-1))
    inside = x[:, kernel.holds(x)]
    points, _ = every(kernel, ruled=True)
    assert inside.shape == points.shape and torch.allclose(inside, points, atol=1e-9)


def test_chains_have_their_own_temperatures() -> None:
    kernel = law(ruled=False)
    points, _ = every(kernel, ruled=False)
    heat = torch.tensor([0.02, 5.0], dtype=F64).repeat_interleave(1500)
    found = kernel.run(kernel.on_grid(points[:, :1].repeat(1, 3000)), heat, 150, rng(1))
    value = kernel.target.quadratic(points)
    for part, own in ((found[:, :1500], 0.02), (found[:, 1500:], 5.0)):
        chance = torch.exp(-(value - value.min()) / own).numpy()
        assert fits(counted(part, points), chance / chance.sum())
