"""Walks over modes in one batch: their slices are the exact ones, their ends the optimum of enumeration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from other_device import other_device, reads
from test_mixed import mixed, optimum

import portfolio_ebm as pe
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice
from portfolio_ebm.constraints.mixed.programs.alternating import Family
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.walkers import STEPS, Tables, Walks, fits, shape
from portfolio_ebm.construction import together
from portfolio_ebm.construction.choosing import beside, choosing
from portfolio_ebm.construction.choosing.beside import Start, walked_beside
from portfolio_ebm.errors import ShapeError
from portfolio_ebm.optimization import given_context

HOST = torch.device("cpu")
NAMED = ("at most", "exactly", "at least", "short", "fixed cost")
MANY = pytest.mark.slow
HELD = np.array([0.3, 0.3, 0.2, 0.2, 0.0, 0.0, 0.0])
TRADES: dict[str, dict[str, Any]] = {
    "free": {},
    "rate": {"held": HELD, "rate": 3e-4},
    "turnover": {"held": HELD, "turnover": 1.3},
    "both": {"held": HELD, "rate": np.linspace(1e-4, 5e-4, 7), "turnover": 1.5},
}


def dealt(case: str, seed: int, trade: str = "free") -> Mixed:
    m = mixed(case, seed)
    return replace(m, program=replace(m.program, **TRADES[trade]))


def root(m: Mixed) -> np.ndarray:
    found = m.root()
    assert found is not None
    return found


def starts(m: Mixed, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.dirichlet(np.ones(m.program.n), count)
    return [rounded(m.choices, root(m), m.choices.weights(w)) for w in x]


def walked(problems: list[Mixed], count: int, heats: np.ndarray, seed: int = 0) -> Walks:
    tables = Tables.of([(m, root(m)) for m in problems], HOST)
    modes = np.array([starts(m, count, seed) for m in problems])
    near = np.full((len(problems), problems[0].program.n), 1.0 / problems[0].program.n)
    return tables.annealed(modes, near, heats, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("case", "trade"),
    [("at most", "free"), ("at most", "turnover"), ("short", "rate"), ("short", "both"),
     *(pytest.param("at most", trade, marks=MANY) for trade in ("rate", "both")),
     *(pytest.param("short", trade, marks=MANY) for trade in ("free", "turnover"))],
)  # fmt: skip
def test_steps_come_to_the_exact_slices(case: str, trade: str) -> None:
    m, rng = dealt(case, 1, trade), np.random.default_rng(0)
    modes = np.array([[rng.choice(np.flatnonzero(row)) for row in m.choices.exists] for _ in range(60)])
    exact = [on_slice(replace(m, choices=replace(m.choices, limits=())), one) for one in modes]
    lower, upper = m.choices.lower[np.arange(7), modes], m.choices.upper[np.arange(7), modes]
    family = Family.of([m.program], HOST)
    low, high = (torch.as_tensor(end).unsqueeze(0) for end in (lower, np.minimum(upper, 0.6)))
    now = family.started(torch.full((1, 60, 7), 1 / 7, dtype=torch.float64))
    for _ in range(1000):
        now = family.step(now, low, high)
    values, z = family.value(now)[0].numpy(), now.z[0].numpy()
    assert (z >= low[0].numpy() - 1e-12).all() and (z <= high[0].numpy() + 1e-12).all()
    there = np.array([point is not None for point in exact])
    assert 5 < there.sum() < 58
    truth = np.array([point.value for point in exact if point is not None])
    np.testing.assert_allclose(values[there], truth, atol=1e-9)
    if "held" in TRADES[trade] and "turnover" in TRADES[trade]:
        assert (np.abs(z - HELD).sum(axis=1)[there] <= TRADES[trade]["turnover"] + 1e-9).all()
    # What is empty is worth more than what any portfolio is.
    assert values[~there].min() > truth.max()


@pytest.mark.parametrize("curvature", [0.0, 1e-6, 1e-3])
def test_a_few_steps_rank_slices_whatever_trades_cost(curvature: float) -> None:
    """Ten basis points for a trade of one: much more than what else moves the energy, or as much."""
    m, rng = dealt("at most", 2, "rate"), np.random.default_rng(0)
    matrix = curvature * m.program.matrix / m.program.diagonal.mean()
    p = replace(m.program, matrix=matrix, linear=np.zeros(7), rate=1e-3 * np.linspace(0.5, 1.5, 7))
    m = replace(m, program=p, choices=replace(m.choices, limits=()))
    modes = np.array([rng.permutation([1, 1, 1, 1, 0, 0, 0]) for _ in range(60)])
    truth = np.array([np.nan if (point := on_slice(m, one)) is None else point.value for one in modes])
    ends = m.choices.lower[np.arange(7), modes], np.minimum(m.choices.upper[np.arange(7), modes], p.upper)
    low, high = (torch.as_tensor(end).unsqueeze(0) for end in ends)
    family = Family.of([p], HOST)
    now = family.started(torch.full((1, 60, 7), 1 / 7, dtype=torch.float64))
    for _ in range(STEPS):
        now = family.step(now, low, high)
    there = np.isfinite(truth)
    off = np.abs(family.value(now)[0].numpy() - truth)[there]
    assert there.sum() > 30 and np.median(off) < 0.05 * truth[there].std()


def test_values_of_slices_by_hand() -> None:
    """Variances 1 and 3 without correlation: the least is 3/4 at (3/4, 1/4), 1 or 3 with one name; in hundredths."""
    ones = np.ones(1)
    p = Program(0.02 * np.diag([1.0, 3.0]), np.zeros(2), np.zeros(2), np.ones(2), np.ones((1, 2)), ones, ones)
    upper = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    family = Family.of([p], HOST)
    now = family.started(torch.full((1, 3, 2), 0.5, dtype=torch.float64))
    for _ in range(500):
        now = family.step(now, torch.zeros_like(upper), upper)
    assert family.value(now)[0].tolist() == pytest.approx([0.0075, 0.01, 0.03], rel=1e-9)
    assert now.z[0, 0].tolist() == pytest.approx([0.75, 0.25])
    # Where both are held freely their prices, the budget's with them, are zero.
    assert family.prices(now)[0, 0].tolist() == pytest.approx([0.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=MANY), pytest.param(2, marks=MANY)])
def test_walks_end_at_the_optimum_of_enumeration(case: str, seed: int) -> None:
    m, truth = mixed(case, seed), optimum(case, seed)
    heats = np.r_[np.geomspace(3e-5, 1e-7, 24), np.zeros(12)]
    found = walked([m], 16, heats[None], seed)
    modes = found.modes[0].numpy()
    for limit in m.choices.limits:
        counted = limit.holds(modes).sum(axis=-1)
        assert ((counted >= limit.least) & (counted <= limit.most)).all()
    ends = [on_slice(m, one) for one in modes]
    best = min(point.value for point in ends if point is not None)
    assert best == pytest.approx(truth, rel=1e-9)
    # What the walk thinks of its ends is nearly what they are worth.
    assert float(found.values.min()) == pytest.approx(truth, abs=2e-6)


def test_an_energy_without_curvature_is_walked_too() -> None:
    """The most return of exactly two of six names, at most 0.7 in each: the two that return most."""
    gain, ones = np.array([0.01, 0.03, 0.02, 0.06, 0.05, 0.04]), np.ones(1)
    p = Program(np.zeros((6, 6)), -gain, np.zeros(6), np.full(6, 0.7), np.ones((1, 6)), ones, ones)
    m = Mixed(p, Choices.of_names(np.arange(6), [(0.0, 0.0), (0.1, 1.0)], [(1, 2, 2, False)], "Cardinality"))
    tables, start = Tables.of([(m, root(m))], HOST), np.array([[[1, 0, 1, 0, 0, 0]]])
    found = tables.annealed(start, np.full((1, 6), 1 / 6), np.zeros((1, 12)), torch.Generator().manual_seed(0))
    assert found.modes.tolist() == [[[0, 0, 0, 1, 1, 0]]]
    point = on_slice(m, found.modes[0, 0].numpy())
    assert point is not None and point.value == pytest.approx(-(0.7 * 0.06 + 0.3 * 0.05))


def test_problems_walk_together_as_they_do_alone() -> None:
    problems = [dealt("at most", seed, "rate") for seed in range(3)]
    assert len({shape(m) for m in problems}) == 1
    cold = np.zeros((3, 10))
    both = walked(problems, 4, cold)
    for place, m in enumerate(problems):
        alone = walked([m], 4, cold[:1])
        assert torch.equal(alone.modes[0], both.modes[place])
        torch.testing.assert_close(alone.values[0], both.values[place], rtol=1e-9, atol=0)


def test_modes_that_are_closed_stay_so() -> None:
    m, hot = mixed("at most", 0), np.full((1, 20), 1e-2)
    start, near = np.tile([0, 0, 0, 1, 1, 1, 0], (1, 8, 1)), np.full((1, 7), 1 / 7)
    allowed = root(m).copy()

    def ends() -> np.ndarray:
        tables = Tables.of([(m, allowed)], HOST)
        # What a chain ends on is its best: so much noise that the best are many.
        found = tables.annealed(start, near, hot, torch.Generator().manual_seed(0))
        assert bool(found.values.isfinite().all())
        return found.modes[0].numpy()

    free = ends()
    taken = int(np.flatnonzero(free[:, [0, 1, 2, 6]].any(axis=0))[0])
    enters, leaves = [0, 1, 2, 6][taken], int(np.flatnonzero(~free[:, [3, 4, 5]].all(axis=0))[0]) + 3
    allowed[enters, 1], allowed[leaves, 0] = False, False
    shut = ends()
    assert (shut[:, enters] == 0).all() and (shut[:, leaves] == 1).all()


def test_heat_leads_over_a_wall_that_descent_does_not() -> None:
    """Two of four names: 0 and 1 hedge each other, as do 2 and 3, a little better; every exchange is worse."""
    matrix = np.array([[1.0, -0.9, 0, 0], [-0.9, 1.0, 0, 0], [0, 0, 0.9, -0.81], [0, 0, -0.81, 0.9]])
    one, two = np.ones((1, 4)), [(0.0, 0.0), (0.1, 1.0)]
    p = Program(2 * matrix, np.zeros(4), np.zeros(4), np.ones(4), one, np.ones(1), np.ones(1))
    m = Mixed(p, Choices.of_names(np.arange(4), two, [(1, 2, 2, False)], "Cardinality"))
    tables, start = Tables.of([(m, root(m))], HOST), np.tile([1, 1, 0, 0], (1, 16, 1))

    def ends(heats: np.ndarray) -> set[tuple[int, ...]]:
        found = tables.annealed(start, np.full((1, 4), 0.25), heats[None], torch.Generator().manual_seed(0))
        return {tuple(row) for row in found.modes[0].tolist()}

    assert ends(np.zeros(20)) == {(1, 1, 0, 0)}
    assert (0, 0, 1, 1) in ends(np.r_[np.full(20, 0.5), np.zeros(5)])


@pytest.mark.parametrize("case", ["5/10/40", "issuers", "both"])
def test_other_choices_are_left_to_the_host(case: str) -> None:
    assert not fits(mixed(case, 0)) and fits(mixed("at most", 0))


def test_problems_of_other_shapes_are_walked_in_batches_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inner = beside._together

    def counted(asked: Any, sweeps: int, rng: torch.Generator) -> Any:
        sizes.append(len(asked))
        return inner(asked, sweeps, rng)

    monkeypatch.setattr(beside, "_together", counted)
    problems = [mixed("at most", 0), mixed("at most", 1, 6), mixed("at most", 2), mixed("at most", 3)]
    asked = [(Search(m, root(m)), Start(starts(m, 6 + k), np.full(m.program.n, 1 / m.program.n), 1e-5))
             for k, m in enumerate(problems)]  # fmt: skip
    whole = walked_beside(asked, 2, torch.Generator().manual_seed(0))
    assert sorted(sizes) == [1, 3]
    for (search, _), ends, m in zip(asked, whole, problems, strict=True):
        assert ends and all(len(one) == m.program.n for one in ends)
        assert len({one.tobytes() for one in ends}) == len(ends)
        assert any(search.solve(one) is not None for one in ends)
    # Where there is room for few, batches are smaller.
    sizes.clear()
    monkeypatch.setattr(beside, "ENTRIES", 2 * 7 * 9 * 9)
    walked_beside(asked, 1, torch.Generator().manual_seed(0))
    assert sorted(sizes) == [1, 1, 2]


def test_a_batch_that_the_device_has_no_room_for_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, sizes = beside._together, []

    def small(asked: Any, sweeps: int, rng: torch.Generator) -> Any:
        sizes.append(len(asked))
        if len(asked) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(asked, sweeps, rng)

    monkeypatch.setattr(beside, "_together", small)
    problems = [mixed("at most", seed) for seed in range(3)]
    asked = [(Search(m, root(m)), Start(starts(m, 4), np.full(7, 1 / 7), 1e-5)) for m in problems]
    room = 1
    found = walked_beside(asked, 1, torch.Generator().manual_seed(0))
    assert sizes == [3, 1, 2, 1, 1] and all(found)
    room = 0
    assert walked_beside(asked, 1, torch.Generator().manual_seed(0)) == [[], [], []]


def test_the_host_waits_for_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.walkers.STEPS", 2)
    m = dealt("at most", 0, "both")

    def run(steps: int) -> int:
        with other_device() as device:
            tables = Tables.of([(m, root(m))], device)
            rng, near = torch.Generator(device).manual_seed(0), np.full((1, 7), 1 / 7)
            before = reads()
            found = tables.annealed(np.array([starts(m, 3)]), near, np.full((1, steps), 1e-5), rng)
            assert found.modes.device == device
            return reads() - before

    assert run(1) == run(3) == 0


# --- The optimizer on another device. ---------------------------------------------------------------------------------

N = 12
RULES = pe.Budget() & pe.LongOnly() & pe.Cardinality(at_most=4, min_weight=0.05)
SHORT = pe.AnnealedLangevin(chains=6, sweeps=1, nodes=2)


def covariance(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    loads = torch.randn(N, 4, generator=g, dtype=torch.float64)
    return 1e-4 * (loads @ loads.T + torch.diag(0.2 + torch.rand(N, generator=g, dtype=torch.float64)))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many problems each call walked."""
    seen: list[int] = []
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.walkers.STEPS", 6)

    def counted(asked: Any, sweeps: int, rng: torch.Generator) -> Any:
        seen.append(len(asked))
        return walked_beside(asked, sweeps, rng)

    for module in (choosing, together):
        monkeypatch.setattr(module, "walked_beside", counted)
    return seen


