"""The nearest point of a region with choices, row by row: min 1/2 |w - y|^2 over the modes, by branch and bound.

The modes nearest to y give a point at a distance R; no better one is further from y in any name, so the box is cut to
y - R and y + R first, which makes every envelope finite.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.branch_and_bound import branch_and_bound
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.of_region import choices_of, convex_part
from portfolio_ebm.constraints.mixed.program import Array, Program
from portfolio_ebm.constraints.mixed.search import rounded
from portfolio_ebm.constraints.region import Region

NODES = 400
"""Relaxations that one row may take."""
CLOSE = 1e-12
"""Squared distances are told apart to this share of R^2."""
EMPTY = 1.0
"""The violation that is reported where there is no point."""


def nearest_by_modes(y: Tensor, region: Region, *, prove: bool = True) -> tuple[Tensor, Tensor, bool]:
    """The nearest points known for y (..., n), the violation left (...), and whether all are proven nearest.

    Without `prove`, the nearest points of the modes that y and its relaxation round to; a search for any point starts
    only where those have none.
    """
    flat = y.detach().reshape(-1, region.n).cpu().double().numpy()
    found, left, proven = flat.copy(), np.zeros(len(flat)), True
    for k, row in enumerate(flat):
        point, sure = _nearest(row, region, NODES if prove else 0)
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


def _nearest(y: Array, region: Region, nodes: int) -> tuple[Array | None, bool]:
    wide = _mixed(y, region, np.full(len(y), np.inf))
    root = wide.root()
    near = None if root is None else relax(wide, root, y)
    if root is None or near is None:
        return None, True
    guesses = [on_slice(wide, rounded(wide.choices, root, wide.choices.weights(x))) for x in (y, near.weights)]
    points = [point.weights for point in guesses if point is not None]
    best = min(points, key=lambda w: float(np.sum((w - y) ** 2)), default=None)
    reach = np.inf if best is None else float(np.sqrt(np.sum((best - y) ** 2)))
    mixed = _mixed(y, region, np.full(len(y), reach))
    value = np.inf if best is None else mixed.program.value(best)
    gap = CLOSE * max(reach**2 if np.isfinite(reach) else 1.0, 1e-12)
    proof = branch_and_bound(mixed, incumbent=best, value=value, tolerance=gap, most_nodes=nodes)
    if proof.weights is None and not proof.finished:
        proof = branch_and_bound(mixed, tolerance=gap, most_nodes=50 * NODES)
    return proof.weights, proof.finished


def _mixed(y: Array, region: Region, reach: Array) -> Mixed:
    part = convex_part(region)
    lower, upper = np.maximum(part.lower, y - reach - 1e-9), np.minimum(part.upper, y + reach + 1e-9)
    held = None if part.turnover is None else part.anchor
    program = Program(
        np.eye(len(y)), -y, lower, upper, part.rows, part.row_lower, part.row_upper, held, 0.0,
        np.inf if part.turnover is None else part.turnover,
    )  # fmt: skip
    return Mixed(program, choices_of(region).clipped(lower, upper), part.caps)
