"""What the multipliers of a program's minimum leave open: by how much a point of its slice may still be lower.

    E(x) >= E(w) + sum_i d_i (x_i - w_i) + sum_k v_k (a_k'x - a_k'w) + least/2 |x - w|^2,    d = Q w + c - A'v

for every x, where `least` is Q's smallest eigenvalue; so what names can gain along their way through the box, and rows
along their slack, is all that E(w) may be short of, and for a name whose way has no end d_i^2 / (2 least). An active
set ends where prices are small beside the largest curvature of all; where variances differ by twelve orders of
magnitude that is not small beside the energy.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, sections 5.1 and 5.5.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from portfolio_ebm.constraints.mixed.programs.program import Program
    from portfolio_ebm.constraints.mixed.programs.slice import Array, Slice, Solved

SMALL = 1e-11
"""Less than this is rounding, relative to the parts of the energy."""
NOISE = 64.0 * float(np.finfo(np.float64).eps)
"""Of what a price is the sum of."""


def lost(s: Slice, found: Solved, across: tuple[Array, Array] | None = None) -> float:
    """By how much the minimum over a slice may be below the energy at the point found; 0 where that is rounding.

    `across` (n,) are the prices upwards and downwards where they differ from those of the point, at a kink.
    """
    p, w = s.program, found.weights
    up, down = (found.prices, found.prices) if across is None else across
    weights, ways = np.abs(w), (s.upper - w, w - s.lower)
    slack = _slack(s, found.duals, w)
    size = float(np.abs(p.linear) @ weights)
    total = slack + _gain(p, up, down, ways)
    if total > SMALL * size:
        size += 0.5 * float(w @ (found.slope - p.linear))
    if total <= SMALL * size:
        return 0.0
    root = np.sqrt(np.maximum(p.diagonal, 0.0))
    noise = NOISE * (float(root @ weights) * root + np.abs(p.linear) + p.rate + np.abs(found.duals) @ np.abs(s.rows))
    total = slack + _gain(p, np.where(up < -noise, up, 0.0), np.where(down > noise, down, 0.0), ways)
    return total if total > SMALL * size else 0.0


def _gain(p: Program, up: Array, down: Array, ways: tuple[Array, Array]) -> float:
    """What names gain along their ways upwards and downwards."""
    return _along(p, -np.minimum(up, 0.0), ways[0]) + _along(p, np.maximum(down, 0.0), ways[1])


def _along(p: Program, gain: Array, way: Array) -> float:
    """What names gain along one way each, (n,): without an end, what curvature leaves of it."""
    if p.bounded:
        return float(gain @ way)
    endless = np.isinf(way)
    there = float(gain[~endless] @ way[~endless])
    if not gain[endless].any():
        return there
    curved = p.least_curvature
    return there + float((gain[endless] ** 2).sum()) / (2.0 * curved) if curved > 0.0 else np.inf


def _slack(s: Slice, duals: Array, w: Array) -> float:
    """What rows gain along their slack."""
    found = 0.0
    for dual, at, low, high in zip(duals.tolist(), (s.rows @ w).tolist(), s.low.tolist(), s.high.tolist(), strict=True):
        slack = at - low if dual > 0.0 else high - at
        found += abs(dual) * slack if isfinite(slack) else 0.0
    return found
