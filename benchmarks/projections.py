"""The nearest point of sets of portfolios: ours in a batch beside three solvers in a loop, in one run.

    python benchmarks/projections.py [--batch 500] [--seconds 4] [--seed 0]

Sets of 100 and 500 names: a capped simplex; with 10 disjoint groups; with 16 overlapping ones; with a limit on
turnover; with overlapping groups and turnover. Points are a portfolio with noise of the size of its weights. The
others: cvxpy with Clarabel (a parametrised problem, compiled before the clock starts), Clarabel called directly, and
daqp, a compiled active set, called directly; each with its own tolerances, one point after the other, for as many
points of the batch as fit in the seconds given (at least two). A dash: turnover split into buys and sells has no
curvature there, which daqp is not made for. Printed: CPU time of the process a point as a multiple of ours in the
batch, ours also one point at a time; the largest violation of any rule; and the largest distance of an entry from
ours, relative to 1 + max |y|. The exit code is 1 where ours breaks a rule by more than 1e-10, or where another's
point that breaks none by more than 1e-12 is nearer than ours by more than 1e-9 of the distance.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import clarabel
import cvxpy as cp
import daqp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse

from portfolio_ebm.constraints.combine import region_residual
from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region

Array = np.ndarray
Side = Callable[[Array], Array]
SETS = ("capped simplex", "disjoint groups", "overlapping groups", "turnover", "groups and turnover")
FAR = 1e30


def region_of(kind: str, n: int, rng: np.random.Generator) -> tuple[Region, Array]:
    """A set, and a portfolio that is inside its rules on single names."""
    start = rng.dirichlet(np.full(n, 2.0))
    region = Region.free(n).with_box(0.0, 5.0 / n).with_row(torch.ones(n, dtype=torch.float64), 1.0, 1.0, "budget")
    labels = [rng.integers(0, 10, n)] if "groups" in kind else []
    labels += [rng.integers(0, 6, n)] if kind in ("overlapping groups", "groups and turnover") else []
    for label in labels:
        for k in np.unique(label):
            row = torch.tensor((label == k).astype(float))
            share = float(row.sum()) / n
            region = region.with_row(row, 0.8 * share, 1.1 * share, f"group {k}")
    if "turnover" in kind:
        region = replace(region, anchor=torch.full((n,), 1.0 / n, dtype=torch.float64), turnover=0.2)
    return region, start


@dataclass(frozen=True)
class Matrices:
    """low <= M x <= high for x = (w, buys, sells) with turnover, else x = w; the first lines are the bounds."""

    matrix: Array
    low: Array
    high: Array
    n: int

    @classmethod
    def of(cls, region: Region) -> Matrices:
        n = region.n
        rows = region.rows.numpy()
        low, high = region.row_lower.numpy(), region.row_upper.numpy()
        lower, upper = region.lower.numpy(), region.upper.numpy()
        if region.anchor is None:
            return cls(np.vstack([np.eye(n), rows]), np.r_[lower, low], np.r_[upper, high], n)
        held = region.anchor.numpy()
        trades = np.c_[np.eye(n), -np.eye(n), np.eye(n)]  # w - buys + sells = held
        total = np.r_[np.zeros(n), np.ones(2 * n)]
        body = np.vstack([np.c_[rows, np.zeros((len(rows), 2 * n))], trades, total])
        return cls(
            np.vstack([np.eye(3 * n), body]),
            np.r_[lower, np.zeros(2 * n), low, held, -np.inf],
            np.r_[upper, np.full(2 * n, np.inf), high, held, region.turnover],
            n,
        )


def by_cvxpy(region: Region) -> Side:
    w, y = cp.Variable(region.n), cp.Parameter(region.n)
    rules = [w >= region.lower.numpy(), w <= region.upper.numpy()]
    for row, low, high in zip(region.rows.numpy(), region.row_lower.tolist(), region.row_upper.tolist(), strict=True):
        rules += [row @ w == low] if low == high else [row @ w >= low, row @ w <= high]
    if region.anchor is not None:
        rules.append(cp.norm1(w - region.anchor.numpy()) <= region.turnover)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(w - y)), rules)

    def solve(point: Array) -> Array:
        y.value = point
        problem.solve(solver=cp.CLARABEL)
        return np.asarray(w.value)

    solve(np.zeros(region.n))  # Compiled here, before the clock.
    return solve


def by_clarabel(region: Region) -> Side:
    m = Matrices.of(region)
    equal = m.low == m.high
    up, down = np.isfinite(m.high) & ~equal, np.isfinite(m.low) & ~equal
    matrix = sparse.csc_matrix(np.vstack([m.matrix[equal], m.matrix[up], -m.matrix[down]]))
    ends = np.concatenate([m.high[equal], m.high[up], -m.low[down]])
    cones = [clarabel.ZeroConeT(int(equal.sum())), clarabel.NonnegativeConeT(int(up.sum() + down.sum()))]
    size = m.matrix.shape[1]
    curved = sparse.csc_matrix(sparse.diags_array((np.arange(size) < m.n).astype(float)))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1

    def solve(point: Array) -> Array:
        cost = np.r_[-point, np.zeros(size - m.n)]
        return np.asarray(clarabel.DefaultSolver(curved, cost, matrix, ends, cones, settings).solve().x)[: m.n]

    return solve


def by_daqp(region: Region) -> Side | None:
    if region.anchor is not None:
        return None
    m = Matrices.of(region)
    curved, body = np.eye(m.n), np.ascontiguousarray(m.matrix[m.n :])
    sense = np.where(m.low == m.high, 5, 0).astype(np.int32)
    high, low = np.clip(m.high, -FAR, FAR), np.clip(m.low, -FAR, FAR)
    return lambda point: np.asarray(daqp.solve(curved, -point, body, high, low, sense)[0])


def timed(side: Side, points: Array, seconds: float) -> tuple[Array, float]:
    """(the answers, CPU seconds a point) for as many points as fit, at least two."""
    side(points[0])
    found: list[Array] = []
    begin = time.process_time()
    for point in points:
        found.append(side(point))
        if len(found) > 1 and time.process_time() - begin > seconds:
            break
    return np.stack(found), (time.process_time() - begin) / len(found)


def ours(region: Region, points: Array) -> tuple[Array, float]:
    """(the answers, CPU seconds a point) in one batch, the best of three."""
    batch, best = torch.tensor(points), np.inf
    w = batch
    for _ in range(3):
        begin = time.process_time()
        w, _ = nearest_in(batch, region)
        best = min(best, (time.process_time() - begin) / len(points))
    return w.numpy(), best


def broken(w: Array, region: Region) -> float:
    return float(region_residual(torch.tensor(w), region).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(asked.seed)
    title = f"{asked.batch} nearest points: time a point, ours in a batch = 1 (worst violation; distance from ours)"
    table = Table(title=title)
    for name in ("set", "names", "ours, µs", "ours", "one at a time", "cvxpy + Clarabel", "Clarabel", "daqp"):
        table.add_column(name, justify="left" if name == "set" else "right")
    wrong = 0
    for kind in SETS:
        for n in (100, 500):
            region, start = region_of(kind, n, rng)
            points = start + rng.normal(size=(asked.batch, n)) / n
            w, unit = ours(region, points)
            single = timed(lambda y, r=region: nearest_in(torch.tensor(y), r)[0].numpy(), points, asked.seconds)[1]
            cells = [f"{1e6 * unit:.0f}", f"{broken(w, region):.0e}", f"{single / unit:.1f}"]
            for make in (by_cvxpy, by_clarabel, by_daqp):
                side = make(region)
                if side is None:
                    cells.append("-")
                    continue
                found, each = timed(side, points, asked.seconds)
                apart = np.abs(found - w[: len(found)]).max() / (1.0 + np.abs(points).max())
                cells.append(f"{each / unit:.1f} ({broken(found, region):.0e}; {apart:.0e})")
                to, nearest = (np.linalg.norm(x - points[: len(found)], axis=1) for x in (found, w[: len(found)]))
                # A point outside the set may be nearer: only those inside are a judge.
                inside = region_residual(torch.tensor(found), region).numpy() <= 1e-12
                wrong += int((nearest > to * (1.0 + 1e-9))[inside].any())
            wrong += int(broken(w, region) > 1e-10)
            table.add_row(kind, str(n), *cells)
    Console(width=150).print(table)
    print(f"{wrong} wrong.")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
