"""The law exp(-E/T) on a convex set near its optimum, prepared for exact kernels.

Names that the tolerance cannot bring to `least` weight stand where the optimum has them ("near support"): by the
optimum's reduced cost r_i, a name at zero reaches excess / r_i at most. The law is on the others, with respect to
Lebesgue measure on what the budget and the other equations leave open of them.

T follows from the excess: near the optimum of a convex energy E - E* is Gamma(k, T), k = limits that bind + half of
the free dimensions, so T = excess / k gives the excess on average; a pilot run corrects it.

The quadratic part of E, with its kinks at the held weights, is sampled exactly by moves of weight between pairs of
names, or in any direction where equations forbid such moves; every other term enters by Metropolis over its quadratic
model at the optimum. Curved caps are where that energy is infinite.

Source for the Gamma law: Laplace's method, e.g. Wong, R. (2001), Asymptotic Approximations of Integrals, chapter IX.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball as BallCap
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.curvature import curvature_matrix
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.minimum import Minimum
from portfolio_ebm.construction.near.laws import NearLaw, with_cash
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.pair_gibbs import Target, spans
from portfolio_ebm.samplers.polyhedron import Ball, Polyhedron, with_slack
from portfolio_ebm.types import as_numpy

TOUCH = 1e-9
"""A weight this near to a bound is on it."""


@dataclass(frozen=True)
class Law(NearLaw):
    """exp(-E/T) on convex rules.

    Attributes:
        target: the quadratic with kinks that pair moves draw from exactly, on the coordinates of `polyhedron`: the
            kept names, and a slack where the budget is open.
        pairs: whether moves between two names reach all of the set.
        heavy: limits on what heavy issuers weigh together, which cut the convex set.
    """

    target: Target
    polyhedron: Polyhedron
    pairs: bool
    heavy: tuple[Heavy, ...] = ()

    def placed(self, w: Tensor) -> Tensor:
        """See NearLaw."""
        return with_cash(w[:, self.kept].T, self.polyhedron)


def law_of(
    energy: Energy, region: Region, ctx: Context, best: Minimum, excess: float, least: float, *,
    room: float | None = None,
) -> Law:  # fmt: skip
    """The law around `best` for an excess; names that cannot reach `least` are left out, none where it is 0. `room` is
    the energy above what the multipliers in `best` are of, where that is not the excess.

    Raises:
        SpecError: no name is free to move.
    """
    region = region.folded()
    box, w = Box.of(region), best.weights
    reach = reach_of(best, box, excess if room is None else room)
    moving = torch.as_tensor(box.upper - box.lower > TOUCH, device=w.device)
    kept = (moving & ((w > box_tensor(box.lower, w) + TOUCH) | (reach >= least))).nonzero().squeeze(-1)
    if len(kept) < 2:
        raise SpecError(f"Within the tolerance no name is free to move{ctx.at}; raise it, or take support='all'.")
    base = w.clone()
    polyhedron, added = with_slack(polyhedron_of(region, box, kept, base))
    target, other = target_of(energy, region, ctx, best, kept)
    if added:
        zero = w.new_zeros(1)
        target = Target(
            torch.nn.functional.pad(target.matrix, (0, 1, 0, 1)), torch.cat([target.linear, zero]),
            None if target.rate is None else torch.cat([target.rate, zero]),
            None if target.centre is None else torch.cat([target.centre, zero]),
        )  # fmt: skip
    value = energy.bind(ctx)
    return Law(
        kept=kept, base=base, best=best, target=target, polyhedron=polyhedron,
        energy=inside_of(value, region) if other or region.curved else None, value=value, excess=excess,
        k=_order(target, polyhedron, w[kept]), measure="Lebesgue measure on the rules", pairs=spans(polyhedron),
    )  # fmt: skip


def box_tensor(a: np.ndarray, like: Tensor) -> Tensor:
    """An array of a Box as a tensor."""
    return torch.as_tensor(a, dtype=like.dtype, device=like.device)


def reach_of(best: Minimum, box: Box, excess: float) -> Tensor:
    """By name, the weight to which the excess can bring it from its lower bound, to first order."""
    if best.duals is None:
        return torch.full_like(best.weights, torch.inf)
    cost = box_tensor(np.maximum(best.duals.lower, best.duals.upper), best.weights)
    return excess / cost.clamp_min(1e-300)


def polyhedron_of(region: Region, box: Box, kept: Tensor, base: Tensor) -> Polyhedron:
    out = torch.ones_like(base, dtype=torch.bool)
    out[kept] = False
    rows = box_tensor(box.rows, base)
    moved = rows[:, out] @ base[out]
    used = (rows[:, kept] != 0.0).any(-1)
    balls = []
    if box.turnover is not None:
        one, anchor = torch.ones_like(base), box_tensor(box.anchor, base)
        balls.append((anchor, one, one, box.turnover))
    balls += [(cap.centre, cap.up, cap.down, cap.limit) for cap in region.caps if isinstance(cap, BallCap)]
    return Polyhedron(
        lower=box_tensor(box.lower, base)[kept], upper=box_tensor(box.upper, base)[kept],
        rows=rows[used][:, kept], row_lower=(box_tensor(box.row_lower, base) - moved)[used],
        row_upper=(box_tensor(box.row_upper, base) - moved)[used],
        balls=tuple(
            Ball(c[kept], u[kept], d[kept], limit - float(Ball(c[out], u[out], d[out], 0.0).value(base[out, None])))
            for c, u, d, limit in balls
        ),
    )  # fmt: skip


def target_of(energy: Energy, region: Region, ctx: Context, best: Minimum, kept: Tensor) -> tuple[Target, bool]:
    """The quadratic with kinks on the kept names, and whether there is more to the energy."""
    formula, w = take_apart(energy, ctx), best.weights
    other = bool(formula.tails or formula.smooth or formula.other)
    rate = centre = None
    if formula.cost > 0.0 and formula.held is not None:
        centre = box_tensor(formula.held, w)[kept]
        rate = torch.full_like(centre, formula.cost)
    if other:
        value = energy.bind(ctx)
        stride = 0.5 * float(w.abs()[w.abs() > TOUCH].mean())
        matrix = curvature_matrix(value, w, region.lower, stride)
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
        matrix = (vectors * values.clamp_min(0.0)) @ vectors.T
        slope = box_tensor(formula.gradient(as_numpy(w)), w)
        if rate is not None and centre is not None:
            slope[kept] = slope[kept] - rate * (w[kept] - centre).sign()
        linear = slope - matrix @ w
    else:
        matrix = w.new_zeros(region.n, region.n)
        matrix = matrix if formula.matrix is None else box_tensor(formula.matrix, w)
        linear = box_tensor(formula.linear, w)
    fixed = w.clone()
    fixed[kept] = 0.0
    inner = matrix[kept][:, kept]
    return Target(0.5 * (inner + inner.T), (linear + matrix @ fixed)[kept], rate, centre), other


def inside_of(value: Bound, region: Region) -> Bound:
    """E, infinite beyond the curved caps."""
    caps = region.curved

    def energy(w: Tensor) -> Tensor:
        found = value(w)
        for cap in caps:
            found = torch.where(cap.excess(w) > 0.0, torch.inf, found)
        return found

    return energy


def _order(target: Target, p: Polyhedron, w: Tensor) -> float:
    """k: limits that bind at w, and half of the dimensions that are left."""
    n = len(w)
    bound = (w <= p.lower[:n] + TOUCH) | (w >= p.upper[:n] - TOUCH)
    kinked = torch.zeros_like(bound)
    if target.rate is not None and target.centre is not None:
        kinked = (target.rate[:n] > 0.0) & ((w - target.centre[:n]).abs() <= TOUCH) & ~bound
    equal = int(torch.linalg.matrix_rank(p.rows[p.equal])) if bool(p.equal.any()) else 0
    at = p.rows[:, :n] @ w
    rows = ((at >= p.row_upper - TOUCH) | (at <= p.row_lower + TOUCH)) & ~p.equal
    binding = int(bound.sum()) + int(kinked.sum()) + int(rows.sum())
    return max(binding + 0.5 * max(p.n - equal - binding, 0), 0.5)
