"""The law exp(-E/T) over whole lots: every portfolio of the grid that obeys the rules counts once.

No volume is needed, and a ticket or a least weight is a price or a limit at points like any others. Chains start at the
best portfolio known and at portfolios that know nothing of it: draws of the law without the grid, at a heat that knows
nothing of E, brought to whole lots, of which those are kept that obey the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.of_region import choices_of, hull_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing.choosing import with_tickets
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import without_tickets
from portfolio_ebm.construction.exact.minimum import Minimum
from portfolio_ebm.construction.near.faces import FaceLaw, law_with_faces
from portfolio_ebm.construction.near.laws import ChoiceLaw
from portfolio_ebm.construction.near.optimal import polyhedron_of
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SolverError, SpecError
from portfolio_ebm.samplers.face_set import FaceTarget
from portfolio_ebm.samplers.lot_gibbs import LotGibbs
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.polyhedron import Polyhedron
from portfolio_ebm.types import as_numpy

TRIES = 20


@dataclass(frozen=True)
class LotLaw(ChoiceLaw):
    """The law `free` of the rules without the grid, on the grid of the kernel."""

    kernel: LotGibbs
    free: FaceLaw
    title = "lot-Gibbs"

    @property
    def pace(self) -> int:
        """Half of the moves of a segment; where it is too few the thinning doubles."""
        return len(self.kept)

    @property
    def budget(self) -> int:
        """The most moves of a chain, where none are given."""
        return 12_000 * len(self.kept)

    def placed(self, w: Tensor) -> Tensor:
        """See NearLaw; on the grid."""
        return self.kernel.on_grid(w[:, self.kept].T)

    def strangers(self, places: Tensor, chains: int, heat: float, moves: int, rng: torch.Generator) -> Tensor:
        """Starts that know nothing of the best portfolio, (k, chains): from `places` (m, n) by turns, and then hot.

        Raises:
            SolverError: no portfolio of whole lots was met from anywhere else.
        """
        found: list[Tensor] = []
        y, count = self.free.by_turns(places, chains), 0
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
        return every[:, torch.arange(chains, device=every.device) % count]


def law_with_modes(
    energy: Energy, region: Region, ctx: Context, best: Minimum, excess: float, least: float
) -> FaceLaw | LotLaw:
    """The law by modes, whatever the rules, and on whole lots where they ask for these. Errors as `law_with_faces`."""
    convex, ticket = without_tickets(energy, ctx)
    hull = hull_of(region.ungridded()).folded()
    box, held = Box.of(hull), None if ctx.held is None else as_numpy(ctx.held)
    choices = with_tickets(choices_of(region), region, held, ticket).clipped(box.lower, box.upper)
    free = law_with_faces(energy, convex, hull, choices, ctx, best, excess, least)
    if region.grid is None:
        return free
    base = best.weights.clone()
    base[free.kept] = 0.0
    return law_on_lots(free, polyhedron_of(hull, box, free.kept, base), region.grid)


def law_on_lots(free: FaceLaw, polyhedron: Polyhedron, step: Tensor) -> LotLaw:
    """The law `free` on a grid: `polyhedron` is its rules on the names alone, `step` (n,) the lots.

    Raises:
        SpecError: a name without lots, or an equation.
        SolverError: the best portfolio is not of whole lots within the rules.
    """
    k, target = len(free.kept), free.kernel.target
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
    kernel = LotGibbs(FaceTarget(quadratic, target.price[:k], target.slope[:k], faces), step[free.kept])
    found = LotLaw(
        kept=free.kept, base=free.base, best=free.best, energy=free.energy, value=free.value, excess=free.excess,
        k=free.k, measure="the measure that counts each portfolio of whole lots once", kernel=kernel, free=free,
    )  # fmt: skip
    if not bool(kernel.holds(found.start(1)).all()):
        raise SolverError("The best portfolio found is not of whole lots within the rules, to start chains from.")
    return found
