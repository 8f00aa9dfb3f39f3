"""The problem that the interior point solves, and how far a point is from solving it.

    min_z   phi(z) + sum_s p_s (a_s'z - b_s)_+
    s.t.    G z + K (A z - b)_+ <= h,    1/2 z'P_j z + l_j'z + k_j <= 0,    E z = e,    lower <= z <= upper

phi is smooth and convex; CVaR's scenarios and |w - held| are hinges, and so are the parts of a cap on turnover or of a
cap on CVaR, which a row charges for, K >= 0. A hinge has a dual q_s between 0 and its price, p_s + (K'y)_s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.construction.exact.chain import Chain

Array = NDArray[np.float64]
Model = Callable[[Array], tuple[Array, Array]]
"""z -> (gradient, Hessian) of phi."""


@dataclass(frozen=True)
class Curved:
    """1/2 z'P z + l'z + k <= 0, P positive semi-definite."""

    matrix: Array
    linear: Array
    constant: float

    def at(self, z: Array) -> tuple[float, Array]:
        """Value and gradient."""
        pull = self.matrix @ z
        return 0.5 * float(pull @ z) + float(self.linear @ z) + self.constant, pull + self.linear


@dataclass(frozen=True)
class Program:
    """The data of the problem above; `lower` and `upper` may be infinite, and differ.

    `charges` K (c, S) belong to the first c rows. Multipliers of rows stand in the order rows, curved. `chain` are
    drawdowns along paths (chain.py).
    """

    model: Model
    hinges: Array
    offsets: Array
    weights: Array
    rows: Array
    limits: Array
    equal: Array
    targets: Array
    lower: Array
    upper: Array
    charges: Array
    curved: tuple[Curved, ...] = ()
    chain: Chain | None = None

    @cached_property
    def low(self) -> NDArray[np.intp]:
        """Which entries of z are bounded below."""
        return np.flatnonzero(np.isfinite(self.lower))

    @cached_property
    def high(self) -> NDArray[np.intp]:
        """Which entries of z are bounded above."""
        return np.flatnonzero(np.isfinite(self.upper))

    @cached_property
    def blocks(self) -> tuple[slice, slice, slice, slice, slice]:
        """Where r, u, rows, lower and upper ends stand in the flat vectors."""
        n_rows = len(self.limits) + len(self.curved)
        sizes = (len(self.offsets), len(self.offsets), n_rows, len(self.low), len(self.high))
        ends = list(accumulate(sizes, initial=0))
        r, u, y, low, high = (slice(a, b) for a, b in pairwise(ends))
        return r, u, y, low, high

    @cached_property
    def links(self) -> slice:
        """Where the pairs of the chain stand in the flat vectors."""
        last = self.blocks[-1].stop
        return slice(last, last if self.chain is None else last + self.chain.pairs)

    @property
    def charged(self) -> int:
        """How many rows charge for hinges."""
        return len(self.charges)

    def prices(self, row_dual: Array) -> Array:
        """p + K'y (S,): the most that each hinge's dual can be."""
        if not self.charged:
            return self.weights
        return np.asarray(self.weights + row_dual[: self.charged] @ self.charges)

    def rooms(self, z: Array, u: Array) -> Array:
        """What is left under every row and curve at z, its hinges at u."""
        left = self.limits - self.rows @ z
        if self.charged:
            left[: self.charged] -= self.charges @ u
        return np.concatenate([left, [-cap.at(z)[0] for cap in self.curved]])

    def gradients(self, z: Array) -> Array:
        """The slopes in z of every row and curve, hinges aside."""
        if not self.curved:
            return self.rows
        return np.concatenate([self.rows, [cap.at(z)[1] for cap in self.curved]])

    def bent(self, hessian: Array, row_dual: Array) -> Array:
        """The Hessian with the curves' at their multipliers."""
        for cap, dual in zip(self.curved, row_dual[len(self.limits) :], strict=True):
            hessian = hessian + dual * cap.matrix
        return hessian

    def pull(self, z: Array, dual: Array, equal_dual: Array) -> Array:
        """The gradient in z of everything but phi, at the given multipliers."""
        r, _, y, low, high = self.blocks
        found = dual[r] @ self.hinges + dual[y] @ self.gradients(z) + equal_dual @ self.equal
        found[self.low] -= dual[low]
        found[self.high] += dual[high]
        if self.chain is not None:
            found = found + self.chain.pull(dual[self.links], len(z))
        return np.asarray(found)


@dataclass(frozen=True)
class Iterate:
    """z, the flat slacks and duals in the order of `Program.blocks`, and the multipliers of the equations."""

    z: Array
    slack: Array
    dual: Array
    equal_dual: Array
