"""Structured symmetric matrices: M = F C F' + diag(D), never an n x n inverse.

A factor covariance with loadings F (n, k), factor covariance C (k, k) and residual variances D (n,)
is kept as its three parts; a dense covariance is the case F = its square root, C = I, D = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from portfolio_ebm.types import lift


@lru_cache(maxsize=16)
def identity(n: int) -> Tensor:
    """I (n, n), one and the same for all that ask; not to be written into."""
    return torch.eye(n, dtype=torch.float64)


@dataclass(frozen=True)
class Structured:
    """M = F C F' + diag(D).

    Attributes:
        loadings: F, shape (..., n, k).
        core: C, shape (..., k, k), symmetric positive semi-definite.
        diagonal: D, shape (..., n), non-negative.
    """

    loadings: Tensor
    core: Tensor
    diagonal: Tensor

    @classmethod
    def from_dense(cls, matrix: Tensor) -> Structured:
        """The structured form of a dense positive semi-definite matrix (..., n, n), by its eigenvectors."""
        values, vectors = torch.linalg.eigh(matrix)
        root = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
        n = matrix.shape[-1]
        core = torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
        return cls(root, core, torch.zeros(matrix.shape[:-1], dtype=matrix.dtype, device=matrix.device))

    @property
    def n(self) -> int:
        return self.loadings.shape[-2]

    def dense(self) -> Tensor:
        """The matrix itself, shape (..., n, n)."""
        outer = self.core if self._plain else self.loadings @ self.core @ self.loadings.mT
        return outer + torch.diag_embed(self.diagonal)

    @cached_property
    def _plain(self) -> bool:
        """Whether F is the identity, as where C is a matrix that was never decomposed: F C F' is C to the last bit."""
        n, k = self.loadings.shape[-2:]
        one = identity(n)
        return self.loadings is one or (
            n == k and self.loadings.ndim == 2 and torch.equal(self.loadings, one.to(self.loadings))
        )

    def root(self) -> Tensor:
        """R of shape (..., k + n, n) with R'R = M: the rows a second-order cone or a least-squares form needs."""
        values, vectors = torch.linalg.eigh(self.core)
        half = (vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)).mT
        return torch.cat([half @ self.loadings.mT, torch.diag_embed(self.diagonal.clamp_min(0.0).sqrt())], dim=-2)

    def matvec(self, w: Tensor) -> Tensor:
        """M w for w of shape (..., n) with the batch of M in front."""
        if self._plain:
            back = _times(w, self.core)
        else:
            back = _times(_times(_times(w, self.loadings), self.core), self.loadings.mT)
        return back + lift(self.diagonal, w) * w

    def quad(self, w: Tensor) -> Tensor:
        """w' M w, shape (...)."""
        return (w * self.matvec(w)).sum(-1)

    def to(self, device: torch.device) -> Structured:
        return Structured(self.loadings.to(device), self.core.to(device), self.diagonal.to(device))

    def scaled(self, factor: float) -> Structured:
        if factor == 1.0:
            return self
        return Structured(self.loadings, self.core * factor, self.diagonal * factor)

    def plus(self, other: Structured) -> Structured:
        """The sum of two structured matrices: loadings side by side, cores on the block diagonal."""
        k, m = self.core.shape[-1], other.core.shape[-1]
        shape = torch.broadcast_shapes(self.core.shape[:-2], other.core.shape[:-2])
        core = torch.zeros(*shape, k + m, k + m, dtype=self.core.dtype, device=self.core.device)
        core[..., :k, :k] = self.core
        core[..., k:, k:] = other.core
        loadings = torch.cat([self.loadings.expand(*shape, -1, -1), other.loadings.expand(*shape, -1, -1)], dim=-1)
        return Structured(loadings, core, self.diagonal + other.diagonal)


def _times(w: Tensor, matrix: Tensor) -> Tensor:
    """w' M for w (..., n), the batch of M in front."""
    if matrix.ndim == 2 or w.ndim == matrix.ndim:
        return w @ matrix  # with one dimension of chains each matrix meets its own: it is not copied for every chain
    return (w.unsqueeze(-2) @ lift(matrix, w, 2)).squeeze(-2)
