"""Branch and bound over modes: the proof that no choice is better, or how much better one could be at most.

Best first: the node with the lowest bound is opened, the unit that misses by most is decided, one child a mode (a mode
and the rest, where there are more than two). A node whose bound is not below the incumbent is closed. The least bound
of the open nodes is a valid lower bound whenever the search is stopped: by its count of nodes, by a clock, or by hand.

Source: Land and Doig (1960), Econometrica 28; Bienstock (1996), Computational study of a family of mixed-integer
quadratic programming problems, Mathematical Programming 74, for branching on names held.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.node import Mixed, assign, inherits, propagate, relax
from portfolio_ebm.constraints.mixed.program import Array, Mask, Point


@dataclass(frozen=True)
class Proof:
    """What the search over the tree found.

    Attributes:
        weights: the best portfolio known, (n,), or None where none was found.
        value: its energy, +inf without one.
        bound: no portfolio is below this.
        nodes: how many relaxations were solved; a part that the minimum of the whole obeys needs none.
        finished: whether the tree was closed: `bound` is then within `tolerance` and the inner solver's gap of `value`.
        interrupted: whether it was ended by hand.
    """

    weights: Array | None
    value: float
    bound: float
    nodes: int
    finished: bool
    interrupted: bool = False


def branch_and_bound(
    mixed: Mixed, *, incumbent: Array | None = None, value: float = np.inf, tolerance: float = 1e-9,
    most_nodes: int = 1_000_000, stop: Callable[[], bool] | None = None,
) -> Proof:  # fmt: skip
    """Prove `incumbent` (n,) of energy `value` optimal to `tolerance` (absolute), or find a better one.

    Args:
        most_nodes: relaxations to solve at most.
        stop: asked before each node is opened; True ends the search. With it a KeyboardInterrupt ends the search as
            well, and is not raised.
    """
    root = mixed.root()
    if most_nodes == 0:
        return Proof(incumbent, value, -np.inf, 0, False)
    if root is None:
        return Proof(incumbent, value, np.inf if incumbent is None else value, 0, True)
    count, tie, settled = 0, itertools.count(), np.inf
    heap: list[tuple[float, int, Mask, Point]] = []
    best, found = value, incumbent

    def open_node(allowed: Mask, parent: Point | None, above: float) -> None:
        nonlocal best, found, count, settled
        point = parent
        if parent is None or not inherits(mixed, allowed, parent.weights):
            count += 1
            point = relax(mixed, allowed, *((incumbent,) if parent is None else (parent.weights, parent.cuts)))
        if point is None:
            return
        if max(point.bound, above) >= best - tolerance:
            # Closed, and what it might yet save within the tolerance is part of the bound.
            settled = min(settled, max(point.bound, above))
            return
        modes, missing = assign(mixed.choices, allowed, point.weights)
        if missing.any():
            heapq.heappush(heap, (max(point.bound, above), next(tie), allowed, point))
            return
        extra = mixed.choices.cost[np.arange(len(modes)), modes].sum()
        real = mixed.program.value(point.weights) + float(extra)
        if real < best:
            found, best = point.weights, real
        # Costs that the relaxation has only enveloped are decided further down; else the node is solved, and what is
        # left between its value and its bound is the inner solver's own gap.
        if mixed.choices.priced and (allowed.sum(axis=1) > 1).any() and real > point.bound + tolerance:
            heapq.heappush(heap, (max(point.bound, above), next(tie), allowed, point))
        else:
            settled = min(settled, max(point.bound, above))

    level = -np.inf
    try:
        open_node(root, None, level)
        while heap:
            # Noted before the node leaves the heap: an interrupt may find it opened by half.
            level = heap[0][0]
            if level >= best - tolerance:
                return Proof(found, best, min(level, settled, best), count, True)
            if count >= most_nodes or (stop is not None and stop()):
                return Proof(found, best, min(level, settled), count, False)
            _, _, allowed, point = heapq.heappop(heap)
            for child in _children(mixed, allowed, point):
                open_node(child, point, level)
    except KeyboardInterrupt:
        if stop is None:
            raise
        return Proof(found, best, min(level, settled), count, False, interrupted=True)
    return Proof(found, best, min(settled, best), count, True)


def _children(mixed: Mixed, allowed: Mask, point: Point) -> list[Mask]:
    """The node with one unit decided: in its likeliest mode, and in any of the others."""
    modes, missing = assign(mixed.choices, allowed, point.weights)
    open_ = allowed.sum(axis=1) > 1
    curve = np.zeros(mixed.choices.units)
    np.maximum.at(curve, mixed.choices.unit, mixed.program.diagonal[mixed.choices.name])
    score = np.where(open_, missing**2 * (curve + 1e-12), -1.0)
    unit = int(score.argmax())
    if score[unit] <= 0.0:
        # Costs alone are missing: decide a unit whose modes cost differently.
        spread = np.where(allowed, mixed.choices.cost, np.nan)
        unit = int(np.nan_to_num(np.nanmax(spread, axis=1) - np.nanmin(spread, axis=1)).argmax())
    found = []
    for choose in (True, False):
        child = allowed.copy()
        only = np.zeros(allowed.shape[1], dtype=bool)
        only[modes[unit]] = True
        child[unit] &= only if choose else ~only
        tight = propagate(mixed.choices, child)
        if tight is not None:
            found.append(tight)
    return found
