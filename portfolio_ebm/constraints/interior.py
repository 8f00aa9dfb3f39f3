"""One row at a time where the active set loses its way: sets so thin or so cornered that rounding decides a pivot.

    minimise 1/2 |w - y|^2   over the box, the rows and the L1 balls, with t >= the kinks of the balls,

by an interior point method (Clarabel), which no degenerate corner stops, zooming in where constraints nearly coincide;
then exactly on the face it points to, where with every tight constraint as an equation it is a least squares solution.
How far that is from the nearest point of the whole set is measured: with N the normals of the tight constraints,

    |w - w*| <= |y - w - N z| for any z >= 0   (a projection never stretches a distance).

A set is called empty only on a proof: a certificate of Farkas, checked here and not taken on trust, or else a linear
program (HiGHS) whose least excess over all rows and balls is above what counts as broken.
Source: Goulart and Chen (2024), Clarabel: an interior-point solver for conic programs with quadratic objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

import clarabel
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lstsq
from scipy.optimize import linprog

from portfolio_ebm.constraints.exact import Cut
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BROKEN = 1e-10
"""An excess above this is a broken rule."""

_HELD = (1.0, 1e3, 1e-3)  # a constraint holds the point where its multiplier exceeds this times its slack
_MAX_FACES = 20
_ZOOMS = (1.0, 1e-5, 1e-8)
_PROVEN = 1e-11  # a distance to the nearest point, relative to 1 + |y|, that counts as none
_RANK = 1e-11
_EMPTY = "PrimalInfeasible"


@dataclass(frozen=True)
class _Lifted:
    """low <= M x <= high over x = (w, t): n bounds, T bounds t >= 0, m rows, K balls, then the kinks."""

    cut: Cut
    matrix: Array
    low: Array
    high: Array
    owner: NDArray[np.intp]
    name: NDArray[np.intp]

    @classmethod
    def of(cls, cut: Cut) -> _Lifted:
        extra, tops, owner, name = cut.lifted()
        size = len(owner)
        n = len(cut.lower)
        matrix = np.vstack([np.eye(n + size), np.c_[cut.rows, np.zeros((len(cut.rows), size))], extra])
        low = np.concatenate([cut.lower, np.zeros(size), cut.low, np.full(len(tops), -np.inf)])
        high = np.concatenate([cut.upper, np.full(size, np.inf), cut.high, tops])
        return cls(cut, matrix, low, high, owner, name)

    def sides(self) -> tuple[NDArray[np.intp], Array, int]:
        """(line, sign, E): the finite ends as +-M[line] x <= +-end; the first E are equations."""
        both = self.low == self.high
        ends = [np.flatnonzero(x) for x in (both, np.isfinite(self.high) & ~both, np.isfinite(self.low) & ~both)]
        sign = np.concatenate([np.ones(len(ends[0]) + len(ends[1])), -np.ones(len(ends[2]))])
        return np.concatenate(ends), sign, len(ends[0])


def nearest_inside(y: Array, cut: Cut) -> tuple[Array, Array, Array]:
    """(w, nu, lam): the nearest point to y (n,) and multipliers (m,) and (K,), proven to 1e-10.

    Raises:
        InfeasibleError: the set is empty, and that is proven.
        SolverError: neither a nearest point nor a proof that there is none was found.
    """
    try:
        return _solved(y, cut)
    except SolverError:
        excess = least_excess_of(cut)
    if excess > BROKEN:
        raise InfeasibleError(f"The box, the rows and the caps on sums of sizes miss each other by {excess:.3g}.")
    return _solved(y, cut.eased(excess + 0.1 * BROKEN), 0.2 * BROKEN)


def _solved(y: Array, cut: Cut, slip: float = 0.1 * BROKEN) -> tuple[Array, Array, Array]:
    """The nearest point; a constraint that is off by at most `slip` is kept."""
    program = _Lifted.of(cut)
    n, size = len(y), len(program.owner)
    line, sign, equal = program.sides()
    if len(line) == 0:
        return y, np.zeros(len(cut.rows)), np.zeros(len(cut.radii))
    matrix, ends = program.matrix[line] * sign[:, None], np.where(sign > 0.0, program.high[line], -program.low[line])
    face = _Face(y, matrix, ends, equal, slip)
    x = np.zeros(n + size)
    for zoom in _ZOOMS:
        near = (ends - matrix @ x <= 1e3 * zoom) | (np.arange(len(ends)) < equal) | (zoom == 1.0)
        found = _interior(face, x, zoom, near)
        status, z, slack = str(found.status), np.zeros(len(ends)), np.ones(len(ends))
        z[near], slack[near] = found.z, found.s
        if status == _EMPTY and zoom == 1.0 and _farkas(cut, z, matrix, ends):
            raise InfeasibleError("The box, the rows and the caps on sums of sizes have no point in common.")
        step = np.asarray(found.x)
        if not (np.isfinite(step).all() and np.isfinite(z).all()):
            raise SolverError(f"The nearest point was not found: the interior point method ended with {status}.")
        x = x + zoom * step
        for ratio in _HELD:
            point = face.settled(x, z, (z > ratio * slack) | (np.arange(len(z)) < equal))
            if point is not None:
                each = np.zeros(len(program.matrix))
                np.add.at(each, line, sign * point[1])
                m, k = len(cut.rows), len(cut.radii)
                duals = each[n + size :]
                return point[0].clip(cut.lower, cut.upper), duals[:m], duals[m : m + k]
    raise SolverError("A nearest point was not proven; the rules leave almost no room: loosen one a little.")


def _interior(face: _Face, x: Array, zoom: float, near: Mask) -> clarabel.DefaultSolution:
    """Clarabel's step and multipliers for x + zoom * step, under the constraints that are near.

    Zooming in tells constraints apart that are nearer to each other than the accuracy of one solution.
    """
    n, size = len(face.y), len(x)
    curvature = sparse.csc_matrix(sparse.diags_array(zoom * (np.arange(size) < n)))
    cost = np.r_[x[:n] - face.y, np.zeros(size - n)]
    ends = (face.ends - face.matrix @ x)[near] / zoom
    cones = [clarabel.ZeroConeT(face.equal), clarabel.NonnegativeConeT(len(ends) - face.equal)]
    return clarabel.DefaultSolver(
        curvature, cost, sparse.csc_matrix(face.matrix[near]), ends, cones, _settings()
    ).solve()


@dataclass(frozen=True)
class _Face:
    """minimise 1/2 |w - y|^2 over M x <= ends, x = (w, t); the first `equal` are equations."""

    y: Array
    matrix: Array
    ends: Array
    equal: int
    slip: float

    def settled(self, x: Array, z: Array, held: Mask) -> tuple[Array, Array] | None:
        """(w, z) from a guess of the constraints that hold the point, one let go or taken up at a time."""
        size = 1.0 + float(np.abs(self.y).max())
        held = held.copy()
        for _ in range(_MAX_FACES):
            point, pull, over = self._on(x, z, held)
            kept = np.maximum(pull, 0.0)
            kept[: self.equal] = pull[: self.equal]
            loose, wrong = np.where(held, over, 0.0), np.where(held, pull, 0.0)
            loose[: self.equal] = wrong[: self.equal] = 0.0
            missing = self._goal(point) - self.matrix.T @ kept
            off = max(float(-loose.min(initial=0.0)), float(over.max()))
            if off <= self.slip and float(np.linalg.norm(missing)) <= _PROVEN * size:
                return point[: len(self.y)], kept
            if loose.min(initial=0.0) < -self.slip:
                held[loose.argmin()] = False
            elif wrong.min(initial=0.0) < 0.0:
                held[wrong.argmin()] = False
            else:
                if held[over.argmax()]:
                    return None
                held[over.argmax()] = True
        return None

    def _goal(self, x: Array) -> Array:
        """(y - w, 0), which the multipliers of an optimum pull back."""
        n = len(self.y)
        return np.concatenate([self.y - x[:n], np.zeros(len(x) - n)])

    def _on(self, x: Array, z: Array, held: Mask) -> tuple[Array, Array, Array]:
        """(x, z, M x - ends) with the held constraints as equations, by least squares from x and z."""
        n, size = len(self.y), len(x)
        rows, ends = self.matrix[held], self.ends[held]
        curved = np.diag((np.arange(size) < n).astype(float))
        both = np.block([[curved, rows.T], [rows, np.zeros((len(rows), len(rows)))]])
        force = z[held]
        for _ in range(2):  # The second time against rounding.
            missing = np.concatenate([self._goal(x) - rows.T @ force, ends - rows @ x])
            step = lstsq(both, missing, cond=_RANK, lapack_driver="gelsy")[0]
            x, force = x + step[:size], force + step[size:]
        pull = np.zeros(len(z))
        pull[held] = force
        over = self.matrix @ x - self.ends
        over[: self.equal] = np.abs(over[: self.equal])
        return x, pull, over


def _settings() -> clarabel.DefaultSettings:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    settings.max_threads = 1
    return settings


def _farkas(cut: Cut, z: Array, matrix: Array, ends: Array) -> bool:
    """Whether z proves that every point breaks a rule by more than `BROKEN`.

    For every x: z . (M x - ends) >= -z . ends - |M' z|_1 max |x|, and the worst excess is at least that over |z|_1.
    """
    reach = float(np.max(np.abs(np.concatenate([cut.lower, cut.upper, cut.centres.ravel()]))))
    weight = float(np.abs(z).sum())
    if not np.isfinite(reach) or not weight > 0.0 or not np.isfinite(weight):
        return False
    slopes = float((cut.ups + cut.downs).max()) if cut.ups.size else 0.0
    lost = float(np.abs(matrix.T @ z).sum()) * 2.0 * (1.0 + slopes) * reach
    return bool((-float(z @ ends) - lost) / weight > BROKEN)


def least_excess_of(cut: Cut) -> float:
    """The least number by which rows and balls have to be let out to have a point in the box. By HiGHS.

    Raises:
        SolverError: HiGHS ended without an answer.
    """
    program = _Lifted.of(cut)
    size = len(cut.lower) + len(program.owner)
    body = slice(size, None)
    loose = np.zeros(len(program.matrix) - size)
    loose[: len(cut.rows) + len(cut.radii)] = -1.0  # The kinks only say what a size is.
    upper, lower = np.isfinite(program.high[body]), np.isfinite(program.low[body])
    m = program.matrix[body]
    found = linprog(
        np.r_[np.zeros(size), 1.0],
        A_ub=np.vstack([np.c_[m, loose][upper], np.c_[-m, loose][lower]]),
        b_ub=np.concatenate([program.high[body][upper], -program.low[body][lower]]),
        bounds=np.c_[np.r_[program.low[:size], 0.0], np.r_[program.high[:size], np.inf]],
        method="highs", options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    if found.status != 0:  # Let out, the program always has a point.
        raise SolverError(f"Whether the rules have a point in common was not decided: {found.message}")
    return float(found.fun)