def test_what_a_look_leaves_open_is_walked_there(walks: list[int]) -> None:
    proven = pe.optimize(pe.Variance(), RULES, covariance=covariance(0))
    assert proven.proven and not walks
    with other_device() as device:
        there = pe.optimize(pe.Variance(), RULES, covariance=covariance(0).to(device), constructor=SHORT)
        assert walks == [1]
        assert there.energy == pytest.approx(proven.energy, rel=1e-9)
        assert "1 annealed sweep" in str(there.status) and there.bound is not None and there.bound <= proven.energy
        # Neither where all is proven at once, nor where no walk was asked for.
        pe.optimize(pe.Variance(), RULES, covariance=covariance(0).to(device))
        still = SHORT.model_copy(update={"sweeps": 0})
        pe.optimize(pe.Variance(), RULES, covariance=covariance(0).to(device), constructor=still)
    assert walks == [1]


def test_many_problems_are_walked_in_one_batch(walks: list[int]) -> None:
    worlds = [covariance(seed) for seed in range(4)]
    truth = [pe.optimize(pe.Variance(), RULES, covariance=one) for one in worlds]
    assert all(one.proven for one in truth)
    with other_device() as device:
        there = [one.to(device) for one in worlds]
        found = pe.optimize_many(pe.Variance(), RULES, covariance=there, constructor=SHORT)
        assert walks == [4]
        np.testing.assert_allclose(found.energies, [one.energy for one in truth], rtol=1e-9)
        assert (found.bounds <= found.energies + 1e-15).all() and found.ok.all()
        # What a look proves is walked nowhere.
        walks.clear()
        proven = pe.optimize_many(pe.Variance(), RULES, covariance=there, constructor=pe.AnnealedLangevin())
        assert sum(walks) == 0 and proven.proven.all()
        np.testing.assert_allclose(proven.energies, [one.energy for one in truth], rtol=1e-9)


