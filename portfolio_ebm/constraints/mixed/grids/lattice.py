"""Whole lots as columns: every number of lots that a name may have, in every mode that holds it, with what it costs.

    min 1/2 w'Qw + sum of the costs of the columns taken,   one column a name,   w_i = x of the column,
    low_l <= sum of use_l <= high_l      of every rule: a row's a_i x, the turnover |x - held|, a count, a mass

Costs and uses are those of single columns, so tickets, impact, minimum positions and numbers of names are exact there.
With multipliers mu of the rules, any point y, and D = diag(d) split off so that R = Q - 2 D stays convex,

    E(w) >= -1/2 y'Ry + sum_i min over its columns of r - sum_l mu_l limit_l,
    r = cost + d_i x^2 + (R y)_i x + sum_l mu_l use_l

since w'Rw/2 lies above its tangent at y. What a column's r is above the least of its name comes on top of the bound
for every portfolio that takes it: where that is not below the incumbent the column is left out.

Source: Geoffrion, A. (1974), Lagrangean relaxation for integer programming, Mathematical Programming Study 2;
Frangioni, A. and Gentile, C. (2007), SDP diagonalizations and perspective cuts for a class of nonseparable MIQP,
Operations Research Letters 35.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.mixed.fees import known
from portfolio_ebm.constraints.mixed.node import Mixed, hull, node_box
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Cut, Ints, Mask
from portfolio_ebm.constraints.mixed.programs.splitting import Split

MOST_COLUMNS = 1_000_000
"""Beyond so many numbers of lots they are as good as fractions."""
ROUNDING = 1e-7
"""Of a lot: how far beyond an end of a box, and the tolerance of rules, a number of lots may be."""


@dataclass(frozen=True)
class Lattice:
    """The columns of the names that are open, name by name and by weight.

    Attributes:
        matrix: Q of the open names, (m, m), and `rest`, R; `split`: d, (m,).
        name: the open name of each column, (N,). x: its weight, cost: all it costs but for 1/2 w'Qw, (N,).
        use: (L, N). low, high: (L,), to TOLERANCE wider than the rules, since that is what they are held to.
        names: the place of each open name among all, (m,). base: all weights, (n,), those of open names zero.
        constant: what the others cost.
    """

    matrix: Array
    split: Array
    rest: Array
    name: Ints
    x: Array
    cost: Array
    use: Array
    low: Array
    high: Array
    names: Ints
    base: Array
    constant: float = 0.0

    @property
    def m(self) -> int:
        return len(self.names)

    @cached_property
    def first(self) -> Ints:
        """The first column of each name, (m,)."""
        return np.asarray(np.searchsorted(self.name, np.arange(self.m)))

    @cached_property
    def own(self) -> Array:
        """cost + d x^2, (N,)."""
        return np.asarray(self.cost + self.split[self.name] * self.x**2)

    @cached_property
    def dearest(self) -> float:
        """The largest size of what a column costs."""
        return max(float(np.abs(self.own).max(initial=0.0)), 1e-300)

    def each(self, values: Array, alive: Mask) -> Array:
        """The least of the open columns, by name, (m,)."""
        return np.asarray(np.minimum.reduceat(np.where(alive, values, np.inf), self.first))

    def bound(self, y: Array, mu: Array, alive: Mask) -> tuple[float, Array]:
        """The bound of multipliers mu (L,) at y (m,), and by how much each column is above the least of its name, (N,);
        infinite for those that are not `alive`."""
        pull = self.rest @ y
        r = np.where(alive, self.own + pull[self.name] * self.x + mu @ self.use, np.inf)
        least = np.minimum.reduceat(r, self.first)
        ends = np.where(mu > 0.0, self.high, self.low)
        paid = float((mu * np.where(mu != 0.0, ends, 0.0)).sum())
        with np.errstate(invalid="ignore"):
            return float(self.constant - 0.5 * y @ pull + least.sum() - paid), r - least[self.name]

    def propagated(self, alive: Mask) -> Mask | None:
        """`alive` less the columns that leave the others no room under a rule; None where a name has none left."""
        if not self.m:
            room = (self.low <= 0.0).all() and (self.high >= 0.0).all()
            return alive if room else None
        while True:
            before = int(alive.sum())
            for sign, ends in ((1.0, self.high), (-1.0, -self.low)):
                used = np.where(alive, sign * self.use, np.inf)
                least = np.minimum.reduceat(used, self.first, axis=1)
                spare = ends - least.sum(axis=1)
                alive = alive & (used - least[:, self.name] <= spare[:, None]).all(axis=0)
                if not np.logical_or.reduceat(alive, self.first).all():
                    return None
            if int(alive.sum()) == before:
                return alive

    def count(self, alive: Mask) -> Ints:
        """How many columns each name has left, (m,)."""
        return np.asarray(np.add.reduceat(alive.astype(np.int64), self.first))

    def portfolios(self, names: Ints | None = None) -> float:
        """How many portfolios there are of all columns, or of those of some names; infinite where too many."""
        many = self.count(np.ones(len(self.x), dtype=bool))
        return float(np.exp(min(np.log(many if names is None else many[names]).sum(), 700.0)))

    def restricted(self, alive: Mask) -> Lattice:
        """The same on the columns `alive`: names with one left join the base, and more is split off the others."""
        open_ = self.count(alive) > 1
        done = alive & ~open_[self.name]
        at, fixed = self.name[done], np.zeros(self.m)
        fixed[at] = self.x[done]
        base = self.base.copy()
        base[self.names[at]] = self.x[done]
        pull, used = self.matrix @ fixed, self.use[:, done].sum(axis=1)
        constant = self.constant + float(self.cost[done].sum() + 0.5 * fixed @ pull)
        kept = alive & open_[self.name]
        name, x = self.name[kept], self.x[kept]
        matrix = np.ascontiguousarray(self.matrix[np.ix_(open_, open_)])
        split, rest = split_of(matrix)
        return replace(
            self, matrix=matrix, split=split, rest=rest, name=(np.cumsum(open_) - 1)[name], x=x,
            cost=self.cost[kept] + pull[name] * x, use=np.ascontiguousarray(self.use[:, kept]), low=self.low - used,
            high=self.high - used, names=self.names[open_], base=base, constant=constant,
        )  # fmt: skip

    def with_cuts(self, cuts: Sequence[Cut]) -> Lattice:
        """The same with more rows of all names."""
        rows, low, high = (np.array(part) for part in zip(*cuts, strict=True))
        used = rows @ self.base
        return replace(
            self, use=np.vstack([self.use, rows[:, self.names[self.name]] * self.x]),
            low=np.append(self.low, low - used - TOLERANCE), high=np.append(self.high, high - used + TOLERANCE),
        )  # fmt: skip

    def whole(self, taken: Ints) -> Array:
        """The weights (n,) of the columns taken, one an open name, (m,)."""
        w = self.base.copy()
        w[self.names] = self.x[taken]
        return w


def split_of(matrix: Array) -> tuple[Array, Array]:
    """d and Q - 2 diag(d); none where nothing can be split off."""
    found = Split.of(matrix) if len(matrix) else None
    return (np.zeros(len(matrix)), matrix) if found is None else (found.diagonal, found.rest)


def lattice_of(mixed: Mixed, step: Array) -> Lattice | None:
    """All columns of a mixed program whose names have lots of `step` (n,), 0 for those that are fixed; None where the
    energy is not known by name, a name has no end, or there are too many columns.

    Limits on units of several names, and curved caps, are not among the rules: see `node.broken_cuts`.
    """
    root, p, c = mixed.root(), mixed.program, mixed.choices
    if root is None or not known(p):
        return None
    low, high, rows, bottom, top = node_box(mixed, *hull(c, root))
    if p.held is not None:
        low, high = np.maximum(low, p.held - mixed.reach[:, 0]), np.minimum(high, p.held + mixed.reach[:, 1])
    size = np.where(step > 0.0, step, 1.0)
    # The nearest lots beyond the box by rounding, or by what rules let pass, are on its end.
    beyond = ROUNDING + TOLERANCE / size
    least = np.where(step > 0.0, np.ceil(low / size - beyond), 0.0)
    most = np.where(step > 0.0, np.floor(high / size + beyond), 0.0)
    many = np.maximum(most - least + 1.0, 0.0)
    if (many == 0.0).any() or not many.sum() <= MOST_COLUMNS or (high - low)[step <= 0.0].max(initial=0.0) > TOLERANCE:
        return None
    name = np.repeat(np.arange(p.n), many.astype(np.int64))
    place = np.arange(len(name)) - np.repeat(np.cumsum(many) - many, many.astype(np.int64))
    x = np.where((step > 0.0)[name], (least[name] + place) * size[name], low[name]) + 0.0
    name, x, cost, counted = _in_modes(c, root, name, x, p.n)
    if len(np.unique(name)) < p.n:
        return None
    z = np.zeros(len(x)) if p.held is None else x - p.held[name]
    cost = cost + p.linear[name] * x
    if p.held is not None:
        cost = cost + np.broadcast_to(p.rate, p.n)[name] * np.abs(z) + p.separable(name, z)
    use, ends = [rows[:, name] * x, counted], [(bottom, top), *_limits(c)]
    if np.isfinite(p.turnover):
        use, ends = [*use, np.abs(z)[None]], [*ends, (np.array([-np.inf]), np.array([p.turnover]))]
    low, high = (np.concatenate([end[k] for end in ends]) for k in (0, 1))
    split, rest = split_of(p.matrix)
    return Lattice(
        p.matrix, split, rest, name, x, cost, np.vstack(use), low - TOLERANCE, high + TOLERANCE, np.arange(p.n),
        np.zeros(p.n),
    )  # fmt: skip


def _single(c: Choices) -> list[Limit]:
    """The limits on single names."""
    return [one for one in c.limits if (c.size[one.units] == 1).all()]


def _limits(c: Choices) -> list[tuple[Array, Array]]:
    """Their ends."""
    found = _single(c)
    low = np.array([-np.inf if one.mass else one.least for one in found])
    return [(low, np.array([one.most for one in found], dtype=np.float64))]


def _in_modes(c: Choices, root: Mask, name: Ints, x: Array, n: int) -> tuple[Ints, Array, Array, Array]:
    """Names, weights, costs and uses of the limits, (L, N), of each column in each mode that holds it and that no other
    is as good as."""
    # Names without a choice are in the one mode of one more unit.
    unit = np.full(n, c.units)
    unit[c.single[0]] = c.single[1]
    at, modes = unit[name], max(root.shape[1], 1)
    free = np.arange(modes) == 0
    open_, low, high, price = (
        np.vstack([table.reshape(c.units, modes), np.where(free, one, other)])[at]
        for table, one, other in (
            (root, True, False), (c.lower, -np.inf, np.inf), (c.upper, np.inf, -np.inf), (c.cost, 0.0, 0.0)
        )
    )  # fmt: skip
    holds = open_.astype(bool) & (x[:, None] >= low - TOLERANCE) & (x[:, None] <= high + TOLERANCE)
    limits = _single(c)
    inside = np.zeros((len(limits), len(x), modes), dtype=bool)
    for k, one in enumerate(limits):
        counts = np.zeros((c.units + 1, modes), dtype=bool)
        counts[np.ix_(one.units, np.array(one.modes, dtype=np.int64))] = True
        inside[k] = counts[at]
    for p in range(modes):
        for q in range(modes):
            if p != q:
                better = holds[:, p] & holds[:, q] & (price[:, p] <= price[:, q])
                for k, one in enumerate(limits):
                    asked = not one.mass and one.least > 0.0
                    better &= (inside[k, :, p] == inside[k, :, q]) | (~inside[k, :, p] & (not asked))
                holds[:, q] &= ~better
    column, mode = np.nonzero(holds)
    mass = np.array([one.mass for one in limits], dtype=bool)
    used = np.where(mass[:, None], x[column], 1.0) * inside[:, column, mode]
    return name[column], x[column], price[column, mode], used
