"""The inner problem of the pattern search: the least energy on one slice of the region, for many slices at once.

On the slice of a pattern (which names are held) the region is convex. Its minimum is found by a sequence of small
quadratic programs on one model of the energy,

    q(w) = E(x) + g'(w - x) + mu/2 (w - x)' H (w - x),

with g the gradient at the best point x so far, H one Hessian for all slices, taken over steps as large as a
position so that it sees the curvature of a kinked tail and not a single kink, and mu raised where a step failed.
Each program has as many unknowns as the pattern has names and is solved by an active set (daqp); the energies of
all slices are evaluated in one batch. The values are upper bounds, good for ranking; the exact polish comes after.

The turnover cap sum |w - a| <= tau enters by its cuts s'(w - a) <= tau, s = sign(w - a), as they are violated; the
region's other caps too, to 1e-6 and from there by a projection.

Source: Arnstrom, Bemporad and Axehill (2022), A dual active-set solver for embedded quadratic programming using
recursive LDL' updates, IEEE TAC 67(8).
"""

from __future__ import annotations

from dataclasses import dataclass

import daqp
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.kernel import evaluate
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOLERANCE = 1e-10
CAP_TOLERANCE = 1e-6
MAX_CUTS = 60


def may_be_met(region: Region, patterns: Tensor) -> Tensor:
    """Whether the budget and the turnover cap leave the slices of `patterns` (..., n) a portfolio, (...).

    The least turnover on a box is |clip(a) - a| summed, and what the budget still lacks comes on top of it one for
    one. Necessary for every region, and enough where the budget is its only row.
    """
    slice_ = region.on(patterns)
    low, high = slice_.lower, slice_.upper
    met = (low <= high).all(-1)
    near = torch.zeros_like(low).clamp(low, high) if region.anchor is None else region.anchor.clamp(low, high)
    spent = torch.zeros_like(near[..., 0]) if region.anchor is None else (near - region.anchor).abs().sum(-1)
    whole = (region.rows == 1.0).all(-1)
    lacking = torch.zeros_like(spent)
    for below, above in zip(region.row_lower[whole], region.row_upper[whole], strict=True):
        met = met & (low.sum(-1) <= above + TOLERANCE) & (high.sum(-1) >= below - TOLERANCE)
        total = near.sum(-1)
        lacking = lacking.maximum(below - total).maximum(total - above)
    if region.turnover is None or region.anchor is None:
        return met
    return met & (spent + lacking <= region.turnover + TOLERANCE)


@dataclass(frozen=True)
class Slices:
    """The slices of a region, as arrays a small solver reads.

    The attributes are those of Region; `held_lower` is the lower bound of a name that is in the pattern, and
    `turnover` is infinite where there is no cap.
    """

    lower: Array
    upper: Array
    held_lower: Array
    rows: Array
    row_lower: Array
    row_upper: Array
    anchor: Array | None
    turnover: float
    frozen: Mask
    region: Region

    @classmethod
    def of(cls, region: Region) -> Slices:
        region = region.folded()
        lower = as_numpy(region.lower)
        # Without a floor a name in the pattern may be zero, and a short position stays possible.
        held = np.maximum(lower, region.min_weight) if region.min_weight > 0.0 else lower
        capped = region.turnover is not None and region.anchor is not None
        return cls(
            lower, as_numpy(region.upper), held,
            as_numpy(region.rows), as_numpy(region.row_lower), as_numpy(region.row_upper),
            as_numpy(region.anchor) if capped and region.anchor is not None else None,
            float(region.turnover) if capped and region.turnover is not None else np.inf,
            region.frozen.cpu().numpy(), region,
        )  # fmt: skip

    @property
    def n(self) -> int:
        return len(self.lower)

    def possible(self, patterns: Mask) -> Mask:
        """Which of `patterns` (m, n) are worth a program, bool (m,): a quick and necessary test."""
        met = may_be_met(self.region, torch.as_tensor(patterns, device=self.region.lower.device))
        found: Mask = met.cpu().numpy()
        return found

    def bounds(self, pattern: Mask) -> tuple[Array, Array]:
        """The box of the slice on which exactly the free names of `pattern` may be held."""
        low = np.where(self.frozen, self.lower, np.where(pattern, self.held_lower, np.maximum(self.lower, 0.0)))
        high = np.where(self.frozen | pattern, self.upper, np.minimum(self.upper, 0.0))
        return low, high

    def minimum(self, pattern: Mask, hessian: Array, linear: Array) -> Array | None:
        """argmin of 1/2 w'Hw + c'w on the slice, (n,), or None where the slice is empty."""
        low, high = self.bounds(pattern)
        if (low > high).any():
            return None
        free = np.flatnonzero(high > low)
        w = low.copy()
        rest = self.rows @ np.where(high > low, 0.0, low)
        below, above = self.row_lower - rest, self.row_upper - rest
        body = self.rows[:, free]
        live = (body != 0.0).any(axis=1)
        if (below[~live] > TOLERANCE).any() or (above[~live] < -TOLERANCE).any():
            return None
        if not len(free):
            return w if self.traded(w) <= self.turnover + TOLERANCE else None
        fixed = np.where(high > low, 0.0, low)
        slope = linear[free] + hessian[np.ix_(free, np.arange(self.n))] @ fixed
        curve = hessian[np.ix_(free, free)]
        cuts, tops = body[live], above[live]
        bottoms = below[live]
        for _ in range(MAX_CUTS):
            found = _program(curve, slope, cuts, np.r_[low[free], bottoms], np.r_[high[free], tops])
            if found is None:
                return None
            w[free] = np.clip(found, low[free], high[free])
            over = [cap for cap in self.region.caps if float(cap.excess(torch.as_tensor(w))) > CAP_TOLERANCE]
            for cap in over:
                slope, end = cap.cut(w)
                cuts = np.vstack([cuts, slope[free]])
                tops = np.r_[tops, end - slope @ fixed]
                bottoms = np.r_[bottoms, -np.inf]
            if self.anchor is None or self.traded(w) <= self.turnover + TOLERANCE:
                if over:
                    continue
                return self._on_caps(w, low, high)
            gap = w - self.anchor
            sign = np.sign(gap)
            # s'(w - a) <= tau over the free names; the others' trades are what they are.
            spent = np.abs(np.delete(gap, free)).sum()
            cuts = np.vstack([cuts, sign[free]])
            tops = np.r_[tops, self.turnover - spent + sign[free] @ self.anchor[free]]
            bottoms = np.r_[bottoms, -np.inf]
        return None if self.region.plain else self._on_caps(w, low, high)

    def _on_caps(self, w: Array, low: Array, high: Array) -> Array | None:
        """w (n,) brought from within a tolerance of the caps onto them; None where the slice is empty after all."""
        if self.region.plain:
            return w
        inner, left = nearest_in(torch.as_tensor(w), self.region, torch.as_tensor(low), torch.as_tensor(high))
        return inner.numpy() if float(left) <= TOLERANCE else None

    def traded(self, w: Array) -> float:
        """sum |w - anchor|, zero where there is no cap."""
        return 0.0 if self.anchor is None else float(np.abs(w - self.anchor).sum())


