"""Weighted paths of a market under targets for the holding period, by twisted particles whose last step is exact.

    R = prod_t (1 + r_t) - 1,
    mass(path) = p(path) prod_c [1{R_c in interval} or delta(R_c - value)] exp(-E_view(R_c))

Paths take horizon - 1 free steps. On the way each is weighed by a normal guess of how likely it will still meet the
targets, and where the weights have become uneven paths are resampled. The last step is drawn within what the targets
leave of it and weighted by its exact probability or density, so that guesses cancel: weights are unbiased whatever they
were. A view narrower than a step is drawn from instead of weighed: value = centre + width x normal, weight = density.

The effective sample size counts ancestors: 1 / sum_a W_a^2, W_a the weight of all paths that descend from path a of the
start (or from day a, where a law has few days). Copies made by resampling add nothing to it.

Sources: A. Doucet and A. Johansen (2011), A tutorial on particle filtering and smoothing; A. Lee and N. Whiteley
(2018), Variance estimation in the particle filter, Biometrika 105.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.market.base import FLOOR
from portfolio_ebm.market.condition import Target
from portfolio_ebm.market.steps import Limit, Steps

UNEVEN = 0.5
"""Share of the paths below which the effective size has to fall before they are resampled."""

WIDER = 1.5
"""The guess of what is left to come is this much wider than the normal law says: its tails bound the weights."""

LOWEST = -200.0


@dataclass(frozen=True)
class Weighted:
    """Paths of the holding period, with weights.

    Attributes:
        rows: simple returns of all series over it, (N, S).
        log_weight: (N,); the mean of exp(log_weight) estimates the mass, without bias.
        ancestor: (N,), which independent start a path descends from.
        days: simple returns of every step, (N, h, S), where they were to be kept.
    """

    rows: Tensor
    log_weight: Tensor
    ancestor: Tensor
    days: Tensor | None = None

    @property
    def log_mass(self) -> float:
        """log of the probability of the targets; of their density where they give values; of E exp(-E) for views."""
        return float(torch.logsumexp(self.log_weight, 0)) - math.log(len(self.rows))

    @property
    def weight(self) -> Tensor:
        """Weights adding to one, (N,)."""
        return torch.softmax(self.log_weight, 0) if math.isfinite(self.log_mass) else torch.zeros_like(self.log_weight)

    @property
    def effective(self) -> float:
        """The number of independent equally weighted paths that these are worth; 0 where no path meets the targets."""
        share = torch.zeros(int(self.ancestor.max()) + 1, dtype=self.rows.dtype)
        share.index_add_(0, self.ancestor, self.weight)
        total = float(share.square().sum())
        return 1.0 / total if total > 0 else 0.0

    @property
    def even(self) -> bool:
        """Whether all weights are the same, so that the rows are plain draws."""
        return float(self.log_weight.max() - self.log_weight.min()) < 1e-9

    def choose(self, n: int, rng: torch.Generator) -> Tensor:
        """n equally likely rows, (n, S)."""
        return self.rows[self.chosen(n, rng)]

    def chosen(self, n: int, rng: torch.Generator) -> Tensor:
        """Which paths n equally likely ones are, (n,)."""
        if self.even and len(self.rows) == n:
            return torch.arange(n)
        # In the order of the paths they came from, copies would stand side by side.
        return systematic(self.weight, n, rng)[torch.randperm(n, generator=rng)]


def systematic(weight: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n row numbers, row i about n weight_i times."""
    at = (torch.arange(n, dtype=weight.dtype) + torch.rand((), generator=rng, dtype=weight.dtype)) / n
    edges = weight.cumsum(0)
    return torch.searchsorted(edges / edges[-1], at).clamp_max(len(weight) - 1)


