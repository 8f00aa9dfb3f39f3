"""The annealed Langevin chains: where they start, how hot they are, how far they step.

    w' = P(w - h grad E(w) + sqrt(2 h T) xi),   T from 10 sd / (n / 2) down to 0.01 sd / (n / 2),   h = 1 / L

sd is the spread of E over 64 random feasible portfolios, L the largest curvature along the budget, P the projection
on the region; where names are a choice, P is the projection on the slice of the proposal's largest names, or, where
that slice is empty, on the slice the chain is on. Chains start from the relaxation rounded under Gumbel noise, from
the held portfolio and from random feasible portfolios. They look for low energies; they are no sample of a law.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region, region_residual
from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.slices import curvature_matrix, may_be_met
from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.anneal import Annealed, anneal
from portfolio_ebm.samplers.kernel import Info, Kernel, Noise, State, Temperature, evaluate
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Cooling, Geometric
from portfolio_ebm.samplers.wrappers import Projected

PROBES = 64
HOT, COLD = 10.0, 0.01
FEASIBLE = 1e-8


@dataclass(frozen=True)
class Landscape:
    """An energy on a region, measured.

    Attributes:
        energy: E.
        region: where.
        probes: (m, n) random portfolios on the region.
        spread: standard deviation of E over them.
        hessian: (n, n) curvature over steps as large as a position.
        step: 1 / L.
    """

    energy: Bound
    region: Region
    probes: Tensor
    spread: float
    hessian: Tensor
    step: float

    @property
    def heat(self) -> float:
        """sd / (n / 2): the temperature at which noise costs one standard deviation of E, with n free directions."""
        free = int((self.region.upper > self.region.lower).sum())
        return self.spread / max(free / 2.0, 1.0)

    def project(self, w: Tensor) -> Tensor:
        return project_region(w, self.region).weights

    def cooling(self, hot: float = HOT, cold: float = COLD) -> Cooling:
        return Geometric(start=hot * self.heat, end=cold * self.heat)


def survey(energy: Bound, region: Region, around: Tensor, rng: torch.Generator) -> Landscape:
    """Measure E on the region; `around` (n,) is a portfolio near which the curvature is taken.

    Raises:
        SolverError: the energy is NaN on a feasible portfolio.
    """
    probes = random_portfolios(region, around, PROBES, rng)
    # Under a tight turnover cap there may be no random portfolio; the one we stand on is something.
    probes = probes if len(probes) else around.unsqueeze(0)
    values = evaluate(probes, energy).energy
    held = around.abs()[around != 0.0]
    stride = 0.5 * float(held.mean()) if held.numel() else 0.5 / around.shape[-1]
    hessian = curvature_matrix(energy, around, region.lower, stride)
    n = around.shape[-1]
    level = torch.eye(n, dtype=around.dtype, device=around.device) - 1.0 / n
    largest = float(torch.linalg.eigvalsh(level @ hessian @ level)[-1])
    # A spread of zero (one feasible portfolio, or a flat energy) still needs a positive temperature.
    spread = max(float(values.std()) if len(values) > 1 else 0.0, 1e-12 * (1.0 + float(values.abs().max())))
    return Landscape(energy, region, probes, spread, hessian, 1.0 / max(largest, 1e-12))


def random_portfolios(region: Region, like: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Random feasible portfolios, (m, n) with m <= count: exponential weights (a uniform point of the simplex), on
    random names where the names are a choice, brought to the region. Those that could not be are left out."""
    n = region.n
    draw = torch.rand((2, count, n), dtype=like.dtype, device=like.device, generator=rng).clamp_min(1e-12)
    raw = -draw[0].log()
    if region.at_most is not None and region.at_most < n:
        chosen = draw[1].argsort(-1)[:, : max(region.at_most, 1)]
        raw = torch.zeros_like(raw).scatter(-1, chosen, raw.gather(-1, chosen))
    total = raw.sum(-1, keepdim=True).clamp_min(1e-12)
    return feasible(project_region(raw / total, region).weights, region)


def feasible(w: Tensor, region: Region) -> Tensor:
    """The rows of w (m, n) that obey the region."""
    return w[region_residual(w, region) <= FEASIBLE]


def starts(landscape: Landscape, relaxed: Tensor, held: Tensor | None, count: int, rng: torch.Generator) -> Tensor:
    """`count` starting portfolios, (count, n): row 0 is the relaxation projected.

    Half of the chains start from the relaxation's weights times exp(Gumbel noise), whose largest entries are draws
    without replacement in proportion to the weights; one from the held portfolio; the others at random.
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
    probes = landscape.probes
    missing = count - len(near)
    return torch.cat([near, probes.repeat(-(-missing // len(probes)), 1)[:missing]]) if missing > 0 else near


def run_chains(landscape: Landscape, x0: Tensor, n_steps: int, rng: torch.Generator) -> Annealed:
    """Projected annealed Langevin from x0 (chains, n)."""
    langevin = ULA(landscape.step)
    region = landscape.region
    kernel = Sliced(langevin, region) if region.discrete else Projected(langevin, landscape.project)
    return anneal(kernel, landscape.energy, x0, schedule=landscape.cooling(), n_steps=n_steps, rng=rng)


@dataclass(frozen=True)
class Sliced(Kernel):
    """A kernel on a region where names are a choice: every proposal is projected on one of its slices.

    The slice is that of the K largest names of the proposal, less those that would end below half the least weight;
    a slice without a portfolio (turnover may empty it) is refused, and the chain is projected on its own. So a chain
    that starts on the region stays on it, at the price of one or two convex projections a step.
    """

    kernel: Kernel
    region: Region

    def propose(self, state: State, temperature: Temperature, noise: Noise) -> Tensor:
        y = self.kernel.propose(state, temperature, noise)
        own = state.x != 0.0
        wanted = largest(y, state.x.sum(-1), self.region)
        w, left = self._on(y, torch.where(may_be_met(self.region, wanted).unsqueeze(-1), wanted, own))
        refused = left > FEASIBLE
        if bool(refused.any()):
            w[refused], left[refused] = self._on(y[refused], own[refused])
        # A slice without an interior can defeat the projection's tolerance; the chain then stays where it is.
        return torch.where((left > FEASIBLE).unsqueeze(-1), state.x, w)

    def settle(
        self, state: State, proposal: Tensor, energy: Bound, temperature: Temperature, noise: Noise
    ) -> tuple[State, Info]:
        return self.kernel.settle(state, proposal, energy, temperature, noise)

    def _on(self, y: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
        slices = self.region.on(pattern)
        return nearest_in(y, self.region, slices.lower, slices.upper)


def largest(y: Tensor, total: Tensor, region: Region) -> Tensor:
    """The names a portfolio near y (m, n) of the sum `total` (m,) would hold, bool (m, n): a quick choice."""
    free = ~region.frozen
    must = free & ((region.lower > 0.0) | (region.upper < 0.0))
    can = free & (region.upper >= region.min_weight)
    rank = torch.where(must, torch.inf, torch.where(can, y, -torch.inf))
    count = min(region.n if region.at_most is None else region.at_most, int(can.sum()))
    order = rank.argsort(-1, descending=True).argsort(-1)
    top = (order < count) & can
    if region.min_weight > 0.0 and count:
        excess = ((y * top).sum(-1) + (y * region.frozen).sum(-1) - total) / count
        top = top & (must | (order == 0) | (y - excess.unsqueeze(-1) >= 0.5 * region.min_weight))
    return top | must
