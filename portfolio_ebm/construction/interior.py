"""An interior point for formulas with kinks: the kinks are eliminated, the names remain.

Each hinge of a Program has a dual q_s between 0 and its price and falls out of the Newton system as one number, so
that a step costs one Gram matrix of size z, whatever the number of scenarios; a row that charges for hinges stays in
the system as one unknown. Mehrotra's predictor and corrector; then the active set read off the duals is solved
exactly (active.py), and kept where its signs hold.

All complementary pairs stand in two flat vectors, slack and dual, in the order of `Program.blocks`: the two pieces of
each hinge, r = u - (a'z - b) with q and u with p + K'y - q; the rows with their multipliers; the ends of the box.

Sources: Mehrotra, S. (1992), On the implementation of a primal-dual interior point method, SIAM J. Optimization 2;
Nocedal, J. and Wright, S. J. (2006), Numerical Optimization, chapters 16 and 19.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs

from portfolio_ebm.construction.active import on_active_set
from portfolio_ebm.construction.program import Array, Iterate, Program

SHORTER = 40
"""How often a step is halved that leaves the domain of phi."""


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
    gradient, hessian = program.model(point.z)
    while steps < max_steps and stalled < 15:
        slope = gradient + program.pull(point.z, point.dual, point.equal_dual)
        short = program.targets - program.equal @ point.z
        room = program.rooms(point.z, point.slack[program.blocks[1]]) - point.slack[program.blocks[2]]
        gap = float(point.slack @ point.dual)
        error = max(gap, *(float(np.abs(part).max()) for part in (slope, short, room) if part.size))
        stalled = 0 if error < 0.95 * best_error else stalled + 1
        if error < best_error:
            best, best_error = point, error
        # Near the end the active set is known: the exact solution on it, if its signs hold, spares the last steps.
        exact = on_active_set(program, point) if gap <= 1e-6 else None
        if exact is not None or error <= tolerance or not np.isfinite(error):
            break
        moved = _advance(program, point, hessian, (slope, short, room), gap)
        if moved is None:
            break
        (point, gradient, hessian), steps = moved, steps + 1
    r, _, y, _, _ = program.blocks
    exact = exact if exact is not None else on_active_set(program, best)
    if exact is not None:
        return Ended(*exact, True, True, steps)
    return Ended(best.z, best.dual[r], best.dual[y], best.equal_dual, best_error <= 1e-8, False, steps)


def _initial(program: Program, start: Array) -> Iterate:
    gap = program.hinges @ start - program.offsets
    # Every product of slack and dual starts at the same mu: the hinges stand on the central path of (w, t) = start.
    products = program.blocks[-1].stop
    mu = max(0.1 * float((np.abs(gap) * program.weights).mean()) if gap.size else 0.0, 1.0 / max(products, 1))
    y = np.maximum(program.rooms(start, np.maximum(gap, 0.0)), 0.1)
    # The more hinges a row charges for, the less of its room each of them may start with.
    y[: program.charged] = np.minimum(y[: program.charged], 1.0 / (program.charges > 0.0).sum(1).clip(1))
    price = program.prices(mu / y)
    tilt = gap * price / (2.0 * mu)
    q = 0.5 * price * (1.0 + tilt / (1.0 + np.sqrt(1.0 + tilt * tilt)))
    below, above = (start - program.lower)[program.low], (program.upper - start)[program.high]
    dual = np.concatenate([q, price - q, mu / y, mu / below, mu / above])
    return Iterate(start, np.concatenate([mu / q, mu / (price - q), y, below, above]), dual, 0.0 * program.targets)


def _advance(
    program: Program, p: Iterate, hessian: Array, residuals: tuple[Array, Array, Array], gap: float
) -> tuple[Iterate, Array, Array] | None:
    """One predictor-corrector step: the point, phi's gradient and Hessian there; None where the Newton system cannot
    be solved."""
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
    gradient, hessian = program.model(p.z + step * final.z)
    for _ in range(SHORTER):
        if np.isfinite(gradient).all() and np.isfinite(hessian).all():
            break
        # Beyond the domain of a smooth term (a logarithm).
        step *= 0.5
        gradient, hessian = program.model(p.z + step * final.z)
    moved = Iterate(
        p.z + step * final.z,
        p.slack + step * final.slack,
        p.dual + step * final.dual,
        p.equal_dual + step * final.equal_dual,
    )
    return moved, gradient, hessian


def _newton_system(
    program: Program, p: Iterate, hessian: Array, residuals: tuple[Array, Array, Array]
) -> Callable[[Array], Iterate] | None:
    """aims -> the direction along which slack * dual changes by `aims` to first order, and the residuals vanish.

    With f = u / v and the curve c = 1 / (r/q + f) of each hinge, dq = c (a'dz + bend + f K'dy). The unknowns of the
    system are dz, the multipliers of the equations, and dy of the rows that charge for hinges.
    """
    r, u, y, low, high = program.blocks
    slope, short, room = residuals
    n, m, c = len(p.z), len(short), program.charged
    ratio, rows = p.dual / p.slack, program.gradients(p.z)
    flat = 1.0 / ratio[u]
    curve = 1.0 / (1.0 / ratio[r] + flat)
    plain = ratio[y].copy()
    plain[:c] = 0.0
    charged = rows[:c] + (program.charges * (flat * curve)) @ program.hinges
    kkt = np.zeros((n + m + c, n + m + c), order="F")
    block = program.bent(hessian, p.dual[y]) + (program.hinges * curve[:, None]).T @ program.hinges
    if len(room) > c:
        block += (rows * plain[:, None]).T @ rows
    block[program.low, program.low] += ratio[low]
    block[program.high, program.high] += ratio[high]
    kkt[:n, :n] = block
    kkt[:n, n : n + m], kkt[n : n + m, :n] = program.equal.T, program.equal
    kkt[np.arange(n, n + m), np.arange(n, n + m)] = -1e-13
    kkt[:n, n + m :], kkt[n + m :, :n] = charged.T, charged
    kkt[n + m :, n + m :] = -np.diag(1.0 / ratio[y][:c])
    kkt[n + m :, n + m :] -= (program.charges * (flat * curve / ratio[r])) @ program.charges.T
    factor, pivots, failed = dgetrf(kkt, overwrite_a=1)
    if failed or not np.isfinite(factor).all():
        return None

    def solve(aims: Array) -> Iterate:
        ask = aims / p.slack
        first = aims[u] / p.dual[u]
        bend = aims[r] / p.dual[r] - first
        right = -slope - (curve * bend) @ program.hinges - (plain > 0.0) * (ask[y] - ratio[y] * room) @ rows
        right[program.low] += ask[low]
        right[program.high] -= ask[high]
        own = room[:c] - (ask[y] / ratio[y])[:c] - program.charges @ (first + flat * curve * bend)
        solved = dgetrs(factor, pivots, np.concatenate([right, short, own]))[0]
        dz, dy = solved[:n], solved[n + m :]
        along, paid = program.hinges @ dz, dy @ program.charges
        dq = curve * (along + bend + flat * paid)
        # K'dy - dq, without the cancellation where both are large.
        da = curve * (paid / ratio[r] - along - bend)
        du = first - flat * da
        left = room - rows @ dz
        left[:c] -= program.charges @ du
        dslack = np.concatenate([du - along, du, left, dz[program.low], -dz[program.high]])
        ddual = ask - ratio * dslack
        ddual[r], ddual[u] = dq, da
        return Iterate(dz, dslack, ddual, solved[n : n + m])

    return solve


def _length(p: Iterate, d: Iterate) -> float:
    """The longest step, at most 1, that keeps every slack and dual from turning negative."""
    fastest = max(float((-d.slack / p.slack).max(initial=1.0)), float((-d.dual / p.dual).max(initial=1.0)))
    return 1.0 / fastest
