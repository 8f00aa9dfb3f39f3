"""The dependence energy: a t copula whose correlations move with the days, and whose marginals stay exact.

    E(u) = -log c(u; R_t, nu),   x_k = T_nu^{-1}(u_k),   c = t_nu(x; R_t) / prod_k t_nu(x_k),
    R_t = sum_h pi_h C_{h,t} + pi_I I,   C_{h,t} = correlations of the EW moments of x over days before t.

Every C is a correlation matrix, and so is a mixture of them with the identity: R_t is positive definite by
construction. pi and nu are fitted by maximum likelihood; Z = 1. A missing name leaves its row and
column, and the rest is the exact law of those that are there, since t copulas are closed under marginals.

Source: S. Demarta and A. J. McNeil (2005), The t copula and related copulas; R. Engle (2002), Dynamic conditional
correlation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import ndtr, stdtr, stdtrit
from torch import Tensor

from portfolio_ebm.models.conditional import Shape
from portfolio_ebm.training.quasi_newton import minimise
from portfolio_ebm.types import Status

Array = NDArray[np.float64]

HALF_LIVES = (8.0, 20.0, 60.0, 250.0, 1000.0)
FREEDOMS = (4.0, 6.0, 8.0, 12.0, 20.0, 50.0)
REFERENCE_FREEDOM = 8.0
LEAST_IDENTITY = 0.01
MOST_ROWS = 400
MOST_NAMES = 25
REACH, KNOTS = 9.0, 8192


@dataclass(frozen=True)
class Dependence:
    """A fitted dependence energy.

    Attributes:
        shares: pi over HALF_LIVES and the identity, (H + 1,), adding to one.
        freedom: nu.
        status: how the fit ended.
    """

    shares: Tensor
    freedom: float
    status: Status

    @classmethod
    def none(cls) -> Dependence:
        """Independence: everything on the identity, and nu infinite."""
        shares = torch.zeros(len(HALF_LIVES) + 1, dtype=torch.float64)
        shares[-1] = 1.0
        return cls(shares, math.inf, Status(True, "independent"))

    def correlation(self, x: Array) -> Tensor:
        """R for the day after the last row of the scores x (T, K), NaN where missing: (K, K)."""
        if math.isinf(self.freedom):
            return torch.eye(x.shape[1], dtype=torch.float64)
        stack = np.stack([_last(x, h) for h in HALF_LIVES])
        return mixture(torch.from_numpy(stack), self.shares)

    def path(self, x: Array, rows: NDArray[np.intp]) -> Tensor:
        """R for the days `rows`, each from the scores x (T, K) of the days before it: (len(rows), K, K)."""
        if math.isinf(self.freedom):
            return torch.eye(x.shape[1], dtype=torch.float64).expand(len(rows), -1, -1)
        stack = np.stack([correlations(x, h, rows) for h in HALF_LIVES], axis=1)
        return mixture(torch.from_numpy(stack), self.shares)

    def log_density(self, x: Tensor, correlation: Tensor) -> Tensor:
        """log c at t scores x (..., K), NaN for missing, with R (..., K, K)."""
        if math.isinf(self.freedom):
            return torch.zeros_like(x[..., 0])
        return log_copula(x, correlation, self.freedom)

    def draw(self, root: Tensor, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """t scores (*size, K) with the correlation root @ root.T."""
        k = len(root)
        normal: Tensor = torch.randn((*size, k), generator=rng, dtype=root.dtype, device=root.device) @ root.mT
        if math.isinf(self.freedom):
            return normal
        # nu is even: chi-squared with nu degrees is the sum of nu / 2 exponentials, each -2 log of a uniform.
        shape = (*size, round(self.freedom / 2))
        uniform = torch.rand(shape, generator=rng, dtype=root.dtype, device=root.device)
        mix: Tensor = -2 * torch.log1p(-uniform).sum(-1) / self.freedom
        drawn: Tensor = normal / mix.clamp_min(1e-12).sqrt()[..., None]
        return drawn

    def level(self, x: Tensor) -> Tensor:
        """u = T_nu(x), any shape."""
        if math.isinf(self.freedom):
            return torch.from_numpy(np.asarray(ndtr(x.numpy())))
        return torch.from_numpy(np.asarray(stdtr(self.freedom, x.numpy())))

    def carry(self, shape: Shape) -> Carry:
        """The map from scores to each part's own z, as a table."""
        y = torch.linspace(-REACH, REACH, KNOTS, dtype=shape.z.dtype)
        u = self.level(torch.sinh(y)).clamp(1e-15, 1 - 1e-15)
        return Carry(shape.quantile(u[:, None].expand(-1, len(shape.z))).T.contiguous())


@dataclass(frozen=True)
class Carry:
    """z = F^{-1}(T_nu(x)) for each of M parts, linear between knots that are equally spaced in asinh(x).

    Attributes:
        z: (M, KNOTS).
    """

    z: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """z at scores x (S, M)."""
        place = ((torch.asinh(x) + REACH) * ((KNOTS - 1) / (2 * REACH))).clamp(0, KNOTS - 1.000001).T
        left = place.long()
        low, high = self.z.gather(1, left), self.z.gather(1, left + 1)
        return torch.addcmul(low, place - left, high - low).T


def scores(u: Array, freedom: float) -> Array:
    """T_nu^{-1}(u), NaN kept."""
    if math.isinf(freedom):
        return np.asarray(torch.special.ndtri(torch.from_numpy(u)).numpy())
    return np.asarray(stdtrit(freedom, u), dtype=np.float64)


