"""`Program` with an envelope of fixed costs: lines around an anchor, then parabolas, name by name.

    min 1/2 w'Qw + c'w + rate sum |w - held| + sum_i e_i(w_i)   over a slice,   e as in envelopes.py

Every name stands on one piece of its e, and on given pieces the program is a quadratic one. Names that end on an edge
of their piece go on to the next where the price there says so, which never raises the energy; where none does, that is
the minimum. Its bound is that of the multipliers found: no name can gain more than its price times its way.

Source: as program.py; Bertsekas, D. P. (1998), Network Optimization, chapter 9, for separable costs in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from portfolio_ebm.constraints.mixed.programs.columns import by_columns
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.linear import least_traded
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import (
    PRICE,
    ROUNDS,
    Array,
    Ints,
    Mask,
    Point,
    Slice,
    Solved,
    crossed,
    weights_of,
)

ROUNDING = 8.0 * float(np.finfo(np.float64).eps)
"""Of a name's share of the energy: what the bound allows for."""


@dataclass(frozen=True, kw_only=True)
class EnvelopedProgram(Program):
    """A program with e_i beside the rate.

    Attributes:
        envelope: of every name; its power is not part of this energy.
        plain: the program without it and with all that was split off for it.
    """

    envelope: Envelope
    plain: Program

    def value(self, w: Array) -> float:
        return super().value(w) + float(self.envelope.square(w).sum())

    @cached_property
    def home(self) -> Array:
        """Where a name rests until its price is asked, (n,)."""
        return self.envelope.anchor if self.held is None else self.held

    @cached_property
    def pieces(self) -> Pieces:
        return Pieces.of(self)

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        """As `Program.minimum`; where the active set fails it is the plain program's, whose bound holds here too."""
        slice_ = lower, upper, rows, row_lower, row_upper
        found = self.walked(*slice_, start)
        return without(self, self.envelope, self.plain, *slice_, start) if found is None else found

    def walked(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None,
    ) -> Point | None:  # fmt: skip
        """As `minimum`; None where the slice is empty or the active set fails."""
        if crossed(lower, upper) or crossed(row_lower, row_upper):
            return None
        slice_ = Slice(self, lower, np.maximum(lower, upper), rows, row_lower, row_upper)
        return _Walk(slice_, self).end(weights_of(start))


def without(
    p: Program, e: Envelope, plain: Program, lower: Array, upper: Array, rows: Array, row_lower: Array,
    row_upper: Array, start: Array | Point | None,
) -> Point | None:  # fmt: skip
    """The minimum of `plain`, the program p without its envelopes, whose energy is nowhere above p's and the constant
    together; None where the slice is empty. The value, and so the gap to the bound, is p's, and prices there are none.
    """
    found = plain.minimum(lower, upper, rows, row_lower, row_upper, start)
    if found is None:
        return None
    bound = found.bound - e.constant
    return replace(found, value=p.value(found.weights), bound=bound, prices=np.full(p.n, np.nan))


