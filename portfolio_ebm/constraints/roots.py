"""The nearest point of a polyhedron under ellipsoids, through their multipliers.

    minimise 1/2 |w - y|^2   over box, rows, L1 balls,   q_j(w) = (w - c_j)' S_j (w - c_j) <= 1

For mu >= 0 the inner problem is a quadratic program with the Hessian I + sum mu_j S_j, solved exactly by an active
set. The dual in mu is concave and smooth. With one ellipsoid its root is bracketed, on 1/sqrt(q), which is almost
linear in mu; with several, projected Newton steps on the exact curvature of the active set climb the dual, and where
they do not arrive, the roots are nested.

Source: More, J. J. and Sorensen, D. C. (1983), Computing a trust region step, SIAM J. Sci. Stat. Comput. 4; Bertsekas
(1999), Nonlinear Programming, chapter 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from portfolio_ebm.constraints import active_set
from portfolio_ebm.constraints.exact import Cut
from portfolio_ebm.constraints.secular import secular_root
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

_LIFTS = (1e-9, 1e-6, 1e-4, 1e-2)
"""The curvature of lifted sizes, until the active set ends and its rows hold."""
_MISSED = 2e-11  # by how much a row may be missed before another attempt
_CLOSE = 1e-13  # how near an ellipsoid's relative size comes to one
_MAX_STEPS = 100


@dataclass(frozen=True)
class Inner:
    """One point y (n,), a polyhedron, and ellipsoids scaled to q_j <= 1; `near` (n,) is a guess of the answer."""

    y: Array
    cut: Cut
    matrices: tuple[Array, ...]
    centres: tuple[Array, ...]
    near: Array

    def at(self, mu: Array) -> tuple[Array, Array, Array]:
        """(w(mu), its relative sizes sqrt(q_j) - 1, row duals)."""
        hessian, slope = np.eye(len(self.y)), -self.y.copy()
        for weight, matrix, centre in zip(mu, self.matrices, self.centres, strict=True):
            if weight > 0.0:
                hessian += weight * matrix
                slope -= weight * (matrix @ centre)
        # Scaled back to a Hessian of order one, which the active set's tolerances are for.
        size = max(1.0, float(np.abs(hessian).max()))
        w, duals = _program(hessian / size, slope / size, self.cut, self.near)
        return w, self._over(w), duals

    def _over(self, w: Array) -> Array:
        """sqrt(q_j) - 1 at w (n,), (J,)."""
        moves = [w - centre for centre in self.centres]
        sizes = [m @ s @ m for m, s in zip(moves, self.matrices, strict=True)]
        found: Array = np.sqrt(np.maximum(sizes, 0.0)) - 1.0
        return found

    def one_root(self, mu: Array, j: int = 0) -> tuple[Array, Array, Array] | None:
        """mu with the multiplier j at which its ellipsoid is met; those before j are found anew each time, those after
        it stay as they are. 1/size rises with mu_j, almost in a line; on the face that a point lies on the root is
        known, and it is the answer where the minimum there lies on the same face."""
        start = self._with(mu, j, 0.0)
        if start is None or start[0] <= _CLOSE:
            return None if start is None else start[1]
        over, best = start
        move = best[0] - self.centres[j]
        guess = mu[j] if mu[j] > 0.0 else over * float(move @ move) / (1.0 + over) ** 2
        between, here, now = Bracket(0.0, _short(over)), max(guess, 1e-12), best
        for _ in range(2 * _MAX_STEPS):
            known = self._on_face(now, j)
            here = known if between.low < known < between.high else here
            found = self._with(mu, j, here)
            if found is None:
                return None
            f, now = _short(found[0]), found[1]
            between.take(here, f, -_CLOSE)
            if f >= -_CLOSE:
                best = now
            if between.f_high <= _CLOSE or between.narrow:
                return best
            here = between.next()
            if here > 1e14:
                return None
        return best

    def _with(self, mu: Array, j: int, one: float) -> tuple[float, tuple[Array, Array, Array]] | None:
        """How far ellipsoid j is exceeded where its multiplier is `one`, and the point with its multipliers."""
        trial = mu.copy()
        trial[j] = one
        if j == 0:
            w, over, duals = self.at(trial)
            return float(over[0]), (w, trial, duals)
        found = self.one_root(trial, j - 1)
        return None if found is None else (float(self._over(found[0])[j]), found)

    def _on_face(self, found: tuple[Array, Array, Array], j: int) -> float:
        """The multiplier at which ellipsoid j is met on the face that a point lies on, the others as they are; nan
        where there is none, or where they depend on it."""
        w, mu, duals = found
        if j > 0:
            return np.nan
        free, rows = self._face(w, duals)
        hessian, slope = np.eye(len(w)), w - self.y
        for weight, matrix, centre in zip(mu[1:], self.matrices[1:], self.centres[1:], strict=True):
            hessian += weight * matrix
            slope += weight * (matrix @ (w - centre))
        matrix, move = self.matrices[0], w - self.centres[0]
        pull, block = matrix @ move, np.ix_(free, free)
        return secular_root(
            hessian[block], slope[free], matrix[block], pull[free], float(move @ pull), rows, (1.0 - 0.5 * _CLOSE) ** 2
        )

    def _face(self, w: Array, duals: Array) -> tuple[NDArray[np.intp], Array]:
        """The names that are free on the face of the polyhedron w lies on, and the rows that bind there, over them."""
        free = np.flatnonzero((w > self.cut.lower + 1e-12) & (w < self.cut.upper - 1e-12) & ~_on_kink(w, self.cut))
        rows = np.concatenate([self.cut.rows, _ball_slopes(w, self.cut)])[np.flatnonzero(duals)]
        return free, rows[:, free]

    def _only(self, j: int) -> Inner:
        """The same with ellipsoid j alone."""
        return replace(self, matrices=(self.matrices[j],), centres=(self.centres[j],))

    def several_roots(self, mu: Array) -> tuple[Array, Array, Array] | None:
        """Projected Newton on the concave dual in mu, with its exact curvature on the active set."""
        mu = mu.copy()
        w, over, duals = self.at(mu)
        if not mu.any():
            # Each alone first: where that obeys the others, it is the answer; else it is where to start.
            for j in np.flatnonzero(over > _CLOSE):
                single = self._only(int(j)).one_root(np.zeros(1))
                if single is None:
                    return None
                mu[j] = single[1][0]
                alone = np.where(np.arange(len(mu)) == j, mu, 0.0)
                w, over, duals = self.at(alone)
                if (over <= _CLOSE).all():
                    return w, alone, duals
            w, over, duals = self.at(mu)
        ridge = 0.0
        for _ in range(_MAX_STEPS):
            slope = (1.0 + over) ** 2 - 1.0  # twice the dual's gradient
            if (np.abs(np.where(mu > 0.0, slope, np.maximum(slope, 0.0))) <= 4.0 * _CLOSE).all():
                return w, mu, duals
            curve, value = self._curvature(w, duals, mu), self._dual(w, mu)
            # Far outside the dual is far from quadratic: the step that is Newton's for 1/sqrt(q) is longer.
            size = 1.0 + max(float(over.max()), 0.0)
            longer = 2.0 * size**2 / (1.0 + size)
            least = 1e-14 * float(np.trace(curve)), 1e-8 * float(np.abs(slope).max()) / (1.0 + float(mu.max()))
            ridge = max(*least, 1e-3 * ridge)
            for _ in range(_MAX_STEPS):
                trial = np.maximum(mu + longer * _newton(curve, 0.5 * slope, mu, ridge), 0.0)
                w_new, over_new, duals_new = self.at(trial)
                gain = self._dual(w_new, trial) - value
                if gain >= 1e-4 * 0.5 * float(slope @ (trial - mu)) - 1e-15 * max(abs(value), 1.0):
                    break
                # Less far, and turned to the slope: along a direction of no curvature the step is of no use.
                ridge = max(10.0 * ridge, 1e-8 * float(np.trace(curve)))
            if (trial == mu).all() or trial.max() > 1e14:
                break
            mu, w, over, duals = trial, w_new, over_new, duals_new
        # Where the answer lies between two pieces of the dual, steps may go to and fro between them: root within root.
        return (w, mu, duals) if (over <= 1e-11).all() else self.one_root(np.zeros(len(mu)), len(mu) - 1)

    def _dual(self, w: Array, mu: Array) -> float:
        """The Lagrangian at w(mu): the value of the dual."""
        total = 0.5 * float((w - self.y) @ (w - self.y))
        for weight, matrix, centre in zip(mu, self.matrices, self.centres, strict=True):
            total += 0.5 * weight * (float((w - centre) @ matrix @ (w - centre)) - 1.0)
        return total

    def _curvature(self, w: Array, duals: Array, mu: Array) -> Array:
        """-d(1/2 q)/d mu (J, J) on the face of the polyhedron w lies on."""
        free, rows = self._face(w, duals)
        hessian = np.eye(len(w))
        for weight, matrix in zip(mu, self.matrices, strict=True):
            hessian += weight * matrix
        pulls = np.stack(
            [m @ (w - c) for m, c in zip(self.matrices, self.centres, strict=True)], axis=1
        )[free]  # fmt: skip
        inner = np.linalg.solve(hessian[np.ix_(free, free)], np.concatenate([pulls, rows.T], axis=1))
        j = pulls.shape[1]
        curve = pulls.T @ inner[:, :j]
        if len(rows):
            cross = rows @ inner[:, :j]
            curve = curve - cross.T @ np.linalg.lstsq(rows @ inner[:, j:], cross, rcond=None)[0]
        found: Array = 0.5 * (curve + curve.T)
        return found


@dataclass
class Bracket:
    """A root of a function that rises, below it at `low`, and above it at `high` once that is known; by false position,
    with the value at an end that stays halved.

    Source: Dowell, M. and Jarratt, P. (1971), A modified regula falsi method for computing the root of an equation, BIT
    11.
    """

    low: float
    f_low: float
    high: float = np.inf
    f_high: float = np.inf
    side: int = 0
    step: float = np.inf

    def take(self, x: float, f: float, least: float) -> None:
        """Make x an end, the upper one where f is at least `least`."""
        if f >= least:
            self.high, self.f_high = x, max(f, 0.0)
            self.f_low, self.side = (0.5 * self.f_low, 1) if self.side == 1 else (self.f_low, 1)
            return
        # Without an upper end the line through both points says how far away it is, within bounds.
        self.step = min(max(2.0 * x, x * (-self.f_low / max(f - self.f_low, 1e-3))), 16.0 * x)
        self.low, self.f_low = x, f
        self.f_high, self.side = (0.5 * self.f_high, -1) if self.side == -1 else (self.f_high, -1)

    @property
    def narrow(self) -> bool:
        return bool(self.high < np.inf and self.high - self.low <= 4e-16 * self.high)

    def next(self) -> float:
        """Where to look next."""
        if self.high == np.inf:
            return self.step
        here = self.high - self.f_high * (self.high - self.low) / (self.f_high - self.f_low)
        return here if self.low < here < self.high else 0.5 * (self.low + self.high)


def _short(over: float) -> float:
    """1/size - 1 of an ellipsoid exceeded by `over`, relative to its size."""
    return 1.0 / (1.0 + over) - 1.0


def _newton(curve: Array, slope: Array, mu: Array, ridge: float) -> Array:
    """The step d (J,) to the maximum over mu + d >= 0 of slope'd - 1/2 d'(C + ridge I)d."""
    bends, axes = np.linalg.eigh(curve)
    root = np.sqrt(np.maximum(bends, 0.0) + ridge)
    pull = slope + axes @ (root**2 * (axes.T @ mu))
    found: Array = nnls(root[:, None] * axes.T, (axes.T @ pull) / root)[0]
    return found - mu


def _on_kink(w: Array, cut: Cut) -> NDArray[np.bool_]:
    return np.asarray((np.abs(w - cut.centres) <= 1e-9).any(axis=0))


def _ball_slopes(w: Array, cut: Cut) -> Array:
    move = w - cut.centres
    return np.where(move > 0.0, cut.ups, -cut.downs)


def _program(hessian: Array, slope: Array, cut: Cut, near: Array) -> tuple[Array, Array]:
    """(w, duals of rows and balls): min 1/2 w'Hw + c'w over box, rows and balls.

    A lifted size t of a ball costs lift / 2 (t - its value at `near`)^2, which vanishes as `near` comes to w.

    Raises:
        InfeasibleError: the polyhedron is empty.
        SolverError: the active set gave up.
    """
    n, m = len(slope), len(cut.rows)
    if (cut.lower == cut.upper).all():
        return _only_point(cut), np.zeros(m + len(cut.radii))
    extra, tops, owner, name = cut.lifted()
    size = len(owner)
    move = near[name] - cut.centres[owner, name]
    lifts = np.maximum(cut.ups[owner, name] * move, -cut.downs[owner, name] * move)
    matrix = np.vstack([np.c_[cut.rows, np.zeros((m, size))], extra])
    box = np.concatenate([cut.lower, np.zeros(size)]), np.concatenate([cut.upper, np.full(size, np.inf)])
    ends = np.concatenate([cut.low, np.full(len(tops), -np.inf)]), np.concatenate([cut.high, tops])
    below, above = np.concatenate([box[0], ends[0]]), np.concatenate([box[1], ends[1]])
    best: tuple[float, Array, Array] | None = None
    for lift in _LIFTS:
        curvature = np.diag(np.full(n + size, lift))
        curvature[:n, :n] = hessian
        found = active_set.minimum(curvature, np.concatenate([slope, -lift * lifts]), box, matrix, ends)
        if found is active_set.Failure.EMPTY:
            raise InfeasibleError("Box, rows and L1 balls have no point in common.")
        if isinstance(found, active_set.Minimum):
            at = np.concatenate([found.x, matrix @ found.x])
            missed = max(float((at - above).max(initial=0.0)), float((below - at).max(initial=0.0)))
            if best is None or missed < best[0]:
                best = missed, found.x, found.rows
            if missed <= _MISSED:
                break
    if best is None:
        raise SolverError(
            f"No nearest point under the rules of {n} names was reached; loosen a rule that leaves almost no room."
        )
    return best[1][:n], best[2][: m + len(cut.radii)]


def _only_point(cut: Cut) -> Array:
    """The one point of the box, which an active set would take for too many equations.

    Raises:
        InfeasibleError: it breaks a row or a ball.
    """
    at = cut.rows @ cut.lower
    move = cut.lower - cut.centres
    away = np.maximum(cut.ups * move, -cut.downs * move).sum(axis=1)
    if (at > cut.high + _MISSED).any() or (at < cut.low - _MISSED).any() or (away > cut.radii + _MISSED).any():
        raise InfeasibleError("Box, rows and L1 balls have no point in common.")
    return cut.lower.copy()
