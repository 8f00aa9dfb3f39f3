"""The nearest point of a convex region with ellipsoids and tails, one row at a time.

    minimise 1/2 |w - y|^2   over box, rows, L1 balls,   g_j(w) <= limit_j

Ellipsoids enter through their multipliers: for mu >= 0 the inner problem is a quadratic program with the Hessian
I + sum mu_j S_j on a polyhedron, solved exactly by an active set (daqp), and the outer dual in mu is concave and
smooth; with one ellipsoid its root is bracketed, so that what leaves lies on the inner side of the cap. Tails are
polyhedral: they enter by cuts, each the worst scenarios at the point before, until the point obeys them.
Source: Bertsekas (1999), Nonlinear Programming, chapter 6 (dual methods); Kelley (1960), The cutting-plane method.
"""

from __future__ import annotations

from ctypes import c_int
from dataclasses import dataclass, replace

import cvxpy as cp
import daqp
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball, Ellipsoid, Tail
from portfolio_ebm.constraints.exact import Cut
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

_BIG = 1e30
_LIFT = 1e-9
_EMPTY = -1  # daqp's flag for an empty set
_CLOSE = 1e-13  # how near a cap's relative size comes to one
_CUT_TOLERANCE = 2e-12
_MAX_CUTS = 2000
_MAX_STEPS = 100


def cut_of(region: Region, rows: Array | None = None, low: Array | None = None, high: Array | None = None) -> Cut:
    """Box, rows (or those given instead) and all L1 balls of a region as arrays."""
    lower, upper, a, below, above = (
        x.detach().cpu().double().numpy()
        for x in (region.lower, region.upper, region.rows, region.row_lower, region.row_upper)
    )
    n = len(lower)
    balls = region.balls
    if region.anchor is not None and region.turnover is not None:
        one = torch.ones_like(region.anchor)
        balls = (Ball("turnover", region.turnover, region.anchor, one, one), *balls)
    centres, ups, downs = (
        np.array([getattr(ball, what).detach().cpu().double().numpy() for ball in balls]).reshape(len(balls), n)
        for what in ("centre", "up", "down")
    )
    radii = np.array([ball.limit for ball in balls])
    return Cut(
        lower, upper, a if rows is None else rows, below if low is None else low, above if high is None else high,
        centres, ups, downs, radii,
    )  # fmt: skip


