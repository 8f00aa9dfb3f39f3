"""What proves a minimum: a lower bound and a KKT residual from given multipliers, checked in O(S n).

For a convex E and caps g_k(w) <= limit_k, every multiplier says a function below E on the whole region, made of an
affine part and of one piecewise linear function for each name:

    smooth      phi(w*) + grad phi(w*)'(w - w*)
    tail        (L w - m)'q,                        0 <= q <= c/count, sum q = c
    hinges      sum_s q_s (a_s'w - b_s),            0 <= q <= price
    square      y kink(w) - y^2 / 4c,               y >= 0
    falls       -sum_t F_t x_t(w),                  F as in falls.py
    row         nu (A w - its side),                the side by the sign of nu
    cap         lambda (g(w) - limit), lambda >= 0: an L1 ball as it is, a tail by its q, an ellipsoid by its
                tangent at w*: lambda (s'(w - centre) - limit), s = S (w* - centre) / g(w*)

The least value of their sum over the box stands, name by name, on a kink or an end, and is a lower bound on E over the
region, whatever solver the multipliers came from; it is tight when they are optimal.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints.caps import Ball, Cap, Ellipsoid
from portfolio_ebm.constraints.caps import Tail as TailCap
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.falls import shares
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.exact.pieces import Kink, Tail
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Multipliers:
    """Duals of one solution: `tails` one vector q per tail, those of the formula's pieces last, `rows` signed
    (positive: the upper side pulls), `turnover` non-negative, `hinges` and `squares` of the pieces, `caps` one for each
    cap of the box, `cap_tails` the q of each cap that is a tail, nothing for the others, and `falls` what flows over
    each step of the paths."""

    tails: tuple[Array, ...]
    rows: Array
    turnover: float
    hinges: tuple[Array, ...] = ()
    squares: tuple[float, ...] = ()
    caps: tuple[float, ...] = ()
    cap_tails: tuple[Array, ...] = ()
    falls: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Duals:
    """Multipliers of the rules at a minimum: dE*/d(bound) is minus the one of an upper bound, plus the one of a lower.

    `rows` are signed (positive: the upper side pulls); `lower`, `upper` (n,), `turnover` and `caps`, one for each cap
    beside turnover, are non-negative. They are of the folded region.
    """

    rows: Array
    lower: Array
    upper: Array
    turnover: float
    caps: tuple[float, ...] = ()

    def scaled(self, factor: float) -> Duals:
        """Those of `factor` times the energy."""
        return Duals(
            factor * self.rows, factor * self.lower, factor * self.upper, factor * self.turnover,
            tuple(factor * cap for cap in self.caps),
        )  # fmt: skip


@dataclass(frozen=True)
class Box:
    """The region, folded, as numpy arrays; `caps` are what is left beside box, rows and turnover."""

    lower: Array
    upper: Array
    rows: Array
    row_lower: Array
    row_upper: Array
    anchor: Array
    turnover: float | None
    caps: tuple[Cap, ...] = ()

    @classmethod
    def of(cls, region: Region) -> Box:
        region = region.folded()
        lower, upper, rows, row_lower, row_upper = (
            as_numpy(x) for x in (region.lower, region.upper, region.rows, region.row_lower, region.row_upper)
        )
        anchor = np.zeros(len(lower)) if region.anchor is None else as_numpy(region.anchor)
        cap = region.turnover if region.anchor is not None else None
        caps = tuple(one.to(torch.zeros(0, dtype=torch.float64)) for one in region.caps)
        return cls(lower, upper, rows, row_lower, row_upper, anchor, cap, caps)

    @property
    def sides(self) -> tuple[Mask, Mask, Mask]:
        """Rows that are equations, and of the others those with an upper and with a lower end."""
        equal = self.row_upper - self.row_lower <= 1e-14
        return equal, ~equal & np.isfinite(self.row_upper), ~equal & np.isfinite(self.row_lower)

    @property
    def impossible(self) -> bool:
        """Whether one row, or the turnover cap, alone cannot be met within the box; False does not mean possible."""
        positive, negative = self.rows > 0.0, self.rows < 0.0
        least = (self.rows * np.where(positive, self.lower, np.where(negative, self.upper, 0.0))).sum(-1)
        most = (self.rows * np.where(positive, self.upper, np.where(negative, self.lower, 0.0))).sum(-1)
        if (least > self.row_upper + 1e-11).any() or (most < self.row_lower - 1e-11).any():
            return True
        if self.turnover is None:
            return False
        needed = np.abs(np.clip(self.anchor, self.lower, self.upper) - self.anchor).sum()
        return bool(needed > self.turnover + 1e-11)

    def implied(self) -> tuple[Array, Array]:
        """Bounds that the turnover cap and the rows imply as well; the rows are asked only where the box is open."""
        lower, upper = self.lower.copy(), self.upper.copy()
        if self.turnover is not None:
            lower, upper = (
                np.maximum(lower, self.anchor - self.turnover),
                np.minimum(upper, self.anchor + self.turnover),
            )
            lower, upper = np.minimum(lower, self.upper), np.maximum(upper, self.lower)
        for cap in self.caps:
            if np.isfinite(lower).all() and np.isfinite(upper).all():
                break
            low, high = _reach(cap)
            lower, upper = (
                np.minimum(np.maximum(lower, low), self.upper),
                np.maximum(np.minimum(upper, high), self.lower),
            )
        for _ in range(3):
            if np.isfinite(lower).all() and np.isfinite(upper).all():
                break
            for row, low, high in zip(self.rows, self.row_lower, self.row_upper, strict=True):
                _tighten(row, high, lower, upper)
                _tighten(-row, -low, lower, upper)
        return lower, upper


def _reach(cap: Cap) -> tuple[Array, Array]:
    """The least and the largest weight of each name that an L1 ball or an ellipsoid allows; infinite where it allows
    any, and for other caps."""
    if isinstance(cap, Ball):
        kink, free = Kink.of(cap), np.full(cap.centre.shape, np.inf)
        down, up = (np.divide(cap.limit, x, out=free.copy(), where=x > 0.0) for x in (kink.down, kink.up))
        return kink.centre - down, kink.centre + up
    if isinstance(cap, Ellipsoid):
        values, vectors = np.linalg.eigh(cap.matrix.dense().numpy())
        if values.min() > 1e-9 * values.max():
            # max w_i - c_i over the ellipsoid is limit * sqrt of the inverse's diagonal; rounding is given away.
            width = cap.limit * (1.0 + 1e-6) * np.sqrt((vectors**2 / values).sum(1))
            return cap.centre.numpy() - width, cap.centre.numpy() + width
    return np.array(-np.inf), np.array(np.inf)


def _tighten(row: Array, high: float, lower: Array, upper: Array) -> None:
    """Use row . w <= high on the open sides of the box, in place."""
    if not np.isfinite(high):
        return
    positive, negative = row > 0.0, row < 0.0
    up, down = positive & np.isinf(upper), negative & np.isinf(lower)
    if not (up | down).any():
        return
    least = row * np.where(positive, lower, np.where(negative, upper, 0.0))
    open_ended = ~np.isfinite(least)
    count = np.count_nonzero(open_ended)
    if count > 1:
        return
    rest = least[~open_ended].sum()
    at = np.flatnonzero(open_ended if count else row)
    room = (high - (rest - np.where(open_ended[at], 0.0, least[at]))) / row[at]
    upper[at[up[at]]], lower[at[down[at]]] = room[up[at]], room[down[at]]


def tail_duals(tail: Tail, q: Array) -> Array:
    """The nearest simple correction of q to 0 <= q <= cap, sum q = c, so that the bound is a true one."""
    q = np.clip(q, 0.0, tail.cap)
    for _ in range(50):
        total = q.sum()
        if abs(total - tail.coefficient) <= 4e-16 * tail.coefficient:
            break
        if total > tail.coefficient:
            q = q * (tail.coefficient / total)
        else:
            room = tail.cap - q
            q = q + room * min((tail.coefficient - total) / max(room.sum(), 1e-300), 1.0)
    return q


def best_tail(tail: Tail, w: Array) -> Array:
    """The subgradient weights at w: the worst scenarios at their cap, the last by its fraction."""
    return shares(tail.loss(w), tail.count, tail.coefficient)


@dataclass(frozen=True)
class Proof:
    """A lower bound on E over the region, and the KKT residual relative to the largest slope of any single term; the
    bound is None where the region is open on a side on which no bound exists. `duals` are the multipliers used, `slope`
    is that largest slope."""

    bound: float | None
    kkt: float
    duals: Duals
    slope: float


@dataclass
class _Below:
    """A function below E on the region: constant + slope'w + sum of kinks; `loose` is how far it is below the parts
    that it stands for at w, the smooth ones aside, `size` the largest slope among these, and `bent` whether there are
    any but these and kinks."""

    w: Array
    constant: float
    slope: Array
    kinks: list[Kink]
    loose: float
    size: float
    bent: bool = False

    def add(self, pull: Array, constant: float, value: float) -> None:
        """pull'w + constant <= what has `value` at w."""
        self.bent = True
        self.slope = self.slope + pull
        self.constant += constant
        self.loose += abs(value - float(pull @ self.w) - constant)

    def bend(self, kink: Kink, constant: float, value: float) -> None:
        """kink(w) + constant <= what has `value` at w."""
        self.kinks.append(kink)
        self.constant += constant
        self.loose += abs(value - kink.value(self.w) - constant)


