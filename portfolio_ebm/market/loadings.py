"""Loadings: what each asset has of each factor, by exponentially weighted ridge regression, known the day before.

    B_t = argmin sum_{k<=t} lam^(t-k) (r_k - B f_k)^2 + 5% ridge,     eps_t = r_t - B_{t-1} f_t.

In moments, (A + (ridge + few) diag A) B = C + few diag(A) B_0 with A, C the EW means of f f' and f r over the days both
were observed: the ridge pulls to zero, and `few` = 2 / (effective days) pulls a short history to B_0, one on the
market and nothing else. With no day at all the loading is B_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from portfolio_ebm.market.states import ew_mean

Array = NDArray[np.float64]

HALF_LIFE = 126.0
RIDGE = 0.05
PRIOR_DAYS = 2.0
WARM_UP = 20
"""Days of both series before a beta to the market is used; until then the orthogonal part is missing."""


@dataclass(frozen=True)
class Loadings:
    """Loadings and what they leave.

    Attributes:
        path: B_{t-1} for t = 0..T, (T + 1, n, K); the last is today's.
        residuals: eps (T, n), NaN where the asset or a factor was not observed.
        days: effective days behind today's loadings, (n,).
    """

    path: Array
    residuals: Array
    days: Array

    @property
    def today(self) -> Array:
        last: Array = self.path[-1]
        return last


def orthogonalise(series: Array, market: Array, half_life: float = HALF_LIFE) -> tuple[Array, Array]:
    """Each style series (T, K) less its causal beta times the market (T,): x_t = f_t - beta_{t-1} m_t.

    beta_t is the EW regression through the origin, of one series on the market alone, so that no factor touches
    another. Returns x (T, K), NaN in the first 20 days, and beta at t = 0..T, (T + 1, K).

    Example:
        >>> x, beta = orthogonalise(etfs, market)
    """
    both = ~np.isnan(series) & ~np.isnan(market)[:, None]
    gap = np.where(both, 0.0, np.nan)
    cross = ew_mean(series * market[:, None] + gap, half_life)
    power = ew_mean(np.broadcast_to(market[:, None] ** 2, series.shape) + gap, half_life)
    days = np.concatenate([np.zeros((1, series.shape[1])), np.cumsum(both, axis=0)])
    ready = (days >= WARM_UP) & (np.nan_to_num(power) > 0)
    beta = np.where(ready, cross / np.where(ready, power, 1.0), np.nan)
    return series - beta[:-1] * market[:, None], np.asarray(beta, dtype=np.float64)


def loadings(returns: Array, factors: Array, market: int | None, half_life: float = HALF_LIFE) -> Loadings:
    """EW ridge regression of every asset (T, n) on the factors (T, K); `market` is the column of B_0's one.

    Names with the same days observed share one factor moment, so a panel without gaps costs one K x K solve a day.
    """
    periods, n = returns.shape
    k = factors.shape[1]
    lam = 0.5 ** (1.0 / half_life)
    whole: NDArray[np.bool_] = np.logical_not(np.isnan(factors).any(axis=1))
    f = np.where(whole[:, None], factors, 0.0)
    prior = np.zeros(k)
    if market is not None:
        prior[market] = 1.0
    path = np.empty((periods + 1, n, k))
    path[0] = prior
    days = np.zeros(n)
    seen: NDArray[np.bool_] = np.logical_and(~np.isnan(returns), whole[:, None])
    patterns, member = np.unique(seen, axis=1, return_inverse=True)
    for g in range(patterns.shape[1]):
        who = np.flatnonzero(member.reshape(-1) == g)
        on = patterns[:, g].astype(np.float64)
        weight = _recursion(on, lam)
        power = _recursion(on[:, None, None] * f[:, :, None] * f[:, None, :], lam)
        cross = _recursion(
            on[:, None, None] * f[:, :, None] * np.where(on[:, None] > 0, returns[:, who], 0.0)[:, None, :], lam
        )
        path[1:, who] = _solve(power, cross, weight, prior)
        days[who] = weight[-1]
    fitted = (path[:-1] * f[:, None, :]).sum(-1)
    return Loadings(path, np.where(seen, returns - fitted, np.nan), days)


def _recursion(x: Array, lam: float) -> Array:
    return np.asarray(lfilter([1.0], [1.0, -lam], x, axis=0), dtype=np.float64)


def _solve(power: Array, cross: Array, weight: Array, prior: Array) -> Array:
    """B (T, members, K) from sums over days: power (T, K, K), cross (T, K, members), weight (T,)."""
    diagonal = np.einsum("tkk->tk", power)
    few = PRIOR_DAYS / np.maximum(weight, 1e-12)
    out = np.broadcast_to(prior, (len(weight), cross.shape[2], len(prior))).copy()
    ready = (diagonal > 0).all(axis=1)
    if ready.any():
        a, d = power[ready], diagonal[ready]
        lift = np.zeros_like(a)
        np.einsum("tkk->tk", lift)[:] = d * (RIDGE + few[ready])[:, None]
        right = cross[ready] + (d * few[ready][:, None] * prior)[:, :, None]
        out[ready] = np.swapaxes(np.linalg.solve(a + lift, right), 1, 2)
    return out
