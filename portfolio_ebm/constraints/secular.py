"""The multiplier at which the minimum on a face meets an ellipsoid.

    w(mu) = argmin 1/2 w'Hw + c'w + mu/2 q(w),   q(w) = (w - m)'S(w - m),   on a face { w + Z t }

In coordinates of Z'HZ that make Z'SZ diagonal, diag(s), and with the slopes a of the quadratic and b of q/2 at the
point the face is given by,

    t(mu) = -(a + mu b) / (1 + mu s),   q(mu) = q + 2 b't + t' diag(s) t,   q'(mu) = -2 sum (b + s t)^2 / (1 + mu s)

The root of q(mu) = goal is found by Newton's steps on 1/sqrt(q), which rises almost in a line.

Source: More, J. J. and Sorensen, D. C. (1983), Computing a trust region step, SIAM J. Sci. Stat. Comput. 4, whose
secular equation this is, on a face.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, eigh

Array = NDArray[np.float64]

_STEPS, _FAR = 30, 1e14
_STILL = 1e-12  # Newton's steps square what is left, so that rounding is all there is after one of this share
_DEPENDENT = 1e-10


def secular_root(bend: Array, pull: Array, curve: Array, slope: Array, size: float, rows: Array, goal: float) -> float:
    """mu with q(mu) = goal on the face; nan where there is none.

    Args:
        bend: H (k, k), positive definite, and `pull` (k,), the slope H w + c, at the free names of the face.
        curve: S (k, k), and `slope` (k,), S (w - m), there.
        size: q(w). rows: (r, k), the rows that bind.
    """
    axes = _along(rows)
    if not axes.shape[1]:
        return np.nan
    try:
        s, v = eigh(axes.T @ curve @ axes, axes.T @ bend @ axes)
    except LinAlgError:
        return np.nan
    turn = v.T @ axes.T
    a, b, s = turn @ pull, turn @ slope, np.maximum(s, 0.0)
    mu: float = 0.0
    for _ in range(_STEPS):
        lever = 1.0 / (1.0 + mu * s)
        t = -(a + mu * b) * lever
        q = size + float((2.0 * b + s * t) @ t)
        fall = 2.0 * float((b + s * t) ** 2 @ lever)
        if not (q > 0.0 and fall > 0.0):
            return np.nan
        step = 2.0 * q * (np.sqrt(q / goal) - 1.0) / fall
        mu, before = float(max(mu + step, 0.0)), mu
        if abs(mu - before) <= _STILL * mu:
            return mu
        if mu > _FAR:
            break
    return np.nan


def _along(rows: Array) -> Array:
    """An orthonormal basis of the directions in which no row changes, (k, k - rank)."""
    k = rows.shape[1]
    if not len(rows):
        return np.eye(k)
    q, r = np.linalg.qr(rows.T, mode="complete")
    rank = int((np.abs(r.diagonal()) > _DEPENDENT * np.abs(r).max(initial=1e-300)).sum())
    return np.asarray(q[:, rank:])
