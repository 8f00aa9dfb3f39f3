"""ensemble: the law against exact draws, what it reports, and that it refuses where it did not mix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import portfolio_ebm as pe
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SolverError, SpecError

RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=0.6) & pe.Group("sector", "a", upper=0.7)
GROUPS = {"sector": {"A": "a", "B": "a", "C": "b", "D": "b"}}


def world(seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    draws = 0.01 * g.standard_normal((300, 4)) @ (np.eye(4) + 0.3 * g.standard_normal((4, 4)))
    return pd.DataFrame(draws + 0.0005 * g.standard_normal(4), columns=list("ABCD"))


def exact(energy: Energy, found, ctx_inputs: dict, held: pd.Series | None = None) -> np.ndarray:
    """Draws of the same law by rejection from the uniform law on the simplex."""
    import torch

    from portfolio_ebm.optimization import given_context

    g = np.random.default_rng(5)
    w = g.dirichlet(np.ones(4), 400_000)
    w = w[(w.max(1) <= 0.6) & (w[:, :2].sum(1) <= 0.7)]
    ctx = given_context(energy, RULES, held=held, **ctx_inputs).ctx
    value = energy.bind(ctx)(torch.as_tensor(w)).numpy()
    chance = np.exp(-(value - value.min()) / found.temperature)
    return w[g.random(len(w)) < chance]


@pytest.mark.parametrize(
    "energy",
    [
        pytest.param(pe.Variance(), id="quadratic"),
        pytest.param(pe.Return() + 5 * pe.Variance() + pe.TradingCost(0.0005), id="kinks"),
        pytest.param(pe.CVaR(level=0.9), id="tail", marks=pytest.mark.slow),
        pytest.param(pe.Volatility() + 0.1 * pe.Herfindahl(), id="smooth"),
    ],
)
def test_draws_have_the_law_they_should(energy: Energy) -> None:
    inputs = {"scenarios": world(), "groups": GROUPS}
    held = pd.Series([0.4, 0.1, 0.4, 0.1], index=list("ABCD"))
    law = pe.Ensemble(0.2, support="all", chains=512)
    found = pe.ensemble(energy, RULES, law=law, held=held, **inputs)
    truth = exact(energy, found, inputs, held)
    assert len(truth) > 1000 and found.r_hat < 1.02
    # Draws far apart in each chain's record, so that a test for independent draws may be used.
    ours = found.draws.to_numpy()[-512:]
    for k in range(4):
        assert stats.ks_2samp(ours[:, k], truth[:, k]).pvalue > 1e-3
    assert abs(found.excess.mean() / found.tolerated - 1.0) < 0.25


def test_the_report_is_what_the_draws_say() -> None:
    found = pe.ensemble(pe.Variance(), RULES, scenarios=world(), groups=GROUPS, law=pe.Ensemble(0.05, chains=256))
    w = found.draws
    assert np.allclose(w.sum(axis=1), 1.0, atol=1e-10) and float(w.min().min()) >= 0.0
    assert (found.weights["low"] <= found.weights["high"]).all()
    assert np.isclose(found.weights.loc["A", "held"], (w["A"] > 1e-3).mean())
    assert np.isclose(found.groups.loc[("sector", "a"), "mean"], (w["A"] + w["B"]).mean())
    assert found.ess <= 1.5 * len(w) and 0.0 < found.diversity < 1.0 and 0.0 <= found.coverage <= 1.0
    best = pe.optimize(pe.Variance(), RULES, scenarios=world(), groups=GROUPS, constructor=pe.Convex())
    assert np.allclose(found.weights["optimum"], best.weights, atol=1e-9) and (found.excess >= -1e-12).all()
    again = pe.ensemble(pe.Variance(), RULES, scenarios=world(), groups=GROUPS, law=pe.Ensemble(0.05, chains=256))
    assert w.equals(again.draws)


def test_names_out_of_reach_are_left_out_and_said() -> None:
    returns = world()
    # Five times the market of the others: more of it never pays.
    returns["D"] = 5.0 * returns[["A", "B", "C"]].mean(axis=1) + returns["D"]
    found = pe.ensemble(pe.Variance(), RULES, scenarios=returns, groups=GROUPS, law=pe.Ensemble(0.01, chains=64))
    assert found.left_out == ("D",) and "3 of 4 names" in str(found.status)
    assert (found.draws["D"] == found.weights.loc["D", "optimum"]).all()


def test_what_did_not_mix_is_not_reported() -> None:
    with pytest.raises(SolverError, match="R-hat"):
        g = np.random.default_rng(0)
        cov = np.cov(0.01 * g.standard_normal((400, 40)), rowvar=False)
        rules = pe.Budget() & pe.LongOnly()
        pe.ensemble(pe.Variance(), rules, covariance=cov, law=pe.Ensemble(0.5, chains=64, moves=1))


def test_resampling_the_market_is_something_else() -> None:
    ranges = pe.resampled_ranges(pe.Variance(), RULES, scenarios=world(), draws=40, block=5, groups=GROUPS)
    best = pe.optimize(pe.Variance(), RULES, scenarios=world(), groups=GROUPS, constructor=pe.Convex()).weights
    assert (ranges["low"] <= ranges["median"]).all() and (ranges["median"] <= ranges["high"]).all()
    assert ((ranges["low"] <= best + 0.02) & (best - 0.02 <= ranges["high"])).all()
    # A sample four times as long says the optimum about twice as exactly.
    longer = pd.concat([world(), world(), world(), world()], ignore_index=True)
    narrow = pe.resampled_ranges(pe.Variance(), RULES, scenarios=longer, draws=40, block=5, groups=GROUPS)
    assert (narrow["high"] - narrow["low"]).sum() < 0.75 * (ranges["high"] - ranges["low"]).sum()
    with pytest.raises(SpecError, match="draws"):
        pe.resampled_ranges(pe.Variance(), RULES, scenarios=world(), draws=3, groups=GROUPS)


def test_resampled_ranges_are_those_of_the_names_in_any_order() -> None:
    given = {"draws": 20, "groups": GROUPS}
    plain = pe.resampled_ranges(pe.Variance(), RULES, scenarios=world(), **given)
    turned = list(plain.index[::-1])
    for inputs in ({"assets": turned}, {"mean": pd.Series(0.0, turned)}):
        found = pe.resampled_ranges(pe.Variance(), RULES, scenarios=world(), **given, **inputs)
        assert list(found.index) == turned
        assert np.allclose(found.loc[plain.index], plain, atol=1e-8)
    named = pe.resampled_ranges(pe.Variance(), RULES, scenarios=world().to_numpy(), assets=list(plain.index), **given)
    assert list(named.index) == list(plain.index) and np.allclose(named, plain, atol=1e-8)


def test_the_excess_is_on_average_what_is_tolerated_of_a_root_too() -> None:
    g = np.random.default_rng(0)
    cov = np.cov(0.01 * g.standard_normal((60, 10)) + 0.01 * g.standard_normal((60, 1)), rowvar=False)
    rules = pe.Budget() & pe.LongOnly() & pe.Box(upper=0.3)
    found = pe.ensemble(pe.Volatility(), rules, covariance=cov, law=pe.Ensemble(0.01, chains=256))
    assert abs(found.excess.mean() / found.tolerated - 1.0) < 0.06
