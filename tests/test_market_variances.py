"""Variances that a scale mixes, and the drift: regressions that forget."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from portfolio_ebm.market.drift import forecasts
from portfolio_ebm.market.variances import ABSOLUTE, ABSOLUTE_SCALE, COUNT, advance, expected, past_variances, settled
from portfolio_ebm.models.conditional import Shape


def normal_shape() -> Shape:
    """The standard normal's moments; its tables are not used."""
    one = torch.ones(1, dtype=torch.float64)
    return Shape(one[:, None], one[:, None], 0 * one, one, one, one * math.sqrt(2 / math.pi))


def test_an_absolute_variance_by_hand() -> None:
    """Half-life 5: after moves 1 and -3 the mean move is (3 + 1 lam) / (1 + lam)."""
    v = past_variances(np.array([[1.0], [-3.0]]))
    lam = 0.5 ** (1 / ABSOLUTE[0])
    assert v[2, 0, COUNT - len(ABSOLUTE)] == pytest.approx(ABSOLUTE_SCALE * ((3 + lam) / (1 + lam)) ** 2)
    assert np.isnan(v[0]).all()


def test_the_recursion_ahead_is_that_of_the_past() -> None:
    """Once the first days are forgotten, one more day moves the past's variances as `advance` does."""
    e = np.random.default_rng(0).standard_normal((8000, 2))
    v = torch.from_numpy(past_variances(e))
    moved = advance(v[-2], torch.from_numpy(e[-1]))
    assert (moved / v[-1] - 1).abs().max() < 1e-8


def test_expected_variances_are_the_mean_over_draws() -> None:
    rng = torch.Generator().manual_seed(0)
    v = 0.5 + torch.rand(1, COUNT, generator=rng, dtype=torch.float64)
    sigma2 = torch.tensor([1.7], dtype=torch.float64)
    e = sigma2.sqrt() * torch.randn(400_000, generator=rng, dtype=torch.float64)
    drawn = advance(v.expand(len(e), -1), e)
    error = drawn.std(0) / math.sqrt(len(e))
    assert ((drawn.mean(0) - expected(v, sigma2, normal_shape())[0]).abs() < 4.5 * error).all()


def test_settled_variances_stay_where_they_are() -> None:
    at = settled(normal_shape()) * 2.3
    again = expected(at, torch.tensor([2.3], dtype=torch.float64), normal_shape())
    assert (again - at).abs().max() < 1e-12


@pytest.mark.parametrize("row", [0, 1, 37, 60])
def test_a_forecast_is_the_weighted_ridge_regression(row: int) -> None:
    rng = np.random.default_rng(1)
    p, y = rng.standard_normal((3, 61, 2)), rng.standard_normal((60, 2))
    y[20:25, 1] = np.nan
    found = forecasts(y, p, half_life=12.0, ridge=3.0)
    for k in range(2):
        seen = np.flatnonzero(~np.isnan(y[:row, k]))
        weight = 0.5 ** ((row - 1 - seen) / 12.0)
        x = p[:, seen, k]
        slope = np.linalg.solve((x * weight) @ x.T + 3.0 * np.eye(3), (x * weight) @ y[seen, k])
        assert found[row, k] == pytest.approx(slope @ p[:, row, k], abs=1e-12)


def test_a_forecast_knows_nothing_of_the_day_or_after() -> None:
    rng = np.random.default_rng(2)
    p, y = rng.standard_normal((4, 101, 1)), rng.standard_normal((100, 1))
    poisoned, p2 = y.copy(), p.copy()
    poisoned[60:], p2[:, 61:] = 9.0, -9.0
    assert np.array_equal(forecasts(y, p)[:61], forecasts(poisoned, p2)[:61])
    assert not np.array_equal(forecasts(y, p)[61:], forecasts(poisoned, p2)[61:])


def test_a_slope_that_ended_is_forgotten() -> None:
    """An autocorrelation of 0.4 for 3,000 days and none since: 1,000 days later a forecast has hardly any of it."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(4000)
    x = noise.copy()
    for t in range(1, 3000):
        x[t] = 0.4 * x[t - 1] + noise[t]
    last = np.concatenate([[0.0], x])[None, :, None]
    found = forecasts(x[:, None], last)[:, 0]
    slope = [float(np.polyfit(last[0, a:b, 0], found[a:b], 1)[0]) for a, b in ((2000, 3000), (3700, 4001))]
    assert slope[0] == pytest.approx(0.37, abs=0.08) and abs(slope[1]) < 0.12
