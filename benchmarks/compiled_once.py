"""What compiling a formula once saves: twenty boxes of one structure through cvxpy, beside compiling each time.

    python benchmarks/compiled_once.py [--names 20] [--days 500] [--boxes 20]

CPU time of one thread. The minima of both ways are compared too. Data are random, from a fixed seed: only sizes matter.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.exact.oracle import through_cvxpy
from portfolio_ebm.optimization import given_context

ENERGIES = (pe.CVaR() + pe.Variance(), pe.EVaR() + pe.Variance(), pe.MeanAbsoluteDeviation() + pe.Semideviation())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=int, default=20)
    parser.add_argument("--days", type=int, default=500)
    parser.add_argument("--boxes", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draws = np.random.default_rng(0).standard_t(5, size=(asked.days, asked.names)) * 0.01
    frame = pd.DataFrame(draws, columns=[f"A{i}" for i in range(asked.names)])
    ctx = given_context(ENERGIES[0], pe.Budget(), scenarios=frame).ctx
    box = Box.of(region_of(pe.Budget() & pe.LongOnly() & pe.Box(upper=0.5), ctx))
    boxes = [replace(box, upper=box.upper * (1.0 - 0.5 * k / asked.boxes)) for k in range(asked.boxes)]
    table = Table(title=f"{asked.boxes} boxes, {asked.names} names, {asked.days} days")
    for heading in ("formula", "time compiled each time / once", "largest difference of the minima"):
        table.add_column(heading)
    for energy in ENERGIES:
        formula = take_apart(energy, ctx)
        started = time.process_time()
        each = [formula.evaluate(through_cvxpy(take_apart(energy, ctx), one).weights) for one in boxes]
        middle = time.process_time()
        once = [formula.evaluate(through_cvxpy(formula, one).weights) for one in boxes]
        ratio = (middle - started) / (time.process_time() - middle)
        table.add_row(repr(energy), f"{ratio:.2f}", f"{np.abs(np.subtract(each, once)).max():.1e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
