"""Truths by hand about Return, Variance, CVaR, FactorRisk and TradingCost; the laws of all terms are elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cases_convex import market, portfolios, tables

from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import ConvexEnergy
from portfolio_ebm.errors import SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook

N = 8


def scenario_context(rows: list[list[float]], held: list[float] | None = None) -> Context:
    r = torch.tensor(rows, dtype=torch.float64)
    n = r.shape[1]
    return Context(
        assets=tuple("ABCDEFGH"[:n]),
        market=Outlook(r.mean(0), Structured.from_dense(torch.eye(n, dtype=torch.float64)), r, None, 1.0),
        held=None if held is None else torch.tensor(held, dtype=torch.float64),
        tradeable=torch.ones(n, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    ("level", "by_hand"),
    [
        (0.75, 0.08),  # one scenario of four
        (0.5, 0.05),  # (.08 + .02) / 2
        (0.6, (0.08 + 0.6 * 0.02) / 1.6),  # a tail of 1.6 scenarios
        (0.9, 0.08),  # less than one scenario: the worst
        (0.0, 0.0175),  # all: minus the mean
    ],
)
def test_cvar_of_four_scenarios_by_hand(level, by_hand):
    ctx = scenario_context([[0.02, 9.0], [-0.08, 9.0], [0.01, 9.0], [-0.02, 9.0]])
    w = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert float(CVaR(level=level).bind(ctx)(w)) == pytest.approx(by_hand, abs=1e-15)
    # The mean return is -0.0175; taking it out lowers the loss by 0.0175.
    assert float(CVaR(level=level, centred=True).bind(ctx)(w)) == pytest.approx(by_hand - 0.0175, abs=1e-15)


def test_cvar_is_the_least_of_the_rockafellar_uryasev_function():
    ctx = market(N, size=37)
    w = portfolios(1, N)[0]
    loss = -(ctx.scenarios @ w)
    for level in (0.5, 0.9, 0.95, 0.99):
        # The function is piecewise linear in t with kinks at the losses.
        least = min(float(t + (loss - t).clamp_min(0.0).sum() / (37 * (1 - level))) for t in loss)
        assert float(CVaR(level=level).bind(ctx)(w)) == pytest.approx(least, abs=1e-14)


def test_cvar_rises_with_the_level_and_does_not_see_the_mean_when_centred():
    ctx = market(N)
    w = portfolios(5, N)
    values = [CVaR(level=a).bind(ctx)(w) for a in (0.0, 0.5, 0.9, 0.95, 0.99)]
    assert all(bool((b >= a - 1e-15).all()) for a, b in pairwise(values))
    torch.testing.assert_close(values[0], -(w @ ctx.scenarios.mean(0)))
    moved = replace(ctx, market=replace(ctx.market, scenarios=ctx.scenarios + torch.linspace(-1, 1, N)))
    centred = CVaR(centred=True)
    torch.testing.assert_close(centred.bind(moved)(w), centred.bind(ctx)(w), rtol=1e-12, atol=1e-13)


def test_tail_hessian_is_the_curvature_of_a_gaussian():
    # For r ~ N(0, S), CVaR = k sd(w), whose Hessian is k (S/sd - S w w'S/sd^3).
    n, size, level = 3, 50_000, 0.9
    r = torch.randn(size, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ctx = replace(market(n, held=False), market=replace(market(n).market, scenarios=r))
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    sd = w.norm()
    k = math.exp(-0.5 * 1.2815515655446004**2) / math.sqrt(2 * math.pi) / 0.1
    exact = k * (torch.eye(n) / sd - torch.outer(w, w) / sd**3)
    found = CVaR(level=level).curved(w, ctx).dense()
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.05)


def test_trading_cost_by_hand():
    ctx = scenario_context([[0.0, 0.0]], held=[0.7, 0.3])
    w = torch.tensor([0.4, 0.5], dtype=torch.float64)
    assert float(TradingCost(0.001).bind(ctx)(w)) == pytest.approx(0.001 * 0.5, abs=1e-18)
    assert float(TradingCost(0.001).bind(replace(ctx, held=None))(w)) == 0.0


def test_return_and_variance_by_hand():
    ctx = scenario_context([[0.01, 0.03], [0.03, -0.01]])
    w = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert float(Return().bind(ctx)(w)) == pytest.approx(-0.015, abs=1e-17)
    assert float(Variance().bind(ctx)(w)) == pytest.approx(0.5, abs=1e-15)


def test_factor_risk_of_normals_is_half_the_aversion_times_the_variance():
    ctx = market(N, gaussian=True)
    w = portfolios(6, N)
    for g in (0.5, 5.0, 20.0):
        b = w @ ctx.marginals.exposures
        sd = torch.cat([torch.full((2,), 0.04, dtype=torch.float64), ctx.covariance.diagonal.sqrt()])
        variance = (b * sd).square().sum(-1)
        # A bound of 8 sd cuts off nothing that double precision sees at these tilts.
        torch.testing.assert_close(FactorRisk(g).bind(ctx)(w), 0.5 * g * variance, rtol=1e-9, atol=1e-14)


def test_factor_risk_tends_to_the_variance_as_aversion_goes_to_zero():
    ctx = market(N)
    w = portfolios(6, N)
    table = ctx.marginals
    moment = (table.log_mass.exp() * table.values.square()).sum(-1)
    variance = ((w @ table.exposures).square() * moment).sum(-1)
    errors = [float((FactorRisk(g).bind(ctx)(w) / (0.5 * g * variance) - 1).abs().max()) for g in (1.0, 0.1, 0.01)]
    # Symmetric densities: the next term of the cumulant series is of order g squared.
    assert errors[1] < 0.02 * errors[0] and errors[2] < 1e-6


def test_factor_risk_adds_up_by_part_and_is_the_entropic_risk():
    ctx = market(3)
    table = ctx.marginals
    w = portfolios(4, 3)
    energy = FactorRisk(4.0)
    parts = energy.additive_terms(w, ctx)
    assert tuple(parts) == table.names
    torch.testing.assert_close(sum(parts.values()), energy.bind(ctx)(w), rtol=1e-13, atol=1e-16)
    # Two parts alone, by brute force over the product grid.
    two = Marginals(("a", "b"), table.exposures[:, :2], table.values[:2], table.log_mass[:2], 8.0)
    alone = replace(ctx, market=replace(ctx.market, marginals=two))
    b = w[0] @ two.exposures
    total = b[0] * two.values[0][:, None] + b[1] * two.values[1][None, :]
    joint = two.log_mass[0][:, None] + two.log_mass[1][None, :]
    brute = torch.logsumexp((joint - 4.0 * total).flatten(), 0) / 4.0
    torch.testing.assert_close(energy.bind(alone)(w[0]), brute, rtol=1e-12, atol=1e-15)


def test_tail_mass_sees_a_truncation_that_rules():
    ctx = market(3)
    w = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    mild, wild = FactorRisk(1.0).tail_mass(w, ctx), FactorRisk(500.0).tail_mass(w, ctx)
    assert mild["factor 0"] < 1e-3 < 0.9 < wild["factor 0"]
    assert wild["A1 residual"] < 1e-3  # no exposure, no tilt


def test_missing_estimates_are_named():
    bare = replace(market(3), market=replace(market(3).market, scenarios=None, marginals=None))
    with pytest.raises(SpecError, match="scenarios"):
        CVaR().bind(bare)
    with pytest.raises(SpecError, match="FactorEBM"):
        FactorRisk().bind(bare)
    with pytest.raises(SpecError):
        CVaR(level=1.0)
    with pytest.raises(SpecError):
        FactorRisk(0.0)
    with pytest.raises(SpecError):
        TradingCost(-1.0)


def test_dtype_follows_the_input():
    values, _ = tables([1.0])
    assert values.dtype == torch.float64
    assert isinstance(Variance(), ConvexEnergy)
    ctx = scenario_context([[0.01, 0.03], [0.03, -0.01]])
    single = replace(ctx, market=replace(ctx.market, scenarios=ctx.scenarios.float(), mean=ctx.mean.float()))
    w = torch.tensor([0.5, 0.5])
    assert CVaR(level=0.5).bind(single)(w).dtype == torch.float32
    assert Return().bind(single)(w).dtype == torch.float32


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_matrix_that_is_its_own_core_is_used_as_it_is(batch):
    core = torch.rand(5, 5, dtype=torch.float64)
    core, eye = core @ core.T, torch.eye(5, dtype=torch.float64)
    plain = Structured(eye, core, torch.arange(5.0).double())
    turned = Structured(eye.flip(0), core.flip(0).flip(1), plain.diagonal)
    w = torch.rand(*batch, 5, dtype=torch.float64)
    assert torch.equal(plain.dense(), core + plain.diagonal.diag())
    assert torch.equal(plain.dense(), turned.dense())
    torch.testing.assert_close(plain.matvec(w), turned.matvec(w), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(plain.matvec(w), w @ plain.dense(), rtol=1e-14, atol=0.0)
