"""A diagonal split off a quadratic: the most of it that leaves a convex rest.

    max g'd   over d > 0,   Q - 2 diag(d) positive definite

by the barrier mu (log det(C - diag(e)) + sum log e), with C the correlation of Q and e the share of d in its diagonal,
by Newton's steps for falling mu. The larger d, the more a fixed cost beside it bends (envelopes.py), and the tighter is
the relaxation; g says where that is worth most.

Source: Frangioni, A. and Gentile, C. (2007), SDP diagonalizations and perspective cuts for a class of nonseparable
MIQP, Operations Research Letters 35; Zheng, X., Sun, X. and Li, D. (2014), Improving the performance of MIQP solvers
for quadratic programs with cardinality and minimum threshold constraints, INFORMS Journal on Computing 26; the barrier
as in Helmberg, C., Rendl, F., Vanderbei, R. and Wolkowicz, H. (1996), An interior-point method for semidefinite
programming, SIAM Journal on Optimization 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_NAMES = 300
"""Beyond so many names a step of the barrier takes too long: a multiple of one diagonal is split off instead."""
CLOSE = 1e-2
"""The relative gap of g'd that ends the barrier."""
FALL = 0.3
ROUNDS, STEPS = 40, 3
MARGIN = 1e-10
"""The rest keeps this much of curvature, relative to the diagonal: far more than rounding of its eigenvalues."""
SHARE = 0.99
"""What is taken of d, so that the rest stays easy to solve on."""


@dataclass(frozen=True)
class Split:
    """d (n,), positive, and Q - 2 diag(d), (n, n), positive semi-definite."""

    diagonal: Array
    rest: Array

    @classmethod
    def of(
        cls, matrix: Array, worth: Array | None = None, among: Mask | None = None, most: int = MOST_NAMES
    ) -> Split | None:
        """The split of `matrix` (n, n) with most of `worth`'d, (n,), alike by default; None where nothing can be split
        off. With `among` (n,) of those names alone: the rest is then convex where no other name moves. Beyond `most`
        names a multiple of the diagonal is taken.

        Example:
            >>> Split.of(np.array([[2.0, 0.0], [0.0, 4.0]])).diagonal  # nearly [1, 2]
        """
        if among is not None and not among.all():
            at = np.flatnonzero(among)
            part = cls.of(
                np.ascontiguousarray(matrix[np.ix_(at, at)]), None if worth is None else worth[at], None, most
            )
            if part is None:
                return None
            diagonal, rest = np.zeros(len(matrix)), matrix.copy()
            diagonal[at], rest[np.ix_(at, at)] = part.diagonal, part.rest
            return cls(diagonal, rest)
        size = matrix.diagonal()
        if not len(size) or size.min() <= MARGIN * size.max():
            return None
        root = np.sqrt(size)
        c = matrix / np.outer(root, root)
        e = _multiple(c) if len(size) > most else np.full(len(size), float(np.linalg.eigvalsh(c)[0]))
        if e.min() <= 2.0 * MARGIN * len(size):
            return None
        if len(size) <= most:
            e = _barrier(c, np.ones(len(size)) if worth is None else worth * size, 0.5 * e)
        share = SHARE * e
        if not _definite(c - np.diag(share + MARGIN * len(size))):
            return None
        return cls(0.5 * share * size, np.ascontiguousarray(matrix - np.diag(share * size)))


def _multiple(c: Array) -> Array:
    """The larger of two multiples that can be split off c, zero where it is not definite: of the diagonal, and of the
    variances that each name has given all others, where a few factors explain what names have in common nearly all of
    what is their own."""
    try:
        inverse = solve_triangular(np.linalg.cholesky(c), np.eye(len(c)), lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return np.zeros(len(c))
    own = 1.0 / np.square(inverse).sum(axis=0)
    alike, others = np.full(len(c), _least(inverse, np.ones(len(c)))), _least(inverse, own) * own
    return max(alike, others, key=lambda found: float(found.sum()))


def _least(inverse: Array, own: Array) -> float:
    """The least eigenvalue of C / (s s'), s = own^(1/2), from the inverse of C's Cholesky factor, by Lanczos' steps;
    zero where they come to no end."""
    root = np.sqrt(own)
    product = LinearOperator(inverse.shape, lambda x: root * (inverse.T @ (inverse @ (root * x.ravel()))))
    start = np.random.default_rng(0).normal(size=len(root))
    try:
        return 1.0 / float(eigsh(product, k=1, which="LA", v0=start, tol=CLOSE**2, return_eigenvectors=False)[0])
    except ArpackError:
        return 0.0


def _barrier(c: Array, worth: Array, e: Array) -> Array:
    """e of the largest worth'e, but for CLOSE, from `e` inside."""
    g = worth / worth.mean()
    mu = 2.0 * float(e.mean())
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            inverse = np.linalg.inv(c - np.diag(e))
            slope = g + mu * (1.0 / e - inverse.diagonal())
            step = np.linalg.solve(mu * (inverse**2 + np.diag(e**-2)), slope)
            decrement = float(slope @ step) / mu
            length = 1.0 if decrement < 0.1 else 1.0 / (1.0 + np.sqrt(decrement))
            # Within the unit ball of the local norm every step stays inside, rounding apart.
            while not ((e + length * step > 0.0).all() and _definite(c - np.diag(e + length * step))):
                length *= 0.5
                if length < 1e-6:
                    return e
            e = e + length * step
            if decrement < 0.5:
                break
        if 2.0 * len(e) * mu <= CLOSE * float(g @ e):
            break
        mu *= FALL
    return e


def _definite(matrix: Array) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
