"""Stale prices in a market: a name that often does not move has an atom at a return of exactly zero.

    r_i = 0 with probability s_i, else B_i x + eps_i;        which names stand still is independent of all else,
    log p(r) = sum_still log s_i + sum_moved log(1 - s_i) + log p(x, eps of those that moved),

a density with respect to Lebesgue measure plus a point mass at zero for each such name. A name that stands still leaves
its residual unknown, and residuals are integrated out exactly, so that the copula and all other laws stay as they are.
s_i is the share of `models.atom`, known the day before and zero for a name that seldom stands still.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.linear import Structured
from portfolio_ebm.models.atom import shares

Array = NDArray[np.float64]


def without_stale(returns: Array) -> tuple[Array, Array]:
    """Returns (T, n) with the days on which a stale name stood still as missing, and the shares known before each row
    and before the day to come, (T + 1, n)."""
    share = shares(torch.tensor(returns)).numpy()
    return np.where((returns == 0) & (share[:-1] > 0), np.nan, returns), share


def parted(r: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Asset returns with stale ones as NaN, and each asset's log probability of having stood still or moved.

    Args:
        r: (..., n), NaN where not observed, which says nothing of either.
        share: s, broadcasting to r.
    """
    still = (r == 0) & (share > 0)
    log_mass = torch.where(still, share.log(), torch.log1p(-share))
    return torch.where(still, torch.nan, r), torch.where(torch.isnan(r), 0.0, log_mass)


def stand(r: Tensor, share: Tensor, rng: torch.Generator) -> Tensor:
    """Drawn asset returns (..., n) with each at zero with its own probability."""
    u = torch.rand(r.shape, generator=rng, dtype=r.dtype, device=r.device)
    return torch.where(u < share, 0.0, r)


def thinned(covariance: Structured, mean: Tensor, share: Tensor, horizon: int) -> Structured:
    """F C F' + D of `horizon` periods of mean (n,) each, once names stand still on days of their own.

    Cov_ij (1 - s_i)(1 - s_j) off the diagonal; on it (1 - s) V + horizon s (1 - s) mean^2.
    """
    moved = 1 - share
    common = ((covariance.loadings @ covariance.core) * covariance.loadings).sum(-1)
    whole = moved * (common + covariance.diagonal) + horizon * share * moved * mean.square()
    return Structured(covariance.loadings * moved[:, None], covariance.core, whole - moved.square() * common)
