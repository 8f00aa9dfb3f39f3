"""Choices of names beside SCIP, HiGHS, textbook rounding and greedy: one table, differences and times as ratios.

    python -m benchmarks.optimizer [--data FOLDER] [--points 10] [--solver-points 49] [--seeds 2] [--seconds 30]
                                   [--rows KINDS] [--ports 1,2,3] [--full]

Ours is the public call, certificate included. Every weight vector is judged by one evaluator that belongs to no side
and has to be feasible to 1e-9; a solver's weights, feasible to a millionth, are solved again on the names it chose.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.optimizer import instances
from benchmarks.optimizer.judging import SAME, excess, feasible_value, solver, stopped
from benchmarks.optimizer.problem import FUNDS, HELD, Problem
from benchmarks.optimizer.sides import Found, certified, choice_of, greedy, on_choice, ours, rounding, unproven

PROOF = 30.0
"""Seconds that a tree is given for the proof of a CVaR that a call of ours leaves open."""
SINGLE = ("funds", "large", "tails", "costs", "roots", "tickets")
HEADINGS = ("problem", "best value", "ours", "proven", "CPU s", "solver", "its time / ours", "rounding", "greedy")
NOTES = """\
`best value`: the least energy of any side. `ours`, `solver`, `rounding`, `greedy`: how far above it the weights of that
side are, relative to the sum of the sizes of the energy's terms there; `=` is 1e-8 or less, a dash: not offered or
nothing feasible found. `ours` is the worst of the seeds. `proven`: in how many of the runs the certificate closed; of a
CVaR that it left open also the CPU seconds of BranchAndBound(time_limit=30), and the gap where it did not close it.
`CPU s`: one call of ours, its certificate included, the middle of the seeds; `Allocation.ranges` is drawn when it is
first read and is not in it. In brackets, of a CVaR under a number of names: a call that leaves the proof out,
AnnealedLangevin(nodes=0), whose weights are judged with `ours`. `solver`: SCIP, or HiGHS for CVaR, one thread, stopped
as soon as it has our value to 1e-6 (HiGHS: when it has proven its own; its clock is the wall's, which is unkind to it
on a busy machine); for a fund's limits in brackets when it has proven its own, as ours has. `>` in its time: it was
stopped by the clock, and the number is a lower bound of the ratio. Building the model is in our time and not in the
solver's.

Frontiers: every side says at how many of the points its weights are at the best value known (of any side, of the names
that ours chose at the points beside it, and on record for exactly ten names) and how far its worst point is above it.
`CPU s` is of the whole frontier, one seed. The other sides run at --solver-points of the points, evenly spread, SCIP
until it has proven its own or its clock stops it; times are over ours at the same points, and in brackets SCIP's
slowest point alone is over our whole frontier.

`rounding` relaxes, keeps the largest names and solves again (a fund's limits: the largest names above 5 % that fit;
trades: the optimum without tickets, cut to whole lots). `greedy` adds the name of the least slope and solves again. In
brackets: the time of both over ours. A solver's polished weights and the two textbook sides use this library's own
convex solver on the names chosen, so that what is compared is the choice.

`costs` ("trades at 5 bps"): from equal weights in every name to a few, 10 variance - .3 mean and a rate on all that is
traded, or its 3/2 impact.

`roots` ("volatility"): volatility - .3 mean, which SCIP has as one cone; "5 bps": from equal weights in every name.

