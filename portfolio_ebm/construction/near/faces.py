"""The law exp(-E/T) where every name has modes to choose from, prepared for face-Gibbs.

What patterns.py does not know is here: tickets (a name is left as it is or traded), short positions, an open
budget and equations beside the budget, each with or without a choice of names.

The measure. Under a ticket Lebesgue measure alone would be of no use: almost every portfolio of it trades every name,
and the ticket is a constant. So each face counts: which names rest where (out, or as they are held), and on it the
others have a range. Every face has mass one on its reference set, { w >= least weight, the budget } or, where names may
be short, { least <= w <= largest weight of any name, the budget }, on which it is uniform before E has its say; the
portfolio that trades nothing is one point of mass one. Further rules only cut, and an equation beside the budget cuts
as a thin range would. With exactly K names held and no ticket all faces have one dimension, and Lebesgue measure is
taken as it is.

Source: patterns.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.construction.near.choices import heavy_of, within_modes
from portfolio_ebm.construction.near.laws import ChoiceLaw, with_cash
from portfolio_ebm.construction.near.lines import require_lines
from portfolio_ebm.construction.near.optimal import (
    TOUCH,
    box_tensor,
    inside_of,
    polyhedron_of,
    reach_of,
    target_of,
)
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.face_gibbs import FaceGibbs
from portfolio_ebm.samplers.face_set import FaceSet, FaceTarget
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.pattern_set import HELD
from portfolio_ebm.samplers.polyhedron import Polyhedron, with_slack
from portfolio_ebm.samplers.references import Reference


@dataclass(frozen=True)
class FaceLaw(ChoiceLaw):
    """exp(-E/T) over modes; the kernel's target is on the kept names, and cash where the budget is open."""

    kernel: FaceGibbs
    title = "face-Gibbs"

    @property
    def pace(self) -> int:
        """Half of the moves of a segment; where it is too few the thinning doubles."""
        return max(len(self.kept) // 3, 2)

    @property
    def budget(self) -> int:
        """The most moves of a chain, where none are given."""
        return 6000 * len(self.kept)

    def modes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mode of every name in x (k, chains), and whether it is a range."""
        mode = self.kernel.faces.modes(x)
        return mode, self.kernel.faces.ranged.gather(1, mode)

    def placed(self, w: Tensor) -> Tensor:
        """See NearLaw; what is at a point to rounding is there."""
        faces, x = self.kernel.faces, w[:, self.kept].T
        points = torch.where(faces.exists & ~faces.ranged, faces.lower, torch.inf)[: len(x)]
        gap = (points.unsqueeze(-1) - x.unsqueeze(1)).abs().min(1)
        x = torch.where(gap.values <= TOUCH, points.gather(1, gap.indices), x)
        return with_cash(x, faces.polyhedron)


class Mode(NamedTuple):
    """One mode of a name: its ends, its price and slope, and the modes of the choices it stands for."""

    lower: float
    upper: float
    price: float
    slope: float
    of: int


def law_with_faces(
    energy: Energy, convex: Energy, hull: Region, choices: Choices, ctx: Context, best: Minimum, excess: float,
    least: float,
) -> FaceLaw:  # fmt: skip
    """The law around `best` for an excess: `convex` is `energy` without its tickets, which are in the prices of
    `choices`; `hull` the convex part of the rules.

    Raises:
        SpecError: rules for which no measure or no kernel is offered, with what to do.
    """
    box, w = Box.of(hull), best.weights
    upper = box_tensor(box.upper, w).clone()
    for u in np.flatnonzero(choices.size == 1).tolist():
        i = int(choices.name[choices.unit == u][0])
        upper[i] = min(float(upper[i]), float(choices.upper[u, choices.exists[u]].max(initial=-math.inf)))
    hull = within_modes(hull, choices, upper)
    box = Box.of(hull)
    kept = _kept(convex, hull, box, choices, ctx, best, excess, least)
    base = w.clone()
    base[kept] = 0.0
    target, other = target_of(convex, hull, ctx, best, kept)
    polyhedron, added = with_slack(polyhedron_of(hull, box, kept, w))
    faces, price, slope, measure = _faces(choices, box, (kept, base), target, polyhedron, added)
    cash = int(added)
    quadratic = Target(pad(target.matrix, (0, cash, 0, cash)), pad(target.linear, (0, cash)))
    value = energy.bind(ctx)
    return FaceLaw(
        kept=kept, base=base, best=best, kernel=FaceGibbs(FaceTarget(quadratic, price, slope, faces)),
        energy=inside_of(value, hull) if other or hull.curved else None, value=value, excess=excess,
        k=max(0.5 * (int((w[kept].abs() > HELD).sum()) - 1), 0.5), measure=measure,
    )  # fmt: skip


def _kept(
    convex: Energy, hull: Region, box: Box, c: Choices, ctx: Context, best: Minimum, excess: float, least: float
) -> Tensor:
    """The names that the law is on: all that have a choice, or with near support those that the best portfolio holds,
    that are held or may be short, and that the relaxation does not prove to be out of reach."""
    relaxed = minimize(convex, hull, ctx)
    room = best.value + excess - (relaxed.value if relaxed.bound is None else relaxed.bound)
    reach, w = reach_of(relaxed, box, room), best.weights
    lower, upper = box_tensor(box.lower, w), box_tensor(box.upper, w)
    moving, floor = upper - lower > TOUCH, torch.zeros_like(w)
    for name, u in zip(c.name.tolist(), c.unit.tolist(), strict=True):
        if c.size[u] == 1:
            modes = c.exists[u]
            ends = c.lower[u, modes], c.upper[u, modes]
            moving[name] = bool(ends[1].max(initial=-math.inf) - ends[0].min(initial=math.inf) > TOUCH)
            ranges = ends[1] - ends[0] > TOUCH
            floor[name] = max(float(ends[0][ranges].min(initial=math.inf)), 0.0)
    if least > 0.0:
        held = torch.zeros_like(w) if ctx.held is None or not c.priced else ctx.held.to(w)
        moving &= (w.abs() > TOUCH) | (held != 0.0) | (lower < 0.0) | (reach >= floor.clamp_min(least))
    kept = moving.nonzero().squeeze(-1)
    if len(kept) < 2:
        raise SpecError(f"Within the tolerance no name is free to move{ctx.at}; raise it, or take support='all'.")
    return kept


def _faces(
    c: Choices, box: Box, names: tuple[Tensor, Tensor], target: Target, p: Polyhedron, added: bool
) -> tuple[FaceSet, Tensor, Tensor, str]:
    """The set, price and slope by mode, and the measure in words."""
    kept, base = names
    modes = [_modes(c, box, name, target, i) for i, name in enumerate(kept.tolist())]
    lower, upper, price, slope = _arrays(modes, p, added)
    counts = _counts(c, kept, base, modes, added)
    reference, measure = _reference(modes, counts, p, added, c.priced)
    heavy = [heavy_of(c, limit, kept, base) for limit in c.limits if limit.mass]
    found = FaceSet(
        lower=lower, upper=upper, counts=counts[0], count_lower=counts[1], count_upper=counts[2], polyhedron=p,
        named=torch.arange(len(lower), device=lower.device) < len(kept), reference=reference,
        heavy=tuple(replace(h, unit=pad(h.unit, (0, int(added)), value=len(h.over))) for h in heavy),
    )  # fmt: skip
    require_lines(found)
    return found, price, slope, measure


def _modes(c: Choices, box: Box, name: int, target: Target, at: int) -> list[Mode]:
    """The modes of a name: points, and ranges apart from these and from the kink of its cost."""
    found = _of_choices(c, name) or [Mode(float(box.lower[name]), float(box.upper[name]), 0.0, 0.0, -1)]
    points = {mode.lower: mode for mode in found if mode.upper - mode.lower <= TOUCH}
    ranges = [mode for mode in found if mode.upper - mode.lower > TOUCH]
    rate = 0.0 if target.rate is None else float(target.rate[at])
    centre = 0.0 if target.centre is None else float(target.centre[at])
    cuts = [(point, HELD) for point in points] + ([(centre, 0.0)] if rate > 0.0 and centre not in points else [])
    pieces = []
    for mode in ranges:
        low = mode.lower
        for cut, hole in sorted(cuts):
            if low - hole < cut < mode.upper + hole:
                pieces.append(mode._replace(lower=low, upper=cut - hole))
                low = cut + hole
        pieces.append(mode._replace(lower=low))
    pieces = [piece for piece in pieces if piece.upper - piece.lower > HELD]
    return [_priced(mode, rate, centre) for mode in (*points.values(), *pieces)]


def _of_choices(c: Choices, name: int) -> list[Mode]:
    """The modes that the choices leave a name: one for each point, and ranges that differ in price or in what they
    count for; those that do not are joined."""
    found: list[Mode] = []
    for u in c.unit[c.name == name].tolist():
        if c.size[u] > 1:
            continue
        for m in np.flatnonzero(c.exists[u]).tolist():
            mode = Mode(float(c.lower[u, m]), float(c.upper[u, m]), float(c.cost[u, m]), 0.0, m)
            same = [k for k, one in enumerate(found) if _alike(c, u, one, mode)]
            if same:
                one = found[same[0]]
                found[same[0]] = one._replace(lower=min(one.lower, mode.lower), upper=max(one.upper, mode.upper))
            else:
                found.append(mode)
    ranges = sorted(mode[:2] for mode in found if mode.upper - mode.lower > TOUCH)
    if any(one[1] > other[0] + TOUCH for one, other in pairwise(ranges)):
        raise SpecError(
            "The rules leave a name two ranges that overlap and differ in price or in what they count for, so that its "
            "weight does not say which it is in; the distribution is offered where ranges are apart."
        )
    return found


def _alike(c: Choices, unit: int, one: Mode, other: Mode) -> bool:
    """Whether two modes of a unit are one: the same price, the same counts, and no gap between them."""
    if one.price != other.price or min(one.upper, other.upper) < max(one.lower, other.lower) - TOUCH:
        return False
    limits = [limit for limit in c.limits if not limit.mass and unit in limit.units]
    return all((one.of in limit.modes) == (other.of in limit.modes) for limit in limits)


def _priced(mode: Mode, rate: float, centre: float) -> Mode:
    """The mode with the cost of trading in it."""
    sign = 1.0 if mode.lower >= centre else -1.0
    if mode.lower == mode.upper:
        return mode._replace(price=mode.price + rate * abs(mode.lower - centre))
    return mode._replace(price=mode.price - sign * rate * centre, slope=sign * rate)


def _arrays(modes: list[list[Mode]], p: Polyhedron, added: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ends, price and slope by coordinate and mode, (d, M) each; cash has one range."""
    if added:
        low, high = float(p.lower[-1]), float(p.upper[-1])
        total = float(p.row_upper[-1] / p.rows[-1, -1])
        low = max(low, total - sum(max(mode.upper for mode in own) for own in modes))
        high = min(high, total - sum(min(mode.lower for mode in own) for own in modes))
        modes = [*modes, [Mode(low, high, 0.0, 0.0, -1)]]
    else:
        total = float((p.row_upper / p.rows[:, 0])[_whole(p)][0])
    least = sum(min(mode.lower for mode in own) for own in modes)
    rows = []
    for own in modes:
        # No name is above what the least weights of the others leave of the budget.
        room = total - (least - min(mode.lower for mode in own))
        own = [mode._replace(upper=min(mode.upper, room)) if mode.upper > mode.lower else mode for mode in own]
        rows.append([mode for mode in own if mode.upper >= mode.lower])
    if any(math.isinf(end) for own in rows for mode in own for end in mode[:2]):
        raise SpecError(
            "A weight has no limit, so that the law has no total mass; give Box(lower=, upper=) or Budget()."
        )
    most = max(len(own) for own in rows)
    none = Mode(math.inf, -math.inf, 0.0, 0.0, -1)
    table = p.lower.new_tensor([[mode[:4] for mode in (*own, *[none] * (most - len(own)))] for own in rows])
    return table[..., 0], table[..., 1], table[..., 2], table[..., 3]


def _whole(p: Polyhedron) -> Tensor:
    """Which rows fix the sum, bool (m,)."""
    return p.equal & (p.rows == p.rows[:, :1]).all(-1) & (p.rows[:, 0] != 0.0)


def _counts(
    c: Choices, kept: Tensor, base: Tensor, modes: list[list[Mode]], added: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The limits on numbers: B (L, d, M) and its ends."""
    place = {int(name): i for i, name in enumerate(kept.tolist())}
    many, found, ends = max(len(own) for own in modes), [], []
    for limit in c.limits:
        if limit.mass:
            continue
        row, fixed = base.new_zeros(len(kept) + int(added), many), 0
        for u in limit.units.tolist():
            members = c.name[c.unit == u].tolist()
            if len(members) > 1:
                raise SpecError(
                    f"{limit.name} counts issuers; the distribution is offered where it is names that are counted, and "
                    "where heavy issuers are limited by their weight together."
                )
            i = place.get(members[0])
            if i is None:
                fixed += int(abs(float(base[members[0]])) > HELD)
                continue
            for k, mode in enumerate(modes[i]):
                row[i, k] = float(mode.of in limit.modes)
        if bool((row != row[:, :1]).any()) or bool(row.any()):
            found.append(row)
            ends.append((limit.least - fixed, limit.most - fixed))
    if not found:
        none = base.new_zeros(0)
        return base.new_zeros(0, len(kept) + int(added), many), none, none
    low, high = base.new_tensor(ends).unbind(-1)
    return torch.stack(found), low, high


def _reference(
    modes: list[list[Mode]], counts: tuple[Tensor, Tensor, Tensor], p: Polyhedron, added: bool, priced: bool
) -> tuple[Reference, str]:
    """What faces weigh, and the measure in words."""
    ranges = [mode for own in modes for mode in own if mode.upper > mode.lower]
    floor, top = min(mode.lower for mode in ranges), max(mode.upper for mode in ranges)
    floor = 0.0 if 0.0 < floor <= 2.0 * HELD else floor
    short = floor < 0.0
    if added:
        total = float(p.row_upper[-1] / p.rows[-1, -1])
        low, high = total - float(p.upper[-1]), total - float(p.lower[-1])
    else:
        low = high = float((p.row_upper / p.rows[:, 0])[_whole(p)][0])
    if short and math.isinf(top):
        raise SpecError("Names may be short and no weight has an upper limit; give Box(lower=, upper=).")
    most = len(modes)
    ranged = counts[0].new_zeros(counts[0].shape[1:])
    for i, own in enumerate(modes):
        ranged[i, : len(own)] = ranged.new_tensor([float(mode.upper > mode.lower) for mode in own])
    for row, least, upper in zip(*counts, strict=True):
        most = min(most, int(upper)) if bool((row >= ranged).all()) and math.isfinite(upper) else most
        if torch.equal(row, ranged) and least == upper:
            return Reference(floor, math.inf, low, high, most, flat=True), (
                f"Lebesgue measure on the slices of exactly {int(upper)} names, each choice counting the same"
            )
    what = "set of names traded" if priced else "choice of names"
    shape = f"weights between {floor:g} and {top:g}" if short else "simplex"
    return Reference(floor, top if short else math.inf, low, high, most), (
        f"the measure that counts each {what} once, uniform on its {shape}"
    )
