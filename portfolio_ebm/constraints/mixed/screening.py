"""Names that no portfolio better than the incumbent holds, and names that each of them holds.

Where at most K names may be held, each weighing [f, u] or nothing, a price l >= 0 of a name in place of the limit gives
a lower bound, with d split off the quadratic (splitting.py) and e the envelope of l + d w^2 on [f, u] (envelopes.py):

    L(l) = min 1/2 w'(Q - 2 diag(d)) w + c'w + sum e_i(w_i) - l K

With q the prices of the rest at its minimum w, a portfolio that holds i costs at least L + min over x in [f, u] of
q_i x + d_i x^2 + l, and one that does not at least L - q_i w_i - e_i(w_i). Where that is not below the incumbent, i is
out, or in. Fewer names leave more to be split off, so that the next look sees further.

Source: Atamturk, A. and Gomez, A. (2020), Safe screening rules for l0-regression from perspective relaxations, ICML;
Geoffrion, A. (1974), Lagrangean relaxation for integer programming, Mathematical Programming Study 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices, Limit, least, most, some
from portfolio_ebm.constraints.mixed.node import Mixed, propagate
from portfolio_ebm.constraints.mixed.programs.enveloped import EnvelopedProgram
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask
from portfolio_ebm.constraints.mixed.programs.splitting import Split

LOOKS = 4
"""Screenings at most, each after fewer names."""
WORTH_MORE = 0.9
"""After the second, another look is taken where the names left are at most this share of those before."""
PRICES = 12
"""Prices l tried in one look."""
NEAR = 0.02
"""How near to K, relative to it, the names counted by the envelopes have to be."""
SPARE = 0.05
"""The least worth of a name's split, relative to the largest."""


@dataclass(frozen=True)
class Screened:
    """The problem on the names left.

    Attributes:
        mixed: it, or None where no better portfolio is left.
        names: the names left, (m,), of `n`; the others are not held.
        n: how many there were.
        open: the modes that are left, of all units of the problem before, (U, M).
        decided: how many names are out or in.
        bound: no portfolio is below this, or below the incumbent if that is lower.
    """

    mixed: Mixed | None
    names: Ints
    n: int
    open: Mask
    decided: int
    bound: float

    def whole(self, w: Array) -> Array:
        """Weights (m,) as weights (n,)."""
        found = np.zeros(self.n)
        found[self.names] = w
        return found


def screened(mixed: Mixed, value: float, relaxed: Array) -> Screened | None:
    """What is left of a choice of at most K names where the incumbent has the energy `value`; `relaxed` (n,) is the
    relaxation's minimum. None where the problem is another, or nothing can be split off.

    Example:
        >>> left = screened(mixed, incumbent, relaxed.weights); left.mixed.program.n, left.bound
    """
    found: Screened | None = None
    n, worth = mixed.program.n, np.ones(mixed.program.n)
    names, units, open_ = np.arange(n), np.arange(mixed.choices.units), mixed.choices.exists
    for tried in range(LOOKS):
        count = _Count.of(mixed) if np.isfinite(value) else None
        split = None if count is None else Split.of(mixed.program.matrix, worth)
        look = None if count is None or split is None else _look(count, split, relaxed)
        if count is None or look is None:
            break
        bound = max(look.bound, -np.inf if found is None else found.bound)
        out, needed = look.decided(value)
        left = count.without(out, needed)
        if left is None or bound >= value:
            return Screened(None, names, n, open_, n, max(bound, value))
        before, kept = len(names), count.kept(left)
        names, relaxed, worth = names[kept], look.weights[kept], look.worth[kept]
        open_ = open_.copy()
        open_[units], units = left, units[np.isin(count.name, kept)]
        mixed = _restricted(mixed, left, kept)
        found = Screened(mixed, names, n, open_, n - len(names) + int(_Count.must(left, count.limit).sum()), bound)
        if tried and len(names) > WORTH_MORE * before:
            break
    return found


@dataclass(frozen=True)
class _Count:
    """A choice of at most K single names: its limit, the open modes, of each unit its name, whether it may be and must
    be held, and the weights [low, high] it may have then."""

    mixed: Mixed
    limit: Limit
    open: Mask
    name: Ints
    able: Mask
    needed: Mask
    low: Array
    high: Array

    @classmethod
    def of(cls, mixed: Mixed) -> _Count | None:
        """None where the problem is another: costs, caps, several limits, short positions."""
        p, c = mixed.program, mixed.choices
        if type(p) is not Program or p.held is not None or mixed.caps or c.priced or len(c.limits) != 1:
            return None
        limit, root = c.limits[0], mixed.root()
        every = np.arange(c.units)
        if limit.mass or not np.isfinite(limit.most) or root is None or not np.array_equal(limit.units, every):
            return None
        inside, outside = limit.split(root)
        low, high = least(np.where(inside, c.lower, np.inf)), most(np.where(inside, c.upper, -np.inf))
        zero = least(np.where(outside, c.lower, 0.0)) == 0.0
        zero &= most(np.where(outside, c.upper, 0.0)) == 0.0
        able = some(inside)
        if not (zero.all() and (c.size == 1).all() and (low[able] >= 0.0).all() and np.isfinite(high[able]).all()):
            return None
        name = np.zeros(c.units, dtype=np.int64)
        name[c.unit] = c.name
        low, high = np.where(able, low, 0.0), np.where(able, high, 0.0)
        return cls(mixed, limit, root, name, able, cls.must(root, limit), low, high)

    @staticmethod
    def must(allowed: Mask, limit: Limit) -> Mask:
        inside, outside = limit.split(allowed)
        return some(inside) & ~some(outside)

    def without(self, out: Mask, needed: Mask) -> Mask | None:
        """The open modes where the units of `out` (U,) are not held and those of `needed` are; None: there are none."""
        inside, outside = self.limit.split(self.open)
        return propagate(self.mixed.choices, self.open & ~(inside & out[:, None]) & ~(outside & needed[:, None]))

    def kept(self, left: Mask) -> Ints:
        """The names that may be held where the modes `left` are open."""
        gone = np.zeros(self.mixed.program.n, dtype=bool)
        gone[self.name] = ~some(self.limit.split(left)[0])
        return np.flatnonzero(~gone)


