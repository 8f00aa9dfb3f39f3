"""Moves of single names between modes, scored to second order: what a fixed cost per trade makes a choice of.

At the minimum of a slice let F be the names that move freely there and R the rows that hold, the turnover cap on the
sides of the trades among them. With K the optimality system of F and R, a name j that is displaced by m changes the
energy, all of F answering, by

    b_j m + 1/2 S_jj m^2 + e(z_j + m) - e(z_j),      S = Q - B' K^-1 B,   B = [Q_F; A_R],

b_j its price without costs, e what its trade costs, tolls included. A name whose mode does not hold its weight is
displaced to the mode's nearest end; one whose new mode leaves it room moves by what pays most. Two moves at once add
S_jk m_j m_k, and a name that moves freely moves by what pays after the other has moved.

Source: second-order exchanges as in Bertsimas, King and Mazumder (2016), Best subset selection via a modern
optimization lens, Annals of Statistics 44(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask, Point

FREE = 1e-7
"""A name whose pull is below this, relative to the largest slope, moves freely."""
PAIRED = 96
"""Single moves that are tried in pairs, the best first."""
CUTS = 18
"""Golden cuts of an interval."""


@dataclass(frozen=True)
class Moves:
    """Scored changes: units and modes, one column for single moves and two for pairs; scores (k,), the best first."""

    units: Ints
    modes: Ints
    scores: Array


@dataclass(frozen=True)
class _Local:
    """The slice's minimum as single names see it: b, S, the trades z, tolls, and of the names of F 1 / M_jj, infinite
    for the others, which no other name's displacement moves."""

    program: Program
    price: Array
    reduced: Array
    z: Array
    toll: Array
    stiff: Array

    def cost(self, names: Ints, z: Array) -> Array:
        """e of trades z (k,) of `names` (k,)."""
        return np.asarray(self.toll[names] * np.abs(z) + self.program.separable(names, z))


@dataclass(frozen=True)
class _Singles:
    """All single moves: unit, new mode, name, what the mode costs more, displacement, whether the name is free to
    choose it in [low, high], score, and the changes of the limits' counts."""

    units: Ints
    modes: Ints
    names: Ints
    extra: Array
    move: Array
    free: Mask
    low: Array
    high: Array
    score: Array
    counts: Array

    def at(self, places: Ints) -> _Singles:
        return _Singles(
            self.units[places], self.modes[places], self.names[places], self.extra[places], self.move[places],
            self.free[places], self.low[places], self.high[places], self.score[places], self.counts[places],
        )  # fmt: skip


def best_moves(
    program: Program, choices: Choices, allowed: Mask, modes: Ints, point: Point, count: int
) -> tuple[Moves, Moves]:
    """The `count` best single moves and the `count` best pairs, by score, from the minimum `point` of slice `modes`."""
    alone = (choices.size == 1)[:, None]
    units, other = np.nonzero(allowed & (np.arange(allowed.shape[1]) != modes[:, None]) & alone)
    if not len(units):
        return _none(1), _none(2)
    local = _local(program, point)
    singles = _singles(local, choices, modes, point, units.astype(np.int64), other.astype(np.int64))
    fitting = fits(choices, modes, singles.counts)
    order = np.argsort(np.where(fitting, singles.score, np.inf), kind="stable")[:count]
    order = order[fitting[order]]
    best = Moves(singles.units[order, None], singles.modes[order, None], singles.score[order])
    return best, _pairs(local, choices, modes, singles.at(_shortlist(singles)), count)


def _singles(local: _Local, choices: Choices, modes: Ints, point: Point, units: Ints, other: Ints) -> _Singles:
    name = np.full(choices.units, -1)
    name[choices.unit] = choices.name
    names = name[units]
    w = point.weights[names]
    low, high = choices.lower[units, other] - w, choices.upper[units, other] - w
    extra = choices.cost[units, other] - choices.cost[units, modes[units]]
    held = (low <= TOLERANCE) & (high >= -TOLERANCE)
    move = np.where(held, 0.0, np.where(low > 0.0, low, high))
    free = held & (high - low > TOLERANCE)
    price, curve = local.price[names], local.reduced[names, names]
    move[free] = _wish(local, names[free], price[free], curve[free], low[free], high[free])
    score = _change(local, names, price, curve, move) + extra
    return _Singles(units, other, names, extra, move, free, low, high, score, counts(choices, modes, units, other))