def test_a_problem_that_cannot_be_solved_spoils_no_other_there(walks: list[int]) -> None:
    rules = RULES & pe.Turnover(0.4)
    held = [np.eye(N)[0], np.full(N, 1 / N), np.eye(N)[1] * 0.5 + np.eye(N)[2] * 0.5]
    here = pe.optimize_many(pe.Variance(), rules, covariance=covariance(1), held=held)
    # Twelve names to four is more than may be traded.
    assert here.ok.tolist() == [True, False, True]
    with other_device() as device:
        there = pe.optimize_many(
            pe.Variance(), rules, covariance=covariance(1).to(device), held=[torch.as_tensor(x) for x in held],
            constructor=SHORT,
        )  # fmt: skip
    assert there.ok.tolist() == [True, False, True] and there.statuses[1] == here.statuses[1]
    np.testing.assert_allclose(there.energies, here.energies, rtol=1e-9)


def test_a_look_hands_over_a_proof_or_where_chains_set_out() -> None:
    """And nothing that is drawn at a look: on its way to another process that would be one."""
    ctx = given_context(pe.Variance(), RULES, covariance=covariance(0)).ctx
    left, start = together._glanced(SHORT, pe.Variance(), RULES, ctx, 0)
    assert left is None and start is not None
    search, out = start
    assert out.spread > 0.0 and all(search.solve(modes) is not None for modes in out.modes)
    proven, nowhere = together._glanced(pe.AnnealedLangevin(), pe.Variance(), RULES, ctx, 0)
    assert nowhere is None and proven is not None and proven.proven
    assert proven.marginal is None and proven.walkers is None and not proven.ablation


