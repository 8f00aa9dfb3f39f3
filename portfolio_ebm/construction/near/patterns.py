"""The law exp(-E/T) where the names held are a choice, prepared for exact kernels.

The measure: each pattern (set of names held) counts the same, and on its slice the law is uniform before E and the
further rules have their say. For exactly K names that is Lebesgue measure on slices of one dimension, whatever the
unit of weight. For other numbers of names slices of different dimensions meet, and "so much volume" means nothing
without a unit; there each pattern's simplex {w >= min_weight, sum w = budget} is given mass 1, so that no pattern is
likelier than another for the number of its names, and the further rules only cut. Lebesgue measure alone would make
the odds of 5 names against 6 depend on whether weights are written in percent.

Where a rule leaves no name the choice to be out (5/10/40, 25/50), the set has one dimension and Lebesgue measure is
what is left; its limits on heavy issuers cut.

Near support leaves out names that the relaxation proves to be out of reach: by its bound b and reduced cost r_i, a
portfolio that holds i at v or more has E >= b + r_i v.

Source for the mass on a simplex: Ferguson, T. (1973), A Bayesian analysis of some nonparametric problems, Annals of
Statistics 1 (the Dirichlet law with all parameters one is uniform); for the bound, construction/exact/duality.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.of_region import choices_of, hull_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing.choosing import with_tickets
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import without_tickets
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.construction.near.choices import heavy_of, within_modes
from portfolio_ebm.construction.near.faces import FaceLaw, law_with_faces
from portfolio_ebm.construction.near.laws import ChoiceLaw
from portfolio_ebm.construction.near.lots import LotLaw, law_with_modes
from portfolio_ebm.construction.near.optimal import (
    TOUCH,
    Law,
    box_tensor,
    inside_of,
    law_of,
    polyhedron_of,
    reach_of,
    target_of,
)
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.pattern_gibbs import PatternGibbs
from portfolio_ebm.samplers.pattern_set import HELD, PatternSet, simplex_sizes
from portfolio_ebm.samplers.polyhedron import Polyhedron
from portfolio_ebm.types import as_numpy


@dataclass(frozen=True)
class PatternLaw(ChoiceLaw):
    """exp(-E/T) over choices of names; the choice and its measure are the kernel's `patterns`."""

    kernel: PatternGibbs
    title = "pattern-Gibbs"

    @property
    def pace(self) -> int:
        """How many moves are worth a look at every slot, and half of them."""
        return self.kernel.patterns.slots

    @property
    def budget(self) -> int:
        """The most moves of a chain, where none are given."""
        return 6000 * max(self.pace, 4)

    def placed(self, w: Tensor) -> Tensor:
        """See NearLaw; what is not held is zero."""
        x = w[:, self.kept].T
        return torch.where(x > HELD, x, torch.zeros_like(x))


def law_with_choices(
    energy: Energy, region: Region, ctx: Context, best: Minimum, excess: float, least: float
) -> Law | PatternLaw | FaceLaw | LotLaw:
    """The law around `best` for an excess; names that cannot reach `least` are left out, none where it is 0. A Law with
    limits on heavy units where no rule lets a name be out; a FaceLaw under tickets, short positions, an open budget,
    other equations, or ranges apart; a LotLaw on whole lots.

    Raises:
        SpecError: rules for which no exact kernel is offered, by name, with what to do; or no name is free to move.
    """
    if region.grid is not None:
        return law_with_modes(energy, region, ctx, best, excess, least)
    convex, ticket = without_tickets(energy, ctx)
    hull = hull_of(region).folded()
    box, w, held = Box.of(hull), best.weights, None if ctx.held is None else as_numpy(ctx.held)
    choices = with_tickets(choices_of(region), region, held, ticket).clipped(box.lower, box.upper)
    bounds = None if choices.priced else _bounds(choices, box, best.weights)
    if bounds is None:
        return law_with_faces(energy, convex, hull, choices, ctx, best, excess, least)
    lower, upper, out = bounds
    whole, hull = hull, within_modes(hull, choices, upper)
    box, relaxed = Box.of(hull), minimize(convex, hull, ctx)
    room = best.value + excess - (relaxed.value if relaxed.bound is None else relaxed.bound)
    if not bool(out.any()):
        law = law_of(convex, hull, ctx, replace(best, duals=relaxed.duals), excess, least, room=room)
        base = w.clone()
        base[law.kept] = 0.0
        heavy = _limits(choices, law.kept, base)[3]
        short = law.polyhedron.n - len(law.kept)
        return replace(law, heavy=tuple(replace(h, unit=pad(h.unit, (0, short), value=len(h.over))) for h in heavy))
    kept = _kept(reach_of(relaxed, box, room), best, bounds, least, ctx)
    if not _simplex(box, lower, kept):
        return law_with_faces(energy, convex, whole, choices, ctx, best, excess, least)
    base = w.clone()
    base[kept] = 0.0
    polyhedron = polyhedron_of(hull, box, kept, w)
    target, other = target_of(convex, hull, ctx, best, kept)
    patterns, measure = _patterns(choices, polyhedron, bounds, kept, base)
    value = energy.bind(ctx)
    return PatternLaw(
        kept=kept, base=base, best=best, kernel=PatternGibbs(target, patterns),
        energy=inside_of(value, hull) if other or hull.curved else None, value=value, excess=excess,
        k=max(0.5 * (int((w[kept] > HELD).sum()) - 1), 0.5), measure=measure,
    )  # fmt: skip


Bounds = tuple[Tensor, Tensor, Tensor]
"""By name: the least and the largest weight of a held name, (n,), and whether it may be out, bool (n,)."""


