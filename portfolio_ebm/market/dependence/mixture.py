"""MovingCopula: a t copula over a mixture of exponentially weighted correlations, its shares moved by a state.

    R_t = sum_h pi_h(s_t) C_{h,t} + pi_I(s_t) I,   pi(s) = softmax(A s),   s_t = (1, g_t),
    g_t = root mean square of C_{20,t} - C_{250,t} off the diagonal, centred and scaled by constants.

Every C is a correlation matrix, and so is a mixture of them with the identity: R_t is positive definite by
construction. g says how far the correlations of a month have come from those of a year: where they moved, the shares
go to the fast ones. A and nu are fitted by maximum likelihood on the days before the fit; constant shares are the
special case of a state that is 1 alone. C_h is a martingale, so over a horizon R is held.

Source: the mixture is a linear pool of DCC-like moments, R. Engle (2002), Dynamic conditional correlation, Journal of
Business & Economic Statistics 20; weights that depend on a state, R. Jacobs et al. (1991), Adaptive mixtures of local
experts, Neural Computation 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    too_little,
    warm_rows,
)
from portfolio_ebm.market.dependence.copula import log_copula_of_root, observed, scores
from portfolio_ebm.market.dependence.freedom import REFERENCE, best_freedom
from portfolio_ebm.market.dependence.moving import moving_correlations
from portfolio_ebm.training.quasi_newton import minimise
from portfolio_ebm.types import Status

GAP = (20.0, 250.0)
GAP_CENTRE, GAP_SCALE = 0.25, 0.2
"""The gap of correlations in units near one; constants, so that no day's state knows of another's."""

CONSTANT_WIDTH, STATE_WIDTH = 2.0, 1.0
"""Prior deviations of A's constant and of its slopes: wide, they keep a share that is not used finite."""

MOST_NAMES = 60
"""Names that the shares are fitted on, evenly spaced; the correlations used afterwards have all."""

MOST_ROWS, FEWEST_ROWS, CELLS = 3000, 300, 1_000_000
"""Days of the likelihood, evenly spaced: about CELLS / names^2 of them."""

ROUNDS = 3


@dataclass(frozen=True)
class Mixture(Dynamics):
    """Fitted shares.

    Attributes:
        weights: A, (1 + number of state features, H + 1), the identity last.
        half_lives: (H,).
        least: the least share of the identity.
    """

    weights: Tensor
    half_lives: tuple[float, ...]
    least: float

    def path(self, x: Array, rows: NDArray[np.intp]) -> Array:
        features, stack = self.inputs(x, rows)
        return np.asarray(mixture(stack, self.shares(torch.from_numpy(features)).numpy()))

    def inputs(self, x: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        """States (N, p) and correlations (N, H, K, K) of the days `rows`."""
        return inputs(x, rows, self.half_lives, state=len(self.weights) > 1)

    def shares(self, features: Tensor) -> Tensor:
        """pi at states (N, p): (N, H + 1), adding to one."""
        return shares_of(self.weights, features, self.least)

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights}


class MovingCopula(DependenceEnergy):
    """A t copula over a mixture of exponentially weighted correlations and the identity.

    Attributes:
        half_lives: days, of the correlations in the mixture.
        state: shares that move with the state; False holds them constant.
        freedom: nu, or None to fit it.
        least_identity: the least share of the identity; what keeps R well conditioned.

    Example:
        >>> FactorEBM(dependence=MovingCopula(half_lives=(20, 250), state=False))
    """

    half_lives: tuple[float, ...] = Field(default=(8.0, 20.0, 60.0, 250.0, 1000.0), min_length=1)
    state: bool = True
    freedom: float | None = Field(default=None, gt=2, le=200)
    least_identity: float = Field(default=0.001, gt=0, lt=1)

    def fit(self, u: Array) -> Dependence:
        nothing = too_little(u)
        if nothing is not None:
            return nothing
        if u.shape[1] > MOST_NAMES:
            u = u[:, np.linspace(0, u.shape[1] - 1, MOST_NAMES).round().astype(int)]
            if too_little(u) is not None:
                return Dependence.none("independent: too few days with two of the names")
        rows = warm_rows(u)
        most = int(np.clip(CELLS / u.shape[1] ** 2, FEWEST_ROWS, MOST_ROWS))
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
        nu = REFERENCE if self.freedom is None else self.freedom
        weights = torch.zeros(2 if self.state else 1, len(self.half_lives) + 1, dtype=torch.float64)
        for _ in range(ROUNDS if self.freedom is None else 1):
            x = scores(u, nu)
            features, stack = inputs(x, rows, self.half_lives, state=self.state)
            weights, converged = self._fit_weights(x[rows], features, stack, nu, weights)
            r = mixture(stack, shares_of(weights, torch.from_numpy(features), self.least_identity).numpy())
            before, nu = nu, nu if self.freedom is not None else best_freedom(u[rows], r)
            if abs(nu / before - 1) < 0.05:
                break
        dynamics = Mixture(weights, self.half_lives, self.least_identity)
        gain = float(log_copula_of_root(*_parts(scores(u[rows], nu), r), nu).mean())
        said = f"t copula, nu {nu:.3g}, {gain:+.3f} nats a day over independence"
        return Dependence(dynamics, nu, Status(converged, said + ("" if converged else "; the fit did not converge")))

    def dynamics(self, tensors: Mapping[str, Tensor]) -> Dynamics:
        return Mixture(tensors["weights"], self.half_lives, self.least_identity)

    def _fit_weights(self, x: Array, features: Array, stack: Array, nu: float, start: Tensor) -> tuple[Tensor, bool]:
        """A by maximum likelihood under a wide normal prior, L-BFGS on the gradient of log c in R."""
        n, h, k = stack.shape[:3]
        s, flat = torch.from_numpy(features), torch.from_numpy(stack.reshape(n, h, k * k))
        eye = torch.eye(k, dtype=torch.float64).reshape(1, -1)
        width = torch.full_like(start, STATE_WIDTH)
        width[0] = CONSTANT_WIDTH

        def objective(white: Tensor, _: Tensor) -> Tensor:
            found = []
            for row in white:
                weights = row.reshape(start.shape) * width
                pi = shares_of(weights, s, self.least_identity)
                r = (pi[:, None, :-1] @ flat).squeeze(1) + pi[:, -1:] * eye
                found.append(-log_copula_in_r(r.reshape(n, k, k), torch.from_numpy(x), nu).mean())
            value: Tensor = torch.stack(found) + white.square().sum(-1) / (2 * n)
            return value

        done = minimise(objective, (start / width).reshape(1, -1), iterations=150, tolerance=1e-7)
        return done.parameters[0].reshape(start.shape) * width, bool(done.converged[0])


