"""The nearest point of a region with choices, row by row: min 1/2 |w - y|^2 over the modes, by branch and bound.

The modes nearest to y give a point at a distance R; no better one is further from y in any name, so the box is cut to
y - R and y + R first, which makes every envelope finite.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.branch_and_bound import branch_and_bound
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.concentration import alone, nearest_alone
from portfolio_ebm.constraints.mixed.diving import dive
from portfolio_ebm.constraints.mixed.node import Mixed, hull, on_slice, relax
from portfolio_ebm.constraints.mixed.of_region import choices_of, convex_part, hull_of
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask
from portfolio_ebm.constraints.mixed.reading import assign_all
from portfolio_ebm.constraints.mixed.rounding import rounded, rounded_all
from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.types import as_numpy

NODES = 400
"""Relaxations that one row may take."""
SEARCHED = 8
"""Rows of a sample that a search may be made for."""
CLOSE = 1e-12
"""Squared distances are told apart to this share of R^2."""
EMPTY = 1.0
"""The violation that is reported where there is no point."""


def nearest_by_modes(y: Tensor, region: Region, *, prove: bool = True) -> tuple[Tensor, Tensor, bool]:
    """The nearest points known for y (..., n), the violation left (...), and whether all are proven nearest.

    Without `prove`, the nearest points of the modes that y rounds to, in one batch; where those have none, of the
    modes that its relaxation rounds to; a search for any point starts only where there is none either.
    """
    flat = as_numpy(y.reshape(-1, region.n))
    found, left, proven = flat.copy(), np.zeros(len(flat)), prove
    done = np.zeros(len(flat), dtype=bool)
    choices = choices_of(region)
    if alone(region, choices):
        found, certain = nearest_alone(flat, choices, NODES)
        done[:], proven = True, bool(certain.all())
    elif not prove:
        found, done = _on_rounded(flat, region)
    for k in np.flatnonzero(~done):
        point, sure = _nearest(flat[k], region, NODES if prove else 0)
        proven &= sure
        if point is None:
            left[k] = EMPTY
        else:
            found[k] = point
    shape = y.shape[:-1]
    return (
        torch.as_tensor(found).to(y.device).reshape(y.shape),
        torch.as_tensor(left).to(y.device).reshape(shape),
        proven,
    )


def near_by_modes(y: Tensor, region: Region, known: Tensor) -> Tensor:
    """Feasible points (k, n) near y (k, n), for a sample; `known` (m, n) are points of the region, m = 0 where none is.

    Some `SEARCHED` rows, evenly spread, are searched for; each of the others takes the nearest point on the slice that
    one of the points found is on, of the one which is nearest to it.

    Raises:
        InfeasibleError: no point was found.
    """
    flat = as_numpy(y)
    if not len(flat):
        return y
    found, done = flat.copy(), np.zeros(len(flat), dtype=bool)
    for k in np.unique(np.linspace(0, len(flat) - 1, min(SEARCHED, len(flat))).astype(int)).tolist():
        point, _ = _nearest(flat[k], region, 0, thorough=False)
        if point is None:
            break  # the next one would search as long
        found[k], done[k] = point, True
    slices = np.vstack([as_numpy(known), found[done]])
    if not len(slices):
        raise InfeasibleError("No portfolio was found near any of the points.", region.names)
    choices = choices_of(region)
    modes, _ = assign_all(choices, choices.exists, slices)
    wide = _mixed(flat[0], region, np.full(region.n, np.inf))
    for k in np.flatnonzero(~done).tolist():
        place = int(np.sum((slices - flat[k]) ** 2, axis=1).argmin())
        there = on_slice(replace(wide, program=replace(wide.program, linear=-flat[k])), modes[place])
        found[k] = slices[place] if there is None else there.weights
    return torch.as_tensor(found).to(y)


def _on_rounded(y: Array, region: Region) -> tuple[Array, Mask]:
    """The nearest points to y (k, n) on the modes that they round to, and where there is one, (k,).

    Units of several names are left out: their sums would be rows, other ones for every y.
    """
    c, convex = choices_of(region), hull_of(region)
    lower, upper = (np.repeat(end.cpu().numpy()[None], len(y), axis=0) for end in (convex.lower, convex.upper))
    c = c.clipped(lower[0], upper[0])
    root = Mixed(_program(y[0], region, np.full(y.shape[1], np.inf)), c).root() if len(y) else None
    if root is None or (c.size > 1).any():
        return y.copy(), np.zeros(len(y), dtype=bool)
    ends = hull(c, root)
    modes = rounded_all(c, root, np.clip(c.weights_of(y), *ends))
    lower[:, c.name] = np.maximum(lower[:, c.name], c.lower[c.unit, modes[:, c.unit]])
    upper[:, c.name] = np.minimum(upper[:, c.name], c.upper[c.unit, modes[:, c.unit]])
    fits = (lower <= upper).all(axis=1)
    points, left = nearest_in(
        torch.as_tensor(y),
        convex.to(torch.zeros(0).double()),
        torch.as_tensor(lower),
        torch.as_tensor(np.maximum(lower, upper)),
        prove=False,
    )
    w = points.numpy()
    return w, fits & (left.numpy() <= TOLERANCE) & _within(c, modes, w)


def _within(c: Choices, modes: Ints, w: Array) -> Mask:
    """Where the limits hold for modes (k, U) of units of one name each and weights (k, n), (k,)."""
    fine, x = np.ones(len(w), dtype=bool), np.zeros(modes.shape)
    x[:, c.unit] = w[:, c.name]
    for limit in c.limits:
        here = np.isin(modes[:, limit.units], limit.modes)
        used = (x[:, limit.units] * here).sum(axis=1) if limit.mass else here.sum(axis=1)
        fine &= (used <= limit.most + TOLERANCE) & (limit.mass | (used >= limit.least))
    return fine


def _nearest(y: Array, region: Region, nodes: int, *, thorough: bool = True) -> tuple[Array | None, bool]:
    """The nearest point to y (n,) that is known, None where there is none, and whether that is proven; where a dive
    finds none a tree goes on if the search is `thorough`."""
    wide = _mixed(y, region, np.full(len(y), np.inf))
    root = wide.root()
    near = None if root is None else relax(wide, root, y)
    if root is None or near is None:
        return None, True
    guesses = [on_slice(wide, rounded(wide.choices, root, wide.choices.weights(x))) for x in (y, near.weights)]
    points = [point.weights for point in guesses if point is not None]
    if not points:
        first = dive(wide, root, near, NODES)
        points = [] if first is None else [first.weights]
    best = min(points, key=lambda w: float(np.sum((w - y) ** 2)), default=None)
    reach = np.inf if best is None else float(np.sqrt(np.sum((best - y) ** 2)))
    mixed = _mixed(y, region, np.full(len(y), reach))
    value = np.inf if best is None else mixed.program.value(best)
    gap = CLOSE * max(reach**2 if np.isfinite(reach) else 1.0, 1e-12)
    proof = branch_and_bound(mixed, incumbent=best, value=value, tolerance=gap, most_nodes=nodes)
    if proof.weights is None and not proof.finished and thorough:
        proof = branch_and_bound(mixed, tolerance=gap, most_nodes=50 * NODES)
    return proof.weights, proof.finished


def _mixed(y: Array, region: Region, reach: Array) -> Mixed:
    program = _program(y, region, reach)
    return Mixed(program, choices_of(region).clipped(program.lower, program.upper), convex_part(region).caps)


def _program(y: Array, region: Region, reach: Array) -> Program:
    part = convex_part(region)
    lower, upper = np.maximum(part.lower, y - reach - 1e-9), np.minimum(part.upper, y + reach + 1e-9)
    held = None if part.turnover is None else part.anchor
    return Program(
        np.eye(len(y)), -y, lower, upper, part.rows, part.row_lower, part.row_upper, held, 0.0,
        np.inf if part.turnover is None else part.turnover,
    )  # fmt: skip
