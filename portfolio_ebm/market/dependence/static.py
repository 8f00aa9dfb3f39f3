"""Static copulas: one correlation matrix for all days, normal or Student-t.

    R = (1 - s) C + s I,   C the correlations of the scores over the days before the fit,   s = 1 / (1 + days / names).

The little of the identity keeps R positive definite with more names than days. Correlations of factors change sign, so
on factors a static copula is for comparison; MovingCopula is the default.

Source: S. Demarta and A. J. McNeil (2005), The t copula and related copulas, International Statistical Review 73.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from portfolio_ebm.market.dependence.base import (
    Array,
    Dependence,
    DependenceEnergy,
    Dynamics,
    fitted_rows,
    too_little,
)
from portfolio_ebm.market.dependence.copula import log_copula, scores
from portfolio_ebm.market.dependence.freedom import REFERENCE, best_freedom
from portfolio_ebm.market.dependence.moving import to_correlations
from portfolio_ebm.types import Status


@dataclass(frozen=True)
class Fixed(Dynamics):
    """R (K, K) on every day."""

    correlation: Tensor

    def path(self, x: Array, rows: NDArray[np.intp]) -> Array:
        return np.repeat(self.correlation.numpy()[None], len(rows), axis=0)

    def tensors(self) -> dict[str, Tensor]:
        return {"correlation": self.correlation}


def shrunk_correlations(x: Array) -> Array:
    """Correlations of scores x (T, K), NaN counting as zero, shrunk to the identity by 1 / (1 + T / K)."""
    known = np.nan_to_num(x)
    share = 1 / (1 + len(x) / x.shape[1])
    c = to_correlations(known.T @ known + np.eye(x.shape[1]))
    return np.asarray((1 - share) * c + share * np.eye(x.shape[1]))


class GaussianCopula(DependenceEnergy):
    """The normal copula with one correlation matrix.

    Example:
        >>> FactorEBM(dependence=GaussianCopula())
    """

    def fit(self, u: Array) -> Dependence:
        return too_little(u) or _fitted(u[fitted_rows(u)], math.inf)

    def dynamics(self, tensors: Mapping[str, Tensor]) -> Dynamics:
        return Fixed(tensors["correlation"])


class StudentCopula(DependenceEnergy):
    """The t copula with one correlation matrix; nu by maximum likelihood unless it is given.

    Attributes:
        freedom: nu, or None to fit it.

    Example:
        >>> FactorEBM(dependence=StudentCopula(freedom=6))
    """

    freedom: float | None = Field(default=None, gt=2, le=200)

    def fit(self, u: Array) -> Dependence:
        nothing = too_little(u)
        if nothing is not None:
            return nothing
        u = u[fitted_rows(u)]
        if self.freedom is not None:
            return _fitted(u, self.freedom)
        r = shrunk_correlations(scores(u, REFERENCE))
        return _fitted(u, best_freedom(u, np.broadcast_to(r, (len(u), *r.shape))))

    def dynamics(self, tensors: Mapping[str, Tensor]) -> Dynamics:
        return Fixed(tensors["correlation"])


def _fitted(u: Array, nu: float) -> Dependence:
    x = scores(u, nu)
    r = torch.from_numpy(shrunk_correlations(x))
    gain = float(log_copula(torch.from_numpy(x), r, nu).mean())
    kind = "normal copula" if math.isinf(nu) else f"t copula, nu {nu:.3g}"
    return Dependence(Fixed(r), nu, Status(True, f"static {kind}, {gain:+.3f} nats a day over independence"))
