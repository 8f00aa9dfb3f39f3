"""Tail probabilities under a FactorEBM: every part by its own law, the parts by their copula.

asset, marginal       u = E_x F_i(r_i - (B x)_i), x drawn: the mean of exact cdfs, smooth far into the tail
asset, conditional    eps_i given all factors and the other assets' eps: the map (f, r) -> (x, eps) is triangular
factor, marginal      its own part x_k: the factor less its causal beta times the market, where it is orthogonalised
factor, conditional   x_k given the parts of the other factors
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from portfolio_ebm.market.anomaly.tails import DRAWS, Tails, energy_of_draws, student_tails, tails, two_sided
from portfolio_ebm.market.composed import Block, FactorEBMMarket, split
from portfolio_ebm.market.days import FactorEBMDays
from portfolio_ebm.market.dependence import scores

EDGE = 1e-15


@tails.register
def _(market: FactorEBMDays, r: Tensor, rng: Sequence[torch.Generator]) -> Tails:
    return tails(market.days, r, rng)


@tails.register
def _(market: FactorEBMMarket, r: Tensor, rng: Sequence[torch.Generator]) -> Tails:
    with torch.no_grad():
        k = len(market.factors)
        drawn = market.sample(DRAWS, rng[0])
        x, eps = split(r, market.beta, market.loadings, market.market)
        u_factor, own = _part(market.blocks[0], x)
        _, given = _part(market.blocks[1], eps)
        common, _ = split(drawn, market.beta, market.loadings, market.market)
        u_asset = _smooth(market.blocks[1], r[:, k:] - common @ market.loadings.mT)
        marginal = torch.cat([two_sided(u_factor), two_sided(u_asset)], -1)
        return Tails(marginal, torch.cat([own, given], -1), energy_of_draws(market, r, drawn[None]))


def _part(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Levels of one row of parts x (1, M), and their tails given one another; NaN where x is."""
    if not x.shape[-1]:
        return x, x
    here = ~torch.isnan(x)
    value = torch.where(here, x, block.law.location.T)
    u = block.law.level(value[..., None])[..., 0].clamp(EDGE, 1 - EDGE)
    nu = block.dependence.freedom
    if nu == torch.inf:
        t = torch.special.ndtri(u)
    else:
        t = torch.from_numpy(scores(u.numpy(), nu))
    t, u = torch.where(here, t, torch.nan), torch.where(here, u, torch.nan)
    _, given, _ = student_tails(t, block.correlation[None], torch.tensor([nu], dtype=x.dtype))
    return u, given


def _smooth(block: Block, eps: Tensor) -> Tensor:
    """Mean level of each part over the rows eps (N, M): (1, M), NaN where they are."""
    if not eps.shape[-1]:
        return eps[:1]
    here = ~torch.isnan(eps)
    value = torch.where(here, eps, block.law.location.T)
    u = block.law.level(value[..., None])[..., 0].clamp(EDGE, 1 - EDGE)
    return torch.where(here, u, torch.nan).mean(0, keepdim=True)
