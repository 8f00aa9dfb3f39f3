"""AnnealedLangevin: against enumeration, by its own laws, and at the edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction import annealed
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import minimize, solve
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook

ORLIB = Path(__file__).resolve().parents[2] / "shared" / "data" / "orlib"
QUADRATIC = Return() + 2.5 * Variance()
TAILED = Return() + FactorRisk(5.0) + 0.5 * CVaR(0.9, centred=True) + TradingCost(5e-4)
LONG = Budget() & LongOnly()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def context(n: int, seed: int = 0, *, held: list[float] | None = None, tradeable: list[bool] | None = None) -> Context:
    """A market of two factors and n residuals with fat tails, drawn from `seed`."""
    g = rng(seed)
    loadings = torch.cat([1.0 + 0.4 * torch.randn(n, 1, generator=g), torch.randn(n, 1, generator=g)], 1).double()
    deviation = torch.cat([torch.tensor([0.05, 0.02]), 0.03 + 0.06 * torch.rand(n, generator=g)]).double()
    mean = (0.01 * torch.rand(n, generator=g)).double()
    exposures = torch.cat([loadings, torch.eye(n, dtype=torch.float64)], 1)
    parts = torch.randn(120, n + 2, generator=g).double() * deviation
    parts = parts / (0.5 + torch.rand(120, 1, generator=g).double()).sqrt()
    nodes = torch.linspace(-6.0, 6.0, 41, dtype=torch.float64)
    mass = torch.log_softmax(-3.0 * torch.log1p(nodes.square() / 5.0), -1).expand(n + 2, -1)
    table = Marginals(tuple(map(str, range(n + 2))), exposures, deviation.unsqueeze(1) * nodes, mass, 6.0)
    covariance = Structured(loadings, torch.diag(deviation[:2] ** 2), deviation[2:] ** 2)
    return Context(
        assets=tuple(f"A{i}" for i in range(n)),
        market=Outlook(mean, covariance, mean + parts @ exposures.T, table, 21.0),
        held=None if held is None else torch.tensor(held, dtype=torch.float64),
        tradeable=torch.tensor(tradeable or [True] * n),
        groups={"side": tuple("left" if i % 2 else "right" for i in range(n))},
    )


def enumerated(energy: Energy, constraint: Constraint, ctx: Context) -> float:
    """The least energy over every pattern, each solved by the convex solver."""
    region = region_of(constraint, ctx)
    formula = take_apart(energy, ctx)
    free = [i for i in range(region.n) if not bool(region.frozen[i])]
    most = min(region.at_most if region.at_most is not None else len(free), len(free))
    best = math.inf
    for count in range(most + 1):
        for names in itertools.combinations(free, count):
            pattern = torch.zeros(region.n, dtype=torch.bool)
            pattern[list(names)] = True
            try:
                best = min(best, solve(formula, region.on(pattern)).value)
            except InfeasibleError:
                continue
    return best


def check(solution: Any, constraint: Constraint, ctx: Context) -> None:
    """Feasible by every rule and by hand, the bound below, the energy told as it is."""
    w = solution.weights
    assert all(residual <= 1e-9 for residual in solution.residuals.values()), solution.residuals
    region = region_of(constraint, ctx)
    held = (w != 0.0) & ~region.frozen
    if region.at_most is not None:
        assert int(held.sum()) <= region.at_most
    assert bool((w[held] >= region.min_weight - 1e-9).all())
    if solution.bound is not None:
        assert solution.bound <= solution.energy


HELD = [0.3, 0.0, 0.25, 0.0, 0.2, 0.25]
RULES: dict[str, tuple[Constraint, list[float] | None]] = {
    "plain": (LONG & Cardinality(3), None),
    "floor": (LONG & Cardinality(4, min_weight=0.15) & Box(upper=0.4), None),
    "floor alone": (LONG & Cardinality(6, min_weight=0.08), None),
    "group": (LONG & Cardinality(3, min_weight=0.1) & Group("side", "left", upper=0.4), None),
    "turnover": (LONG & Cardinality(4, min_weight=0.1) & Box(upper=0.5) & Turnover(0.7), HELD),
    "tight turnover": (LONG & Cardinality(4, min_weight=0.05) & Turnover(0.1), HELD),
    "cash": (Budget(1.0, at_least=0.5) & LongOnly() & Cardinality(3, min_weight=0.1), None),
}


@pytest.mark.parametrize(
    ("energy", "name"),
    [*((QUADRATIC, name) for name in RULES), (TAILED, "group"), (TAILED, "turnover"),
     *(pytest.param(TAILED, name, marks=pytest.mark.slow) for name in RULES if name not in ("group", "turnover"))],
)  # fmt: skip
def test_small_problems_equal_enumeration(energy: Energy, name: str) -> None:
    constraint, held = RULES[name]
    ctx = context(6, seed=len(name), held=held)
    found = AnnealedLangevin(chains=16, steps=10).build(energy, constraint, ctx, rng())
    check(found, constraint, ctx)
    assert found.energy == pytest.approx(enumerated(energy, constraint, ctx), rel=1e-7, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("energy", [QUADRATIC, TAILED], ids=["quadratic", "tailed"])
def test_more_small_problems_equal_enumeration(energy: Energy, seed: int) -> None:
    held = None if seed % 2 else [0.2, 0.0, 0.3, 0.0, 0.25, 0.0, 0.25, 0.0]
    ctx = context(8, seed=100 + seed, held=held)
    constraint = LONG & Box(upper=0.45) & Cardinality(3 + seed % 3, min_weight=0.1) & Turnover(1.2)
    found = AnnealedLangevin().build(energy, constraint, ctx, rng(seed))
    check(found, constraint, ctx)
    assert found.energy == pytest.approx(enumerated(energy, constraint, ctx), rel=1e-7, abs=1e-9)


def main_job(n: int = 20, seed: int = 0) -> tuple[Constraint, Context]:
    held = [0.125 if i % 5 < 2 else 0.0 for i in range(n)]
    rules = LONG & Box(upper=0.15) & Turnover(0.5) & Cardinality(8, min_weight=0.03)
    return rules, context(n, seed, held=held)


def test_the_record_of_a_build() -> None:
    rules, ctx = main_job()
    found = AnnealedLangevin(chains=16, steps=15).build(TAILED, rules, ctx, rng())
    check(found, rules, ctx)
    assert found.status.ok
    assert str(found.status).startswith("Pattern engine")
    assert {"rounding + polish", "chains, no swaps + polish", "final"} <= set(found.ablation)
    assert found.ablation["final"] == pytest.approx(found.energy, abs=1e-12)
    assert found.energy <= min(found.ablation.values()) + 1e-12, "no stage may beat what is handed out"
    assert found.ensemble is not None
    assert found.ensemble.ndim == 2 and found.ensemble.shape[1] == 20 and len(found.ensemble) >= 1
    for row in found.ensemble:
        assert all(float(rule.residual(row, ctx)) < 1e-7 for rule in rules.rules())
    assert not any("second" in name for name in found.diagnostics)
    assert found.diagnostics["patterns seen"] >= 1
    assert found.diagnostics["nodes"] >= 1
    assert 0.0 <= found.diagnostics["chain agreement"] <= 1.0


def test_same_seed_same_bits() -> None:
    rules, ctx = main_job()
    constructor = AnnealedLangevin(chains=8, steps=10)
    one, two = (constructor.build(TAILED, rules, ctx, rng(3)) for _ in range(2))
    assert torch.equal(one.weights, two.weights)
    assert one.ensemble is not None and two.ensemble is not None
    assert torch.equal(one.ensemble, two.ensemble)
    assert one.ablation == two.ablation
    assert one.diagnostics == two.diagnostics


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_swaps_never_hurt(seed: int) -> None:
    rules, ctx = main_job(seed=seed)
    few = AnnealedLangevin(chains=4, steps=5)
    off = few.replace(swaps=False).build(TAILED, rules, ctx, rng(seed))
    on = few.build(TAILED, rules, ctx, rng(seed))
    assert on.energy <= off.energy
    assert on.ablation["chains, no swaps + polish"] == off.ablation["chains, no swaps + polish"]
    assert "swaps off" in str(off.status)


def test_swaps_find_what_rounding_alone_does_not() -> None:
    gains = []
    for seed in range(2):
        ctx = context(30, seed)
        rules = LONG & Cardinality(5, min_weight=0.05)
        lone = AnnealedLangevin(chains=1, steps=0, nodes=0)
        on = lone.build(Variance(), rules, ctx, rng()).energy
        gains.append(lone.replace(swaps=False).build(Variance(), rules, ctx, rng()).energy / on - 1.0)
    assert min(gains) >= 0.0
    assert max(gains) > 1e-4, "the swaps made no difference on any of the instances"


def test_a_convex_problem_is_solved_outright() -> None:
    ctx = context(10, held=[0.1] * 10)
    rules = LONG & Box(upper=0.3) & Turnover(0.8)
    found = AnnealedLangevin(chains=8, steps=10).build(TAILED, rules, ctx, rng())
    best = minimize(TAILED, region_of(rules, ctx), ctx)
    assert found.energy == pytest.approx(best.value, abs=1e-12)
    assert "chains add nothing" in str(found.status)
    assert found.gap is not None and found.gap < 1e-8
    assert found.ablation["before polish"] >= found.energy - 1e-12


def test_chains_beside_an_exact_solve_run_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, run = [], annealed.run_chains
    monkeypatch.setattr(annealed, "run_chains", lambda *given: ran.append(1) or run(*given))
    ctx, alone = context(10), AnnealedLangevin(chains=4, steps=5)
    one, two = (alone.build(TAILED, LONG, ctx, rng(3)) for _ in range(2))
    assert not ran and one.gap is not None and one.gap < 1e-8
    assert one.ensemble is not None and one.ensemble.shape == (4, 10) and len(ran) == 1
    before = one.ablation["before polish"]
    assert before == two.ablation["before polish"] and len(ran) == 2, "once each, and the same whenever it is read"
    assert torch.equal(one.ensemble, two.ensemble) and len(ran) == 2

    def fails(*given: Any) -> None:
        raise SolverError("no way")

    monkeypatch.setattr(annealed, "run_chains", fails)
    three = alone.build(TAILED, LONG, ctx, rng(3))
    assert set(three.ablation.values()) == {three.energy} and torch.equal(three.ensemble, three.weights.unsqueeze(0))


def test_whole_lots_after_an_exact_solve_ask_for_no_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, run = [], annealed.run_chains
    monkeypatch.setattr(annealed, "run_chains", lambda *given: ran.append(1) or run(*given))
    ctx = replace(context(6), prices=torch.full((6,), 10.0, dtype=torch.float64), capital=1e5)
    found = AnnealedLangevin(chains=4, steps=5).build(Variance(), LONG & RoundLots(), ctx, rng(3))
    assert not ran and found.ablation["final"] == pytest.approx(found.energy, rel=1e-12)
    assert found.ablation["without whole lots"] <= min(found.energy, found.ablation["before polish"]) and len(ran) == 1


class Ripples(Energy):
    """E(w) = sum_i (w_i - 0.3)^2 - depth cos(40 w_i) / 40: many wells, for tests."""

    depth: float = 0.2

    def bind(self, ctx: Any) -> Bound:
        return lambda w: ((w - 0.3).square() - self.depth * torch.cos(40.0 * w) / 40.0).sum(-1)


def test_a_concave_energy_goes_to_the_right_vertex() -> None:
    ctx = context(6, seed=2)
    rules = LONG & Box(upper=0.5)
    energy = -1.0 * Variance()
    pairs = torch.stack([(torch.eye(6)[i] + torch.eye(6)[j]) / 2 for i in range(6) for j in range(i)]).double()
    found = AnnealedLangevin(chains=32, steps=20).build(energy, rules, ctx, rng())
    check(found, rules, ctx)
    assert found.bound is None
    assert "Gradient engine" in str(found.status)
    assert "not convex" in str(found.status)
    assert found.energy == pytest.approx(float(energy.bind(ctx)(pairs).min()), abs=1e-9)


def test_the_gradient_engine_on_ripples_equals_a_grid() -> None:
    ctx = context(3)
    found = AnnealedLangevin(chains=16, steps=20).build(Ripples(), LONG, ctx, rng())
    side = torch.linspace(0, 1, 401, dtype=torch.float64)
    a, b = torch.meshgrid(side, side, indexing="ij")
    grid = torch.stack([a, b, 1 - a - b], -1)[a + b <= 1]
    assert found.energy <= float(Ripples().bind(ctx)(grid).min()) + 1e-9
    assert found.bound is None
    final, before, alone = (found.ablation[stage] for stage in ("final", "before polish", "descents alone"))
    assert final <= before + 1e-12
    assert before <= alone + 1e-12


def test_an_energy_that_is_not_convex_under_a_choice_of_names() -> None:
    ctx = context(7, seed=1)
    rules = LONG & Box(upper=0.5) & Cardinality(2, min_weight=0.4)
    energy = Ripples() + 5.0 * Variance()
    found = AnnealedLangevin(chains=16, steps=20).build(energy, rules, ctx, rng())
    check(found, rules, ctx)
    assert found.bound is None
    assert "local minimum" in str(found.status)
    value = energy.bind(ctx)
    assert found.energy <= min(
        float(value((torch.eye(7)[i] + torch.eye(7)[j]).double() / 2)) for i in range(7) for j in range(i)
    )


EDGES: dict[str, tuple[Callable[[], Context], Constraint]] = {
    "one name": (lambda: context(1), LONG & Cardinality(1, min_weight=0.1)),
    "one name, convex": (lambda: context(1), LONG),
    "more choices than names": (lambda: context(4), LONG & Cardinality(9, min_weight=0.05)),
    "all names at their minimum": (lambda: context(4), LONG & Cardinality(4, min_weight=0.25) & Box(upper=0.25)),
    "all frozen": (
        lambda: context(3, held=[0.5, 0.25, 0.25], tradeable=[False] * 3),
        LONG & Cardinality(2, min_weight=0.1),
    ),
    "some frozen": (
        lambda: context(5, held=[0.02, 0.0, 0.58, 0.2, 0.2], tradeable=[False, False, True, True, True]),
        LONG & Cardinality(2, min_weight=0.1) & Turnover(0.9),
    ),
}


@pytest.mark.parametrize("chains", [1, 5])
@pytest.mark.parametrize("name", EDGES)
def test_edges(name: str, chains: int) -> None:
    make, rules = EDGES[name]
    ctx = make()
    found = AnnealedLangevin(chains=chains, steps=3, sweeps=1).build(TAILED, rules, ctx, rng())
    check(found, rules, ctx)
    assert found.energy == pytest.approx(enumerated(TAILED, rules, ctx), rel=1e-7, abs=1e-9)
    assert torch.isfinite(found.weights).all()


@pytest.mark.parametrize("change", [{"steps": 0}, {"sweeps": 0}, {"chains": 1}, {"candidates": 1}, {"walkers": 1}])
def test_any_effort_gives_a_feasible_portfolio(change: dict[str, int]) -> None:
    rules, ctx = main_job()
    found = AnnealedLangevin(chains=4, steps=4, polish=1).replace(**change).build(TAILED, rules, ctx, rng())
    check(found, rules, ctx)


def test_an_affine_energy_has_no_curvature_and_an_answer() -> None:
    ctx = context(8)
    rules = LONG & Box(upper=0.5) & Cardinality(3, min_weight=0.1)
    found = AnnealedLangevin(chains=8, steps=10).build(Return(), rules, ctx, rng())
    best = ctx.mean.sort(descending=True).values
    assert found.energy == pytest.approx(-float(0.5 * best[0] + 0.5 * best[1]), abs=1e-12)


@pytest.mark.parametrize(
    "rules",
    [
        LONG & Box(upper=0.1) & Cardinality(3),
        LONG & Cardinality(2, min_weight=0.1) & Box(upper=0.3),
        LONG & Box(upper=0.05),
    ],
)
def test_rules_without_a_portfolio_name_the_conflict(rules: Constraint) -> None:
    with pytest.raises(InfeasibleError) as caught:
        AnnealedLangevin(chains=4, steps=3).build(QUADRATIC, rules, context(8), rng())
    assert caught.value.conflict


class Broken(Energy):
    """An energy that is NaN everywhere."""

    def bind(self, ctx: Any) -> Bound:
        return lambda w: w.sum(-1) * float("nan")


def test_nan_in_an_energy_is_an_error() -> None:
    with pytest.raises(SolverError, match="NaN"):
        AnnealedLangevin(chains=4, steps=3).build(Broken(), LONG & Cardinality(2), context(5), rng())


def test_a_spec_like_any_other() -> None:
    constructor = AnnealedLangevin(chains=32, swaps=False)
    assert eval(repr(constructor)) == constructor
    assert AnnealedLangevin.from_json(constructor.model_dump_json()) == constructor
    assert len(AnnealedLangevin.model_fields) <= 8


@pytest.mark.skipif(not ORLIB.exists(), reason="the OR-Library extracts in ../shared/data/orlib are not here")
@pytest.mark.parametrize("instance", ["port1", "port2", "port3"])
def test_at_most_ten_names_is_no_worse_than_exactly_ten(instance: str) -> None:
    """The proven optima are for exactly ten names; near the least variance ten are held in either case."""
    data = np.load(ORLIB / f"{instance}.npz")
    mean, std = torch.tensor(data["mean"]), torch.tensor(data["std"])
    dense = torch.tensor(data["corr"]) * std.unsqueeze(1) * std
    n = len(mean)
    outlook = Outlook(mean, Structured.from_dense(dense), None, None, 1.0)
    ctx = Context(tuple(map(str, range(n))), outlook, None, torch.ones(n, dtype=torch.bool))
    lines = (ORLIB / "ccef_K10_eps001_port1-3.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines if line.startswith(f"{instance},")]
    rules = LONG & Cardinality(10, min_weight=0.01)
    for row in (rows[20], rows[47]):
        share, objective = float(row[2]), float(row[5])
        energy = (1.0 - share) * Return() + share * Variance()
        found = AnnealedLangevin(chains=16, steps=10).build(energy, rules, ctx, rng())
        check(found, rules, ctx)
        scale = share * float(dense.diagonal().mean()) + (1.0 - share) * float(mean.abs().mean())
        assert found.energy <= objective + 1e-8 * scale
        if int((found.weights > 0).sum()) == 10:
            assert found.energy == pytest.approx(objective, abs=1e-6 * scale)
    assert int((found.weights > 0).sum()) == 10, "the last point should need all ten names"


def test_the_caller_keeps_what_is_the_callers() -> None:
    rules, ctx = main_job()
    assert ctx.held is not None
    before: Tensor = ctx.held.clone()
    AnnealedLangevin(chains=4, steps=3).build(TAILED, rules, ctx, rng())
    assert torch.equal(ctx.held, before)