def _local(p: Program, point: Point) -> _Local:
    w, n = point.weights, p.n
    toll = np.broadcast_to(np.asarray(point.toll, dtype=np.float64), (n,))
    z = np.zeros(n) if p.held is None else w - p.held
    pull, curve = p.pull(point), p.bend(w)[2]
    moved = np.ones(n, dtype=bool) if p.held is None or not p.kinked else z != 0.0
    free = np.flatnonzero(
        (w > p.lower + TOLERANCE) & (w < p.upper - TOLERANCE) & moved & (np.abs(pull) <= FREE * p.scale)
    )
    rows = p.tight(w)
    if np.isfinite(p.turnover) and float(np.abs(z).sum()) >= p.turnover - TOLERANCE:
        # A name that stands at `held` would leave it on the side to which its price pushes.
        rows = np.vstack([rows, np.where(z != 0.0, np.sign(z), -np.sign(point.prices))])
    price = point.prices - p.bend(w)[1]
    rigid = np.full(n, np.inf)
    k, m = len(free), len(rows)
    if m >= k:
        return _Local(p, price, p.matrix, z, np.asarray(toll), rigid)
    system = np.zeros((k + m, k + m))
    system[:k, :k] = p.matrix[np.ix_(free, free)] + np.diag(curve[free] + 1e-14 * p.scale)
    system[:k, k:], system[k:, :k] = rows[:, free].T, rows[:, free]
    side = np.vstack([p.matrix[free], rows])
    try:
        inverse = np.linalg.inv(system)
    except np.linalg.LinAlgError:
        return _Local(p, price, p.matrix, z, np.asarray(toll), rigid)
    reduced = p.matrix - side.T @ (inverse @ side)
    # A free name answers as one of F: to hold it elsewhere costs 1 / M_jj, and moves the others' prices in proportion.
    stiff = 1.0 / np.maximum(inverse.diagonal()[:k], 1e-9 / p.scale)
    across = side.T @ inverse[:, :k] * stiff
    reduced[:, free] = across
    reduced[free, :] = across.T
    between = inverse[:k, :k] * stiff[:, None] * stiff
    reduced[np.ix_(free, free)] = between
    reduced[free, free] = np.maximum(stiff - curve[free], 0.0)
    rigid[free] = stiff
    return _Local(p, price, reduced, z, np.asarray(toll), rigid)


def _change(local: _Local, names: Ints, price: Array, curve: Array, move: Array) -> Array:
    """The energy's change where `names` move by `move`, at prices and curvatures given, without costs of modes."""
    z = local.z[names]
    bend = 0.5 * curve * move**2
    return np.asarray(price * move + bend + local.cost(names, z + move) - local.cost(names, z))


def _wish(local: _Local, names: Ints, price: Array, curve: Array, low: Array, high: Array) -> Array:
    """The displacement in [low, high] that pays most, by golden cuts."""
    if not len(names):
        return np.zeros(0)
    curve = np.maximum(curve, 1e-300)
    below, above = np.maximum(low, -1e3), np.minimum(high, 1e3)
    # No further than without any cost of the trade.
    plain = -price / curve
    below, above = np.maximum(below, np.minimum(plain, 0.0)), np.minimum(above, np.maximum(plain, 0.0))
    below, above = np.minimum(below, 0.0), np.maximum(above, 0.0)
    ratio = 0.5 * (np.sqrt(5.0) - 1.0)
    for _ in range(CUTS):
        left, right = above - ratio * (above - below), below + ratio * (above - below)
        lower = _change(local, names, price, curve, left) < _change(local, names, price, curve, right)
        above, below = np.where(lower, right, above), np.where(lower, below, left)
    found = 0.5 * (below + above)
    return np.where(_change(local, names, price, curve, found) < 0.0, found, 0.0)


