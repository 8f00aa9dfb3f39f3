"""Scoring rules and tests of forecasts: Newey-West, Kupiec, Christoffersen, and the FZ0 loss of value at risk and ES.

Returns r, value at risk v and expected shortfall e are returns here: losses are negative. p is the share of the tail.
Days with NaN are left out of everything.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import xlogy

Array = NDArray[np.float64]
Z95 = 1.959963984540054


def newey_west(x: Array, lags: int | None = None) -> float:
    """Standard error of the mean of x (T,), robust to heteroscedasticity and autocorrelation; NaN with no value.

    Its square: (1/T) [c_0 + 2 sum_{k<=L} (1 - k / (L + 1)) c_k],  c_k = sum_t e_t e_{t-k} / T;  without `lags`,
    L = 4 (T / 100)^(2/9).

    Source: W. Newey and K. West (1987), Econometrica 55; the lag rule: (1994), Review of Economic Studies 61.
    """
    x = x[np.isfinite(x)]
    n = len(x)
    if n == 0:
        return math.nan
    most = min(int(4 * (n / 100) ** (2 / 9)) if lags is None else lags, n - 1)
    e = x - x.mean()
    total = e @ e / n
    for k in range(1, most + 1):
        total += 2 * (1 - k / (most + 1)) * (e[k:] @ e[:-k]) / n
    return math.sqrt(max(total, 0.0) / n)


def hits(r: Array, v: Array) -> Array:
    """1 where the return is at or below its value at risk, 0 elsewhere, of the days that have both."""
    known = np.isfinite(r) & np.isfinite(v)
    return (r[known] <= v[known]).astype(np.float64)


def kupiec(hit: Array, p: float) -> float:
    """p-value of the test that hits (T,) have the probability p: 2 log likelihood ratio, chi-squared(1).

    Source: P. Kupiec (1995), Techniques for verifying the accuracy of risk measurement models, J. of Derivatives 3.
    """
    n, x = len(hit), float(hit.sum())
    if n == 0:
        return math.nan
    ratio = 2 * (_log_likelihood(x, n, x / n) - _log_likelihood(x, n, p))
    return float(stats.chi2.sf(max(ratio, 0.0), 1))


def christoffersen(hit: Array, p: float) -> float:
    """p-value of conditional coverage: hits come with probability p whatever the day before was; chi-squared(2).

    The alternative is a first-order Markov chain; the first day is taken as given.

    Source: P. Christoffersen (1998), Evaluating interval forecasts, International Economic Review 39.
    """
    if len(hit) < 2:
        return math.nan
    before, after = hit[:-1], hit[1:]
    ratio = 0.0
    for state in (0.0, 1.0):
        n, x = float((before == state).sum()), float(after[before == state].sum())
        if n > 0:
            ratio += 2 * (_log_likelihood(x, n, x / n) - _log_likelihood(x, n, p))
    return float(stats.chi2.sf(max(ratio, 0.0), 2))


def fz0(r: Array, v: Array, e: Array, p: float) -> Array:
    """The FZ0 loss of each day, (T,): strictly consistent for value at risk and expected shortfall together.

    L = -1{r <= v} (v - r) / (p e) + v / e + log(-e) - 1,  for e <= v < 0. NaN where e is not below zero.

    Source: T. Fissler and J. Ziegel (2016), Annals of Statistics 44; A. Patton, J. Ziegel and R. Chen (2019), Dynamic
    semiparametric models for expected shortfall (and value-at-risk), Journal of Econometrics 211.
    """
    e = np.where(e < 0, e, np.nan)
    with np.errstate(invalid="ignore"):
        beyond = np.where(r <= v, v - r, 0.0)
    loss: Array = -beyond / (p * e) + v / e + np.log(-e) - 1
    return np.where(np.isfinite(r), loss, np.nan)


def uniform_distance(u: Array) -> tuple[float, float]:
    """(D, p-value) of Kolmogorov and Smirnov for PITs u (T,) against the uniform law."""
    u = u[np.isfinite(u)]
    if not len(u):
        return math.nan, math.nan
    found = stats.kstest(u, "uniform")
    return float(found.statistic), float(found.pvalue)


def _log_likelihood(x: float, n: float, p: float) -> float:
    return float(xlogy(x, p) + xlogy(n - x, 1 - p))
