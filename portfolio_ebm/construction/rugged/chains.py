"""The annealed Langevin chains: where they start, how hot they are, how far they step.

    w' = P(w - h grad E(w) + sqrt(2 h T) xi),   T from 10 sd / (n / 2) down to 0.01 sd / (n / 2),   h = 1 / L

sd is the spread of E over 64 random feasible portfolios, L the largest curvature along the budget (h is cut where E is
so straight that a step would leave the region far behind), P the projection on the region; where it has choices, P is
the projection on the slice of the modes that the proposal rounds to (slices.py). Chains start from the relaxation
rounded under Gumbel noise, from the held portfolio and from random feasible portfolios.
They look for low energies; they are no sample of a law.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region, region_residual
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.steady import Steady
from portfolio_ebm.construction.exact.curvature import curvature_matrix
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SolverError
from portfolio_ebm.samplers.anneal import Annealed, anneal
from portfolio_ebm.samplers.kernel import Kernel, evaluate
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Cooling, Geometric
from portfolio_ebm.samplers.wrappers import Projected
from portfolio_ebm.types import elsewhere

PROBES = 64
CONCENTRATED = 4
HOT, COLD = 10.0, 0.01
FEASIBLE = 1e-8
FAR = 10.0
FAR_OUT = 1e3
"""The longest step, and the furthest point that is projected, in distances of the furthest probe from the middle."""
NOTHING = 1e-12
"""Weights this small are rounding, and no position."""


@dataclass(frozen=True)
class Landscape:
    """An energy on a region, measured.

    Attributes:
        energy: E.
        region: where.
        probes: (m, n) random portfolios on the region.
        spread: standard deviation of E over them.
        hessian: (n, n) curvature over steps as large as a position.
        step: 1 / L, or less where E is so straight that such a step would end out of sight.
    """

    energy: Bound
    region: Region
    probes: Tensor
    spread: float
    hessian: Tensor
    step: float

    @cached_property
    def heat(self) -> float:
        """sd / (n / 2): the temperature at which noise costs one standard deviation of E, with n free directions."""
        free = int((self.region.upper > self.region.lower).sum())
        return self.spread / max(free / 2.0, 1.0)

    @cached_property
    def reach(self) -> float:
        """The distance of the furthest probe from the middle of all."""
        middle = self.probes.mean(0) if len(self.probes) > 1 else torch.zeros_like(self.probes[0])
        return max(float((self.probes - middle).norm(dim=-1).max()), 1e-3)

    def project(self, w: Tensor) -> Tensor:
        """The nearest portfolios to w (..., n), drawn in where w is so far that rounding decides what is nearest."""
        middle = self.probes.mean(0)
        away = (w - middle).norm(dim=-1, keepdim=True)
        near = middle + (w - middle) * (FAR_OUT * self.reach / away.clamp_min(1e-300))
        w = torch.where(away > FAR_OUT * self.reach, near, w)
        return project_region(w, self.region).weights if self._steady is None else self._steady(w)

    @cached_property
    def _steady(self) -> Steady | None:
        """Nearest portfolios that the host does not wait for, for chains on another device; None for those on the
        host's, and where nearest portfolios are found on it."""
        return Steady.of(self.region, self.probes.mean(0)) if elsewhere(self.probes) else None

    @property
    def cooling(self) -> Cooling:
        return Geometric(start=HOT * self.heat, end=COLD * self.heat)


def survey(energy: Bound, region: Region, around: Tensor, probes: Tensor) -> Landscape:
    """Measure E on the region; `around` (n,) is a portfolio near which the curvature is taken, `probes` (m, n) are
    random ones.

    Raises:
        SolverError: the energy is NaN on a feasible portfolio, or the only one is none at all.
    """
    # Under a tight turnover cap there may be no random portfolio; the one we stand on is something.
    probes = probes if len(probes) else around.unsqueeze(0)
    if float(probes.abs().max()) <= NOTHING and not bool(energy(probes).isfinite().all()):
        raise SolverError(
            "The rules leave no position at all, where the energy is not a number, as a ratio to risk is not: let "
            "weights differ from zero. DollarNeutral() with weights that may not be negative leaves none."
        )
    seen = evaluate(probes, energy).sound()
    values = seen.energy
    held = around.abs()[around != 0.0]
    stride = 0.5 * float(held.mean()) if held.numel() else 0.5 / around.shape[-1]
    hessian = curvature_matrix(energy, around, region.lower, stride)
    n = around.shape[-1]
    level = torch.eye(n, dtype=around.dtype, device=around.device) - 1.0 / n
    largest = float(torch.linalg.eigvalsh(level @ hessian @ level)[-1])
    # A spread of zero (one feasible portfolio, or a flat energy) still needs a positive temperature.
    spread = max(float(values.std()) if len(values) > 1 else 0.0, 1e-12 * (1.0 + float(values.abs().max())))
    found = Landscape(energy, region, probes, spread, hessian, 1.0 / max(largest, 1e-12))
    return replace(found, step=min(found.step, _longest(found, seen.gradient)))


