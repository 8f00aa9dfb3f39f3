"""The inner problem of a choice where the formula is convex but not quadratic: tails, impact, deviations, drawdowns.

    min E(w)   over box and rows of a slice, or of a relaxation

A lone tail with a linear part goes from vertex to vertex (tails.py). Whatever else, and a tail where that walk does
not end, is solved exactly on the names that matter, as `Program` does: those that the local quadratic model of E moves
go first, then every name is priced with the multipliers found, and those whose price says that they would move join in.
The bound of a `Point` is a dual one (duality.py), so it holds whatever the engine's tolerance; of terms that only cvxpy
knows it is Clarabel's.

The local model is E's slope and curvature near the relaxation's optimum, where a tail's curvature is the covariance of
the losses near its quantile times their density there. It also scores the swaps of the search.

Source: Hong, L. J. and Liu, G. (2009), Simulating sensitivities of conditional value at risk, Management Science 55.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs.mending import mended
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import (
    FEASIBLE,
    Array,
    Ints,
    Mask,
    Point,
    Slice,
    crossed,
    weights_of,
)
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.construction.exact.duality import Box, Multipliers, best_tail, prove
from portfolio_ebm.construction.exact.engines import Found, inside, interior, scale_of
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.exact.oracle import through_cvxpy
from portfolio_ebm.construction.exact.pieces import Tail
from portfolio_ebm.construction.exact.tails import Pool, TailPoint, solvable
from portfolio_ebm.errors import SolverError

BAND = 0.08
"""Share of the scenarios around a tail's quantile that its curvature is taken from."""
RIDGE = 1e-6
FREE, ANSWERS = 1e-9, 6
"""A weight this far inside its box is free to answer; answers that are computed, fewer names free each time."""
INWARD = 1e-3
FAR, KINK = 0.1, 1e3
"""A step in a name's weight, and by how much too far a local model bends over it in a kink."""
JOIN = 24
PRICE = 1e-8
CLOSE = 1e-8
"""The gap, relative to the energy, within which the interior point has solved a formula with pieces."""
TAILS, MORE = 2.5, 60
"""Scenarios solved on: so many times those of the tail, and so many more."""


