"""Student-t vectors with some entries pinned: to values, or to intervals, one after the other.

    X ~ t_nu(0, S), entries c_1, c_2, ... pinned.  Given the first k, with e = L^{-1} x, L L' = S_cc, q = |e|^2,
    X_{k+1} ~ t_{nu + k}(sum_j L_{k+1,j} e_j,  L_{k+1,k+1}^2 (nu + q) / (nu + k)),

exactly. An entry is drawn from this law cut to its interval; its weight is the interval's probability, or the density
at the value. The entries not pinned follow their law given those that are. For one pinned entry the weight is a
constant and the draws are exact; for more they are the sequential importance sampler of Geweke, Hajivassiliou and
Keane.

Sources: J. Geweke (1991), Efficient simulation from the multivariate normal and Student-t distributions subject to
linear constraints; P. Ding (2016), On the conditional distribution of the multivariate t distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import gammaincinv, gammaln, ndtr, ndtri, stdtr, stdtrit
from torch import Tensor

from portfolio_ebm.errors import SpecError

LEAST_LEFT = 1e-10
"""Share of a pinned entry's variance that the pinned ones before it must leave."""


class Pinned:
    """Draws of X ~ t_nu(0, scale) of which `columns` are pinned in turn; `freedom` inf is the normal law.

    Args:
        scale: (K, K), a scale matrix; may be singular outside `columns`.
        columns: entries to be pinned, in order.
        freedom: nu.
        size: draws n.

    Raises:
        SpecError: the pinned entries determine one another.

    Example:
        >>> law = Pinned(scale, [0], 6.0, 1000)
        >>> value, log_weight = law.pin(low, high, rng)          # (n,), (n,)
        >>> x = law.rest(rng)                                    # (n, K), x[:, 0] is value
    """

    def __init__(self, scale: Tensor, columns: Sequence[int], freedom: float, size: int) -> None:
        self.scale, self.columns, self.freedom, self.size = scale, list(columns), freedom, size
        block = scale[self.columns][:, self.columns]
        self.root, info = torch.linalg.cholesky_ex(block)
        left = self.root.diagonal().square() / block.diagonal()
        if int(info) > 0 or bool((left < LEAST_LEFT).any()):
            raise SpecError(
                "The series of these conditions determine one another (one is a sum of others); condition on fewer."
            )
        self.values: list[Tensor] = []
        self.e: list[Tensor] = []
        self.square = torch.zeros(size, dtype=scale.dtype)

    def pin(self, low: Tensor, high: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The next column in [low, high] (each broadcasts to (n,)); where low = high it is that value.

        Returns:
            The values, and the log probability of the interval or log density of the value.
        """
        k = len(self.values)
        row = self.root[k]
        zero = torch.zeros_like(self.square)
        location = torch.stack([row[j] * self.e[j] for j in range(k)]).sum(0) if k else zero
        width = row[k] * self._stretch(k)
        a, b = ((bound.expand(self.size) - location) / width for bound in (low, high))
        uniform = torch.rand(self.size, generator=rng, dtype=self.scale.dtype)
        z, mass = interval_draw(a, b, self.freedom + k, uniform)
        same = a == b
        z = torch.where(same, a, z)
        log_weight = torch.where(same, log_t(torch.where(same, a, 0.0), self.freedom + k) - width.log(), mass)
        value = torch.minimum(torch.maximum(location + width * z, low), high)
        e = (value - location) / row[k]
        self.values.append(value)
        self.e.append(e)
        self.square = self.square + e.square()
        return value, log_weight

    def rest(self, rng: torch.Generator) -> Tensor:
        """All entries (n, K), those not pinned drawn given the pinned ones."""
        k, c = len(self.scale), self.columns
        r = [i for i in range(k) if i not in set(c)]
        out = torch.empty(self.size, k, dtype=self.scale.dtype)
        pinned = torch.stack(self.values, -1)
        out[:, c] = pinned
        if not r:
            return out
        cross = self.scale[r][:, c]
        share = torch.cholesky_solve(cross.mT, self.root).mT
        left, vectors = torch.linalg.eigh(self.scale[r][:, r] - share @ cross.mT)
        root = vectors * left.clamp_min(0.0).sqrt()
        normal = torch.randn(self.size, len(r), generator=rng, dtype=out.dtype)
        nu, m = self.freedom, len(c)
        stretch = self._stretch(m)
        if math.isfinite(nu):
            uniform = torch.rand(self.size, generator=rng, dtype=out.dtype)
            stretch = stretch * chi_mixing(uniform, nu + m)
        out[:, r] = pinned @ share.mT + stretch[:, None] * (normal @ root.mT)
        return out

    def _stretch(self, k: int) -> Tensor:
        """sqrt((nu + q) / (nu + k)): what k pinned values say of the size of the others."""
        if math.isinf(self.freedom):
            return torch.ones_like(self.square)
        return ((self.freedom + self.square) / (self.freedom + k)).sqrt()


def chi_mixing(uniform: Tensor, nu: float) -> Tensor:
    """sqrt(nu / chi2_nu) from uniforms: a normal times it is Student-t of scale one."""
    chi2 = 2 * torch.from_numpy(np.asarray(gammaincinv(nu / 2, uniform.numpy())))
    return (nu / chi2.clamp_min(1e-12)).sqrt()


def interval_draw(a: Tensor, b: Tensor, nu: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """t_nu cut to [a, b]: a draw by the inverse cdf, and the log of the interval's probability; any one shape.

    The interval is turned to the lower tail, where probabilities keep their digits.
    """
    flip = a + b > 0
    flip = torch.where(torch.isnan(a + b), False, flip)
    low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
    p, q = _cdf(low, nu), _cdf(high, nu)
    mass = q - p
    z = _quantile((p + uniform * mass).clamp(1e-100, 1 - 1e-16), nu)
    z = torch.minimum(torch.maximum(z, low), high)
    return torch.where(flip, -z, z), mass.log()


def log_t(z: Tensor, nu: float) -> Tensor:
    """log density of the standard Student-t law."""
    if math.isinf(nu):
        return -z.square() / 2 - 0.5 * math.log(2 * math.pi)
    constant = float(gammaln((nu + 1) / 2) - gammaln(nu / 2)) - 0.5 * math.log(nu * math.pi)
    return constant - (nu + 1) / 2 * torch.log1p(z.square() / nu)


def _cdf(z: Tensor, nu: float) -> Tensor:
    found = ndtr(z.numpy()) if math.isinf(nu) else stdtr(nu, z.numpy())
    return torch.from_numpy(np.asarray(found, dtype=np.float64))


def _quantile(u: Tensor, nu: float) -> Tensor:
    found = ndtri(u.numpy()) if math.isinf(nu) else stdtrit(nu, u.numpy())
    return torch.from_numpy(np.asarray(found, dtype=np.float64))
