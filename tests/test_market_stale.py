"""Names that often stand still: an atom at zero in the market's law, and nothing else changed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from market_worlds import cut, world
from test_market_plain import panel_of

from portfolio_ebm.data.past import Past
from portfolio_ebm.market.composed import FactorEBMMarket
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.parts import Residual
from portfolio_ebm.types import generator

STALE = FactorEBM(factors=("market", "value"), lookback=300, min_history=200, residual=Residual("student", stale=True))
PLAIN = STALE.replace(residual="student")

pytestmark = pytest.mark.usefixtures("module_store")


@pytest.fixture(scope="module", name="past")
def _past() -> Past:
    """Two names that stand still on 40 % and 15 % of the days, two that never do."""
    past, rng = world(), np.random.default_rng(7)
    r = past.returns.copy()
    r[:, 0][rng.random(len(r)) < 0.4] = 0.0
    r[:, 2][rng.random(len(r)) < 0.15] = 0.0
    return replace(past, returns=r)


@pytest.fixture(scope="module", name="market")
def _market(past: Past) -> FactorEBMMarket:
    return STALE.fit(past)


def row(market: FactorEBMMarket, *assets: float) -> torch.Tensor:
    return torch.tensor([0.002, -0.001, *assets], dtype=torch.float64)


def test_shares_are_near_the_truth_and_none_for_names_that_move(market: FactorEBMMarket) -> None:
    assert market.share is not None
    assert market.share[0] == pytest.approx(0.4, abs=0.12) and market.share[2] == pytest.approx(0.15, abs=0.08)
    assert market.share[1] == 0 and market.share[3] == 0


def test_the_law_of_a_stale_name_adds_to_one(market: FactorEBMMarket) -> None:
    """Given the factors: its point at zero has the share, and the density off it the rest."""
    nan = math.nan
    factors = float(market.log_prob(row(market, nan, nan, nan, nan)))
    even = torch.linspace(-14, 14, 8000, dtype=torch.float64)
    x, slope = 0.003 * torch.sinh(even), 0.003 * torch.cosh(even) * (even[1] - even[0])
    days = row(market, nan, nan, nan, nan).repeat(len(x), 1)
    for asset in (0, 1, 2):
        days[:, 2:] = torch.nan
        days[:, 2 + asset] = x
        value = (market.log_prob(days) - factors).exp()
        assert market.share is not None
        share = float(market.share[asset])
        assert float(slope @ value) == pytest.approx(1 - share, abs=1e-3)
        days[0, 2 + asset] = 0.0
        at_zero = float((market.log_prob(days[0]) - factors).exp())
        assert (at_zero == pytest.approx(share, abs=1e-12)) == (share > 0)


def test_a_stale_name_says_nothing_of_the_others(market: FactorEBMMarket) -> None:
    """Two names of which one stands still: its share times the law of the other alone."""
    assert market.share is not None
    both, other = row(market, 0.0, 0.01, math.nan, 0.02), row(market, math.nan, 0.01, math.nan, 0.02)
    gap = float(market.log_prob(both) - market.log_prob(other))
    assert gap == pytest.approx(math.log(float(market.share[0])), abs=1e-12)
    assert float(market.energy(both)) == pytest.approx(float(sum(market.parts(both).values())), abs=1e-12)


def test_draws_stand_still_as_often_as_they_should(market: FactorEBMMarket) -> None:
    assert market.share is not None
    draws = market.sample(20_000, generator(1, "stale"))[:, 2:]
    error = (market.share * (1 - market.share) / len(draws)).sqrt()
    assert ((draws == 0).double().mean(0) - market.share).abs().le(4 * error).all()
    u = market.pit(row(market, 0.0, 0.01, -0.01, 0.0))
    assert 0 < float(u[2]) < 1


def test_moments_are_those_of_the_steps(market: FactorEBMMarket) -> None:
    """Mean and covariance of three days against 40,000 paths, within their errors."""
    n = 40_000
    steps = market.paths(3, n, generator(2, "steps"))
    assert market.share is not None
    assert ((steps == 0).double().mean((0, 1)) - market.share).abs().max() < 0.01
    total = steps.sum(1)
    found = market.outlook(3, generator(3, "outlook"))
    away = total - total.mean(0)
    assert (total.mean(0) - found.mean).abs().le(5 * total.std(0) / math.sqrt(n)).all()
    sample = away.mT @ away / n
    width = sample.diagonal().sqrt()
    # The copula's correlations stand for the parts' own, as they do without atoms: a few per cent.
    assert ((sample - found.covariance.dense()) / (width[:, None] * width)).abs().max() < 0.06
    assert found.marginals is None and found.scenarios is not None and bool((found.scenarios[:, 0] == 0).any())


def test_where_every_name_moves_nothing_changes() -> None:
    past = world()
    a, b = STALE.fit(past), PLAIN.fit(past)
    day = torch.from_numpy(np.concatenate([past.factor_returns[-5:, :2], past.returns[-5:]], axis=1))
    assert torch.equal(a.log_prob(day), b.log_prob(day)) and torch.equal(a.loadings, b.loadings)


def test_a_batch_of_days_is_each_day_alone(past: Past) -> None:
    panel = panel_of(past)
    rows = [400, 405, 411]
    batch = STALE.fit_days(panel, rows)
    r = torch.from_numpy(np.concatenate([past.factor_returns[rows][:, :2], past.returns[rows]], axis=1))
    r[0, 2], r[1, 4] = 0.0, 0.0
    found = batch.log_prob(r)
    for i, t in enumerate(rows):
        assert float(found[i]) == pytest.approx(float(STALE.fit(cut(past, t)).log_prob(r[i])), abs=1e-8)


def test_a_later_standstill_is_not_known_before(past: Past) -> None:
    poisoned = past.returns.copy()
    poisoned[405:] = 0.0
    later = panel_of(replace(past, returns=poisoned))
    r = torch.from_numpy(np.concatenate([past.factor_returns[[403, 404]][:, :2], past.returns[[403, 404]]], axis=1))
    clean, dirty = (STALE.fit_days(each, [403, 404]).log_prob(r) for each in (panel_of(past), later))
    assert torch.equal(clean, dirty)


def test_a_condition_is_met_by_weighed_draws(market: FactorEBMMarket) -> None:
    """Against the draws that meet it: the stale name still stands still."""
    assert market.share is not None
    down = market.sample(40_000, generator(4, "down"))
    hit = down[down[:, 0] < -0.005]
    from portfolio_ebm import Condition

    given = (market + Condition("market < -0.005")).sample(2000, generator(5, "given"))
    assert bool((given[:, 0] < -0.005).all())
    assert float((given[:, 2] == 0).double().mean()) == pytest.approx(float((hit[:, 2] == 0).double().mean()), abs=0.06)
