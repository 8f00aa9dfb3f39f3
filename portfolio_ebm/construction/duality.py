"""What proves a minimum: a lower bound and a KKT residual from given multipliers, checked in O(S n).

For a convex E = phi + sum c_j CVaR_j + rate |w - held|_1, any slope of the tails L'q (0 <= q <= c/(S(1-a)), sum q = c),
any row multipliers nu and any turnover multiplier tau >= 0 give, for every w of the region,

    E(w) >= phi(w*) - g'w* - sum_j max(nu_j lo_j, nu_j up_j over the side it pulls) - tau cap
            + sum_i min over [lower_i, upper_i] of  r_i w + rate |w - held_i| + tau |w - anchor_i|,
    g = grad phi(w*),  r = g + L'q + A'nu.

Each minimum is over a piecewise linear function of one variable, so it stands on a kink or an end. The bound is
true whatever solver the multipliers came from; it is tight when they are optimal.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints.caps import Cap
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.formula import Formula, Tail

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Multipliers:
    """Duals of one solution: `tails` one vector q per CVaR term, `rows` signed (positive: the upper side pulls),
    `turnover` non-negative."""

    tails: tuple[Array, ...]
    rows: Array
    turnover: float


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
            np.asarray(x.detach().cpu().numpy(), dtype=np.float64)
            for x in (region.lower, region.upper, region.rows, region.row_lower, region.row_upper)
        )
        anchor = (
            np.zeros_like(lower) if region.anchor is None else region.anchor.detach().cpu().numpy().astype(np.float64)
        )
        cap = region.turnover if region.anchor is not None else None
        caps = tuple(one.to(torch.zeros(0, dtype=torch.float64)) for one in region.caps)
        return cls(lower, upper, rows, row_lower, row_upper, anchor, cap, caps)

    @property
    def impossible(self) -> bool:
        """Whether one row, or the turnover cap, alone cannot be met within the box; False does not mean possible."""
        with np.errstate(invalid="ignore"):
            low, high = self.rows * self.lower, self.rows * self.upper
        zero = self.rows == 0.0
        least = np.where(zero, 0.0, np.minimum(low, high)).sum(-1)
        most = np.where(zero, 0.0, np.maximum(low, high)).sum(-1)
        if (least > self.row_upper + 1e-11).any() or (most < self.row_lower - 1e-11).any():
            return True
        needed = np.abs(np.clip(self.anchor, self.lower, self.upper) - self.anchor).sum()
        return self.turnover is not None and bool(needed > self.turnover + 1e-11)

    def implied(self) -> tuple[Array, Array]:
        """Bounds that the turnover cap and the rows imply as well; the rows are asked only where the box is open."""
        lower, upper = self.lower.copy(), self.upper.copy()
        if self.turnover is not None:
            lower, upper = (
                np.maximum(lower, self.anchor - self.turnover),
                np.minimum(upper, self.anchor + self.turnover),
            )
            lower, upper = np.minimum(lower, self.upper), np.maximum(upper, self.lower)
        for _ in range(3):
            if np.isfinite(lower).all() and np.isfinite(upper).all():
                break
            for row, low, high in zip(self.rows, self.row_lower, self.row_upper, strict=True):
                _tighten(row, high, lower, upper)
                _tighten(-row, -low, lower, upper)
        return lower, upper


def _tighten(row: Array, high: float, lower: Array, upper: Array) -> None:
    """Use row . w <= high on the open sides of the box, in place."""
    if not np.isfinite(high):
        return
    with np.errstate(invalid="ignore"):
        least = np.where(row > 0.0, row * lower, np.where(row < 0.0, row * upper, 0.0))
    open_ended = ~np.isfinite(least)
    if open_ended.sum() > 1:
        return
    rest = least[~open_ended].sum()
    for i in np.flatnonzero(row) if not open_ended.any() else np.flatnonzero(open_ended):
        room = (high - (rest if open_ended[i] else rest - least[i])) / row[i]
        if row[i] > 0.0 and not np.isfinite(upper[i]):
            upper[i] = room
        elif row[i] < 0.0 and not np.isfinite(lower[i]):
            lower[i] = room


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
    order = np.argsort(-(tail.losses @ w), kind="stable")
    whole = min(int(np.floor(tail.count)), len(order))
    q = np.zeros(len(order))
    q[order[:whole]] = tail.cap
    if whole < len(order):
        q[order[whole]] = tail.coefficient - tail.cap * whole
    return q


@dataclass(frozen=True)
class Proof:
    """A lower bound on E over the region, and the KKT residual relative to the largest slope; None where the
    region is open on a side on which no bound exists. `duals` are the multipliers that were used."""

    bound: float | None
    kkt: float
    duals: Duals


def prove(formula: Formula, box: Box, w: Array, duals: Multipliers) -> Proof:
    """Bound and KKT residual at w (n,) for a formula without other terms."""
    value, gradient = formula.slope(w)
    tails = [tail_duals(tail, q) for tail, q in zip(formula.tails, duals.tails, strict=True)]
    pulls = [tail.losses.T @ q for tail, q in zip(formula.tails, tails, strict=True)]
    rows = np.where((duals.rows > 0.0) & np.isfinite(box.row_upper), duals.rows, 0.0)
    rows = np.where((duals.rows < 0.0) & np.isfinite(box.row_lower), duals.rows, rows)
    tau = max(duals.turnover, 0.0) if box.turnover is not None else 0.0
    slope = gradient + sum(pulls, np.zeros_like(w)) + box.rows.T @ rows
    held = formula.held if formula.held is not None else np.zeros_like(w)
    scale = max([float(np.abs(x).max()) for x in (gradient, *pulls, np.array([formula.cost]))], default=1.0) or 1.0

    side = np.where(rows > 0.0, box.row_upper, box.row_lower)
    support = float(sum(r * s for r, s in zip(rows, side, strict=True) if r != 0.0))
    lower, upper = box.implied()
    least = _least(slope, formula.cost, held, tau, box.anchor, lower, upper)
    bound: float | None = None
    if least is not None:
        bound = value - float(gradient @ w) - support - tau * (box.turnover or 0.0) + least
    elif not formula.smooth and not formula.tails and formula.cost == 0.0 and tau == 0.0 and formula.curve is not None:
        bound = _by_curvature(value, rows, support, box, w, slope, formula.smooth_part(w)[2], formula.evaluate(w))

    stationary, duals_low, duals_high = _stationarity(slope, formula.cost, held, tau, box, w)
    stationary = stationary / scale
    slack = np.abs(rows) * np.abs(np.where(rows != 0.0, box.rows @ w - np.where(rows != 0.0, side, 0.0), 0.0)) / scale
    # How far the tails' weights are from being the worst ones.
    lost = sum(
        abs(float(best_tail(t, w) @ (t.losses @ w)) - float(p @ w)) for t, p in zip(formula.tails, pulls, strict=True)
    )
    idle = tau * abs(box.turnover - float(np.abs(w - box.anchor).sum())) if box.turnover is not None else 0.0
    kkt = max(float(stationary.max(initial=0.0)), float(slack.max(initial=0.0)), (lost + idle) / scale)
    return Proof(bound, kkt, Duals(rows, duals_low, duals_high, tau))


def _least(
    slope: Array, cost: float, held: Array, tau: float, anchor: Array, lower: Array, upper: Array
) -> float | None:
    """sum_i min over [lower_i, upper_i] of slope_i w + cost |w - held_i| + tau |w - anchor_i|; None if unbounded."""
    reach = cost + tau
    if ((~np.isfinite(upper) & (slope < -reach)) | (~np.isfinite(lower) & (slope > reach))).any():
        return None
    # A finite stand-in for an open end on which the function does not fall: never the smallest.
    ends = [np.where(np.isfinite(end), end, np.clip(held, lower, upper)) for end in (lower, upper)]
    points = np.stack([*ends, np.clip(held, lower, upper), np.clip(anchor, lower, upper)])
    return float((slope * points + cost * np.abs(points - held) + tau * np.abs(points - anchor)).min(0).sum())


def _by_curvature(
    value: float, rows: Array, support: float, box: Box, w: Array, slope: Array, hessian: Array, energy: float
) -> float | None:
    """For a strictly convex quadratic on an open box: the least value of the Lagrangian over all w."""
    closed = np.isfinite(box.lower) & np.isfinite(box.upper) & (box.lower == box.upper)
    free = ~closed
    inner = hessian[np.ix_(free, free)]
    if not free.any() or np.linalg.eigvalsh(inner).min() <= 1e-12 * np.abs(inner).max():
        return None
    left = slope[free]
    return energy + float(rows @ (box.rows @ w)) - support - 0.5 * float(left @ np.linalg.solve(inner, left))


def _stationarity(slope: Array, cost: float, held: Array, tau: float, box: Box, w: Array) -> tuple[Array, Array, Array]:
    """Distance of zero from slope + cost d|w - held| + tau d|w - anchor| + the box's normal cone, by name, and the
    least multipliers of the lower and the upper ends that bring it there."""
    near = 1e-9
    low, high = slope.copy(), slope.copy()
    for size, point in ((cost, held), (tau, box.anchor)):
        at = np.abs(w - point) <= near
        low = low + np.where(at, -size, size * np.sign(w - point))
        high = high + np.where(at, size, size * np.sign(w - point))
    at_low, at_high = w <= box.lower + near, w >= box.upper - near
    up, down = np.maximum(low, 0.0), np.maximum(-high, 0.0)
    off = np.where(at_low, 0.0, up) + np.where(at_high, 0.0, down)
    return off, np.where(at_low, up, 0.0), np.where(at_high, down, 0.0)
