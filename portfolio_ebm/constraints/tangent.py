"""How the nearest point of a convex region moves with the point it is nearest to: the Jacobian of the projection.

With p = P(w), the rules that bind at p with a multiplier say w - p = N'y, y >= 0. Along the plane Z that they leave,

    dp = Z (I + Z'C Z)^-1 Z' dw,     C = sum of lambda times the curvature of each ellipsoid that binds,

where y > 0 for all that binds; elsewhere it is one of the Jacobians that P has nearby. Symmetric, between 0 and I.

Source: Facchinei, F. and Pang, J.-S. (2003), Finite-Dimensional Variational Inequalities and Complementarity Problems,
section 4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import null_space
from scipy.optimize import nnls

from portfolio_ebm.constraints.caps import Ball, Cap, Ellipsoid, Tail
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]

NEAR = 1e-8
"""A bound is reached where it is nearer than this."""
PULLS = 1e-9
"""A multiplier counts above this share of the largest."""


def projection_jacobian(region: Region, w: Array, nearest: Array) -> Array:
    """dP/dw (n, n) at w (n,), whose nearest point in the convex region is `nearest` (n,); I where w is in the region.

    Example:
        >>> projection_jacobian(region_of(Budget(), ctx), w, p)  # I - 1 1'/n
    """
    away, n = w - nearest, len(w)
    if float(np.abs(away).max(initial=0.0)) <= 1e-14:
        return np.eye(n)
    columns, curves = _normals(region, nearest)
    if not len(columns):
        return np.eye(n)
    multipliers = nnls(columns.T, away, maxiter=30 * len(columns) + 100)[0]
    pulls = multipliers > PULLS * multipliers.max(initial=0.0)
    if not pulls.any():
        return np.eye(n)
    plane = null_space(columns[pulls])
    bent = np.eye(plane.shape[1])
    for place, curve in curves:
        bent += multipliers[place] * (plane.T @ curve @ plane)
    return np.asarray(plane @ np.linalg.solve(bent, plane.T))


def _normals(region: Region, p: Array) -> tuple[Array, list[tuple[int, Array]]]:
    """The outward normals of all that p reaches, (m, n), and the curvature behind some of them, by their place."""
    rows, low, high = as_numpy(region.rows), as_numpy(region.row_lower), as_numpy(region.row_upper)
    eye, at = np.eye(len(p)), rows @ p
    size = NEAR * np.maximum(np.abs(rows).max(1, initial=0.0), 1e-300)
    found = [
        eye[p >= as_numpy(region.upper) - NEAR], -eye[p <= as_numpy(region.lower) + NEAR],
        rows[at >= high - size], -rows[at <= low + size],
    ]  # fmt: skip
    curves: list[tuple[int, Array]] = []
    caps: list[Cap] = list(region.caps)
    if region.turnover is not None and region.anchor is not None:
        ones = region.anchor.new_ones(len(p))
        caps.append(Ball("turnover", region.turnover, region.anchor, ones, ones))
    for cap in caps:
        point = region.lower.new_tensor(p)
        if float(cap.excess(point)) < -NEAR * cap.unit:
            continue
        if isinstance(cap, Ellipsoid):
            slope, spread = as_numpy(cap.slope(point)), float(cap.value(point))
            curve = (as_numpy(cap.matrix.dense()) - np.outer(slope, slope)) / max(spread, 1e-300)
            curves.append((sum(len(part) for part in found), curve))
            found.append(slope[None])
        else:
            found += _of_ball(cap, p) if isinstance(cap, Ball) else _of_tail(cap, p) if isinstance(cap, Tail) else []
    return np.concatenate(found), curves


def _of_ball(cap: Ball, p: Array) -> list[Array]:
    """The slope of the names that moved; those that did not are held from both sides."""
    centre, up, down = (as_numpy(x) for x in (cap.centre, cap.up, cap.down))
    move = p - centre
    still = np.abs(move) <= NEAR
    slope = np.where(still, 0.0, np.where(move > 0.0, up, -down))
    held = np.eye(len(p))[still]
    return [slope[None], held, -held]


def _of_tail(cap: Tail, p: Array) -> list[Array]:
    """The mean of the losses that are worse than the last that counts, with each of those tied with it."""
    losses = as_numpy(cap.losses)
    loss = losses @ p
    last = np.sort(loss)[-min(int(np.ceil(cap.count)), len(loss))]
    tied = np.abs(loss - last) <= NEAR * cap.unit
    worse = (loss > last) & ~tied
    return [(losses[worse].sum(0) + (cap.count - worse.sum()) * losses[tied]) / cap.count]
