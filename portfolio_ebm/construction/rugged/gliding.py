"""Down on many slices at once: projected gradients with spectral steps.

    x' = P(x - a g),   a = s's / s'y,   s and y the last changes of x and of the slope, P on the row's own slice

A step that does not lower the energy is not taken, and a quarter of it is tried next; a row that stands still is left
out. One evaluation and one projection of all rows a step, where a model of each row's own asks for a program.

Source: Birgin, E., Martinez, J. M. and Raydan, M. (2000), Nonmonotone spectral projected gradient methods on convex
sets, SIAM J. Optimization 10(4), with monotone steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints

Evaluate = Callable[[Array, Ints], tuple[Array, Array]]
"""(m, n) points on slices (m, U) to energies (m,) and slopes (m, n)."""
Nearest = Callable[[Array, Ints], Array]
"""(m, n) points and slices (m, U) to the nearest points of the slices."""

SHORTEST = 1e-9
"""The shortest step, as a share of the first."""
LONGEST = 1e3
PATIENCE = 4
"""Steps without a gain that end a row."""


def glide(
    evaluate: Evaluate, nearest: Nearest, x: Array, modes: Ints, step: float, enough: float, rounds: int
) -> tuple[Array, Array, Array]:
    """The points (m, n) reached from x, on the slices of `modes` (m, U), their energies and slopes.

    Args:
        step: the first one. enough: a gain below this is none.
    """
    x = x.copy()
    value, slope = evaluate(x, modes)
    length, idle = np.full(len(x), step), np.zeros(len(x), dtype=np.int64)
    rows = np.flatnonzero(np.isfinite(value))
    for _ in range(rounds):
        if not len(rows):
            break
        there = nearest(x[rows] - length[rows, None] * slope[rows], modes[rows])
        energy, tilt = evaluate(there, modes[rows])
        move, turn = there - x[rows], tilt - slope[rows]
        gain = value[rows] - energy
        bent = (move * turn).sum(axis=1)
        size = (move**2).sum(axis=1)
        spectral = np.where(bent > 0.0, size / np.where(bent > 0.0, bent, 1.0), 4.0 * length[rows])
        down = gain > 0.0
        length[rows] = np.where(down, np.clip(spectral, step * SHORTEST, step * LONGEST), 0.25 * length[rows])
        idle[rows] = np.where(gain > enough, 0, idle[rows] + 1)
        taken = rows[down]
        x[taken], value[taken], slope[taken] = there[down], energy[down], tilt[down]
        rows = rows[(size > 0.0) & (idle[rows] < PATIENCE)]
    return x, value, slope