`trades`: 225 names from about equal weights in 45, a ticket, 3/2 impact and a turnover cap; with `lots`, whole lots of
100 and up to 2 % cash. SCIP has the impact as one power cone a name, its lots as whole numbers (to 1e-9 there)."""


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    return "=" if value <= SAME else f"{value:.1e}"


def ratio(found: Found, cap: float, seconds: float) -> str:
    late = stopped(found, cap)
    return f"{'>' if late else ''}{found.seconds / seconds:,.1f}"


def timed(said: str, found: Found, seconds: float) -> str:
    return said if said == "-" else f"{said} ({found.seconds / seconds:.2g})"


def one(problem: Problem, seeds: int, cap: float) -> list[str]:
    """The row of a single problem."""
    runs = [ours(problem, seed) for seed in range(seeds)]
    worst = max(feasible_value(problem, run) for run in runs)
    scale = problem.scale(runs[0].weights)
    seconds = float(np.median([run.seconds for run in runs]))
    other = solver(problem, cap, worst, scale)
    simple = [rounding(problem), greedy(problem)]
    best = min(feasible_value(problem, found) for found in [*runs, other, *simple])
    fund = problem.limits and not problem.tail
    proof = f" ({ratio(solver(problem, cap, None, scale), cap, seconds)})" if fund else ""
    gaps = [excess(problem, run, best) for run in runs]
    proven = f"{sum(run.proven for run in runs)}/{seeds}"
    if problem.tail and not all(run.proven for run in runs):
        tree = certified(problem, PROOF)
        gaps.append(excess(problem, tree, best))
        proven += f", tree {tree.seconds:.1f} s" if tree.proven else f", tree {tree.gap:.1%} open"
    bare = ""
    if problem.tail and problem.names:
        found = unproven(problem)
        bare = f" ({found.seconds:.2f})"
        gaps.append(excess(problem, found, best))
    return [
        problem.label, f"{best:.6g}", shown(None if None in gaps else max(gaps)), proven,
        f"{seconds:.3f}{bare}", shown(excess(problem, other, best)), ratio(other, cap, seconds) + proof,
        *(timed(shown(excess(problem, found, best)), found, seconds) for found in simple),
    ]  # fmt: skip


def frontier(points: list[tuple[Problem, float]], seeds: int, cap: float, others: int) -> list[str]:
    """The row of a frontier: problems of one kind, each with the best value on record; other sides at `others` points,
    evenly spread."""
    gaps: dict[str, list[float]] = {"ours": [], "solver": [], "rounding": [], "greedy": []}
    spent = dict.fromkeys(gaps, 0.0)
    proven, late, slowest, beside = 0, False, 0.0, 0.0
    ran = [[ours(problem, seed) for seed in range(seeds)] for problem, _ in points]
    asked = set(np.linspace(0, len(points) - 1, min(max(others, 1), len(points))).round().astype(int).tolist())
    for k, (problem, record) in enumerate(points):
        runs = ran[k]
        sides: dict[str, Found] = {}
        if k in asked:
            scale = problem.scale(runs[0].weights)
            sides = {
                "solver": solver(problem, cap, None, scale), "rounding": rounding(problem), "greedy": greedy(problem),
            }  # fmt: skip
            late |= stopped(sides["solver"], cap)
            slowest = max(slowest, sides["solver"].seconds)
            beside += sum(run.seconds for run in runs) / seeds
        best = min(record, *(feasible_value(problem, found) for found in [*runs, *sides.values()]))
        best = min(best, *borrowed(problem, [run for at in (k - 1, k + 1) if 0 <= at < len(ran) for run in ran[at]]))
        proven += sum(run.proven for run in runs)
        for name, found in [*(("ours", run) for run in runs), *sides.items()]:
            gap = excess(problem, found, best)
            gaps[name].append(np.inf if gap is None else gap)
            spent[name] += found.seconds / (seeds if name == "ours" else 1)
    said = {name: f"{sum(g <= SAME for g in found)}/{len(found)}, {shown(max(found))}" for name, found in gaps.items()}
    seconds = spent["ours"]
    simple = [f"{said[name]} ({spent[name] / beside:.2g})" for name in ("rounding", "greedy")]
    return [
        f"{points[0][0].label}, {len(points)} points", "", said["ours"], f"{proven}/{seeds * len(points)}",
        f"{seconds:.2f}", said["solver"], f"{'>' if late else ''}{spent['solver'] / beside:,.1f} "
        f"({'>' if late else ''}{slowest / seconds:,.1f})", *simple,
    ]  # fmt: skip


def borrowed(problem: Problem, runs: list[Found]) -> list[float]:
    """What the names that runs at neighbouring points chose are worth here."""
    choices = {choice_of(problem, run.weights, HELD).tobytes() for run in runs if run.weights is not None}
    found = [on_choice(problem, np.frombuffer(choice, dtype=bool)) for choice in choices]
    return [np.inf, *(feasible_value(problem, Found(w, 0.0)) for w in found)]


def rows(data: Path, given: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of the kinds asked for."""
    kinds, cap = given.rows.split(","), given.seconds
    points, seeds = (49, 5) if given.full else (given.points, given.seeds)
    if "frontiers" in kinds:
        for port, exactly in itertools.product(map(int, given.ports.split(",")), (False, True)):
            yield frontier(instances.frontier(data / "orlib", port, exactly, points), seeds, cap, given.solver_points)
    for kind in SINGLE:
        if kind in kinds:
            for problem in single(kind, data, given.full):
                yield one(problem, max(seeds, 3) if kind == "large" else seeds, cap)