def prove(formula: Formula, box: Box, w: Array, duals: Multipliers) -> Proof:
    """Bound and KKT residual at w (n,) for a formula of known terms and pieces."""
    rows = np.where((duals.rows > 0.0) & np.isfinite(box.row_upper), duals.rows, 0.0)
    rows = np.where((duals.rows < 0.0) & np.isfinite(box.row_lower), duals.rows, rows)
    tau = max(duals.turnover, 0.0) if box.turnover is not None else 0.0
    below = _of_terms(formula, w, duals)
    scale = below.size or 1.0
    caps = _of_caps(below, box, duals)
    if tau > 0.0:
        below.bend(Kink.even(box.anchor, tau), -tau * (box.turnover or 0.0), 0.0)
    side = np.where(rows > 0.0, box.row_upper, box.row_lower)
    support = float(sum(r * s for r, s in zip(rows, side, strict=True) if r != 0.0))
    slope = below.slope + box.rows.T @ rows
    lower, upper = box.implied()
    least = _least(slope, below.kinks, lower, upper)
    bound: float | None = None
    if least is not None:
        bound = below.constant - support + least
    elif not formula.models and not below.bent and not below.kinks and not any(caps):
        bound = _by_curvature(formula, rows, support, box, w, slope)

    stationary, duals_low, duals_high = _stationarity(slope, below.kinks, box, w)
    slack = np.abs(rows) * np.abs(np.where(rows != 0.0, box.rows @ w - np.where(rows != 0.0, side, 0.0), 0.0))
    kkt = max(float(stationary.max(initial=0.0)), float(slack.max(initial=0.0)), below.loose) / scale
    return Proof(bound, kkt, Duals(rows, duals_low, duals_high, tau, caps), scale)


