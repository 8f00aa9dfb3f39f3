"""Exact kernels on convex sets: chords, draws on them, invariance, and agreement of independent kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.chords import draw_on_chord
from portfolio_ebm.samplers.diagnostics import effective_size
from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.hit_and_run import HitAndRun, open_basis
from portfolio_ebm.samplers.pair_gibbs import MATES, TURNS, PairGibbs, Target, classes, spans
from portfolio_ebm.samplers.polyhedron import Ball, Polyhedron, with_slack
from portfolio_ebm.samplers.surrogate import Surrogate

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(n: int, upper: float = 1.0) -> Polyhedron:
    one = torch.ones(1, dtype=F64)
    return Polyhedron(
        torch.zeros(n, dtype=F64), torch.full((n,), upper, dtype=F64), torch.ones(1, n, dtype=F64), one, one
    )


def cut(n: int, *, upper: float = 0.6, cap: float = 0.7) -> Polyhedron:
    """A simplex with caps, one group cap and an L1 ball around equal weight."""
    p = simplex(n, upper)
    group = (torch.arange(n) < n // 2).to(F64)
    centre = torch.full((n,), 1.0 / n, dtype=F64)
    ones = torch.ones(n, dtype=F64)
    return Polyhedron(
        p.lower, p.upper, torch.cat([p.rows, group[None]]), torch.tensor([1.0, -torch.inf], dtype=F64),
        torch.tensor([1.0, 0.5], dtype=F64), (Ball(centre, ones, ones, cap),),
    )  # fmt: skip


def with_equation(p: Polyhedron, row: list[float], value: float) -> Polyhedron:
    one = torch.tensor([value], dtype=F64)
    rows = torch.cat([p.rows, torch.tensor([row], dtype=F64)])
    return Polyhedron(p.lower, p.upper, rows, torch.cat([p.row_lower, one]), torch.cat([p.row_upper, one]), p.balls)


def quadratic(n: int, seed: int = 0, kinks: bool = False) -> Target:
    root = torch.randn(n, n + 2, generator=rng(seed), dtype=F64)
    linear = torch.randn(n, generator=rng(seed + 1), dtype=F64)
    matrix = root @ root.T / n
    if not kinks:
        return Target(matrix, linear)
    return Target(matrix, linear, torch.full((n,), 0.4, dtype=F64), torch.full((n,), 1.0 / n, dtype=F64))


def flat(n: int) -> Target:
    return Target(torch.zeros(n, n, dtype=F64), torch.zeros(n, dtype=F64))


def dirichlet(n: int, chains: int, seed: int = 0) -> Tensor:
    e = -torch.log1p(-torch.rand(n, chains, generator=rng(seed), dtype=F64))
    return e / e.sum(0)


def accepted(p: Polyhedron, target: Target, temperature: float, count: int, seed: int = 0) -> Tensor:
    """Exact draws of exp(-E/T) on a subset of the simplex by rejection: (n, count)."""
    draws = dirichlet(p.n, 1_500_000 // p.n, seed)
    draws = draws[:, p.violation(draws) <= 1e-12]
    value = target(draws)
    kept = torch.rand(value.shape, generator=rng(seed + 9), dtype=F64) < torch.exp(-(value - value.min()) / temperature)
    draws = draws[:, kept]
    assert draws.shape[1] >= count, f"only {draws.shape[1]} of {count} draws"
    return draws[:, :count]


# Chords


def test_chords_end_where_the_set_ends() -> None:
    p = cut(6)
    x = accepted(p, flat(6), 1.0, 200)
    for seed in range(5):
        d = open_basis(p) @ torch.randn(5, generator=rng(seed), dtype=F64)
        low, high = p.chord(x, d)
        assert bool((low <= 0).all() and (high >= 0).all())
        for end in (low, high):
            step = d.unsqueeze(-1)
            assert float(p.violation(x + end * step).max()) <= 1e-12
            assert float(p.violation(x + (1.0 + 1e-6) * end * step).min()) > 0.0


@pytest.mark.parametrize("up, down", [(1.0, 1.0), (1.0, 0.3), (0.0, 1.0), (0.5, 2.0)])
def test_pair_chords_are_chords(up: float, down: float) -> None:
    n = 5
    p = cut(n)
    ball = Ball(p.balls[0].centre, torch.full((n,), up, dtype=F64), torch.full((n,), down, dtype=F64), 0.3)
    p = Polyhedron(p.lower, p.upper, p.rows, p.row_lower, p.row_upper, (ball,))
    x = accepted(p, flat(n), 1.0, 300)
    kernel = PairGibbs(flat(n), p, torch.ones(n))
    for i, j in ((0, 1), (1, 4), (4, 0), (2, 3)):
        d = torch.zeros(n, dtype=F64)
        d[i], d[j] = 1.0, -1.0
        found = kernel._chord(x, i, j, p.rows @ x, [ball.value(x)])
        for one, other in zip(found, p.chord(x, d), strict=True):
            assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("slope", [0.0, 1.0, -30.0, 400.0])
@pytest.mark.parametrize("curvature", [0.0, 2.0, 900.0])
@pytest.mark.parametrize("ends", [(-0.2, 0.5), (0.0, 1e-4)])
def test_draws_on_a_chord_have_the_law_they_should(slope: float, curvature: float, ends: tuple[float, float]) -> None:
    count = 20_000
    grid = torch.linspace(ends[0], ends[1], 200_001, dtype=F64)
    log = -(slope * grid + 0.5 * curvature * grid * grid)
    mass = torch.exp(log - log.max())
    cdf = torch.cat([torch.zeros(1, dtype=F64), ((mass[1:] + mass[:-1]) / 2).cumsum(0)])
    cdf = cdf / cdf[-1]
    # A start that is itself an exact draw, so that the Metropolis step has nothing to forget.
    u = torch.rand(3, count, generator=rng(1), dtype=F64)
    start = torch.from_numpy(np.interp(u[0].numpy(), cdf.numpy(), grid.numpy()))
    t = start + draw_on_chord(
        slope + curvature * start, curvature, 1.0, ends[0] - start, ends[1] - start, u[1], lambda: u[2]
    )
    value = torch.from_numpy(np.interp(t.numpy(), grid.numpy(), cdf.numpy()))
    assert stats.kstest(value.numpy(), "uniform").pvalue > 1e-3
    assert float(t.min()) >= ends[0] - 1e-15 and float(t.max()) <= ends[1] + 1e-15


def test_a_far_tail_draw_is_taken_nearly_always() -> None:
    zero, one = torch.zeros(5000, dtype=F64), torch.full((5000,), 0.1, dtype=F64)
    u, v = torch.rand(2, 5000, generator=rng(), dtype=F64)
    t = draw_on_chord(torch.full_like(zero, 40.0), 4.0, 1.0, zero, one, u, lambda: v)
    assert float((t == 0.0).to(F64).mean()) < 0.01


# Pair moves


def test_a_plan_forgets_no_coordinate_and_pairs_those_of_a_row() -> None:
    """Nearly all activity is on coordinates 0 and 1, and 1 shares its row with 2 alone."""
    n, steps = 40, 4000
    p = simplex(n)
    row = torch.zeros(1, n, dtype=F64)
    row[0, 1:3] = 1.0
    low, high = torch.full((1,), -torch.inf, dtype=F64), torch.full((1,), 0.5, dtype=F64)
    rows = torch.cat([p.rows, row]), torch.cat([p.row_lower, low]), torch.cat([p.row_upper, high])
    activity = torch.full((n,), 1e-9, dtype=F64)
    activity[:2] = 1.0
    plan = PairGibbs(flat(n), Polyhedron(p.lower, p.upper, *rows), activity).plan(steps, rng())
    often = torch.bincount(torch.tensor(plan).flatten(), minlength=n)
    assert int(often[3:].min()) >= 0.8 * TURNS * steps / n
    together = sum({1, 2} == set(pair) for pair in plan)
    assert together == pytest.approx((0.5 * MATES + 0.5 * TURNS / n) * steps, rel=0.15)
    alone = PairGibbs(flat(n), p, activity).plan(steps, rng())
    assert sum({1, 2} == set(pair) for pair in alone) < 0.1 * together


def test_slack_makes_single_moves_pair_moves() -> None:
    p = simplex(4)
    free = Polyhedron(p.lower, p.upper, p.rows, torch.tensor([0.8], dtype=F64), p.row_upper)
    closed, added = with_slack(free)
    assert added and closed.conserving() and closed.n == 5
    assert float(closed.lower[-1]) == 0.0 and math.isclose(float(closed.upper[-1]), 0.2)
    assert with_slack(p) == (p, False)
    open_ = Polyhedron(p.lower, p.upper, p.rows[:0], p.row_lower[:0], p.row_upper[:0])
    closed, _ = with_slack(open_)
    assert closed.conserving() and math.isinf(float(closed.upper[-1]))


def test_pair_moves_refuse_equations_they_cannot_meet() -> None:
    p = simplex(4)
    both = with_equation(p, [1.0, 2.0, 3.0, 4.0], 2.0)
    assert not spans(both)
    with pytest.raises(SpecError, match="HitAndRun"):
        PairGibbs(flat(4), both, torch.ones(4))
    with pytest.raises(SpecError, match="with_slack"):
        PairGibbs(flat(4), Polyhedron(p.lower, p.upper, p.rows[:0], p.row_lower[:0], p.row_upper[:0]), torch.ones(4))
    split = with_equation(p, [1.0, 1.0, 0.0, 0.0], 0.4)
    assert spans(split) and classes(split).tolist()[0] == classes(split).tolist()[1]


def test_moves_stay_inside_and_keep_the_sum() -> None:
    p = cut(8)
    x = accepted(p, flat(8), 1.0, 64)
    y = PairGibbs(quadratic(8, kinks=True), p, torch.ones(8)).run(x, 0.01, 2000, rng(3))
    assert float(p.violation(y).max()) < 1e-12
    assert bool((y.std(1) > 1e-4).all())


def kernels(target: Target, p: Polyhedron) -> dict[str, Callable[[Tensor, float, int, torch.Generator], Tensor]]:
    """Every exact kernel, as (x, temperature, moves, rng) -> x."""
    pairs = PairGibbs(target, p, torch.linspace(0.5, 2.0, p.n))
    rays = HitAndRun(target, p, open_basis(p))
    # A surrogate that is wrong on purpose: the acceptance has to mend it.
    wrong = Target(1.5 * target.matrix, 0.7 * target.linear, target.rate, target.centre)
    over = Surrogate(PairGibbs(wrong, p, torch.ones(p.n)), lambda w: target(w.T), 3)

    def surrogate(x: Tensor, temperature: float, moves: int, g: torch.Generator) -> Tensor:
        value = target(x)
        for _ in range(max(moves // 6, 1)):
            x, value, _ = over.step(x, value, temperature, g)
        return x

    return {"pairs": pairs.run, "rays": rays.run, "surrogate": surrogate}


@pytest.mark.parametrize("name", ["pairs", "rays", "surrogate"])
@pytest.mark.parametrize("kinks", [False, True], ids=["smooth", "kinks"])
def test_steps_from_exact_draws_are_exact_draws(name: str, kinks: bool) -> None:
    n, temperature = 4, 0.15
    target, p = quadratic(n, kinks=kinks), cut(n)
    x = accepted(p, target, temperature, 6000)
    y = kernels(target, p)[name](x, temperature, 6, rng(5))
    fresh = accepted(p, target, temperature, 6000, seed=77)
    assert float((y - x).abs().amax(0).median()) > 1e-3, "the chains moved"
    for k in range(n):
        assert stats.ks_2samp(y[k].numpy(), fresh[k].numpy()).pvalue > 1e-3
    assert stats.ks_2samp(target(y).numpy(), target(fresh).numpy()).pvalue > 1e-3


def test_a_flat_energy_on_a_simplex_is_dirichlet() -> None:
    n, chains = 50, 2048
    x = PairGibbs(flat(n), simplex(n), torch.ones(n)).run(dirichlet(n, chains, 3), 1.0, 1500, rng(4))
    # The largest of 50 uniform spacings: the harmonic number of 50 over 50.
    assert (
        abs(float(x.amax(0).mean()) - sum(1.0 / k for k in range(1, 51)) / 50)
        < 4 * float(x.amax(0).std()) / chains**0.5
    )
    assert stats.kstest(x[7].numpy(), stats.beta(1, n - 1).cdf).pvalue > 1e-3


def test_from_a_vertex_the_simplex_is_filled() -> None:
    n, chains = 10, 2048
    corner = torch.zeros(n, chains, dtype=F64)
    corner[0] = 1.0
    pairs = PairGibbs(flat(n), simplex(n), torch.ones(n))
    rays = HitAndRun(flat(n), simplex(n), open_basis(simplex(n)))
    # Few rays leave a corner: they start in the middle.
    for kernel, x in ((pairs, corner), (rays, torch.full_like(corner, 1.0 / n))):
        y = kernel.run(x, 1.0, 1500, rng(4))
        for k in (0, 5):
            assert stats.kstest(y[k].numpy(), stats.beta(1, n - 1).cdf).pvalue > 1e-3


def test_a_cold_law_is_the_optimum() -> None:
    """As T falls the excess over the optimum is k T, k = active limits + free dimensions / 2."""
    n = 6
    matrix = torch.diag(torch.arange(1.0, n + 1.0, dtype=F64))
    linear = torch.tensor([0.0, 0.0, 0.0, 2.0, 3.0, 4.0], dtype=F64)
    target = Target(matrix, linear)
    # Held: the first three, w_i = nu / i.
    nu = 1.0 / (1.0 + 0.5 + 1.0 / 3.0)
    best = torch.tensor([nu, nu / 2, nu / 3, 0.0, 0.0, 0.0], dtype=F64)
    least = float(target(best[:, None]))
    for temperature in (1e-4, 1e-6):
        x = PairGibbs(target, simplex(n), torch.ones(n)).run(best[:, None].repeat(1, 4096), temperature, 800, rng(6))
        k = 3 + 2 / 2
        excess = (target(x) - least) / temperature
        assert abs(float(excess.mean()) - k) < 5 * (k / 4096) ** 0.5
        assert stats.kstest(excess.numpy(), stats.gamma(k).cdf).pvalue > 1e-3
        assert float((x - best[:, None]).abs().max()) < 20 * temperature**0.5


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("name", ["rays", "surrogate"])
def test_independent_kernels_agree_within_their_errors(n: int, name: str) -> None:
    temperature, chains = 0.02, 512
    target, p = quadratic(n, seed=3, kinks=n == 10), cut(n, upper=0.5, cap=0.9)
    means = []
    for kind, moves in (("pairs", 10), (name, 60)):
        x = torch.full((n, chains), 1.0 / n, dtype=F64)
        run, g, kept = kernels(target, p)[kind], rng(8), []
        for step in range(100):
            x = run(x, temperature, moves, g)
            if step >= 50:
                kept.append(x.T)
        draws = torch.stack(kept)
        for statistic in (draws, draws.square()):
            size = effective_size(statistic)
            means.append((statistic.mean((0, 1)), statistic.var((0, 1)) / size))
    for (a, va), (b, vb) in zip(means[:2], means[2:], strict=True):
        assert float(((a - b).abs() / (va + vb).sqrt()).max()) < 4.5


def test_limits_on_heavy_units_cut_the_law_and_leave_the_rest() -> None:
    n, target = 6, quadratic(6)
    limit = Heavy(torch.tensor([0, 0, 1, 2, 3, 4]), torch.full((4,), 0.2, dtype=F64), 0.5, torch.zeros(4, dtype=F64))
    draws = accepted(simplex(n), target, 0.3, 40_000)
    truth = draws[:, limit.holds(draws)]
    assert 0.2 < truth.shape[1] / draws.shape[1] < 0.9
    x = truth[:, :1].expand(-1, 4000).contiguous()
    found = PairGibbs(target, simplex(n), torch.ones(n), (limit,)).run(x, 0.3, 600, rng(4))
    assert bool(limit.holds(found).all()) and float(simplex(n).violation(found).max()) < 1e-12
    for k in range(n):
        assert stats.ks_2samp(found[k], truth[k]).pvalue > 1e-3 / n
    for unit in range(4):
        heavy = [(limit.sums(x)[unit] > 0.2).to(F64) for x in (found, truth)]
        error = (0.25 / 4000 + 0.25 / truth.shape[1]) ** 0.5
        assert abs(float(heavy[0].mean() - heavy[1].mean())) < 4.5 * error
