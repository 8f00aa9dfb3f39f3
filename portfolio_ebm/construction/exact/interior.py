"""An interior point for formulas with kinks: the kinks are eliminated, the names remain.

Each hinge of a Program has a dual q_s between 0 and its price and falls out of the Newton system as one number, so
that a step costs one Gram matrix of size z, whatever the number of scenarios; drawdowns along paths fall out as well
(chain.py); a row that charges for hinges stays in the system as one unknown. Mehrotra's predictor and corrector; then,
where there are no drawdowns, the active set read off the duals is solved exactly (active.py), and kept where its signs
hold.

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

from portfolio_ebm.construction.exact.active import on_active_set
from portfolio_ebm.construction.exact.program import Array, Iterate, Program

PATIENCE, CHAINED, CLOSE = 15, 4, 1e-6
"""So many steps without progress end it; with a chain, which rounding reaches sooner, fewer near the end."""
ENOUGH = 1e-10
"""Where a chain ends: beyond, rounding takes what a step gives."""
SHORTER = 40
"""How often a step is halved that leaves the domain of phi."""


@dataclass(frozen=True)
class Ended:
    """The last iterate taken apart, whether it met the tolerance, whether an exact active set was found, the steps; and
    what flows along the chain."""

    z: Array
    q: Array
    row_dual: Array
    equal_dual: Array
    converged: bool
    exact: bool
    steps: int
    flow: Array


def interior_point(program: Program, start: Array, *, tolerance: float = 1e-12, max_steps: int = 100) -> Ended:
    """The minimum from `start`, strictly inside the box. The objective should be scaled to order one."""
    point = _initial(program, start)
    best, best_error, stalled, steps, exact, asked = point, np.inf, 0, 0, None, False
    chained = program.chain is not None
    gradient, hessian = program.model(point.z)
    while steps < max_steps and stalled < (CHAINED if chained and best_error <= CLOSE else PATIENCE):
        missing, gap, error = _missing(program, point, gradient)
        if chained and gap <= CLOSE:
            point, missing, gap, error = _settled(program, point, gradient, hessian, (missing, gap, error))
        stalled = 0 if error < 0.95 * best_error else stalled + 1
        near = gap <= CLOSE and not chained
        if error < best_error:
            best, best_error, asked = point, error, near
        # Near the end the active set is known: the exact solution on it, if its signs hold, spares the last steps.
        exact = on_active_set(program, point) if near else None
        if exact is not None or error <= (ENOUGH if chained else tolerance) or not np.isfinite(error):
            break
        moved = _advance(program, point, hessian, missing, gap)
        if moved is None:
            break
        (point, gradient, hessian), steps = moved, steps + 1
    r, _, y, _, _ = program.blocks
    if exact is None and not chained and not asked:
        exact = on_active_set(program, best)
    if exact is not None:
        return Ended(*exact, True, True, steps, np.zeros(0))
    flow = best.dual[program.links][: 0 if program.chain is None else len(program.chain.moved)]
    converged = best_error <= (CLOSE if chained else 1e-8)
    return Ended(best.z, best.dual[r], best.dual[y], best.equal_dual, converged, False, steps, flow)


def _missing(program: Program, p: Iterate, gradient: Array) -> tuple[tuple[Array, ...], float, float]:
    """What is missing in slope, equations, rows and chain; the sum of all products; the largest of all."""
    slope = gradient + program.pull(p.z, p.dual, p.equal_dual)
    short = program.targets - program.equal @ p.z
    room = program.rooms(p.z, p.slack[program.blocks[1]]) - p.slack[program.blocks[2]]
    along: tuple[Array, ...] = ()
    if program.chain is not None:
        along = program.chain.residuals(p.z, p.slack[program.links], p.dual[program.links])
    gap, found = float(p.slack @ p.dual), (slope, short, room, *along)
    return found, gap, max(gap, *(float(np.abs(part).max()) for part in found if part.size))


def _settled(
    program: Program, p: Iterate, gradient: Array, hessian: Array, so_far: tuple[tuple[Array, ...], float, float]
) -> tuple[Iterate, tuple[Array, ...], float, float]:
    """The point with its multipliers moved to where they balance, the weights left as they are, where that is nearer:
    close to the end of a chain rounding spoils the balance first, and a proof needs it most."""
    (slope, short, room, step, price, still), _, error = so_far
    missing = (slope, 0.0 * short, 0.0 * room, 0.0 * step, 0.0 * price, still)
    solve = _newton_system(program, p, hessian, missing)
    if solve is not None:
        move = solve(0.0 * p.slack)
        moved = Iterate(p.z, p.slack, p.dual + move.dual, p.equal_dual + move.equal_dual)
        after = _missing(program, moved, gradient)
        if float(moved.dual.min()) > 0.0 and after[2] < error:
            return moved, *after
    return p, *so_far


def _initial(program: Program, start: Array) -> Iterate:
    gap = program.hinges @ start - program.offsets
    # Every product of slack and dual starts at the same mu: the hinges stand on the central path of (w, t) = start.
    products = program.links.stop
    mu = max(0.1 * float((np.abs(gap) * program.weights).mean()) if gap.size else 0.0, 1.0 / max(products, 1))
    y = np.maximum(program.rooms(start, np.maximum(gap, 0.0)), 0.1)
    # The more hinges a row charges for, the less of its room each of them may start with.
    y[: program.charged] = np.minimum(y[: program.charged], 1.0 / (program.charges > 0.0).sum(1).clip(1))
    price = program.prices(mu / y)
    tilt = gap * price / (2.0 * mu)
    q = 0.5 * price * (1.0 + tilt / (1.0 + np.sqrt(1.0 + tilt * tilt)))
    below, above = (start - program.lower)[program.low], (program.upper - start)[program.high]
    slack = np.concatenate([mu / q, mu / (price - q), y, below, above])
    dual = np.concatenate([q, price - q, mu / y, mu / below, mu / above])
    if program.chain is not None:
        more_slack, more_dual = program.chain.start(start, mu)
        slack, dual = np.concatenate([slack, more_slack]), np.concatenate([dual, more_dual])
    return Iterate(start, slack, dual, 0.0 * program.targets)


def _advance(
    program: Program, p: Iterate, hessian: Array, residuals: tuple[Array, ...], gap: float
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
    program: Program, p: Iterate, hessian: Array, residuals: tuple[Array, ...]
) -> Callable[[Array], Iterate] | None:
    """aims -> the direction along which slack * dual changes by `aims` to first order, and the residuals vanish.

    With f = u / v and the curve c = 1 / (r/q + f) of each hinge, dq = c (a'dz + bend + f K'dy). The unknowns of the
    system are dz, the multipliers of the equations, and dy of the rows that charge for hinges.
    """
    r, u, y, low, high = program.blocks
    slope, short, room, *along = residuals
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
    link = None
    if program.chain is not None:
        link = program.chain.link(p.slack[program.links], p.dual[program.links], (along[0], along[1], along[2]))
        if link is None:
            return None
        link.into(block)
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
        if link is not None:
            right += link.right(aims[program.links], n)
        own = room[:c] - (ask[y] / ratio[y])[:c] - program.charges @ (first + flat * curve * bend)
        solved = dgetrs(factor, pivots, np.concatenate([right, short, own]))[0]
        dz, dy = solved[:n], solved[n + m :]
        moved, paid = program.hinges @ dz, dy @ program.charges
        dq = curve * (moved + bend + flat * paid)
        # K'dy - dq, without the cancellation where both are large.
        da = curve * (paid / ratio[r] - moved - bend)
        du = first - flat * da
        left = room - rows @ dz
        left[:c] -= program.charges @ du
        dslack = np.concatenate([du - moved, du, left, dz[program.low], -dz[program.high]])
        ddual = ask[: len(dslack)] - ratio[: len(dslack)] * dslack
        ddual[r], ddual[u] = dq, da
        if link is not None:
            more_slack, more_dual = link.back(aims[program.links], dz)
            dslack, ddual = np.concatenate([dslack, more_slack]), np.concatenate([ddual, more_dual])
        return Iterate(dz, dslack, ddual, solved[n : n + m])

    return solve


def _length(p: Iterate, d: Iterate) -> float:
    """The longest step, at most 1, that keeps every slack and dual from turning negative."""
    fastest = max(float((-d.slack / p.slack).max(initial=1.0)), float((-d.dual / p.dual).max(initial=1.0)))
    return 1.0 / fastest