def _bounds(c: Choices, box: Box, like: Tensor) -> Bounds | None:
    """None where a name has several ranges apart from each other."""
    lower, upper = (box_tensor(part, like).clone() for part in (box.lower, box.upper))
    out = torch.zeros_like(lower, dtype=torch.bool)
    for u in range(c.units):
        names, modes = c.name[c.unit == u], np.flatnonzero(c.exists[u])
        zero = (c.lower[u, modes] == 0.0) & (c.upper[u, modes] == 0.0)
        if len(names) > 1:
            continue
        i, inner = int(names[0]), modes[~zero]
        out[i] = bool(zero.any())
        if not len(inner):
            upper[i] = 0.0
            continue
        low = c.lower[u, inner]
        if low.max() > low.min() + TOUCH:
            return None
        lower[i], upper[i] = (
            max(float(low.min()), float(lower[i])),
            min(float(c.upper[u, inner].max()), float(upper[i])),
        )
    return lower, upper, out


def _kept(reach: Tensor, best: Minimum, bounds: Bounds, least: float, ctx: Context) -> Tensor:
    lower, upper, out = bounds
    moving = (upper - lower > TOUCH) | (out & (upper > TOUCH))
    if least > 0.0:
        moving &= (best.weights > TOUCH) | (reach >= lower.clamp_min(least)) | ~out
    kept = moving.nonzero().squeeze(-1)
    if len(kept) < 2:
        raise SpecError(f"Within the tolerance no name is free to move{ctx.at}; raise it, or take support='all'.")
    return kept


def _simplex(box: Box, lower: Tensor, kept: Tensor) -> bool:
    """Whether the budget is an equation, the only one, and nothing may be short."""
    rows = box_tensor(box.rows, lower)[:, kept]
    equal = torch.as_tensor(box.row_upper - box.row_lower <= 1e-14, device=lower.device) & (rows != 0.0).any(-1)
    whole = equal & (rows == rows[:, :1]).all(-1)
    return bool(whole.any() and not (equal & ~whole).any() and (lower[kept] >= 0.0).all())


def _patterns(c: Choices, polyhedron: Polyhedron, bounds: Bounds, kept: Tensor, base: Tensor) -> tuple[PatternSet, str]:
    lower, upper, out = (part[kept] for part in bounds)
    total, rows = _budget(polyhedron)
    counts, least, most, heavy = _limits(c, kept, base)
    forced = (~out).nonzero().flatten().tolist()
    counts += [(torch.eye(len(kept), dtype=base.dtype, device=base.device)[i], 1.0, math.inf) for i in forced]
    floor = float(lower.min())
    slots = int(min(most, len(kept), total / floor + 1e-9 if floor > HELD else math.inf))
    least = max(int(least), 1)
    sizes = simplex_sizes(slots, floor, total).to(base) if least < slots else base.new_zeros(slots + 1)
    while slots > least and not math.isfinite(float(sizes[slots])):
        slots -= 1
    if total - least * floor <= TOUCH and least > 1:
        raise SpecError("The least weights use up the budget, so that each choice of names is a single portfolio.")
    empty = base.new_zeros(0, len(kept))
    found = PatternSet(
        lower=lower.clamp_min(HELD), upper=upper,
        rows=polyhedron.rows[rows], row_lower=polyhedron.row_lower[rows], row_upper=polyhedron.row_upper[rows],
        counts=torch.stack([one[0] for one in counts]) if counts else empty,
        count_lower=base.new_tensor([one[1] for one in counts]),
        count_upper=base.new_tensor([one[2] for one in counts]),
        slots=slots, least=least, log_size=sizes[: slots + 1], balls=polyhedron.balls, heavy=tuple(heavy),
    )  # fmt: skip
    if least == slots:
        return found, f"Lebesgue measure on the slices of exactly {slots} names, each choice counting the same"
    return found, f"the measure that counts each choice of {least} to {slots} names once, uniform on its simplex"


def _budget(p: Polyhedron) -> tuple[float, Tensor]:
    """The sum that the budget fixes, and the rows that are not it."""
    whole = p.equal & (p.rows == p.rows[:, :1]).all(-1)
    at = int(whole.nonzero()[0])
    return float(p.row_upper[at] / p.rows[at, 0]), (~whole).nonzero().flatten()


def _limits(
    c: Choices, kept: Tensor, base: Tensor
) -> tuple[list[tuple[Tensor, float, float]], float, float, list[Heavy]]:
    """The limits on numbers of names as (row (k,), least, most); least and most of all; and those on heavy units."""
    counts, least, most, heavy = [], 0.0, math.inf, []
    place = {int(name): i for i, name in enumerate(kept.tolist())}
    for limit in c.limits:
        if limit.mass:
            heavy.append(heavy_of(c, limit, kept, base))
            continue
        row, fixed = base.new_zeros(len(kept)), 0
        for u in limit.units.tolist():
            members = c.name[c.unit == u]
            inner = [m for m in np.flatnonzero(c.exists[u]) if c.upper[u, m] > 0.0]
            counted = [m for m in inner if m in limit.modes]
            if not counted:
                continue
            if len(members) > 1 or len(counted) < len(inner):
                raise SpecError(
                    f"{limit.name} counts issuers, or names above a size; the distribution is offered where it is "
                    "names held that are counted, and where heavy issuers are limited by their weight together."
                )
            i = place.get(int(members[0]))
            if i is not None:
                row[i] = 1.0
            elif float(base[int(members[0])]) > HELD:
                fixed += 1
        if bool((row == 1.0).all()):
            least, most = max(least, limit.least - fixed), min(most, limit.most - fixed)
        elif bool(row.any()):
            counts.append((row, limit.least - fixed, limit.most - fixed))
    return counts, least, most, heavy
