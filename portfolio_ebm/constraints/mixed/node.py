"""A node: which modes are still open, the convex relaxation below it, and what its solution says.

`relax` minimises over a set that holds every slice of the node; where its point obeys every choice (reading.py), the
relaxation has solved the node. A node with one mode a unit is a slice, and `relax` is exact there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from portfolio_ebm.constraints.caps import Cap
from portfolio_ebm.constraints.mixed.choices import Choices, Limit, least, most, some
from portfolio_ebm.constraints.mixed.fees import furthest, known, missing_cost
from portfolio_ebm.constraints.mixed.kinks import Kinks, on_sides
from portfolio_ebm.constraints.mixed.perspective import Perspective
from portfolio_ebm.constraints.mixed.programs.mending import mended
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Cut, Ints, Mask, Point, Slice, weights_of
from portfolio_ebm.constraints.mixed.programs.splitting import Split
from portfolio_ebm.constraints.mixed.view import View

CUTS = 60
MET = TOLERANCE / 2
"""A cap this near is met: less than the tolerance that a portfolio is held to, since both are rounded."""


@dataclass(frozen=True)
class Mixed:
    """min 1/2 w'Qw + c'w + costs of modes, over a program's rules, convex caps and choices.

    Attributes:
        program: energy, box and rows.
        choices: the units and their modes.
        caps: convex caps, taken by cuts.
        perspective: how relaxations price a limit on numbers; None where they do not.
        left: the modes (U, M) that a proof still has to look at; None: all.
    """

    program: Program
    choices: Choices
    caps: tuple[Cap, ...] = ()
    perspective: Perspective | None = None
    left: Mask | None = None

    @property
    def short(self) -> bool:
        """Whether a relaxation's energy may be short of that of the modes it is read as."""
        return self.choices.priced or self.perspective is not None

    @cached_property
    def split(self) -> Split | None:
        """What relaxations take off the quadratic for the envelopes of what modes cost."""
        if self.perspective is not None:
            return self.perspective.split
        return Split.of(self.program.matrix) if known(self.program) else None

    @cached_property
    def reach(self) -> Array:
        """How far each name can go from what is held, (n, 2)."""
        return furthest(self.program)

    def dues(self, allowed: Mask, price: float | None = None) -> tuple[Choices, float]:
        """The choices with what relaxations of the open modes make them cost, at a `price` other than the perspective's
        own, and what that is too much by at least."""
        view = self.perspective
        if view is None or view.idle(allowed):
            return self.choices, 0.0
        price = view.price if price is None else price
        return view.dues(self.choices, price), price * view.limit.most

    def missing(self, allowed: Mask, modes: Ints, w: Array) -> Array:
        """By how much the relaxation's energy at w (n,) is short of that of the modes it is read as, (U,)."""
        dues, _ = self.dues(allowed)
        envelope = View.of(self, allowed, None).envelope
        return missing_cost(dues, allowed, np.zeros_like(w) if envelope is None else envelope.missing(w), modes)

    @cached_property
    def curve(self) -> Array:
        """The largest curvature of a unit's names, (U,)."""
        found = np.zeros(self.choices.units)
        np.maximum.at(found, self.choices.unit, self.program.diagonal[self.choices.name])
        return found

    @cached_property
    def kinks(self) -> Kinks | None:
        """The limit as a cap, where one on masses of single names in one of two modes, under a plain quadratic, is all
        there is: kinks.py takes it."""
        c, plain = self.choices, type(self.program) is Program and not self.program.kinked
        alone = len(c.limits) == 1 and c.limits[0].mass and len(c.single[1]) == c.units
        # Where choices were joined a limit may be left without a mode to count, or with nothing but such modes.
        two = c.lower.shape[1] == 2 and alone and len(c.limits[0].modes) == 1
        if not (plain and two) or self.caps or self.short:
            return None
        return Kinks.of(c, c.limits[0])

    def root(self) -> Mask | None:
        """The modes that a unit's own names can reach, propagated, (U, M); None where there is no choice left."""
        return None if self._root is None else self._root.copy()

    @cached_property
    def _root(self) -> Mask | None:
        c = self.choices
        low, high = c.weights(self.program.lower), c.weights(self.program.upper)
        found = c.exists & (c.lower <= high[:, None] + TOLERANCE) & (c.upper >= low[:, None] - TOLERANCE)
        return propagate(c, found if self.left is None else found & self.left)


