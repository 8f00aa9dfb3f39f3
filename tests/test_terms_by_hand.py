"""Optima that can be derived by hand on two or three names, through the public door: values and weights to 1e-6."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from portfolio_ebm.allocation import Allocation
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation, Semideviation, Semivariance, Volatility
from portfolio_ebm.energies.entropic import EntropicRisk
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.impact import BorrowCost, MarketImpact
from portfolio_ebm.energies.ratio import MeanVolatility
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.robust import BoxReturn, EllipsoidReturn, RobustVariance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energies.views import View, Views
from portfolio_ebm.energy import Energy
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook
from portfolio_ebm.optimization import optimize
from portfolio_ebm.types import generator

ANY = Box(-50.0, 50.0)
"""Wide enough never to bind."""


def check(energy: Energy, rules: Constraint, weights: Any, value: float, **given: Any) -> Allocation:
    """The optimum is `value` at `weights`, to 1e-6 of their sizes, and proven as near."""
    found = optimize(energy, rules, constructor=Convex(), **given)
    weights = np.asarray(weights)
    np.testing.assert_allclose(np.asarray(found.weights), weights, rtol=0, atol=1e-6 * np.abs(weights).max())
    assert found.energy == pytest.approx(value, rel=1e-6)
    assert found.status.ok
    return found


S3 = np.array([[0.04, 0.01, 0.0], [0.01, 0.09, -0.02], [0.0, -0.02, 0.16]])
M3 = np.array([0.02, 0.05, -0.03])


def test_impact_stops_a_trade_where_the_next_bit_costs_its_gain():
    # Names alone: -m d + a |d|^(3/2) has the slope zero where (3/2) a sqrt|d| = |m|, so d = sign(m) (2 m / 3 a)^2 and
    # the value is -m held - |m| |d| / 3. Here a = s sqrt(A / V), s the standard deviations.
    held, volume, capital = np.array([0.2, 0.5, 0.3]), np.array([4e6, 1e6, 2e6]), 1e6
    a = np.sqrt(np.diag(S3) * capital / volume)
    d = np.sign(M3) * (2 * M3 / (3 * a)) ** 2
    value = float(-M3 @ held - np.abs(M3) @ np.abs(d) / 3)
    given = {"mean": M3, "covariance": S3, "held": held, "volume": volume, "capital": capital}
    check(Return() + MarketImpact(), ANY, held + d, value, **given)
    # Fully invested in two names: d moves from one to the other, gains m_1 - m_2 and costs a_1 + a_2.
    two = {key: x[:2] if key != "capital" else x for key, x in given.items()} | {"covariance": S3[:2, :2]}
    two["held"], gain, cost = np.array([0.6, 0.4]), M3[1] - M3[0], a[0] + a[1]
    d = (2 * gain / (3 * cost)) ** 2
    value = float(-M3[:2] @ two["held"] - gain * d / 3)
    check(Return() + MarketImpact(), Budget() & LongOnly(), [0.6 - d, 0.4 + d], value, **two)


def test_a_borrowing_fee_keeps_a_name_out_until_its_loss_exceeds_it():
    # -m w + c v w^2 + f max(-w, 0), name by name: w = m / 2cv above zero, (m + f) / 2cv where m < -f, else zero; the
    # value is -c v w^2.
    m, v, f, c = np.array([0.02, -0.001, -0.03]), np.array([0.04, 0.09, 0.16]), np.array([0.001, 0.002, 0.004]), 0.5
    w = np.array([m[0] / (2 * c * v[0]), 0.0, (m[2] + f[2]) / (2 * c * v[2])])
    given = {"mean": m, "covariance": np.diag(v), "forecasts": {"fee": f}}
    check(Return() + c * Variance() + BorrowCost(rates="fee"), ANY, w, float(-c * v @ w**2), **given)


def test_a_cost_of_trading_leaves_a_name_where_it_is_until_the_gain_exceeds_it():
    # -m w + c v w^2 + t |w - h|: at w = h the slope without the cost is 2 c v h - m; within t of zero the name stays,
    # else w = (m -+ t) / 2cv.
    m, v, h, t, c = np.array([0.02, 0.03, -0.03]), np.array([0.04, 0.09, 0.16]), np.array([0.2, 0.33, 0.1]), 0.002, 0.5
    slope = 2 * c * v * h - m
    assert slope[0] < -t < slope[1] < t < slope[2]
    w = np.array([(m[0] - t) / (2 * c * v[0]), h[1], (m[2] + t) / (2 * c * v[2])])
    value = float(-m @ w + c * v @ w**2 + t * np.abs(w - h).sum())
    check(Return() + c * Variance() + TradingCost(t), ANY, w, value, mean=m, covariance=np.diag(v), held=h)


def test_a_box_of_means_is_a_soft_threshold():
    # -m w + z s |w| + c v w^2 with s = sqrt(v / T): w = sign(m) max(|m| - z s, 0) / 2cv and the value -c v w^2.
    m, v, z, t, c = np.array([0.02, -0.05, 0.004]), np.array([0.04, 0.09, 0.16]), 1.5, 900.0, 0.7
    w = np.sign(m) * np.maximum(np.abs(m) - z * np.sqrt(v / t), 0.0) / (2 * c * v)
    assert w[2] == 0.0 and w[0] > 0.0 > w[1]
    check(BoxReturn(t, errors=z) + c * Variance(), ANY, w, float(-c * v @ w**2), mean=m, covariance=np.diag(v))


def test_an_ellipsoid_of_means_shortens_the_portfolio_or_spreads_it():
    # With a^2 = m'S^-1 m, w = x S^-1 m gives -x a^2 + k x a / sqrt(T) + c x^2 a^2, so x = (1 - k / (a sqrt T)) / 2c.
    k, t, c, raw = 2.0, 900.0, 0.7, np.linalg.solve(S3, M3)
    a = math.sqrt(M3 @ raw)
    x = (1 - k / (a * math.sqrt(t))) / (2 * c)
    assert x > 0.0
    given = {"mean": M3, "covariance": S3}
    check(EllipsoidReturn(t, size=k) + c * Variance(), ANY, x * raw, -c * (x * a) ** 2, **given)
    # Fully invested, Q = S / T: from the portfolio w0 of least risk s0 along e = Q^-1 (m - m0 1), with D^2 = m'e, risk
    # is sqrt(s0^2 + x^2 D^2) and return m0 + x D^2: x = s0 / sqrt(k^2 - D^2), value s0 sqrt(k^2 - D^2) - m0.
    q, one = S3 / t, np.ones(3)
    k = 10.0
    w0 = np.linalg.solve(q, one) / (one @ np.linalg.solve(q, one))
    e = np.linalg.solve(q, M3 - w0 @ M3)
    s0, d2 = math.sqrt(w0 @ q @ w0), float(M3 @ e)
    left = math.sqrt(k**2 - d2)
    check(EllipsoidReturn(t, size=k), Budget() & ANY, w0 + s0 / left * e, s0 * left - float(w0 @ M3), **given)


def test_doubt_about_the_covariance_is_a_ridge_or_a_common_factor():
    # Fully invested, w'Kw is least at K^-1 1 / 1'K^-1 1 with the value 1 / 1'K^-1 1. Errors in Frobenius norm add r I;
    # errors of every correlation d s s' where all weights are positive, so there K = S + d s s'.
    one, s = np.ones(3), np.sqrt(np.diag(S3))
    ridge = S3 + 0.2 * np.diag(S3).mean() * np.eye(3)
    common = S3 + 0.1 * np.outer(s, s)
    for energy, k in ((RobustVariance(frobenius=0.2), ridge), (RobustVariance(correlation=0.1), common)):
        raw = np.linalg.solve(k, one)
        assert (raw > 0).all()
        check(energy, Budget() & ANY, raw / raw.sum(), 1 / raw.sum(), covariance=S3)


def test_entropic_risk_of_two_points_a_name():
    # Independent names, up u or down d with probability 1/2 each: the risk is a sum over names of (1/g) log(1/2
    # exp(-g w u) + 1/2 exp(g w d)), flat where u exp(-g w u) = d exp(g w d): w = log(u / d) / (g (u + d)).
    g, u, d = 5.0, np.array([0.05, 0.03]), np.array([0.04, 0.035])
    r = np.array([[x, y] for x in (u[0], -d[0]) for y in (u[1], -d[1])])
    w = np.log(u / d) / (g * (u + d))
    value = float(np.log(0.5 * np.exp(-g * w * u) + 0.5 * np.exp(g * w * d)).sum() / g)
    check(EntropicRisk(g, centred=False), ANY, w, value, scenarios=r)
    # Centred and even, +-a: (1/g) log cosh(g w a) against m w: w = atanh(m / a) / (g a).
    a, m = np.array([0.04, 0.03]), np.array([0.004, -0.006])
    r = np.array([[x, y] for x in (a[0], -a[0]) for y in (a[1], -a[1])])
    w = np.arctanh(m / a) / (g * a)
    value = float(-m @ w + np.log(np.cosh(g * w * a)).sum() / g)
    check(Return() + EntropicRisk(g), ANY, w, value, scenarios=r, mean=m)


def test_factor_risk_of_two_points_a_part():
    # Each part is +-a with probability 1/2, the names load on it by B: (1/g) log cosh(g b a) a part, b = B'w, against
    # m'w = n'b with n = B^-1 m: b = atanh(n / a) / (g a), w = B'^-1 b.
    g, a, m = 5.0, torch.tensor([0.04, 0.03]).double(), torch.tensor([0.004, -0.002]).double()
    loads = torch.tensor([[1.0, 0.2], [-0.3, 0.8]]).double()
    n = torch.linalg.solve(loads, m)
    b = torch.atanh(n / a) / (g * a)
    w = torch.linalg.solve(loads.mT, b)
    parts = Marginals(("x", "y"), loads, torch.stack([a, -a], 1), torch.full((2, 2), -math.log(2)).double(), 8.0)
    look = Outlook(m, Structured.from_dense(torch.eye(2).double()), None, parts, 1.0)
    ctx = Context(("A", "B"), look, None, torch.ones(2, dtype=torch.bool))
    found = Convex().build(Return() + FactorRisk(g), ANY, ctx, generator(0, "x"))
    torch.testing.assert_close(found.weights, w, rtol=0, atol=1e-6 * float(w.abs().max()))
    value = float(-m @ w + torch.log(torch.cosh(g * b * a)).sum() / g)
    assert found.status.ok and found.energy == pytest.approx(value, rel=1e-6)


def test_a_view_moves_the_portfolio_to_that_of_the_posterior_mean():
    # Two Gaussian laws of the first mean: precisions a = 1 / (tau v_1) and b = 1 / deviation^2 weigh pi_1 and q; the
    # second mean follows by its beta S_12 / v_1. Then -m'w + c w'S w is least at S^-1 m / 2c, value -c w'S w.
    v1, v2, cov, tau, q, deviation, c = 0.04, 0.09, 0.01, 0.5, 0.05, 0.02, 1.25
    pi1, pi2 = 0.02, 0.03
    a, b = 1 / (tau * v1), 1 / deviation**2
    m1 = (a * pi1 + b * q) / (a + b)
    m2 = pi2 + cov / v1 * (m1 - pi1)
    w = np.array([v2 * m1 - cov * m2, v1 * m2 - cov * m1]) / (v1 * v2 - cov**2) / (2 * c)
    s = np.array([[v1, cov], [cov, v2]])
    energy = Views((View("A", q, deviation=deviation),), tau=tau) + c * Variance()
    given = {"mean": np.array([pi1, pi2]), "covariance": s, "assets": ["A", "B"]}
    check(energy, ANY, w, -c * float(w @ s @ w), **given)
    # Fully invested, x in A: -(m1 - m2) x + c (v1 x^2 + 2 cov x (1 - x) + v2 (1 - x)^2) is flat at this x.
    x = (m1 - m2 + 2 * c * (v2 - cov)) / (2 * c * (v1 + v2 - 2 * cov))
    w = np.array([x, 1 - x])
    check(energy, Budget() & ANY, w, c * float(w @ s @ w) - m1 * x - m2 * (1 - x), **given)


def test_a_view_that_says_what_the_equilibrium_says_ends_at_the_benchmark():
    # pi = g S b makes b the least of -pi'w + g/2 w'S w, with the value -g/2 b'S b.
    g, bench = 3.0, np.array([0.5, 0.3, 0.2])
    said = float((g * S3 @ bench)[0])
    energy = Views((View("A", said, confidence=0.6),), benchmark="index", risk_aversion=g) + g / 2 * Variance()
    given = {"covariance": S3, "assets": ["A", "B", "C"], "benchmarks": {"index": bench}}
    check(energy, ANY, bench, -g / 2 * float(bench @ S3 @ bench), **given)


def test_mean_volatility_holds_the_most_volatile_name_or_the_inverse_of_volatilities():
    # -s'w on the simplex is at the largest s. Of uncorrelated names with c w'S w: w = 1 / (2 c s), value -n / 4c; fully
    # invested w = (s + nu) / (2 c s^2) with the nu that makes them one.
    s, c = np.array([0.2, 0.3, 0.4]), 2.0
    given = {"covariance": np.diag(s**2)}
    check(MeanVolatility(), Budget() & LongOnly(), [0.0, 0.0, 1.0], -0.4, **given)
    energy = MeanVolatility() + c * Variance()
    check(energy, ANY, 1 / (2 * c * s), -3 / (4 * c), **given)
    nu = (1 - (1 / (2 * c * s)).sum()) / (1 / (2 * c * s**2)).sum()
    w = (s + nu) / (2 * c * s**2)
    check(energy, Budget() & ANY, w, float(-s @ w + c * s**2 @ w**2), **given)


def even(a: float, b: float) -> np.ndarray:
    """Three names: one without risk, and +-a and +-b independently."""
    return np.array([[0.0, x, y] for x in (a, -a) for y in (b, -b)])


@pytest.mark.parametrize("measure", [Volatility(), Variance(), Semideviation(), Semivariance()], ids=repr)
def test_what_a_cap_takes_from_the_benchmark_goes_where_it_moves_least(measure):
    # The cap takes t off the first name, which has no risk; x + y = t goes to the others, and a^2 x^2 + b^2 y^2 is
    # least at x = t b^2 / (a^2 + b^2), with the value t^2 a^2 b^2 / (a^2 + b^2); half of it is below the mean.
    a, b, t = 0.03, 0.05, 0.1
    x = t * b**2 / (a**2 + b**2)
    value = (t * a * b) ** 2 / (a**2 + b**2)
    value *= 0.5 if isinstance(measure, Semideviation | Semivariance) else 1.0
    value = math.sqrt(value) if isinstance(measure, Volatility | Semideviation) else value
    given = {"scenarios": even(a, b), "covariance": np.diag([0.0, a**2, b**2])}
    given |= {"benchmarks": {"index": np.array([0.6, 0.3, 0.1])}}
    check(TrackingError("index", measure), Budget() & Box(0.0, 0.5), [0.5, 0.3 + x, 0.1 + t - x], value, **given)


@pytest.mark.parametrize("measure", [MeanAbsoluteDeviation(), CVaR(0.5, centred=True)], ids=repr)
def test_absolute_shortfalls_are_even_where_a_cap_binds(measure):
    # Active returns are +-a x +- b y: their mean size is max(a x, b y), and so is the mean of the worse half; with
    # x + y = t it is least where the two are equal, x = t b / (a + b), with the value t a b / (a + b).
    a, b, t = 0.03, 0.05, 0.1
    x = t * b / (a + b)
    given = {"scenarios": even(a, b), "benchmarks": {"index": np.array([0.6, 0.3, 0.1])}}
    weights = [0.5, 0.3 + x, 0.1 + t - x]
    check(TrackingError("index", measure), Budget() & Box(0.0, 0.5), weights, t * a * b / (a + b), **given)
