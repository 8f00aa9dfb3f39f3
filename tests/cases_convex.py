"""Small markets with everything an energy may ask for, made from a seed."""

from __future__ import annotations

import numpy as np
import torch

from portfolio_ebm.context import Context
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook


def tables(
    sd: list[float], *, gaussian: bool = False, nodes: int = 96, bound: float = 8.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and log masses (K, nodes) of truncated densities on an even grid: normal, or Student-t with 4 degrees."""
    x = torch.linspace(-bound, bound, nodes, dtype=torch.float64)
    log = -0.5 * x.square() if gaussian else -2.5 * torch.log1p(x.square() / 4.0)
    values = torch.tensor(sd, dtype=torch.float64).unsqueeze(-1) * x
    log = (log - torch.logsumexp(log, -1)).expand(len(sd), nodes)
    return values, log


def market(
    n: int = 8, size: int = 200, seed: int = 0, *, held: bool = True, factors: int = 2, gaussian: bool = False
) -> Context:
    """One date: a factor covariance, t scenarios from it, and tables of its factors and residuals."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(n, factors)) * 0.4 + (np.arange(factors) == 0)
    residual = rng.uniform(0.03, 0.08, size=n)
    scenarios = (
        0.04 * rng.standard_t(5, size=(size, factors)) @ loadings.T + rng.standard_t(5, size=(size, n)) * residual
    )
    scenarios = scenarios + rng.normal(0.004, 0.004, size=n)
    covariance = Structured(
        torch.tensor(loadings), 0.0016 * torch.eye(factors, dtype=torch.float64), torch.tensor(residual**2)
    )
    values, log_mass = tables([0.04] * factors + residual.tolist(), gaussian=gaussian)
    exposures = torch.cat([torch.tensor(loadings), torch.eye(n, dtype=torch.float64)], 1)
    names = (*(f"factor {k}" for k in range(factors)), *(f"A{i} residual" for i in range(n)))
    return Context(
        assets=tuple(f"A{i}" for i in range(n)),
        market=Outlook(
            mean=torch.tensor(scenarios.mean(0)),
            covariance=covariance,
            scenarios=torch.tensor(scenarios),
            marginals=Marginals(names, exposures, values, log_mass, 8.0),
            horizon=21.0,
        ),
        held=torch.tensor(rng.dirichlet(np.ones(n))) if held else None,
        tradeable=torch.ones(n, dtype=torch.bool),
        groups={"sector": tuple("odd" if i % 2 else "even" for i in range(n))},
        date="2020-01-31",
    )


def stacked(contexts: list[Context]) -> Context:
    """Several dates in one context, the dates in front."""
    looks = [ctx.market for ctx in contexts if ctx.market is not None]
    tables_ = [look.marginals for look in looks if look.marginals is not None]
    first = tables_[0]
    return Context(
        assets=contexts[0].assets,
        market=Outlook(
            mean=torch.stack([look.mean for look in looks]),
            covariance=Structured(
                torch.stack([look.covariance.loadings for look in looks]),
                torch.stack([look.covariance.core for look in looks]),
                torch.stack([look.covariance.diagonal for look in looks]),
            ),
            scenarios=torch.stack([look.scenarios for look in looks if look.scenarios is not None]),
            marginals=Marginals(
                first.names,
                torch.stack([t.exposures for t in tables_]),
                torch.stack([t.values for t in tables_]),
                torch.stack([t.log_mass for t in tables_]),
                first.bound,
            ),
            horizon=21.0,
        ),
        held=torch.stack([ctx.held for ctx in contexts if ctx.held is not None]),
        tradeable=torch.stack([ctx.tradeable for ctx in contexts]),
    )


def portfolios(rows: int, n: int, seed: int = 1) -> torch.Tensor:
    """Random portfolios, short ones too, that sum to one."""
    w = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.2
    return w + (1.0 - w.sum(-1, keepdim=True)) / n