def _longest(landscape: Landscape, slopes: Tensor) -> float:
    """The step at which the steepest of `slopes` (m, n), or the hottest noise, moves a chain FAR."""
    n, reach = landscape.probes.shape[-1], FAR * landscape.reach
    level = (slopes - slopes.mean(-1, keepdim=True)).norm(dim=-1)
    steepest = float(level[level.isfinite()].max()) if bool(level.isfinite().any()) else 0.0
    hottest = 2.0 * n * HOT * landscape.heat
    return min(reach / max(steepest, 1e-12 * reach), reach**2 / hottest)


def tightened(region: Region) -> Region:
    """A convex region with the bounds that its rows and turnover imply: a finite box is projected onto faster."""
    lower, upper = (torch.as_tensor(end).to(region.lower) for end in Box.of(region).implied())
    return replace(region, lower=region.lower.maximum(lower), upper=region.upper.minimum(upper))


def random_portfolios(region: Region, like: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Random portfolios of a convex region, (m, n) with m <= count: exponential weights (a uniform point of the
    simplex) brought to the region. Those that could not be are left out."""
    shape = (count, region.n)
    raw = -torch.rand(shape, dtype=like.dtype, device=like.device, generator=rng).clamp_min(1e-12).log()
    total = raw.sum(-1, keepdim=True).clamp_min(1e-12)
    return feasible(project_region(raw / total, region).weights, region)


def feasible(w: Tensor, region: Region) -> Tensor:
    """The rows of w (m, n) that obey the region."""
    return w[region_residual(w, region) <= FEASIBLE]


def starts(landscape: Landscape, relaxed: Tensor, held: Tensor | None, count: int, rng: torch.Generator) -> Tensor:
    """`count` starting portfolios, (count, n): row 0 is the relaxation projected.

    Half of the chains start from the relaxation's weights times exp(Gumbel noise), whose largest entries are draws
    without replacement in proportion to the weights; one from the held portfolio; the others at random, every other
    one concentrated (exponential weights to the fourth power), since among many names no even draw is far from equal
    weight.
    """
    n, region = relaxed.shape[-1], landscape.region
    rounded = max(count // 2, 1)
    draw = torch.rand((rounded - 1, n), dtype=relaxed.dtype, device=relaxed.device, generator=rng).clamp(
        1e-12, 1 - 1e-12
    )
    gumbel = -(-draw.log()).log()
    noisy = (relaxed.clamp_min(0.0) + 0.2 / n) * gumbel.exp()
    noisy = noisy / noisy.sum(-1, keepdim=True)
    points = [relaxed.unsqueeze(0), noisy] + ([] if held is None else [held.to(relaxed).unsqueeze(0)])
    near = project_region(torch.cat(points)[:count], region).weights
    missing = count - len(near)
    if missing <= 0:
        return near
    probes = landscape.probes.repeat(-(-missing // len(landscape.probes)), 1)[:missing]
    sizes = probes[1::2].clamp_min(0.0) ** CONCENTRATED
    sparse = sizes / sizes.sum(-1, keepdim=True).clamp_min(1e-300)
    return torch.cat([near, probes[0::2], project_region(sparse, region).weights])


def run_chains(
    landscape: Landscape, x0: Tensor, n_steps: int, rng: torch.Generator, kernel: Kernel | None = None
) -> Annealed:
    """Annealed Langevin from x0 (chains, n): projected on the region, unless another kernel is given."""
    kernel = kernel or Projected(ULA(landscape.step), landscape.project)
    return anneal(kernel, landscape.energy, x0, schedule=landscape.cooling, n_steps=n_steps, rng=rng)
