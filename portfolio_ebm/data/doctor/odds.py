"""From evidence to sureness: sureness = 1 / (1 + exp(-score)), score = log prior odds + log likelihood ratio.

How large moves of honest names are was measured on every second name of 20 years of large US stocks, in the units of
`View.z`: a Student-t with 4 degrees of freedom up to 5, then a tail that falls faster and faster:

    P(|z| > q) = exp(-5.77 - 2.31 L - 0.99 L^2),  L = log(q / 5)       (1 in 320 beyond 5, 1 in 53,000 beyond 20)

Prior rates are faults a name and period that a file of unknown care may hold; they are assumptions, and stated here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATE = {
    "spike": 5e-5,  # 1 in 80 years of a name
    "split": 8e-5,  # 1 in 50 years: one file in five is not adjusted, and names split every ten years
    "stale": 2e-5,
    "segment": 2e-6,  # wrong units or a wrong day for a while
}
"""Prior faults a name and period."""

CLUSTER = 1.6
"""An honest opposite move of the same size after a large one is e^1.6 times as likely as by chance (measured)."""

MOST = 0.99
"""No inference is surer than this; facts are."""

_CORE = 0.75
_LOG_CORE = float(np.log(0.375 / _CORE))


def log_core(z: Any) -> Array:
    """Log density of ordinary moves: Student-t, 4 degrees of freedom, scale 0.75."""
    found: Array = _LOG_CORE - 2.5 * np.log1p((np.asarray(z, dtype=np.float64) / _CORE) ** 2 / 4.0)
    return found


def log_tail(z: Any) -> Array:
    """Log density of honest moves of any size, the measured tail beyond 5; never below that of one in 10^9."""
    size = np.abs(np.asarray(z, dtype=np.float64))
    far = np.log(np.maximum(size, 5.0) / 5.0)
    survival = np.maximum(-5.77 - 2.31 * far - 0.99 * far**2, -20.7)
    tail = survival + np.log((2.31 + 1.98 * far) / (2.0 * np.maximum(size, 5.0)))
    found: Array = np.where(size < 5.0, log_core(size), tail)
    return found


def sureness(score: Any, most: float = MOST) -> Array:
    """The posterior probability, at most `most`.

    Example:
        >>> sureness(0.0).item(), sureness(50.0).item()
        (0.5, 0.99)
    """
    found: Array = np.minimum(1.0 / (1.0 + np.exp(-np.clip(score, -50.0, 50.0))), most)
    return found
