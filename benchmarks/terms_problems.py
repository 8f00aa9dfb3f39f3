"""Every pair of terms under every pair of rules against Clarabel with tight tolerances: 10,000 problems, counted.

    python benchmarks/terms_problems.py [--problems 10000] [--jobs 2] [--seed 0]

The problems and their judge are those of tests/cases_problems.py: two terms, each scaled to matter, under two rules
that mostly leave room for a portfolio. Pairs are dealt in turn, so that each comes up equally often. A problem is wrong
where weights break a rule by more than 1e-9, where the energy differs from Clarabel's minimum by more than 1e-6 of its
size, or where an answer, or a refusal, contradicts Clarabel. Every wrong one is printed; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cases_problems import RULE_PAIRS, TERM_PAIRS, outcome, problem


def deal(count: int, seed: int) -> list[tuple[int, int, int]]:
    """(pair of terms, pair of rules, seed of the problem), every pair as often as any other."""
    draw = np.random.default_rng(seed)

    def dealt(size: int) -> np.ndarray:
        return np.concatenate([draw.permutation(size) for _ in range(-(-count // size))])[:count]

    found = zip(dealt(len(TERM_PAIRS)), dealt(len(RULE_PAIRS)), draw.integers(10**9, size=count), strict=True)
    return [(int(a), int(b), int(s)) for a, b, s in found]


def one(deal: tuple[int, int, int]) -> tuple[str, str, str]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    terms, rules, seed = TERM_PAIRS[deal[0]], RULE_PAIRS[deal[1]], deal[2]
    try:
        found = outcome(problem(terms, rules, seed))
    except Exception as error:  # a crash is the one thing that must not pass unseen
        return "crashed", f"{type(error).__name__}: {error}", f"{terms} {rules} {seed}"
    return found.kind, found.wrong, f"{terms} {rules} {seed}: {found.message}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    kinds: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    with ProcessPoolExecutor(asked.jobs) as pool:
        for kind, what, where in pool.map(one, deal(asked.problems, asked.seed), chunksize=50):
            kinds[kind] += 1
            if what:
                wrong[what.split(" by ")[0]] += 1
                print(f"{kind}, {what}: {where}")
    table = Table(title=f"{asked.problems} problems")
    table.add_column("how it ended")
    table.add_column("problems", justify="right")
    for name in ("proven", "not proven", "refused", "crashed"):
        table.add_row(name, str(kinds[name]))
    for name, count in wrong.items():
        table.add_row(f"wrong: {name}", str(count))
    Console(width=110).print(table)
    pairs = f"{len(TERM_PAIRS)} pairs of terms, {len(RULE_PAIRS)} pairs of rules"
    print(
        f"{pairs}, each {asked.problems // len(TERM_PAIRS)} or {asked.problems // len(RULE_PAIRS)} times or one more."
    )
    print(f"{sum(wrong.values())} wrong.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
