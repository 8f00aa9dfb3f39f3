"""The parts of the pattern engine: slices, moves over patterns, chains that stay on the region."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region, region_residual
from portfolio_ebm.constraints.projections import project_polyhedron
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.chains import Sliced, random_portfolios, run_chains, starts, survey
from portfolio_ebm.construction.patterns import Choice, Search, transfer_scores, unpack, walk
from portfolio_ebm.construction.slices import Mask, Slices, curvature_matrix, may_be_met, solve_slices
from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.anneal import anneal
from portfolio_ebm.samplers.kernel import evaluate
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Constant, Geometric

N = 7
# The group holds 0.7 of what is held and may hold 0.45: no turnover below 0.5 gets there.
CAPS = [(None, False), (0.3, False), (0.9, False), (None, True), (0.6, True), (0.9, True)]
HELD = torch.tensor([0.4, 0.0, 0.3, 0.0, 0.0, 0.3, 0.0], dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def region(*, turnover: float | None = 0.9, at_most: int | None = 4, group: bool = False, floor: float = 0.1) -> Region:
    found = Region.free(N).with_box(0.0, 0.5).with_row(torch.ones(N, dtype=torch.float64), 1.0, 1.0, "Budget()")
    if group:
        row = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        found = found.with_row(row, 0.0, 0.45, "Group()")
    anchor = None if turnover is None else HELD
    return replace(found, at_most=at_most, min_weight=floor, anchor=anchor, turnover=turnover)


def quadratic(seed: int = 0) -> tuple[Tensor, Tensor]:
    root = torch.randn(N, N, generator=rng(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(N, dtype=torch.float64), torch.randn(
        N, generator=rng(seed + 1), dtype=torch.float64
    )


def bound(seed: int = 0) -> Bound:
    matrix, linear = quadratic(seed)
    return lambda w: 0.5 * ((w @ matrix) * w).sum(-1) + w @ linear


def all_patterns(most: int = N) -> Mask:
    rows = [c for k in range(most + 1) for c in itertools.combinations(range(N), k)]
    found = np.zeros((len(rows), N), dtype=bool)
    for row, names in enumerate(rows):
        found[row, list(names)] = True
    return found


@pytest.mark.parametrize(("turnover", "group"), CAPS)
def test_the_program_on_a_slice_is_its_minimum(group: bool, turnover: float | None) -> None:
    """Optimality: no projected gradient step moves it; and it is empty exactly where no projection exists."""
    whole = region(turnover=turnover, group=group)
    slices = Slices.of(whole)
    matrix, linear = quadratic()
    empty = 0
    for pattern in all_patterns(5):
        r = whole.on(torch.tensor(pattern))
        bounds = (r.lower, r.upper, r.rows, r.row_lower, r.row_upper, r.anchor, r.turnover)
        found = slices.minimum(pattern, matrix.numpy(), linear.numpy())
        if found is None:
            empty += 1
            assert float(project_polyhedron(HELD.unsqueeze(0), *bounds)[1]) > 1e-9
            continue
        w = torch.tensor(found)
        assert float(region_residual(w, replace(r, turnover=whole.turnover))) < 1e-9
        moved, left = project_polyhedron(w - 0.05 * (matrix @ w + linear), *bounds)
        assert float(left) < 1e-9
        assert torch.allclose(moved, w, atol=1e-8)
    assert 0 < empty < len(all_patterns(5))


@pytest.mark.parametrize("turnover", [None, 0.3, 0.9])
def test_the_quick_test_is_exact_where_the_budget_is_the_only_row(turnover: float | None) -> None:
    whole = region(turnover=turnover)
    slices = Slices.of(whole)
    patterns = all_patterns()
    quick = may_be_met(whole, torch.tensor(patterns)).numpy()
    matrix = np.eye(N)
    slow = [slices.minimum(one, matrix, np.zeros(N)) is not None for one in patterns]
    assert quick.tolist() == slow


def test_inner_values_are_minima_whatever_the_start() -> None:
    whole, value = region(), bound()
    slices = Slices.of(whole)
    patterns = all_patterns(4)[may_be_met(whole, torch.tensor(all_patterns(4))).numpy()]
    matrix, linear = quadratic()
    start = torch.rand(len(patterns), N, generator=rng(), dtype=torch.float64)
    slope = evaluate(start, value).gradient
    # A model of the curvature that is off by half costs rounds, not the answer.
    found = solve_slices(slices, value, patterns, start, slope, 1.5 * matrix.numpy(), rounds=40)
    for row, pattern in enumerate(patterns):
        exact = slices.minimum(pattern, matrix.numpy(), linear.numpy())
        assert exact is not None
        assert float(found.energy[row]) == pytest.approx(float(value(torch.tensor(exact))), abs=1e-7)


def test_curvature_of_a_quadratic_is_its_matrix() -> None:
    matrix, _ = quadratic()
    found = curvature_matrix(bound(), HELD, torch.zeros(N, dtype=torch.float64), 0.05)
    assert torch.allclose(found, matrix, atol=1e-9)


def test_curvature_asks_only_inside_the_bounds_and_is_positive() -> None:
    def entropy(w: Tensor) -> Tensor:
        assert bool((w >= 0).all())
        return (w * (w + 1e-6).log()).sum(-1)

    found = curvature_matrix(entropy, HELD, torch.zeros(N, dtype=torch.float64), 0.05)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0
    hill = curvature_matrix(lambda w: -w.square().sum(-1), HELD, torch.zeros(N, dtype=torch.float64), 0.05)
    assert float(torch.linalg.eigvalsh(hill)[0]) > 0


def test_neighbours_are_all_single_moves() -> None:
    choice = Choice.of(region(at_most=3))
    pattern = np.array([True, True, False, False, False, False, False])
    found, moves = choice.neighbours(pattern)
    assert len(found) == len(moves) == 2 * 5 + 5 + 2
    changed = (found != pattern).sum(1)
    assert set(changed.tolist()) == {1, 2}
    assert len({row.tobytes() for row in found}) == len(found)
    assert bool((found.sum(1) <= 3).all())
    full = np.array([True, True, True, False, False, False, False])
    assert bool((choice.neighbours(full)[0].sum(1) <= 3).all())


def test_forced_and_frozen_names_are_not_moved() -> None:
    base = region(at_most=3)
    lower, frozen = base.lower.clone(), base.frozen.clone()
    lower[0], frozen[1] = 0.2, True
    choice = Choice.of(replace(base, lower=lower, frozen=frozen))
    pattern = choice.of_weights(torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]))[0]
    assert pattern.tolist() == [True, False, True, False, False, False, False]
    found, _ = choice.neighbours(pattern)
    assert bool(found[:, 0].all())
    assert not found[:, 1].any()


def test_transfer_scores_are_exact_on_a_quadratic() -> None:
    matrix, linear = quadratic()
    x = HELD.numpy()
    g = (matrix @ HELD + linear).numpy()
    moves = np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 6.0]])
    found = transfer_scores(moves, x, g, matrix.numpy(), x > 0)
    value = bound()
    for (leaves, enters), score in zip(moves.astype(int), found, strict=True):
        moved = HELD.clone()
        moved[enters], moved[leaves] = moved[leaves], 0.0
        assert score == pytest.approx(float(value(moved) - value(HELD)), abs=1e-12)


def searching(candidates: int = 6, seed: int = 0) -> tuple[Search, bytes]:
    whole, (matrix, _) = region(turnover=None), quadratic(seed)
    search = Search(bound(seed), Slices.of(whole), Choice.of(whole), matrix.numpy(), candidates)
    start = (HELD > 0).numpy()
    search.evaluate(start[None], HELD.unsqueeze(0), evaluate(HELD.unsqueeze(0), bound(seed)).gradient)
    return search, start.tobytes()


@pytest.mark.parametrize("seed", range(4))
def test_cold_walkers_only_descend_and_end_where_no_move_helps(seed: int) -> None:
    search, key = searching(candidates=50, seed=seed)
    ended = walk(search, [key], Constant(0.0), 50, rng(), until_still=True)
    value = search.memo.value
    assert value[ended.keys[0]] <= value[key]
    last = unpack(ended.keys[0])
    for neighbour in search.choice.neighbours(last)[0]:
        assert value.get(neighbour.tobytes(), np.inf) >= value[ended.keys[0]]


def test_hot_walkers_go_uphill_and_patterns_are_solved_once() -> None:
    search, key = searching()
    cold = walk(search, [key] * 4, Constant(0.0), 10, rng(), until_still=True)
    hot = walk(search, list(cold.keys), Geometric(100.0, 50.0), 10, rng(), until_still=False)
    assert hot.acceptance > 0.5
    assert max(search.memo.value[k] for k in hot.keys) > search.memo.value[cold.keys[0]]
    before = dict(search.memo.weights)
    search.evaluate(np.array([unpack(k) for k in before]), torch.zeros(len(before), N), torch.zeros(len(before), N))
    assert all(search.memo.weights[k] is before[k] for k in before)


@pytest.mark.parametrize(("turnover", "group"), CAPS)
def test_chains_never_leave_the_region(turnover: float | None, group: bool) -> None:
    whole = region(turnover=turnover, group=group)
    near = project_region(HELD.unsqueeze(0), whole).weights
    x = torch.cat([near, random_portfolios(whole, HELD, 20, rng())])
    kernel = Sliced(ULA(0.05), whole)
    run = anneal(kernel, bound(), x, schedule=Constant(2.0), n_steps=25, rng=rng(), thin=1)
    assert float(region_residual(run.draws, whole).max()) < 1e-8
    patterns = {row.numpy().tobytes() for row in (run.draws.reshape(-1, N) != 0)}
    assert len(patterns) > 1 or turnover == 0.3


def test_starts_and_temperatures() -> None:
    whole = region()
    landscape = survey(bound(), whole, HELD, rng())
    x = starts(landscape, HELD, HELD, 30, rng())
    assert x.shape == (30, N)
    assert float(region_residual(x, whole).max()) < 1e-8
    assert landscape.spread > 0
    cooling = landscape.cooling()
    assert cooling.at(0, 10) == pytest.approx(1000.0 * cooling.at(9, 10))
    matrix, _ = quadratic()
    level = torch.eye(N, dtype=torch.float64) - 1.0 / N
    assert landscape.step <= 1.0 / float(torch.linalg.eigvalsh(level @ matrix @ level)[-1]) + 1e-9
    assert run_chains(landscape, x, 3, rng()).state.x.shape == (30, N)
