"""Many problems with a gradient and no more, walked in one batch, beside the same one after the other: one table.

    python -m benchmarks.optimizer.together [--problems 32] [--sizes 20,50,200] [--kinds nets,funnels,dates,regimes]
                                            [--device cpu]

`nets` and `funnels`: random ones, a formula each. `dates`: one net with return and variance under the estimates of each
date, evaluated by one call. `regimes`: one formula that is not written for batches, so that each date is evaluated by
itself. Budget and long only, estimates of made-up returns. `share`: the time of the batch over that of the problems one
after the other, polish and certificate included; CPU time of one core where the device is cpu, else of the wall, after
one run to warm up. `apart`: by how much energies and weights of the two differ at most. `walked on`: the problems whose
first descents did not agree.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe
from benchmarks.optimizer.rugged_cases import Funnel, RandomNet, WorstRegime
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.construction.batches import solve_each
from portfolio_ebm.construction.together import Problem
from portfolio_ebm.energy import Energy
from portfolio_ebm.optimization import given_context

DAYS = 252
RULES = pe.Budget() & pe.LongOnly()
KINDS: dict[str, Callable[[int], Energy]] = {
    "nets": lambda k: RandomNet(seed=k),
    "funnels": lambda k: Funnel(seed=k) if k % 2 else Funnel(seed=k, exposures=12, depth=0.1, frequency=25.0),
    "dates": lambda _: RandomNet(seed=0) + pe.Return() + 5.0 * pe.Variance(),
    "regimes": lambda _: WorstRegime(),
}


def problems(kind: str, n: int, count: int, device: torch.device) -> list[Problem]:
    found = []
    for k in range(count):
        rng = np.random.default_rng(k)
        draws = rng.normal(5e-4, 0.012, (DAYS, n)) + rng.normal(0.0, 0.01, (DAYS, 1))
        energy, scenarios = KINDS[kind](k), torch.as_tensor(draws).to(device)
        found.append((energy, given_context(energy, RULES, scenarios=scenarios).ctx))
    return found


def solved(asked: Sequence[Problem]) -> list[Solution]:
    answers = solve_each(asked, RULES, pe.AnnealedLangevin())
    found = [one for one in answers if isinstance(one, Solution)]
    assert len(found) == len(asked), next(one for one in answers if not isinstance(one, Solution))
    return found


def row(kind: str, n: int, count: int, device: torch.device) -> list[str]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    asked = problems(kind, n, count, device)
    if device.type != "cpu":
        solved(asked[:2])
    began = clock()
    batch = solved(asked)
    between = clock()
    alone = [one for problem in asked for one in solved([problem])]
    ended = clock()
    pairs = list(zip(batch, alone, strict=True))
    energies = max(abs(one.energy - other.energy) for one, other in pairs)
    weights = max(float((one.weights - other.weights).abs().max()) for one, other in pairs)
    walked = sum(one.diagnostics["cycles"] > 0 for one in alone)
    share = (between - began) / (ended - between)
    return [kind, str(n), str(count), f"{walked}", f"{share:.2f}", f"{energies:.0e}", f"{weights:.0e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--sizes", default="20,50,200", help="numbers of names, by comma")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of energies, by comma")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"One batch beside one after the other, on {given.device}")
    for heading in ("energies", "names", "problems", "walked on", "share", "energies apart", "weights apart"):
        table.add_column(heading, justify="left" if heading == "energies" else "right")
    for kind in given.kinds.split(","):
        for n in map(int, given.sizes.split(",")):
            printed = row(kind, n, given.problems, given.device)
            print(" | ".join(printed), flush=True)
            table.add_row(*printed)
    console = Console(width=120)
    console.print(table)
    console.print(f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), one thread.")


if __name__ == "__main__":
    main()