@dataclass(frozen=True)
class Pieces:
    """Of every name its pieces in order.

    Attributes:
        edges: (n, P + 1), infinite at the ends.
        slope, curve: (n, P), e and the rate have the slope `slope + curve w`.
        side: (n, P), -1 below what is held and 1 above.
    """

    edges: Array
    slope: Array
    curve: Array
    side: Array

    @classmethod
    def of(cls, p: EnvelopedProgram) -> Pieces:
        e, n = p.envelope, p.n
        inner = [e.anchor - e.knee[:, 0], e.anchor, e.anchor + e.knee[:, 1]]
        if p.held is not None and p.kinked and not np.array_equal(p.held, e.anchor):
            inner.append(p.held)
        edges = np.sort(np.column_stack([np.full(n, -np.inf), *inner, np.full(n, np.inf)]), axis=1)
        # A point inside each piece tells which side of what it is on.
        low, high = edges[:, :-1], edges[:, 1:]
        last = np.where(np.isfinite(low), low + 1.0, high - 1.0)
        with np.errstate(invalid="ignore"):
            at = np.where(np.isfinite(low) & np.isfinite(high), 0.5 * (low + high), last)
        at = np.where(np.isfinite(at), at, low)
        above = at > e.anchor[:, None]
        sign = np.where(above, 1.0, -1.0)
        knee, line, rise = (np.where(above, x[:, 1:], x[:, :1]) for x in (e.knee, e.slope, e.rise))
        beyond = np.abs(at - e.anchor[:, None]) > knee
        curve = np.where(beyond, 2.0 * e.split[:, None], 0.0)
        slope = sign * (line + np.where(beyond, rise, 0.0)) - curve * (
            e.anchor[:, None] + sign * np.where(beyond, knee, 0.0)
        )
        side = np.ones_like(at)
        if p.held is not None:
            side = np.where(at > p.held[:, None], 1.0, -1.0)
            slope = slope + np.broadcast_to(p.rate, n)[:, None] * side
        return cls(edges, slope, curve, side)

    @property
    def every(self) -> Ints:
        return np.arange(len(self.edges))

    def wide(self, lower: Array, upper: Array) -> Mask:
        """Which pieces have room in a box, (n, P)."""
        found: Mask = np.minimum(self.edges[:, 1:], upper[:, None]) > np.maximum(self.edges[:, :-1], lower[:, None])
        return found

    def holding(self, w: Array, wide: Mask) -> Ints:
        """The piece with room that holds each weight, of two the upper one; else one that holds it."""
        inside = (self.edges[:, :-1] <= w[:, None]) & (w[:, None] <= self.edges[:, 1:])
        rank = inside.astype(np.int64) + 2 * (inside & wide)
        return np.asarray(rank.shape[1] - 1 - rank[:, ::-1].argmax(axis=1))

    def following(self, piece: Ints, wide: Mask, step: int) -> tuple[Ints, Mask]:
        """The nearest piece with room beyond `piece`, upwards (1) or downwards (-1), and whether there is one."""
        away = (np.arange(wide.shape[1]) - piece[:, None]) * step
        rank = np.where(wide & (away > 0), away, wide.shape[1] + 1)
        other = rank.argmin(axis=1)
        return np.asarray(other), rank[self.every, other] <= wide.shape[1]

    def jump(self, w: Array, old: Ints, new: Ints, toll: float) -> Array:
        """What the slope at w is more on the piece `new`, (n,); `toll` is what a unit of turnover costs."""
        i = self.every
        bent = self.slope[i, new] - self.slope[i, old] + (self.curve[i, new] - self.curve[i, old]) * w
        return np.asarray(bent + toll * (self.side[i, new] - self.side[i, old]))


