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
from dataclasses import dataclass, replace

import numpy as np

from portfolio_ebm.constraints.mixed.node import Mixed, hull, met, on_slice, propagate, relax
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask, Point
from portfolio_ebm.constraints.mixed.reading import assign


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
        proven: whether it was closed and that gap is within `tolerance` too.
    """

    weights: Array | None
    value: float
    bound: float
    nodes: int
    finished: bool
    interrupted: bool = False
    proven: bool = False


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
    return Tree(mixed, tolerance).grow(most_nodes, incumbent, value, stop)


class Tree:
    """The open nodes of a search, which may be stopped and, unless it was by hand, taken up again.

    Example:
        >>> tree = Tree(mixed, 1e-9); tree.grow(100); tree.grow(1000, better, value)
    """

    def __init__(
        self, mixed: Mixed, tolerance: float, relaxed: Point | None = None, ceiling: float = np.inf
    ) -> None:  # fmt: skip
        """`relaxed` is the minimum of the root's relaxation where it is known; nothing above `ceiling` is of use."""
        self.mixed, self.tolerance, self._relaxed = mixed, tolerance, relaxed
        self.value = ceiling
        self.weights: Array | None = None
        self._count, self._tie, self._settled = 0, itertools.count(), np.inf
        self._heap: list[tuple[float, int, Mask, Point, Ints, Array]] | None = None

    def grow(
        self, most_nodes: int, incumbent: Array | None = None, value: float = np.inf,
        stop: Callable[[], bool] | None = None,
    ) -> Proof:  # fmt: skip
        """Go on until `most_nodes` relaxations are solved in all; arguments as those of `branch_and_bound`."""
        if incumbent is not None and value < self.value:
            self.value, self.weights = value, incumbent
        if most_nodes == 0 and self._heap is None:
            return self._proof(-np.inf, finished=False)
        level = -np.inf
        try:
            root = None if self._heap is not None else self.mixed.root()
            if self._heap is None and root is None:
                return self._proof(np.inf, finished=True)
            if root is not None:
                self._plant(root)
            while self._heap:
                # Noted before the node leaves the heap: an interrupt may find it opened by half.
                level = self._heap[0][0]
                if level >= self.value - self.tolerance:
                    return self._proof(level, finished=True)
                if self._count >= most_nodes or (stop is not None and stop()):
                    return self._proof(level, finished=False)
                _, _, allowed, point, modes, missing = self._heap[0]
                parts = [(c, self._solved(c, point)) for c in children(self.mixed, allowed, point, modes, missing)]
                heapq.heappop(self._heap)
                for child, found in parts:
                    self._open(child, found, level)
        except KeyboardInterrupt:
            if stop is None:
                raise
            return replace(self._proof(level, finished=False), interrupted=True)
        return self._proof(np.inf, finished=True)

    def _proof(self, bound: float, *, finished: bool) -> Proof:
        """What is known where the open nodes are not below `bound`."""
        least = min(bound, self._settled, self.value if finished else np.inf)
        proven = finished and least >= self.value - self.tolerance
        return Proof(self.weights, self.value, least, self._count, finished, proven=proven)

    def _plant(self, root: Mask) -> None:
        """Solve the root."""
        point = self._relaxed
        if point is None:
            point = relax(self.mixed, root, self.weights, self.value)
        self._count, self._heap = 1, []
        self._open(root, point, -np.inf)

    def _solved(self, allowed: Mask, parent: Point) -> Point | None:
        """The minimum of a node's relaxation: the parent's where it obeys it."""
        found = relax(self.mixed, allowed, parent, self.value)
        self._count += found is not parent
        return found

    def _open(self, allowed: Mask, point: Point | None, above: float) -> None:
        """Settle a node whose relaxation has the minimum `point`, or keep it for later, or close it."""
        assert self._heap is not None
        if point is None:
            return
        bound, choices = max(point.bound, above), self.mixed.choices
        if bound >= self.value - self.tolerance:
            # Closed, and what it might yet save within the tolerance is part of the bound.
            self._settled = min(self._settled, bound)
            return
        tight = allowed if point.open is None else propagate(choices, allowed & point.open)
        if tight is None:
            return
        if tight is not allowed and np.count_nonzero(tight) == len(tight):
            # One slice is left, and the point is of more: its own minimum says what it is worth.
            self._count += 1
            allowed, point = tight, relax(self.mixed, tight, point)
            if point is None:
                return
            bound = max(point.bound, bound)
        allowed = tight
        modes, missing = assign(choices, allowed, point.weights)
        # A node with all modes decided has no parts: a point that misses one is the inner solver's, and what is left
        # between a point's value and its bound is that solver's gap. Costs that the relaxation has only enveloped are
        # decided further down.
        parts = bool(np.count_nonzero(allowed) > len(allowed))
        if missing.any():
            wanted = parts
        else:
            real = self._taken(point, modes)
            wanted = parts and self.mixed.short and real > point.bound + self.tolerance
        if wanted:
            heapq.heappush(self._heap, (bound, next(self._tie), allowed, point, modes, missing))
        else:
            self._settled = min(self._settled, bound)

    def _taken(self, point: Point, modes: Ints) -> float:
        """The energy of a relaxation's minimum whose modes are known, which may be the best so far; where its cuts have
        not come down on every cap, the best of its slice may be."""
        mixed = self.mixed
        if not met(mixed.caps, point.weights):
            there = on_slice(mixed, modes, point.weights)
            if there is None:
                return np.inf
            point = there
        extra = mixed.choices.cost[np.arange(len(modes)), modes].sum()
        real = mixed.program.value(point.weights) + float(extra)
        if real < self.value:
            self.weights, self.value = point.weights, real
        return real


def children(mixed: Mixed, allowed: Mask, point: Point, modes: Ints, missing: Array) -> list[Mask]:
    """The node with one unit decided: in its likeliest mode, and in any of the others; `modes` and `missing` (U,) are
    those that `assign` read off the node's minimum `point`. Each has fewer modes open than the node: no branch is
    endless."""
    open_ = allowed.sum(axis=1) > 1
    score = 0.5 * missing**2 * (mixed.curve + 1e-12)
    # One at its upper end is counted whole already: to decide it changes nothing.
    score[mixed.choices.weights(point.weights) >= hull(mixed.choices, allowed)[1] - TOLERANCE] *= TOLERANCE
    if mixed.choices.priced or not missing.any():
        score += mixed.missing(allowed, modes, point.weights)
    unit = int(np.where(open_, score, -np.inf).argmax())
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
