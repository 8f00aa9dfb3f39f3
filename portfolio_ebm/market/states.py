"""States: what is known of a series before the day it is scored, causally and free of its scale.

For a series x and the one market series m, row t holds functions of rows before t only; the last of the T + 1 rows is
the state of the day to come. With e = x less its slow mean,

    v_j(t) = the variances of `variances` over rows < t;   r_j = v_j / v_lr;   s = clipped log ratios of the squares, of
    their downside versions, of the market's copies, and the last moves in units of their deviations;   q = lagged means
    over their chance deviations, and the forecast of x on its own and the market's last day and week (`drift`).

Missing cells are left out of every mean: an EW mean is a ratio of two recursions, one over x, one over what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.market.drift import forecasts
from portfolio_ebm.market.variances import COUNT, DOWNSIDE, HALF_LIVES, ew_mean, past_variances
from portfolio_ebm.models.conditional import Family, State
from portfolio_ebm.models.families import FAMILIES, Layout

Array = NDArray[np.float64]

LONG_RUN = 1500.0
MEANS = (22.0, 250.0)
WEEK = 5.0
REFERENCE = 3
WARM_UP = 20
"""Observations before a row's state is fit to learn from or to be scored."""

FAMILY = Family(ratios=COUNT, features=15, drift=len(MEANS), reference=REFERENCE, forecasts=1)


def family(density: str) -> Layout:
    """The family called `density` on these states; "ewma", which is never trained, is the power law alone."""
    kind = FAMILIES["student" if density == "ewma" else density]
    return kind(FAMILY.ratios, FAMILY.features, FAMILY.drift, FAMILY.reference, FAMILY.forecasts)


@dataclass(frozen=True)
class Series:
    """M series with their states, as arrays for the recursion and as tensors for the energies.

    Attributes:
        x: (T, M), NaN where not observed.
        variances: v_j at rows 0..T, (T + 1, M, J), in the order of `variances`.
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
    logs, m_logs = _logs(ratios), _logs(mv / m_level[..., None])
    wide, m_wide = np.sqrt(v[..., REFERENCE]), np.sqrt(mv[..., REFERENCE])
    last, m_last = _lagged(x, centre) / wide, _lagged(market[:, None], m_centre) / m_wide
    both = np.broadcast_to(m_logs[..., [0, 3, 6, 7]], (*v.shape[:2], 4))
    m_move = np.broadcast_to(np.tanh(m_last / 2), last.shape)
    bold = np.tanh(last / 2)
    features = np.concatenate([logs, both, np.stack([bold, bold**2 - 0.25, m_move], -1)], -1)
    own = [np.clip(_by_chance(x, wide, h) / 2, -1.5, 1.5) for h in MEANS]
    weeks = (_by_chance(x - centre[:-1], wide, WEEK), _by_chance(market[:, None] - m_centre[:-1], m_wide, WEEK))
    predictors = np.stack([np.broadcast_to(np.clip(p, -3, 3), last.shape) for p in (last, m_last, *weeks)])
    ahead = forecasts(np.clip((x - centre[:-1]) / wide[:-1], -4, 4), predictors)
    drift = np.stack([*own, np.clip(ahead, -1, 1)], -1)
    state = State(*(_tensor(a, fill) for a, fill in ((level, 1.0), (ratios, 1.0), (features, 0.0), (drift, 0.0))))
    return Series(x, v, centre, state, seen >= WARM_UP)


def _logs(ratios: Array) -> Array:
    """Half the log ratios of the squares and of their downside versions, bounded."""
    kept = ratios[..., : len(HALF_LIVES) + len(DOWNSIDE)]
    return np.clip(np.log(np.maximum(kept, 1e-4)), -2.5, 2.5) / 2


def _by_chance(x: Array, wide: Array, half_life: float) -> Array:
    """Lagged EW mean over the deviation that such a mean would have by chance, zero before the first day."""
    return np.asarray(np.nan_to_num(ew_mean(x, half_life)) / wide * np.sqrt(2.9 * half_life))


def _variances(x: Array) -> tuple[Array, Array, Array, Array]:
    """v (T + 1, M, J), v_lr and the slow mean (T + 1, M), and how many observations lie behind each row."""
    centre = np.nan_to_num(ew_mean(x, MEANS[-1]))
    seen = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(~np.isnan(x), axis=0)])
    centre = centre * (seen / (seen + 60.0))
    e = x - centre[:-1]
    level = ew_mean(e**2, LONG_RUN)
    level = np.where(np.isnan(level) | (level <= 0), np.nan, level)
    floor = 1e-4 * np.nan_to_num(level, nan=1.0)[..., None]
    return np.maximum(np.nan_to_num(past_variances(e), nan=0.0), floor), np.nan_to_num(level, nan=1.0), centre, seen


def _lagged(x: Array, centre: Array) -> Array:
    """The last innovation at rows 0..T, zero where it was not observed."""
    moves = np.nan_to_num(x - centre[:-1])
    return np.concatenate([np.zeros_like(moves[:1]), moves])


def _tensor(a: Array, fill: float) -> torch.Tensor:
    """(T + 1, M, ...) as a contiguous tensor (M, T + 1, ...), finite."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.nan_to_num(a, nan=fill), 0, 1)))
