"""The parts of the search over slices of modes: local minima, chains that stay on the region, walkers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_modes import BASE, HELD, RULES, N, context
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of, region_residual
from portfolio_ebm.constraints.mixed.node import on_slice
from portfolio_ebm.construction.exact.curvature import curvature_matrix
from portfolio_ebm.construction.rugged.gliding import glide
from portfolio_ebm.construction.rugged.slices import OnModes, OnSlices, Slices, brought_down, learned, settle
from portfolio_ebm.construction.rugged.walking import Walks, walk
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.samplers.anneal import anneal
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Constant

F64 = torch.float64
ENERGY = Return() + 3.0 * Variance() + TradingCost(0.002)
KINDS = ["at most", "at least", "5/10/40", "75-5-10", "by land"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slices_of(name: str, energy: Energy = ENERGY, ticket: float = 0.0) -> Slices:
    rules: Constraint = BASE if name == "none" else BASE & RULES[name][0]
    found = Slices.of(energy, region_of(rules, context(0)), context(0), ticket)
    assert found is not None
    return found


def points(count: int, seed: int = 0) -> Tensor:
    raw = -torch.rand(count, N, generator=rng(seed), dtype=F64).log()
    return raw / raw.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", [*KINDS, "none"])
def test_a_convex_energy_comes_down_to_the_minimum_of_the_slice(name: str) -> None:
    """The same slice solved exactly, with the quadratic known, is the truth; the model starts off by half."""
    slices = slices_of(name, ticket=1e-3 if name == "none" else 0.0)
    matrix, linear = 6.0 * context(0).covariance.dense().numpy(), -context(0).mean.numpy()
    starts = list(points(6).numpy())
    modes = list(slices.modes_near(np.array(starts)))
    found = settle(slices, modes, starts, 1.5 * matrix, 1.0, 40)
    solved = 0
    for one, low in zip(modes, found, strict=True):
        exact = on_slice(slices.modelled(matrix, linear), one)
        assert (low is None) == (exact is None)
        if low is not None and exact is not None:
            assert low.value == pytest.approx(exact.value, abs=1e-10)
            solved += 1
    assert solved


def test_the_costs_of_trading_and_of_tickets_are_in_the_value() -> None:
    slices = slices_of("none", ticket=0.01)
    w = np.array([HELD, np.where(np.arange(N) == 0, HELD + 0.1, HELD)])
    value, _ = slices.evaluate(w, list(slices.modes_of(w)))
    smooth = (Return() + 3.0 * Variance()).bind(context(0))(torch.tensor(w)).numpy()
    assert value - smooth == pytest.approx([0.0, 0.002 * 0.1 + 0.01], abs=1e-12)


def test_a_ticket_is_paid_only_where_the_distance_is_worth_it() -> None:
    slices = slices_of("none", ticket=0.01)
    near = np.where(np.arange(N) == 0, HELD + 0.01, np.where(np.arange(N) == 1, HELD + 0.2, HELD))
    w = slices.nearest(near, slices.modes_near(near[None], step=0.1)[0])
    assert w is not None
    assert (np.abs(w - HELD) > 1e-9).tolist() == [False, True, False, False, False, False]


def test_learned_curvature_meets_the_slopes_seen_and_stays_positive() -> None:
    seen = np.random.default_rng(0)
    root = seen.normal(size=(N, N))
    truth, curve = root @ root.T + np.eye(N), np.eye(N)
    for _ in range(60):
        move = seen.normal(size=N)
        curve = learned(curve, move, truth @ move)
        assert curve @ move == pytest.approx(truth @ move) or move @ truth @ move < 0.2 * move @ curve @ move
    assert curve == pytest.approx(truth, rel=0.2, abs=0.2)
    hill = learned(np.eye(N), np.ones(N), -5.0 * np.ones(N))
    assert np.linalg.eigvalsh(hill)[0] > 0.0
    assert learned(curve, np.zeros(N), np.ones(N)) is curve


def test_curvature_of_a_quadratic_is_its_matrix_and_a_hill_counts_by_its_size() -> None:
    root = torch.randn(N, N, generator=rng(), dtype=F64)
    matrix = root @ root.T + 0.1 * torch.eye(N, dtype=F64)
    at, lower = points(1)[0], torch.zeros(N, dtype=F64)
    for sign in (1.0, -1.0):
        found = curvature_matrix(lambda w, s=sign: 0.5 * s * ((w @ matrix) * w).sum(-1), at, lower, 0.05)
        assert torch.allclose(found, matrix, atol=1e-9)


def test_curvature_asks_only_inside_the_bounds() -> None:
    def entropy(w: Tensor) -> Tensor:
        assert bool((w >= 0).all())
        return (w * (w + 1e-6).log()).sum(-1)

    found = curvature_matrix(entropy, points(1)[0], torch.zeros(N, dtype=F64), 0.05)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0


@pytest.mark.parametrize("name", KINDS)
def test_chains_never_leave_the_region_and_change_modes(name: str) -> None:
    slices = slices_of(name, Variance())
    region = region_of(BASE & RULES[name][0], context(0))
    y = points(8).numpy()
    near, there = slices.nearest_all(y, slices.modes_near(y))
    x = torch.tensor(near[there])
    run = anneal(
        OnModes(ULA(0.05), slices), Variance().bind(context(0)), x, schedule=Constant(0.5), n_steps=15,
        rng=rng(), thin=1,
    )  # fmt: skip
    assert float(region_residual(run.draws, region).max()) < 1e-8
    assert len({one.tobytes() for one in slices.modes_of(run.draws.reshape(-1, N).numpy())}) > 1


def walks_of(name: str) -> Walks:
    slices = slices_of(name)
    found = Walks(slices, 6.0 * context(0).covariance.dense().numpy(), 1e-3, 0.1, 0.05, 6)
    starts = list(points(3).numpy())
    found.visit(list(slices.modes_near(np.array(starts))), starts)
    return found


@pytest.mark.parametrize("name", ["at most", "25/50"])
def test_cold_walkers_only_descend_and_hot_ones_go_uphill(name: str) -> None:
    walks = walks_of(name)
    start = walks.best(3)[-1]
    cold, _, sweeps = walk(walks, [start], [0.0] * 30, np.random.default_rng(0), 0)
    assert cold[0].value <= start.value
    assert sweeps < 30
    again, taken, _ = walk(walks, cold, [0.0] * 30, np.random.default_rng(1), 0)
    assert again[0].value == cold[0].value
    assert taken == 0.0
    hot, taken, _ = walk(walks, cold * 4, [100.0] * 4, np.random.default_rng(0), 2)
    assert taken > 0.5
    assert max(low.value for low in hot) > cold[0].value


def test_a_slice_keeps_its_lowest_point() -> None:
    walks = walks_of("at most")
    low = walks.best(1)[0]
    walks.keep(low.modes, replace(low, value=low.value + 1.0))
    walks.keep(low.modes, None)
    assert walks.best(1)[0] is low
    known = dict(walks.memo)
    walks.visit([one.modes for one in walks.best(3)], [np.zeros(N)] * 3)
    assert all(walks.memo[key] is known[key] for key in known)


@pytest.mark.parametrize("name", ["at most", "at least"])
def test_gliding_comes_down_to_the_minimum_of_every_slice(name: str) -> None:
    """On plain rules without costs of trading every slice of a convex energy is solved exactly beside it."""
    slices = slices_of(name, Return() + 3.0 * Variance())
    assert slices.flat is not None
    matrix, linear = 6.0 * context(0).covariance.dense().numpy(), -context(0).mean.numpy()
    starts = points(12).numpy()
    modes = slices.modes_near(starts)
    step = 1.0 / float(np.linalg.eigvalsh(matrix)[-1])
    found = brought_down(slices, list(modes), list(starts), matrix, step, 1e-3)
    first, there = slices.nearest_all(starts, modes)
    before, _ = slices.evaluate(first, modes)
    for k, low in enumerate(found):
        exact = on_slice(slices.modelled(matrix, linear), modes[k])
        assert (low is None) == (exact is None) == (not there[k])
        if low is not None and exact is not None:
            assert exact.value - 1e-12 <= low.value <= min(before[k], exact.value + 1e-7)
    assert there.any()


def test_gliding_takes_no_step_uphill_and_leaves_what_stands_still() -> None:
    """E = 1/2 |x|^2 on the whole line, from 4 with a step of 3: 3 is too long, a quarter of it goes to 1, and the
    spectral step from there ends at 0; the other row starts at 0 and is asked once more."""
    asked: list[int] = []

    def bowl(x: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(x))
        return 0.5 * (x**2).sum(axis=1), x.copy()

    none = np.zeros((2, 0), dtype=np.int64)
    x, value, slope = glide(bowl, lambda y, _: y, np.array([[4.0], [0.0]]), none, 3.0, 1e-12, 10)
    assert x == pytest.approx(np.zeros((2, 1)), abs=1e-12)
    assert value == pytest.approx(np.zeros(2), abs=1e-12)
    assert slope == pytest.approx(np.zeros((2, 1)), abs=1e-12)
    assert asked[:3] == [2, 2, 1]


@pytest.mark.parametrize("name", ["at most", "5/10/40", "by land"])
def test_what_is_projected_is_on_the_region(name: str) -> None:
    slices, region = slices_of(name, Variance()), region_of(BASE & RULES[name][0], context(0))
    far = 3.0 * points(20) - 0.1
    hessian = torch.eye(N, dtype=F64)
    on = OnSlices(Variance().bind(context(0)), region, points(4), 1.0, hessian, 0.1, slices, region)
    assert float(region_residual(on.project(far), region).max()) < 1e-8
