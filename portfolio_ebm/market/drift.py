"""Drift: what the last days say of the next, by a regression that forgets.

    y_t = <c_t, p_t> + noise,    c_t = (sum_{s<t} lam^(t-1-s) p_s p_s' + ridge I)^-1 sum_{s<t} lam^(t-1-s) p_s y_s,

for every series on its own predictors p. Autocorrelation and the market's lead over a series are strong for years and
then gone: a slope estimated once over all of the past outlives them, one that forgets does not. The ridge, in days of a
predictor of variance one, shrinks to no drift where little was seen.

Source: L. Ljung and T. Soderstrom (1983), Theory and practice of recursive identification (least squares with
exponential forgetting).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]

HALF_LIFE = 250.0
RIDGE = 30.0


def forecasts(y: Array, predictors: Array, half_life: float = HALF_LIFE, ridge: float = RIDGE) -> Array:
    """<c_t, p_t> at rows 0..T, (T + 1, M); each row sees y of rows before it, and the predictors up to it.

    Args:
        y: (T, M), NaN where not observed: such a row teaches nothing.
        predictors: p (P, T + 1, M), finite.

    Example:
        >>> forecasts(x, np.stack([np.concatenate([np.zeros_like(x[:1]), x])]))      # a moving AR(1)
    """
    count, before = len(predictors), predictors[:, :-1]
    seen = ~np.isnan(y)
    p, known = np.where(seen, before, 0.0), np.where(seen, y, 0.0)
    a = {(i, j): _sums(p[i] * p[j], half_life) for i in range(count) for j in range(i + 1)}
    b = [_sums(p[i] * known, half_life) for i in range(count)]
    for i in range(count):
        a[i, i] = a[i, i] + ridge
    return np.asarray(sum(c * q for c, q in zip(_solve(a, b), predictors, strict=True)))


def _sums(x: Array, half_life: float) -> Array:
    """EW sums of the rows before each, (T + 1, M)."""
    lam = 0.5 ** (1.0 / half_life)
    return np.concatenate([np.zeros_like(x[:1]), lfilter([1.0], [1.0, -lam], x, axis=0)])


def _solve(a: dict[tuple[int, int], Array], b: list[Array]) -> list[Array]:
    """A^{-1} b entry by entry over all rows at once, A symmetric positive definite: elimination without pivots."""
    a, b, count = dict(a), list(b), len(b)
    for k in range(count):
        for i in range(k + 1, count):
            share = a[i, k] / a[k, k]
            for j in range(k + 1, i + 1):
                a[i, j] = a[i, j] - share * a[j, k]
            b[i] = b[i] - share * b[k]
    for k in reversed(range(count)):
        for i in range(k + 1, count):
            b[k] = b[k] - a[i, k] * b[i]
        b[k] = b[k] / a[k, k]
    return b
