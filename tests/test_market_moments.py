"""SampleMoments: the window's own numbers, and what it does with gaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from market_worlds import world
from sklearn import covariance as peer

from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.ledoit_wolf import LedoitWolf
from portfolio_ebm.market.moments import SampleMoments
from portfolio_ebm.types import generator

RNG = generator(0, "moments")


def test_moments_are_those_of_the_window() -> None:
    past = world(300)
    window = past.returns[-100:]
    found = SampleMoments(100).fit(past).outlook(21, RNG)
    assert np.allclose(found.mean.numpy(), 21 * window.mean(axis=0), atol=1e-15)
    assert np.allclose(found.covariance.dense().numpy(), 21 * np.cov(window, rowvar=False), atol=1e-15)
    assert found.scenarios is not None and found.scenarios.shape == (100, 4)
    assert np.allclose(found.scenarios.mean(0).numpy(), found.mean.numpy(), atol=1e-15)
    assert np.allclose(torch.cov(found.scenarios.T).numpy(), found.covariance.dense().numpy(), atol=1e-15)
    assert found.marginals is None and found.horizon == 21


def test_one_period_scenarios_are_the_days_themselves() -> None:
    past = world(120)
    found = SampleMoments(50).fit(past).outlook(1, RNG)
    assert found.scenarios is not None
    assert np.allclose(found.scenarios.numpy(), past.returns[-50:], atol=1e-15)


def test_ledoit_wolf_is_that_of_scikit_learn() -> None:
    past = world(120, assets=12)
    truth = peer.LedoitWolf().fit(past.returns[-60:])
    found = LedoitWolf(60).fit(past).outlook(1, RNG)
    assert np.allclose(found.covariance.dense().numpy(), truth.covariance_, atol=1e-14)


def test_gaps_leave_finite_positive_definite_moments() -> None:
    past = world(300, assets=6)
    r = past.returns.copy()
    r[:250, 1], r[:296, 2], r[:, 3], r[::7, 4] = np.nan, np.nan, np.nan, np.nan
    tradeable = past.tradeable.copy()
    tradeable[3] = False
    found = SampleMoments(200).fit(replace(past, returns=r, tradeable=tradeable))
    assert "A2" in found.status.message and "A3" in found.status.message and "A1" not in found.status.message
    outlook = found.outlook(21, RNG)
    cov = outlook.covariance.dense()
    assert torch.isfinite(outlook.mean).all() and torch.isfinite(cov).all()
    assert outlook.scenarios is not None and torch.isfinite(outlook.scenarios).all()
    assert torch.linalg.eigvalsh(cov)[0] > 0
    whole = SampleMoments(200).fit(past).outlook(21, RNG).covariance.dense().diagonal()
    ratio = (cov.diagonal() / whole).numpy()
    assert np.all((ratio[[0, 1, 4, 5]] > 0.5) & (ratio[[0, 1, 4, 5]] < 2.0))
    spread = (outlook.scenarios.var(0) / cov.diagonal()).numpy()
    assert spread == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [(1, np.nan, "A1.*no return"), (2, 0.001, "A2.*constant"), (0, np.inf, "A0.*infinite"), (3, 1.5, "A3.*percent")],
)
def test_bad_series_are_named(column: int, value: float, words: str) -> None:
    past = world(200)
    r = past.returns.copy()
    if value == 1.5:
        r[:, column] *= 100
    elif np.isinf(value):
        r[-3, column] = value
    else:
        r[:, column] = value
    with pytest.raises(DataError, match=words):
        SampleMoments(100).fit(replace(past, returns=r))


def test_the_past_before_the_window_does_not_matter() -> None:
    past = world(300)
    r = past.returns.copy()
    r[:150] = 0.2
    one, two = (SampleMoments(150).fit(p).outlook(5, RNG) for p in (past, replace(past, returns=r)))
    assert torch.equal(one.mean, two.mean)


def test_spec_round_trips() -> None:
    spec = SampleMoments(lookback=60, mean="shrunk")
    assert MarketModel.from_json(spec.model_dump_json()) == spec
    assert spec.history == 60
    with pytest.raises(SpecError):
        SampleMoments(lookback=1)
