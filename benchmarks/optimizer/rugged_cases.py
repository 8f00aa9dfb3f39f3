"""The rugged problems: random high-gain nets, funnels in exposures, a trained net, the worst of several regimes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import portfolio_ebm as pe
from benchmarks.optimizer.instances import MONTH, stocks
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.energy import Bound, Energy

F64 = torch.float64
KINDS = ("nets", "funnels", "trained", "regimes", "choices")


class RandomNet(Energy):
    """E(w) = v' tanh(2 B tanh(gain sqrt(n / 2) A w + b)) with 64 random units a layer.

    A w is of size sqrt(2 / n) at a random portfolio, so `gain` is the size of what the first layer sees there.
    """

    seed: int
    gain: float = 3.0

    def bind(self, ctx: Any) -> Bound:
        draw, n, units = torch.Generator().manual_seed(self.seed), ctx.n_assets, 64
        first = torch.randn(units, n, generator=draw, dtype=F64) * self.gain * (n / 2) ** 0.5
        shift, out = torch.randn(2, units, generator=draw, dtype=F64)
        second = 2.0 * torch.randn(units, units, generator=draw, dtype=F64) / units**0.5
        first, shift, out, second = (x.to(ctx.tradeable.device) for x in (first, shift, out, second))
        return lambda w: torch.tanh(torch.tanh(w @ first.T + shift) @ second.T) @ out / units**0.5


class Funnel(Energy):
    """E(w) = |z|^2 + depth sum (1 - cos(frequency z_k)), z = A (w - w0) for `exposures` random factors."""

    seed: int
    exposures: int = 8
    depth: float = 0.3
    frequency: float = 12.0

    def bind(self, ctx: Any) -> Bound:
        draw = torch.Generator().manual_seed(self.seed)
        loadings = torch.randn(self.exposures, ctx.n_assets, generator=draw, dtype=F64)
        centre = torch.rand(ctx.n_assets, generator=draw, dtype=F64).log().square()
        middle = loadings @ (centre / centre.sum())
        loadings, middle = (x.to(ctx.tradeable.device) for x in (loadings, middle))

        def energy(w: Tensor) -> Tensor:
            z = w @ loadings.T - middle
            return z.square().sum(-1) + self.depth * (1.0 - torch.cos(self.frequency * z)).sum(-1)

        return energy


class WorstRegime(Energy):
    """E(w) = -min_k mean_k(w) / sd_k(w) over the calm, the middle and the wild third of the scenarios."""

    def bind(self, ctx: Any) -> Bound:
        r = ctx.market.scenarios
        order = r.mean(1).abs().argsort()
        parts = [r[third] for third in order.chunk(3)]
        moments = [(part.mean(0), torch.cov(part.T)) for part in parts]

        def energy(w: Tensor) -> Tensor:
            ratios = [(w @ mean) / ((w @ cov) * w).sum(-1).clamp_min(1e-16).sqrt() for mean, cov in moments]
            return -torch.stack(ratios).amin(0)

        return energy


class Trained(Energy):
    """E(w) = -net(w): a net of two layers that has learned the realised mean-variance utility of random portfolios."""

    def bind(self, ctx: Any) -> Bound:
        net = _net(_Key(ctx.market.scenarios))
        return lambda w: -net(w * w.shape[-1] ** 0.5).squeeze(-1)


@dataclass(frozen=True)
class _Key:
    """Scenarios, told apart by who they are."""

    scenarios: Tensor

    def __hash__(self) -> int:
        return hash(tuple(self.scenarios.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and torch.equal(self.scenarios, other.scenarios)


@cache
def _net(key: _Key) -> nn.Module:
    torch.manual_seed(0)
    r, n = key.scenarios * MONTH, key.scenarios.shape[1]
    net = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)).double()
    step = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(400):
        x = torch.rand(256, n, dtype=F64).clamp_min(1e-12).log().abs() ** (1.0 + 3.0 * torch.rand(256, 1, dtype=F64))
        w = x / x.sum(-1, keepdim=True)
        seen = r[torch.randint(len(r), (256,))] * w
        utility = seen.sum(-1) - 2.5 * seen.sum(-1).square()
        loss = (net(w * n**0.5).squeeze(-1) - utility).square().mean()
        step.zero_grad()
        loss.backward()
        step.step()
    return net.requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """An energy under budget, long only, and where `limits` says so a choice; `scenarios` (S, n) for those that ask."""

    label: str
    n: int
    energy: Energy
    scenarios: np.ndarray | None = None
    limits: str = ""

    def rules(self) -> Constraint:
        base = pe.Budget() & pe.LongOnly()
        if self.limits == "at most 10":
            return base & pe.Cardinality(at_most=10, min_weight=0.02)
        return base & pe.UCITS(issuers=None) if self.limits == "UCITS" else base

    def inputs(self) -> dict[str, object]:
        given: dict[str, object] = {"assets": [f"a{k}" for k in range(self.n)], "mean": np.zeros(self.n)}
        given["covariance"] = np.eye(self.n)
        if self.scenarios is not None:
            given["scenarios"] = self.scenarios
        return given


def cases(kinds: Sequence[str], sizes: Sequence[int], count: int, data: Path, first: int = 0) -> Iterator[Case]:
    """The problems of the kinds asked for, `count` nets and funnels of each size from the number `first` on (under a
    choice the first net and the second funnel); those on stocks only where `data` has them."""
    made: dict[str, Callable[[int, int], Energy]] = {
        "nets": lambda n, seed: RandomNet(seed=seed),
        "funnels": lambda n, seed: (
            Funnel(seed=seed) if seed % 2 else Funnel(seed=seed, exposures=12, depth=0.1, frequency=25.0)
        ),
    }
    for kind, n, seed in itertools.product(made, sizes, range(first, first + count)):
        if kind in kinds:
            yield Case(f"{kind[:-1]} {seed}, {n} names", n, made[kind](n, seed))
    there = (data / "stocks").is_dir()
    for kind, energy in (("trained", Trained()), ("regimes", WorstRegime())):
        for n in sizes if kind in kinds and there else ():
            yield Case(f"{kind}, {n} stocks", n, energy, stocks(data / "stocks")[-756:, :n])
    for n, limits in itertools.product(sizes[:1] if "choices" in kinds else (), ("at most 10", "UCITS")):
        yield Case(f"net {first}, {n} names, {limits}", n, made["nets"](n, first), None, limits)
        yield Case(f"funnel {first + 1}, {n} names, {limits}", n, made["funnels"](n, first + 1), None, limits)
