"""The distribution of nearly optimal portfolios: draws a second, R-hat, and agreement with an independent exact kernel.

    python benchmarks/ensemble.py [--data ../shared/data] [--names 20,100] [--seconds 20] [--moves 4000] [--choices 100]
                                    [--choice K]

Minimum variance within 1 % of the least variance on stocks, long-only, a cap for each name and ten group caps, all
names in the support. ESS is the least over the names' weights, per CPU second of one core, set-up and pilot runs
included for pair-Gibbs and left out for plain hit-and-run, which starts at draws of the law.

Agreement is with another exact kernel that shares no code with ours: Metropolis moves of weight between two names, as a
random walk in the logit of the place on the chord. Its 1,024 chains start at nine parts of the optimum and one of equal
weights, run for --seconds, and the second half of the run is kept. `its R-hat` and `its ESS` (the least of the names)
say what its word is worth; `largest z` is the largest difference of the names' means in standard errors of both (4 is
what chance allows over 300 names), `of the sd` that standard error at its largest, in standard deviations of the
weight: smaller differences are not seen.

Choices of names: variance within 1 % of the best portfolio known, exactly 10 names (5 of 20), at least 2 % each, the
group caps. Agreement there is with Metropolis over portfolios that shares no code either: a name is swapped for any
other or weight moves between two names, at the same seven temperatures, from other random portfolios. ESS is the least
of the energy, of the weights and presence of names held in 1 % of draws, and of patterns with 1 % of the mass.

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
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.construction.near.excess import allowed_excess
from portfolio_ebm.construction.near.mixing import draw
from portfolio_ebm.construction.near.mixing_patterns import draw_patterns
from portfolio_ebm.construction.near.optimal import Law, law_of
from portfolio_ebm.construction.near.patterns import PatternLaw, law_with_choices
from portfolio_ebm.errors import SolverError
from portfolio_ebm.optimization import given_context
from portfolio_ebm.samplers.diagnostics import effective_size, r_hat
from portfolio_ebm.samplers.hit_and_run import HitAndRun, open_basis

OTHER = ("its R-hat", "its ESS", "largest z", "of the sd")


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


def walk(law: Law, temperature: float, start: torch.Tensor, seconds: float, often: torch.Tensor) -> torch.Tensor:
    """Draws (24, chains, n) from the second half of a run of the other kernel; pairs are taken by `often` (n,)."""
    g, p = np.random.default_rng(7), law.polyhedron
    matrix, linear, rows = law.target.matrix.numpy(), law.target.linear.numpy(), p.rows.numpy()
    ends = [side.numpy() for side in (p.lower, p.upper)]
    bounds = [side.numpy()[:, None] for side in (p.row_lower, p.row_upper)]
    chance = often.numpy() / float(often.sum())
    x, kept, begin, moves = start.numpy().copy(), [], time.process_time(), 0
    at = rows @ x
    while len(kept) < 24:
        for i, j in g.choice(len(x), size=(200, 2), p=chance):
            if i == j:
                continue
            pace = (rows[:, i] - rows[:, j])[:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                rooms = [np.where(pace == 0.0, np.nan, (bound - at) / pace) for bound in bounds]
            low = np.fmax(np.fmax(ends[0][i] - x[i], x[j] - ends[1][j]), np.fmax.reduce(np.fmin(*rooms)))
            high = np.fmin(np.fmin(ends[1][i] - x[i], x[j] - ends[0][j]), np.fmin.reduce(np.fmax(*rooms)))
            width = high - low
            share = np.clip(-low / width, 1e-300, 1.0)
            rest = np.clip(high / width, 1e-300, 1.0)
            step = g.choice([0.5, 1.5, 4.0]) * g.standard_normal(x.shape[1])
            odds = share / rest * np.exp(step)
            t = low + width * odds / (1.0 + odds)
            pull = matrix[i] - matrix[j]
            rise = (pull @ x + linear[i] - linear[j]) * t + 0.5 * (pull[i] - pull[j]) * t * t
            turned = np.log(odds) - 2.0 * np.log1p(odds) - np.log(share) - np.log(rest)
            t = np.where(np.log(g.random(x.shape[1])) < turned - rise / temperature, t, 0.0)
            x[i] += t
            x[j] -= t
            at += pace * t
        moves += 200
        if time.process_time() - begin > seconds * (0.5 + 0.5 * len(kept) / 24):
            kept.append(x.T.copy())
            at = rows @ x
    return torch.from_numpy(np.stack(kept))


def agreement(ours: torch.Tensor, other: torch.Tensor) -> list[str]:
    """R-hat and least ESS of the other draws (draws, chains, quantities), largest z, largest standard error in sd."""
    spreads = [draws.flatten(0, 1).std(0) for draws in (ours, other)]
    moving = (spreads[0] > 1e-9) | (spreads[1] > 1e-9)
    ours, other, spreads = ours[..., moving], other[..., moving], [spread[moving] for spread in spreads]
    sizes = effective_size(ours), effective_size(other)
    error = (spreads[0].square() / sizes[0] + spreads[1].square() / sizes[1]).sqrt()
    spread = torch.maximum(*spreads)
    z = (ours.mean((0, 1)) - other.mean((0, 1))).abs() / error
    return [
        f"{float(r_hat(other).max()):.3f}", f"{float(sizes[1].min()):,.0f}", f"{float(z.max()):.1f}",
        f"{float((error / spread).max()):.3f}",
    ]  # fmt: skip


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
    pace = found.least / (time.process_time() - start)
    x, rng = found.x[-1].T.contiguous(), torch.Generator().manual_seed(1)

    plain, kept, start = HitAndRun(law.target, law.polyhedron, open_basis(law.polyhedron)), [], time.process_time()
    y = x
    while time.process_time() - start < min(seconds, 20.0) or len(kept) < 40:
        y = plain.run(y, found.temperature, 20, rng)
        kept.append(y.T)
    other = float(effective_size(torch.stack(kept)).min()) / (time.process_time() - start)

    near = 0.9 * law.start(1024) + 0.1 / n
    often = found.x.mean((0, 1)).sqrt()
    walked = walk(law, found.temperature, near, seconds, often + 0.1 * often.mean())
    excess = float((found.energy - best.value).mean()) / law.excess
    return [
        str(n), f"{pace:,.0f}", f"{found.r_hat:.3f}", f"{excess:.2f}", f"{other:,.1f}", f"{pace / other:,.0f}",
        *agreement(found.x, walked),
    ]  # fmt: skip


def wander(law: PatternLaw, temperature: float, seconds: float, groups: int) -> torch.Tensor:
    """Draws (24, chains, n) from the second half of a run of the other kernel over choices of names."""
    g, p, levels = np.random.default_rng(8), law.kernel.patterns, 7
    matrix, rows, top = law.kernel.target.matrix.numpy(), p.rows.numpy(), p.row_upper.numpy() + 1e-12
    low, high, n, k = p.lower.numpy(), p.upper.numpy(), p.n, p.slots
    chains = 128
    heat = temperature * np.repeat(2.0 ** np.arange(levels), chains)
    x = np.zeros((levels * chains, n))
    for row in x:  # names of different groups at equal weights obey every cap
        row[[g.choice(np.arange(c, n, groups)) for c in g.permutation(groups)[:k]]] = 1.0 / k
    value, every = 0.5 * ((x @ matrix) * x).sum(1), np.arange(levels * chains)
    kept, begin, step = [], time.process_time(), 0
    while len(kept) < 24:
        i = (g.random(x.shape) * (x > 0.0)).argmax(1)  # any name held
        j = g.integers(n, size=len(x))
        y, both = x.copy(), x[every, j] > 0.0
        t = np.where(both, g.choice([0.01, 0.03, 0.1]) * g.standard_normal(len(x)), x[every, i])
        y[every, i] -= t
        y[every, j] += t
        y[~both, i[~both]] = 0.0
        held = y > 0.0
        inside = (i != j) & ((y >= low) | (y == 0.0)).all(1) & (y <= high + 1e-12).all(1) & (held.sum(1) == k)
        inside &= (y @ rows.T <= top).all(1)
        after = 0.5 * ((y @ matrix) * y).sum(1)
        taken = inside & (np.log(g.random(len(x))) < (value - after) / heat)
        x[taken], value[taken] = y[taken], after[taken]
        step += 1
        if step % 5 == 0:  # neighbouring temperatures trade places
            for level in range(step // 5 % 2, levels - 1, 2):
                a = slice(level * chains, (level + 1) * chains)
                b = slice(a.stop, a.stop + chains)
                gain = (1.0 / heat[a] - 1.0 / heat[b]) * (value[a] - value[b])
                traded = (np.log(g.random(chains)) < gain)[:, None]
                x[a], x[b] = np.where(traded, x[b], x[a]), np.where(traded, x[a], x[b])
                value[a], value[b] = (
                    np.where(traded[:, 0], value[b], value[a]), np.where(traded[:, 0], value[a], value[b]),
                )  # fmt: skip
        if time.process_time() - begin > seconds * (0.5 + 0.5 * len(kept) / 24):
            kept.append(x[:chains].copy())
    return torch.from_numpy(np.stack(kept))


def run_choices(returns: pd.DataFrame, n: int, count: int, seconds: float) -> list[str]:
    _, _, inputs = problem(returns, n)
    rules = pe.Budget() & pe.LongOnly() & pe.Cardinality(exactly=count, min_weight=0.02)
    for label in range(10):
        rules = rules & pe.Group("group", f"g{label}", upper=0.3)
    ctx, rng = given_context(pe.Variance(), rules, **inputs).ctx, torch.Generator().manual_seed(0)
    found = pe.AnnealedLangevin().build(pe.Variance(), rules, ctx, rng)
    best = Minimum(found.weights, found.energy, found.bound, None, found.status)
    excess = allowed_excess(0.01, "energy", pe.Variance(), best.weights, ctx)
    start = time.process_time()
    law = law_with_choices(pe.Variance(), region_of(rules, ctx), ctx, best, excess, 0.0)
    title = f"{count} of {n}"
    try:
        draws = draw_patterns(law, 1024, rng)
    except SolverError as error:
        return [title, str(error).split(", so that")[0]]
    pace, x = draws.least / (time.process_time() - start), draws.x
    held = x > 0.0
    met = len(held.flatten(0, 1).unique(dim=0))
    other = wander(law, draws.temperature, seconds, 10)
    often = held.to(x.dtype).mean((0, 1)) >= 0.01
    both = [torch.cat([z[..., often], (z[..., often] > 0.0).to(z.dtype)], -1) for z in (x, other)]
    return [
        title, f"{pace:,.0f}", f"{draws.r_hat:.3f}", f"{float((draws.energy - best.value).mean()) / excess:.2f}",
        f"{draws.apart:.1f}", f"{met:,}", *agreement(*both),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--names", default="20,100")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--moves", type=int, default=4000, help="the most moves of a chain, for each name")
    parser.add_argument("--choices", type=int, default=100, help="the most names of a row with a choice of names")
    parser.add_argument("--choice", type=int, default=0, help="only choices, of exactly so many names of each size")
    args = parser.parse_args()
    path = args.data / "stocks" / "kaggle_us1000_ret_2007_2017.parquet"
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; give its folder with --data.")
    torch.set_num_threads(1)
    returns = pd.read_parquet(path)
    sizes = [int(n) for n in args.names.split(",")]
    table = Table(title="Portfolios within 1 % of the least variance, ten groups, one core")
    for heading in ("names", "min ESS a CPU s", "R-hat", "excess / asked", "plain hit-and-run", "ratio", *OTHER):
        table.add_column(heading, justify="right")
    for n in () if args.choice else sizes:
        table.add_row(*run(returns, n, args.seconds, args.moves * n))
    if table.row_count:
        Console(width=130).print(table)
    table = Table(title="The same with a choice of names")
    for heading in ("names", "min ESS a CPU s", "R-hat", "excess / asked", "apart", "patterns met", *OTHER):
        table.add_column(heading, justify="right")
    for n in sizes:
        if n <= args.choices:
            table.add_row(*run_choices(returns, n, args.choice or (5 if n <= 20 else 10), args.seconds))
    if table.row_count:
        Console(width=130).print(table)


if __name__ == "__main__":
    main()
