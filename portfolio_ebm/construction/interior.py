"""An interior point for formulas with kinks: the kinks are eliminated, the names remain.

    min_z   phi(z) + sum_s p_s (a_s'z - b_s)_+     s.t.  G z <= h,  E z = e,  lower <= z <= upper

phi is smooth and convex; CVaR's scenarios and |w - held| are hinges. Each hinge has a dual q_s in [0, p_s] and
falls out of the Newton system as one number, so that a step costs one Gram matrix of size z, whatever the
number of scenarios. Mehrotra's predictor and corrector; then the active set read off the duals is solved
exactly, and kept where its signs hold.

All complementary pairs stand in two flat vectors, slack and dual, in the order of `Layout`: the two pieces of each
hinge, r = u - (a'z - b) with q and u with p - q; the rows, h - Gz with their multipliers; the ends of the box.

Sources: Mehrotra, S. (1992), On the implementation of a primal-dual interior point method, SIAM J. Optimization 2;
Nocedal, J. and Wright, S. J. (2006), Numerical Optimization, chapter 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

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

    @cached_property
    def low(self) -> NDArray[np.intp]:
        """Which entries of z are bounded below."""
        return np.flatnonzero(np.isfinite(self.lower))

    @cached_property
    def high(self) -> NDArray[np.intp]:
        """Which entries of z are bounded above."""
        return np.flatnonzero(np.isfinite(self.upper))

    @cached_property
    def blocks(self) -> tuple[slice, slice, slice, slice, slice]:
        """Where r, u, rows, lower and upper ends stand in the flat vectors."""
        sizes = (len(self.offsets), len(self.offsets), len(self.limits), len(self.low), len(self.high))
        ends = list(accumulate(sizes, initial=0))
        r, u, y, low, high = (slice(a, b) for a, b in pairwise(ends))
        return r, u, y, low, high

    def pull(self, dual: Array, equal_dual: Array) -> Array:
        """The gradient in z of everything but phi, at the given multipliers."""
        r, _, y, low, high = self.blocks
        found = dual[r] @ self.hinges + dual[y] @ self.rows + equal_dual @ self.equal
        found[self.low] -= dual[low]
        found[self.high] += dual[high]
        return np.asarray(found)


@dataclass(frozen=True)
class Iterate:
    """z, the flat slacks and duals, and the multipliers of the equations."""

    z: Array
    slack: Array
    dual: Array
    equal_dual: Array


@dataclass(frozen=True)
class Ended:
    """The last iterate taken apart, whether it met the tolerance, whether an exact active set was found, the steps."""

    z: Array
    q: Array
    row_dual: Array
    equal_dual: Array
    converged: bool
    exact: bool
    steps: int


def interior_point(program: Program, start: Array, *, tolerance: float = 1e-12, max_steps: int = 100) -> Ended:
    """The minimum from `start`, strictly inside the box. The objective should be scaled to order one."""
    point = _initial(program, start)
    best, best_error, stalled, steps, exact = point, np.inf, 0, 0, None
    while steps < max_steps and stalled < 15:
        gradient, hessian = program.model(point.z)
        slope = gradient + program.pull(point.dual, point.equal_dual)
        short = program.targets - program.equal @ point.z
        room = program.limits - program.rows @ point.z - point.slack[program.blocks[2]]
        gap = float(point.slack @ point.dual)
        error = max(gap, *(float(np.abs(part).max()) for part in (slope, short, room) if part.size))
        stalled = 0 if error < 0.95 * best_error else stalled + 1
        if error < best_error:
            best, best_error = point, error
        # Near the end the active set is known: the exact solution on it, if its signs hold, spares the last steps.
        exact = on_active_set(program, point) if error <= 1e-6 else None
        if exact is not None or error <= tolerance or not np.isfinite(error):
            break
        moved = _advance(program, point, hessian, (slope, short, room), gap)
        if moved is None:
            break
        point, steps = moved, steps + 1
    r, _, y, _, _ = program.blocks
    exact = exact if exact is not None else on_active_set(program, best)
    if exact is not None:
        return Ended(*exact, True, True, steps)
    return Ended(best.z, best.dual[r], best.dual[y], best.equal_dual, best_error <= 1e-8, False, steps)


def _initial(program: Program, start: Array) -> Iterate:
    gap = program.hinges @ start - program.offsets
    # Every product of slack and dual starts at the same mu: the hinges stand on the central path of (w, t) = start.
    mu = 0.1 * float((np.abs(gap) * program.weights).mean()) if gap.size else 0.1 / max(len(start), 1)
    mu = max(mu, 1e-6)
    tilt = gap * program.weights / (2.0 * mu)
    q = 0.5 * program.weights * (1.0 + tilt / (1.0 + np.sqrt(1.0 + tilt * tilt)))
    y = np.maximum(program.limits - program.rows @ start, 0.1)
    below, above = (start - program.lower)[program.low], (program.upper - start)[program.high]
    dual = np.concatenate([q, program.weights - q, mu / y, mu / below, mu / above])
    return Iterate(
        start, np.concatenate([mu / q, mu / (program.weights - q), y, below, above]), dual, 0.0 * program.targets
    )


def _advance(
    program: Program, p: Iterate, hessian: Array, residuals: tuple[Array, Array, Array], gap: float
) -> Iterate | None:
    """One predictor-corrector step; None where the Newton system cannot be solved."""
    solve = _newton_system(program, p, hessian, residuals)
    if solve is None:
        return None
    product = p.slack * p.dual
    mu = gap / max(len(product), 1)
    guess = solve(-product)
    length = _length(p, guess)
    after = float((p.slack + length * guess.slack) @ (p.dual + length * guess.dual)) / max(len(product), 1)
    target = min(max(after / mu, 0.0), 1.0) ** 3 * mu if mu > 0.0 else 0.0
    final = solve(target - product - guess.slack * guess.dual)
    length = _length(p, final)
    if length < 0.1:
        # The corrector left the neighbourhood of the central path: go back towards it first.
        centre = solve(0.5 * mu - product)
        if _length(p, centre) > length:
            final, length = centre, _length(p, centre)
    step = 0.995 * length
    return Iterate(
        p.z + step * final.z,
        p.slack + step * final.slack,
        p.dual + step * final.dual,
        p.equal_dual + step * final.equal_dual,
    )


def _newton_system(
    program: Program, p: Iterate, hessian: Array, residuals: tuple[Array, Array, Array]
) -> Callable[[Array], Iterate] | None:
    """aims -> the direction along which slack * dual changes by `aims` to first order, and the residuals vanish."""
    r, u, y, low, high = program.blocks
    slope, short, room = residuals
    n, m = len(p.z), len(short)
    ratio = p.dual / p.slack
    curve = 1.0 / (1.0 / ratio[r] + 1.0 / ratio[u])
    kkt = np.zeros((n + m, n + m), order="F")
    block = hessian + (program.hinges * curve[:, None]).T @ program.hinges
    if len(room):
        block += (program.rows * ratio[y][:, None]).T @ program.rows
    block[program.low, program.low] += ratio[low]
    block[program.high, program.high] += ratio[high]
    kkt[:n, :n] = block
    kkt[:n, n:] = program.equal.T
    kkt[n:, :n] = program.equal
    kkt[np.arange(n, n + m), np.arange(n, n + m)] = -1e-13
    factor, pivots, failed = dgetrf(kkt, overwrite_a=1)
    if failed or not np.isfinite(factor).all():
        return None

    def solve(aims: Array) -> Iterate:
        # dq = curve (a'dz + bend); the other duals follow from slack ddual + dual dslack = aim.
        ask = aims / p.slack
        bend = aims[r] / p.dual[r] - aims[u] / p.dual[u]
        right = -slope - (curve * bend) @ program.hinges - (ask[y] - ratio[y] * room) @ program.rows
        right[program.low] += ask[low]
        right[program.high] -= ask[high]
        solved = dgetrs(factor, pivots, np.concatenate([right, short]))[0]
        dz = solved[:n]
        along = program.hinges @ dz
        dq = curve * (along + bend)
        du = (aims[u] + p.slack[u] * dq) / p.dual[u]
        dslack = np.concatenate([du - along, du, room - program.rows @ dz, dz[program.low], -dz[program.high]])
        ddual = ask - ratio * dslack
        ddual[r], ddual[u] = dq, -dq
        return Iterate(dz, dslack, ddual, solved[n:])

    return solve


def _length(p: Iterate, d: Iterate) -> float:
    """The longest step, at most 1, that keeps every slack and dual from turning negative."""
    fastest = max(float((-d.slack / p.slack).max(initial=1.0)), float((-d.dual / p.dual).max(initial=1.0)))
    return 1.0 / fastest


def on_active_set(program: Program, p: Iterate) -> tuple[Array, Array, Array, Array] | None:
    """(z, q, row duals, equation duals), exact on the active set that `p` names; None where its signs do not hold."""
    blocks = program.blocks
    r, u, y, low, high = (p.slack[block] for block in blocks)
    q, a, row_dual, low_dual, high_dual = (p.dual[block] for block in blocks)
    kink = (r * program.weights < q) & (u * program.weights < a) & (np.minimum(q, a) > 1e-6 * program.weights)
    top = ~kink & (q > a)
    at_low, at_high = np.zeros(len(p.z), dtype=bool), np.zeros(len(p.z), dtype=bool)
    at_low[program.low] = low_dual > low
    at_high[program.high] = high_dual > high
    at_high &= ~at_low
    tight = row_dual > y
    free = ~(at_low | at_high)
    z = np.where(at_low, program.lower, np.where(at_high, program.upper, p.z))
    active = np.concatenate([program.hinges[kink], program.rows[tight], program.equal])
    goal = np.concatenate([program.offsets[kink], program.limits[tight], program.targets])
    ended = _newton(program, z, free, active, goal, program.weights[top] @ program.hinges[top])
    if ended is None:
        return None
    z, duals = ended
    n_kink, n_tight = int(kink.sum()), int(tight.sum())
    q = np.where(top, program.weights, 0.0)
    q[kink] = duals[:n_kink]
    row_dual = np.zeros(len(y))
    row_dual[tight] = duals[n_kink : n_kink + n_tight]
    equal_dual = duals[n_kink + n_tight :]
    slope = program.model(z)[0] + q @ program.hinges + row_dual @ program.rows + equal_dual @ program.equal
    holds = _solves(program, z, q, row_dual) and _stationary(slope, at_low, at_high)
    return (z, q, row_dual, equal_dual) if holds else None


def _solves(program: Program, z: Array, q: Array, row_dual: Array) -> bool:
    """Whether z obeys the rows and the box, and the duals have their signs and stand only where they may."""
    tiny = 1e-11
    gap, room = program.hinges @ z - program.offsets, program.limits - program.rows @ z
    loose = 1e-9 * float(program.weights.max(initial=0.0))
    return bool(
        (gap[q < program.weights - loose] <= tiny).all()
        and (gap[q > loose] >= -tiny).all()
        and (q >= -loose).all()
        and (q <= program.weights + loose).all()
        and (z >= program.lower - tiny).all()
        and (z <= program.upper + tiny).all()
        and (room >= -tiny).all()
        and (row_dual >= -1e-10).all()
        and (np.abs(program.equal @ z - program.targets) <= tiny).all()
    )


def _stationary(slope: Array, at_low: Mask, at_high: Mask) -> bool:
    """Whether the slope is zero where z is free, and pushes outwards where z is at an end of its box."""
    free = ~(at_low | at_high)
    inner = float(np.abs(slope[free]).max(initial=0.0))
    return inner <= 1e-11 and bool((slope[at_low] >= -1e-10).all() and (slope[at_high] <= 1e-10).all())


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


def _least(system: Array, right: Array) -> Array | None:
    """The solution, or the shortest least-squares one where rows repeat; None beyond a smooth term's domain."""
    if not (np.isfinite(system).all() and np.isfinite(right).all()):
        return None
    try:
        found = np.linalg.solve(system, right)
        if np.isfinite(found).all() and float(np.abs(system @ found - right).max(initial=0.0)) < 1e-12:
            return np.asarray(found)
    except np.linalg.LinAlgError:
        # Rows repeat: the shortest solution below is as good as any.
        pass
    try:
        return np.asarray(np.linalg.lstsq(system, right, rcond=1e-13)[0])
    except np.linalg.LinAlgError:
        return None
