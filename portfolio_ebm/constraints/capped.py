"""The nearest point of a convex region with ellipsoids and tails, one row at a time.

    minimise 1/2 |w - y|^2   over box, rows, L1 balls,   g_j(w) <= limit_j

Ellipsoids enter through their multipliers (roots.py). Tails are polyhedral: they enter by cuts, each the worst
scenarios at the point before, until the point obeys them.
Source: Kelley, J. E. (1960), The cutting-plane method for solving convex programs, J. SIAM 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball, Ellipsoid, Tail
from portfolio_ebm.constraints.cone import TIGHT, ask_clarabel
from portfolio_ebm.constraints.exact import EASE, Cut
from portfolio_ebm.constraints.region import Region, curved_names
from portfolio_ebm.constraints.roots import Inner
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

_CUT_TOLERANCE = 2e-12
"""A tail above its limit by more is cut once more."""
_SAME = 1e-13
"""Cuts of unit slope that differ by no more are one."""
_MAX_CUTS = 2000


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


def nearest_capped(
    y: Tensor, lower: Tensor, upper: Tensor, region: Region, *, prove: bool = True
) -> tuple[Tensor, Tensor]:
    """(w, violation) for y (B, n) and bounds (n,) or (B, n) within those of a folded region, in float64 on any device.

    The violation is above 1e-10 only where a set is empty; without `prove` also where its point, or one before it
    within the same bounds, was not reached.

    Raises:
        SolverError: a set is not empty and its nearest point was not reached.
    """
    solver = _Solver.of(region)
    points = y.detach().cpu().numpy()
    lows, highs = (x.expand(y.shape).detach().cpu().numpy() for x in (lower, upper))
    found, left = np.empty_like(points), np.zeros(len(points))
    empty: set[bytes] = set()
    for i in range(len(points)):
        key = lows[i].tobytes() + highs[i].tobytes()
        crossed = key in empty or bool((lows[i] > highs[i]).any())
        point = None if crossed else solver.nearest(points[i], lows[i], highs[i], prove=prove)
        if point is None:
            empty.add(key)
            found[i], left[i] = np.clip(points[i], lows[i], np.maximum(lows[i], highs[i])), 1.0
            continue
        found[i] = np.clip(point, lows[i], highs[i])
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

    def nearest(self, y: Array, lower: Array, upper: Array, *, prove: bool = True) -> Array | None:
        """The nearest point to y (n,); None where the set is empty, without `prove` also where it was not reached."""
        base = replace(self.cut, lower=lower, upper=upper)
        rows, ends = self.cuts
        mu = np.zeros(len(self.matrices))
        near, before = np.clip(y, lower, upper), np.inf
        for _ in range(_MAX_CUTS):
            cut = _with_rows(base, rows, ends)
            solved = self._under_ellipsoids(y, cut, mu, near) or self._eased(y, cut, mu, near)
            if solved is None:
                break
            w, mu, duals = solved
            new = self._cut_off(w, rows, ends)
            shift = float(np.abs(w - near).max())
            if not new and len(base.radii) and 1e-12 < shift < 0.5 * before:
                # The lifted sizes were pulled to those of another point: once more, from here, while that moves it less
                # and less; in the end rounding alone does.
                near, before = w, shift
                continue
            before = np.inf
            if not new:
                held = np.flatnonzero(duals[len(base.rows) : len(base.rows) + len(rows)])
                self.cuts = rows[held], ends[held]
                return w
            rows, ends = (
                np.concatenate([rows, *(slope[None] for slope, _ in new)]),
                np.r_[ends, [end for _, end in new]],
            )
        if prove:
            self._require_empty(lower, upper)
        return None

    def _cut_off(self, w: Array, rows: Array, ends: Array) -> list[tuple[Array, float]]:
        """The cuts of unit slope that w (n,) is beyond and that are not among `rows` yet: those are met as well as the
        active set meets a row, and the same cut again comes no nearer."""
        found = []
        for tail in self.tails:
            if float(tail.excess(torch.as_tensor(w))) > _CUT_TOLERANCE:
                slope, end = tail.cut(w)
                size = float(np.linalg.norm(slope))
                slope, end = slope / size, end / size
                known = (np.abs(rows - slope) <= _SAME).all(axis=1) & (np.abs(ends - end) <= _SAME)
                found += [] if known.any() else [(slope, end)]
        return found

    def _under_ellipsoids(self, y: Array, cut: Cut, mu: Array, near: Array) -> tuple[Array, Array, Array] | None:
        """(w, mu, row duals) with every ellipsoid obeyed; None where the polyhedron is empty or no root was found."""
        inner = Inner(y, cut, self.matrices, self.centres, near)
        try:
            if len(mu) == 0:
                w, _, duals = inner.at(mu)
                return w, mu, duals
            return inner.one_root(mu) if len(mu) == 1 else inner.several_roots(mu)
        except InfeasibleError:
            return None

    def _eased(self, y: Array, cut: Cut, mu: Array, near: Array) -> tuple[Array, Array, Array] | None:
        """`_under_ellipsoids` on the set let out by rounding: a set that is a single point has no multipliers else."""
        limits = [cap.limit for cap in self.region.caps if isinstance(cap, Ellipsoid)]
        wider = tuple(s / (1.0 + EASE / limit) ** 2 for s, limit in zip(self.matrices, limits, strict=True))
        return replace(self, matrices=wider)._under_ellipsoids(y, cut.eased(), mu, near)

    def _require_empty(self, lower: Array, upper: Array) -> None:
        """An error where the set has a point after all: by what the box leaves of each row and ball, else by a cone
        program."""
        if _too_narrow(replace(self.cut, lower=lower, upper=upper)):
            return
        region = replace(
            self.region,
            lower=torch.as_tensor(lower).to(self.region.lower),
            upper=torch.as_tensor(upper).to(self.region.lower),
        )
        if least_excess(region) > 1e-9:
            return
        raise SolverError(
            f"The nearest portfolio under {curved_names(self.region)} was not reached although "
            "there is one; the caps leave almost no room: loosen one of them a little."
        )


def _too_narrow(cut: Cut) -> bool:
    """Whether the box alone rules out some row or ball by more than rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        most = np.nan_to_num(np.where(cut.rows > 0.0, cut.upper, cut.lower) * cut.rows).sum(axis=1)
        least = np.nan_to_num(np.where(cut.rows > 0.0, cut.lower, cut.upper) * cut.rows).sum(axis=1)
    room = 1e-8 * (1.0 + np.abs(cut.rows).sum(axis=1))
    near = np.clip(cut.centres, cut.lower, cut.upper) - cut.centres
    away = (cut.ups * near.clip(0.0) + cut.downs * (-near).clip(0.0)).sum(axis=1)
    far = away > cut.radii + 1e-8 * (1.0 + (cut.ups + cut.downs).sum(axis=1))
    return bool((most < cut.low - room).any() or (least > cut.high + room).any() or far.any())


def least_excess(region: Region) -> float:
    """The least amount by which box, rows and balls have to be left, or the curved caps (relative to their limits),
    to obey all of a convex region: at most 1e-9 where it is not empty. By cvxpy and Clarabel.

    Raises:
        SolverError: Clarabel failed.
    """
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
        size, limit = cap.to_cvxpy(w).args
        rules.append(size <= limit + slack)
    problem = cp.Problem(cp.Minimize(slack), rules)
    ask_clarabel(problem, f"Clarabel could not tell whether {curved_names(region)} can be obeyed", **TIGHT)
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
