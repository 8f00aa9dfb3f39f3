"""DCC: dynamic conditional correlations of the scores of a copula, in the corrected form (cDCC).

    Q_t = (1 - a - b) S + a y*_{t-1} y*_{t-1}' + b Q_{t-1},   y*_k = sqrt(Q_kk) x_k / sd,   R_t = Q_t scaled,

sd the deviation of a score. S is the correlation of the y*, which need only the diagonal of Q and so no S: correlation
targeting is consistent then, as it is not with x itself. a, b and nu by maximum likelihood (Nelder-Mead). A missing
score pushes its own diagonal with its expectation and nothing else, so Q stays positive definite.

Over a horizon R returns to S as the recursion expects, R_{t+h} = S + (a + b)^h (R_t - S).

Source: R. Engle (2002), Dynamic conditional correlation, Journal of Business & Economic Statistics 20; G. Aielli
(2013), Dynamic conditional correlation: on properties and estimation, the same journal 31; the forecast: R. Engle and
K. Sheppard (2001), Theoretical and empirical properties of dynamic conditional correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from torch import Tensor

from portfolio_ebm.market.dependence.base import (
    Array,
    Dependence,
    DependenceEnergy,
    Dynamics,
    too_little,
    warm_rows,
)
from portfolio_ebm.market.dependence.copula import log_copula, scores
from portfolio_ebm.market.dependence.moving import decayed, to_correlations
from portfolio_ebm.market.dependence.static import shrunk_correlations
from portfolio_ebm.types import Status

START = (0.03, 0.95)
MOST_DIAGONAL = 1e8
"""Bound of the diagonal of Q, reached by no data: a run of impossible scores overflows nothing."""
LEAST_FREEDOM, MOST_FREEDOM = 2.5, 200.0
MOST_NAMES = 25
"""Names that a, b and nu are fitted on, evenly spaced; S and R have all."""
MOST_ROWS = 1500
"""Days of the likelihood, evenly spaced; the recursion runs over all."""


@dataclass(frozen=True)
class Recursion(Dynamics):
    """Q's recursion.

    Attributes:
        a, b: of the news and of the past, a + b < 1.
        unit: variance of a score, nu / (nu - 2), or 1 for normal ones.
        target: S, (K, K).
    """

    a: float
    b: float
    unit: float
    target: Tensor

    def path(self, x: Array, rows: NDArray[np.intp]) -> Array:
        pushed, own = self._pushes(x)
        past = self.b ** np.asarray(rows, dtype=np.float64)[:, None, None]
        steady = (1 - self.a - self.b) / (1 - self.b) * (1 - past)
        q = (past + steady) * self.target.numpy() + self.a * decayed(pushed, self.b, rows, own)
        return to_correlations(q)

    def _pushes(self, x: Array) -> tuple[Array, Array]:
        """y* (T, K), zero where missing, and what a missing name's diagonal is pushed with."""
        y, missing = np.nan_to_num(x) / math.sqrt(self.unit), np.isnan(x)
        grow = np.where(missing, self.a + self.b, self.a * y * y + self.b)
        diagonal = np.empty_like(y)
        q = np.ones(y.shape[1])
        for t in range(len(y)):
            diagonal[t] = q
            q = np.minimum((1 - self.a - self.b) + grow[t] * q, MOST_DIAGONAL)
        return np.sqrt(diagonal) * y, np.where(missing, diagonal, 0.0)

    def ahead(self, correlation: Tensor, horizon: int) -> Tensor:
        fade = (self.a + self.b) ** torch.arange(horizon, dtype=correlation.dtype)[:, None, None]
        return (1 - fade) * self.target.to(correlation) + fade * correlation

    def tensors(self) -> dict[str, Tensor]:
        return {"ab": torch.tensor([self.a, self.b, self.unit], dtype=torch.float64), "target": self.target}

    @classmethod
    def targeted(cls, a: float, b: float, unit: float, x: Array) -> Recursion:
        """The recursion whose S is the correlation of its own y* on scores x (T, K)."""
        bare = cls(a, b, unit, torch.eye(x.shape[1], dtype=torch.float64))
        pushed, _ = bare._pushes(x)
        return cls(a, b, unit, torch.from_numpy(shrunk_correlations(pushed)))


class DCC(DependenceEnergy):
    """A t copula (a normal one with `freedom="normal"`) whose correlations follow the cDCC recursion.

    Attributes:
        freedom: nu, "normal", or None to fit nu.

    Example:
        >>> FactorEBM(dependence=DCC())
    """

    freedom: Annotated[float, Field(gt=2, le=200)] | Literal["normal"] | None = None

    def fit(self, u: Array) -> Dependence:
        nothing = too_little(u)
        if nothing is not None:
            return nothing
        some = u
        if u.shape[1] > MOST_NAMES:
            some = u[:, np.linspace(0, u.shape[1] - 1, MOST_NAMES).round().astype(int)]
        rows = warm_rows(some)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(int))]

        def law(p: Array, of: Array) -> tuple[Recursion, float, Array]:
            a, b, nu = self._natural(p)
            x = scores(of, nu)
            return Recursion.targeted(a, b, _unit(nu), x), nu, x

        def loss(p: Array) -> float:
            recursion, nu, x = law(p, some)
            r = torch.from_numpy(recursion.path(x, rows))
            value = float(log_copula(torch.from_numpy(x[rows]), r, nu).mean())
            return -value if math.isfinite(value) else 1e6

        first = np.array([_logit(sum(START)), _logit(START[0] / sum(START)), 0.0])[: 3 if self.freedom is None else 2]
        simplex = first + np.concatenate([np.zeros((1, len(first))), np.diag([0.8, 0.5, 0.5][: len(first)])])
        options = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 2e-5, "maxfev": 120}
        found = minimize(loss, first, method="Nelder-Mead", options=options)
        recursion, nu, _ = law(found.x, u)
        said = f"cDCC, a {recursion.a:.3f}, b {recursion.b:.3f}, nu {nu:.3g}, {-found.fun:+.3f} nats a day"
        return Dependence(recursion, nu, Status(bool(found.success), said + ("" if found.success else "; " + STOPPED)))

    def dynamics(self, tensors: Mapping[str, Tensor]) -> Dynamics:
        a, b, unit = tensors["ab"].tolist()
        return Recursion(a, b, unit, tensors["target"])

    def _natural(self, p: Array) -> tuple[float, float, float]:
        """(a, b, nu) from (logit of a + b, logit of a's share, log of (nu - 2.5) / 7.5)."""
        total, share = (1 / (1 + math.exp(-float(np.clip(v, -15, 15)))) for v in p[:2])
        nu = self.freedom
        if nu is None:
            nu = min(LEAST_FREEDOM + 7.5 * math.exp(float(np.clip(p[2], -6, 6))), MOST_FREEDOM)
        return total * share, total * (1 - share), math.inf if nu == "normal" else float(nu)


STOPPED = "the fit did not converge"


def _unit(nu: float) -> float:
    return 1.0 if math.isinf(nu) else nu / (nu - 2)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