def test_where_walks_have_ended_is_weights_of_these_names() -> None:
    """One portfolio is as good as a table of one, and its names are looked at first; of other names there are none."""
    ctx, rng = given_context(pe.Variance(), RULES, covariance=covariance(0)).ctx, torch.Generator()
    best = pe.optimize(pe.Variance(), RULES, covariance=covariance(0))
    assert best.proven
    near = torch.as_tensor(best.weights)
    few = pe.AnnealedLangevin(chains=1, sweeps=1, nodes=1)
    for one in (near, near.unsqueeze(0)):
        assert few.build(pe.Variance(), RULES, ctx, rng, one).energy == pytest.approx(best.energy, rel=1e-12)
    with pytest.raises(ShapeError, match=r"got shape \(2, 13\), expected \(\.\.\., 12\)"):
        few.build(pe.Variance(), RULES, ctx, rng, torch.ones(2, N + 1))


@pytest.mark.parametrize("still", [{"swaps": False}, {"sweeps": 0}])
def test_nobody_looks_where_no_chain_is_to_walk(still: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = given_context(pe.Variance(), RULES, covariance=covariance(0)).ctx
    monkeypatch.setattr(together, "_glanced", None)
    looks = together.looked_at([(pe.Variance(), ctx)] * 2, RULES, SHORT.model_copy(update=still), 0, 1)
    assert looks == [(None, None)] * 2


def test_chains_that_set_out_from_one_portfolio_alone_have_a_temperature() -> None:
    """Where all roundings are empty there is one portfolio and no spread: a temperature of nothing, and not of NaN."""
    names, loads = tuple("abcd"), np.array([[-1.0, 3.0, 0.0, -3.0], [2.0, 2.0, 2.0, -2.0]])
    # b and d hedge each other, and roundings take them; but together they are at most 0.6 of 1.
    rules = pe.Budget() & pe.Box(upper=0.7) & pe.Cardinality(at_most=2) & pe.Group("side", label="right", upper=0.6)
    sides = {"side": dict(zip(names, ("left", "right", "left", "right"), strict=True))}
    energy, matrix = pe.Variance() + pe.FixedCost(rate=1e-5), 1e-4 * (loads.T @ loads + np.eye(4))
    ctx = given_context(energy, rules, covariance=matrix, held=np.full(4, 0.25), assets=names, groups=sides).ctx
    _, start = together._glanced(SHORT, energy, rules, ctx, 0)
    assert start is not None and len(start[1].modes) == 1 and start[1].spread == 0.0
