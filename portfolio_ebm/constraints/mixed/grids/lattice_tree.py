"""Branch and bound over whole lots: the proof that no portfolio of lots is better, or how much better one could be.

A node is a lattice (lattice.py): the columns that each name has left. Its relaxation (lattice_bound.py) bounds it and
leaves out columns that no better portfolio takes; names with one column left are settled, and of the others more can be
split off. The name whose columns are furthest apart in the mixture is split at its weight; few portfolios are looked at
one and all, and of many those whose lots add up to what an equation asks for (matching.py).

Source: Land, A. H. and Doig, A. G. (1960), Econometrica 28; Li, D., Sun, X. and Wang, J. (2006), Optimal lot solution
to cardinality constrained mean-variance formulation for portfolio selection, Mathematical Finance 16.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.grids.lattice import Lattice
from portfolio_ebm.constraints.mixed.grids.lattice_bound import Mixture, mixed_columns
from portfolio_ebm.constraints.mixed.grids.matching import matched
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Cut, Ints, Mask

FEW = 16_384
"""So many portfolios are looked at one by one."""
WIDE = 4000
"""Columns that take the time of a node."""
CHUNK = 64
USES = 2**21
"""Uses of rules added up at a time: portfolios by names by rules."""
SAME = 1e-3
"""Of the tolerance: a portfolio better by less is the incumbent again, but for rounding."""
CUTS, LOOKS = 20, 6
"""Rounds of cuts, and screenings, before the first split."""
BROKEN = 1e-7
"""By how much a cut has to be broken to be taken."""

Residual = Callable[[Array], Array]
"""By how much portfolios (k, n) of whole lots break the rules, (k,)."""
Cutter = Callable[[Array], Sequence[Cut]]
"""Rows that hold for every portfolio and that weights (n,) break."""


@dataclass(frozen=True)
class LotProof:
    """What the search over lots found.

    Attributes:
        weights: the best portfolio known, (n,), None without one. value: its energy, +inf without one.
        bound: no portfolio of whole lots is below this. nodes: lattices looked at.
        finished: whether nothing below `value` is left open.
    """

    weights: Array | None
    value: float
    bound: float
    nodes: int
    finished: bool


@dataclass(frozen=True)
class _Node:
    """`level`: the best bound known, of its own multipliers or of a node above."""

    lattice: Lattice
    seen: Mixture
    level: float


class LotTree:
    """The search from an incumbent.

    Example:
        >>> LotTree(lattice, w, value, residual, cutter, 1e-9).grow(around(lattice, relaxed), 300)
    """

    def __init__(
        self, lattice: Lattice, weights: Array | None, value: float, residual: Residual, cutter: Cutter,
        tolerance: float,
    ) -> None:  # fmt: skip
        """`tolerance` (absolute) ends the proof; `value` is +inf where no portfolio is known."""
        self.lattice, self.weights, self.value = lattice, weights, value
        self.residual, self.cutter, self.tolerance = residual, cutter, tolerance
        self._settled, self._tie = np.inf, itertools.count()
        self._count, self._work = 0, 0.0
        self._heap: list[tuple[float, int, _Node]] = []

    def grow(self, played: Mask, most_nodes: int, stop: Callable[[], bool] | None = None) -> LotProof:
        """Search until all is settled, `most_nodes` lattices were looked at (or fewer wide ones), or `stop` says so."""
        self._plant(played)
        while self._heap:
            level = self._level()
            if level >= self.value - self.tolerance:
                self._settled = min(self._settled, level)
                break
            if self._work >= most_nodes or (stop is not None and stop()):
                return self._proof(level, finished=False)
            # Without a portfolio the last node is opened first: it has most names settled.
            node = heapq.heappop(self._heap)[2] if np.isfinite(self.value) else self._deepest()
            for alive in _halves(node):
                self._look(node, alive)
        return self._proof(np.inf, finished=True)

    def _counted(self, lattice: Lattice) -> Lattice:
        """The lattice, which is now looked at."""
        self._count += 1
        self._work += 1.0 + len(lattice.x) / WIDE
        return lattice

    def _level(self) -> float:
        return self._heap[0][0]

    def _deepest(self) -> _Node:
        at = max(range(len(self._heap)), key=lambda k: self._heap[k][1])
        node = self._heap.pop(at)[2]
        heapq.heapify(self._heap)
        return node

    def _proof(self, level: float, *, finished: bool) -> LotProof:
        bound = min(level, self._settled, self.value)
        # Where no multipliers were found a part may have been left as it was.
        finished &= bound >= self.value - self.tolerance
        return LotProof(self.weights, self.value, bound, self._count, finished)

    def _plant(self, played: Mask) -> None:
        """Cuts and screenings of the whole lattice, until it leaves no more names out."""
        lattice, known = self.lattice, -np.inf
        for left in reversed(range(CUTS)):
            seen = mixed_columns(self._counted(lattice), played, self.value)
            if seen is None:
                break
            known = max(known, seen.bound)
            w = lattice.base.copy()
            w[lattice.names] = seen.y
            # A cut that is nearly met says nothing more.
            cuts = [cut for cut in self.cutter(w) if not cut[1] - BROKEN <= cut[0] @ w <= cut[2] + BROKEN]
            # The multipliers are those of the rows so far: the last round takes no more.
            if not cuts or not left:
                break
            lattice, played = lattice.with_cuts(cuts), seen.played
        if seen is None:
            self._settled = known
            return
        known = seen.bound
        for _ in range(LOOKS):
            child = self._kept(_Node(lattice, seen, known), np.ones(len(lattice.x), dtype=bool))
            if child is None:
                return
            before, lattice = lattice.m, child[0]
            seen = mixed_columns(self._counted(lattice), child[1], self.value)
            if seen is None:
                self._settled = min(self._settled, known)
                return
            known = max(known, seen.bound)
            if known >= self.value - self.tolerance or lattice.m == before:
                break
        self._open(_Node(lattice, seen, known))

    def _look(self, parent: _Node, alive: Mask) -> None:
        """Settle a part of a node, or keep it for later."""
        child = self._kept(parent, alive)
        if child is None:
            return
        seen = mixed_columns(self._counted(child[0]), child[1], self.value)
        if seen is None:
            self._settled = min(self._settled, parent.level)
        else:
            self._open(_Node(child[0], seen, max(seen.bound, parent.level)))

    def _kept(self, parent: _Node, alive: Mask) -> tuple[Lattice, Mask] | None:
        """The part of a node that may hold a better portfolio by its multipliers, and the columns to solve for first;
        None where it is settled."""
        lattice, seen = parent.lattice, parent.seen
        here: Mask | None = lattice.propagated(alive)
        if here is None:
            return None
        # What a column comes above is above the bound of these multipliers, not above a better one from elsewhere.
        bound, above = lattice.bound(seen.y, seen.mu, here)
        if max(bound, parent.level) >= self.value - self.tolerance:
            self._settled = min(self._settled, max(bound, parent.level))
            return None
        kept = here & (bound + above < self.value - self.tolerance)
        left_out = here & ~kept
        if left_out.any():
            self._settled = min(self._settled, bound + float(above[left_out].min()))
        here = lattice.propagated(kept)
        if here is None:
            return None
        part = lattice.restricted(here)
        if part.portfolios() <= FEW:
            self._enumerate(part)
            return None
        pairs = matched(part)
        if pairs is not None:
            self._try(self._counted(part), pairs)
            return None
        open_ = here & (lattice.count(here) > 1)[lattice.name]
        played = (seen.played & open_)[open_]
        bare = ~np.logical_or.reduceat(played, part.first)
        near = part.each(above[open_], np.ones(len(part.x), dtype=bool))
        played |= bare[part.name] & (above[open_] <= near[part.name])
        return part, played

    def _open(self, node: _Node) -> None:
        lattice, seen = node.lattice, node.seen
        # The columns of the largest shares may be a portfolio; where the mixture mixes none they are the best.
        self._try(lattice, np.lexsort((-seen.share, lattice.name))[lattice.first][None])
        if node.level >= self.value - self.tolerance:
            self._settled = min(self._settled, node.level)
            return
        heapq.heappush(self._heap, (node.level, next(self._tie), node))

    def _enumerate(self, lattice: Lattice) -> None:
        """Look at every portfolio of a lattice."""
        self._counted(lattice)
        sizes = lattice.count(np.ones(len(lattice.x), dtype=bool))
        taken = np.indices(tuple(sizes)).reshape(lattice.m, -1).T if lattice.m else np.zeros((1, 0), dtype=np.int64)
        taken = taken + lattice.first
        self._try(lattice, taken)

    def _try(self, lattice: Lattice, taken: Ints) -> None:
        """Keep the best of the portfolios of columns `taken` (k, m) where it is better than the incumbent."""
        x = lattice.x[taken]
        energy = lattice.constant + 0.5 * ((x @ lattice.matrix) * x).sum(axis=1) + lattice.cost[taken].sum(axis=1)
        better = np.flatnonzero(energy < self.value - SAME * self.tolerance)
        order = better[_fits(lattice, taken[better])]
        order = order[np.argsort(energy[order], kind="stable")]
        for k in range(0, len(order), CHUNK):
            some = order[k : k + CHUNK]
            broken = self.residual(np.array([lattice.whole(taken[row]) for row in some]))
            for row, by in zip(some, broken, strict=True):
                if by <= TOLERANCE:
                    self.value, self.weights = float(energy[row]), lattice.whole(taken[row])
                    return
                if by <= 2.0 * TOLERANCE:
                    # Within the rules' tolerance but for rounding: not let out, and not below the bound.
                    self._settled = min(self._settled, float(energy[row]))


def _fits(lattice: Lattice, taken: Ints) -> Mask:
    """Which portfolios of columns `taken` (k, m) obey the rules of the lattice, (k,)."""
    found = np.ones(len(taken), dtype=bool)
    some = max(USES // max(len(lattice.use) * lattice.m, 1), 1)
    for k in range(0, len(taken), some):
        used = lattice.use[:, taken[k : k + some]].sum(axis=2)
        here = (used <= lattice.high[:, None]) & (used >= lattice.low[:, None])
        found[k : k + some] = here.all(axis=0)
    return found


def _halves(node: _Node) -> list[Mask]:
    """The columns below and above the weight of the name whose columns in the mixture are furthest apart."""
    lattice, share = node.lattice, node.seen.share
    mean = np.bincount(lattice.name, share * lattice.x, lattice.m)
    spread = np.bincount(lattice.name, share * (lattice.x - mean[lattice.name]) ** 2, lattice.m)
    tied = np.bincount(lattice.name, share * (1.0 - share), lattice.m)
    score = lattice.matrix.diagonal() * spread
    name = int(score.argmax()) if score.max() > 0.0 else int(tied.argmax())
    mine = lattice.name == name
    lower = mine & (lattice.x <= mean[name])
    if not lower.any() or (lower == mine).all():
        # One weight in several modes, or an end: the column of the largest share, and the rest.
        lower = np.zeros_like(mine)
        lower[np.where(mine, share, -1.0).argmax()] = True
    return [~mine | lower, ~mine | (mine & ~lower)]