@dataclass(frozen=True)
class _Look:
    """The minimum at the best price l: its weights (n,), the bound, the charge of the limit less K, what more each
    unit costs if it is held and if it is not, (U,), and what a split of each name is worth, (n,)."""

    weights: Array
    bound: float
    over: float
    held: Array
    left_out: Array
    worth: Array

    def decided(self, value: float) -> tuple[Mask, Mask]:
        """The units that no better portfolio holds, and those that each of them holds, (U,) each."""
        return self.bound + self.held >= value, self.bound + self.left_out >= value


def _look(count: _Count, split: Split, start: Array) -> _Look | None:
    """The best of a few prices of a name: the envelopes charge more than K of them below it, and fewer above."""
    at = start[count.name]
    in_play = split.diagonal[count.name][at > 0.0]
    price = float(np.median(in_play)) / max(count.limit.most, 1.0) ** 2 if len(in_play) else 0.0
    best: _Look | None = None
    ends = [0.0, np.inf]
    for _ in range(PRICES):
        look = _at_price(count, split, price, start)
        if look is None:
            break
        best = look if best is None or look.bound > best.bound else best
        if abs(look.over) <= NEAR * count.limit.most:
            break
        ends[look.over < 0.0] = price
        low, high = ends
        price = 3.0 * low if not np.isfinite(high) else high / 3.0 if low == 0.0 else float(np.sqrt(low * high))
        start = look.weights
        if high <= (1.0 + NEAR) * low:
            break
    return best


def _at_price(count: _Count, split: Split, price: float, start: Array) -> _Look | None:
    """The minimum at one price; None where it is not found."""
    p, name = count.mixed.program, count.name
    lower, upper, fixed = p.lower.copy(), p.upper.copy(), np.zeros(p.n)
    choosing = count.able & ~count.needed
    lower[name], upper[name] = np.where(count.needed, count.low, 0.0), count.high
    fixed[name] = np.where(choosing, price, 0.0)
    reach = np.column_stack([np.zeros(p.n), upper])
    e = Envelope.of(np.zeros(p.n), fixed, reach, split.diagonal, np.zeros(p.n))
    program = EnvelopedProgram(
        split.rest, p.linear, lower, upper, p.rows, p.row_lower, p.row_upper, envelope=e, plain=p
    )  # fmt: skip
    point = program.minimum(lower, upper, p.rows, p.row_lower, p.row_upper, start)
    if point is None or np.isnan(point.prices).any():
        # Where the active set has failed the point is that of another program, which has no prices here.
        return None
    w, d = point.weights[name], split.diagonal[name]
    knee = np.minimum(e.knee[name, 1], count.high)
    charge = np.where(choosing, np.minimum(w / np.maximum(knee, 1e-300), 1.0), count.needed.astype(float))
    q = point.prices[name]
    paid = q * w + e.square(point.weights)[name]
    x = np.clip(-q / np.maximum(2.0 * d, 1e-300), count.low, count.high)
    worth = np.full(p.n, 0.0)
    worth[name] = np.divide(w**2, charge, out=np.zeros_like(w), where=charge > 0.0) - w**2
    worth = worth + SPARE * max(float(worth.max()), 1e-300)
    return _Look(
        point.weights, float(point.bound + price * (count.needed.sum() - count.limit.most)),
        float(charge.sum() - count.limit.most), np.where(choosing, q * x + d * x**2 + price - paid, -np.inf),
        np.where(choosing, -paid, -np.inf), worth,
    )  # fmt: skip


def _restricted(mixed: Mixed, left: Mask, kept: Ints) -> Mixed:
    """The problem on the names `kept` (m,), all others at zero, with the modes `left` (U, M) alone."""
    p, c = mixed.program, mixed.choices
    place = np.full(p.n, -1)
    place[kept] = np.arange(len(kept))
    mine = place[c.name] >= 0
    units = np.unique(c.unit[mine])
    lower, upper = np.where(left, c.lower, np.inf)[units], np.where(left, c.upper, -np.inf)[units]
    limit = replace(c.limits[0], units=np.arange(len(units)))
    choices = Choices(
        np.searchsorted(units, c.unit[mine]), place[c.name[mine]], lower, upper, c.cost[units], (limit,)
    )  # fmt: skip
    program = Program(
        np.ascontiguousarray(p.matrix[np.ix_(kept, kept)]), p.linear[kept], p.lower[kept], p.upper[kept],
        np.ascontiguousarray(p.rows[:, kept]), p.row_lower, p.row_upper,
    )  # fmt: skip
    return Mixed(program, choices)
