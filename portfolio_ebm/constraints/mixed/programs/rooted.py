"""`Program` whose energy has the root of a quadratic in it: a volatility or a tracking error, and more beside it.

    E(w) = (size X(w))^(1/2) + F(w),    X(w) = (w - b)'M(w - b),    F(w) = c'w + rate sum |w - held|

For every t > 0 a quadratic lies above it, E(w) <= (X(w)/2 + t F(w)) / t + size t/2, and touches it where X(w) is
size t^2. So its minimum is that of the quadratic at the t which fits, X(w_t) = size t^2: a root in t, which secants
find in three or four programs.

The bound is true at any t. With y = M(w - b) and s = (X(w) / size)^(1/2), Cauchy and Schwarz say

    (size X(x))^(1/2) >= y'(x - b) / max(s, t)    for all x

and what y and t F gain over the slice, the multipliers of the quadratic program tell (lost.py).

Where at most K names may be in, a price of a name makes the quadratic convex in less than M (envelopes.py): with
R + 2 D = M, e_i is the envelope of d_i w_i^2 + price. With h_i the slope of e_i at w and y = R w + h, for all x of at
most K names

    (size X(x))^(1/2) >= y'x / max(s, t),    size s^2 = w'R w + sum of the K largest h_i^2 / (2 d_i),

those names among the K that are decided for it or not counted, since y'x is a product of what X(x) and size s^2 are the
squares of. The slope of an e_i that has the rate in it is h_i + r_i, with |r_i| <= t rate: a name that is out pays
t rate |held_i|, and one that is in at least r_i (x_i - held_i), which is less by t rate |held_i| + r_i held_i, for K
names at most. R has to be convex with the names that stay at a weight too: y'x has them in it.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, section 3.1.7; Hunter, D. and Lange, K. (2004), A
tutorial on MM algorithms, The American Statistician 58; Argyriou, A., Foygel, R. and Srebro, N. (2012), Sparse
prediction with the k-support norm, NeurIPS 25.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from portfolio_ebm.constraints.mixed.programs.columns import smooth
from portfolio_ebm.constraints.mixed.programs.enveloped import EnvelopedProgram
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.lost import SMALL
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.sides import from_sides
from portfolio_ebm.constraints.mixed.programs.slice import Array, Mask, Point, Slice, crossed, weights_of
from portfolio_ebm.constraints.mixed.programs.splitting import Split

Ends = tuple[Array, Array, Array, Array, Array]
"""A slice: lower, upper, rows, row_lower, row_upper."""

STEPS = 24
FITS = 1e-12
"""How near t has to be to s, both in units of the local model's."""
FIRST, LEAST = 1e-2, 3e-6
"""The least t to begin at, and of all: below it the root is a kink, and E there is all but F."""
CLOSED = 1e-8
"""A gap above this, in units of `size`, is given to another engine."""


@dataclass(frozen=True)
class Counted:
    """Of a limit on numbers: the names that count where they are in, (n,), and how many of them may be."""

    open: Mask
    most: int


