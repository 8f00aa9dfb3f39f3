"""Draws from a PatternLaw until they are worth what is asked, or an error that says they are not.

Patterns far apart are modes with walls between them, so the chains run in families at T, 2T, 4T, ..., up to where E
hardly matters, that exchange places. Half of the families start at the best portfolio known, half at random patterns
drawn, from portfolios found elsewhere, at a heat that knows nothing of E: only where both halves come to the same
shares of names and patterns is anything reported. A pilot run sets T to the tolerated excess. Then draws are kept, the
thinning doubling until split R-hat is under the limit for the energy, for every weight held in 1 % of draws or more,
and for every pattern with 1 % of the mass.

Sources: samplers/pattern_gibbs.py, samplers/exchange.py; Gelman et al., Bayesian Data Analysis (3rd ed.), section 11.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from portfolio_ebm.construction.near.laws import HARD, ChoiceLaw
from portfolio_ebm.construction.near.mixing import BURN, KEPT, R_HAT, Draws
from portfolio_ebm.errors import SolverError
from portfolio_ebm.samplers.diagnostics import effective_size, r_hat
from portfolio_ebm.samplers.exchange import exchanged

RISE = 2.0
"""Each temperature is so many times the one below."""

LEAST_LEVELS, MOST_LEVELS = 3, 12

OFTEN = 0.01
"""Names and patterns in a smaller share of the draws are looked at together, and not one by one."""

APART = 4.5
"""Standard errors by which the two halves of the families may differ in any share."""

HOT = 1000.0
"""The heat of the random starts, in T."""


@dataclass
class _Families:
    """Where the chains are: x (k, levels * families), E by column; and how stiff walls are, by level, (levels,)."""

    law: ChoiceLaw
    x: Tensor
    value: Tensor
    rng: torch.Generator
    stiffness: Tensor
    odd: bool = False
    accepted: list[float] = field(default_factory=list)
    spent: int = 0

    @property
    def families(self) -> int:
        return self.x.shape[1] // len(self.stiffness)

    @property
    def cold(self) -> tuple[Tensor, Tensor]:
        """x (k, families) and E of the coldest level."""
        return self.x[:, : self.families], self.value[: self.families]

    def run(self, temperature: float, segments: int) -> None:
        """So many segments, each of moves worth a look at every slot, and one exchange."""
        hard = int((self.stiffness == HARD).sum())
        levels = temperature * RISE ** torch.arange(
            len(self.stiffness), dtype=self.x.dtype, device=self.x.device
        ).clamp_max(hard - 1)
        heat, stiffness = (one.repeat_interleave(self.families) for one in (levels, self.stiffness))
        moves = segment(self.law)
        for _ in range(segments):
            self.x, self.value, chance = self.law.moved(self.x, self.value, heat, stiffness, moves, self.rng)
            if chance is not None:
                self.accepted.append(float(chance[: self.families].mean()))
            self.spent += moves
            walls = (self.law.walls(self.x), self.stiffness)
            order = exchanged(self.value, levels, self.odd, self.rng, walls)
            self.x, self.value, self.odd = self.x[:, order], self.value[order], not self.odd


def segment(law: ChoiceLaw) -> int:
    """Moves between two exchanges."""
    return 2 * law.pace + 2


def draw_patterns(
    law: ChoiceLaw,
    chains: int,
    rng: torch.Generator,
    *,
    limit: float = R_HAT,
    moves: int | None = None,
    elsewhere: Tensor | None = None,
) -> Draws:
    """A sample of the law that mixed.

    Args:
        chains: of all levels together. moves: the most moves of a chain, by default the law's budget.
        elsewhere: (m, n), portfolios that random starts come from beside the best one, found without the kernel: where
            it does not lead from one to the other, the halves stay apart.

    Raises:
        SolverError: R-hat stayed above `limit`, or the halves of the families apart; nothing is reported.
    """
    budget = moves or law.budget
    best = law.best.weights.unsqueeze(0)
    run = _started(law, best if elsewhere is None else torch.cat([best, elsewhere]), chains, rng)
    temperature = _tempered(run, budget)
    stride = max(min(law.stride, (budget - run.spent) // ((BURN + KEPT) * segment(law))), 1)
    while True:
        run.run(temperature, BURN * stride)
        run.accepted.clear()
        kept, values = [], []
        for _ in range(KEPT):
            run.run(temperature, stride)
            kept.append(run.cold[0].T.clone())
            values.append(run.cold[1].clone())
        x, value = torch.stack(kept), torch.stack(values)
        looked = watched(law, x, value)
        worst, apart = float(r_hat(looked).max()), _apart(looked)
        if worst < limit and apart < APART:
            break
        stride = 2 * stride
        if run.spent + (BURN + KEPT) * stride * segment(law) > budget:
            raise SolverError(
                f"The chains did not mix over choices of names: R-hat is {worst:.3f} (limit {limit:g}), chains from "
                f"the best portfolio and from random ones differ by {apart:.1f} standard errors (limit {APART:g}) "
                f"after {run.spent:,} moves, so that nothing is said of the distribution; raise the tolerance or the "
                f"budget of moves, {law.advice}"
            )
    return Draws(
        x=x, energy=value, temperature=temperature, r_hat=worst, sizes=effective_size(x),
        least=float(effective_size(looked).min()),
        acceptance=sum(run.accepted) / len(run.accepted) if run.accepted else 1.0,
        kernel=f"{law.title} with replica exchange" if law.energy is None else f"Metropolis over {law.title}",
        apart=apart,
    )  # fmt: skip


def _started(law: ChoiceLaw, places: Tensor, chains: int, rng: torch.Generator) -> _Families:
    random = law.strangers(places, chains, HOT * law.excess / law.k, 10 * segment(law), rng)
    value = law.energies(random)
    usable = value.isfinite()
    spread = float((value[usable] - law.best.value).mean()) if bool(usable.any()) else law.excess
    # The hottest level is to find no wall anywhere: there the excess is that of random portfolios.
    levels = math.ceil(math.log(max(spread / law.excess, 1.0)) / math.log(RISE)) + 1
    levels = min(max(levels, LEAST_LEVELS), MOST_LEVELS)
    top = law.excess / law.k * RISE ** (levels - 1)
    stiffness = torch.cat([random.new_full((levels,), HARD), law.ladder(random, top, segment(law), rng)])
    families = max(chains // (2 * len(stiffness)) * 2, 16)
    columns = torch.arange(len(stiffness) * families, device=random.device)
    other = (columns % families % 2 == 1) & usable[columns % chains]
    x = torch.where(other, random[:, columns % chains], law.start(len(columns)))
    return _Families(law, x, law.energies(x), rng, stiffness)


def _tempered(run: _Families, budget: int) -> float:
    """T at which the excess is what is tolerated, on average."""
    law, pilots = run.law, 8
    temperature, each = law.excess / law.k, max(min(law.stride + 2, budget // (4 * pilots * segment(run.law))), 1)
    for pilot in range(pilots):
        run.run(temperature, each)
        found = []
        for _ in range(each):
            run.run(temperature, 1)
            found.append(float(run.cold[1].mean()))
        measured = max(sum(found) / len(found) - law.best.value, 1e-3 * law.excess)
        reach = 2.0 if pilot < pilots - 2 else 1.25
        temperature *= min(max(law.excess / measured, 1.0 / reach), reach)
    return temperature


def watched(law: ChoiceLaw, x: Tensor, value: Tensor) -> Tensor:
    """What has to have mixed, (draws, chains, quantities): the energy, the weights of names that often have a range,
    the weight of all others together, and which modes names and whole portfolios are often in, and in which case of
    `Either` they are. x (draws, chains, k), value (draws, chains).
    """
    mode, free = (found.T.reshape(x.shape) for found in law.modes(x.flatten(0, 1).T))
    often = free.to(x.dtype).mean((0, 1)) >= OFTEN
    _, code, count = mode.flatten(0, 1).unique(dim=0, return_inverse=True, return_counts=True)
    common = (count >= OFTEN * len(code)).nonzero().squeeze(-1)
    patterns = (code.reshape(value.shape).unsqueeze(-1) == common).to(x.dtype)
    rest = torch.where(often, 0.0, x).sum(-1, keepdim=True)
    present = torch.cat([mode == k for k in range(1, max(int(mode.max()), 1) + 1)], dim=-1).to(x.dtype)
    met = present.mean((0, 1)) >= OFTEN
    cases = law.inside(x.flatten(0, 1).T).T.reshape(*value.shape, -1).to(x.dtype)
    return torch.cat([value.unsqueeze(-1), x[..., often], present[..., met], rest, patterns, cases], dim=-1)


def _apart(looked: Tensor) -> float:
    """The largest difference between families from the best portfolio and from random ones, in standard errors."""
    means = looked.mean(0)
    one, other = means[0::2], means[1::2]
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    gap = (one.mean(0) - other.mean(0)).abs()
    # What never changes has no error, and no gap beyond rounding.
    still = error <= 1e-12 * looked.abs().amax((0, 1)).clamp_min(1e-300)
    return float(torch.where(still, torch.where(gap > 1e-9, torch.inf, 0.0), gap / error.clamp_min(1e-300)).max())
