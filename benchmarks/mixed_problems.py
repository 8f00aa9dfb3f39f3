"""Problems with every rule and every kind of term mixed: none infeasible, no crash, nothing silent.

    python benchmarks/mixed_problems.py [--problems 10000] [--jobs 2] [--seed 0] [--seconds INF]

The problems and what is demanded of an answer are those of tests/cases_mixed.py: 6 to 12 names, one to six terms,
convex ones and others, tickets, under two to seven rules of every kind there is. Four in ten have a term that is not
convex, one in seven a soft rule, one in twenty a NaN planted; nine of ten with whole lots leave room for cash. Every
wrong one is printed; the exit code is then 1. `gave up` is a SolverError, `not offered` a combination refused by name.
Ctrl-C and SIGTERM end it with the table of what was dealt so far; where none was wrong the exit code is then 130.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cases_mixed import outcome, problem

KINDS = ("proven", "bounded", "found", "infeasible", "gave up", "not offered", "refused", "NaN refused", "crashed")
STOPS = (signal.SIGINT, signal.SIGTERM)


def one(seed: int) -> tuple[str, str, str, float]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.process_time()
    try:
        found = outcome(problem(seed))
    except Exception as error:  # a crash is the one thing that must not pass unseen
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return "crashed", said, f"problem({seed})", time.process_time() - began
    return found.kind, found.wrong, f"problem({seed}): {found.message}", time.process_time() - began


def deaf() -> None:
    """A worker leaves it to who dealt the problems to stop: a signal to the whole group would end it in mid-answer."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)


def answers(count: int, seed: int, jobs: int) -> Iterator[tuple[str, str, str, float]]:
    seeds = np.random.default_rng(seed).integers(10**9, size=count).tolist()
    if jobs == 1:
        yield from map(one, seeds)
        return
    pool = ProcessPoolExecutor(jobs, initializer=deaf)
    try:
        yield from pool.map(one, seeds, chunksize=4)
    finally:  # whoever stops listening waits for no answer that was begun
        for worker in active_children():
            worker.kill()
        pool.shutdown(cancel_futures=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no new problem after so many")
    parser.add_argument("--verbose", action="store_true", help="print also what was not offered or given up on")
    asked = parser.parse_args()
    kinds: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    began, spent, stopped = time.time(), [], False
    for stop in STOPS:
        signal.signal(stop, signal.default_int_handler)
    try:
        for kind, what, where, seconds in answers(asked.problems, asked.seed, asked.jobs):
            kinds[kind] += 1
            spent.append(seconds)
            if what:
                wrong[kind if kind == "crashed" else what.split(" by ")[0]] += 1
            if what or (asked.verbose and kind in ("gave up", "not offered", "refused")):
                print(f"{kind}, {what}: {where}", flush=True)
            if time.time() - began > asked.seconds:
                break
    except KeyboardInterrupt:
        stopped = True
    show(kinds, wrong, spent, f"stopped after {len(spent)} of {asked.problems}" if stopped else str(len(spent)))
    return 1 if wrong else 130 * stopped


def show(kinds: Counter[str], wrong: Counter[str], spent: list[float], dealt: str) -> None:
    table = Table(title=f"{dealt} problems")
    table.add_column("how it ended")
    table.add_column("problems", justify="right")
    for name in KINDS:
        table.add_row(name, str(kinds[name]))
    for name, count in wrong.items():
        table.add_row(f"wrong: {name}", str(count))
    Console(width=110).print(table)
    middle, most = (np.median(spent), max(spent)) if spent else (0.0, 0.0)
    print(f"{middle:.2f} CPU s in the middle, {most:.1f} at most. {sum(wrong.values())} wrong.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