@dataclass(frozen=True, kw_only=True)
class RootedProgram(Program):
    """A program with a root; `matrix` is M and `linear` is c - M b, so that both are E's local model where t is 1.

    Attributes:
        size: X where t is 1, and the root there.
        flat: c, (n,).
        centre: b, (n,).
        otherwise: E as another program, asked where this one comes to no end.
        envelope, rest, split, counted: the e_i where t is 1, R, d and whom the price is for; all or none, and then b is
            zero. price: of a name.
    """

    size: float
    flat: Array
    centre: Array
    otherwise: Program
    envelope: Envelope | None = None
    rest: Array | None = None
    split: Array | None = None
    counted: Counted | None = None
    price: float = 0.0

    @property
    def straight(self) -> Array:
        return self.flat

    def value(self, w: Array) -> float:
        return self.size * self._sigma(w) + self._beside(w)

    def _beside(self, w: Array) -> float:
        """F."""
        cost = 0.0 if self.held is None else float((self.rate * np.abs(w - self.held)).sum())
        return float(self.flat @ w) + cost

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        if crossed(lower, upper) or crossed(row_lower, row_upper):
            return None
        slice_ = lower, np.maximum(lower, upper), rows, row_lower, row_upper
        found = self._by_steps(slice_, weights_of(start), enough) if self.bounded else None
        # In the kink, at b or where M does not see the way to it, steps come near and no further.
        if found is not None and self._sigma(found.weights) > 2.0 * LEAST:
            return found
        if self.envelope is not None:
            return self.bare.minimum(*slice_, start, enough)
        other = self.otherwise.minimum(*slice_, start, enough)
        if found is None or other is None:
            return found or other
        return self._better(found, other)

    def priced(self, split: Split, price: float, counted: Counted) -> RootedProgram:
        """With a price on the names of a limit on numbers; b has to be zero.

        No end of a box makes the lines of the envelope steeper: the bound knows of the price alone.
        """
        found = replace(self, rest=split.rest, split=split.diagonal, counted=counted, price=price)
        return replace(found, envelope=found._envelope(1.0))

    @property
    def bare(self) -> RootedProgram:
        """Without the envelope."""
        return replace(self, envelope=None, rest=None, split=None, counted=None)

    def _envelope(self, t: float) -> Envelope:
        """The e_i with t times the rate in them, but of names that may be sold short."""
        assert self.split is not None and self.counted is not None
        open_, zero = self.counted.open, np.zeros(self.n)
        fixed, rate = np.where(open_, self.price, 0.0), np.where((self.lower >= 0.0) & open_, t * self.rate, 0.0)
        return Envelope.of(zero, fixed, np.full((self.n, 2), np.inf), self.split, zero, 0.0, rate, self.held)

    def _by_steps(self, slice_: Ends, near: Array | None, enough: float) -> Point | None:
        """The minimum by secants in t; None where they do not end, or a program fails."""
        best: Point | None = None
        seen: list[tuple[float, float]] = []
        s = t = 1.0 if near is None else max(self._sigma(near), FIRST)
        for _ in range(STEPS):
            found = self._at(t, slice_, near)
            if found is None:
                return None
            point, s = found
            best = point if best is None else self._better(best, point)
            if abs(s - t) <= FITS or max(s, t) <= LEAST or best.bound >= enough:
                break
            near, seen = point.weights, [*seen[-1:], (t, s - t)]
            t = max(_secant(seen, s), LEAST)
        assert best is not None
        closed = best.value - best.bound <= CLOSED * self.size or best.bound >= enough
        return best if closed or self.envelope is not None or max(s, t) <= LEAST else None

    def _better(self, one: Point, other: Point) -> Point:
        """The lower of two; under an envelope, where values are not those of E, the one of the higher bound. Each bound
        is one of both."""
        bound = max(one.bound, other.bound)
        if self.envelope is None:
            one, other = (one, other) if one.value <= other.value else (other, one)
        elif other.bound == bound:
            one = other
        return replace(one, bound=min(bound, one.value))

    def _sigma(self, w: Array) -> float:
        away = w - self.centre
        return float(np.sqrt(max(float(away @ self.matrix @ away), 0.0) / self.size))

    def _at(self, t: float, slice_: Ends, near: Array | None) -> tuple[Point, float] | None:
        """The minimum of the quadratic at t, as a point of E, and its s."""
        inner = self._quadratic(t)
        found = _minimum(inner, slice_, near)
        if found is None or not np.isfinite(found.bound):
            return None
        w, lost = found.weights, max(found.value - found.bound, 0.0)
        along, s, beside = self._tangent(w, inner, t)
        # What the multipliers' loss leaves to rounding is not small where it is divided by a small t.
        lost += SMALL * (float(np.abs(inner.linear) @ np.abs(w)) + along) * max(1.0 - t, 0.0)
        low = along / t + beside - lost / t
        if s > t:
            # E >= t/s of what holds at t, and c'w for the rest.
            low = t / s * low + (1.0 - t / s) * float(np.minimum(self.flat * slice_[0], self.flat * slice_[1]).sum())
        value = max(self.size * s + beside, low) if self.envelope is not None else self.size * s + beside
        return Point(w, value, found.prices / t, min(low, value), toll=found.toll / t), s

    def _tangent(self, w: Array, inner: Program, t: float) -> tuple[float, float, float]:
        """y'(w - b), s, and F, or under an envelope what is left of it."""
        if not isinstance(inner, EnvelopedProgram):
            away = w - self.centre
            along = float(away @ self.matrix @ away)
            return along, float(np.sqrt(max(along, 0.0) / self.size)), self._beside(w)
        assert self.rest is not None and self.counted is not None
        e, own = inner.envelope, float(w @ self.rest @ w)
        slope = _slope(e, w)
        inside = np.clip(slope - 2.0 * e.split * e.held, -e.rate, e.rate)
        share = np.divide((slope - inside) ** 2, 4.0 * e.split, out=np.zeros(self.n), where=e.split > 0.0)
        open_, most = self.counted.open, self.counted.most
        square = own + 2.0 * float(share[~open_].sum() + _largest(share[open_], most))
        cost = 0.0 if self.held is None else float((inner.rate / t * np.abs(w - self.held)).sum())
        spared = float(e.there.sum()) / t - _largest((e.there + inside * e.held)[open_], most) / t
        return (
            own + float(slope @ np.abs(w)),
            float(np.sqrt(max(square, 0.0) / self.size)),
            float(self.flat @ w) + cost + spared,
        )

    def _quadratic(self, t: float) -> Program:
        """X/2 + t F, under the envelope where there is one."""
        linear = t * self.flat + (self.linear - self.flat)
        box = self.lower, self.upper, self.rows, self.row_lower, self.row_upper
        data = *box, self.held, t * self.rate, self.turnover
        plain = Program(self.matrix, linear, *data)
        inner = plain
        if self.envelope is not None and self.rest is not None:
            e = self._envelope(t)
            rate = t * self.rate - e.rate if e.rate.any() else t * self.rate
            inner = EnvelopedProgram(
                self.rest, linear, *box, self.held, rate, self.turnover, envelope=e, plain=plain
            )  # fmt: skip
        # What all of them share is not worked out for each.
        vars(inner)["scale"], vars(inner)["bounded"] = max(self._steepest, t * self.scale), True
        return inner

    @cached_property
    def _steepest(self) -> float:
        """The largest entry of M."""
        return max(float(np.abs(self.matrix).max()), 1e-300)