def inputs(x: Array, rows: NDArray[np.intp], half_lives: tuple[float, ...], *, state: bool) -> tuple[Array, Array]:
    """States (N, p) and correlations (N, H, K, K) of the days `rows`, from the rows of x before each."""
    wanted = tuple(dict.fromkeys((*half_lives, *(GAP if state else ()))))
    stack = moving_correlations(x, wanted, rows)
    ones = np.ones(len(rows))
    features = np.stack([ones, _gap(*(stack[:, wanted.index(h)] for h in GAP))], -1) if state else ones[:, None]
    return features, stack[:, [wanted.index(h) for h in half_lives]]


def _gap(fast: Array, slow: Array) -> Array:
    """How far two matrices (N, K, K) of correlations lie apart, (N,)."""
    k = fast.shape[-1]
    mean = np.square(fast - slow).sum((-1, -2)) / max(k * (k - 1), 1)
    return np.asarray((np.sqrt(mean) - GAP_CENTRE) / GAP_SCALE)


def shares_of(weights: Tensor, features: Tensor, least: float) -> Tensor:
    """softmax of A s, the identity holding at least `least`: (N, H + 1)."""
    free = (1 - least) * torch.softmax(features @ weights, -1)
    return torch.cat([free[..., :-1], free[..., -1:] + least], -1)


def mixture(stack: Array, shares: Array) -> Array:
    """sum_h pi_h C_h + pi_I I for C (N, H, K, K) and shares (N, H + 1), with a diagonal of exactly one."""
    r = np.einsum("nh,nhij->nij", shares[:, :-1], stack)
    np.einsum("nii->ni", r)[...] = 1.0
    return np.asarray(r)


def _parts(x: Array, r: Array) -> tuple[Tensor, Tensor, Tensor]:
    return observed(torch.from_numpy(x), torch.from_numpy(r))


def log_copula_in_r(r: Tensor, x: Tensor, nu: float) -> Tensor:
    """log c, differentiable in R alone."""
    value: Tensor = _Value.apply(r, x, nu)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return value


class _Value(torch.autograd.Function):
    """log c and its gradient in R in closed form: half the cost of going back through the Cholesky factor.

    d log c / d R = -1/2 R^{-1} + (nu + d) / (2 (nu + q)) R^{-1} x x' R^{-1},   q = x' R^{-1} x.
    """

    @staticmethod
    def forward(context: Any, r: Tensor, x: Tensor, nu: float) -> Tensor:
        x, root, on = observed(x, r)
        inverse = torch.cholesky_inverse(root)
        z = (inverse @ x[..., None]).squeeze(-1)
        square = (z * x).sum(-1)
        gain = torch.ones_like(square) if math.isinf(nu) else (nu + on.sum(-1)) / (nu + square)
        gradient = inverse.baddbmm_((gain[:, None] * z)[..., None], z[:, None], beta=-0.5, alpha=0.5)
        if not bool(on.all()):
            gradient = gradient * on[:, :, None] * on[:, None, :]
        gradient.diagonal(dim1=-2, dim2=-1).zero_()  # it is one, whatever R says
        context.save_for_backward(gradient)
        return log_copula_of_root(x, root, on, nu)

    @staticmethod
    def backward(context: Any, *up: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return up[0][:, None, None] * gradient, None, None