@dataclass(frozen=True)
class FormulaProgram(Program):
    """`Program` whose energy is a whole formula; `matrix` and `linear` are its local model.

    Attributes:
        formula: the energy. turnover and anchor of `box` are the region's.
        pool: the scenarios that slices of a lone tail are solved on.
    """

    formula: Formula | None = None
    box: Box | None = None
    pool: Pool | None = None

    @property
    def whole(self) -> Formula:
        assert self.formula is not None
        return self.formula

    @property
    def straight(self) -> Array:
        return self.whole.linear

    def value(self, w: Array) -> float:
        return self.whole.evaluate(w) - self.whole.constant

    def slice_box(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array
    ) -> Box | None:  # fmt: skip
        """The box of a slice, caps included; None where its ends have crossed."""
        assert self.box is not None
        if crossed(lower, upper) or crossed(row_lower, row_upper):
            return None
        return replace(
            self.box, lower=lower, upper=np.maximum(lower, upper), rows=rows, row_lower=row_lower, row_upper=row_upper
        )

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        capped = self.slice_box(lower, upper, rows, row_lower, row_upper)
        if capped is None:
            return None
        box = replace(capped, caps=())
        near, pool = weights_of(start), None if self.kinked else self.pool
        if pool is not None:
            parent = start if isinstance(start, TailPoint) else None
            near = near if parent is None or near is None else answered(self.matrix, box, near)
            found = pool.minimum(box, near, parent, enough)
            if found is not None:
                return found
        first = super().minimum(lower, upper, rows, row_lower, row_upper, near)
        if first is None:
            return None
        found = None if pool is None else pool.minimum(box, first.weights)
        return found if found is not None else self._exact(box, first, near)

    def _exact(self, box: Box, first: Point, start: Array | None) -> Point:
        movable, near = box.upper > box.lower + 1e-14, first.weights
        rest = np.clip(np.zeros(self.n) if self.held is None else self.held, box.lower, box.upper)
        free = movable & (first.weights != rest)
        if start is not None:
            free |= movable & (start != rest) & (start > box.lower) & (start < box.upper)
        if not self.whole.exact:
            free = movable
        rest = np.where(free, rest, np.clip(rest, box.lower, box.upper))
        while True:
            part = replace(box, lower=np.where(free, box.lower, rest), upper=np.where(free, box.upper, rest))
            found = _solve(self.whole, part, near)
            if found is None:
                # No engine ended at a minimum: the model's point is a portfolio still, and nothing bounds the slice.
                return Point(first.weights, self.value(first.weights), first.prices, -np.inf)
            near = found.weights
            weights = self._on_rows(box, np.where(free, np.clip(found.weights, box.lower, box.upper), rest))
            prices = self._prices(box, weights, found)
            joining = self._joining(box, movable & ~free, weights, prices, found)
            if not joining.any():
                value = self.value(weights)
                bound = min(self._bound(box, weights, found), value)
                return Point(weights, value, prices, bound, toll=self._toll(found))
            free = free | joining

    def _on_rows(self, box: Box, w: Array) -> Array:
        """w (n,), or the nearest point that obeys the rows where w breaks one by more than rounding."""
        at = box.rows @ w
        if not ((at > box.row_upper + FEASIBLE) | (at < box.row_lower - FEASIBLE)).any():
            return w
        near = mended(Slice(self, box.lower, box.upper, box.rows, box.row_lower, box.row_upper), (), w)
        return w if near is None else near

    def _toll(self, found: Found) -> float:
        """What a unit traded costs, the turnover cap's multiplier included."""
        capped = found.duals is not None and np.isfinite(self.turnover)
        return self.whole.cost + (found.duals.turnover if capped and found.duals is not None else 0.0)

    def _prices(self, box: Box, w: Array, found: Found) -> Array:
        """The slope of E at w less the rows' multipliers, (n,)."""
        own = self.whole.tails  # the multipliers of the pieces' tails stand behind theirs
        tails = found.duals.tails[: len(own)] if found.duals is not None else tuple(best_tail(t, w) for t in own)
        rows = found.duals.rows if found.duals is not None else np.zeros(len(box.rows))
        pulls = sum((t.losses.T @ q for t, q in zip(own, tails, strict=True)), np.zeros(self.n))
        return np.asarray(self.whole.slope(w)[1] + pulls + box.rows.T @ rows)

    def _joining(self, box: Box, waiting: Mask, w: Array, prices: Array, ended: Found) -> Mask:
        """The resting names whose price says most clearly that they would move; at `held` both ways have to pay."""
        toll, side = np.zeros(self.n), np.zeros(self.n)
        if self.held is not None:
            toll += self._toll(ended)
            side = np.sign(w - self.held)
        pull, slack = prices + toll * side, PRICE * self.scale + np.where(side == 0.0, toll, 0.0)
        up = waiting & (w < box.upper) & (pull < -slack)
        down = waiting & (w > box.lower) & (pull > slack)
        clear = np.where(up | down, np.abs(pull), 0.0)
        found = np.zeros(self.n, dtype=bool)
        found[np.argsort(-clear, kind="stable")[:JOIN]] = True
        return found & (clear > 0.0)

    def _bound(self, box: Box, w: Array, found: Found) -> float:
        if found.duals is None:
            return -np.inf if found.bound is None else found.bound - self.whole.constant
        bound = prove(self.whole, box, w, found.duals).bound
        return -np.inf if bound is None else bound - self.whole.constant


def _solve(formula: Formula, box: Box, near: Array) -> Found | None:
    """By the interior point where every term is known, else by cvxpy; None where neither ends at a minimum."""
    if bool((box.upper - box.lower <= 1e-14).all()):
        if not formula.exact:
            return Found(box.lower, None, "one point", bound=formula.evaluate(box.lower))
        at = best_duals(formula, box)
        return Found(box.lower, at, "one point")
    found = _on_tails(formula, box, near) if formula.exact else _in_pieces(formula, box)
    if found is not None:
        return found
    try:
        return through_cvxpy(formula, box)
    except SolverError:
        return None


