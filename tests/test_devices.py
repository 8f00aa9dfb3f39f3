"""Calls on tensors of another device: nothing mixes with the host's, and the answers are the host's to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_device import DEVICE, Mixed, other_device, reads

import portfolio_ebm as pe
from portfolio_ebm.errors import SolverError
from portfolio_ebm.samplers.anneal import anneal
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Geometric

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
    "lots": (pe.Variance(), pe.Budget(at_least=0.9) & pe.LongOnly() & pe.RoundLots(), LOTS),
}


@pytest.mark.parametrize("case", CASES)
def test_an_optimum_is_the_hosts_and_stays_where_it_was_asked_for(case: str) -> None:
    energy, rules, more = CASES[case]
    here = pe.optimize(energy, rules, **world(), **more)
    with other_device() as device:
        there = pe.optimize(energy, rules, **{key: x.to(device) for key, x in world().items()}, **more)
        assert there.weights.device == device
        assert torch.equal(there.weights.cpu(), here.weights)
        assert (there.energy, there.bound, str(there.status)) == (here.energy, here.bound, str(here.status))
        if case == "default":
            assert dict(there.ablation) == dict(here.ablation) and dict(there.ranges) == dict(here.ranges)
        if here.marginal is not None:
            np.testing.assert_array_equal(there.marginal["reduced"], here.marginal["reduced"])


@pytest.mark.parametrize(
    "rules", [RULES, RULES & pe.Cardinality(exactly=3, min_weight=0.05)], ids=["in dimension", "a choice of names"]
)
def test_draws_are_the_hosts(rules: pe.Constraint) -> None:
    # So few moves that the chains did not mix: what is told of them is worked out from all draws.
    law, cov = pe.Ensemble(0.5, chains=64, support="all", moves=12), world()["covariance"]
    with pytest.raises(SolverError, match="did not mix") as here:
        pe.ensemble(pe.Variance(), rules, law=law, covariance=cov)
    with other_device() as device, pytest.raises(SolverError) as there:
        pe.ensemble(pe.Variance(), rules, law=law, covariance=cov.to(device))
    assert str(there.value) == str(here.value) and "R-hat" in str(here.value)


def test_chains_wait_for_the_host_three_times_a_step_at_most() -> None:
    def run(steps: int) -> int:
        with other_device() as device:
            rng = torch.Generator(device).manual_seed(0)
            start = torch.zeros(16, 3, dtype=torch.float64, device=device)
            before = reads()
            found = anneal(
                ULA(0.1), lambda x: x.square().sum(-1), start, schedule=Geometric(start=1.0, end=0.1), n_steps=steps,
                rng=rng,
            )  # fmt: skip
            assert found.best.device == DEVICE
            return reads() - before

    # Whether an energy is a number is one of them.
    assert run(20) - run(5) <= 3 * 15


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
