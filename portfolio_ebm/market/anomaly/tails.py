"""How unlikely a day is under a market: of each series by itself, given the others, and of the day as a whole.

    marginal      p_i = 2 min(u, 1 - u),   u = P(R_i <= r_i | past)
    conditional   the same with u = P(R_i <= r_i | past, r_-i): the tail of the energy E(r_i | r_-i)
    energy        P(E(R) >= E(r) | past)

For r ~ t_nu(m, S), P = S^{-1}, d = r - m and k = d-dimension less one,

    R_i | r_-i ~ t_{nu + k}(r_i - (P d)_i / P_ii,  (nu + q_-i) / ((nu + k) P_ii)),   q_-i = d' P d - (P d)_i^2 / P_ii,

for all i at once. Laws that have no such form get the marginal by draws and no conditional (NaN).

Source: P. Ding (2016), On the conditional distribution of the multivariate t distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import chdtrc, fdtrc, ndtr, stdtr
from torch import Tensor

from portfolio_ebm.market.base import Market
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.stacked import StackedMarket

DRAWS = 1000
"""Draws behind what has no closed form; no probability below 1 / (DRAWS + 1) comes from counting them."""


class Tails(NamedTuple):
    """Tail probabilities of D days: `marginal` and `conditional` (D, S), `energy` (D,); NaN where not known."""

    marginal: Tensor
    conditional: Tensor
    energy: Tensor


@singledispatch
def tails(market: Market, r: Tensor, rng: Sequence[torch.Generator]) -> Tails:
    """Tail probabilities of the rows r (D, S); the market is that of one date (D = 1) or of D.

    Args:
        rng: one stream a date.
    """
    one = not market.batch
    drawn = market.sample(DRAWS, rng[0] if one else rng)
    drawn = drawn[None] if one else drawn
    below = (drawn < r[:, None]).sum(1) + 0.5 * (drawn == r[:, None]).sum(1)
    u = (below + 0.5) / (DRAWS + 1)
    marginal = torch.where(torch.isnan(r), torch.nan, two_sided(u))
    return Tails(marginal, torch.full_like(r, torch.nan), energy_of_draws(market, r, drawn))


@tails.register
def _(market: StackedMarket, r: Tensor, rng: Sequence[torch.Generator]) -> Tails:
    found = [tails(m, r[i : i + 1], rng[i : i + 1]) for i, m in enumerate(market.markets)]
    return Tails(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@tails.register
def _(market: EllipticalMarket, r: Tensor, rng: Sequence[torch.Generator]) -> Tails:
    if not market.batch:
        return tails(EllipticalMarket.stack([market]), r, rng)
    here = ~torch.isnan(r)
    nu = torch.full_like(r[:, 0], torch.inf) if market.freedom is None else market.freedom.expand(len(r))
    spread = market.spread if market.freedom is None else market.spread * ((nu - 2) / nu)[:, None, None]
    width = spread.diagonal(dim1=-2, dim2=-1).sqrt()
    z = (r - market.centre) / width
    correlation = spread / (width[:, :, None] * width[:, None, :])
    single, others, square = student_tails(z, correlation, nu)
    d = here.sum(-1).to(r)
    day = np.where(
        np.isinf(nu.numpy()),
        chdtrc(d.numpy(), square.numpy()),
        fdtrc(d.numpy(), np.where(np.isinf(nu.numpy()), 1.0, nu.numpy()), (square / d.clamp_min(1)).numpy()),
    )
    return Tails(single, others, torch.where(d > 0, torch.from_numpy(day), torch.nan))


def student_tails(x: Tensor, correlation: Tensor, freedom: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two-sided tails of x ~ t_nu(0, R) by entry: alone and given the others, (D, S); and q = x' R^{-1} x, (D,).

    Args:
        x: (D, S), NaN for entries that are not there: the others' law is without them.
        correlation: R, (D, S, S); freedom: nu, (D,), infinite for the normal law.
    """
    here = ~torch.isnan(x)
    on = here.to(correlation)
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    inverse = torch.linalg.inv(correlation * (on[:, :, None] * on[:, None, :]) * (1 - eye) + eye)
    value = torch.where(here, x, 0.0)
    pull = (inverse @ value[..., None])[..., 0]
    own = inverse.diagonal(dim1=-2, dim2=-1)
    square = (value * pull).sum(-1)
    k = (on.sum(-1) - 1).clamp_min(0)[:, None]
    nu = freedom[:, None].expand_as(x)
    rest = (square[:, None] - pull.square() / own).clamp_min(0)
    stretch = torch.where(torch.isinf(nu), 1.0, (nu + rest) / (nu + k))
    alone, given = lower(-value.abs(), nu), lower(-pull.abs() / (own * stretch).sqrt(), nu + k)
    return torch.where(here, 2 * alone, torch.nan), torch.where(here, 2 * given, torch.nan), square


def lower(x: Tensor, freedom: Tensor) -> Tensor:
    """T_nu(x), any one shape; infinite nu is the normal law."""
    nu = freedom.numpy()
    normal = np.isinf(nu)
    return torch.from_numpy(np.where(normal, ndtr(x.numpy()), stdtr(np.where(normal, 1.0, nu), x.numpy())))


def two_sided(u: Tensor) -> Tensor:
    """2 min(u, 1 - u)."""
    return 2 * torch.minimum(u, 1 - u)


def energy_of_draws(market: Market, r: Tensor, drawn: Tensor) -> Tensor:
    """P(E(R) >= E(r)), (D,), by the draws (D, N, S), of the series observed on each day; NaN without a density."""
    known = ~torch.isnan(r)
    if not market.has_density:
        return torch.full_like(r[:, 0], torch.nan)
    same = torch.where(known[:, None], drawn, torch.nan)
    both = torch.cat([r[:, None], same], 1)
    log_p = market.log_prob(both) if market.batch else market.log_prob(both[0])[None]
    p = (1 + (log_p[:, 1:] <= log_p[:, :1]).sum(1)) / (1.0 + drawn.shape[1])
    return torch.where(known.any(-1), p.to(r), torch.nan)
