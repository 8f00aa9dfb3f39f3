"""FactorEBMMarket: the composed market at one date, as a density of the next day and as an outlook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Market, Outlook, Rng, streams
from portfolio_ebm.market.dependence import Dependence, scores
from portfolio_ebm.market.scenarios import Scales, simulate, stepwise, structured
from portfolio_ebm.market.stale import parted, stand, thinned
from portfolio_ebm.models.calibration import DEGREE
from portfolio_ebm.models.conditional import Conditional, State, shape_nodes, truncated_shape
from portfolio_ebm.models.families import Mixed
from portfolio_ebm.models.row import Row
from portfolio_ebm.types import Status, require_last

if TYPE_CHECKING:
    from portfolio_ebm.market.factor_ebm import FactorEBM


@dataclass(frozen=True)
class Block:
    """One block of parts (the factors, or the residuals) at today's state.

    Attributes:
        law: the parts' laws of the next day, calibration and all, batch shape (M, 1).
        dependence: their copula, whose argument is the calibrated PIT.
        correlation: R for the next day, (M, M).
    """

    law: Conditional
    dependence: Dependence
    correlation: Tensor

    def log_probs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each part's log density (..., M) and the copula's (...), at x (..., M); NaN entries are left out."""
        rows = x.reshape(1, x.shape[:-1].numel(), x.shape[-1])
        single, joint = log_probs(self.law, self.dependence, self.correlation[None], rows)
        return single.reshape(x.shape), joint.reshape(x.shape[:-1])

    def sample(self, size: int, rng: torch.Generator, bound: float = 1e4) -> Tensor:
        """Draws (size, M): the copula, then each part's inverse cdf from its table."""
        if not len(self.correlation):
            return torch.empty(size, 0, dtype=self.correlation.dtype)
        t = self.dependence.draw(torch.linalg.cholesky(self.correlation), (size,), rng)
        z = self.dependence.carry(truncated_shape(self.law, bound, 8192))(t)
        return self.law.location[:, 0] + self.law.scale[:, 0] * z


