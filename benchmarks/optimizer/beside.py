"""Walks over names that run side by side, as on another device, beside the search that the host runs.

    python -m benchmarks.optimizer.beside [--data ../shared/data] [--device cpu] [--problems 4] [--chains 16]

Both sides set out from the same roundings of the same relaxations. `walks`: annealed walks of all chains of a row's
problems in one batch on the device, their ends solved exactly on the host; `descents`: the host's, from these ends.
`search`: what the host runs on each problem, descents and annealed walks from the best roundings. None of these has
branch and bound. A cell: on how many problems a side is at the value that the optimizer's whole call ends on, to 1e-9,
and how far the worst is above it, relative to the sizes of the energy's parts. `times`: the walks' seconds over the
search's, of one core where the device is cpu, else of the wall, after one run to warm up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe
from benchmarks.optimizer.instances import frontier, large, simulated, stocks
from benchmarks.optimizer.problem import Array, Problem, formula, inputs, rules
from portfolio_ebm.constraints.combine import regions_of
from portfolio_ebm.constraints.mixed.node import Mixed, relax
from portfolio_ebm.constraints.mixed.programs.slice import Ints
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.construction.choosing.beside import Start, walked_beside
from portfolio_ebm.construction.choosing.choosing import mixed_of, roundings
from portfolio_ebm.construction.choosing.swaps import Plan, swapped
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.optimization import given_context

SWEEPS, WALKERS = 6, 8


def groups(data: Path, count: int) -> Iterator[tuple[str, list[Problem]]]:
    """Rows of the table: problems of one shape."""
    points = [problem for problem, _ in frontier(data / "orlib", 3, False, count)]
    yield "port3, at most 10 of 89, points of the frontier", points
    returns, risks = stocks(data / "stocks"), np.linspace(4.0, 12.0, count)
    yield "20 of 600 stocks, aversions to risk", [large(returns, 600, 20, risk) for risk in risks]
    yield "20 of 600, ten factors, variance, drawn anew", [simulated(600, 20, seed) for seed in range(count)]


def mixed(problem: Problem) -> Mixed:
    energy, constraint = formula(problem), rules(problem)
    ctx = given_context(energy, constraint, **inputs(problem)).ctx
    return mixed_of(take_apart(energy, ctx), regions_of(constraint, ctx)[0])


def started(one: Mixed, chains: int) -> tuple[Search, Start]:
    """A search that has solved its starts."""
    root = one.root()
    assert root is not None
    relaxed = relax(one, root)
    assert relaxed is not None
    search = Search(one, root)
    modes = roundings(search, relaxed.weights, chains, np.random.default_rng(0))
    values = [point.value for point in (search.solve(m, relaxed.weights) for m in modes) if point is not None]
    return search, Start(modes, relaxed.weights, float(np.std(values)))


def best(search: Search, ends: list[Ints]) -> float:
    return min((point.value for point in (search.solve(m) for m in ends) if point is not None), default=np.inf)


def walks(asked: list[tuple[Search, Start]], device: torch.device) -> tuple[list[float], list[float], float]:
    """The best value of each problem, that after descents, and the seconds of the walks."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    ends = walked_beside(asked, SWEEPS, torch.Generator(device).manual_seed(0))
    seconds = clock() - began
    found = [best(search, one) for (search, _), one in zip(asked, ends, strict=True)]
    lower = [best(search, [search.descend(m) for m in one]) for (search, _), one in zip(asked, ends, strict=True)]
    return found, lower, seconds


def searches(asked: list[tuple[Search, Start]]) -> tuple[list[float], float]:
    found, plan, began = [], Plan(0, WALKERS, SWEEPS, True, 0), time.process_time()
    for search, start in asked:
        leaders = sorted(start.modes, key=search.memo.value)[:WALKERS]
        ends = swapped(search, leaders, plan, 1, start.spread, np.random.default_rng(0)).ends
        found.append(min(search.memo.value(m) for m in ends))
    return found, time.process_time() - began


def cell(values: list[float], known: list[tuple[float, float]]) -> str:
    above = [(value - least) / size for value, (least, size) in zip(values, known, strict=True)]
    reached = sum(one <= 1e-9 for one in above)
    return f"{reached} of {len(above)}" + (f", {max(above):.1e}" if reached < len(above) else "")


def known(problem: Problem, one: Mixed) -> tuple[float, float]:
    """The value that a whole call ends on, and the sizes of its parts."""
    w: Array = pe.optimize(formula(problem), rules(problem), **inputs(problem)).weights.to_numpy()
    return one.program.value(w), problem.scale(w)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--chains", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"Walks side by side on {asked.device}, {asked.chains} chains a problem")
    for heading in ("problems", "walks", "descents", "search", "times"):
        table.add_column(heading)
    for label, problems in groups(asked.data, asked.problems):
        programs = [mixed(problem) for problem in problems]
        if asked.device.type != "cpu":
            walks([started(one, asked.chains) for one in programs], asked.device)
        ends, theirs, seconds = walks([started(one, asked.chains) for one in programs], asked.device)
        mine, own = searches([started(one, asked.chains) for one in programs])
        truth = [known(problem, one) for problem, one in zip(problems, programs, strict=True)]
        table.add_row(label, *(cell(side, truth) for side in (ends, theirs, mine)), f"{seconds / own:.2g}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
