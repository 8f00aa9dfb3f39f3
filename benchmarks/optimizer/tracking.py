"""Index tracking with K names beside SCIP, skfolio's SCIP-based cardinality, rounding and greedy, and our own proof.

    python -m benchmarks.optimizer.tracking [--data F] [--seconds 10] [--seeds 2] [--names 10,20,40] [--full]

    min  var(R w - r) = w'S w - 2 s'w + v,   w >= 0, sum w = 1, at most K names of at least 1 % each

R the weekly returns of OR-Library's indtrack1-3, r those of the index, S = cov(R), s = cov(R, r), v = var(r). Every
side is judged on var(R w - r) itself and has to be feasible to 1e-9; differences are relative to the least of any side.
SCIP and skfolio are feasible to a millionth, so their weights are solved again on the names they chose. `--full` gives
the solvers 60 seconds each.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.optimizer.problem import FEASIBLE, Array, Problem
from benchmarks.optimizer.sides import Found, certified, greedy, ours, polished, rounding
from benchmarks.optimizer.solvers import scip

FLOOR = 0.01
SAME = 1e-6
HEADINGS = ("problem", "least variance", "ours", "proven", "CPU s", "BranchAndBound", "its gap", "SCIP", "skfolio",
            "rounding", "greedy")  # fmt: skip
NOTES = """\
`ours`, `BranchAndBound`, `SCIP`, `skfolio`, `rounding`, `greedy`: how far above the least variance of any side each is,
in percent of it; `=` is 1e-6 or less of it, a dash: nothing feasible. In brackets: its time over ours; `>`: stopped by
the clock. `ours` is AnnealedLangevin(), the worst of the seeds; `its gap`: what BranchAndBound leaves unproven, in
percent of its variance: its clock is the wall's, the solvers' is the CPU's. skfolio is given returns in percent, since
SCIP's tolerances are absolute."""


def tracked(folder: Path, number: int, names: int) -> tuple[Problem, float, Array]:
    """The problem without its constant v, v itself, and R - r (T, n), whose portfolios' variance is that of R w - r."""
    with np.load(folder / f"indtrack{number}.npz") as found:
        prices, index = found["prices"], found["index"]
    returns, market = (prices[:, 1:] / prices[:, :-1] - 1.0).T, index[1:] / index[:-1] - 1.0
    covariance = np.cov(returns, rowvar=False, ddof=0)
    pull = (returns - returns.mean(0)).T @ (market - market.mean()) / len(market)
    label = f"indtrack{number}, {names} of {returns.shape[1]}"
    problem = Problem(label, 2.0 * pull, covariance, risk=1.0, reward=1.0, names=names, floor=FLOOR)
    return problem, float(market.var()), returns - market[:, None]


def skfolio(problem: Problem, away: Array, seconds: float) -> Found:
    """MeanRisk with a cardinality on R - r: its least variance is the tracking error's; SCIP through cvxpy."""
    from skfolio.optimization import MeanRisk

    model = MeanRisk(
        cardinality=problem.names, threshold_long=problem.floor, min_weights=0.0, solver="SCIP",
        solver_params={"scip_params": {"limits/time": seconds, "timing/clocktype": 1, "parallel/maxnthreads": 1}},
    )  # fmt: skip
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(100.0 * away)
    except Exception as error:  # whatever a peer raises is a row without an answer
        return Found(None, time.process_time() - start, said=f"{type(error).__name__}: {error}"[:200])
    spent = time.process_time() - start
    return Found(polished(problem, np.asarray(model.weights_)), spent)


def variance(problem: Problem, constant: float, found: Found) -> float:
    known = found.weights is not None and problem.violation(found.weights) <= FEASIBLE
    return problem.energy(found.weights) + constant if known else np.inf


def shown(value: float, best: float, found: Found, seconds: float, cap: float = np.inf) -> str:
    above = value / best - 1.0
    said = "-" if not np.isfinite(value) else "=" if above <= SAME else f"{100.0 * above:.2g} %"
    return f"{said} ({'>' if found.seconds >= 0.98 * cap else ''}{found.seconds / seconds:.2g})"


def row(folder: Path, number: int, names: int, seeds: int, cap: float) -> list[str]:
    problem, constant, away = tracked(folder, number, names)
    runs = [ours(problem, seed) for seed in range(seeds)]
    worst = max(variance(problem, constant, run) for run in runs)
    seconds = float(np.median([run.seconds for run in runs]))
    proof = certified(problem, cap)
    # SCIP runs until it has proven its own optimum: no target.
    solved = scip(problem, cap, None, worst)
    solved = Found(None if solved.weights is None else polished(problem, solved.weights), solved.seconds)
    sides = {"tree": proof, "scip": solved, "skfolio": skfolio(problem, away, cap)}
    simple = {"rounding": rounding(problem), "greedy": greedy(problem)}
    values = {name: variance(problem, constant, found) for name, found in {**sides, **simple}.items()}
    best = min(worst, *values.values(), *(variance(problem, constant, run) for run in runs))
    assert proof.gap is not None
    return [
        problem.label, f"{best:.6g}", "=" if worst / best - 1.0 <= SAME else f"{100.0 * (worst / best - 1.0):.2g} %",
        f"{sum(run.proven for run in runs)}/{seeds}", f"{seconds:.2f}",
        shown(values["tree"], best, proof, seconds), f"{100.0 * proof.gap / best:.2g} %",
        *(shown(values[name], best, sides[name], seconds, cap) for name in ("scip", "skfolio")),
        *(shown(values[name], best, simple[name], seconds) for name in ("rounding", "greedy")),
    ]  # fmt: skip


def rows(folder: Path, counts: list[int], seeds: int, cap: float) -> Iterator[list[str]]:
    for number in (1, 2, 3):
        for names in counts:
            if names < len(tracked(folder, number, names)[0].mean):
                yield row(folder, number, names, seeds, cap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with orlib/")
    parser.add_argument("--seconds", type=float, default=10.0, help="the solvers' clock, and BranchAndBound's")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--names", default="10,20,40", help="K, by comma")
    parser.add_argument("--full", action="store_true", help="60 seconds each, five seeds")
    given = parser.parse_args()
    folder = given.data / "orlib"
    if not (folder / "indtrack1.npz").is_file():
        raise SystemExit(f"{folder}: no indtrack1.npz there, so nothing is run; name a folder with --data.")
    torch.set_num_threads(1)
    cap, seeds = (60.0, 5) if given.full else (given.seconds, given.seeds)
    table = Table(title=f"Above the least tracking variance; solvers stopped at {cap:g} s", show_lines=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "problem" else "right")
    for found in rows(folder, [int(k) for k in given.names.split(",")], seeds, cap):
        print(" | ".join(found), flush=True)
        table.add_row(*found)
    console = Console(width=170)
    console.print(table)
    console.print(NOTES)


if __name__ == "__main__":
    main()
