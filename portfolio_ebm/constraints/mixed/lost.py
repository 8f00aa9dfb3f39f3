"""What the multipliers of a program's minimum leave open: by how much a point of its slice may still be lower.

    E(x) >= E(w) + sum_i d_i (x_i - w_i) + sum_k v_k (a_k'x - a_k'w),    d = Q w + c - A'v

for every x, E being convex; so what names can gain along their way through the box, and rows along their slack, is all
that E(w) may be short of. An active set ends where prices are small beside the largest curvature of all; where
variances differ by twelve orders of magnitude that is not small beside the energy.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, sections 5.1 and 5.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from portfolio_ebm.constraints.mixed.program import Array, Slice, Solved

SMALL = 1e-11
"""Less than this is rounding, relative to the parts of the energy."""
NOISE = 64.0 * float(np.finfo(np.float64).eps)
"""Of what a price is the sum of."""
FAR = 10.0
"""How far a name without an end may go, in the largest weight or one."""


def lost(s: Slice, found: Solved, across: tuple[Array, Array] | None = None) -> float:
    """By how much the minimum over a slice may be below the energy at the point found; 0 where that is rounding.

    `across` (n,) are the prices upwards and downwards where they differ from those of the point, at a kink.
    """
    p, w = s.program, found.weights
    up, down = (found.prices, found.prices) if across is None else across
    weights = np.abs(w)
    far = FAR * max(1.0, float(weights.max(initial=0.0)))
    ways = np.minimum(s.upper - w, far), np.minimum(w - s.lower, far)
    slack = _slack(s, found.duals, w)
    size = float(np.abs(p.linear) @ weights)
    total = slack + _gain(up, down, ways, 0.0)
    if total > SMALL * size:
        size += 0.5 * float(w @ (p.slope(w) - p.linear))
    if total <= SMALL * size:
        return 0.0
    root = np.sqrt(np.maximum(p.diagonal, 0.0))
    noise = NOISE * (float(root @ weights) * root + np.abs(p.linear) + p.rate + np.abs(found.duals) @ np.abs(s.rows))
    total = slack + _gain(up, down, ways, noise)
    return total if total > SMALL * size else 0.0


def _gain(up: Array, down: Array, ways: tuple[Array, Array], noise: Array | float) -> float:
    """What names gain along their ways upwards and downwards, at prices beyond `noise`."""
    return float(ways[0] @ np.where(up < -noise, -up, 0.0) + ways[1] @ np.where(down > noise, down, 0.0))


def _slack(s: Slice, duals: Array, w: Array) -> float:
    """What rows gain along their slack."""
    if not len(s.rows):
        return 0.0
    at = s.rows @ w
    slack = np.where(duals > 0.0, at - s.low, s.high - at)
    return float(np.abs(duals) @ np.where(np.isfinite(slack), slack, 0.0))