def propagate(choices: Choices, allowed: Mask) -> Mask | None:
    """`allowed` less the modes that a limit on numbers has used up; None where one cannot be met."""
    counts = [limit for limit in choices.limits if not limit.mass]
    if not counts:
        return allowed if some(allowed).all() else None
    open_ = allowed.copy()
    for _ in range(len(choices.limits) + 1):
        before = int(open_.sum())
        if not some(open_).all():
            return None
        for limit in counts:
            inside, outside = limit.split(open_)
            able = some(inside)
            decided = able & ~some(outside)
            if decided.sum() > limit.most or able.sum() < limit.least:
                return None
            if decided.sum() == limit.most:
                undecided = able & ~decided
                open_[limit.units[undecided]] = outside[undecided]
            elif able.sum() == limit.least:
                open_[limit.units[able]] = inside[able]
        if int(open_.sum()) == before:
            return open_ if some(open_).all() else None
    return open_ if some(open_).all() else None


def hull(choices: Choices, allowed: Mask) -> tuple[Array, Array]:
    """The least and the largest x_u over the open modes, (U,) each."""
    lower, upper = choices.ends(allowed)
    return least(lower), most(upper)


def relax(mixed: Mixed, allowed: Mask, start: Array | Point | None = None, enough: float = np.inf) -> Point | None:
    """The minimum over the node's relaxation, costs of decided modes included; None where it is empty.

    Args:
        start: (n,), a point whose cuts and names are tried first, or the minimum of a node that this one is a part of;
            where that obeys this one's relaxation it is the minimum here too, and handed back itself.
        enough: a node whose bound is at least this is not solved further.
    """
    c = mixed.choices
    ends, w0 = c.ends(allowed), weights_of(start)
    between = least(ends[0]), most(ends[1])
    box = lower, upper, rows, low, high = node_box(mixed, *between)
    whole = None if mixed.kinks is None else _on_sides(mixed, allowed, box, start)
    if whole is not None:
        return whole
    sides = [Side.of(ends, allowed, limit) for limit in c.limits]
    if isinstance(start, Point) and _inherits(mixed, between, sides, start.weights):
        return start
    view = View.of(mixed, allowed, start)
    p = view.program
    decided, cuts = view.constant, start.cuts if isinstance(start, Point) else ()
    x0 = None if w0 is None else c.weights(w0)
    taken = _taken([], [*(cut for side in sides for cut in _cuts(c, side, x0, p.n)), *cuts])
    near = start
    point: Point | None = None
    for _ in range(CUTS):
        point = p.minimum(lower, upper, *_stacked(rows, low, high, taken), near, enough - decided)
        if point is None:
            return None
        broken = _violated(mixed, sides, point.weights) if point.bound < enough - decided else []
        if not broken:
            break
        near = point
        taken = _taken(taken, broken)
    assert point is not None
    tight = tuple(cut for cut in taken if not cut[1] + TOLERANCE < cut[0] @ point.weights < cut[2] - TOLERANCE)
    point = _plus(point, decided)
    return replace(point, cuts=tight, price=view.next_price(point.weights), open=view.open(point, enough))


def _on_sides(mixed: Mixed, allowed: Mask, box: tuple[Array, ...], start: Array | Point | None) -> Point | None:
    """The minimum of a node from the sides of its kinks that a start is on: what cuts close in as many rounds as there
    are weights at a kink. None where it was not reached."""
    assert mixed.kinks is not None
    (limit,), slice_ = mixed.choices.limits, Slice(mixed.program, *box)
    mine, (other,) = limit.own(allowed), limit.others(2)
    kinks = mixed.kinks.among(mine[:, 1 - other], mine[:, other])
    whole = start
    if whole is None:
        whole = mixed.program.minimum(slice_.lower, slice_.upper, slice_.rows, slice_.low, slice_.high)
    if isinstance(whole, Point) and slice_.holds(whole.weights) and kinks.hold(whole.weights):
        return whole
    return None if whole is None else on_sides(slice_, kinks, np.asarray(weights_of(whole)))


def _inherits(mixed: Mixed, between: tuple[Array, Array], sides: Sequence[Side], w: Array) -> bool:
    """Whether w (n,), the minimum of a node that this one is a part of, obeys this one's relaxation. Where modes cost
    something, what they cost differs, and the answer is no."""
    if mixed.short:
        return False
    x = mixed.choices.weights(w)
    return not ((x < between[0]).any() or (x > between[1]).any()) and not _violated(mixed, sides, w)


