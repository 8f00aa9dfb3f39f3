"""Diving: depth first to a portfolio that obeys every choice, where rounding ends on slices that are empty.

The unit that misses by most takes its likeliest mode, and the relaxation is solved again; where that is empty the last
unit decided takes the others. So each node is nearer to a slice than the one above it, while the tree of the proof
(branch_and_bound.py), which opens its lowest node first, may stay above all slices for thousands of nodes.

Source: Berthold, T. (2006), Primal Heuristics for Mixed Integer Programs, TU Berlin, for diving.
"""

from __future__ import annotations

from portfolio_ebm.constraints.mixed.branch_and_bound import children
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs.slice import Mask, Point
from portfolio_ebm.constraints.mixed.reading import assign


def dive(mixed: Mixed, root: Mask, above: Point, most_nodes: int) -> Point | None:
    """A portfolio on a slice, the first that is come to, exact there; None where none was in so many relaxations.

    `root` (U, M) are the modes open, `above` the minimum of the relaxation over them.
    """
    stack: list[tuple[Mask, Point | None]] = [(root, above)]
    nodes = 0
    while stack and nodes < most_nodes:
        allowed, start = stack.pop()
        nodes += 1
        point = relax(mixed, allowed, start)
        if point is None:
            continue
        modes, missing = assign(mixed.choices, allowed, point.weights)
        if not missing.any():
            there = on_slice(mixed, modes, point)
            if there is not None:
                return there
        if not (allowed.sum(axis=1) > 1).any():
            continue
        # The likeliest child on top.
        stack += [(child, point) for child in reversed(children(mixed, allowed, point, modes, missing))]
    return None
