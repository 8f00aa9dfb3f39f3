"""Energies with a gradient and no more, beside multi-start, scipy's basin hopping and textbook Langevin: one table.

    python -m benchmarks.optimizer.rugged [--seeds 2] [--first 0] [--count 3] [--sizes 50,200] [--kinds nets,...]

Ours is the public call. Every other side is given the CPU seconds that it took, and its best weights are judged by the
same energy. What is printed is how far above the least energy of any side each one ends, in standard deviations of the
energy over 64 random feasible portfolios (exponential weights, brought to the rules).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.optimizer.rugged_cases import KINDS, Case, cases
from benchmarks.optimizer.rugged_sides import SIDES, measured, ours

HEADINGS = ("problem", "sd", "CPU s", "ours", "worst seed", *SIDES)


def row(case: Case, seeds: int) -> list[str]:
    """The means over the seeds of how far each side is above the best of all, in sd."""
    sd = measured(case)
    gaps: dict[str, list[float]] = {name: [] for name in ("ours", *SIDES)}
    runs = [ours(case, seed) for seed in range(seeds)]
    seconds = float(np.mean([run.seconds for run in runs]))
    others = {
        name: [side(case, seed, run.seconds) for seed, run in enumerate(runs)]
        for name, side in SIDES.items()
        if case.limits or name not in ("rounding", "greedy", "no swaps")
    }
    found = {"ours": [run.value for run in runs], **others}
    best = min(min(values) for values in found.values())
    for name, values in found.items():
        gaps[name] = [(value - best) / sd for value in values]
    sides = [f"{np.mean(gaps[name]):.3f}" if np.isfinite(gaps.get(name) or np.inf).all() else "-" for name in SIDES]
    mean, worst = np.mean(gaps["ours"]), max(gaps["ours"])
    return [case.label, f"{sd:.3g}", f"{seconds:.1f}", f"{mean:.3f}", f"{worst:.3f}", *sides]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with stocks/")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="number of the first net and funnel")
    parser.add_argument("--count", type=int, default=3, help="nets and funnels of each size")
    parser.add_argument("--sizes", default="50,200", help="numbers of names, by comma")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of energies, by comma")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="Standard deviations above the least energy of any side, at equal CPU time")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "problem" else "right")
    sizes = [int(size) for size in given.sizes.split(",")]
    for case in cases(given.kinds.split(","), sizes, given.count, given.data, given.first):
        printed = row(case, given.seeds)
        print(" | ".join(printed), flush=True)
        table.add_row(*printed)
    console = Console(width=200)
    console.print(table)
    console.print(f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), one thread a side.")


if __name__ == "__main__":
    main()
