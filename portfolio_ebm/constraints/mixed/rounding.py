"""The modes that weights round to, many points at once: each unit the nearest mode, then as few dearer as limits ask.

Where a limit counts too much, the units that lose least by another mode leave; where it counts too little, the nearest
come in.
"""

from __future__ import annotations

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask


def rounded(choices: Choices, allowed: Mask, x: Array, step: float | None = None) -> Ints:
    """`rounded_all` of one point (U,)."""
    return np.asarray(rounded_all(choices, allowed, x[None], step)[0])


def rounded_all(choices: Choices, allowed: Mask, x: Array, step: float | None = None) -> Ints:
    """The modes (m, U) nearest to unit weights x (m, U), limits on numbers and weights kept.

    With a `step` h the proximal ones, of the least distance^2 / (2 h) plus what the mode costs. `allowed`, the modes
    that are open, is of all points, (U, M), or of each, (m, U, M).
    """
    at = x[..., None]
    away = np.maximum(choices.lower - at, at - choices.upper).clip(0.0)
    if step is not None:
        away = away**2 / (2.0 * step) + choices.cost
    away = np.where(allowed, away, np.inf)
    modes: Ints = away.argmin(axis=-1).astype(np.int64)
    for limit in choices.limits:
        mine = away[:, limit.units]
        others = mine.copy()
        for mode in limit.modes:
            others[..., mode] = np.inf
        _leave(choices, limit, x, modes, others)
        if not limit.mass and limit.least > 0:
            mine[..., limit.others(mine.shape[-1])] = np.inf
            _enter(limit, modes, mine)
    return modes


def _leave(choices: Choices, limit: Limit, x: Array, modes: Ints, others: Array) -> None:
    """Units beyond what a limit counts take their nearest mode outside it, at distances `others` (m, k, M)."""
    units, here, loss = limit.units, limit.holds(modes), others.min(axis=2)
    now = modes[:, units]
    # On its mode a unit weighs what is nearest to x there.
    inner = np.minimum(np.maximum(x[:, units], choices.lower[units, now]), choices.upper[units, now])
    used = np.where(here, inner, 0.0) if limit.mass else here.astype(np.float64)
    if not (used.sum(axis=1) > limit.most + TOLERANCE).any():
        return
    keep = np.argsort(np.where(here, -loss, np.inf), axis=1, kind="stable")
    every = np.arange(len(x))[:, None]
    over = np.cumsum(used[every, keep], axis=1) > limit.most + TOLERANCE
    drop = over & (here & np.isfinite(loss))[every, keep]
    row, place = drop.nonzero()
    at = keep[row, place]
    modes[row, units[at]] = others[row, at].argmin(axis=1)


def _enter(limit: Limit, modes: Ints, mine: Array) -> None:
    """The nearest units come in where a limit counts too few, at distances `mine` (m, k, M)."""
    here = limit.holds(modes)
    short = limit.least - here.sum(axis=1)
    able = np.where(here, np.inf, mine.min(axis=2))
    for row in np.flatnonzero(short > 0):
        more = np.argsort(able[row], kind="stable")[: int(short[row])]
        modes[row, limit.units[more]] = mine[row, more].argmin(axis=1)
