"""Exponentially weighted correlations of scores, known the day before.

    M_{h,t} = I / 10 + sum_{s<t} lam_h^(t-1-s) x_s x_s',   C_{h,t} = M to a unit diagonal,   lam_h = 2^(-1/h).

A missing score counts as zero: the sum of outer products stays positive semi-definite, and a pair seldom seen together
is shrunk to zero. A tenth of a day of the identity makes C defined, and the identity itself, before the first day.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]

CELLS = 6_000_000
"""Numbers of a path of matrices that are held at once."""

BEFORE = 0.1
"""Days of the identity before the first; more of it costs styles with correlations near one a lot."""


def moving_correlations(x: Array, half_lives: tuple[float, ...], rows: NDArray[np.intp]) -> Array:
    """C of every half-life on the days `rows`, (len(rows), H, K, K), for scores x (T, K) with NaN where missing."""
    known = np.nan_to_num(x)
    moments = [decayed(known, 0.5 ** (1.0 / h), rows) for h in half_lives]
    return to_correlations(np.stack(moments, axis=1) + BEFORE * np.eye(x.shape[1]))


def decayed(y: Array, decay: float, rows: NDArray[np.intp], own: Array | None = None) -> Array:
    """sum_{s<t} decay^(t-1-s) (y_s y_s' + diag own_s) on the days t of `rows`, (len(rows), K, K), for y (T, K).

    Many days of few names are one filter over all days. Else the first day asked for is one weighted product and the
    days between follow the recursion: a few days of many names cost no pass over all matrices.
    """
    days, k = y.shape
    own = np.zeros_like(y) if own is None else own
    if len(rows) > days // 8 and days * k * k <= CELLS:
        push = y[:, :, None] * y[:, None, :]
        np.einsum("tkk->tk", push)[...] += own
        path = lfilter([1.0], [1.0, -decay], push, axis=0)
        return np.asarray(np.concatenate([np.zeros((1, k, k)), path])[rows])
    out = np.empty((len(rows), k, k))
    order = np.argsort(rows, kind="stable")
    at = int(rows[order[0]]) if len(rows) else 0
    weight = decay ** np.arange(at)[::-1]
    moment = (y[:at] * weight[:, None]).T @ y[:at] + np.diag(weight @ own[:at])
    for place in order:
        while at < rows[place]:
            moment = decay * moment + y[at][:, None] * y[at][None, :] + np.diag(own[at])
            at += 1
        out[place] = moment
    return out


def to_correlations(moment: Array) -> Array:
    """Matrices (..., K, K) scaled to a unit diagonal, exactly one."""
    width = np.sqrt(np.einsum("...kk->...k", moment))
    c = moment / (width[..., :, None] * width[..., None, :])
    np.einsum("...kk->...k", c)[...] = 1.0
    return np.asarray(c, dtype=np.float64)
