"""The exact end of an interior point: which hinges, rows and bounds hold is read off its duals, and solved for.

On that active set the problem is smooth with equations only: Newton's method. What it gives is kept where every sign
holds, so that a wrong guess costs nothing but its time.

Source: Nocedal, J. and Wright, S. J. (2006), Numerical Optimization, chapters 16 and 18.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.construction.exact.program import Array, Iterate, Program

Mask = NDArray[np.bool_]

NEWTON = 12
"""Newton steps; quadratics need one."""


def on_active_set(program: Program, p: Iterate) -> tuple[Array, Array, Array, Array] | None:
    """(z, q, row duals, equation duals), exact on the active set that `p` names; None where its signs do not hold."""
    r, u, y, low, high = (p.slack[block] for block in program.blocks)
    q, a, row_dual, low_dual, high_dual = (p.dual[block] for block in program.blocks)
    tight = row_dual > y
    # A row that does not hold pays for no hinge.
    price = program.prices(np.where(tight, row_dual, 0.0))
    kink = (r * price < q) & (u * price < a) & (np.minimum(q, a) > 1e-6 * price) & (price > 0.0)
    top = ~kink & (q > a) & (price > 0.0)
    at_low, at_high = np.zeros(len(p.z), dtype=bool), np.zeros(len(p.z), dtype=bool)
    at_low[program.low] = low_dual > low
    at_high[program.high] = high_dual > high
    at_high &= ~at_low
    z = np.where(at_low, program.lower, np.where(at_high, program.upper, p.z))
    face = _Face(program, ~(at_low | at_high), kink, top, tight)
    ended = _newton(face, z, np.concatenate([q[kink], row_dual[tight], p.equal_dual]))
    if ended is None:
        return None
    z, duals = ended
    n_kink, n_tight = int(kink.sum()), int(tight.sum())
    row_dual = np.zeros(len(y))
    row_dual[tight] = duals[n_kink : n_kink + n_tight]
    q = np.where(top, program.prices(row_dual), 0.0)
    q[kink] = duals[:n_kink]
    equal_dual = duals[n_kink + n_tight :]
    rows = program.gradients(z)
    slope = program.model(z)[0] + q @ program.hinges + row_dual @ rows + equal_dual @ program.equal
    holds = _solves(program, z, q, row_dual) and _stationary(slope, at_low, at_high)
    return (z, q, row_dual, equal_dual) if holds else None


@dataclass(frozen=True)
class _Face:
    """An active set: free entries of z, hinges at their kink, hinges beyond it, rows that hold."""

    program: Program
    free: Mask
    kink: Mask
    top: Mask
    tight: Mask

    def equations(self, z: Array) -> tuple[Array, Array]:
        """(J, d): the linear model of what has to hold is J dz = d; kinks, rows, equations in this order."""
        p = self.program
        beyond = np.where(self.top, p.hinges @ z - p.offsets, 0.0)
        rows, room = p.gradients(z), p.rooms(z, beyond)
        if p.charged:
            rows = rows.copy()
            rows[: p.charged] += (p.charges * self.top) @ p.hinges
        kinks = p.hinges[self.kink]
        return (
            np.concatenate([kinks, rows[self.tight], p.equal]),
            np.concatenate([p.offsets[self.kink] - kinks @ z, room[self.tight], p.targets - p.equal @ z]),
        )


def _newton(face: _Face, z: Array, duals: Array) -> tuple[Array, Array] | None:
    """Newton's method on the face from z and multipliers of its equations: both at its end. Where equations repeat, the
    multipliers that are nearest to those given: their signs hold where any's do."""
    program, free = face.program, face.free
    pull = program.weights[face.top] @ program.hinges[face.top]
    k, n_kink = int(free.sum()), int(face.kink.sum())
    row_dual = np.zeros(len(face.tight))
    for _ in range(NEWTON):
        row_dual[face.tight] = duals[n_kink : n_kink + int(face.tight.sum())]
        gradient, hessian = program.model(z)
        if not np.isfinite(gradient).all():
            return None
        active, goal = face.equations(z)
        m = len(goal)
        system = np.zeros((k + m, k + m))
        system[:k, :k] = program.bent(hessian, row_dual)[np.ix_(free, free)]
        system[:k, k:] = active[:, free].T
        system[k:, :k] = active[:, free]
        solved = _least(system, np.concatenate([-(gradient + pull + duals @ active)[free], goal]))
        if solved is None:
            return None
        z = z.copy()
        z[free] += solved[:k]
        duals = duals + solved[k:]
        if float(np.abs(solved[:k]).max(initial=0.0)) < 1e-13:
            break
    return z, duals


def _solves(program: Program, z: Array, q: Array, row_dual: Array) -> bool:
    """Whether z obeys the rows and the box, and the duals have their signs and stand only where they may."""
    tiny = 1e-11
    gap = program.hinges @ z - program.offsets
    room, price = program.rooms(z, np.maximum(gap, 0.0)), program.prices(row_dual)
    loose = 1e-9 * float(price.max(initial=0.0))
    return bool(
        (gap[q < price - loose] <= tiny).all()
        and (gap[q > loose] >= -tiny).all()
        and (q >= -loose).all()
        and (q <= price + loose).all()
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