def nearest_capped(y: Tensor, lower: Tensor, upper: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """(w, violation) for y (B, n) and bounds (n,) or (B, n) within those of a folded region, in float64 on any device.

    The violation is above 1e-10 only where a set is empty.

    Raises:
        SolverError: a set is not empty and its nearest point was not reached.
    """
    solver = _Solver.of(region)
    points = y.detach().cpu().numpy()
    lows, highs = (x.expand(y.shape).detach().cpu().numpy() for x in (lower, upper))
    found, left = np.empty_like(points), np.zeros(len(points))
    shared = lower.ndim == upper.ndim == 1
    for i in range(len(points)):
        point = solver.nearest(points[i], lows[i], highs[i]) if (lows[i] <= highs[i]).all() else None
        if point is None:
            found[i], left[i] = np.clip(points[i], lows[i], np.maximum(lows[i], highs[i])), 1.0
            if shared:
                found[i:], left[i:] = points[i:], 1.0
                break
            continue
        found[i] = point
    w = torch.as_tensor(found).to(y)
    return w, torch.as_tensor(left).to(y).maximum(_excess(w, lower, upper, region))


def _excess(w: Tensor, lower: Tensor, upper: Tensor, region: Region) -> Tensor:
    """The largest violation at w (B, n), (B,)."""
    worst = (lower - w).maximum(w - upper).amax(-1).clamp_min(0.0)
    if region.rows.shape[0]:
        values = w @ region.rows.T
        worst = worst.maximum((region.row_lower - values).maximum(values - region.row_upper).amax(-1))
    if region.anchor is not None and region.turnover is not None:
        worst = worst.maximum((w - region.anchor).abs().sum(-1) - region.turnover)
    for cap in region.caps:
        worst = worst.maximum(cap.excess(w))
    return worst


@dataclass
class _Solver:
    """One region, for many points; `cuts` are the tails' cuts that held the point before."""

    region: Region
    cut: Cut
    matrices: tuple[Array, ...]
    centres: tuple[Array, ...]
    tails: tuple[Tail, ...]
    cuts: tuple[Array, Array]

    @classmethod
    def of(cls, region: Region) -> _Solver:
        ellipsoids = [cap for cap in region.caps if isinstance(cap, Ellipsoid)]
        tails = tuple(cap.to(torch.zeros(0, dtype=torch.float64)) for cap in region.caps if isinstance(cap, Tail))
        n = region.n
        return cls(
            region, cut_of(region),
            tuple(e.matrix.dense().detach().cpu().double().numpy() / e.limit**2 for e in ellipsoids),
            tuple(e.centre.detach().cpu().double().numpy() for e in ellipsoids),
            tails, (np.zeros((0, n)), np.zeros(0)),
        )  # fmt: skip

    def nearest(self, y: Array, lower: Array, upper: Array) -> Array | None:
        """The nearest point to y (n,); None where the set is empty."""
        base = replace(self.cut, lower=lower, upper=upper)
        rows, ends = self.cuts
        mu = np.zeros(len(self.matrices))
        for _ in range(_MAX_CUTS):
            cut = _with_rows(base, rows, ends)
            solved = self._under_ellipsoids(y, cut, mu)
            if solved is None:
                break
            w, mu, duals = solved
            new = [tail.cut(w) for tail in self.tails if float(tail.excess(torch.as_tensor(w))) > _CUT_TOLERANCE]
            if not new:
                held = np.flatnonzero(duals[len(base.rows) : len(base.rows) + len(rows)])
                self.cuts = rows[held], ends[held]
                return w
            sizes = [float(np.linalg.norm(slope)) for slope, _ in new]
            rows = np.concatenate([rows, np.stack([slope / s for (slope, _), s in zip(new, sizes, strict=True)])])
            ends = np.concatenate([ends, [end / s for (_, end), s in zip(new, sizes, strict=True)]])
        self._require_empty(lower, upper)
        return None

    def _under_ellipsoids(self, y: Array, cut: Cut, mu: Array) -> tuple[Array, Array, Array] | None:
        """(w, mu, row duals) with every ellipsoid obeyed; None where the polyhedron is empty or no root was found."""
        try:
            if len(mu) == 0:
                w, duals = _program(np.eye(len(y)), -y, cut)
                return w, mu, duals
            if len(mu) == 1:
                return self._one_root(y, cut, mu)
            return self._several_roots(y, cut, mu)
        except InfeasibleError:
            return None

    def _at(self, y: Array, cut: Cut, mu: Array) -> tuple[Array, Array, Array]:
        """(w(mu), its relative sizes sqrt(q_j) - 1, row duals)."""
        hessian, slope = np.eye(len(y)), -y.copy()
        for weight, matrix, centre in zip(mu, self.matrices, self.centres, strict=True):
            if weight > 0.0:
                hessian += weight * matrix
                slope -= weight * (matrix @ centre)
        # Scaled back to a Hessian of order one, which the active set's tolerances are for.
        size = max(1.0, float(np.abs(hessian).max()))
        w, duals = _program(hessian / size, slope / size, cut)
        moves = [w - centre for centre in self.centres]
        sizes = [m @ s @ m for m, s in zip(moves, self.matrices, strict=True)]
        return w, np.sqrt(np.maximum(sizes, 0.0)) - 1.0, duals

    def _one_root(self, y: Array, cut: Cut, mu: Array) -> tuple[Array, Array, Array] | None:
        """The multiplier at which the one ellipsoid is met: 1/size rises with mu, almost in a line."""
        w, over, duals = self._at(y, cut, np.zeros(1))
        if over[0] <= _CLOSE:
            return w, np.zeros(1), duals
        move = w - self.centres[0]
        low, f_low = 0.0, 1.0 / (1.0 + over[0]) - 1.0
        guess = mu[0] if mu[0] > 0.0 else over[0] * float(move @ move) / (1.0 + over[0]) ** 2
        high, f_high = max(guess, 1e-12), -np.inf
        best = None
        for _ in range(_MAX_STEPS):
            w, over, duals = self._at(y, cut, np.array([high]))
            best = w, np.array([high]), duals
            f_high = 1.0 / (1.0 + over[0]) - 1.0
            if f_high >= 0.0:
                break
            step = high * (-f_low / max(f_high - f_low, 1e-3)) if high > 0 else high
            low, f_low, high = high, f_high, min(max(2.0 * high, step), 16.0 * high)
            if high > 1e14:
                return None
        side = 0
        for _ in range(_MAX_STEPS):
            if f_high <= _CLOSE or high - low <= 4e-16 * high:
                return best
            here = high - f_high * (high - low) / (f_high - f_low)
            here = here if low < here < high else 0.5 * (low + high)
            w, over, duals = self._at(y, cut, np.array([here]))
            f = 1.0 / (1.0 + over[0]) - 1.0
            if f >= -_CLOSE:
                best, high, f_high = (w, np.array([here]), duals), here, max(f, 0.0)
                f_low, side = (0.5 * f_low, 1) if side == 1 else (f_low, 1)
            else:
                low, f_low = here, f
                f_high, side = (0.5 * f_high, -1) if side == -1 else (f_high, -1)
        return best

    def _several_roots(self, y: Array, cut: Cut, mu: Array) -> tuple[Array, Array, Array] | None:
        """Projected Newton on the concave dual in mu, with its exact curvature on the active set."""
        w, over, duals = self._at(y, cut, mu)
        for _ in range(_MAX_STEPS):
            slope = (1.0 + over) ** 2 - 1.0  # twice the dual's gradient
            if (np.abs(np.where(mu > 0.0, slope, np.maximum(slope, 0.0))) <= 4.0 * _CLOSE).all():
                return w, mu, duals
            moving = (mu > 0.0) | (slope > 0.0)
            step = np.zeros(len(mu))
            curve = self._curvature(w, cut, duals, mu)[np.ix_(moving, moving)]
            ridge = 1e-14 * max(float(np.trace(curve)), 1e-300)
            step[moving] = np.linalg.solve(curve + ridge * np.eye(len(curve)), 0.5 * slope[moving])
            step = np.where(np.abs(step) > 1e8 * (1.0 + mu), np.sign(step) * 1e8 * (1.0 + mu), step)
            value, length = self._dual(y, w, mu), 1.0
            while True:
                trial = np.maximum(mu + length * step, 0.0)
                w_new, over_new, duals_new = self._at(y, cut, trial)
                gain = self._dual(y, w_new, trial) - value
                if gain >= 1e-4 * 0.5 * float(slope @ (trial - mu)) - 1e-15 * max(abs(value), 1.0) or length < 1e-8:
                    break
                length *= 0.5
            if (trial == mu).all() or trial.max() > 1e14:
                break
            mu, w, over, duals = trial, w_new, over_new, duals_new
        return (w, mu, duals) if (over <= 1e-11).all() else None

    def _dual(self, y: Array, w: Array, mu: Array) -> float:
        """The Lagrangian at w(mu): the value of the dual."""
        total = 0.5 * float((w - y) @ (w - y))
        for weight, matrix, centre in zip(mu, self.matrices, self.centres, strict=True):
            total += 0.5 * weight * (float((w - centre) @ matrix @ (w - centre)) - 1.0)
        return total

    def _curvature(self, w: Array, cut: Cut, duals: Array, mu: Array) -> Array:
        """-d(1/2 q)/d mu (J, J) on the face of the polyhedron w lies on."""
        n = len(w)
        free = np.flatnonzero((w > cut.lower + 1e-12) & (w < cut.upper - 1e-12) & ~_on_kink(w, cut))
        active = np.flatnonzero(duals)
        rows = np.concatenate([cut.rows, _ball_slopes(w, cut)])[active][:, free]
        hessian = np.eye(n)
        for weight, matrix in zip(mu, self.matrices, strict=True):
            hessian += weight * matrix
        pulls = np.stack(
            [m @ (w - c) for m, c in zip(self.matrices, self.centres, strict=True)], axis=1
        )[free]  # fmt: skip
        inner = np.linalg.solve(hessian[np.ix_(free, free)], np.concatenate([pulls, rows.T], axis=1))
        j = pulls.shape[1]
        curve = pulls.T @ inner[:, :j]
        if len(active):
            cross = rows @ inner[:, :j]
            curve = curve - cross.T @ np.linalg.lstsq(rows @ inner[:, j:], cross, rcond=None)[0]
        found: Array = 0.5 * (curve + curve.T)
        return found

    def _require_empty(self, lower: Array, upper: Array) -> None:
        """An error where the set has a point after all, by a cone program."""
        region = replace(
            self.region,
            lower=torch.as_tensor(lower).to(self.region.lower),
            upper=torch.as_tensor(upper).to(self.region.lower),
        )
        if least_excess(region) > 1e-9:
            return
        raise SolverError(
            f"The nearest portfolio under {', '.join(cap.name for cap in self.region.curved)} was not reached although "
            "there is one; the caps leave almost no room: loosen one of them a little."
        )


def least_excess(region: Region) -> float:
    """The least amount by which box, rows and balls have to be left, or the curved caps (relative to their limits),
    to obey all of a convex region: at most 1e-9 where it is not empty. By cvxpy and Clarabel."""
    n = region.n
    w, slack = cp.Variable(n), cp.Variable(nonneg=True)
    cut = cut_of(region)
    rules = [w[i] >= cut.lower[i] - slack for i in np.flatnonzero(np.isfinite(cut.lower))]
    rules += [w[i] <= cut.upper[i] + slack for i in np.flatnonzero(np.isfinite(cut.upper))]
    rules += [cut.rows[i] @ w >= cut.low[i] - slack for i in np.flatnonzero(np.isfinite(cut.low))]
    rules += [cut.rows[i] @ w <= cut.high[i] + slack for i in np.flatnonzero(np.isfinite(cut.high))]
    for centre, up, down, radius in zip(cut.centres, cut.ups, cut.downs, cut.radii, strict=True):
        rules.append(up @ cp.pos(w - centre) + down @ cp.neg(w - centre) <= radius + slack)
    for cap in region.curved:
        # The expression of the constraint, so that the slack is in units of the cap itself.
        rules.append(cap.to_cvxpy(w).args[0] <= cap.to_cvxpy(w).args[1] + slack)
    problem = cp.Problem(cp.Minimize(slack), rules)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return float("inf") if slack.value is None else float(slack.value)


def _with_rows(cut: Cut, rows: Array, ends: Array) -> Cut:
    if not len(rows):
        return cut
    return replace(
        cut,
        rows=np.concatenate([cut.rows, rows]),
        low=np.concatenate([cut.low, np.full(len(rows), -np.inf)]),
        high=np.concatenate([cut.high, ends]),
    )


def _on_kink(w: Array, cut: Cut) -> NDArray[np.bool_]:
    return np.asarray((np.abs(w - cut.centres) <= 1e-9).any(axis=0))


def _ball_slopes(w: Array, cut: Cut) -> Array:
    move = w - cut.centres
    return np.where(move > 0.0, cut.ups, -cut.downs)


def _program(hessian: Array, slope: Array, cut: Cut) -> tuple[Array, Array]:
    """(w, duals of rows and balls): min 1/2 w'Hw + c'w over box, rows and balls, by daqp.

    Raises:
        InfeasibleError: the polyhedron is empty.
        SolverError: daqp gave up.
    """
    n, m = len(slope), len(cut.rows)
    extra, tops, owner, _ = cut.lifted()
    size = len(owner)
    curvature = np.zeros((n + size, n + size))
    curvature[:n, :n] = hessian
    curvature[np.arange(n, n + size), np.arange(n, n + size)] = _LIFT
    matrix = np.vstack([np.c_[cut.rows, np.zeros((m, size))], extra])
    below = np.concatenate([cut.lower, np.zeros(size), cut.low, np.full(len(tops), -_BIG)])
    above = np.concatenate([cut.upper, np.full(size, _BIG), cut.high, tops])
    sense = np.where(below == above, 5, 0).astype(c_int)
    x, _, flag, info = daqp.solve(
        curvature, np.concatenate([slope, np.zeros(size)]), np.ascontiguousarray(matrix),
        np.clip(above, -_BIG, _BIG), np.clip(below, -_BIG, _BIG), sense,
        primal_tol=1e-12, dual_tol=1e-12, iter_limit=20_000,
    )  # fmt: skip
    if flag == _EMPTY:
        raise InfeasibleError("Box, rows and L1 balls have no point in common.")
    if flag < 0:
        raise SolverError(f"The active set ended with code {flag} on {n} names and {len(matrix)} rows.")
    return np.asarray(x)[:n], np.asarray(info["lam"])[n + size : n + size + m + len(cut.radii)]