def on_slice(
    mixed: Mixed, modes: Ints, start: Array | Point | None = None, enough: float = np.inf
) -> Point | None:  # fmt: skip
    """The minimum with every unit's mode given, (U,), costs included: what `relax` is on a slice, in fewer steps;
    arguments as there."""
    c, p = mixed.choices, mixed.program
    every, held = np.arange(c.units), [limit.holds(modes) for limit in c.limits]
    for limit, here in zip(c.limits, held, strict=True):
        if not limit.mass and not limit.least <= np.count_nonzero(here) <= limit.most:
            return None
    lower, upper, rows, low, high = node_box(mixed, c.lower[every, modes], c.upper[every, modes])
    for limit, here in zip(c.limits, held, strict=True):
        if limit.mass and here.any():
            big = np.zeros(c.units)
            big[limit.units[here]] = 1.0
            rows, low, high = _with(rows, low, high, c.spread(big, p.n), -np.inf, limit.most)
    near = start
    cost = float(c.cost[every, modes].sum())
    point: Point | None = None
    for _ in range(CUTS):
        point = p.minimum(lower, upper, rows, low, high, near, enough - cost)
        if point is None:
            return None
        cuts = _broken(mixed.caps, point.weights) if point.bound < enough - cost else []
        if not cuts:
            return _plus(point, cost)
        for cut in cuts:
            rows, low, high = _with(rows, low, high, *cut)
    assert point is not None
    w = mended(Slice(p, lower, upper, rows, low, high), mixed.caps, point.weights)
    return None if w is None else _plus(replace(point, weights=w, value=p.value(w)), cost)


def _plus(point: Point, cost: float) -> Point:
    return point if cost == 0.0 else replace(point, value=point.value + cost, bound=point.bound + cost)