def _in_pieces(formula: Formula, box: Box) -> Found | None:
    """The interior point on a formula with pieces; None where it does not prove its end to 1e-8."""
    found = None if formula.pieces is None else interior(formula, box)
    if found is None or found.duals is None:
        return None
    bound, value = prove(formula, box, found.weights, found.duals).bound, formula.evaluate(found.weights)
    if bound is None or not value - bound <= CLOSE * max(abs(value), 1.0 / scale_of(formula.plain, box)):
        return None
    return found


def _on_tails(formula: Formula, box: Box, near: Array) -> Found | None:
    """The interior point on the scenarios that are worst at `near`; more are taken in until none left out is in a tail,
    so the minimum is that of all scenarios, and a multiplier of zero is right for those left out."""
    kept = [_worst(tail, near, TAILS * tail.count + MORE) for tail in formula.tails]
    while True:
        tails = tuple(replace(t, losses=t.losses[k]) for t, k in zip(formula.tails, kept, strict=True))
        found = interior(replace(formula, tails=tails), box)
        if found is None or found.duals is None:
            return found
        wider = [_taken_in(t, k, found.weights) for t, k in zip(formula.tails, kept, strict=True)]
        if all(len(new) == len(old) for new, old in zip(wider, kept, strict=True)):
            full: list[Array] = []
            for tail, at, q in zip(formula.tails, kept, found.duals.tails, strict=True):
                full.append(np.zeros(len(tail.losses)))
                full[-1][at] = q
            return replace(found, duals=replace(found.duals, tails=tuple(full)))
        kept = wider


def _worst(tail: Tail, w: Array, count: float) -> Ints:
    """The places of the `count` worst scenarios at w; of all where there are not many more."""
    size = len(tail.losses)
    if 2 * count >= size:
        return np.arange(size)
    at = np.flatnonzero(w)
    return np.argpartition(-(tail.losses[:, at] @ w[at]), int(count))[: int(count)]


def _taken_in(tail: Tail, kept: Ints, w: Array) -> Ints:
    """`kept` and every other scenario that is beyond the quantile of those at w."""
    if len(kept) == len(tail.losses):
        return kept
    loss = tail.losses @ w
    inside = np.sort(loss[kept])[::-1]
    quantile = inside[min(int(tail.count), len(inside) - 1)]
    beyond = loss > quantile + 1e-12 * max(abs(float(quantile)), 1e-12)
    beyond[kept] = True
    return np.flatnonzero(beyond)


def best_duals(formula: Formula, box: Box) -> Multipliers:
    """Multipliers at the only point of a box: the worst scenarios, no pull of any row."""
    return Multipliers(tuple(best_tail(t, box.lower) for t in formula.tails), np.zeros(len(box.rows)), 0.0)


def modelled(mixed: Mixed, formula: Formula, box: Box, kind: type[FormulaProgram] = FormulaProgram) -> Mixed:
    """The mixed program with the formula in it, its local model taken where the relaxation has its optimum."""
    pool = Pool(formula) if solvable(formula) else None
    for first in (True, False):
        # Where no term is quadratic there is no curvature yet that would say where the optimum is.
        near = None if first and formula.curve is None else relax(mixed, mixed.choices.exists)
        if pool is not None:
            pool.empty()
        at = inside(box) if near is None else near.weights
        fixed = box.upper <= box.lower
        matrix, linear = local_model(formula, at, fixed)
        if near is not None and _in_a_kink(formula, at, matrix, linear):
            # As a tracking error is where all of the benchmark is held; no choice of a few names comes near.
            at = _rounded(mixed, near)
            matrix, linear = local_model(formula, at, fixed)
        if not np.isfinite(linear).all():
            # A term whose slope is endless at a bound, as that of the entropy is at zero: a little inside.
            matrix, linear = local_model(formula, (1.0 - INWARD) * at + INWARD * inside(box), fixed)
        p = mixed.program
        program = kind(
            matrix, linear, p.lower, p.upper, p.rows, p.row_lower, p.row_upper, p.held, p.rate, p.turnover,
            formula=formula, box=box, pool=pool,
        )  # fmt: skip
        mixed = replace(mixed, program=program)
    return mixed


