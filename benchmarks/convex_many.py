"""Many convex problems through one door, beside a loop of single solves and beside skfolio, in one run.

    python benchmarks/convex_many.py [--problems 100]

Every problem is 252 days of made-up returns of its own, long-only with a 10 % cap, estimated and optimised; times are
CPU time of the process, printed as ratios only. The loop is `optimize`, which also says shadow prices, marginal
energies and what each term can decide; skfolio fits MeanRisk, the weights alone. The last columns say how far the
weights are from the loop's, and what each side's portfolio costs beside ours by one formula.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe

DAYS, CAP = 252, 0.10
RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=CAP)
CASES: list[tuple[str, pe.Energy, int]] = [
    ("VARIANCE", pe.Variance(), 20),
    ("CVAR", pe.CVaR(0.95), 20),
    ("VARIANCE", pe.Variance(), 100),
]


def draws(count: int, n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.normal(5e-4, 0.012, (DAYS, n)) + rng.normal(0.0, 0.01, (DAYS, 1)) for _ in range(count)]


def alone(energy: pe.Energy, sets: list[np.ndarray]) -> np.ndarray:
    return np.array([pe.optimize(energy, RULES, scenarios=one, constructor=pe.Convex()).weights for one in sets])


def together(energy: pe.Energy, sets: list[np.ndarray]) -> np.ndarray:
    found = pe.optimize_many(energy, RULES, scenarios=sets)
    assert found.ok.all(), str(found)
    return found.weights.to_numpy()


def theirs(measure: str, sets: list[np.ndarray]) -> np.ndarray:
    from skfolio import RiskMeasure
    from skfolio.optimization import MeanRisk

    return np.array(
        [MeanRisk(risk_measure=getattr(RiskMeasure, measure), max_weights=CAP).fit(s).weights_ for s in sets]
    )


def cost(measure: str, sets: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The risk of each portfolio, by a formula that belongs to neither side."""
    earned = np.einsum("ktn,kn->kt", np.array(sets), weights)
    if measure == "VARIANCE":
        return earned.var(axis=1, ddof=1)
    losses = np.sort(-earned, axis=1)[:, ::-1]
    tail = 0.05 * DAYS
    whole = int(tail)
    return (losses[:, :whole].sum(axis=1) + (tail - whole) * losses[:, whole]) / tail


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    weights = run()
    return time.process_time() - start, weights


def row(measure: str, energy: pe.Energy, sets: list[np.ndarray]) -> list[str]:
    sides = (lambda of: together(energy, of), lambda of: alone(energy, of), lambda of: theirs(measure, of))
    for side in sides:
        side(sets[:2])  # imports and first calls are nobody's time
    (ours, weights), (loop, single), (other, others) = (timed(lambda s=side: s(sets)) for side in sides)
    worst = float((cost(measure, sets, others) / cost(measure, sets, weights)).max())
    off = f"{np.abs(weights - single).max():.0e}"
    return [f"{loop / ours:.1f}", f"{other / ours:.1f}", off, f"{worst:.6f}"]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--problems", type=int, default=100)
    count = arguments.parse_args().problems
    warnings.filterwarnings("ignore")
    table = Table(title=f"{count} problems of {DAYS} days: CPU time in multiples of optimize_many")
    for column in (
        "measure",
        "names",
        "loop of optimize",
        "skfolio",
        "weights from the loop's",
        "skfolio's risk / ours",
    ):
        table.add_column(column, justify="right")
    for measure, energy, n in CASES:
        table.add_row(measure, str(n), *row(measure, energy, draws(count, n)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