def node_box(mixed: Mixed, low: Array, high: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Box and rows where the units are in [low, high], (U,) each: a unit of one name tightens the box, one of several
    adds a row."""
    c, p = mixed.choices, mixed.program
    lower, upper = p.lower.copy(), p.upper.copy()
    name, unit = c.single
    np.maximum.at(lower, name, low[unit])
    np.minimum.at(upper, name, high[unit])
    rows, bottom, top = p.rows, p.row_lower, p.row_upper
    if len(unit) < c.units:
        least, most = c.weights(p.lower), c.weights(p.upper)
        binding = (c.size > 1) & ((low > least + TOLERANCE) | (high < most - TOLERANCE))
        for u in np.flatnonzero(binding):
            row = c.spread((np.arange(c.units) == u).astype(np.float64), p.n)
            rows, bottom, top = _with(rows, bottom, top, row, low[u], high[u])
    # A hull that rounding turned over is a point.
    return lower, np.where((upper < lower) & (upper > lower - TOLERANCE), lower, upper), rows, bottom, top


def _stacked(rows: Array, low: Array, high: Array, cuts: Sequence[Cut]) -> tuple[Array, Array, Array]:
    if not cuts:
        return rows, low, high
    more, below, above = zip(*cuts, strict=True)
    return np.vstack([rows, *more]), np.append(low, below), np.append(high, above)


def _taken(cuts: Sequence[Cut], more: Sequence[Cut]) -> list[Cut]:
    """Both, of cuts with the same row the tighter one."""
    found = {row.tobytes(): (row, below, above) for row, below, above in cuts}
    for row, below, above in more:
        key = row.tobytes()
        _, least, most = found.get(key, (row, -np.inf, np.inf))
        found[key] = (row, max(below, least), min(above, most))
    return list(found.values())


def _with(rows: Array, low: Array, high: Array, row: Array, below: float, above: float) -> tuple[Array, Array, Array]:
    return np.concatenate((rows, row[None])), np.concatenate((low, (below,))), np.concatenate((high, (above,)))


def _violated(mixed: Mixed, sides: Sequence[Side], w: Array) -> list[Cut]:
    """Cuts that the point breaks."""
    x, found = mixed.choices.weights(w), []
    for side in sides:
        cuts = _cuts(mixed.choices, side, x, mixed.program.n)
        found += [cut for cut in cuts if not cut[1] - TOLERANCE <= cut[0] @ w <= cut[2] + TOLERANCE]
    return [*found, *_broken(mixed.caps, w)]


def broken_cuts(mixed: Mixed, allowed: Mask, w: Array) -> list[Cut]:
    """Rows that hold for all portfolios of the open modes and that w (n,) breaks: of caps and of limits."""
    ends = mixed.choices.ends(allowed)
    return _violated(mixed, [Side.of(ends, allowed, limit) for limit in mixed.choices.limits], w)


def met(caps: Sequence[Cap], w: Array) -> bool:
    """Whether w (n,) obeys every cap."""
    return not _broken(caps, w)


def _broken(caps: Sequence[Cap], w: Array) -> list[Cut]:
    """Cuts of the convex caps that the point breaks."""
    found = []
    for cap in caps:
        row, most = cap.cut(w)
        if row @ w > most + MET:
            found.append((row, -np.inf, most))
    return found


def _cuts(choices: Choices, side: Side, x: Array | None, n: int) -> list[Cut]:
    """The cuts of a limit with the pieces that are positive at x; without x, those that always are."""
    found = [_at_most(choices, side, x, n), _at_least(choices, side, x, n)]
    return [cut for cut in found if cut is not None]


@dataclass(frozen=True)
class Side:
    """The units of a limit seen from its modes: decided for them or open; [low, high] in them, [a, b] in the others."""

    limit: Limit
    decided: Mask
    open: Mask
    low: Array
    high: Array
    a: Array
    b: Array

    @classmethod
    def of(cls, ends: tuple[Array, Array], allowed: Mask, limit: Limit) -> Side:
        """Of the open modes `allowed` (U, M) and their ends (`Choices.ends`)."""
        open_, (lower, upper) = limit.own(allowed), (limit.own(end) for end in ends)
        others = limit.others(allowed.shape[1])
        able, other = some(open_, limit.modes), some(open_, others)
        return cls(
            limit, able & ~other, able & other,
            least(lower, limit.modes), most(upper, limit.modes), least(lower, others), most(upper, others),
        )  # fmt: skip

    @cached_property
    def rise(self) -> tuple[Mask, Mask, Array]:
        """Units whose weight can say that they are counted, those where any weight does, and the slope of the count."""
        rising = self.open & (self.high > self.b) & np.isfinite(self.high)
        always = rising & (self.b == 0.0) & (self.a == 0.0) & (self.low >= 0.0)
        top = self.high if self.limit.mass else 1.0
        return rising, always, np.divide(top, self.high - self.b, out=np.zeros(len(self.b)), where=rising)

    @cached_property
    def fall(self) -> tuple[Mask, Array]:
        """Units that are counted where they weigh too little for the other modes, and the slope of the count."""
        falling = self.open & (self.low < self.a) & np.isfinite(self.low)
        return falling, np.divide(1.0, self.a - self.low, out=np.zeros(len(self.a)), where=falling)


def _at_most(choices: Choices, s: Side, x: Array | None, n: int) -> Cut | None:
    """sum of the counts (or masses) that each weight needs at least <= what is left."""
    limit, units = s.limit, s.limit.units
    if not np.isfinite(limit.most):
        return None
    coefficient = np.zeros(choices.units)
    rest = float(limit.most)
    if limit.mass:
        coefficient[units[s.decided]] = 1.0
    else:
        rest -= s.decided.sum()
    rising, always, up = s.rise
    take_up = always if x is None else rising & ((x[units] > s.b) | always)
    coefficient[units[take_up]] += up[take_up]
    change = (up[take_up] * s.b[take_up]).sum()
    if x is not None and not limit.mass:
        falling, down = s.fall
        take_down = falling & (x[units] < s.a)
        coefficient[units[take_down]] -= down[take_down]
        change -= (down[take_down] * s.a[take_down]).sum()
    rest += change
    return (choices.spread(coefficient, n), -np.inf, float(rest)) if (coefficient != 0.0).any() else None


def _at_least(choices: Choices, s: Side, x: Array | None, n: int) -> Cut | None:
    """sum of the counts that each weight allows at most >= what is needed."""
    limit, units = s.limit, s.limit.units
    reach = s.open & (s.low > s.b)
    if limit.mass or limit.least <= s.decided.sum() or not reach.any():
        return None
    at, a = units[reach], s.a[reach]
    slope = 1.0 / (s.low[reach] - a)
    short = np.ones(len(at), dtype=bool) if x is None else (x[at] - a) * slope < 1.0
    coefficient = np.zeros(choices.units)
    coefficient[at[short]] = slope[short]
    need = limit.least - s.decided.sum() - (s.open.sum() - short.sum()) + (slope * a)[short].sum()
    return choices.spread(coefficient, n), float(need), np.inf
