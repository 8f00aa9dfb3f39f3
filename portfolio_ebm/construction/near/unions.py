"""The law exp(-E/T) on a union of sets, one for each case of `Either`: each portfolio counts once, in however many.

    pi(w) ~ exp(-E(w) / T) mu(dw) 1[w in S_1 or ... or S_K]

mu is one measure for all cases: Lebesgue's where they have one dimension; where names are a choice in any of them, each
choice of names is a mass of one on one simplex, the widest of the cases, and what the cases ask for only cuts; where
there are lots, counting. A case of lower dimension (an equation that the others do not have) would have no mass beside
the others and is refused.

A kernel for the law on S_k, applied to the chains in S_k alone, leaves pi: it leaves what pi has on S_k, and nothing
else is touched. So the cases' own kernels run one after the other, and where cases overlap chains pass from one to the
other. Across gaps there is the kernel of the rules that all cases share, on the set C that holds them all, whose steps
are taken where they end in the union; and above the hottest chains others that run on C, at first held near the union
by exp(-lambda V), V the residual of the case broken least, and then by nothing: replica exchange brings what they find
down to the union. How much mass each case has is read off the draws, so that it is exact where chains mixed, with a
standard error from their number, and R-hat is asked of it like of every weight.

Sources: Tierney, L. (1994), Markov chains for exploring posterior distributions, Annals of Statistics 22, for cycles of
kernels that each leave a law; Geyer, C. (1991) for exchange, see samplers/exchange.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, region_of
from portfolio_ebm.constraints.mixed.of_region import choices_of, hull_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.weights import Box
from portfolio_ebm.construction.exact.formula import without_tickets
from portfolio_ebm.construction.exact.minimum import Minimum
from portfolio_ebm.construction.near.faces import FaceLaw
from portfolio_ebm.construction.near.laws import HARD, ChoiceLaw, NearLaw
from portfolio_ebm.construction.near.lots import LotLaw, law_with_modes
from portfolio_ebm.construction.near.optimal import TOUCH
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.face_gibbs import FaceGibbs
from portfolio_ebm.samplers.references import Reference
from portfolio_ebm.samplers.surrogate import Surrogate

INSIDE = 5e-10
"""A residual below this is none."""

STEEPER, ENOUGH = 0.4, 0.25
"""Each wall is so steep that this share of the chains of the wall below is worth keeping; and walls are steep enough
where this share of chains is inside."""

MOST_WALLS = 10

WIDE = 1e3
"""A limit on weights that limits nothing."""

Anyone = Callable[[Constraint], Tensor | None]

LOWER = (
    "Of the sets that Either leaves, {} has a lower dimension than the others: it {}. It would have no share beside "
    "them, and no volume compares it; give the rule a range, or ask for the distribution of each case by itself."
)


@dataclass(frozen=True)
class Branch:
    """One case: its rules beside those that all share, and the law within it."""

    rules: tuple[Constraint, ...]
    law: FaceLaw | LotLaw

    @property
    def name(self) -> str:
        """Its rules in words."""
        return " & ".join(map(repr, self.rules)) or "the other rules alone"


@dataclass(frozen=True)
class UnionLaw(ChoiceLaw):
    """exp(-E/T) on the union of the branches, in the coordinates of `outer`, the law on the rules that they share.

    Attributes:
        empty: the names of the cases in which no portfolio was found.
    """

    outer: FaceLaw | LotLaw
    branches: tuple[Branch, ...]
    empty: tuple[str, ...]
    ctx: Context
    title = "the cases' kernels in turn"
    stride = 3  # segments are dear here, and chains often mix in few
    advice = "or ask for the distribution of each case of Either by itself."

    @property
    def pace(self) -> int:
        """As of the outer law."""
        return self.outer.pace

    @property
    def budget(self) -> int:
        """The most moves of a chain, where none are given."""
        return 2 * self.outer.budget

    def modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As of the outer law."""
        return self.outer.modes(x)

    def placed(self, w: Tensor) -> Tensor:
        """See NearLaw."""
        return self.outer.placed(w)

    def residuals(self, w: Tensor) -> Tensor:
        """By how much portfolios (chains, n) break each branch, (K, chains), 0 inside."""
        return torch.stack([self.residual(branch, w) for branch in self.branches])

    def residual(self, branch: Branch, w: Tensor) -> Tensor:
        """By how much portfolios (chains, n) break one branch, (chains,), 0 inside."""
        found = All(parts=branch.rules).residual(w, self.ctx)
        return torch.where(found > INSIDE, found, 0.0)

    def walls(self, x: Tensor) -> Tensor:
        """V: by how much x (d, chains) breaks the branch broken least, (chains,)."""
        return self.residuals(self.whole(x)).amin(0)

    def inside(self, x: Tensor) -> Tensor:
        """Which branches x (d, chains) is in, bool (K, chains)."""
        return self.residuals(self.whole(x)) == 0.0

    def strangers(self, places: Tensor, chains: int, heat: float, moves: int, rng: torch.Generator) -> Tensor:
        """See ChoiceLaw; within the union."""
        x = self.by_turns(places, chains)
        hot = torch.full((chains,), heat, dtype=x.dtype, device=x.device)
        return self.moved(x, self.energies(x), hot, torch.full_like(hot, HARD), moves, rng)[0]

    def moved(
        self, x: Tensor, value: Tensor, heat: Tensor, stiffness: Tensor, moves: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See ChoiceLaw: so many moves of each branch by the chains in it, and of the outer law by all."""
        w = self.whole(x)
        for branch in self.branches:
            here = ((stiffness == HARD) & (self.residual(branch, w) == 0.0)).nonzero().squeeze(-1)
            if len(here):
                law, y = branch.law, branch.law.placed(w[here])
                w[here] = law.whole(law.moved(y, law.energies(y), heat[here], stiffness[here], moves, rng)[0])
        return self._across(self.placed(w), heat, stiffness, moves, rng)

    def _across(
        self, x: Tensor, heat: Tensor, stiffness: Tensor, moves: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        def walled(w: Tensor) -> Tensor:
            x = w.T
            return self.energies(x) + heat * stiffness * self.walls(x)

        over, value, chances = Surrogate(self.kernel, walled, 1), walled(x.T), []
        for _ in range(max(moves // 2, 1)):
            x, value, chance = over.step(x, value, heat, rng)
            chances.append(chance)
        return x, self.energies(x), torch.stack(chances).mean(0)

    def ladder(self, x: Tensor, heat: float, moves: int, rng: torch.Generator) -> Tensor:
        """The stiffness of the walls above the hottest chains x (d, chains), falling to 0: each wall so much steeper
        than the one below as keeps STEEPER of its chains, until ENOUGH of them are inside."""
        hot, found = torch.full_like(x[0], heat), [0.0]
        while True:
            for _ in range(4):
                x = self._across(x, hot, torch.full_like(hot, found[-1]), moves, rng)[0]
            wall = self.walls(x)
            if float((wall == 0.0).to(x).mean()) >= ENOUGH or len(found) == MOST_WALLS:
                return torch.tensor(found[::-1], dtype=x.dtype, device=x.device)
            step = 0.1 / float(wall.mean())
            while float(torch.exp(-step * wall).mean()) > STEEPER:
                step *= 1.3
            found.append(found[-1] + step)
            x = x[:, torch.multinomial(torch.exp(-step * wall), x.shape[1], replacement=True, generator=rng)]


def law_on_union(
    energy: Energy, constraint: Constraint, ctx: Context, best: Minimum, excess: float, least: float, anyone: Anyone
) -> UnionLaw:
    """The law around `best` on all cases of the rules; `anyone` finds some portfolio (n,) under rules, or None.

    Raises:
        SpecError: cases of different dimensions, or rules for which no exact kernel is offered; with what to do.
    """
    cases = constraint.cases()
    shared = [rule for rule in cases[0].rules() if all(rule in case.rules() for case in cases)]
    regions = [region_of(case, ctx) for case in cases]
    outer = _around(region_of(All(parts=tuple(shared)), ctx), regions)
    whole = _whole_lots(outer, regions)
    optional = not whole and _out_by_choice(outer, regions)
    if optional:
        outer, *regions = (_optional(region) for region in (outer, *regions))
    law = law_with_modes(energy, outer, ctx, best, excess, least)
    still = left_still(law, ctx)
    low, high = (torch.full_like(law.base, end) for end in (-torch.inf, torch.inf))
    out = torch.ones_like(low, dtype=torch.bool).index_fill(0, law.kept, False)
    low[out] = high[out] = best.weights[out]
    branches, empty = [], []
    for region, case in zip(regions, cases, strict=True):
        found = Branch(tuple(rule for rule in case.rules() if rule not in shared), law)
        w = anyone(case if still is None else case & still)
        if w is None:
            empty.append(found.name)
            continue
        start = Minimum(w, float(energy.bind(ctx)(w)), None, None, best.status)
        found = replace(found, law=law_with_modes(energy, region.with_box(low, high), ctx, start, excess, 0.0))
        _require_dimension(found, law)
        branches.append(found)
    measure = law.measure
    if isinstance(law, FaceLaw):
        ticketed = ctx.held is not None and without_tickets(energy, ctx)[1] > 0.0
        reference, measure = _reference(law, branches, optional or ticketed)
        branches = [replace(one, law=_measured(one.law, law, reference)) for one in branches]
        law = _measured(law, law, reference)
    return UnionLaw(
        kept=law.kept, base=law.base, best=best, energy=law.energy, value=law.value, excess=excess, k=law.k,
        measure=f"{measure}, on portfolios of any case of Either, each counted once", kernel=law.kernel, outer=law,
        branches=tuple(branches), empty=tuple(empty), ctx=ctx,
    )  # fmt: skip


def left_still(law: NearLaw, ctx: Context) -> Box | None:
    """The rule that names which are left out stand where the best portfolio has them; None where all are in."""
    left = sorted(set(range(ctx.n_assets)) - set(law.kept.tolist()))
    still = tuple((ctx.assets[i], float(law.best.weights[i])) for i in left)
    return Box(lower=-WIDE, upper=WIDE, caps=still, floors=still) if left else None


def _whole_lots(outer: Region, regions: Sequence[Region]) -> bool:
    """Whether lots are asked for, which has to be in all cases."""
    if outer.grid is None and any(region.grid is not None for region in regions):
        raise SpecError("Either asks for whole lots in some of its cases; ask for RoundLots() beside it, in all.")
    return outer.grid is not None


def _around(shared: Region, regions: Sequence[Region]) -> Region:
    """The shared rules within the smallest box that holds all cases, and what the budget leaves of it."""
    hulls = [hull_of(region.ungridded()).folded() for region in regions]
    lower = torch.stack([one.lower for one in hulls]).amin(0)
    upper = torch.stack([one.upper for one in hulls]).amax(0)
    total = shared.row_upper[(shared.rows == 1.0).all(-1)]
    if len(total) and bool(lower.isfinite().all()):
        upper = upper.minimum(total.min() - lower.sum() + lower)
    return shared.with_box(lower, upper)


def _optional(region: Region) -> Region:
    """The region, in which every name that may be out is so by choice."""
    return region if region.at_most is not None else replace(region, at_most=int((~region.frozen).sum()))


def _out_by_choice(outer: Region, regions: Sequence[Region]) -> bool:
    """Whether some name is out in some case by choice, or because the case keeps it out."""
    free = outer.upper - outer.lower > TOUCH
    for region in regions:
        c = choices_of(region)
        alone = (c.size == 1)[:, None] & c.exists
        if bool((alone & (c.upper - c.lower <= TOUCH)).any()):
            return True
        if bool((free & (region.lower.abs().maximum(region.upper.abs()) <= TOUCH)).any()):
            return True
    return False


def _require_dimension(branch: Branch, outer: FaceLaw | LotLaw) -> None:
    """Refuse a case that has an equation, or fixes a weight, that the shared rules leave open."""
    law, name = branch.law, branch.name
    if isinstance(law, LotLaw) or isinstance(outer, LotLaw):
        return
    fixed, faces = set(outer.kept.tolist()) - set(law.kept.tolist()), outer.kernel.faces
    for i in fixed:
        own = int((outer.kept == i).nonzero())
        points = faces.lower[own][faces.exists[own] & ~faces.ranged[own]]
        if not bool(((points - law.base[i]).abs() <= TOUCH).any()):
            raise SpecError(LOWER.format(name, "fixes a weight"))
    equations = [len(one.kernel.faces.equations) - (one.kernel.faces.n - len(one.kept)) for one in (law, outer)]
    if equations[0] != equations[1]:
        raise SpecError(LOWER.format(name, "has an equation of its own"))


def _reference(outer: FaceLaw, laws: Sequence[Branch], pointed: bool) -> tuple[Reference, str]:
    """What faces weigh in all cases alike, in the outer law's coordinates, and the measure in words."""
    own, found = [one.law for one in laws if isinstance(one.law, FaceLaw)], outer.kernel.faces.reference
    references = [law.kernel.faces.reference for law in own]
    if not pointed:
        return replace(found, flat=True), "Lebesgue measure"
    if all(one.flat for one in references) and len({one.most for one in references}) == 1:
        return replace(found, flat=True), own[0].measure
    offsets = [float(law.base.sum() - outer.base.sum()) for law in own]
    floor, top = min(one.floor for one in references), max(one.top for one in references)
    low, high = found.low, found.high
    if not np.isfinite([low, high]).all():
        low = min(one.low + offset for one, offset in zip(references, offsets, strict=True))
        high = max(one.high + offset for one, offset in zip(references, offsets, strict=True))
    what = "set of names traded" if any("traded" in law.measure for law in own) else "choice of names"
    shape = f"weights between {floor:g} and {top:g}" if np.isfinite(top) else f"simplex of weights from {floor:g} on"
    reference = Reference(floor, top, low, high, max(found.most, *(one.most for one in references)))
    return reference, f"the measure that counts each {what} once, uniform on its {shape}"


def _measured(law: FaceLaw | LotLaw, outer: FaceLaw, reference: Reference) -> FaceLaw:
    """The law with the reference, moved by what its fixed names weigh."""
    assert isinstance(law, FaceLaw)
    target, offset = law.kernel.target, float(outer.base.sum() - law.base.sum())
    reference = replace(reference, low=reference.low + offset, high=reference.high + offset)
    return replace(law, kernel=FaceGibbs(replace(target, faces=replace(target.faces, reference=reference))))