def walk(
    steps: Steps, targets: Sequence[Target], horizon: int, n: int, rng: torch.Generator, *, keep: bool = False
) -> Weighted:
    """n weighted paths over `horizon` steps, all meeting the targets; see the module. `keep` keeps every step."""
    columns = [target.column for target in targets]
    mean, variance = steps.moments(columns)
    state, ancestor = steps.begin(n), torch.arange(n)
    total: Tensor | None = None
    log_weight = torch.zeros(n, dtype=mean.dtype)
    guess = torch.zeros(n, dtype=mean.dtype)
    days: list[Tensor] = []
    for step in range(horizon - 1):
        rows, state = steps.draw(state, n, rng)
        days = [*days, rows] if keep else days
        moved = torch.log1p(rows.clamp_min(FLOOR))
        total = moved if total is None else total + moved
        new = _guess(targets, total[:, columns], mean, variance, horizon - 1 - step)
        log_weight, guess = log_weight + new - guess, new
        if float(torch.softmax(log_weight, 0).square().sum()) * n > 1 / UNEVEN:
            kept = systematic(torch.softmax(log_weight, 0), n, rng)
            log_weight = torch.full_like(log_weight, float(torch.logsumexp(log_weight, 0)) - math.log(n))
            state, total = tuple(part[kept] for part in state), total[kept]
            guess, ancestor, days = guess[kept], ancestor[kept], [day[kept] for day in days]
    limits, drawn = _limits(targets, total, variance if steps.dense else torch.zeros_like(variance), n, rng)
    last = steps.pinned(state, limits, n, rng)
    log_weight = log_weight - guess + last.log_weight
    if horizon == 1 and last.origin is not None:
        ancestor = last.origin
    rows = last.rows if total is None else torch.expm1(total + torch.log1p(last.rows.clamp_min(FLOOR)))
    for place, target in enumerate(targets):
        if target.certain or drawn[place] is not None:
            given = drawn[place]
            rows[:, target.column] = target.low if given is None else given
            if total is not None:
                # The density of the return over the period, from that of the last step: dr / dR = (1 + r) / (1 + R).
                log_weight = log_weight + _log1p(last.rows[:, target.column]) - _log1p(rows[:, target.column])
        for number, (value, width) in enumerate(target.views):
            off = ((rows[:, target.column] - value) / width).square() / 2
            log_weight = log_weight - off
            if drawn[place] is not None and number == _narrowest(target):
                log_weight = log_weight + off + 0.5 * math.log(2 * math.pi) + math.log(width)
    every = torch.stack([*days, last.rows], 1).clamp_min(FLOOR) if keep else None
    return Weighted(rows, log_weight, ancestor, every)


def _limits(
    targets: Sequence[Target], total: Tensor | None, variance: Tensor, n: int, rng: torch.Generator
) -> tuple[list[Limit], list[Tensor | None]]:
    """What the targets leave to the last step of every path, and the values drawn for narrow views."""
    limits: list[Limit] = []
    drawn: list[Tensor | None] = []
    for place, target in enumerate(targets):
        low, high = (torch.tensor(bound, dtype=variance.dtype) for bound in (target.low, target.high))
        value: Tensor | None = None
        if target.views and not target.certain and math.isinf(target.low) and math.isinf(target.high):
            centre, width = target.views[_narrowest(target)]
            if width < float(variance[place].sqrt()):
                normal = torch.randn(n, generator=rng, dtype=variance.dtype)
                value = (centre + width * normal).clamp_min(FLOOR)
                low = high = value
        drawn.append(value)
        if total is not None:
            at = total[:, target.column]
            low, high = (torch.expm1(_log1p(bound) - at) for bound in (low, high))
        limits.append(Limit(target.column, low, high))
    return limits, drawn


def _guess(targets: Sequence[Target], total: Tensor, mean: Tensor, variance: Tensor, left: int) -> Tensor:
    """log of a normal guess of the targets' probability, `left` steps before the end, at log returns (n, m) so far."""
    found = torch.zeros(len(total), dtype=total.dtype)
    for place, target in enumerate(targets):
        at = total[:, place] + left * (mean[place] - variance[place] / 2)
        spread = WIDER * left * variance[place]
        if target.certain:
            found = found - (math.log1p(max(target.low, FLOOR)) - at).square() / (2 * spread)
        else:
            low, high = (_log1p(torch.tensor(b, dtype=total.dtype)) for b in (target.low, target.high))
            a, b = (low - at) / spread.sqrt(), (high - at) / spread.sqrt()
            flip = a + b > 0
            a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
            p, q = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
            found = found + q + torch.log1p(-torch.exp((p - q).clamp_max(-1e-12)))
        for value, width in target.views:
            wide = spread + (width / (1 + value)) ** 2
            found = found - (math.log1p(max(value, FLOOR)) - at).square() / (2 * wide)
    return found.clamp_min(LOWEST)


def _narrowest(target: Target) -> int:
    return min(range(len(target.views)), key=lambda i: target.views[i][1])


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x), x held above -1 where a bound is no bound."""
    return torch.log1p(torch.where(torch.isneginf(x), -1.0, x.clamp_min(FLOOR)))
