"""Calls on tensors of another device: nothing mixes with the host's, and the answers are the host's to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from other_device import DEVICE, Mixed, other_device, reads

import portfolio_ebm as pe
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.curvature import curvature_matrix
from portfolio_ebm.construction.rugged.chains import Landscape, random_portfolios, run_chains, survey
from portfolio_ebm.construction.rugged.rugged import _replace_worst, explore
from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SolverError
from portfolio_ebm.samplers.anneal import anneal
from portfolio_ebm.samplers.kernel import State, spread
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Geometric
from portfolio_ebm.samplers.wrappers import Projected

N = 6
RULES = pe.Budget() & pe.LongOnly()
GAIN = pe.Variance() + 0.1 * pe.Return()


def world() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(N, N, generator=g, dtype=torch.float64)
    return {
        "covariance": 1e-3 * root @ root.T,
        "mean": 1e-2 * torch.randn(N, generator=g, dtype=torch.float64),
        "scenarios": 1e-2 * torch.randn(300, N, generator=g, dtype=torch.float64),
    }


HELD = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0, 0.0]).double()
LOTS = {"prices": torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]).double(), "capital": 1000.0}
CASES = {
    "convex": (GAIN, RULES, {"constructor": pe.Convex()}),
    "default": (GAIN, RULES & pe.Box(upper=0.4), {}),
    "tail": (pe.CVaR(0.9), RULES, {}),
    "entropic": (pe.EVaR(0.9), RULES, {}),
    "ratio": (pe.MaxRatio(pe.Return(), pe.Volatility()), RULES, {}),
    "curved": (pe.Return(), RULES & pe.VolatilityCap(0.05), {}),
    "traded": (pe.Variance() + pe.TradingCost(0.001), RULES & pe.Turnover(0.5), {"held": HELD}),
    "tickets": (pe.Variance() + pe.FixedCost(rate=1e-5), RULES, {"held": HELD}),
    "least trade": (pe.Variance(), RULES, {"held": HELD, "constructor": pe.LeastTrade(0.01)}),
    "names": (GAIN, RULES & pe.Cardinality(at_most=3, min_weight=0.05), {}),
    "either": (pe.Variance(), RULES & pe.Either(pe.Box(upper=0.3), pe.Cardinality(at_most=2)), {}),
    "tree": (pe.Variance(), RULES & pe.Cardinality(at_most=2), {"constructor": pe.BranchAndBound()}),
    "rugged": (pe.MaxRatio(pe.Return(), pe.Volatility()) + 5.0 * pe.Variance(), RULES, {}),
    "lots": (pe.Variance(), pe.Budget(at_least=0.9) & pe.LongOnly() & pe.RoundLots(), LOTS),
}


@pytest.mark.parametrize("case", CASES)
def test_an_optimum_is_the_hosts_and_stays_where_it_was_asked_for(case: str) -> None:
    energy, rules, more = CASES[case]
    here = pe.optimize(energy, rules, **world(), **more)
    with other_device() as device:
        there = pe.optimize(energy, rules, **{key: x.to(device) for key, x in world().items()}, **more)
        assert there.weights.device == device
        assert (there.bound, str(there.status)) == (here.bound, str(here.status))
        # Nearest points of chains there take every step, and those here stop when they are done.
        near = 1e-6 if case == "rugged" else 0.0
        torch.testing.assert_close(there.weights.cpu(), here.weights, atol=near, rtol=0)
        assert there.energy == pytest.approx(here.energy, rel=near, abs=0)
        if case == "default":
            assert dict(there.ablation) == pytest.approx(dict(here.ablation), rel=1e-9)
            assert list(there.ranges) == list(here.ranges)
            np.testing.assert_allclose(list(there.ranges.values()), list(here.ranges.values()), rtol=1e-9)
        if here.marginal is not None:
            np.testing.assert_allclose(there.marginal["reduced"], here.marginal["reduced"], atol=near, rtol=0)


HISTORY = pe.SampleMoments(lookback=250)
TRADED = RULES & pe.Turnover(0.5)
STRATEGIES = {
    "convex": pe.Strategy(name="a", market=HISTORY, energy=pe.Variance() + pe.TradingCost(0.0005), constraint=TRADED),
    "names": pe.Strategy(
        name="b", market=HISTORY, energy=pe.CVaR(0.95) + pe.Return(), constraint=RULES & pe.Cardinality(at_most=5),
        constructor=pe.AnnealedLangevin(),
    ),
    "factors": pe.Strategy(
        name="c", market=pe.FactorEBM(factors=("market", "MTUM"), lookback=756),
        energy=pe.FactorRisk(risk_aversion=5.0) + pe.Return(), constraint=TRADED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ["convex", "names", pytest.param("factors", marks=pytest.mark.slow)])
def test_a_strategys_decision_is_the_hosts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = pe.bundled()
    past, held = panel.past("2022-06-01"), dict.fromkeys(panel.assets, 1.0 / len(panel.assets))
    here = pe.rebalance(STRATEGIES[case], past, held)
    monkeypatch.setattr("portfolio_ebm.strategy.device_of", torch.device)
    with other_device() as device:
        there = pe.rebalance(STRATEGIES[case], past, held, device=str(device))
        assert reads() > 0, "nothing was computed there"
        assert there.weights.equals(here.weights)
        assert (there.energy, there.bound, str(there.status)) == (here.energy, here.bound, str(here.status))


@pytest.mark.parametrize(
    "rules", [RULES, RULES & pe.Cardinality(exactly=3, min_weight=0.05)], ids=["in dimension", "a choice of names"]
)
def test_draws_are_the_hosts(rules: pe.Constraint, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is found before the chains set out is the optimum after few steps, too.
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.walkers.STEPS", 6)
    # So few moves that the chains did not mix: what is told of them is worked out from all draws.
    law, cov = pe.Ensemble(0.5, chains=64, support="all", moves=12), world()["covariance"]
    with pytest.raises(SolverError, match="did not mix") as here:
        pe.ensemble(pe.Variance(), rules, law=law, covariance=cov)
    with other_device() as device, pytest.raises(SolverError) as there:
        pe.ensemble(pe.Variance(), rules, law=law, covariance=cov.to(device))
    assert str(there.value) == str(here.value) and "R-hat" in str(here.value)


def rugged(w: torch.Tensor) -> torch.Tensor:
    return (30.0 * w).sin().sum(-1)


def surveyed(device: torch.device, energy: Bound) -> tuple[Landscape, torch.Generator]:
    ones = torch.ones(N, dtype=torch.float64, device=device)
    half = torch.cat([ones[:3], 0.0 * ones[3:]])
    region = Region.free(N, device=device).with_box(0.0, 0.4).with_row(ones, 1.0, 1.0, "budget")
    region = region.with_row(half, 0.3, 0.6, "group")
    rng = torch.Generator(device).manual_seed(0)
    probes = random_portfolios(region, ones, 8, rng)
    return survey(energy, region, probes[0], probes), rng


def test_chains_wait_for_the_host_at_their_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio_ebm.constraints.steady.STEPS", 2)

    def run(steps: int) -> int:
        with other_device() as device:
            landscape, rng = surveyed(device, rugged)
            run_chains(landscape, landscape.probes, 1, rng)  # what is measured once
            before = reads()
            found = run_chains(landscape, landscape.probes, steps, rng)
            assert found.best.device == DEVICE
            return reads() - before

    assert run(3) == run(1) == 1


def test_kicks_and_descents_wait_for_the_host_at_their_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio_ebm.constraints.steady.STEPS", 1)
    for stage in ("PROBE", "KICK", "DESCENT"):
        monkeypatch.setattr(f"portfolio_ebm.construction.rugged.rugged.{stage}_STEPS", 2)

    def run(steps: int) -> tuple[int, int]:
        with other_device() as device:
            landscape, rng = surveyed(device, rugged)
            explore(landscape, landscape.probes, 6, rng)
            before = reads()
            found = explore(landscape, landscape.probes, steps, rng)
            return found.cycles, reads() - before

    # Whether the probes were numbers, whether they agree, and whether the rest were numbers.
    assert run(6) == (1, 3) and run(10) == (2, 3)


@pytest.mark.parametrize("where", ["the energy", "its gradient", "out of reach"])
def test_what_is_not_a_number_on_the_way_is_said_at_the_end(where: str) -> None:
    def spoiled(w: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        value = w.square().sum(-1)
        if len(calls) != 3:  # of the start and four steps, the second step
            return value
        if where == "the energy":
            return torch.cat([value[:1] * float("nan"), value[1:]])
        if where == "out of reach":
            return torch.cat([value[:1] + float("inf"), value[1:]])
        return value + torch.cat([(w[:1] - w[:1]).abs().sqrt().sum(-1), 0.0 * value[1:]])  # an endless slope at zero

    calls: list[int] = []
    rules = Geometric(start=1.0, end=0.1)
    with other_device() as device:
        start, rng = torch.zeros(8, 3, dtype=torch.float64, device=device), torch.Generator(device).manual_seed(0)
        with pytest.raises(SolverError, match="not finite for 1 of 8 chains"):
            anneal(Projected(ULA(0.1), lambda w: w.nan_to_num(0.0)), spoiled, start, schedule=rules, n_steps=4, rng=rng)
    assert len(calls) == 5


def test_temperatures_of_the_host_are_looked_at_without_waiting() -> None:
    with other_device() as device:
        x = torch.zeros(2, 3, dtype=torch.float64, device=device)
        before = reads()
        assert spread(torch.ones(2), x).shape == (2, 1) and spread(1.0, x).device == device
        assert reads() == before
        with pytest.raises(SolverError, match="temperature must be finite"):
            spread(torch.tensor([1.0, float("inf")]), x)


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), -1.0])
def test_a_temperature_there_that_is_none_is_said_at_the_end(wrong: float) -> None:
    """Also where the projection makes a number of what such noise leaves, and by no look more than at the end."""
    kernel = Projected(ULA(0.1), lambda w: w.nan_to_num(0.0, 1.0, -1.0).clamp(-1.0, 1.0))

    def run(second: float) -> State:
        state = kernel.init(torch.zeros(4, 3, dtype=torch.float64, device=DEVICE), lambda w: w.square().sum(-1))
        for last in (1.0, second, 0.5):
            heat = torch.tensor([1.0, 0.5, 0.0, last], dtype=torch.float64, device=DEVICE)
            state = kernel.step(state, lambda w: w.square().sum(-1), heat, torch.Generator(DEVICE).manual_seed(0))
        return state

    with other_device():
        good, bad = run(2.0), run(wrong)
        assert reads() == 0 and good.sound() is good and reads() == 1
        with pytest.raises(SolverError, match="temperature is not finite for 1 of 4 chains"):
            bad.sound()
        with pytest.raises(SolverError, match="temperature must be finite"):
            spread(torch.tensor([1.0, wrong], device=DEVICE), torch.zeros(2, 3))


def test_a_chain_that_is_left_out_is_not_forgotten() -> None:
    x, energy = torch.zeros(8, 2).double(), torch.arange(8.0)
    unsound = energy == 7.0
    left = _replace_worst(State(x, energy, x, unsound))
    assert float(left.energy.max()) < 7.0, "a copy of another is in its place"
    with pytest.raises(SolverError, match="not finite"):
        left.sound()


def test_a_kick_that_was_not_a_number_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portfolio_ebm.constraints.steady.STEPS", 1)
    for stage in ("PROBE", "KICK", "DESCENT"):
        monkeypatch.setattr(f"portfolio_ebm.construction.rugged.rugged.{stage}_STEPS", 1)
    calls: list[int] = []

    def spoiled(w: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        value = rugged(w)
        # Two evaluations of the probe, then in each cycle a kick, its end and a step of descent.
        return torch.cat([value[:-1], value[-1:] * float("nan")]) if len(calls) == 3 else value

    with other_device() as device:
        landscape, rng = surveyed(device, rugged)
        landscape = replace(landscape, energy=spoiled)
        with pytest.raises(SolverError, match="not finite for"):
            explore(landscape, landscape.probes, 9, rng)
    assert len(calls) > 5, "the search went on"


@pytest.mark.parametrize("some", [1, None], ids=["one portfolio", "all"])
def test_an_energy_that_is_no_number_is_refused_before_chains_run(some: int | None) -> None:
    def spoiled(w: torch.Tensor) -> torch.Tensor:
        value = w.square().sum(-1)
        return torch.cat([value[:some] * float("nan"), value[some:]]) if some else value * float("nan")

    with other_device() as device:
        with pytest.raises(SolverError, match="not finite for"):
            surveyed(device, spoiled)
        landscape, _ = surveyed(device, rugged)
        with pytest.raises(SolverError, match="not finite for"):
            curvature_matrix(spoiled, landscape.probes[0], landscape.region.lower, 0.1)


def test_the_device_refuses_what_a_gpu_does() -> None:
    x = torch.ones(3)
    with other_device() as device:
        y = x.to(device)
        assert y.device == device and torch.zeros(2, device=device).device == device
        with pytest.raises(Mixed):
            y + x
        with pytest.raises((RuntimeError, TypeError)):
            y.numpy()
        assert torch.equal((y + 1.0).cpu(), x + 1.0) and reads() == 1
        assert float(y.sum()) == 3.0 and reads() == 2