def _program(curve: Array, slope: Array, rows: Array, below: Array, above: Array) -> Array | None:
    scale = max(float(np.abs(curve).max()), float(np.abs(slope).max()), 1e-300)
    found, _, flag, _ = daqp.solve(
        np.ascontiguousarray(curve / scale), slope / scale, np.ascontiguousarray(rows), above, below,
        primal_tol=TOLERANCE,
    )  # fmt: skip
    return np.asarray(found) if flag > 0 else None


def curvature_matrix(energy: Bound, at: Tensor, lower: Tensor, stride: float) -> Tensor:
    """A positive definite model H (n, n) of the energy's curvature at `at` (n,), over steps of `stride`.

    H_j = (g(x + s e_j) - g(x - s' e_j)) / (s + s'), with s' cut where x_j would pass its lower bound, so that the
    energy is only asked where weights are allowed to be.
    """
    n = at.shape[0]
    eye = torch.eye(n, dtype=at.dtype, device=at.device)
    back = (at - lower.clamp_min(-1e6)).clamp(0.0, stride)
    points = torch.cat([at + stride * eye, at - back.unsqueeze(1) * eye])
    slopes = evaluate(points, energy).gradient
    raw = (slopes[:n] - slopes[n:]) / (stride + back).unsqueeze(1)
    values, vectors = torch.linalg.eigh(0.5 * (raw + raw.T))
    least = 1e-6 * values.abs().max().clamp_min(1e-12)
    found: Tensor = (vectors * values.clamp_min(float(least))) @ vectors.T
    return found


@dataclass(frozen=True)
class Inner:
    """The best point found on each of m slices: weights (m, n), energy (m,) +inf where empty, gradient (m, n)."""

    weights: Tensor
    energy: Tensor
    gradient: Tensor


def solve_slices(
    slices: Slices, energy: Bound, patterns: Mask, start: Tensor, slope: Tensor, hessian: Array, rounds: int
) -> Inner:
    """The least energy on every slice, by `rounds` of quadratic models and one batch of evaluations each.

    Args:
        patterns: bool (m, n).
        start: x, (m, n), where the first models stand; it need not lie on the slice.
        slope: the energy's gradient there, (m, n).
        hessian: H, (n, n).
        rounds: models per slice; the first one's minimum is always taken, later ones when they are better.
    """
    m = len(patterns)
    x, g = as_numpy(start).copy(), as_numpy(slope).copy()
    value = np.full(m, np.inf)
    mu = np.ones(m)
    alive = slices.possible(patterns)
    for _ in range(rounds):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        found = [slices.minimum(patterns[i], mu[i] * hessian, g[i] - mu[i] * hessian @ x[i]) for i in rows]
        kept = [(i, w) for i, w in zip(rows, found, strict=True) if w is not None]
        alive[rows] = False
        if not kept:
            break
        index = np.array([i for i, _ in kept])
        trial = evaluate(torch.as_tensor(np.array([w for _, w in kept])).to(start), energy)
        energies = as_numpy(trial.energy)
        better = energies < value[index]
        gain = value[index] - energies
        scale = np.abs(energies) + 1e-300
        taken = index[better]
        x[taken], g[taken] = as_numpy(trial.x)[better], as_numpy(trial.gradient)[better]
        value[taken] = energies[better]
        mu[index] = np.where(better, np.maximum(mu[index] / 2.0, 1.0), mu[index] * 4.0)
        alive[index] = ~better | (gain > 1e-9 * scale)
    back = (torch.as_tensor(part).to(start) for part in (x, value, g))
    return Inner(*back)
