"""What a dependence energy is: a spec that the user writes, the dynamics of its correlations, and the fitted energy.

E_t(u) = -log c(u; R_t, nu),   R_t a function of the scores of days before t alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.market.dependence.copula import KNOTS, REACH, Carry, draw, levels_of, log_copula
from portfolio_ebm.models.conditional import Shape
from portfolio_ebm.types import Spec, Status

Array = NDArray[np.float64]

FEWEST_ROWS = 60
"""Days with two names or more below which no dependence is fitted."""


WARM_UP = 250
"""Days before a likelihood of moving correlations is taken; the first days would decide nu and the identity's share."""


class Dynamics(ABC):
    """How the correlations move."""

    @abstractmethod
    def path(self, x: Array, rows: NDArray[np.intp]) -> Array:
        """R of the days `rows`, each from the rows of the scores x (T, K) before it: (len(rows), K, K).

        `rows` may be any in 0..T, in any order. Scores are NaN where missing. Every R is a correlation matrix and
        positive definite, whatever is missing, and does not depend on which other rows are asked for.
        """

    def ahead(self, correlation: Tensor, horizon: int) -> Tensor:
        """Expected correlations of the next `horizon` days, given R of the first of them: (horizon, K, K).

        By default held: correlations that are exponentially weighted means are martingales.
        """
        return correlation.expand(horizon, *correlation.shape)

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that was fitted, for the store."""


@dataclass(frozen=True)
class Dependence:
    """A fitted dependence energy.

    Attributes:
        dynamics: how R moves; None for independence.
        freedom: nu; infinite for the normal copula.
        status: how the fit ended.
    """

    dynamics: Dynamics | None
    freedom: float
    status: Status

    @classmethod
    def none(cls, why: str = "independent") -> Dependence:
        """Independence: R is the identity and log c is zero."""
        return cls(None, math.inf, Status(True, why))

    @property
    def independent(self) -> bool:
        return self.dynamics is None

    def correlation(self, x: Array) -> Tensor:
        """R for the day after the last row of the scores x (T, K), NaN where missing: (K, K)."""
        return self.path(x, np.array([len(x)]))[0]

    def path(self, x: Array, rows: NDArray[np.intp]) -> Tensor:
        """R for the days `rows`, each from the scores x (T, K) of the days before it: (len(rows), K, K)."""
        if self.dynamics is None:
            return torch.eye(x.shape[1], dtype=torch.float64).expand(len(rows), -1, -1)
        return torch.from_numpy(self.dynamics.path(x, np.asarray(rows, dtype=np.intp)))

    def ahead(self, correlation: Tensor, horizon: int) -> Tensor:
        """R of the next `horizon` days as expected today, (horizon, K, K); see Dynamics.ahead."""
        if self.dynamics is None:
            return correlation.expand(horizon, *correlation.shape)
        return self.dynamics.ahead(correlation, horizon)

    def log_density(self, x: Tensor, correlation: Tensor) -> Tensor:
        """log c at scores x (..., K), NaN for missing, with R (..., K, K)."""
        if self.independent:
            return torch.zeros_like(x[..., 0])
        return log_copula(x, correlation, self.freedom)

    def draw(self, root: Tensor, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Scores (*size, K) with the correlation root @ root.T."""
        return draw(root, self.freedom, size, rng)

    def level(self, x: Tensor) -> Tensor:
        """u = T_nu(x), any shape."""
        return levels_of(x, self.freedom)

    def carry(self, shape: Shape) -> Carry:
        """The map from scores to each part's own z, as a table."""
        y = torch.linspace(-REACH, REACH, KNOTS, dtype=shape.z.dtype)
        u = self.level(torch.sinh(y)).clamp(1e-15, 1 - 1e-15)
        return Carry(shape.quantile(u[:, None].expand(-1, len(shape.z))).T.contiguous())


class DependenceEnergy(Spec, ABC):
    """Spec of a dependence energy: which copula, and how its correlations move.

    Example:
        >>> FactorEBM(dependence=MovingCopula(), residual_dependence=MovingCopula(half_lives=(60, 250), state=False))
    """

    @abstractmethod
    def fit(self, u: Array) -> Dependence:
        """Maximum likelihood on PITs u (T, K), NaN where missing; the status says how it ended.

        Independence, and a status that says why, where fewer than two names or 60 days with two of them are there.
        """

    @abstractmethod
    def dynamics(self, tensors: Mapping[str, Tensor]) -> Dynamics:
        """The dynamics that `Dynamics.tensors` came from."""


def fitted_rows(u: Array) -> NDArray[np.intp]:
    """Days with two names or more."""
    return np.flatnonzero((~np.isnan(u)).sum(axis=1) >= 2)


def warm_rows(u: Array) -> NDArray[np.intp]:
    """The same without the first year, or the first third of a shorter past: correlations are not known yet there."""
    rows = fitted_rows(u)
    return rows[min(WARM_UP, len(rows) // 3) :]


def too_little(u: Array) -> Dependence | None:
    """Independence with its reason, where nothing can be fitted."""
    if u.shape[1] < 2:
        return Dependence.none("independent: one name")
    days = len(fitted_rows(u))
    if days < FEWEST_ROWS:
        return Dependence.none(f"independent: {days} days with two names, fewer than {FEWEST_ROWS}")
    return None
