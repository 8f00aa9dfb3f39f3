"""The steps of a FactorEBM: copula scores carried to the parts' own laws, with factors and assets held where asked.

    f_k = x_k + beta_k x_market,   r = B x + eps:   triangular, so that a limit on a factor or an asset is a limit on
    one part given the parts drawn before it, and a limit on a part is one on its copula score, t = T_nu^{-1}(F(x)).

So one condition on the market, or on a factor taken as it is, is exact. One on a factor less its beta draws the market
freely and weighs by the rest; one on an asset draws the factors freely and then that asset's residual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from portfolio_ebm.market.composed import Block, FactorEBMMarket
from portfolio_ebm.market.dependence import scores
from portfolio_ebm.market.pinning import Pinned, log_t
from portfolio_ebm.market.scenarios import Scales
from portfolio_ebm.market.steps import Drawn, Limit, SampledSteps, Steps, hold, steps_of
from portfolio_ebm.market.variances import advance
from portfolio_ebm.models.conditional import Shape, truncated_shape
from portfolio_ebm.models.density import interpolate

__all__ = ["FactorEBMSteps", "steps_of"]

DAY_BOUND = 1e4
"""Deviations within which a day is drawn, as `sample` draws it."""

KNOTS = 8192


@steps_of.register
def _(market: FactorEBMMarket, *, path: bool) -> Steps:
    if market.share is not None:  # an asset at zero has a probability there and no density
        return SampledSteps(market)
    return FactorEBMSteps.of(market, path=path)


@dataclass(frozen=True)
class FactorEBMSteps(Steps):
    """A FactorEBM step by step.

    Attributes:
        market: as fitted.
        shape: the parts' laws of z, factors then residuals, as tables.
        density: log density of z at the knots, (P, G).
        location: what a part moves about, (P,).
        centre: what is taken from z, (P,).
        scales: the recursion of the scales over a path; None for the next day alone.
        scale: of the next day, (P,).
    """

    dense: ClassVar[bool] = True
    market: FactorEBMMarket
    shape: Shape
    density: Tensor
    location: Tensor
    centre: Tensor
    scales: Scales | None
    scale: Tensor

    @classmethod
    def of(cls, market: FactorEBMMarket, *, path: bool) -> FactorEBMSteps:
        """Of a path: means of the market, and scales that move. Of the next day: the laws themselves."""
        law = market._law()
        shape = truncated_shape(law, market.spec.bound if path else DAY_BOUND, KNOTS)
        scales = Scales.of(law, shape) if path else None
        location, centre, scale = law.location[:, 0], torch.zeros_like(shape.mean), law.scale[:, 0]
        if scales is not None:
            location, centre = torch.cat([market.factor_mean, market.residual_mean]), shape.mean
            scale = (scales.constant + (scales.share * scales.variances).sum(-1)).sqrt()
        return cls(market, shape, _log_density(shape), location, centre, scales, scale)

    def begin(self, n: int) -> tuple[Tensor, ...]:
        if self.scales is None:
            return ()
        return self.scales.variances.expand(n, -1, -1), torch.zeros(n, dtype=torch.long)

    def moments(self, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of the next step, with the copula's correlations for the parts'."""
        m, k = self.market, len(self.market.factors)
        spread = self.scale * self.shape.variance.sqrt()
        mean = self.location + self.scale * (self.shape.mean - self.centre)
        whole = torch.zeros(len(spread), len(spread), dtype=spread.dtype)
        whole[:k, :k], whole[k:, k:] = (block.correlation for block in m.blocks)
        lift = torch.eye(k, dtype=spread.dtype)
        if m.market is not None:
            lift[:, m.market] += m.beta
        up = torch.cat([torch.cat([lift, torch.zeros(k, len(m.assets), dtype=spread.dtype)], -1),
                        torch.cat([m.loadings, torch.eye(len(m.assets), dtype=spread.dtype)], -1)])  # fmt: skip
        up = up[list(columns)]
        return up @ mean, ((up * spread) @ whole @ (up * spread).mT).diagonal()

    def draw(self, state: tuple[Tensor, ...], n: int, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        scale = self._scale(state)
        drawn = [self._pin(where, (), _nothing, scale.expand(n, -1), rng)[0] for where in self._blocks(state)]
        parts = torch.cat(drawn, -1)
        return self._rows(parts), self._next(state, parts - self.location)

    def pinned(self, state: tuple[Tensor, ...], limits: Sequence[Limit], n: int, rng: torch.Generator) -> Drawn:
        k, scale, first = len(self.market.factors), self._scale(state).expand(n, -1), self.market.market
        styles = [limit for limit in limits if limit.column < k]
        if first is not None and any(limit.column != first for limit in styles):
            # A factor less its beta needs the market before it, limited or not.
            end = torch.full((), torch.inf, dtype=scale.dtype)
            styles = [limit for limit in styles if limit.column == first] or [Limit(first, -end, end)]
            styles += [limit for limit in limits if limit.column < k and limit.column != first]
        factors, residuals = self._blocks(state)

        def beside(column: int, known: dict[int, Tensor]) -> Tensor:
            return torch.zeros(n, dtype=scale.dtype) if first is None else self.market.beta[column] * known[first]

        x, one = self._pin(factors, styles, beside, scale, rng)
        common = x @ self.market.loadings.mT
        own = [Limit(limit.column - k, limit.low, limit.high) for limit in limits if limit.column >= k]
        eps, two = self._pin(residuals, own, lambda column, _: common[:, column], scale, rng)
        return Drawn(hold(self._rows(torch.cat([x, eps], -1)), limits), one + two)

    def _pin(
        self,
        where: tuple[Block, slice],
        limits: Sequence[Limit],
        beside: Callable[[int, dict[int, Tensor]], Tensor],
        scale: Tensor,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """One block's parts (n, m), with limits on part + beside(column, parts known), and log weights (n,)."""
        (block, part), n = where, len(scale)
        nu, shape = block.dependence.freedom, self.shape.parts(part)
        location, centre, scale = self.location[part], self.centre[part], scale[:, part]
        weight = torch.zeros(n, dtype=scale.dtype)
        if not len(block.correlation):
            return torch.empty(n, 0, dtype=scale.dtype), weight
        known: dict[int, Tensor] = {}
        law = Pinned(block.correlation, [limit.column for limit in limits], nu, n) if limits else None
        for at, low, high in limits:
            assert law is not None
            # A market without limits of its own is known to nobody yet, and beside nothing.
            shift = beside(at, known) if known or part.start else torch.zeros_like(weight)
            wide = scale[:, at]
            a, b = ((bound - shift - location[at]) / wide + centre[at] for bound in (low, high))
            knots, mass = shape.z[at], shape.mass[at]
            t_low, t_high = (_score(z, interpolate(z[:, None], knots[None], mass[None])[:, 0], nu) for z in (a, b))
            t, log_weight = law.pin(t_low, t_high, rng)
            height = interpolate(a.nan_to_num(0.0, 0.0, 0.0)[:, None], knots[None], self.density[part][at][None])[:, 0]
            weight = weight + log_weight + torch.where(a == b, height - wide.log() - log_t(t, nu), 0.0)
            z = interpolate(block.dependence.level(t)[:, None], mass[None], knots[None])[:, 0]
            known[at] = location[at] + wide * (torch.minimum(torch.maximum(z, a), b) - centre[at])
        t = block.dependence.draw(torch.linalg.cholesky(block.correlation), (n,), rng) if law is None else law.rest(rng)
        values = location + scale * (block.dependence.carry(shape)(t) - centre)
        for at, value in known.items():
            values[:, at] = value
        return values, weight

    def _blocks(self, state: tuple[Tensor, ...]) -> tuple[tuple[Block, slice], tuple[Block, slice]]:
        """Both blocks with the correlations expected of this step: of a path, those that `simulate` takes too."""
        k, n = len(self.market.factors), len(self.market.assets)
        one, two = self.market.blocks
        step = 0 if self.scales is None else int(state[1][0])
        if step:
            one, two = (
                replace(each, correlation=each.dependence.ahead(each.correlation, step + 1)[step])
                for each in (one, two)
            )
        return (one, slice(0, k)), (two, slice(k, k + n))

    def _scale(self, state: tuple[Tensor, ...]) -> Tensor:
        """(n, P) on a path, (1, P) for the next day."""
        if self.scales is None:
            return self.scale[None]
        return (self.scales.constant + (self.scales.share * state[0]).sum(-1)).sqrt()

    def _next(self, state: tuple[Tensor, ...], e: Tensor) -> tuple[Tensor, ...]:
        if self.scales is None:
            return state
        return advance(state[0], e), state[1] + 1

    def _rows(self, parts: Tensor) -> Tensor:
        """Factors as the panel has them, then assets, from parts (n, P)."""
        m, k = self.market, len(self.market.factors)
        x = parts[:, :k]
        f = x if m.market is None else x + m.beta * x[:, m.market : m.market + 1]
        return torch.cat([f, x @ m.loadings.mT + parts[:, k:]], -1)


def _nothing(column: int, known: dict[int, Tensor]) -> Tensor:
    raise AssertionError("a free draw has no limit to move")


def _score(z: Tensor, u: Tensor, nu: float) -> Tensor:
    """T_nu^{-1}(u) for the levels u of z; no bound stays none."""
    return torch.where(torch.isinf(z), z, torch.from_numpy(scores(u.clamp(1e-300, 1 - 1e-16).numpy(), nu)))


def _log_density(shape: Shape) -> Tensor:
    """log density at the knots (P, G): between two neighbours the slope of the cdf, at a knot the mean of its two."""
    slope = shape.mass.diff(dim=-1) / shape.z.diff(dim=-1)
    return torch.cat([slope[:, :1], (slope[:, 1:] + slope[:, :-1]) / 2, slope[:, -1:]], -1).clamp_min(1e-300).log()
