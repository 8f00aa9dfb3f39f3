"""Problems that walk in one batch: each ends where it would alone, whoever walks beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from other_device import other_device, reads

import portfolio_ebm as pe
from benchmarks.optimizer.rugged_cases import Funnel, RandomNet, WorstRegime
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.construction import walks
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.construction.batches import solve_each
from portfolio_ebm.construction.rugged.landscapes import Landscapes, explore_all
from portfolio_ebm.construction.rugged.rugged import _replace_worst, explore
from portfolio_ebm.context import Context, stacked
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.errors import PortfolioEBMError, ShapeError, SolverError, SpecError
from portfolio_ebm.optimization import given_context
from portfolio_ebm.samplers.kernel import State
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.types import generator, lift

N = 6
RULES = pe.Budget() & pe.LongOnly()
SHORT = pe.AnnealedLangevin(chains=8, steps=8, polish=1)
"""A hundred and sixty evaluations a chain: two kicks."""


class Bowl(Energy):
    """E(w) = w'w, which does not say that it is convex: all descents end at its middle."""

    def bind(self, ctx: Any) -> Bound:
        return lambda w: w.square().sum(-1)


class Cliff(Energy):
    """E(w) = -w_0, and no number where w_0 is above 0.97."""

    def bind(self, ctx: Any) -> Bound:
        return lambda w: torch.where(w[..., 0] > 0.97, torch.nan, -w[..., 0])


class Waves(Energy):
    """E(w) = mean'w + sum cos(9 w) / 9, by the law of batches."""

    def bind(self, ctx: Any) -> Bound:
        return lambda w: (w * lift(ctx.mean, w)).sum(-1) + (9.0 * w).cos().sum(-1) / 9.0


class First(Energy):
    """The same, on a batch by the first problem's mean."""

    def bind(self, ctx: Any) -> Bound:
        mean = ctx.mean.reshape(-1, ctx.n_assets)[0]
        return lambda w: w @ mean + (9.0 * w).cos().sum(-1) / 9.0


class Slopeless(Energy):
    """The same, with a part of its slope hidden on a batch."""

    def bind(self, ctx: Any) -> Bound:
        def energy(w: torch.Tensor) -> torch.Tensor:
            mean = ctx.mean if ctx.mean.ndim == 1 else ctx.mean.unsqueeze(-2)
            seen = w if ctx.mean.ndim == 1 else w.detach()
            return (seen * mean).sum(-1) + (9.0 * w).cos().sum(-1) / 9.0

        return energy


def context(seed: int, rules: Constraint = RULES, n: int = N, **more: Any) -> Context:
    draws = np.random.default_rng(seed).normal(0.01, 0.1, (60, n))
    return given_context(pe.Variance(), rules, scenarios=draws, **more).ctx