def log_probs(law: Conditional, dependence: Dependence, correlation: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Log densities of M parts and of their copula on D days.

    Args:
        law: the parts' laws, batch shape (M, D).
        correlation: R of each day, (D, M, M).
        x: (D, m, M); NaN entries are left out.

    Returns:
        (D, m, M) and (D, m).
    """
    if not x.shape[-1]:
        return x, x.new_zeros(x.shape[:-1])
    here = ~torch.isnan(x)
    value = torch.where(here, x, law.location.T[:, None]).permute(1, 2, 0)
    single = torch.where(here, law.log_prob(value).permute(2, 0, 1), 0.0)
    if dependence.independent:
        return single, x.new_zeros(x.shape[:-1])
    u = law.level(value).permute(2, 0, 1)
    t = torch.where(here, torch.from_numpy(scores(u.numpy(), dependence.freedom)), torch.nan)
    return single, dependence.log_density(t, correlation[:, None])


def split(r: Tensor, beta: Tensor, loadings: Tensor, market: int | None) -> tuple[Tensor, Tensor]:
    """(f, r) -> (x, eps), a map of determinant one: each factor less its beta times the market, each asset less B x.

    Args:
        r: (..., K + n).
        beta: (..., K); loadings: (..., n, K); market: its column, or None where factors are taken as they are.
    """
    k = beta.shape[-1]
    f, assets = r[..., :k], r[..., k:]
    x = f if market is None else f - beta * f[..., market : market + 1]
    return x, assets - x @ loadings.mT


def pooled(state: State, ready: Tensor) -> State:
    """The state with parts that are not ready (M, N) at the median level of those that are, and flat otherwise."""
    young = ~ready & ready.any(0)
    if not bool(young.any()):
        return state
    level = torch.where(young, torch.where(ready, state.level, torch.nan).nanmedian(0).values, state.level)
    flat = torch.where(young[..., None], 1.0, state.ratios)
    features, drift = (x.masked_fill(young[..., None], 0.0) for x in (state.features, state.drift))
    return State(level, flat, features, drift)


@dataclass(frozen=True)
class FactorEBMMarket(Market):
    """A fitted FactorEBM at one date. A day's returns are one row of K factors, as the panel has them, then n assets.

    Attributes:
        assets, factors: names.
        status, date, spec: how it was fitted.
        refitted: what was trained or estimated for this market.
        reused: energies that were read from the store, and the seconds that training each took when it was done.
        blocks: factors, residuals.
        loadings: B on the orthogonal factors, (n, K).
        beta: each factor's beta to the market, (K,), zero for the market itself.
        market: the market's column, or None.
        factor_mean, residual_mean: shrunk means a period, (K,) and (n,).
        share: probability of each asset to stand still, (n,), where stale prices have an atom (`stale`), or None.

    Example:
        >>> market.log_prob(torch.cat([factor_returns, asset_returns], -1))      # nats
        >>> market.sample(1000, rng)[:, len(market.factors):]                    # assets of the next day
    """

    assets: tuple[str, ...]
    factors: tuple[str, ...]
    status: Status
    refitted: tuple[str, ...]
    reused: Mapping[str, float]
    date: str
    spec: FactorEBM
    blocks: tuple[Block, Block]
    loadings: Tensor
    beta: Tensor
    market: int | None
    factor_mean: Tensor
    residual_mean: Tensor
    share: Tensor | None = None

    @property
    def time_saved(self) -> float:
        """Seconds of training that the store made unnecessary: what the energies in `reused` took when trained."""
        return sum(self.reused.values())

    def factor(self, name: str) -> Row:
        """The next day's law of one factor alone, its variable called `name`: a density that can be added to others.

        It is the law of the factor's own part: what its beta times the market leaves, where the market's factors are
        orthogonalised. `+` of two factors is their joint law as if independent; of one factor with itself, or with a
        density of your own called the same, a product (`models.compose`).

        Raises:
            SpecError: the market has no such factor.

        Example:
            >>> joint = market.factor("HML") + market.factor("Mom")
            >>> joint.variables, joint.log_prob(torch.tensor([0.01, -0.02]))
        """
        if name not in self.factors:
            raise SpecError(f"The market has no factor '{name}'; it has {', '.join(self.factors)}.")
        return Row(self.blocks[0].law, self.factors.index(name)).of(name)

    def parts(self, r: Tensor) -> dict[str, Tensor]:
        """Each part's normalised energy at the day's returns r (..., K + n), nats; they add up to `energy`.

        An asset that is NaN is integrated out; so is a factor, which makes every residual unknown.

        Raises:
            ShapeError: r has not one entry a factor and an asset.
        """
        require_last(r, len(self.series), "FactorEBMMarket")
        with torch.no_grad():
            r, log_mass = self._parted(r)
            x, eps = split(r, self.beta, self.loadings, self.market)
            found: dict[str, Tensor] = {}
            for block, value, labels, name in (
                (self.blocks[0], x, self.factors, "factor"),
                (self.blocks[1], eps, tuple(f"{a} residual" for a in self.assets), "residual"),
            ):
                single, joint = block.log_probs(value)
                found |= {label: -single[..., i] for i, label in enumerate(labels)}
                found[f"{name} dependence"] = -joint
            for i, name in enumerate(self.assets if self.share is not None else ()):
                found[f"{name} residual"] = found[f"{name} residual"] - log_mass[..., i]
            return found

    def _parted(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The row r with stale assets as NaN, and the assets' log probabilities of having stood still or moved."""
        k = len(self.factors)
        if self.share is None:
            return r, torch.zeros_like(r[..., k:])
        moved, log_mass = parted(r[..., k:], self.share)
        return torch.cat([r[..., :k], moved], -1), log_mass

    def log_prob(self, r: Tensor) -> Tensor:
        """log p of the next day's factor and asset returns r (..., K + n) in decimals, nats."""
        return -torch.stack(list(self.parts(r).values())).sum(0)

    def sample(self, n: int, rng: Rng) -> Tensor:
        """Exact ancestral draws of the next day's row, (n, K + number of assets)."""
        (stream,) = streams(rng, self.batch)
        with torch.no_grad():
            x = self.blocks[0].sample(n, stream)
            eps = self.blocks[1].sample(n, stream)
            assets = self._stand(x @ self.loadings.mT + eps, stream)
            factors = x if self.market is None else x + self.beta * x[:, self.market : self.market + 1]
            return torch.cat([factors, assets], -1)

    def scenarios(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Paths whose scales follow their recursions, compounded, (n, number of assets): those of an outlook."""
        (stream,) = streams(rng, self.batch)
        found = replace(self, spec=self.spec.replace(scenarios=n)).outlook(horizon, stream).scenarios
        assert found is not None
        return found

    def paths(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Steps whose scales follow their recursions, (n, horizon, number of assets)."""
        (stream,) = streams(rng, self.batch)
        with torch.no_grad():
            law = self._law()
            scales = Scales.of(law, truncated_shape(law, self.spec.bound))
            parts = tuple((block.dependence, block.correlation) for block in self.blocks)
            step = self.loadings @ self.factor_mean + self.residual_mean
            innovations = simulate(scales, parts, horizon, n, stream)
            return self._stand(stepwise(innovations, self.loadings, step), stream).transpose(0, 1)

    def _stand(self, assets: Tensor, rng: torch.Generator) -> Tensor:
        return assets if self.share is None else stand(assets, self.share, rng)

    @property
    def mean(self) -> Tensor:
        """The assets' expected returns of the next day under the law, (n,): B E x + E eps, from the parts' tables.

        It follows the law's drift from day to day. The mean of an outlook, which decisions are made on, does not: it
        is a sample mean of the parts, shrunk (see `FactorEBM`).
        """
        with torch.no_grad():
            law, k = self._law(), len(self.factors)
            step = law.location[:, 0] + law.scale[:, 0] * truncated_shape(law, self.spec.bound).mean
            return self._thinned(self.loadings @ step[:k] + step[k:])

    @property
    def covariance(self) -> Structured:
        """The assets' covariance of the next day, structured, (n, n): that of an outlook of one period.

        Example:
            >>> market.covariance.quad(weights).sqrt()  # volatility of the next day
        """
        with torch.no_grad():
            law = self._law()
            return self._structured(Scales.of(law, truncated_shape(law, self.spec.bound)).forecast(1), 1)

    def outlook(self, horizon: int, rng: torch.Generator) -> Outlook:
        """Mean, structured covariance, scenarios and free-energy tables over the next `horizon` periods.

        The shapes of the laws are those of the next day, the scales follow their recursions; the marginals have the
        forecast deviation of the period and the shape of one day, truncated at the declared bound.
        """
        with torch.no_grad():
            law = self._law()
            shape = truncated_shape(law, self.spec.bound)
            scales = Scales.of(law, shape)
            variance = scales.forecast(horizon)
            parts = tuple((block.dependence, block.correlation) for block in self.blocks)
            innovations = simulate(scales, parts, horizon, self.spec.scenarios, rng)
            step = self.loadings @ self.factor_mean + self.residual_mean
            steps = self._stand(stepwise(innovations, self.loadings, step), rng)
            return Outlook(
                mean=horizon * self._thinned(step),
                covariance=self._structured(variance, horizon),
                scenarios=torch.expm1(torch.log1p(steps).sum(0)),
                marginals=None if self.share is not None else self._marginals(law, variance),
                horizon=float(horizon),
            )

    def _structured(self, variance: Tensor, horizon: int) -> Structured:
        """The assets' covariance over `horizon` periods, from the parts' forecast variances; correlations are those of
        the copula's scores."""
        expected = [block.dependence.ahead(block.correlation, horizon).mean(0) for block in self.blocks]
        found = structured(variance, self.loadings, *expected)
        if self.share is None:
            return found
        return thinned(found, self.loadings @ self.factor_mean + self.residual_mean, self.share, horizon)

    def _thinned(self, mean: Tensor) -> Tensor:
        return mean if self.share is None else (1 - self.share) * mean

    def _marginals(self, law: Conditional, variance: Tensor) -> Marginals:
        z, log_mass = shape_nodes(law, self.spec.bound, self.spec.nodes)
        weight = log_mass.exp()
        z = z - (weight * z).sum(-1, keepdim=True)
        spread = (weight * z.square()).sum(-1, keepdim=True).sqrt()
        eye = torch.eye(len(self.assets), dtype=z.dtype)
        return Marginals(
            names=(*self.factors, *(f"{name} residual" for name in self.assets)),
            exposures=torch.cat([self.loadings, eye], -1),
            values=z / spread * variance.sqrt()[:, None],
            log_mass=log_mass,
            bound=self.spec.bound,
        )

    def _law(self) -> Conditional:
        """All parts as one batch of laws."""
        return joined(*(block.law for block in self.blocks))


def joined(first: Conditional, second: Conditional) -> Conditional:
    """Two batches of laws at the same rows as one."""
    laws = [law for law in (first, second) if len(law.flat)]
    if len(laws) == 1:
        return laws[0]
    family = Mixed(tuple(law.layout(m).families[0] for law in laws for m in range(len(law.flat))))
    theta = None
    if any(law.theta is not None for law in laws):
        none = [law.flat.new_zeros(*law.batch, DEGREE) if law.theta is None else law.theta for law in laws]
        theta = torch.cat(none)
    state = State(*(torch.cat([getattr(law.state, n) for law in laws]) for n in State.__dataclass_fields__))
    return Conditional(family, family.join([row for law in laws for row in law.flat]), state, theta)