def _of_terms(formula: Formula, w: Array, duals: Multipliers) -> _Below:
    """What the formula's terms say."""
    pieces = formula.pieces
    value, gradient = formula.slope(w)
    below = _Below(w, value - float(gradient @ w), gradient, [], 0.0, formula.largest(w))
    for tail, given in zip(formula.tails + (() if pieces is None else pieces.tails), duals.tails, strict=True):
        q = tail_duals(tail, given)
        pull = tail.losses.T @ q
        below.add(pull, -float(np.sum(q * tail.moved)), float(best_tail(tail, w) @ tail.loss(w)))
        below.size = max(below.size, float(np.abs(pull).max(initial=0.0)))
    if formula.cost > 0.0 and formula.held is not None:
        below.kinks.append(Kink.even(formula.held, formula.cost))
    if pieces is not None:
        below.kinks.extend(pieces.kinks)
        for hinges, given in zip(pieces.hinges, duals.hinges, strict=True):
            q = np.clip(given, 0.0, hinges.price)
            pull = hinges.rows.T @ q
            below.add(pull, -float(q @ hinges.offsets), hinges.price * float(np.maximum(hinges.gaps(w), 0.0).sum()))
            below.size = max(below.size, float(np.abs(pull).max(initial=0.0)))
        for falls, given in zip(pieces.falls, duals.falls, strict=True):
            pull, level = falls.plane(falls.repair(given))
            below.add(pull, level, falls.value(w))
            below.size = max(below.size, float(np.abs(pull).max(initial=0.0)))
        for square, dual in zip(pieces.squares, duals.squares, strict=True):
            y = max(dual, 0.0)
            squared = square.coefficient * square.kink.value(w) ** 2
            below.bend(square.kink.scaled(y), -y * y / (4.0 * square.coefficient), squared)
    for kink in below.kinks:
        below.size = max(below.size, float(np.maximum(kink.up, kink.down).max(initial=0.0)))
    return below


