"""The law exp(-E/T) over whole lots: every portfolio of the grid that obeys the rules counts once.

No volume is needed, and a ticket or a least weight is a price or a limit at points like any others. Chains start at the
best portfolio known and at portfolios that know nothing of it: draws of the law without the grid, at a heat that knows
nothing of E, brought to whole lots, of which those are kept that obey the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portfolio_ebm.construction.convex import Minimum
from portfolio_ebm.construction.near_faces import FaceLaw
from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SolverError, SpecError
from portfolio_ebm.samplers.face_set import FaceTarget
from portfolio_ebm.samplers.lot_gibbs import LotGibbs
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.polyhedron import Polyhedron

TRIES = 20


@dataclass(frozen=True)
class LotLaw:
    """The law `free` of the rules without the grid, on the grid of `kernel`."""

    free: FaceLaw
    kernel: LotGibbs

    @property
    def kept(self) -> Tensor:
        """The names that the law is on."""
        return self.free.kept

    @property
    def best(self) -> Minimum:
        """The best portfolio known."""
        return self.free.best

    @property
    def energy(self) -> Bound | None:
        """As in Law."""
        return self.free.energy

    @property
    def value(self) -> Bound:
        """E on whole portfolios."""
        return self.free.value

    @property
    def excess(self) -> float:
        """The tolerated energy above the best portfolio's."""
        return self.free.excess

    @property
    def k(self) -> float:
        """What the excess is divided by for the first guess of T."""
        return self.free.k

    @property
    def measure(self) -> str:
        """The measure in words."""
        return "the measure that counts each portfolio of whole lots once"

    @property
    def title(self) -> str:
        """The kernel's name."""
        return "lot-Gibbs"

    @property
    def pace(self) -> int:
        """Half of the moves of a segment; where it is too few the thinning doubles."""
        return len(self.kept)

    @property
    def budget(self) -> int:
        """The most moves of a chain, where none are given."""
        return 12_000 * len(self.kept)

    def modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a name is held, by name of x (k, chains): as its mode, and as whether its weight may move."""
        held = x != 0.0
        return held.long(), held

    def whole(self, x: Tensor) -> Tensor:
        """Portfolios (chains, n) of coordinates (k, chains)."""
        return self.free.whole(x)

    def start(self, chains: int) -> Tensor:
        """The best portfolio in the law's coordinates, (k, chains).

        Raises:
            SolverError: it is not of whole lots within the rules.
        """
        x = self.kernel.on_grid(self.best.weights[self.kept].unsqueeze(-1))
        if not bool(self.kernel.holds(x).all()):
            raise SolverError("The best portfolio found is not of whole lots within the rules, to start chains from.")
        return x.repeat(1, chains)

    def strangers(self, places: Tensor, chains: int, heat: float, moves: int, rng: torch.Generator) -> Tensor:
        """Starts that know nothing of the best portfolio, (k, chains): from `places` (m, n) by turns, and then hot.

        Raises:
            SolverError: no portfolio of whole lots was met from anywhere else.
        """
        found: list[Tensor] = []
        y, count = torch.cat([self.free.start(1, w) for w in places], 1), 0
        y = y[:, torch.arange(chains) // 2 % len(places)]
        for _ in range(TRIES):
            y = self.free.kernel.run(y, heat, moves, rng)
            raw = y[: len(self.kept)]
            step = self.kernel.step.unsqueeze(-1)
            # Down on average, so that what is spent is not above the budget; the sum may be anywhere below.
            shift = torch.rand(raw.shape, generator=rng, dtype=raw.dtype, device=raw.device)
            x = self.kernel.on_grid(((raw / step - 0.5 * shift).round()) * step)
            x = x[:, self.kernel.holds(x)]
            found, count = [*found, x], count + x.shape[1]
            if count >= chains:
                break
        if not count:
            raise SolverError(
                "No portfolio of whole lots was met but from the best one, so that nothing says whether chains reach "
                "all of the law; leave more room for cash, Budget(at_least=), or take smaller lots."
            )
        every = torch.cat(found, dim=1)
        return every[:, torch.arange(chains) % count]


def law_on_lots(free: FaceLaw, polyhedron: Polyhedron, step: Tensor) -> LotLaw:
    """The law `free` on a grid: `polyhedron` is its rules on the names alone, `step` (n,) the lots.

    Raises:
        SpecError: a name without lots, or an equation.
    """
    k, target = len(free.kept), free.target
    if bool((step[free.kept] <= 0.0).any()):
        raise SpecError("Some names are in whole lots and others are not; the distribution is offered where all are.")
    if bool(polyhedron.equal.any()):
        raise SpecError(
            "Whole lots seldom add up to an equation, so that portfolios that do stand alone; leave room for cash, "
            "Budget(at_least=0.98), and give other equations a range."
        )
    faces = replace(
        target.faces, lower=target.faces.lower[:k], upper=target.faces.upper[:k], counts=target.faces.counts[:, :k],
        named=target.faces.named[:k], polyhedron=polyhedron,
        heavy=tuple(replace(h, unit=h.unit[:k]) for h in target.faces.heavy),
    )  # fmt: skip
    quadratic = Target(target.quadratic.matrix[:k, :k], target.quadratic.linear[:k])
    return LotLaw(free, LotGibbs(FaceTarget(quadratic, target.price[:k], target.slope[:k], faces), step[free.kept]))
