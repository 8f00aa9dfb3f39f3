"""Laws of the composed market over every family of laws and every dependence: normalised, sampled, marginals kept."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from market_worlds import world
from scipy import stats
from test_market_plain import alone

from portfolio_ebm.market.base import additive
from portfolio_ebm.market.composed import FactorEBMMarket, split
from portfolio_ebm.market.dependence import DCC, DependenceEnergy, GaussianCopula, StudentCopula
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.parts import Factor, Residual
from portfolio_ebm.models.families import FAMILIES
from portfolio_ebm.types import generator

DENSITIES = tuple(FAMILIES)
DEPENDENCES = ("t", "none")
TIES = (DCC(), StudentCopula(), GaussianCopula())
"""Every other dependence, with one kind of law: the laws do not know what ties them."""

CASES = [*product(DENSITIES, (False, True), DEPENDENCES), *(("student", False, tie) for tie in TIES)]

pytestmark = pytest.mark.usefixtures("module_store")


def spec(density: str, calibrated: bool, dependence: str | DependenceEnergy, *names: str) -> FactorEBM:
    return FactorEBM(
        factors=tuple(Factor(name, density=density, calibrated=calibrated) for name in names),
        residual=Residual(density, calibrated=calibrated),
        dependence=dependence,
        lookback=300,
        min_history=200,
    )


def grid(scale: float, count: int, reach: float = 16.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points over the line and their weights, by a trapezoid in asinh, which knows nothing of the laws."""
    even = torch.linspace(-reach, reach, count, dtype=torch.float64)
    return scale * torch.sinh(even), scale * torch.cosh(even) * (even[1] - even[0])


@pytest.mark.parametrize(("density", "calibrated"), list(product(DENSITIES, (False, True))))
def test_a_market_of_one_factor_integrates_to_one(density: str, calibrated: bool) -> None:
    market = spec(density, calibrated, "t", "market").fit(alone(world(), "market"))
    x, weight = grid(0.005, 20001)
    assert float(weight @ market.log_prob(x[:, None]).exp()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("density", "calibrated", "dependence"), CASES)
def test_a_market_of_two_factors_integrates_to_one(
    density: str, calibrated: bool, dependence: str | DependenceEnergy
) -> None:
    """With their copula, over the plane, and with a correlation to bend it."""
    market = spec(density, calibrated, dependence, "market", "value").fit(alone(world(), "market", "value"))
    x, weight = grid(0.003, 301, 7.5)
    a, b = torch.meshgrid(x, x, indexing="ij")
    value = market.log_prob(torch.stack([a, b + market.beta[1] * a], -1).reshape(-1, 2)).exp().reshape(301, 301)
    assert float(weight @ value @ weight) == pytest.approx(1.0, abs=1e-3)
    assert (dependence == "none") == bool(market.blocks[0].correlation[0, 1] == 0)


@pytest.mark.parametrize(("count", "tied"), [(600, 0.125), pytest.param(1500, 0.08, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("density", "calibrated", "dependence"), CASES)
def test_draws_keep_every_part_s_own_law(
    density: str, calibrated: bool, dependence: str | DependenceEnergy, count: int, tied: float
) -> None:
    """Whatever ties the parts together: by Kolmogorov and Smirnov against each cdf; a shift is noticed."""
    market = spec(density, calibrated, dependence, "market", "value", "size").fit(world())
    assert isinstance(market, FactorEBMMarket)
    draws = market.sample(count, generator(6, f"{density}/{calibrated}/{dependence}"))
    for block, x in zip(
        market.blocks, split(draws, market.beta, market.loadings, market.market), strict=True
    ):  # fmt: skip
        u = block.law.cdf(x[:, :, None])[..., 0].numpy()
        assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-3 / 7
        away = block.law.cdf(x[:, :, None] + 0.5 * block.law.scale)[..., 0].numpy()
        assert max(stats.kstest(column, "uniform").pvalue for column in away.T) < 1e-6
        if dependence == "none":
            tau = [stats.kendalltau(u[:, 0], u[:, k]).statistic for k in range(1, u.shape[1])]
            # 2/3 of 1/sqrt(count) is one standard error.
            assert np.abs(tau).max() < tied


@pytest.mark.parametrize(("density", "calibrated"), list(product(DENSITIES, (False, True))))
def test_added_free_energies_are_those_of_the_truncated_laws(density: str, calibrated: bool) -> None:
    """By brute Monte Carlo of all parts within its error, whatever the nodes, sloping as the tilted means, convex."""
    model = spec(density, calibrated, "none", "market", "value")
    market = model.fit(world())
    table = market.marginals
    finer = model.replace(nodes=800).fit(world()).marginals
    assert table is not None and finer is not None
    b = torch.tensor([0.9, -0.4, 0.5, 0.3, 0.4, 0.2], dtype=torch.float64)
    draws = market.sample(60_000, generator(9, f"{density}/{calibrated}"))
    parts = torch.cat(split(draws, market.beta, market.loadings, market.market), -1)
    width = (table.log_mass.exp() * table.values.square()).sum(-1).sqrt()
    # Beyond the bound a draw is drawn again, which is what truncating means.
    inside = (parts - parts.median(0).values).abs() <= model.bound * width
    assert inside.double().mean() > 0.999
    kept = torch.where(inside, parts, torch.nan)
    kept = kept - kept.nanmean(0)
    for g in (1.0, 5.0, 25.0):
        value = float(market.free_energy(b, g))
        assert value == pytest.approx(float(additive(finer.values, finer.log_mass, b, g).sum()), abs=1e-6)
        tilts = torch.exp(-g * b * kept)
        seen = (~torch.isnan(tilts)).sum(0)
        mean = tilts.nanmean(0)
        error = ((tilts - mean).square().nanmean(0) / seen).sqrt() / mean / g
        assert abs(float((mean.log() / g).sum()) - value) < 4 * float(error.square().sum().sqrt())
        point = b.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(market.free_energy(point, g), point)
        tilted = torch.softmax(table.log_mass - g * b[:, None] * table.values, -1)
        assert slope.tolist() == pytest.approx((-(tilted * table.values).sum(-1)).tolist(), abs=1e-12)
        ends = (market.free_energy(b, g), market.free_energy(-0.5 * b, g))
        assert market.free_energy(0.25 * b, g) < sum(ends) / 2
