"""Falls: c times the mean of the largest drawdowns along paths, as a family of planes.

    d_t(w) = max(0, d_{t-1}(w) - x_t(w)),   x_t(w) = r_t'w - m_t,   d_0 = 0,

so that mass at d_t flows back from t to the peak before it: F_t >= 0 is what flows over step t, and

    E(w) >= - sum_t F_t x_t(w)      where what enters, q_t = (F_t - F_{t+1})_+, is at most c / count a step (or a path)
                                    and c in all, F = 0 behind a path's end.

At the F that flows from the worst drawdowns to their peaks the two are equal.

Source: Chekhlov, A., Uryasev, S. and Zabarankin, M. (2005), Drawdown measure in portfolio optimization, International
Journal of Theoretical and Applied Finance 8(1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Falls:
    """c times the mean of the `count` largest of all drawdowns, or where `whole` of the largest one of each path.

    Attributes:
        returns: (S, h, n), simple returns along S paths of h steps.
        moved: (S, h), taken off the portfolio's returns; those of a benchmark.
    """

    coefficient: float
    returns: Array
    count: float
    whole: bool
    moved: float | Array = 0.0

    @property
    def cap(self) -> float:
        """The most weight one drawdown, or one path, can carry."""
        return self.coefficient / self.count

    def depths(self, w: Array) -> Array:
        """d (S, h) at w (n,)."""
        risen = np.cumsum(self.returns @ w - self.moved, axis=1)
        return np.asarray(np.maximum(np.maximum.accumulate(risen, axis=1), 0.0) - risen)

    def value(self, w: Array) -> float:
        depth = self.depths(w)
        sizes = depth.max(1) if self.whole else depth.reshape(-1)
        return float(shares(sizes, self.count, self.coefficient) @ sizes)

    def repair(self, flow: Array) -> Array:
        """The nearest simple correction of F (S, h) that gives a true plane."""
        flow = np.maximum(flow, 0.0)
        enters = np.maximum(flow - np.pad(flow[:, 1:], ((0, 0), (0, 1))), 0.0)
        single = enters.sum(1) if self.whole else enters
        factor = min(
            1.0,
            self.coefficient / max(float(single.sum()), 1e-300),
            self.cap / max(float(single.max(initial=0.0)), 1e-300),
        )
        return flow * factor

    def plane(self, flow: Array) -> tuple[Array, float]:
        """(slope (n,), level) of the plane of a repaired F."""
        return -np.tensordot(flow, self.returns, 2), float(np.sum(flow * self.moved))


def shares(sizes: Array, count: float, total: float) -> Array:
    """Weights that add up to `total`: that of one of `count` for each of the largest, a fraction for the last."""
    order = np.argsort(-sizes, kind="stable")
    found = np.zeros(len(sizes))
    cap = total / count
    full = min(int(np.floor(count)), len(sizes))
    found[order[:full]] = cap
    if full < len(sizes):
        found[order[full]] = total - cap * full
    return found
