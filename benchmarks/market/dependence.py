"""Joint baselines: what ties margins together. t copulas with DCC correlations, EWMA covariances under a t, a vine.

    DCC     Q_t = (1 - a - b) S + a y_{t-1} y_{t-1}' + b Q_{t-1},  R_t = Q_t scaled to correlations,  y = T_nu^{-1}(u)
    EWMA-t  x_t ~ t_nu(AR mean, C_t),  C_t = (1 - s) E_t + s diag E_t,  E_t = l E_{t-1} + (1 - l) e_{t-1} e_{t-1}'

Rows of PITs or innovations are (T, K); matrices of row t, (T, K, K), are made from rows before t.

Source: R. Engle (2002), Dynamic conditional correlation, Journal of Business & Economic Statistics 20; here on the
scores of a t copula, so that the margins stay as they were fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.signal import lfilter
from scipy.special import gammaln, ndtri, stdtrit

from benchmarks.market.laws import student_log_pdf

Array = NDArray[np.float64]

BURN_IN = 250
DECAYS = (0.93, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995)
SHRINKS = (0.0, 0.02, 0.05, 0.1, 0.2)
FREEDOMS = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 24.0, 50.0)


def ew_moments(y: Array, decay: float, start: Array) -> Array:
    """(T, K, K): the EW mean of y y' over rows before each, `start` (K, K) at the first."""
    push = (1 - decay) * y[:-1, :, None] * y[:-1, None, :]
    out: Array = lfilter([1.0], [1.0, -decay], np.concatenate([start[None], push]), axis=0)
    return out


def correlations(q: Array) -> Array:
    """Matrices (..., K, K) scaled to a unit diagonal."""
    root = np.sqrt(np.einsum("...ii->...i", q))
    out: Array = q / (root[..., :, None] * root[..., None, :])
    return out


def squares(y: Array, matrices: Array) -> tuple[Array, Array]:
    """y' M^{-1} y and log det M for rows y (T, K) and matrices (T, K, K) or (K, K)."""
    root = np.linalg.cholesky(matrices)
    whitened = np.linalg.solve(np.broadcast_to(root, (len(y), *root.shape[-2:])), y[..., None])[..., 0]
    return (whitened**2).sum(-1), 2 * np.log(np.einsum("...ii->...i", root)).sum(-1)


def t_log_pdf(square: Array, log_det: Array, k: int, freedom: float) -> Array:
    """Log density of a k-dimensional t whose COVARIANCE has these squares and log determinants."""
    nu = freedom
    constant = gammaln((nu + k) / 2) - gammaln(nu / 2) - k / 2 * math.log((nu - 2) * math.pi)
    out: Array = constant - log_det / 2 - (nu + k) / 2 * np.log1p(square / (nu - 2))
    return out


def t_scores(u: Array, freedom: float) -> Array:
    """Scores of variance one, T_nu^{-1}(u) sqrt((nu - 2) / nu); normal ones for an infinite nu."""
    return np.asarray(ndtri(u)) if math.isinf(freedom) else stdtrit(freedom, u) * math.sqrt((freedom - 2) / freedom)


def t_copula(y: Array, matrices: Array, freedom: float) -> Array:
    """Log density (T,) of a t copula at scores of variance one y (T, K), with correlations (T, K, K) or (K, K)."""
    square, log_det = squares(y, matrices)
    return t_log_pdf(square, log_det, y.shape[1], freedom) - student_log_pdf(y, freedom).sum(-1)


@dataclass(frozen=True)
class DCC:
    """A fitted DCC t copula."""

    a: float
    b: float
    freedom: float
    target: Array = field(repr=False)

    def correlations(self, u: Array) -> Array:
        """R_t for every row of the PITs u (T, K), and none of them sees its own row."""
        return self._path(t_scores(u, self.freedom))

    def _path(self, y: Array) -> Array:
        steady = (1 - self.a - self.b) * self.target
        push = steady + self.a * y[:-1, :, None] * y[:-1, None, :]
        return correlations(lfilter([1.0], [1.0, -self.b], np.concatenate([self.target[None], push]), axis=0))

    def log_pdf(self, u: Array) -> Array:
        y = t_scores(u, self.freedom)
        return t_copula(y, self._path(y), self.freedom)

    @classmethod
    def fit(cls, u: Array, start: DCC | None = None) -> DCC:
        """Maximum likelihood in (a, b, nu) with S the correlation of the normal scores; `start` is last year's."""
        normal = np.asarray(ndtri(u))
        target = correlations(normal.T @ normal / len(u))

        def loss(p: Array) -> float:
            law = cls._of(p, target)
            value = law.log_pdf(u)[BURN_IN:].mean()
            return -float(value) if np.isfinite(value) else 1e6

        a, b, nu = (0.03, 0.96, 10.0) if start is None else (start.a, start.b, start.freedom)
        first = np.array([_logit(a + b), _logit(a / (a + b)), math.log(nu - 2)])
        simplex = first + np.concatenate([np.zeros((1, 3)), np.diag([0.4, 0.3, 0.2])])
        options = {"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-6, "maxfev": 120}
        return cls._of(minimize(loss, first, method="Nelder-Mead", options=options).x, target)

    @classmethod
    def _of(cls, p: Array, target: Array) -> DCC:
        total, share = (1 / (1 + math.exp(-float(np.clip(v, -20, 20)))) for v in p[:2])
        return cls(total * share, total * (1 - share), 2.0 + math.exp(float(np.clip(p[2], -3, 6))), target)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


@dataclass(frozen=True)
class EwmaT:
    """A multivariate t on an exponentially weighted covariance."""

    decay: float
    shrink: float
    freedom: float

    def covariances(self, e: Array) -> Array:
        """C_t for every row of the innovations e (T, K); the first rows' mean square is the start."""
        start = np.diag((e[:BURN_IN] ** 2).mean(axis=0))
        return shrunk(ew_moments(e, self.decay, start), self.shrink)

    @classmethod
    def fit(cls, e: Array, decays: tuple[float, ...] = DECAYS, shrinks: tuple[float, ...] = SHRINKS) -> EwmaT:
        """The best of a grid by the one-step log score on the rows e (T, K) themselves, after the burn-in."""
        best, found = -math.inf, None
        start = np.diag((e[:BURN_IN] ** 2).mean(axis=0))
        for decay in decays:
            moments = ew_moments(e, decay, start)
            for shrink in shrinks:
                square, log_det = squares(e[BURN_IN:], shrunk(moments[BURN_IN:], shrink))
                for freedom in FREEDOMS:
                    score = float(t_log_pdf(square, log_det, e.shape[1], freedom).mean())
                    if score > best:
                        best, found = score, cls(decay, shrink, freedom)
        assert found is not None
        return found


def shrunk(moments: Array, shrink: float) -> Array:
    """(1 - s) M + s diag M."""
    diagonal = np.einsum("...ii->...i", moments)
    out = (1 - shrink) * moments
    np.einsum("...ii->...i", out)[:] = diagonal
    return out


def vine(u: Array, depth: int) -> Any | None:
    """A static vine copula of Gaussian, t, Clayton, Gumbel and Joe pairs on PITs u (T, K), or None without skfolio.

    Source: K. Aas et al. (2009), Pair-copula constructions of multiple dependence; as skfolio has it.
    """
    try:
        from skfolio.distribution import VineCopula
    except ImportError:
        return None
    return VineCopula(fit_marginals=False, max_depth=depth, random_state=0).fit(u)