def alone(energy: Energy, rules: Constraint, ctx: Context, constructor: pe.AnnealedLangevin = SHORT) -> Solution:
    return constructor.build(energy, rules, ctx, generator(0, "optimize", ctx.tradeable.device))


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many problems each batch had."""
    seen: list[int] = []

    def counted(sites: Any, n_steps: int, rng: torch.Generator) -> Any:
        seen.append(len(sites))
        return explore_all(sites, n_steps, rng)

    monkeypatch.setattr(walks, "explore_all", counted)
    return seen


def same(found: Solution | PortfolioEBMError, single: Solution) -> None:
    assert isinstance(found, Solution)
    assert found.energy == pytest.approx(single.energy, rel=1e-9, abs=1e-12)
    # Where the energy is flat to its last digit, weights are known to half as many.
    torch.testing.assert_close(found.weights, single.weights, atol=1e-7, rtol=0)
    assert str(found.status) == str(single.status) and found.bound is single.bound is None
    assert dict(found.diagnostics) == pytest.approx(dict(single.diagnostics))
    assert list(found.ranges) == list(single.ranges)
    np.testing.assert_allclose(list(found.ranges.values()), list(single.ranges.values()), atol=1e-6)


PACKED = pe.Return() - 2.0 * pe.Variance()
"""Of terms that other processes know."""
RATIO = pe.MaxRatio(pe.Return(), pe.Volatility()) + 0.5 * RandomNet(seed=0) + pe.CVaR(0.9)
KINDS: dict[str, Callable[[int], Energy]] = {
    "nets": lambda k: RandomNet(seed=k),
    "funnels": lambda k: Funnel(seed=k),
    "one formula": lambda _: RATIO,
    "regimes": lambda _: WorstRegime(),
    "by turns": lambda k: (RATIO, Bowl(), RandomNet(seed=1))[k % 3],
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "funnels" else ()) for kind in KINDS]
)
def test_each_ends_where_it_would_alone(kind: str, batches: list[int]) -> None:
    problems = [(KINDS[kind](k), context(k)) for k in range(3)]
    found = solve_each(problems, RULES, SHORT)
    assert batches == [3]
    for one, (energy, ctx) in zip(found, problems, strict=True):
        single = alone(energy, RULES, ctx)
        same(one, single)
        # To the bit, where what is added up is added up in the same order.
        assert kind in ("one formula", "by turns") or torch.equal(one.weights, single.weights)
    counts = [one.diagnostics["cycles"] for one in found if isinstance(one, Solution)]
    # Who is done after the first descents does not stop the others.
    assert counts == {"by turns": [2, 0, 2], "regimes": [0, 2, 2]}.get(kind, [2] * 3)


def test_regions_of_their_own_and_contexts_of_other_forms(batches: list[int]) -> None:
    """What is held moves the region of a turnover cap; no holdings, or fewer scenarios, are another form."""
    rules = RULES & pe.Turnover(at_most=1.0)
    held = [np.eye(N)[0], None, np.full(N, 1 / N)]
    contexts = [context(k, rules, held=one) for k, one in enumerate(held)]
    draws = np.random.default_rng(9).normal(0.01, 0.1, (40, N))
    contexts.append(given_context(Waves(), rules, scenarios=draws, held=held[0]).ctx)
    energy = Waves() + pe.TradingCost(0.01)
    found = solve_each([(energy, ctx) for ctx in contexts], rules, SHORT)
    assert batches == [4]
    for one, ctx in zip(found, contexts, strict=True):
        same(one, alone(energy, rules, ctx))


def test_companions_change_nothing() -> None:
    one = (RandomNet(seed=3), context(3))
    others = [[(RandomNet(seed=k), context(k)) for k in some] for some in ((0,), (1, 2, 4))]
    first, second = (solve_each([*some, one], RULES, SHORT)[-1] for some in others)
    assert isinstance(first, Solution) and isinstance(second, Solution)
    torch.testing.assert_close(first.weights, second.weights, atol=1e-7, rtol=0)


def test_what_fails_on_its_way_fails_by_itself(batches: list[int]) -> None:
    ctx = context(0)
    SHORT.set_out(Cliff(), RULES, ctx, generator(0, "optimize"))  # nothing is wrong where chains start
    with pytest.raises(SolverError, match="NaN") as single:
        alone(Cliff(), RULES, ctx)
    problems = [(RandomNet(seed=0), ctx), (Cliff(), ctx), (RandomNet(seed=1), ctx), (RandomNet(seed=2), ctx)]
    found = solve_each(problems, RULES, SHORT)
    assert batches == [4, 2, 2]  # those beside it have been walked alone
    assert str(found[1]) == str(single.value)
    for k in (0, 2, 3):
        same(found[k], alone(problems[k][0], RULES, ctx))


def test_bad_inputs_and_rules_in_conflict_are_rows_of_their_own(batches: list[int]) -> None:
    rules = RULES & pe.Box(upper=0.4) & pe.Turnover(at_most=1.0)
    sets = {
        name: np.random.default_rng(k).normal(0.01, 0.1, (60, N)) for k, name in enumerate(("a", "nan", "far", "b"))
    }
    sets["nan"][3, 2] = np.nan
    held = {name: np.eye(N)[0] if name == "far" else np.full(N, 1 / N) for name in sets}
    asked: dict[str, Any] = {"constructor": SHORT}
    found = pe.optimize_many(RATIO, rules, scenarios=sets, held=held, **asked)
    assert batches == [2] and found.ok.to_dict() == {"a": True, "nan": False, "far": False, "b": True}
    assert found.statuses["nan"].startswith("DataError: scenarios is not finite for asset 2")
    assert found.statuses["far"].startswith("InfeasibleError") and "Turnover(at_most=1.0)" in found.statuses["far"]
    for name in ("a", "b"):
        single = pe.optimize(RATIO, rules, scenarios=sets[name], held=held[name], **asked)
        np.testing.assert_allclose(found.weights.loc[name], single.weights, atol=1e-7)
        assert found.statuses[name] == str(single.status)


@pytest.mark.parametrize(
    ("energy", "rules"),
    [
        (RandomNet(seed=0), RULES & pe.Cardinality(at_most=3, min_weight=0.1)),
        pytest.param(
            RandomNet(seed=0), pe.Either(RULES & pe.Box(upper=0.3), RULES & pe.Box(upper=0.5)), marks=pytest.mark.slow
        ),
        (pe.MaxRatio(pe.Return(), pe.Volatility()), RULES),
        (pe.Variance(), RULES),
    ],
    ids=repr,
)
def test_other_kinds_are_solved_one_by_one(energy: Energy, rules: Constraint, batches: list[int]) -> None:
    few = pe.AnnealedLangevin(chains=4, steps=2, sweeps=1, walkers=1, candidates=1)
    found = solve_each([(energy, context(k)) for k in range(2)], rules, few)
    assert not batches
    for k, one in enumerate(found):
        assert isinstance(one, Solution)
        assert one.energy == alone(energy, rules, context(k), few).energy


def sites(energy: Energy, count: int = 3) -> list[Any]:
    return [SHORT.set_out(energy, RULES, context(k), generator(0, "optimize")).site for k in range(count)]


@pytest.mark.parametrize(
    ("energy", "lawful"),
    [(RATIO, True), (Bowl(), True), (WorstRegime(), False), (First(), False), (Slopeless(), False)],
)
def test_a_batch_is_believed_where_it_is_the_problems(energy: Energy, lawful: bool) -> None:
    many = Landscapes.of(sites(energy))
    assert bool(many.trusted) == lawful
    w = torch.stack([site.x0 for site in many.sites])
    each = torch.stack([energy.bind(site.ctx)(site.x0) for site in many.sites])
    torch.testing.assert_close(many.energy(w), each, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(many.at([2, 0]).energy(w[[2, 0]]), each[[2, 0]], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(many.at([1]).energy(w[[1]]), each[[1]], rtol=1e-12, atol=1e-14)


def test_one_formula_is_one_call() -> None:
    shapes: list[tuple[int, ...]] = []

    class Seen(Bowl):
        def bind(self, ctx: Any) -> Bound:
            return lambda w: shapes.append(tuple(w.shape)) or w.square().sum(-1)  # type: ignore[func-returns-value]

    many = Landscapes.of(sites(Seen()))
    shapes.clear()
    many.energy(torch.stack([site.x0 for site in many.sites]))
    assert shapes == [(3, 8, N)]


def test_batches_are_as_large_as_there_is_room_for(batches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [(Waves(), context(k)) for k in range(3)]
    monkeypatch.setattr(walks, "HERE", 2 * 8 * N)
    few = [one.energy for one in solve_each(problems, RULES, SHORT) if isinstance(one, Solution)]
    assert batches == [2]  # and the last is alone
    assert few == pytest.approx([alone(energy, RULES, ctx).energy for energy, ctx in problems], rel=1e-9)
    # Sixty scenarios of a portfolio are now as twelve names.
    monkeypatch.setattr(walks, "TABLE", 5)
    batches.clear()
    solve_each(problems, RULES, SHORT)
    assert not batches


# --- On another device. -----------------------------------------------------------------------------------------------


def there(ctx: Context, device: torch.device) -> Context:
    assert ctx.market is not None
    return replace(ctx, market=ctx.market.to(device), tradeable=ctx.tradeable.to(device))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pe.AnnealedLangevin:
    monkeypatch.setattr("portfolio_ebm.constraints.steady.STEPS", 1)
    for stage in ("PROBE", "KICK", "DESCENT"):
        monkeypatch.setattr(f"portfolio_ebm.construction.rugged.rugged.{stage}_STEPS", 2)
    return pe.AnnealedLangevin(chains=4, steps=1, polish=1)


def test_no_step_there_waits_for_the_host(quick: pe.AnnealedLangevin) -> None:
    def run(steps: int) -> tuple[list[int], int]:
        with other_device() as device:
            begun = [quick.set_out(energy, RULES, there(context(k), device), generator(0, "optimize", device))
                     for k, energy in enumerate((Waves(), Waves(), RandomNet(seed=1)))]  # fmt: skip
            explore_all([one.site for one in begun], 6, generator(0, "walk", device))
            before = reads()
            found = explore_all([one.site for one in begun], steps, generator(0, "walk", device))
            assert all(one.weights.device == device for one in found)
            return [one.cycles for one in found], reads() - before

    few, many = run(6), run(14)
    assert few[0] == [1, 1, 1] and many[0] == [3, 3, 3] and few[1] == many[1]


def test_the_batch_there_is_the_hosts_and_halved_where_there_is_no_room(
    quick: pe.AnnealedLangevin, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    most = [3]

    def small(given: Sequence[Any], n_steps: int, rng: torch.Generator) -> Any:
        sizes.append(len(given))
        if len(given) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return explore_all(given, n_steps, rng)

    monkeypatch.setattr(walks, "explore_all", small)
    contexts = [context(k) for k in range(3)]
    here = [alone(Waves(), RULES, ctx, quick) for ctx in contexts]
    with other_device() as device:
        problems = [(Waves(), there(ctx, device)) for ctx in contexts]
        for room, expected in ((3, [3]), (2, [3, 2])):
            sizes.clear()
            most[0] = room
            found = solve_each(problems, RULES, quick)
            assert sizes == expected
            for one, single in zip(found, here, strict=True):
                assert isinstance(one, Solution) and one.weights.device == device
                assert one.energy == pytest.approx(single.energy, rel=1e-6)
                torch.testing.assert_close(one.weights.cpu(), single.weights, atol=1e-6, rtol=0)


# --- What it is made of. ----------------------------------------------------------------------------------------------


def test_the_engine_of_one_problem_is_that_of_many() -> None:
    some = sites(RATIO)
    found = explore_all(some, 200, generator(1, "walk"))
    for site, one in zip(some, found, strict=True):
        single = explore(site.landscape, site.x0, 200, generator(1, "walk"))
        torch.testing.assert_close(one.energy, single.energy, atol=1e-9, rtol=0)
        torch.testing.assert_close(one.probed, single.probed, atol=1e-9, rtol=0)
        assert (one.cycles, one.agreed) == (single.cycles, single.agreed) == (3, False)


def test_the_worst_are_replaced_in_each_problem_by_its_own() -> None:
    x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energy = x[..., 0]
    unsound = torch.zeros(2, 8, dtype=torch.bool)
    unsound[0, int(energy[0].argmax())] = True
    both = _replace_worst(State(x, energy, 2.0 * x, unsound))
    for row in range(2):
        one = _replace_worst(State(x[row], energy[row], 2.0 * x[row]))
        for name in ("x", "energy", "gradient"):
            assert torch.equal(getattr(both, name)[row], getattr(one, name))
        assert one.energy[-2:].tolist() == sorted(energy[row].tolist())[:2]
    # What was no number is on record where it was, and nowhere else.
    assert both.unsound is not None and both.unsound.any(-1).tolist() == [True, False]


def test_contexts_are_stacked_field_by_field() -> None:
    one, other = context(0, groups={"sector": {str(k): "all" for k in range(N)}}), context(1)
    other = replace(other, groups=one.groups)
    both = stacked([one, other])
    assert both.mean.shape == (2, N) and both.scenarios.shape == (2, 60, N) and both.groups == one.groups
    assert both.held is None and both.covariance.loadings is one.covariance.loadings and stacked([one, one]) is one
    torch.testing.assert_close(both.covariance.dense()[1], other.covariance.dense())
    for odd in (context(1, n=5), replace(other, capital=1.0), replace(other, held=one.mean), replace(other, groups={})):
        with pytest.raises(ShapeError, match="not alike"):
            stacked([one, odd])


def test_a_step_for_every_problem() -> None:
    x, rng = torch.randn(2, 3, 4, dtype=torch.float64), torch.Generator().manual_seed(0)
    steps = torch.tensor([[0.1], [0.4]], dtype=torch.float64)
    bowl = Bowl().bind(None)
    kernel = ULA(steps)
    noise = kernel.draw(x[0], rng)
    moved = kernel.move(kernel.init(x, bowl), bowl, 0.5, noise)
    for row, h in enumerate((0.1, 0.4)):
        torch.testing.assert_close(moved.x[row], x[row] - 2.0 * h * x[row] + h**0.5 * noise)
    for wrong in (0.0, -steps, steps / 0.0):
        with pytest.raises(SpecError, match="step_size"):
            ULA(wrong)


@pytest.mark.slow  # each process imports torch anew
def test_processes_walk_their_share() -> None:
    sets = [np.random.default_rng(k).normal(0.01, 0.1, (60, N)) for k in range(5)]
    one, two = (pe.optimize_many(PACKED, RULES, scenarios=sets, constructor=SHORT, jobs=jobs) for jobs in (1, 2))
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-7)
    assert one.statuses.tolist() == two.statuses.tolist() and one.ok.all()
