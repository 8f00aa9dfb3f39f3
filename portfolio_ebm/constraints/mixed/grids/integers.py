"""Whole numbers of lots on one slice: branch and bound on the energy's quadratic model at the slice's minimum.

With w* the minimum, H = Q + the curvature of what trades cost, and sigma the side of each trade,

    min_k  1/2 (w - w*)'H(w - w*) + g'(w - w*),   w = step k,   A w in rows,   sigma'(w - held) <= turnover

over the names that matter: those that moved, and those that a lot would not cost more than the gap to the best point
known. A node is a box of whole numbers. From the one of the lowest bound the search goes down towards the nearer
numbers, so that its first leaves are good roundings that keep the rows and the cap, which no move of one or two names
does.

Source: Land and Doig (1960), Econometrica 28; Fletcher, R. and Leyffer, S. (1998), Numerical experience with lower
bounds for MIQP branch-and-bound, SIAM J. Optimization 8.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.active_set import Failure, Quadratic
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Point

WHOLE = 1e-7
"""How near to a whole number of lots is one."""
TIGHT = 1e-11


@dataclass(frozen=True)
class Slice:
    """The model on the names that matter, in lots."""

    names: Ints
    matrix: Array
    linear: Array
    rows: Array
    low: Array
    high: Array
    bottom: Array
    top: Array

    @classmethod
    def of(cls, p: Program, point: Point, box: tuple[Array, Array], step: Array, gap: float, most: int) -> Slice | None:
        """The model at `point`, the minimum on a box, over `most` names; None where no name has a lot to move."""
        lower, upper = box
        w = point.weights
        z = np.zeros(p.n) if p.held is None else w - p.held
        kinked = p.kinked or bool(p.bend(w)[2].any())
        # What leaving where it stands costs a name, by unit of weight; nothing where it moves freely.
        pull = np.abs(p.pull(point))
        pull = np.where(z == 0.0, np.maximum(point.toll - np.abs(point.prices), pull), pull) if kinked else pull
        side = np.where(z != 0.0, np.sign(z), np.where(point.prices > 0.0, -1.0, 1.0)) if kinked else np.ones(p.n)
        bottom, top = lower.copy(), upper.copy()
        if kinked and p.held is not None:
            bottom = np.where(side > 0.0, np.maximum(lower, p.held), lower)
            top = np.where(side > 0.0, upper, np.minimum(upper, p.held))
        size = np.where(step > 0.0, step, 1.0)
        matters = (step > 0.0) & (pull * size < gap) & (np.floor(top / size + TIGHT) > np.ceil(bottom / size - TIGHT))
        names = np.flatnonzero(matters)
        names = names[np.argsort(pull[names] * size[names], kind="stable")][:most]
        if not len(names):
            return None
        s = size[names]
        # The model leaves all other names at the minimum, on the grid or off it; what a leaf is worth `best` asks.
        slope = p.slope(w) + p.bend(w)[1] + np.asarray(p.rate) * side * (p.held is not None)
        curve = (p.matrix[np.ix_(names, names)] + np.diag(p.bend(w)[2][names])) * np.outer(s, s)
        rows, low, high = p.rows[:, names] * s, p.row_lower - p.rows @ w, p.row_upper - p.rows @ w
        if np.isfinite(p.turnover):
            rows = np.vstack([rows, side[names] * s])
            low, high = np.append(low, -np.inf), np.append(high, p.turnover - float(np.abs(z).sum()))
        at = w[names] / s
        moved = rows @ at
        return cls(
            names, np.ascontiguousarray(curve), slope[names] * s - curve @ at, np.ascontiguousarray(rows), low + moved,
            high + moved, np.ceil(bottom[names] / s - TIGHT), np.floor(top[names] / s + TIGHT),
        )  # fmt: skip

    def value(self, k: Array) -> float:
        return float(0.5 * k @ self.matrix @ k + self.linear @ k)

    def best(self, energy: Callable[[Array], float], start: Array, reach: float, most_nodes: int) -> Array | None:
        """The whole numbers k (m,) of least `energy`, what they cost beyond the minimum `start` (m,), below `reach`.

        A node is left where the model there is not below the least energy found; None where no energy is below `reach`.
        """
        base, least, found = self.value(start), reach, None
        ends, model = (self.low - TIGHT, self.high + TIGHT), Quadratic.of(self.matrix, self.linear)
        heap: list[tuple[float, int, Array, Array]] = []
        node: tuple[Array, Array] | None = (self.bottom, self.top)
        for count in range(most_nodes):
            if node is None:
                if not heap or heap[0][0] >= least:
                    break
                node = heapq.heappop(heap)[2:]
            low, high = node
            node = None
            solved = model.minimum((low, high), self.rows, ends)
            if isinstance(solved, Failure):
                continue
            k, bound = solved.x, self.value(solved.x) - base
            if bound >= least:
                continue
            off = np.abs(k - np.round(k))
            if float(off.max()) <= WHOLE:
                real = energy(np.round(k))
                least, found = (real, np.round(k)) if real < least else (least, found)
                continue
            at = int((off**2 * self.matrix.diagonal()).argmax())
            down, up = high.copy(), low.copy()
            down[at], up[at] = np.floor(k[at]), np.ceil(k[at])
            near, other = ((low, down), (up, high)) if k[at] - np.floor(k[at]) < 0.5 else ((up, high), (low, down))
            node = near
            heapq.heappush(heap, (bound, count, *other))
        return found