def mixture(stack: Tensor, shares: Tensor) -> Tensor:
    """sum_h pi_h C_h + pi_I I for C (..., H, K, K) and shares (H + 1,)."""
    eye = torch.eye(stack.shape[-1], dtype=stack.dtype, device=stack.device)
    return (shares[:-1, None, None] * stack).sum(-3) + shares[-1] * eye


def log_copula(x: Tensor, correlation: Tensor, freedom: float) -> Tensor:
    """log of the t copula's density at scores x (..., K); NaN scores are marginalised out exactly."""
    here = ~torch.isnan(x)
    on = here.to(x)
    x = torch.where(here, x, 0.0)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    r = correlation * (on[..., :, None] * on[..., None, :]) * (1 - eye) + eye
    root = torch.linalg.cholesky(r)
    solved = torch.linalg.solve_triangular(root, x[..., None], upper=False).squeeze(-1)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    d, nu = on.sum(-1), freedom
    half: Tensor = (
        torch.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d * (math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2))
    )
    joint = -(nu + d) / 2 * torch.log1p(solved.square().sum(-1) / nu)
    single = -(nu + 1) / 2 * (on * torch.log1p(x * x / nu)).sum(-1)
    density: Tensor = half - 0.5 * log_det + joint - single
    return density


def correlations(x: Array, half_life: float, rows: NDArray[np.int64]) -> Array:
    """C of the days before each of `rows`, (len(rows), K, K), for scores x (T, K) with NaN where missing.

    A missing score counts as zero and the diagonal is each name's own: the sum of outer products stays positive
    semi-definite, and a pair seldom seen together is shrunk to zero.
    """
    lam = 0.5 ** (1.0 / half_life)
    known = np.nan_to_num(x)
    k = x.shape[1]
    out = np.empty((len(rows), k, k))
    for i in range(k):
        moment = lfilter([1.0], [1.0, -lam], known[:, i : i + 1] * known[:, i:], axis=0)
        moment = np.concatenate([np.zeros((1, k - i)), moment])[rows]
        out[:, i, i:] = moment
        out[:, i:, i] = moment
    return _normalise(out, half_life)


def _last(x: Array, half_life: float) -> Array:
    """C of all days, (K, K), in one product."""
    weight = 0.5 ** (np.arange(len(x))[::-1] / half_life)
    known = np.nan_to_num(x)
    return _normalise((known * weight[:, None]).T @ known, half_life)


def _normalise(moment: Array, half_life: float) -> Array:
    """Correlations from sums of outer products, with one day of the identity added: defined before the first day."""
    k = moment.shape[-1]
    moment = moment + np.eye(k)
    width = np.sqrt(np.einsum("...kk->...k", moment))
    c = moment / (width[..., :, None] * width[..., None, :])
    np.einsum("...kk->...k", c)[...] = 1.0
    return np.asarray(c, dtype=np.float64)


def fit_dependence(u: Array, first: int) -> Dependence:
    """Maximum likelihood of shares and nu on the PITs u (T, K); rows from `first` on are scored, thinned to 400.

    Beyond 25 names the fit looks at 25 of them, evenly spaced; the correlations used afterwards have all.
    """
    if u.shape[1] < 2:
        return Dependence.none()
    if u.shape[1] > MOST_NAMES:
        u = u[:, np.linspace(0, u.shape[1] - 1, MOST_NAMES).round().astype(int)]
    full = np.flatnonzero((~np.isnan(u)).sum(axis=1) >= 2)
    rows = full[full >= first]
    if len(rows) < 60:
        return Dependence.none()
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(int))]
    nu = REFERENCE_FREEDOM
    x, stack = _fit_data(u, nu, rows)
    shares, _, _ = _fit_shares(x, stack, nu, torch.zeros(len(HALF_LIVES) + 1, dtype=torch.float64))
    values = []
    for trial in FREEDOMS:
        tx = torch.from_numpy(scores(u[rows], trial))
        values.append(float(log_copula(tx, mixture(stack, shares), trial).mean()))
    nu = FREEDOMS[int(np.argmax(values))]
    x, stack = _fit_data(u, nu, rows)
    shares, gain, converged = _fit_shares(x, stack, nu, _logits(shares))
    said = f"t copula, nu {nu:g}, {gain:+.3f} nats a day over independence"
    return Dependence(shares, nu, Status(converged, said + ("" if converged else "; the fit did not converge")))


def _fit_data(u: Array, nu: float, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    x = scores(u, nu)
    stack = np.stack([correlations(x, h, rows) for h in HALF_LIVES], axis=1)
    return torch.from_numpy(x[rows]), torch.from_numpy(stack)


def _shares(logits: Tensor) -> Tensor:
    free = torch.softmax(logits, -1)
    floor = torch.zeros_like(free)
    floor[..., -1] = LEAST_IDENTITY
    return (1 - LEAST_IDENTITY) * free + floor


def _logits(shares: Tensor) -> Tensor:
    floor = torch.zeros_like(shares)
    floor[-1] = LEAST_IDENTITY
    return ((shares - floor) / (1 - LEAST_IDENTITY)).clamp_min(1e-6).log()


def _fit_shares(x: Tensor, stack: Tensor, nu: float, start: Tensor) -> tuple[Tensor, float, bool]:
    """Shares by maximum likelihood; a wide prior (deviation 2) on the logits keeps an unused share finite."""

    def objective(logits: Tensor, _: Tensor) -> Tensor:
        fit = torch.stack([log_copula(x, mixture(stack, _shares(row)), nu).mean() for row in logits])
        return -fit + (logits / 2).square().sum(-1) / (2 * len(x))

    found = minimise(objective, start[None], iterations=60, tolerance=1e-5)
    shares = _shares(found.parameters[0])
    gain = float(log_copula(x, mixture(stack, shares), nu).mean())
    return shares, gain, bool(found.converged[0])
