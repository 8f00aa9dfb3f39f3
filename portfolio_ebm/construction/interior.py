"""An interior point for formulas with kinks: the kinks are eliminated, the names remain.

    min_z   phi(z) + sum_s p_s (a_s'z - b_s)_+     s.t.  G z <= h,  E z = e,  lower <= z <= upper

phi is smooth and convex; CVaR's scenarios and |w - held| are hinges. Each hinge has a dual q_s in [0, p_s] and
falls out of the Newton system as one number, so that a step costs one Gram matrix of size z, whatever the
number of scenarios. Mehrotra's predictor and corrector; then the active set read off the duals is solved
exactly, and kept where its signs hold.

Sources: Mehrotra, S. (1992), On the implementation of a primal-dual interior point method, SIAM J. Optimization 2;
Nocedal, J. and Wright, S. J. (2006), Numerical Optimization, chapter 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dgetrf, dgetrs

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Model = Callable[[Array], tuple[Array, Array]]
"""z -> (gradient, Hessian) of phi."""


@dataclass(frozen=True)
class Program:
    """The data of the problem above; `lower` and `upper` may be infinite, and differ."""

    model: Model
    hinges: Array
    offsets: Array
    weights: Array
    rows: Array
    limits: Array
    equal: Array
    targets: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Iterate:
    """Primal and dual variables: u and r are the distances of the hinges from their two pieces."""

    z: Array
    q: Array
    u: Array
    r: Array
    y: Array
    row_dual: Array
    lower_dual: Array
    upper_dual: Array
    equal_dual: Array


@dataclass(frozen=True)
class Ended:
    """The last iterate, whether it met the tolerance, whether an exact active set was found, and the steps."""

    point: Iterate
    converged: bool
    exact: bool
    steps: int


def interior_point(program: Program, start: Array, *, tolerance: float = 1e-12, max_steps: int = 100) -> Ended:
    """The minimum from `start`, strictly inside the box. The objective should be scaled to order one."""
    point = _initial(program, start)
    best, best_error, stalled, steps = point, np.inf, 0, 0
    while steps < max_steps and stalled < 15:
        gradient, hessian = program.model(point.z)
        error = max(_residual(program, point, gradient), _gap(program, point))
        stalled = 0 if error < 0.95 * best_error else stalled + 1
        if error < best_error:
            best, best_error = point, error
        if error <= tolerance or not np.isfinite(error):
            break
        moved = _advance(program, point, gradient, hessian)
        if moved is None:
            break
        point, steps = moved, steps + 1
    exact = _on_active_set(program, best)
    if exact is not None:
        return Ended(exact, True, True, steps)
    return Ended(best, best_error <= 1e-8, False, steps)


def _initial(program: Program, start: Array) -> Iterate:
    gap = program.hinges @ start - program.offsets
    below, above = start - program.lower, program.upper - start
    # Every product of slack and dual starts at the same mu: the hinges stand on the central path of (w, t) = start.
    mu = 0.1 * float((np.abs(gap) * program.weights).mean()) if gap.size else 0.1 / max(len(start), 1)
    mu = max(mu, 1e-6)
    tilt = gap * program.weights / (2.0 * mu)
    q = 0.5 * program.weights * (1.0 + tilt / (1.0 + np.sqrt(1.0 + tilt * tilt)))
    y = np.maximum(program.limits - program.rows @ start, 0.1)
    return Iterate(
        z=start, q=q, u=mu / (program.weights - q), r=mu / q, y=y, row_dual=mu / y,
        lower_dual=mu / below, upper_dual=mu / above, equal_dual=np.zeros(len(program.targets)),
    )  # fmt: skip


def _residual(program: Program, p: Iterate, gradient: Array) -> float:
    """The largest violation of stationarity and of the rows."""
    dual = gradient + program.hinges.T @ p.q + program.rows.T @ p.row_dual + program.equal.T @ p.equal_dual
    dual = dual - p.lower_dual + p.upper_dual
    parts = [dual, program.targets - program.equal @ p.z, program.limits - program.rows @ p.z - p.y]
    return max(float(np.abs(part).max()) for part in parts if part.size)


def _gap(program: Program, p: Iterate) -> float:
    """The sum of all products of slack and dual."""
    below, above = _room(program, p.z)
    hinge = p.q @ p.r + (program.weights - p.q) @ p.u
    return float(hinge + p.row_dual @ p.y + p.lower_dual @ below + p.upper_dual @ above)


def _room(program: Program, z: Array) -> tuple[Array, Array]:
    """Distances to the box; one where a side is open, since its dual is zero."""
    below, above = z - program.lower, program.upper - z
    return np.where(np.isfinite(below), below, 1.0), np.where(np.isfinite(above), above, 1.0)


def _advance(program: Program, p: Iterate, gradient: Array, hessian: Array) -> Iterate | None:
    """One predictor-corrector step; None where the Newton system cannot be solved."""
    below, above = _room(program, p.z)
    a = program.weights - p.q
    n, m = len(p.z), len(program.targets)
    curve = 1.0 / (p.u / a + p.r / p.q)
    kkt = np.zeros((n + m, n + m))
    kkt[:n, :n] = hessian + (program.hinges * curve[:, None]).T @ program.hinges
    kkt[:n, :n] += (program.rows * (p.row_dual / p.y)[:, None]).T @ program.rows
    kkt[np.arange(n), np.arange(n)] += p.lower_dual / below + p.upper_dual / above
    kkt[:n, n:] = program.equal.T
    kkt[n:, :n] = program.equal
    kkt[np.arange(n, n + m), np.arange(n, n + m)] = -1e-13
    if not np.isfinite(kkt).all():
        return None
    factor, pivots, failed = dgetrf(kkt)
    if failed:
        return None
    dual = gradient + program.hinges.T @ p.q + program.rows.T @ p.row_dual + program.equal.T @ p.equal_dual
    dual = dual - p.lower_dual + p.upper_dual
    short, room = program.targets - program.equal @ p.z, program.limits - program.rows @ p.z - p.y

    def direction(c: tuple[Array, Array, Array, Array, Array]) -> Iterate:
        hinge = c[0] / p.q - c[1] / a
        right = -dual - program.hinges.T @ (curve * hinge) - program.rows.T @ ((c[2] - p.row_dual * room) / p.y)
        right = right + c[3] / below - c[4] / above
        solved = dgetrs(factor, pivots, np.concatenate([right, short]))[0]
        dz = solved[:n]
        along = program.hinges @ dz
        dq = curve * (along + hinge)
        dy = room - program.rows @ dz
        du = (c[1] + p.u * dq) / a
        return Iterate(
            z=dz, q=dq, u=du, r=du - along, y=dy, row_dual=(c[2] - p.row_dual * dy) / p.y,
            lower_dual=(c[3] - p.lower_dual * dz) / below, upper_dual=(c[4] + p.upper_dual * dz) / above,
            equal_dual=solved[n:],
        )  # fmt: skip

    products = (p.q * p.r, a * p.u, p.row_dual * p.y, p.lower_dual * below, p.upper_dual * above)
    # An open side of the box has no dual and no product.
    counted = (*(np.ones_like(c) for c in products[:3]), np.isfinite(program.lower), np.isfinite(program.upper))
    total, count = sum(float(c.sum()) for c in products), max(sum(int(c.sum()) for c in counted), 1)
    mu = total / count
    guess = direction(tuple(-c for c in products))  # type: ignore[arg-type]  # five in, five out
    length = _length(program, p, guess)
    after = _gap(program, _moved(p, guess, length)) / count
    target = min(max(after / mu, 0.0), 1.0) ** 3 * mu if mu > 0.0 else 0.0
    second = (
        guess.q * guess.r,
        -guess.q * guess.u,
        guess.row_dual * guess.y,
        guess.lower_dual * guess.z,
        -guess.upper_dual * guess.z,
    )
    aims = tuple(target * k - c - s for k, c, s in zip(counted, products, second, strict=True))
    final = direction(aims)  # type: ignore[arg-type]  # five in, five out
    length = _length(program, p, final)
    if length < 0.1:
        # The corrector left the neighbourhood of the central path: go back towards it first.
        centre = direction(tuple(0.5 * mu * k - c for k, c in zip(counted, products, strict=True)))  # type: ignore[arg-type]
        length_centre = _length(program, p, centre)
        if length_centre > length:
            final, length = centre, length_centre
    return _moved(p, final, 0.995 * length)


def _length(program: Program, p: Iterate, d: Iterate) -> float:
    """The longest step, at most 1, that keeps every slack and dual from turning negative."""
    below, above = _room(program, p.z)
    a = program.weights - p.q
    pairs = (
        (p.q, d.q), (a, -d.q), (p.u, d.u), (p.r, d.r), (p.y, d.y), (p.row_dual, d.row_dual),
        (p.lower_dual, d.lower_dual), (p.upper_dual, d.upper_dual),
        (below, np.where(np.isfinite(program.lower), d.z, 0.0)),
        (above, np.where(np.isfinite(program.upper), -d.z, 0.0)),
    )  # fmt: skip
    fastest = 1.0
    for at, step in pairs:
        falling = step < 0.0
        if falling.any():
            fastest = max(fastest, float((-step[falling] / at[falling]).max()))
    return 1.0 / fastest


def _moved(p: Iterate, d: Iterate, length: float) -> Iterate:
    return Iterate(*(at + length * step for at, step in zip(vars(p).values(), vars(d).values(), strict=True)))


def _on_active_set(program: Program, p: Iterate) -> Iterate | None:
    """The exact solution on the active set that the duals of `p` name; None where its signs do not hold."""
    below, above = _room(program, p.z)
    a = program.weights - p.q
    kink = (p.r < p.q / np.maximum(program.weights, 1e-300)) & (p.u < a / np.maximum(program.weights, 1e-300))
    kink &= np.minimum(p.q, a) > 1e-6 * program.weights
    top = ~kink & (p.q > a)
    low = (p.lower_dual > below) & np.isfinite(program.lower)
    high = ~low & (p.upper_dual > above) & np.isfinite(program.upper)
    tight = p.row_dual > p.y
    free = ~(low | high)
    z = np.where(low, program.lower, np.where(high, program.upper, p.z))
    active = np.concatenate([program.hinges[kink], program.rows[tight], program.equal])
    goal = np.concatenate([program.offsets[kink], program.limits[tight], program.targets])
    pull = program.hinges[top].T @ program.weights[top]
    ended = _newton(program, z, free, active, goal, pull)
    if ended is None:
        return None
    z, duals = ended
    n_kink, n_tight = int(kink.sum()), int(tight.sum())
    q = np.where(top, program.weights, 0.0)
    q[kink] = duals[:n_kink]
    row_dual = np.zeros_like(p.row_dual)
    row_dual[tight] = duals[n_kink : n_kink + n_tight]
    equal_dual = duals[n_kink + n_tight :]
    gradient, _ = program.model(z)
    slope = gradient + program.hinges.T @ q + program.rows.T @ row_dual + program.equal.T @ equal_dual
    gap = program.hinges @ z - program.offsets
    found = replace(
        p, z=z, q=q, u=np.maximum(gap, 0.0), r=np.maximum(-gap, 0.0), y=program.limits - program.rows @ z,
        row_dual=row_dual, lower_dual=np.where(low, slope, 0.0), upper_dual=np.where(high, -slope, 0.0),
        equal_dual=equal_dual,
    )  # fmt: skip
    return found if _signs_hold(program, found, slope, kink, top, free) else None


def _newton(
    program: Program, z: Array, free: Mask, active: Array, goal: Array, pull: Array
) -> tuple[Array, Array] | None:
    """Newton's method for min phi + pull'z subject to active z = goal over the free entries: (z, multipliers)."""
    k, m = int(free.sum()), len(goal)
    duals = np.zeros(m)
    for _ in range(6):
        gradient, hessian = program.model(z)
        system = np.zeros((k + m, k + m))
        system[:k, :k] = hessian[np.ix_(free, free)]
        system[:k, k:] = active[:, free].T
        system[k:, :k] = active[:, free]
        solved = _least(system, np.concatenate([-(gradient + pull)[free], goal - active @ z]))
        if solved is None:
            return None
        z = z.copy()
        z[free] += solved[:k]
        duals = solved[k:]
        if float(np.abs(solved[:k]).max(initial=0.0)) < 1e-13:
            break
    return z, duals


def _signs_hold(program: Program, p: Iterate, slope: Array, kink: Mask, top: Mask, free: Mask) -> bool:
    tiny = 1e-11
    gap = program.hinges @ p.z - program.offsets
    scale = float(program.weights.max(initial=0.0))
    return bool(
        (np.abs(slope[free]) <= tiny).all()
        and (np.abs(gap[kink]) <= tiny).all()
        and (gap[top] >= -tiny).all()
        and (gap[~kink & ~top] <= tiny).all()
        and (p.q >= -1e-9 * scale).all()
        and (p.q - program.weights <= 1e-9 * scale).all()
        and (p.z >= program.lower - tiny).all()
        and (p.z <= program.upper + tiny).all()
        and (p.y >= -tiny).all()
        and (np.abs(program.equal @ p.z - program.targets) <= tiny).all()
        and min(p.row_dual.min(initial=0.0), p.lower_dual.min(initial=0.0), p.upper_dual.min(initial=0.0)) >= -1e-10
    )


def _least(system: Array, right: Array) -> Array | None:
    """The solution, or the shortest least-squares one where rows repeat."""
    try:
        found = np.linalg.solve(system, right)
        if np.isfinite(found).all() and float(np.abs(system @ found - right).max(initial=0.0)) < 1e-12:
            return np.asarray(found)
        return np.asarray(np.linalg.lstsq(system, right, rcond=1e-13)[0])
    except np.linalg.LinAlgError:
        return None
