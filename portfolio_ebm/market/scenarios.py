"""Scenarios: the market simulated over a holding period, part by part, added at the end of each step.

A step draws the two copulas, carries each score to its part's shape by the inverse cdf, multiplies by today's scale,
and lets that scale follow its own recursion,

    sigma^2 = a_0 + sum_j a_j v_j,   v_j as `variances` moves it by the innovation e,

the shape of z staying as it is today, and R of the step being what its own law expects: held where R is a mean of the
past, returning to its target under DCC. The asset's simple return of the step is mean + B f + eps, and the steps
compound. The expected variance obeys the same recursion in expectation and needs no simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import FLOOR
from portfolio_ebm.market.dependence import Dependence
from portfolio_ebm.market.variances import advance, expected, settled
from portfolio_ebm.models.conditional import Conditional, Shape

MOST_COMMON = 10
"""Common directions of the residuals that the structured covariance keeps; their variances are exact."""


@dataclass(frozen=True)
class Scales:
    """The scale recursion of P parts.

    Attributes:
        constant: a_0, (P,).
        share: a_j, (P, J).
        variances: v_j at the end of the past, (P, J).
        shape: the law of z, its mean removed when drawn.
    """

    constant: Tensor
    share: Tensor
    variances: Tensor
    shape: Shape

    @classmethod
    def of(cls, law: Conditional, shape: Shape) -> Scales:
        """The recursion of one-row laws; beyond the first step a scale is not allowed to explode.

        sum_j a_j kappa_j <= 1 is what keeps the expected variance bounded; where today's state breaks it, the shares
        are shrunk and the constant takes up the difference, so that tomorrow's variance stays what it is.
        """
        mix = softplus(law.family.split(law.flat)["mix"])
        gain = torch.exp(2 * law.spread[:, 0])
        level, ratios = law.state.level[:, 0], law.state.ratios[:, 0]
        share = mix[:, 1:] * gain[:, None]
        kappa = settled(shape)
        excess = (share * kappa).sum(-1).clamp_min(1.0)
        variances = level[:, None] * ratios
        kept = share / excess[:, None]
        constant = level * mix[:, 0] * gain + ((share - kept) * variances).sum(-1)
        return cls(constant, kept, variances, shape)

    def forecast(self, horizon: int) -> Tensor:
        """Expected variance of the sum of `horizon` steps, (P,)."""
        v, total = self.variances, torch.zeros_like(self.constant)
        for _ in range(horizon):
            sigma2 = self.constant + (self.share * v).sum(-1)
            total = total + self.shape.variance * sigma2
            v = expected(v, sigma2, self.shape)
        return total


def simulate(
    scales: Scales, parts: tuple[tuple[Dependence, Tensor], ...], horizon: int, size: int, rng: torch.Generator
) -> Tensor:
    """Innovations of all parts over the holding period, (horizon, size, P), each of mean zero.

    The mean over scenarios is taken out of every step and part: a thousand draws would otherwise move an expected
    return by more than the estimates do.

    Args:
        scales: of the P parts.
        parts: the blocks of the market (factors, residuals) in the order of the parts: dependence, correlation.
        horizon: steps.
        size: scenarios.
        rng: the source of randomness.
    """
    blocks, at = [], 0
    for dependence, r in parts:
        shape = scales.shape.parts(slice(at, at + len(r)))
        roots = torch.linalg.cholesky(dependence.ahead(r, horizon))
        blocks.append((dependence, roots, dependence.carry(shape)))
        at += len(r)
    v = scales.variances.expand(size, -1, -1)
    steps = []
    for step in range(horizon):
        z = torch.cat([carry(d.draw(roots[step], (size,), rng)) for d, roots, carry in blocks], -1) - scales.shape.mean
        e = (scales.constant + (scales.share * v).sum(-1)).sqrt() * z
        v = advance(v, e)
        steps.append(e - e.mean(0))
    return torch.stack(steps)


def stepwise(innovations: Tensor, loadings: Tensor, mean: Tensor) -> Tensor:
    """Simple returns of every step (h, size, n), each held above -99 %, from innovations e (h, size, K + n), B (n, K)
    and means (n,)."""
    k = loadings.shape[1]
    return (mean + innovations[..., :k] @ loadings.mT + innovations[..., k:]).clamp_min(FLOOR)


def structured(variance: Tensor, loadings: Tensor, factor_r: Tensor, residual_r: Tensor) -> Structured:
    """F C F' + D for forecast variances (K + n,) and the two correlation matrices.

    F is the loadings beside the residuals' leading common directions: R_eps = V (L - l) V' + l I kept to its first
    directions, l the mean of the eigenvalues left out, the diagonal exact.
    """
    k = loadings.shape[1]
    width = variance.sqrt()
    core = factor_r * width[:k, None] * width[None, :k]
    values, vectors = torch.linalg.eigh(residual_r)
    common = min(MOST_COMMON, max(len(values) - 1, 0))
    rest = values[: len(values) - common].mean()
    keep, size = vectors[:, len(values) - common :], (values[len(values) - common :] - rest).clamp_min(0)
    left = (1 - (keep.square() * size).sum(-1)).clamp_min(0)
    whole = torch.zeros(k + common, k + common, dtype=core.dtype)
    whole[:k, :k] = core
    whole[k:, k:] = torch.diag(size)
    return Structured(torch.cat([loadings, width[k:, None] * keep], -1), whole, variance[k:] * left)
