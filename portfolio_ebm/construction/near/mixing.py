"""Draws from a Law until they are worth what is asked, or an error that says they are not.

Chains start at the optimum and are spread over hotter laws first, at T, 3T and 9T, so that R-hat compares chains that
came from different places. A pilot run sets T to the tolerated excess and the pairs' weights to where the law lives.
Then draws are kept, the thinning doubling until split R-hat of every weight and of the energy is under the limit.

Source: Gelman et al., Bayesian Data Analysis (3rd ed.), section 11.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.construction.near.optimal import Law
from portfolio_ebm.errors import SolverError
from portfolio_ebm.samplers.diagnostics import effective_size, r_hat
from portfolio_ebm.samplers.hit_and_run import HitAndRun, open_basis
from portfolio_ebm.samplers.pair_gibbs import PairGibbs
from portfolio_ebm.samplers.surrogate import Surrogate

KEPT = 24
"""Draws kept of each chain in a round."""

BURN = 10
"""Moves before the first of them, in strides."""

R_HAT = 1.02
HOT = (1.0, 3.0, 9.0)


@dataclass(frozen=True)
class Draws:
    """A sample of exp(-E/T).

    Attributes:
        x: (draws, chains, d), in the law's coordinates.
        energy: (draws, chains), E of the whole portfolios.
        temperature: T.
        r_hat: the largest over weights and energy; `sizes` (d,) the effective sample size of each coordinate's mean,
            `least` that of the quantity which it is least of, of all that had to mix.
        acceptance: of Metropolis steps, or 1 where every move is exact.
        kernel: its name, for the status.
        apart: the largest difference between chains from different starts, in standard errors; 0 where not compared.
    """

    x: Tensor
    energy: Tensor
    temperature: float
    r_hat: float
    sizes: Tensor
    least: float
    acceptance: float
    kernel: str
    apart: float = 0.0


@dataclass
class _Chains:
    """Where the chains are while they run: x (d, chains), E (chains,)."""

    law: Law
    x: Tensor
    activity: Tensor
    basis: Tensor
    accepted: float = 0.0
    steps: int = 0

    def run(self, temperature: float, moves: int, rng: torch.Generator, part: slice = slice(None)) -> None:
        law = self.law
        kernel: PairGibbs | HitAndRun = (
            PairGibbs(law.target, law.polyhedron, self.activity, law.heavy)
            if law.pairs
            else HitAndRun(law.target, law.polyhedron, self.basis)
        )
        x = self.x[:, part].contiguous()
        if law.energy is None:
            self.x[:, part] = kernel.run(x, temperature, moves, rng)
            return
        length = max(law.polyhedron.n // 4, 2)
        over = Surrogate(kernel, lambda w: law.energies(w.T), length)
        value = law.energies(x)
        for _ in range(max(moves // (2 * length), 1)):
            x, value, chance = over.step(x, value, temperature, rng)
            self.accepted, self.steps = self.accepted + float(chance.mean()), self.steps + 1
        self.x[:, part] = x

    def correction(self) -> float:
        """By what T has to be multiplied for the excess that is asked for, as the chains stand."""
        measured = float((self.law.energies(self.x) - self.law.best.value).mean())
        return min(max(self.law.excess / measured, 0.25), 4.0)

    def learn(self) -> None:
        """Take the pairs' weights and the rays' spread from where the chains are."""
        p = self.law.polyhedron
        ends = (self.x - p.lower.unsqueeze(-1)).minimum(p.upper.unsqueeze(-1) - self.x).abs().mean(1)
        ends = torch.where(ends.isfinite(), ends, self.x.std(1)).clamp_min(1e-12)
        self.activity = ends.sqrt()
        if not self.law.pairs:
            self.basis = open_basis(p, torch.cov(self.x))


def draw(law: Law, chains: int, rng: torch.Generator, *, limit: float = R_HAT, moves: int | None = None) -> Draws:
    """A sample of the law that mixed.

    Args:
        moves: the most moves of a chain, by default 4,000 times the coordinates' number.

    Raises:
        SolverError: R-hat stayed above `limit`; the message names it, and nothing is reported.
    """
    d = law.polyhedron.n
    budget = moves or 4000 * d
    first = law.base.new_ones(d)
    run = _Chains(law, law.start(chains), first, open_basis(law.polyhedron) if not law.pairs else first)
    temperature = law.excess / law.k
    spent, short = 0, min(10 * d, max(budget // 10, 1))
    for pilot in range(3):
        for part, heat in enumerate(HOT):
            run.run(temperature * (heat if pilot < 2 else 1.0), short, rng, slice(part, None, len(HOT)))
        spent += short
        run.learn()
        if pilot == 2:
            temperature *= run.correction()
    # The temperature moved a little: what is kept starts after as many moves again.
    stride = max(min(4 * d, (budget - spent) // (BURN + KEPT)), 1)
    run.run(temperature, BURN * stride, rng)
    spent += BURN * stride
    if law.energy is not None:
        # Steps that may be refused cool slower than the pilot lasts, which so takes T for too high.
        temperature *= run.correction()
        run.run(temperature, BURN * stride, rng)
        spent += BURN * stride
    while True:
        run.accepted, run.steps = 0.0, 0
        kept, values = [], []
        for _ in range(KEPT):
            run.run(temperature, stride, rng)
            kept.append(run.x.T.clone())
            values.append(law.energies(run.x))
        spent += KEPT * stride
        x, energy = torch.stack(kept), torch.stack(values)
        worst = float(torch.cat([r_hat(x), r_hat(energy).reshape(1)]).max())
        if worst < limit:
            break
        # What was kept is burned: of the longer strides more than BURN are behind the chains.
        stride = 2 * stride
        if spent + KEPT * stride > budget:
            raise SolverError(
                f"The chains did not mix: R-hat is {worst:.3f} after {spent:,} moves of each, above {limit:g}, so that "
                "nothing is said of the distribution; raise the tolerance or the budget of moves, or loosen what binds."
            )
    sizes = effective_size(x)
    return Draws(
        x=x, energy=energy, temperature=temperature, r_hat=worst, sizes=sizes, least=float(sizes.min()),
        acceptance=run.accepted / run.steps if run.steps else 1.0, kernel=_name(law),
    )  # fmt: skip


def _name(law: Law) -> str:
    moves = "pair-Gibbs" if law.pairs else "hit-and-run"
    return moves if law.energy is None else f"Metropolis over {moves}"