def _of_caps(below: _Below, box: Box, duals: Multipliers) -> tuple[float, ...]:
    """Add what each cap says by its multiplier; the multipliers that were used."""
    used = []
    for cap, given, q in zip(box.caps, duals.caps, duals.cap_tails, strict=True):
        dual = max(given, 0.0)
        point = torch.as_tensor(below.w, dtype=torch.float64)
        used.append(dual)
        if dual == 0.0:
            continue
        if isinstance(cap, Ball):
            below.bend(Kink.of(cap).scaled(dual), -dual * cap.limit, 0.0)
        elif isinstance(cap, Ellipsoid):
            slope = dual * cap.slope(point).numpy()
            below.add(slope, -float(slope @ cap.centre.numpy()) - dual * cap.limit, 0.0)
        elif isinstance(cap, TailCap):
            tail = Tail(dual, cap.losses.numpy(), cap.count)
            below.add(tail.losses.T @ tail_duals(tail, q), -dual * cap.limit, 0.0)
        else:
            used[-1] = 0.0
    return tuple(used)


def _least(slope: Array, kinks: list[Kink], lower: Array, upper: Array) -> float | None:
    """sum_i min over [lower_i, upper_i] of slope_i w + sum_k kink_k,i(w); None if unbounded."""
    zero = np.zeros_like(slope)
    right = slope + sum((kink.up for kink in kinks), zero)
    left = slope - sum((kink.down for kink in kinks), zero)
    if ((~np.isfinite(upper) & (right < 0.0)) | (~np.isfinite(lower) & (left > 0.0))).any():
        return None
    centres = [np.clip(kink.centre, lower, upper) for kink in kinks] or [np.clip(zero, lower, upper)]
    # A finite stand-in for an open end on which the function does not fall: never the smallest.
    ends = [np.where(np.isfinite(end), end, centres[0]) for end in (lower, upper)]
    values = []
    for point in (*ends, *centres):
        values.append(slope * point)
        for kink in kinks:
            move = point - kink.centre
            values[-1] += kink.up * np.maximum(move, 0.0) + kink.down * np.maximum(-move, 0.0)
    return float(reduce(np.minimum, values).sum())


def _by_curvature(formula: Formula, rows: Array, support: float, box: Box, w: Array, slope: Array) -> float | None:
    """For a strictly convex quadratic on an open box: the least value of the Lagrangian over all w."""
    closed = np.isfinite(box.lower) & np.isfinite(box.upper) & (box.lower == box.upper)
    free = ~closed
    inner = formula.smooth_part(w)[2][np.ix_(free, free)]
    if not free.any() or np.linalg.eigvalsh(inner).min() <= 1e-12 * np.abs(inner).max():
        return None
    left = slope[free]
    low = 0.5 * float(left @ np.linalg.solve(inner, left))
    return formula.evaluate(w) + float(rows @ (box.rows @ w)) - support - low


def _stationarity(slope: Array, kinks: list[Kink], box: Box, w: Array) -> tuple[Array, Array, Array]:
    """Distance of zero from the slope, the kinks' subgradients and the box's normal cone together, by name, and the
    least multipliers of the lower and the upper ends that bring it there."""
    near = 1e-9
    low, high = slope.copy(), slope.copy()
    for kink in kinks:
        move = w - kink.centre
        low += np.where(move > near, kink.up, -kink.down)
        high += np.where(move < -near, -kink.down, kink.up)
    at_low, at_high = w <= box.lower + near, w >= box.upper - near
    up, down = np.maximum(low, 0.0), np.maximum(-high, 0.0)
    off = np.where(at_low, 0.0, up) + np.where(at_high, 0.0, down)
    return off, np.where(at_low, up, 0.0), np.where(at_high, down, 0.0)