def counts(choices: Choices, modes: Ints, units: Ints, other: Ints) -> Array:
    """By how much each move changes the number that each limit counts, (moves, limits)."""
    found = np.zeros((len(units), len(choices.limits)))
    for k, limit in enumerate(choices.limits):
        member = np.isin(units, limit.units)
        found[:, k] = member * (np.isin(other, limit.modes).astype(float) - np.isin(modes[units], limit.modes))
    return found


def fits(choices: Choices, modes: Ints, counts: Array) -> Mask:
    """Whether the limits on numbers hold after changes of their counts (..., limits)."""
    found = np.ones(counts.shape[:-1], dtype=bool)
    for k, limit in enumerate(choices.limits):
        if not limit.mass:
            now = limit.holds(modes).sum() + counts[..., k]
            found &= (now <= limit.most) & (now >= limit.least)
    return found


def _pairs(local: _Local, choices: Choices, modes: Ints, m: _Singles, count: int) -> Moves:
    """The best pairs: the second of a pair moves freely after the first, or both are displaced."""
    cross, stiff = local.reduced[np.ix_(m.names, m.names)], local.stiff[m.names]
    table = _displaced(m, cross, stiff)
    answers = np.flatnonzero(m.free)
    if len(answers):
        # rows: the move that comes first, which pins a name of F; columns: the one that answers.
        k, many = len(m.names), len(answers)
        names = np.tile(m.names[answers], k)
        price = (local.price[m.names[answers]] + cross[:, answers] * m.move[:, None]).reshape(-1)
        curve = (local.reduced[m.names[answers], m.names[answers]] + cross[:, answers] ** 2 / stiff[:, None]).reshape(
            -1
        )
        best = _wish(local, names, price, curve, np.tile(m.low[answers], k), np.tile(m.high[answers], k))
        value = _change(local, names, price, curve, best).reshape(k, many)
        table[:, answers] = m.score[:, None] + value + m.extra[answers]
    table = np.where(m.units[:, None] == m.units, np.inf, table)
    table = np.where(fits(choices, modes, m.counts[:, None, :] + m.counts), table, np.inf)
    table = np.minimum(table, table.T)
    table[np.tril_indices(len(table))] = np.inf
    flat = table.reshape(-1)
    size = min(count, int(np.isfinite(flat).sum()))
    if not size:
        return _none(2)
    at = np.argpartition(flat, size - 1)[:size]
    at = at[np.argsort(flat[at], kind="stable")]
    i, j = at // len(m.units), at % len(m.units)
    return Moves(np.column_stack([m.units[i], m.units[j]]), np.column_stack([m.modes[i], m.modes[j]]), flat[at])


def _displaced(m: _Singles, cross: Array, stiff: Array) -> Array:
    """The change where both of two names are displaced, (k, k): each is in F or pinned, and a pinned one stiffens the
    other."""
    inside = np.isfinite(stiff)
    one, two = m.move[:, None], m.move[None]
    table = m.score[:, None] + m.score + cross * one * two
    table += 0.5 * np.where(inside, cross**2 / stiff, 0.0) * one**2 * ~inside[:, None]
    table += 0.5 * np.where(inside[:, None], cross**2 / stiff[:, None], 0.0) * two**2 * ~inside
    both = inside[:, None] & inside
    with np.errstate(divide="ignore", invalid="ignore"):
        # M_jk = c, cross = c / (M_jj M_kk): the inverse of the two rows of M in place of its diagonal.
        alike = np.clip(cross**2 / (stiff[:, None] * stiff), 0.0, 1.0 - 1e-12)
        alone = 0.5 * (stiff[:, None] * one**2 + stiff * two**2)
        exact = (alone - cross * one * two) / (1.0 - alike) - alone
    return np.where(both, m.score[:, None] + m.score + exact, table)


def _shortlist(m: _Singles) -> Ints:
    """The best moves of either kind, so that every pair of kinds is tried."""
    order = np.argsort(m.score, kind="stable")
    half = PAIRED // 2
    return np.concatenate([order[m.free[order]][:half], order[~m.free[order]][:half]])


def _none(width: int) -> Moves:
    return Moves(np.zeros((0, width), dtype=np.int64), np.zeros((0, width), dtype=np.int64), np.zeros(0))