def _minimum(p: Program, slice_: Ends, near: Array | None) -> Point | None:
    """The minimum of a quadratic, bounded by its slope there alone; None where the active set finds none."""
    if isinstance(p, EnvelopedProgram):
        return p.walked(*slice_, near)
    part = Slice(p, *slice_)
    return from_sides(part, near) if p.kinked else smooth(part, part.rest(0.0), None if near is None else near != 0.0)


def _slope(e: Envelope, w: Array) -> Array:
    """Of the e_i at w away from zero, (n,)."""
    side = (w >= 0.0).astype(np.int64)[:, None]
    line, knee, rise = (np.take_along_axis(x, side, axis=1)[:, 0] for x in (e.slope, e.knee, e.rise))
    beyond = np.abs(w) - knee
    return np.asarray(line + np.where(beyond > 0.0, rise + 2.0 * e.split * np.maximum(beyond, 0.0), 0.0))


def _largest(x: Array, count: int) -> float:
    """The sum of the `count` largest of x (k,)."""
    return float(np.sort(x)[::-1][:count].sum())


def _secant(seen: list[tuple[float, float]], s: float) -> float:
    """Where a line through the last two of (t, s - t) is zero; s where there is one alone, or the line is level."""
    if len(seen) < 2 or seen[0][1] == seen[1][1]:
        return s
    (t0, g0), (t1, g1) = seen
    return t1 - g1 * (t1 - t0) / (g1 - g0)


def rooted(program: Program) -> bool:
    """Whether a limit on numbers can be priced under the program's root."""
    return isinstance(program, RootedProgram) and not program.centre.any()
