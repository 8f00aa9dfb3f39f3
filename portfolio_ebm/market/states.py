"""States: what is known of a series before the day it is scored, causally and free of its scale.

For a series x and the one market series m, row t holds functions of rows before t only; the last of the T + 1 rows is
the state of the day to come. With e = x less its slow mean,

    v_H(t) = EW mean of e^2 over rows < t, half-life H;   r_H = v_H / v_lr;   s = clipped log ratios of these, of their
    downside versions, of the market's copies, and the last moves in units of their deviations.

Missing cells are left out of every mean: an EW mean is a ratio of two recursions, one over x, one over what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter

from portfolio_ebm.models.conditional import Family, State
from portfolio_ebm.models.families import FAMILIES, Layout

Array = NDArray[np.float64]

HALF_LIVES = (2.5, 5.0, 11.0, 22.0, 66.0, 250.0)
DOWNSIDE = (2.5, 22.0)
LONG_RUN = 1500.0
MEANS = (5.0, 22.0, 250.0)
REFERENCE = 3
WARM_UP = 20
"""Observations before a row's state is fit to learn from or to be scored."""

FAMILY = Family(ratios=len(HALF_LIVES) + len(DOWNSIDE), features=15, drift=5, reference=REFERENCE)


def family(density: str) -> Layout:
    """The family called `density` on these states; "ewma", which is never trained, is the power law alone."""
    kind = FAMILIES["student" if density == "ewma" else density]
    return kind(FAMILY.ratios, FAMILY.features, FAMILY.drift, FAMILY.reference)


def ew_mean(x: Array, half_life: float) -> Array:
    """EW mean of the rows before each row, (T + 1, ...) for x (T, ...); NaN cells do not count, NaN before the first.

    mean_t = sum_{k<t} lam^(t-1-k) x_k / sum of the same weights over observed rows, lam = 2^(-1/half_life).
    """
    lam = 0.5 ** (1.0 / half_life)
    seen = ~np.isnan(x)
    total = lfilter([1.0], [1.0, -lam], np.where(seen, x, 0.0), axis=0)
    weight = lfilter([1.0], [1.0, -lam], seen.astype(np.float64), axis=0)
    mean = np.full((len(x) + 1, *x.shape[1:]), np.nan)
    np.divide(total, weight, out=mean[1:], where=weight > 0)
    return mean


@dataclass(frozen=True)
class Series:
    """M series with their states, as arrays for the recursion and as tensors for the energies.

    Attributes:
        x: (T, M), NaN where not observed.
        variances: v_H at rows 0..T, (T + 1, M, J); the downside ones last, doubled to the level of a variance.
        centre: the slow mean that innovations are taken from, (T + 1, M).
        state: tensors (M, T + 1, ...), finite everywhere.
        ready: bool (T + 1, M), enough observations behind the row.
    """

    x: Array
    variances: Array
    centre: Array
    state: State
    ready: NDArray[np.bool_]

    @property
    def target(self) -> torch.Tensor:
        """x as (M, T), zero where missing."""
        return torch.from_numpy(np.ascontiguousarray(np.nan_to_num(self.x).T))

    @property
    def scored(self) -> torch.Tensor:
        """Bool (M, T): observed, and ready."""
        return torch.from_numpy(np.ascontiguousarray((~np.isnan(self.x) & self.ready[:-1]).T))


def states(x: Array, market: Array) -> Series:
    """The states of every column of x (T, M), each from itself and the market series (T,) alone.

    A column never touches another: adding one leaves the others' numbers as they were.
    """
    v, level, centre, seen = _variances(x)
    ratios = v / level[..., None]
    mv, m_level, m_centre, _ = _variances(market[:, None])
    logs = np.clip(np.log(np.maximum(ratios, 1e-4)), -2.5, 2.5) / 2
    m_logs = np.clip(np.log(np.maximum(mv / m_level[..., None], 1e-4)), -2.5, 2.5) / 2
    wide, m_wide = np.sqrt(v[..., REFERENCE]), np.sqrt(mv[..., REFERENCE])
    last, m_last = _lagged(x, centre) / wide, _lagged(market[:, None], m_centre) / m_wide
    both = np.broadcast_to(m_logs[..., [0, 3, 6, 7]], (*v.shape[:2], 4))
    m_move = np.broadcast_to(np.tanh(m_last / 2), last.shape)
    bold = np.tanh(last / 2)
    features = np.concatenate([logs, both, np.stack([bold, bold**2 - 0.25, m_move], -1)], -1)
    # Each part of the drift is a lagged mean over the deviation that such a mean would have by chance.
    own = [ew_mean(x, h) / wide * np.sqrt(2.9 * h) / 2 for h in MEANS]
    common = [np.broadcast_to(ew_mean(market[:, None], MEANS[0]) / m_wide * np.sqrt(2.9 * MEANS[0]) / 2, last.shape)]
    drift = np.stack([np.clip(np.nan_to_num(q), -1.5, 1.5) for q in (*own, *common, last)], -1)
    state = State(*(_tensor(a, fill) for a, fill in ((level, 1.0), (ratios, 1.0), (features, 0.0), (drift, 0.0))))
    return Series(x, v, centre, state, seen >= WARM_UP)


def _variances(x: Array) -> tuple[Array, Array, Array, Array]:
    """v (T + 1, M, J), v_lr and the slow mean (T + 1, M), and how many observations lie behind each row."""
    centre = np.nan_to_num(ew_mean(x, MEANS[-1]))
    seen = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(~np.isnan(x), axis=0)])
    centre = centre * (seen / (seen + 60.0))
    e = x - centre[:-1]
    level = ew_mean(e**2, LONG_RUN)
    parts = [ew_mean(e**2, h) for h in HALF_LIVES] + [2 * ew_mean(np.minimum(e, 0.0) ** 2, h) for h in DOWNSIDE]
    v = np.stack(parts, -1)
    level = np.where(np.isnan(level) | (level <= 0), np.nan, level)
    floor = 1e-4 * np.nan_to_num(level, nan=1.0)[..., None]
    return np.maximum(np.nan_to_num(v, nan=0.0), floor), np.nan_to_num(level, nan=1.0), centre, seen


def _lagged(x: Array, centre: Array) -> Array:
    """The last innovation at rows 0..T, zero where it was not observed."""
    moves = np.nan_to_num(x - centre[:-1])
    return np.concatenate([np.zeros_like(moves[:1]), moves])


def _tensor(a: Array, fill: float) -> torch.Tensor:
    """(T + 1, M, ...) as a contiguous tensor (M, T + 1, ...), finite."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.nan_to_num(a, nan=fill), 0, 1)))
