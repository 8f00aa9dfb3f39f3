"""The stale rule: a run of unchanged prices that is too long for its series. A smooth energy cannot see one.

After a run of L returns of zero ending today its tail probability is

    p = a b^(L - 1),   a = (m + 1/2) / (n + 50),   b = (m_2 + 1/2) / (m + 5),

n, m, m_2 counting the days before the run: all, those unchanged, and those unchanged after an unchanged one. Runs
shorter than three say nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHORTEST = 3
STILL = 1e-12
"""A return below this is that of an unchanged price."""


def stale(returns: Array) -> Array:
    """Tail probabilities (T, S) of the run of unchanged prices at each cell of returns (T, S), 1 where there is none.

    Row t uses rows up to t alone; a missing return neither ends nor lengthens a run, and has NaN.

    Example:
        >>> stale(np.array([[0.01], [0.0], [0.0], [0.0]]))[-1]     # three in a row, where none was before
    """
    t, s = returns.shape
    out = np.full((t, s), np.nan)
    counts = np.zeros((3, s))  # n, m, m_2 before the run
    run = np.zeros(s, dtype=int)
    for row in range(t):
        known = ~np.isnan(returns[row])
        zero = known & (np.abs(np.nan_to_num(returns[row], nan=1.0)) < STILL)
        ended = known & ~zero
        # What a run was is learnt when it has ended: it does not make itself ordinary.
        counts[0] += np.where(ended, run + 1, 0)
        counts[1] += np.where(ended, run, 0)
        counts[2] += np.where(ended, np.maximum(run - 1, 0), 0)
        run = np.where(ended, 0, run + zero)
        first, again = (counts[1] + 0.5) / (counts[0] + 50.0), (counts[2] + 0.5) / (counts[1] + 5.0)
        p = first * again ** np.maximum(run - 1, 0)
        out[row] = np.where(known, np.where(zero & (run >= SHORTEST), p, 1.0), np.nan)
    return out
