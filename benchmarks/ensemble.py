"""The distribution of nearly optimal portfolios: draws a second, R-hat, and agreement with an independent exact kernel.

    python benchmarks/ensemble.py [--data ../shared/data] [--names 20,100] [--seconds 20] [--moves 4000]

Minimum variance within 1 % of the least variance on stocks, long-only, a cap for each name and ten group caps, all
names in the support. ESS is the least over the names' weights, per CPU second of one core, set-up and pilot runs
included for pair-Gibbs and left out for plain hit-and-run, which starts at draws of the law.

Agreement: hit-and-run, shaped by the draws' covariance, starts at 1,024 of the draws and runs for --seconds. It leaves
the law as it is only if the draws have that law: `largest z` is the largest of the names' mean changes in standard
errors (4 is what chance allows over 300 names), `forgotten` the least 1 - correlation with the start: at 1 the second
sample is independent, far below it the comparison is weak.

300 names take some minutes more: --names 20,100,300. A row whose chains do not mix within --moves moves a name says so,
as `ensemble` would refuse to report it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.construction.convex import minimize
from portfolio_ebm.construction.excess import allowed_excess
from portfolio_ebm.construction.mixing import draw
from portfolio_ebm.construction.near_optimal import law_of
from portfolio_ebm.errors import SolverError
from portfolio_ebm.optimization import given_context
from portfolio_ebm.samplers.diagnostics import effective_size
from portfolio_ebm.samplers.hit_and_run import HitAndRun, open_basis


def problem(returns: pd.DataFrame, n: int) -> tuple[pe.Variance, object, dict[str, object]]:
    picked = np.random.default_rng(0).permutation(returns.shape[1])[:n]
    values = returns.iloc[-1500:, picked].to_numpy(float)
    names = [str(name) for name in returns.columns[picked]]
    rules = pe.Budget() & pe.LongOnly() & pe.Box(upper=max(0.1, 3 / n))
    for g in range(10):
        rules = rules & pe.Group("group", f"g{g}", upper=0.2)
    groups = {"group": {name: f"g{i % 10}" for i, name in enumerate(names)}}
    covariance = np.cov(values, rowvar=False)
    return pe.Variance(), rules, {"covariance": covariance, "assets": names, "groups": groups}


def run(returns: pd.DataFrame, n: int, seconds: float, moves: int) -> list[str]:
    energy, rules, inputs = problem(returns, n)
    ctx = given_context(energy, rules, **inputs).ctx
    region = region_of(rules, ctx)
    best = minimize(energy, region, ctx)
    start = time.process_time()
    law = law_of(energy, region, ctx, best, allowed_excess(0.01, "energy", energy, best.weights, ctx), 0.0)
    try:
        found = draw(law, 1024, torch.Generator().manual_seed(0), moves=moves)
    except SolverError:
        return [str(n), f"not mixed within {moves:,} moves"]
    pace = float(found.sizes.min()) / (time.process_time() - start)
    x, rng = found.x[-1].T.contiguous(), torch.Generator().manual_seed(1)

    plain, kept, start = HitAndRun(law.target, law.polyhedron, open_basis(law.polyhedron)), [], time.process_time()
    y = x
    while time.process_time() - start < seconds or len(kept) < 40:
        y = plain.run(y, found.temperature, 20, rng)
        kept.append(y.T)
    other = float(effective_size(torch.stack(kept)).min()) / (time.process_time() - start)

    shaped = HitAndRun(law.target, law.polyhedron, open_basis(law.polyhedron, torch.cov(found.x.flatten(0, 1).T)))
    y, start = x, time.process_time()
    while time.process_time() - start < seconds:
        y = shaped.run(y, found.temperature, 20, rng)
    change = y - x
    z = change.mean(1) / (change.std(1) / change.shape[1] ** 0.5)
    a, b = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    forgotten = 1.0 - float(((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()).max())
    excess = float((found.energy - best.value).mean()) / law.excess
    return [
        str(n), f"{pace:,.0f}", f"{found.r_hat:.3f}", f"{excess:.2f}", f"{other:,.1f}", f"{pace / other:,.0f}",
        f"{float(z.abs().max()):.1f}", f"{forgotten:.2f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--names", default="20,100")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--moves", type=int, default=4000, help="the most moves of a chain, for each name")
    args = parser.parse_args()
    path = args.data / "stocks" / "kaggle_us1000_ret_2007_2017.parquet"
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; give its folder with --data.")
    torch.set_num_threads(1)
    returns = pd.read_parquet(path)
    table = Table(title="Portfolios within 1 % of the least variance, ten groups, one core")
    for heading in (
        "names",
        "min ESS a CPU s",
        "R-hat",
        "excess / asked",
        "plain hit-and-run",
        "ratio",
        "largest z",
        "forgotten",
    ):
        table.add_column(heading, justify="right")
    for n in args.names.split(","):
        table.add_row(*run(returns, int(n), args.seconds, args.moves * int(n)))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