class _Walk:
    """From piece to piece on one slice."""

    def __init__(self, s: Slice, p: EnvelopedProgram) -> None:
        self.s, self.p, self.pieces = s, p, p.pieces
        self.home = p.home
        self.wide = p.pieces.wide(s.lower, s.upper)
        self.base, self.matrix = p.matrix.diagonal().copy(), p.matrix.copy()
        self.capped = bool(np.isfinite(p.turnover))

    def end(self, start: Array | None) -> Point | None:
        """The minimum; None where no pieces have a point."""
        p, s, home = self.p, self.s, self.home
        if start is not None:
            # A name that is out, as most are under a limit on numbers, rests there.
            home = self.home = np.where(start == p.envelope.anchor, p.envelope.anchor, home)
        piece = self.pieces.holding(s.rest(home if start is None else start), self.wide)
        moving = None if start is None else start != home
        best: tuple[Solved, Ints] | None = None
        for _ in range(ROUNDS):
            found = self._on(piece, moving)
            if found is None:
                if best is not None:
                    break
                # No point on these pieces; all of the box tells whether there is one on others.
                away = least_traded(s)
                again = piece if away is None else self.pieces.holding(s.rest(away), self.wide)
                if away is None or np.array_equal(again, piece):
                    return None
                piece, moving = again, away != home
                continue
            best = found, piece
            moved = piece
            for step, other, at_edge, price in self._ahead(found.weights, found.prices, piece, self._toll(found)):
                moved = np.where(at_edge & (step * price < -PRICE * p.scale), other, moved)
            if np.array_equal(moved, piece):
                break
            moving = (found.weights != home) | (moved != piece)
            piece = moved
        return None if best is None else self._point(*best)

    def _on(self, piece: Ints, moving: Mask | None) -> Solved | None:
        """The minimum with every name on its piece."""
        p, s, i = self.p, self.s, self.pieces.every
        low, high = self.pieces.edges[i, piece], self.pieces.edges[i, piece + 1]
        lower, upper = np.maximum(s.lower, np.minimum(low, s.upper)), np.minimum(s.upper, np.maximum(high, s.lower))
        np.fill_diagonal(self.matrix, self.base + self.pieces.curve[i, piece])
        inner = Program(self.matrix, p.linear, p.lower, p.upper, p.rows, p.row_lower, p.row_upper, self.home)
        vars(inner)["scale"] = p.scale
        rows, below, above = s.rows, s.low, s.high
        if self.capped:
            assert p.held is not None
            side = self.pieces.side[i, piece]
            rows, below = np.vstack([rows, side]), np.append(below, -np.inf)
            above = np.append(above, p.turnover + float(side @ p.held))
        part = Slice(inner, lower, upper, rows, below, above)
        return by_columns(part, p.linear + self.pieces.slope[i, piece], part.rest(self.home), moving)

    def _toll(self, found: Solved) -> float:
        """What the cap charges for a unit of turnover."""
        return max(-float(found.duals[-1]), 0.0) if self.capped else 0.0

    def _ahead(self, w: Array, prices: Array, piece: Ints, toll: float) -> Iterator[tuple[int, Ints, Mask, Array]]:
        """Downwards and upwards: the piece that follows, where w is on the edge to it, and the price there."""
        i = self.pieces.every
        for step in (-1, 1):
            other, able = self.pieces.following(piece, self.wide, step)
            edge = self.pieces.edges[i, piece + (step > 0)]
            # On the edge of the box there is none that follows.
            yield step, other, able & (step * (w - edge) >= 0.0), prices + self.pieces.jump(w, piece, other, toll)

    def _point(self, found: Solved, piece: Ints) -> Point:
        """The minimum, and the bound that its multipliers prove."""
        s, p, i, w = self.s, self.p, self.pieces.every, found.weights
        # A multiplier of a side that a row does not have is rounding.
        duals = np.where(np.isfinite(s.low), found.duals[: len(s.rows)], np.minimum(found.duals[: len(s.rows)], 0.0))
        duals = np.where(np.isfinite(s.high), duals, np.maximum(duals, 0.0))
        toll, slope, at = self._toll(found), p.slope(w), s.rows @ w
        bare = slope - duals @ s.rows + self.pieces.slope[i, piece] + self.pieces.curve[i, piece] * w
        prices = bare + toll * self.pieces.side[i, piece]
        lost, value = 0.0, p.value(w)
        with np.errstate(invalid="ignore"):
            for step, _, at_edge, ahead in self._ahead(w, prices, piece, toll):
                price, way = np.where(at_edge, ahead, prices), (s.upper - w) if step > 0 else (w - s.lower)
                lost += float(np.where(step * price < 0.0, np.abs(price) * way, 0.0).sum())
            slack = np.where(duals > 0.0, at - s.low, s.high - at)
            lost += float(np.where(duals != 0.0, np.abs(duals) * slack, 0.0).sum())
        size = abs(value) + float((np.abs(slope) + np.abs(p.linear)) @ np.abs(w) + np.abs(duals) @ np.abs(at))
        if toll:
            assert p.held is not None
            lost += toll * (p.turnover - float(np.abs(w - p.held).sum()))
            size += toll * p.turnover
        return Point(w, value, slope - duals @ s.rows, value - max(lost, 0.0) - ROUNDING * p.n * size, toll=toll)
