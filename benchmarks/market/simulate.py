"""Tails of portfolios of series whose margins are tied by a copula, from draws: 4,000 a day, in antithetic pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from benchmarks.market.laws import tail_mean
from benchmarks.market.margins import Filtered

Array = NDArray[np.float64]
DRAWS = 4000
CHUNK = 63
REACH, KNOTS = 7.0, 4096


def tails_of_copula(
    found: Sequence[Filtered], matrices: Array, freedom: float, weights: Array, span: slice, rng: np.random.Generator
) -> dict[str, Array]:
    """VaR and ES (days, P) of the portfolios in `weights` (P, K) over the rows `span`.

    Args:
        found: one-step forecasts of each series, in percent.
        matrices: correlations of the copula's scores, (days, K, K) or (K, K).
        freedom: nu of the t copula; infinite for a normal one.
    """
    days, k = span.stop - span.start, len(found)
    roots = np.broadcast_to(np.linalg.cholesky(matrices), (days, k, k))
    knots, carry = _carry(found, freedom)
    step = knots[1] - knots[0]
    out = []
    for start in range(0, days, CHUNK):
        rows = slice(start, min(start + CHUNK, days))
        half = rng.standard_normal((rows.stop - rows.start, DRAWS // 2, k))
        score = np.concatenate([half, -half], axis=1) @ np.swapaxes(roots[rows], 1, 2)
        if not math.isinf(freedom):
            mix = np.sqrt(freedom / rng.chisquare(freedom, size=half.shape[:2]))
            score *= np.concatenate([mix, mix], axis=1)[..., None]
        place = np.clip((np.arcsinh(score) - knots[0]) / step, 0, KNOTS - 1.000001)
        left = place.astype(np.intp)
        z = np.empty_like(score)
        for i in range(k):
            low, high = carry[i][left[..., i]], carry[i][left[..., i] + 1]
            z[..., i] = low + (place[..., i] - left[..., i]) * (high - low)
        inside = slice(span.start + rows.start, span.start + rows.stop)
        out.append(tails_of_draws(_returns(found, z, inside), weights))
    return {what: np.concatenate([part[what] for part in out]) for what in out[0]}


def tails_of_uniforms(found: Sequence[Filtered], u: Array, weights: Array, span: slice) -> dict[str, Array]:
    """As above, for a static copula given by draws u (N, K) that serve every day."""
    u = np.clip(u, 1e-10, 1 - 1e-10)
    z = np.stack([f.law.quantile(u[:, i]) for i, f in enumerate(found)], axis=-1)
    out = []
    for start in range(span.start, span.stop, CHUNK):
        inside = slice(start, min(start + CHUNK, span.stop))
        out.append(tails_of_draws(_returns(found, z[None], inside), weights))
    return {what: np.concatenate([part[what] for part in out]) for what in out[0]}


def tails_of_draws(returns: Array, weights: Array) -> dict[str, Array]:
    """VaR and ES at 1 % and 5 % of portfolios (P, K) at draws (days, N, K): each (days, P)."""
    portfolio = np.swapaxes(returns @ weights.T, 1, 2)
    n = portfolio.shape[-1]
    count = int(0.05 * n) + 1
    worst = np.sort(np.partition(portfolio, count, axis=-1)[..., :count], axis=-1)
    out = {}
    for tag, level in (("1", 0.01), ("5", 0.05)):
        out[f"var{tag}"] = worst[..., max(math.ceil(level * n - 1e-9) - 1, 0)]
        out[f"es{tag}"] = tail_mean(worst, level * n / worst.shape[-1])
    return out


def _returns(found: Sequence[Filtered], z: Array, rows: slice) -> Array:
    location = np.stack([f.location[rows] for f in found], axis=-1)[:, None]
    scale = np.stack([f.scale[rows] for f in found], axis=-1)[:, None]
    out: Array = (location + scale * z) / 100
    return out


def _carry(found: Sequence[Filtered], freedom: float) -> tuple[Array, list[Array]]:
    """z = F^{-1}(T_nu(score)) of each margin on knots equally spaced in asinh(score)."""
    knots = np.linspace(-REACH, REACH, KNOTS)
    u = ndtr(np.sinh(knots)) if math.isinf(freedom) else stdtr(freedom, np.sinh(knots))
    u = np.clip(u, 1e-12, 1 - 1e-12)
    return knots, [f.law.quantile(u) for f in found]
