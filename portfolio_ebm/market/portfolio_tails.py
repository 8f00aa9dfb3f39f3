"""The tails of portfolio returns: quantile and mean below it, from draws and from elliptical laws; PITs by mid-rank.

    VaR_a = the (1 - a)-quantile q of the return,   ES_a = E[return | return <= q];   both are returns: losses negative.

Of N equally likely draws the worst N (1 - a) are averaged, the last of them by its fraction where that is not whole,
and VaR is that last one: the same tail that the energy CVaR takes.

Source: R. T. Rockafellar and S. Uryasev (2002), Conditional value-at-risk for general loss distributions, Journal of
Banking & Finance 26.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import gammaln, ndtri, stdtr, stdtrit
from torch import Tensor

from portfolio_ebm.errors import SpecError


def check_level(level: float) -> float:
    """1 - level, the share of the tail.

    Raises:
        SpecError: the level is not inside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise SpecError(f"level {level:g}: give the confidence inside (0, 1); 0.95 is the worst twentieth.")
    return 1.0 - level


def portfolio_returns(draws: Tensor, weights: Tensor, batch: int) -> Tensor:
    """Returns (*batch, N, M) of the M portfolios in weights (*batch, ..., S) at draws (*batch, N, S)."""
    flat = weights.reshape(*weights.shape[:batch], -1, weights.shape[-1])
    return draws @ flat.mT


def tail_of_draws(returns: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """(VaR, ES), each (..., M), of N equally likely returns (..., N, M)."""
    share = check_level(level)
    n = returns.shape[-2]
    count = n * share
    # 1 - 0.95 is not a twentieth in binary: a count within rounding of a whole number is that number.
    count = float(round(count)) if abs(count - round(count)) < 1e-9 * n and round(count) > 0 else count
    size = min(max(math.ceil(count), 1), n)
    worst = returns.movedim(-2, -1).topk(size, dim=-1, largest=False, sorted=True).values
    weight = torch.ones(size, dtype=returns.dtype, device=returns.device)
    weight[-1] = count - (size - 1)
    return worst[..., -1], (worst * weight).sum(-1) / count


def tail_of_elliptical(mean: Tensor, deviation: Tensor, level: float, freedom: Tensor | None) -> tuple[Tensor, Tensor]:
    """(VaR, ES) of normal or Student-t returns with this mean and standard deviation, any one shape.

    Normal: mean + s z and mean - s phi(z) / (1 - a), z the normal quantile. Student-t with nu degrees of freedom,
    scale s sqrt((nu - 2) / nu), T its quantile: ES = mean - scale t_nu(T) (nu + T^2) / ((nu - 1) (1 - a)).
    """
    share = check_level(level)
    if freedom is None:
        z = float(ndtri(share))
        height = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return mean + deviation * z, mean - deviation * (height / share)
    nu = freedom.numpy()
    q = stdtrit(nu, share)
    log_height = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)
    log_height = log_height - (nu + 1) / 2 * np.log1p(q * q / nu)
    factor = np.exp(log_height) * (nu + q * q) / ((nu - 1) * share)
    scale = deviation * ((freedom - 2) / freedom).sqrt()
    return mean + scale * torch.from_numpy(np.asarray(q)), mean - scale * torch.from_numpy(np.asarray(factor))


def pit_of_elliptical(z: Tensor, freedom: Tensor | None) -> Tensor:
    """P(Z <= z) of a normal or Student-t Z of variance one, any shape; NaN stays NaN."""
    if freedom is None:
        normal: Tensor = torch.special.ndtr(z)
        return normal
    return torch.from_numpy(np.asarray(stdtr(freedom.numpy(), (z * (freedom / (freedom - 2)).sqrt()).numpy())))


def pit_of_draws(draws: Tensor, r: Tensor, batch: int) -> Tensor:
    """PITs of r (*batch, ..., S) among draws (*batch, N, S), series by series; NaN stays NaN.

    The mid-rank among N + 1, r itself counted: (below + (ties + 1) / 2) / (N + 1), inside (0, 1), and exactly
    uniform on its grid where r is one more draw of the same law.
    """
    n, size = draws.shape[-2:]
    lead = torch.broadcast_shapes(draws.shape[:batch], r.shape[:batch])
    ordered = draws.mT.sort(-1).values.expand(*lead, size, n).contiguous()
    flat = r.reshape(*r.shape[:batch], -1, size).mT.expand(*lead, size, -1).contiguous()
    below = torch.searchsorted(ordered, flat, right=False)
    ties = torch.searchsorted(ordered, flat, right=True) - below
    u = (below + (ties + 1) / 2).to(draws.dtype) / (n + 1)
    u = torch.where(torch.isnan(flat), torch.nan, u).mT
    return u.reshape(*lead, *r.shape[batch:])
