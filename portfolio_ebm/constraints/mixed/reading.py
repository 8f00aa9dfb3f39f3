"""Which modes a point is in, and by how much it misses the choices: read off many points at once.

Of the modes that hold a unit's weight the one with the least cost is taken, and of those the one that no limit is short
of. Where none holds it, the nearest one is, and the unit misses by the distance. A limit on numbers or weights that is
then broken is missed by what its units would have to move.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.choices import Choices, Limit, most, some
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask
from portfolio_ebm.types import as_numpy


def assign(choices: Choices, allowed: Mask, w: Array) -> tuple[Ints, Array]:
    """Modes (U,) that hold the point where there are such, and by how much each unit misses, (U,): all zero where
    the point obeys every choice."""
    modes, missing = _assigned(choices, allowed, choices.weights(w)[None])
    return modes[0], missing[0]


def assign_all(choices: Choices, allowed: Mask, w: Array) -> tuple[Ints, Array]:
    """`assign` of many points (m, n): modes (m, U), and what is missed, (m, U)."""
    return _assigned(choices, allowed, choices.weights_of(w))


def _assigned(choices: Choices, allowed: Mask, x: Array) -> tuple[Ints, Array]:
    """`assign_all` of unit weights x (m, U)."""
    at = x[:, :, None]
    away = np.maximum(choices.lower - at, at - choices.upper)
    away[away <= TOLERANCE] = 0.0
    rank = np.where(allowed, choices.preference + 1e3 * (away + (away > 0.0)), np.inf)
    modes = rank.argmin(axis=2)
    nearest = away[np.arange(len(x))[:, None], np.arange(choices.units), modes]
    missing = nearest + TOLERANCE * (nearest > 0.0)
    for limit in choices.limits:
        _settle(choices, allowed, limit, x, modes, missing)
    return modes, missing


def _settle(choices: Choices, allowed: Mask, limit: Limit, x: Array, modes: Ints, missing: Array) -> None:
    """Where a limit is broken, its open units miss by what they have beyond the other modes."""
    units, here, x = limit.units, limit.holds(modes), x[:, limit.units]
    used = np.where(here, x, 0.0).sum(axis=1) if limit.mass else here.sum(axis=1)
    over = used > limit.most + TOLERANCE
    if over.any():
        others = limit.others(allowed.shape[1])
        top = most(limit.own(choices.ends(allowed)[1]), others)
        able = some(limit.own(allowed), others)
        beyond = np.where(over[:, None] & here & able, np.maximum(x - top, TOLERANCE), 0.0)
        missing[:, units] = np.maximum(missing[:, units], beyond)
    if limit.mass:
        return
    short = np.flatnonzero(used < limit.least)
    if len(short):
        _fill(choices, allowed, limit, x[short], here[short], short, modes, missing)


def _fill(
    choices: Choices, allowed: Mask, limit: Limit, x: Array, here: Mask, rows: Ints, modes: Ints, missing: Array
) -> None:  # fmt: skip
    """Points with too few units in a limit's modes: others that fit there are counted in; else they miss."""
    units, at = limit.units, x[:, :, None]
    inside, _ = limit.split(allowed)
    away = np.maximum(choices.lower[units] - at, at - choices.upper[units]).clip(0.0)
    away = np.where(inside, away, np.inf)
    nearest = away.min(axis=2)
    able = ~here & some(inside)
    fits = able & (nearest <= TOLERANCE)
    need = np.ceil(limit.least - here.sum(axis=1))[:, None]
    taken = fits & (fits.cumsum(axis=1) <= need)
    place = rows[:, None], units
    modes[place] = np.where(taken, away.argmin(axis=2), modes[place])
    rest = able & ~fits & (taken.sum(axis=1, keepdims=True) < need)
    missing[place] = np.maximum(missing[place], np.where(rest, nearest.clip(TOLERANCE), 0.0))


def missing_weight(w: Tensor, choices: Choices) -> Tensor:
    """By how much weight the worst unit misses its modes and the limits on them, (...), for w (..., n)."""
    flat = as_numpy(w.reshape(-1, w.shape[-1]))
    missing = assign_all(choices, choices.exists, flat)[1].max(axis=1, initial=0.0)
    return torch.as_tensor(missing).to(w).reshape(w.shape[:-1])
