"""Choices of names: our engine with its parts taken out, textbook Langevin chains, greedy, SCIP and skfolio.

    python -m benchmarks.optimizer.ablation [--data FOLDER] [--points 7] [--seeds 2] [--seconds 10] [--times 1]
                                            [--rows KINDS]

The problems, the evaluator and what counts as feasible are those of `python -m benchmarks.optimizer`. What each side
is: ablation_sides.py.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.optimizer import instances
from benchmarks.optimizer.ablation_sides import SIDES, skfolio
from benchmarks.optimizer.judging import SAME, excess, feasible_value, solver, stopped
from benchmarks.optimizer.problem import FUNDS, Problem
from benchmarks.optimizer.sides import Found, greedy, ours

KINDS = ("frontiers", "funds", "large", "tails", "trades")
ONCE = ("greedy", "SCIP", "skfolio")
HEADINGS = ("problem", "CPU s", "ours", *SIDES, *ONCE)
LONGER = 1.25
NOTES = """\
A cell: how far above the best value of any side the weights are, relative to the sum of the sizes of the energy's terms
there, at the worst of the row's problems and seeds; before it, where some of the runs are at the best value (to 1e-8),
how many of all; `=`: all are. A dash: not offered; `none`: nothing feasible in some run. In brackets: CPU time over
that of ours, where it is above 1.25; `>`: the clock ended a run. `CPU s`: one call of ours, certificate included, the
mean.

`no noise` to `projected` have the CPU seconds of ours, times --times, and spend them in rounds. `greedy`, `SCIP` (HiGHS
for a CVaR) and `skfolio` run once a problem, to their end or --seconds; the weights of the last two are solved again on
the names they chose. skfolio cannot state a fund's limits, tickets or a 3/2 impact."""


@dataclass
class Tally:
    """What one side reached over the runs of a row."""

    gaps: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    due: float = 0.0
    late: bool = False

    def add(self, gap: float | None, seconds: float, due: float, late: bool = False) -> None:
        """One run: how far above the best, its seconds, those of ours, whether a clock ended it."""
        self.gaps.append(gap)
        self.seconds, self.due, self.late = self.seconds + seconds, self.due + due, self.late or late

    def shown(self) -> str:
        if not self.gaps:
            return "-"
        known = [gap for gap in self.gaps if gap is not None]
        good = sum(gap <= SAME for gap in known)
        said = "none" if len(known) < len(self.gaps) else "=" if good == len(known) else f"{max(known):.0e}"
        if said != "=" and good:
            said = f"{good}/{len(self.gaps)} {said}"
        longer = self.seconds / max(self.due, 1e-9)
        return f"{said} ({'>' if self.late else ''}{longer:.2g})" if longer > LONGER or self.late else said


def once(problem: Problem, cap: float, scale: float) -> dict[str, Found | None]:
    """The sides without random numbers."""
    chosen = greedy(problem) if problem.names and problem.held is None else None
    return {"greedy": chosen, "SCIP": solver(problem, cap, None, scale), "skfolio": skfolio(problem, cap)}


def row(label: str, problems: Sequence[Problem], seeds: int, cap: float, times: float) -> list[str]:
    """All sides on some problems."""
    tallies = {name: Tally() for name in ("ours", *SIDES, *ONCE)}
    for problem in problems:
        runs = [ours(problem, seed) for seed in range(seeds)]
        found = {
            name: [side(problem, seed, times * run.seconds) for seed, run in enumerate(runs)]
            for name, side in SIDES.items()
        }
        alone = {k: v for k, v in once(problem, cap, problem.scale(runs[0].weights)).items() if v is not None}
        every = [*runs, *(one for side in found.values() for one in side), *alone.values()]
        best = min(feasible_value(problem, one) for one in every)
        for name, side in {"ours": runs, **found}.items():
            for one, run in zip(side, runs, strict=True):
                due = run.seconds if name == "ours" else times * run.seconds
                tallies[name].add(excess(problem, one, best), one.seconds, due)
        mean = float(np.mean([run.seconds for run in runs]))
        for name, one in alone.items():
            tallies[name].add(excess(problem, one, best), one.seconds, mean, name != "greedy" and stopped(one, cap))
    mine = tallies["ours"]
    return [label, f"{mine.seconds / len(mine.gaps):.2f}", *(tally.shown() for tally in tallies.values())]


def groups(data: Path, kinds: Sequence[str], points: int) -> Iterator[tuple[str, list[Problem]]]:
    """The rows: a label and its problems."""
    if "frontiers" in kinds:
        for port in (1, 2, 3):
            line = [problem for problem, _ in instances.frontier(data / "orlib", port, False, points)]
            yield f"{line[0].label}, {len(line)} points", line
    returns = instances.stocks(data / "stocks")
    single: dict[str, list[Problem]] = {
        "funds": [instances.fund("225 stocks", *instances.moments(returns, 225), limits) for limits in FUNDS],
        "large": [*(instances.large(returns, 600, 20, risk) for risk in (1.0, 10.0)), instances.simulated(600, 20)],
        "tails": [instances.tail(returns, n, 2_000, names=10, floor=0.02) for n in (100, 400)],
        "trades": [instances.tickets(returns, 100, 5e-4, 1.0), instances.trading(returns, instances.TRADES[4])],
    }
    for kind, problems in single.items():
        if kind in kinds:
            yield from ((problem.label, [problem]) for problem in problems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with orlib/ and stocks/")
    parser.add_argument("--points", type=int, default=7, help="points of each frontier, of 49")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="the clock of SCIP, HiGHS and skfolio")
    parser.add_argument("--times", type=float, default=1.0, help="CPU time of the other sides over that of ours")
    parser.add_argument("--rows", default=",".join(KINDS), help="the kinds of rows, by comma")
    given = parser.parse_args()
    if not (given.data / "orlib").is_dir() or not (given.data / "stocks").is_dir():
        raise SystemExit(f"{given.data}: no orlib/ and stocks/ there, so nothing is run; name a folder with --data.")
    torch.set_num_threads(1)
    began = time.time()
    table = Table(title=f"Above the best value of any side, at {given.times:g} times the CPU time of ours")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "problem" else "right")
    for k, (label, problems) in enumerate(groups(given.data, given.rows.split(","), given.points)):
        if k == 0:
            ours(problems[0])  # what is imported and set up once is nobody's time
        printed = row(label, problems, given.seeds, given.seconds, given.times)
        print(" | ".join(printed), flush=True)
        table.add_row(*printed)
    console = Console(width=190)
    console.print(table)
    console.print(
        f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), one thread a side, solvers stopped "
        f"at {given.seconds:g} CPU s; {(time.time() - began) / 60.0:.0f} minutes."
    )
    console.print(NOTES)


if __name__ == "__main__":
    main()