def _in_a_kink(formula: Formula, w: Array, matrix: Array, linear: Array) -> bool:
    """Whether the local model of E at w (n,) bends far more than E does, a step away along its steepest name."""
    name = int(matrix.diagonal().argmax())
    bent, there = 0.5 * float(matrix[name, name]) * FAR**2, w.copy()
    there[name] += FAR
    straight = formula.evaluate(w) + FAR * float(matrix[name] @ w + linear[name])
    return bent > KINK * abs(formula.evaluate(there) - straight)


def _rounded(mixed: Mixed, relaxed: Point) -> Array:
    """The least portfolio (n,) of the modes that the relaxation's minimum rounds to; else that minimum."""
    choices, allowed = mixed.choices, mixed.root()
    if allowed is None:
        return relaxed.weights
    point = on_slice(mixed, rounded(choices, allowed, choices.weights(relaxed.weights)), relaxed)
    return relaxed.weights if point is None else point.weights


def answered(matrix: Array, box: Box, w: Array) -> Array:
    """Weights of a slice nearby moved into the box, (n,), the names that are free answering what moves by the local
    model: M_FF d_F + R_F'v = -M_F d, R d = 0, R the equations, as far as the box goes."""
    found = np.clip(w, box.lower, box.upper)
    free = np.flatnonzero((w > box.lower + FREE) & (w < box.upper - FREE))
    rows = box.rows[box.sides[0]]
    for _ in range(ANSWERS):
        k, moved = len(free), found - w
        moved[free] = 0.0
        if k <= len(rows) or not moved.any():
            break
        system = np.zeros((k + len(rows), k + len(rows)))
        system[:k, :k] = matrix[np.ix_(free, free)]
        system[k:, :k], system[:k, k:] = rows[:, free], rows[:, free].T
        at = np.flatnonzero(moved)
        right = -np.concatenate([matrix[np.ix_(free, at)] @ moved[at], rows[:, at] @ moved[at]])
        try:
            answer = w[free] + np.linalg.solve(system, right)[:k]
        except np.linalg.LinAlgError:
            break
        found[free] = np.clip(answer, box.lower[free], box.upper[free])
        inside = found[free] == answer
        if inside.all():
            break
        free = free[inside]
    return found


def local_model(formula: Formula, w: Array, fixed: Mask | None = None) -> tuple[Array, Array]:
    """(M, m): E(x) is about 1/2 x'Mx + m'x near w, costs of trading left out.

    A `fixed` name (n,) has one weight only: an endless slope of its own, as that of the entropy at zero, says nothing.
    """
    with np.errstate(invalid="ignore"):  # endless times zero
        _, slope, hessian = formula.smooth_part(w)
    for tail in formula.tails:
        slope = slope + tail.losses.T @ best_tail(tail, w)
        hessian = hessian + _tail_curvature(tail, w)
    if formula.other:
        slope = _autograd(formula, w)
    if fixed is not None:
        mute = fixed & ~(np.isfinite(slope) & np.isfinite(hessian.diagonal()))
        slope, hessian = np.where(mute, 0.0, slope), np.where(mute | mute[:, None], 0.0, hessian)
    ridge = RIDGE * max(float(np.abs(hessian).max()), float(np.abs(slope).max()), 1e-12)
    hessian = hessian + ridge * np.eye(len(w))
    return np.ascontiguousarray(hessian), slope - hessian @ w


def _tail_curvature(tail: Tail, w: Array) -> Array:
    """c / (1 - level) * f(VaR) * Cov(losses | loss near VaR), (n, n)."""
    loss = tail.losses @ w
    size, place = len(loss), min(int(tail.count), len(loss) - 1)
    half = max(int(BAND * size / 2), 10)
    order = np.argsort(-loss, kind="stable")[max(place - half, 0) : place + half]
    width = max(float(loss[order[0]] - loss[order[-1]]), 1e-300)
    near = tail.losses[order]
    centred = near - near.mean(axis=0)
    return np.asarray(tail.cap * len(order) / width * (centred.T @ centred) / len(order))


def _autograd(formula: Formula, w: Array) -> Array:
    point = torch.as_tensor(w, dtype=torch.float64).clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(formula.value(point), point)
    return np.asarray(slope.numpy())
