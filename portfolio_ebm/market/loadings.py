"""Loadings: what each asset has of each factor, by exponentially weighted ridge regression, known the day before.

    B_t = argmin sum_{k<=t} lam^(t-k) (r_k - B f_k)^2 + 5% ridge,     eps_t = r_t - B_{t-1} f_t.

In moments, (A + (ridge + few) diag A) B = C + few diag(A) B_0 with A, C the EW sums of f f' and f r over the days both
were observed: the ridge pulls to zero, and few = 20 / (days observed) pulls a short history to B_0. B_0 is one on the
market and nothing else; with groups, the mean of the others of the asset's group, weighted by their effective days w,

    B_0,i = (sum_{j in group, j != i} w_j B_j + 20 B_market) / (sum_{j in group, j != i} w_j + 20).

With no day at all the loading is B_0. A loading that is known is not estimated: its row of the equations says
B = known, and the others are fitted to what it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from portfolio_ebm.market.variances import ew_mean

Array = NDArray[np.float64]

HALF_LIFE = 126.0
RIDGE = 0.05
PRIOR_DAYS = 20.0
"""Days of its own at which an asset's loading is halfway between them and its prior."""
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


def loadings(
    returns: Array,
    factors: Array,
    market: int | None,
    half_life: float = HALF_LIFE,
    *,
    groups: Sequence[str] | None = None,
    known: Array | None = None,
) -> Loadings:
    """EW ridge regression of every asset (T, n) on the factors (T, K).

    Names with the same days observed share one factor moment, so a panel without gaps costs one K x K solve a day.

    Args:
        returns: (T, n), NaN where missing; such a day does not count for the asset.
        factors: (T, K); a day on which any is missing does not count at all.
        market: the column of B_0's one, or None.
        half_life: in days.
        groups: a label an asset, "" for none.
        known: loadings as known at each close, (T, n, K), NaN where they are to be estimated.
    """
    periods, n = returns.shape
    k = factors.shape[1]
    lam = 0.5 ** (1.0 / half_life)
    whole: NDArray[np.bool_] = np.logical_not(np.isnan(factors).any(axis=1))
    f = np.where(whole[:, None], factors, 0.0)
    start = np.zeros(k)
    if market is not None:
        start[market] = 1.0
    seen: NDArray[np.bool_] = np.logical_and(~np.isnan(returns), whole[:, None])
    sums = [_Sums.of(returns, f, seen, who, lam) for who in _alike(seen)]
    path = np.empty((periods + 1, n, k))
    path[0] = start
    weight = np.zeros((periods, n))
    for each in sums:
        given = None if known is None else known[:, each.who]
        path[1:, each.who] = _solve(each, start, given)
        weight[:, each.who] = each.weight[:, None]
    if groups is not None:
        prior = _group_means(path[1:], weight, groups, start)
        for each in sums:
            given = None if known is None else known[:, each.who]
            path[1:, each.who] = _solve(each, prior[:, each.who], given)
    fitted = (path[:-1] * f[:, None, :]).sum(-1)
    return Loadings(path, np.where(seen, returns - fitted, np.nan), weight[-1] if periods else np.zeros(n))


@dataclass(frozen=True)
class _Sums:
    """EW sums of the assets `who`, which were observed on the same days: f f' (T, K, K), f r (T, K, m), one (T,)."""

    who: NDArray[np.intp]
    power: Array
    cross: Array
    weight: Array
    days: Array

    @classmethod
    def of(cls, returns: Array, f: Array, seen: NDArray[np.bool_], who: NDArray[np.intp], lam: float) -> _Sums:
        on = seen[:, who[0]].astype(np.float64)
        r = np.where(on[:, None] > 0, returns[:, who], 0.0)
        power = _recursion(on[:, None, None] * f[:, :, None] * f[:, None, :], lam)
        return cls(who, power, _recursion(f[:, :, None] * r[:, None, :], lam), _recursion(on, lam), np.cumsum(on))


def _alike(seen: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The columns of seen (T, n) by what they hold."""
    found: dict[bytes, list[int]] = {}
    for i, column in enumerate(np.ascontiguousarray(seen.T)):
        found.setdefault(column.tobytes(), []).append(i)
    return [np.array(who) for who in found.values()]


def _group_means(b: Array, weight: Array, groups: Sequence[str], start: Array) -> Array:
    """B_0 of every asset and day, (T, n, K), from loadings (T, n, K) and effective days (T, n)."""
    prior = np.broadcast_to(start, b.shape).copy()
    labels = np.array(groups)
    for label in set(groups) - {""}:
        who = np.flatnonzero(labels == label)
        part = weight[:, who, None] * b[:, who]
        others = part.sum(1, keepdims=True) - part
        count = (weight[:, who].sum(1, keepdims=True) - weight[:, who])[..., None]
        prior[:, who] = (others + PRIOR_DAYS * start) / (count + PRIOR_DAYS)
    return prior


def _recursion(x: Array, lam: float) -> Array:
    return np.asarray(lfilter([1.0], [1.0, -lam], x, axis=0), dtype=np.float64)


def _solve(sums: _Sums, prior: Array, known: Array | None) -> Array:
    """B (T, m, K) of the assets of `sums`, with the prior (K,) or (T, m, K) and known loadings (T, m, K)."""
    periods, members = len(sums.weight), len(sums.who)
    k = sums.power.shape[1]
    prior = np.broadcast_to(prior, (periods, members, k))
    out = prior.copy()
    diagonal = np.einsum("tkk->tk", sums.power)
    ready = (diagonal > 0).all(axis=1)
    if ready.any():
        d, few = diagonal[ready], PRIOR_DAYS / sums.days[ready]
        left = sums.power[ready].copy()
        np.einsum("tkk->tk", left)[:] += d * (RIDGE + few[:, None])
        right = np.swapaxes(sums.cross[ready], 1, 2) + (d * few[:, None])[:, None] * prior[ready]
        if known is None or np.isnan(known).all():
            out[ready] = np.swapaxes(np.linalg.solve(left, np.swapaxes(right, 1, 2)), 1, 2)
        else:
            given = ~np.isnan(known[ready])
            own = np.where(given[..., None], np.eye(k), left[:, None])
            out[ready] = np.linalg.solve(own, np.where(given, known[ready], right)[..., None])[..., 0]
    return out if known is None else np.where(np.isnan(known), out, known)
