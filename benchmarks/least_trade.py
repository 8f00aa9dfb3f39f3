"""Trading as little as 1 % of volatility allows, monthly, on six universes: turnover against realised volatility.

    python benchmarks/least_trade.py [--data ../shared/data] [--months 600]

Minimum variance, long-only, 20 % cap, Ledoit-Wolf covariance of 500 days. Every rule decides from the same estimates
and from its own drifted holdings: the optimum every month; the nearest portfolio within 1 %, 0.5 % and 0.3 % of the
optimum's estimated volatility; no-trade bands (a name within 2 points of its target stays, the rest goes to target,
then the nearest portfolio that obeys the rules); and partial trading (half of the way). Turnover is buys plus sells,
volatility that of daily returns between decisions. Intervals: 95 %, 2,000 circular blocks of 6 months, both rules on
the same months, so that what they share cancels.

The tolerance is of the estimated volatility at the decision; what is realised differs by what the estimate did not
know. Short spans say little of it: an interval that holds +1 % does not settle whether 1 % more is exceeded.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from sklearn.covariance import LedoitWolf

import portfolio_ebm as pe
from portfolio_ebm.constraints.projections import capped_simplex

LOOKBACK, CAP = 500, 0.2
RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=CAP)
Rule = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def universes(data: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for n in (10, 30):
        path = next((data / "french").glob(f"ind{n}_daily*"))
        found[f"{n} industries"] = pd.read_csv(path, index_col=0, parse_dates=True)
    stocks = pd.read_parquet(data / "stocks" / "kaggle_us1000_ret_2007_2017.parquet")
    order = np.random.default_rng(0).permutation(stocks.shape[1])
    at = 0
    for n in (20, 30, 40, 50):
        found[f"{n} stocks"] = stocks.iloc[:, order[at : at + n]]
        at += n
    return found


def solve(covariance: np.ndarray, held: np.ndarray | None, constructor: pe.Convex | pe.LeastTrade) -> np.ndarray:
    found = pe.optimize(pe.Variance(), RULES, covariance=covariance, held=held, constructor=constructor)
    assert found.status, str(found.status)
    return np.asarray(found.weights)


def banded(covariance: np.ndarray, held: np.ndarray | None, width: float = 0.02) -> np.ndarray:
    target = solve(covariance, None, pe.Convex())
    if held is None:
        return target
    w = torch.tensor(np.where(np.abs(held - target) <= width, held, target))
    return capped_simplex(w, torch.zeros_like(w), torch.full_like(w, CAP), 1.0).numpy()


def partial(covariance: np.ndarray, held: np.ndarray | None, share: float = 0.5) -> np.ndarray:
    target = solve(covariance, None, pe.Convex())
    if held is None:
        return target
    w = torch.tensor((1 - share) * held + share * target)
    return capped_simplex(w, torch.zeros_like(w), torch.full_like(w, CAP), 1.0).numpy()


RULES_OF_TRADE: dict[str, Rule] = {
    "optimum": lambda c, h: solve(c, h, pe.Convex()),
    "LeastTrade 1 %": lambda c, h: solve(c, h, pe.LeastTrade(0.01, unit="volatility")),
    "LeastTrade 0.5 %": lambda c, h: solve(c, h, pe.LeastTrade(0.005, unit="volatility")),
    "LeastTrade 0.3 %": lambda c, h: solve(c, h, pe.LeastTrade(0.003, unit="volatility")),
    "bands of 2 points": banded,
    "half of the way": partial,
}


def walk(
    returns: np.ndarray, rows: list[int], covariances: list[np.ndarray], rule: Rule
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Turnover of each month but the first purchase, and the daily returns of each month."""
    held, traded, earned = None, [], []
    for k, (t, covariance) in enumerate(zip(rows[:-1], covariances, strict=True)):
        w = rule(covariance, held)
        if held is not None:
            traded.append(np.abs(w - held).sum())
        path = np.cumprod(1.0 + returns[t + 1 : rows[k + 1] + 1], axis=0) * w
        value = path.sum(axis=1)
        earned.append(np.diff(np.concatenate([[1.0], value])) / np.concatenate([[1.0], value[:-1]]))
        held = path[-1] / value[-1]
    return np.array(traded), earned[1:]


def interval(one: tuple[np.ndarray, list[np.ndarray]], base: tuple[np.ndarray, list[np.ndarray]]) -> list[str]:
    """Turnover and volatility of `one` relative to `base`, each with its interval."""
    months = len(base[0])

    def sums(of: tuple[np.ndarray, list[np.ndarray]]) -> np.ndarray:
        return np.array([(t, len(r), r.sum(), (r * r).sum()) for t, r in zip(*of, strict=True)])

    def ratios(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        deviation = [np.sqrt(s[3] / s[1] - (s[2] / s[1]) ** 2) for s in (a, b)]
        return a[0] / b[0] - 1.0, deviation[0] / deviation[1] - 1.0

    a, b = sums(one), sums(base)
    rng = np.random.default_rng(0)
    starts = rng.integers(months, size=(2000, -(-months // 6)))
    picks = ((starts[:, :, None] + np.arange(6)) % months).reshape(2000, -1)[:, :months]
    drawn = np.array([ratios(a[p].sum(0), b[p].sum(0)) for p in picks])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    at = ratios(a.sum(0), b.sum(0))
    return [f"{100 * at[0]:+.0f} ({100 * low[0]:+.0f} to {100 * high[0]:+.0f})",
            f"{100 * at[1]:+.2f} ({100 * low[1]:+.2f} to {100 * high[1]:+.2f})"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--months", type=int, default=600, help="the last so many, or all where there are fewer")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if not args.data.is_dir():
        raise SystemExit(f"{args.data}: no such folder; give one with --data (french/, stocks/).")
    table = Table(title="Against the optimum every month: turnover %, volatility % (95 % intervals)")
    for heading in ("universe", "rule", "turnover", "volatility"):
        table.add_column(heading)
    for name, frame in universes(args.data).items():
        frame = frame.dropna().astype(float)
        decisions = pd.Series(range(len(frame)), index=frame.index).groupby(frame.index.to_period("M")).last()
        rows = [int(t) for t in decisions if t >= LOOKBACK][-args.months - 2 :]
        values = frame.to_numpy()
        covariances = [LedoitWolf().fit(values[t - LOOKBACK + 1 : t + 1]).covariance_ for t in rows[:-1]]
        base = walk(values, rows, covariances, RULES_OF_TRADE["optimum"])
        table.add_row(name, "optimum", f"{base[0].mean():.3f} a month", "")
        for rule in list(RULES_OF_TRADE)[1:]:
            table.add_row("", rule, *interval(walk(values, rows, covariances, RULES_OF_TRADE[rule]), base))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