def single(kind: str, data: Path, full: bool) -> Iterator[Problem]:
    """The problems of one kind."""
    returns = instances.stocks(data / "stocks")
    if kind == "funds":
        for limits in FUNDS:
            for port in (1, 3):
                mean, covariance = instances.orlib(data / "orlib", port)
                yield instances.fund(f"port{port}, {len(mean)} names", mean, covariance, limits)
            for n in (100, 225, 400, 600) if full else (225, 600):
                yield instances.fund(f"{n} stocks", *instances.moments(returns, n), limits)
    elif kind == "large":
        for n, names in ((600, 20), (1000, 50)):
            yield from (instances.large(returns, n, names, risk) for risk in (1.0, 10.0))
            yield instances.simulated(n, names)
    elif kind == "tails":
        for n, scenarios in itertools.product((100, 400), (2_000, 10_000)):
            yield instances.tail(returns, n, scenarios, names=10, floor=0.02)
            yield instances.tail(returns, n, scenarios, "UCITS")
    elif kind == "costs":
        for n, names in ((30, 8), (100, 10), (225, 20)):
            yield from (instances.costly(returns, n, names, rate) for rate in (5e-4, 2e-3, 0.0))
    elif kind == "roots":
        for n, names in ((100, 10), (225, 20), (600, 20)) if full else ((100, 10),):
            yield from (instances.rooted(returns, n, names, rate) for rate in (0.0, 5e-4))
    else:
        for rate, turnover in ((1e-4, 0.5), (5e-4, 0.5), (5e-4, 1.0)):
            yield instances.tickets(returns, 100, rate, turnover)
        for trade in instances.TRADES:
            yield instances.trading(returns, trade)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with orlib/ and stocks/")
    parser.add_argument("--points", type=int, default=10, help="points of each frontier, of 49")
    parser.add_argument("--ports", default="1,2,3", help="which frontiers, by comma")
    parser.add_argument("--solver-points", type=int, default=49, help="of them, those where the other sides run too")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="the solvers' clock")
    parser.add_argument("--rows", default=",".join(("frontiers", *SINGLE)), help="the kinds of rows, by comma")
    parser.add_argument("--full", action="store_true", help="all 49 points, five seeds, every size")
    given = parser.parse_args()
    if not (given.data / "orlib").is_dir() or not (given.data / "stocks").is_dir():
        raise SystemExit(f"{given.data}: no orlib/ and stocks/ there, so nothing is run; name a folder with --data.")
    torch.set_num_threads(1)
    began = time.time()
    table = Table(title="Above the best value of any side", show_lines=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "problem" else "right")
    for row in rows(given.data, given):
        print(" | ".join(row), flush=True)
        table.add_row(*row)
    minutes = (time.time() - began) / 60.0
    last = (
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), one thread a side, solvers stopped "
        f"at {given.seconds:g} CPU s; {minutes:.0f} minutes."
    )
    console = Console(width=170)
    console.print(table)
    console.print(last)
    console.print(NOTES)


if __name__ == "__main__":
    main()
