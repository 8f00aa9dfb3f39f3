"""Trading as little as 1 % of volatility allows, monthly, on six universes: turnover against realised volatility.

    python benchmarks/least_trade.py [--data ../shared/data] [--months 600] [--development]

Minimum variance, long-only, 20 % cap, Ledoit-Wolf covariance of 500 days. Every rule decides from the same estimates
and from its own drifted holdings: the optimum every month; LeastTrade with tolerances of realised volatility, which
also reads the covariance of all days so far and the tally of its own decisions, or goes without the tally, and of the
estimated volatility of the date; no-trade bands (a name within 2 points of its target stays, the rest goes to target,
then the nearest portfolio that obeys the rules); and partial trading (half of the way). Turnover is buys plus sells,
volatility that of daily returns between decisions. Intervals: 95 %, 2,000 circular blocks of 6 months, both rules on
the same months, so that what they share cancels.

--development prints what LeastTrade's form and its numbers were chosen on: 29 other universes (other draws of stocks,
sectors and industries made of stocks, ETFs, tilted markets), and in the end one row a rule. Beside what came of it are
the parts of the rise in volatility, for d the distance from the optimum w*, S the covariance that is estimated and R
the second moments of the month that follows: by the estimates (w* + d)'S(w* + d) - w*'S w*; realised d'R d, of the
distance itself; and realised 2 w*'R d, which is what the estimates had not known but for a little at bounds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from sklearn.covariance import ledoit_wolf

import portfolio_ebm as pe
from portfolio_ebm.constraints.projections import capped_simplex

LOOKBACK, CAP = 500, 0.2
RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=CAP)


@dataclass(frozen=True)
class Known:
    """What is estimated at a decision: the covariance of the last days, and that of all days so far, (n, n)."""

    covariance: np.ndarray
    long_run: np.ndarray


@dataclass(frozen=True)
class Walk:
    """Turnover of each month but the first purchase, daily returns of each month, and weights of each decision."""

    traded: np.ndarray
    earned: list[np.ndarray]
    weights: list[np.ndarray]


Decision = tuple[np.ndarray, pe.Tally | None]
Rule = Callable[[Known, np.ndarray | None, pe.Tally | None], Decision]
"""From what is known, what is held and the tally of the decisions so far to weights and the tally after them."""


def universes(data: Path) -> dict[str, pd.DataFrame]:
    found = {}
    for n in (10, 30):
        path = next((data / "french").glob(f"ind{n}_daily*"))
        found[f"{n} industries"] = pd.read_csv(path, index_col=0, parse_dates=True)
    stocks = thousand(data)
    for n, at in zip((20, 30, 40, 50), (0, 20, 50, 90), strict=True):
        found[f"{n} stocks"] = stocks.iloc[:, at : at + n]
    return found


def thousand(data: Path) -> pd.DataFrame:
    """A thousand stocks in random order; the first 140 are those of the six universes."""
    stocks = pd.read_parquet(data / "stocks" / "kaggle_us1000_ret_2007_2017.parquet")
    return stocks.iloc[:, np.random.default_rng(0).permutation(stocks.shape[1])]


def development(data: Path) -> dict[str, pd.DataFrame]:
    """Universes that share no series with the six."""
    shuffled = thousand(data)
    found = dict(_draws(shuffled.iloc[:, 140:], (20, 30, 40, 50) * 3, "of 1000"))
    stocks = pd.read_parquet(data / "stocks" / "us_stocks_ret_2000_2020.parquet").dropna(axis=1)
    others = stocks.loc[:, ~stocks.columns.isin(shuffled.columns[:140])]
    others = others.iloc[:, np.random.default_rng(1).permutation(others.shape[1])]
    found |= _draws(others, (20, 30, 40, 50) * 2, "since 2000")
    labels = pd.read_csv(data / "stocks" / "us_stocks_meta.csv").set_index("ticker").reindex(stocks.columns)
    found["sectors"] = stocks.T.groupby(labels["sector"]).mean().T
    counts = labels["sub"].value_counts()
    large = counts[counts >= 4].index[:30]
    found["large industries"] = stocks.T.groupby(labels["sub"].where(labels["sub"].isin(large))).mean().T
    industries = stocks.T.groupby(labels["sub"].where(labels["sub"].isin(counts[counts >= 2].index))).mean().T
    industries = industries.iloc[:, np.random.default_rng(5).permutation(industries.shape[1])]
    found |= _draws(industries, (10, 10, 12, 20, 20), "industries")
    found["etfs"] = pd.read_csv(data / "multi_asset" / "etf12_daily_2005_2019.csv.gz", index_col=0, parse_dates=True)
    french = pd.read_csv(data / "french" / "ff5_mom_daily_1963_2019.csv.gz", index_col=0, parse_dates=True).dropna()
    market = french["Mkt-RF"] + french["RF"]
    tilts = {f"{k} {b:+}": market + b * french[k] for k in ("SMB", "HML", "RMW", "CMA", "Mom") for b in (0.5, -0.5)}
    found["tilted markets"] = pd.DataFrame({"market": market, **tilts})
    return found


def _draws(frame: pd.DataFrame, sizes: tuple[int, ...], name: str) -> dict[str, pd.DataFrame]:
    """Consecutive columns of a shuffled frame, so many at a time."""
    ends = np.cumsum(sizes)
    return {f"{n} {name}, to {end}": frame.iloc[:, end - n : end] for n, end in zip(sizes, ends, strict=True)}


def solved(constructor: pe.Convex | pe.LeastTrade) -> Rule:
    """The rule that asks a constructor."""

    def decide(known: Known, held: np.ndarray | None, tally: pe.Tally | None) -> Decision:
        found = pe.optimize(
            pe.Variance(), RULES, covariance=known.covariance, long_run=known.long_run, held=held, tally=tally,
            constructor=constructor,
        )  # fmt: skip
        assert found.status, str(found.status)
        return np.asarray(found.weights), found.tally

    return decide


def towards(step: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    """The rule that goes to the portfolio nearest to step(held, optimum)."""

    def decide(known: Known, held: np.ndarray | None, tally: pe.Tally | None) -> Decision:
        target, _ = solved(pe.Convex())(known, None, None)
        if held is None:
            return target, None
        w = torch.tensor(step(held, target))
        return capped_simplex(w, torch.zeros_like(w), torch.full_like(w, CAP), 1.0).numpy(), None

    return decide


def least(tolerance: float, unit: str) -> Rule:
    return solved(pe.LeastTrade(tolerance=tolerance, unit=unit))


def forgetful(rule: Rule) -> Rule:
    """The rule without the tally of its decisions."""
    return lambda known, held, tally: (rule(known, held, None)[0], None)


RULES_OF_TRADE: dict[str, Rule] = {
    "LeastTrade 1 %, realised": least(0.01, "realised volatility"),
    "0.5 %, realised": least(0.005, "realised volatility"),
    "2 %, realised": least(0.02, "realised volatility"),
    "1 %, realised, no tally": forgetful(least(0.01, "realised volatility")),
    "1 %, estimated": least(0.01, "volatility"),
    "0.3 %, estimated": least(0.003, "volatility"),
    "bands of 2 points": towards(lambda held, target: np.where(np.abs(held - target) <= 0.02, held, target)),
    "half of the way": towards(lambda held, target: 0.5 * held + 0.5 * target),
}


DEVELOPED = ("LeastTrade 1 %, realised", "1 %, estimated")


@dataclass(frozen=True)
class Universe:
    """Daily returns (T, n), rows of the decisions and of the end, and what is known at each decision."""

    returns: np.ndarray
    rows: list[int]
    known: list[Known]

    @classmethod
    def of(cls, frame: pd.DataFrame, months: int) -> Universe:
        frame = frame.dropna().astype(float)
        decisions = pd.Series(range(len(frame)), index=frame.index).groupby(frame.index.to_period("M")).last()
        rows = [int(t) for t in decisions if t >= LOOKBACK][-months - 2 :]
        x = frame.to_numpy()
        known = [Known(ledoit_wolf(x[t - LOOKBACK + 1 : t + 1])[0], ledoit_wolf(x[: t + 1])[0]) for t in rows[:-1]]
        return cls(x, rows, known)

    def month(self, k: int) -> np.ndarray:
        """The daily returns that follow decision k."""
        return self.returns[self.rows[k] + 1 : self.rows[k + 1] + 1]


def walk(universe: Universe, rule: Rule) -> Walk:
    held, tally, traded, earned, weights = None, None, [], [], []
    for k, known in enumerate(universe.known):
        w, tally = rule(known, held, tally)
        tally = None if tally is None else tally.earned(universe.month(k))
        if held is not None:
            traded.append(np.abs(w - held).sum())
        path = np.cumprod(1.0 + universe.month(k), axis=0) * w
        value = path.sum(axis=1)
        earned.append(np.diff(np.concatenate([[1.0], value])) / np.concatenate([[1.0], value[:-1]]))
        held = path[-1] / value[-1]
        weights.append(w)
    return Walk(np.array(traded), earned[1:], weights)


def optimum(universe: Universe) -> Walk:
    return walk(universe, solved(pe.Convex()))


def sums(of: Walk) -> np.ndarray:
    return np.array([(t, len(r), r.sum(), (r * r).sum()) for t, r in zip(of.traded, of.earned, strict=True)])


def ratios(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Turnover and volatility of `a` relative to `b`, from sums over months."""
    deviation = [np.sqrt(s[3] / s[1] - (s[2] / s[1]) ** 2) for s in (a, b)]
    return a[0] / b[0] - 1.0, deviation[0] / deviation[1] - 1.0


def interval(one: Walk, base: Walk) -> list[str]:
    """Turnover and volatility of `one` relative to `base`, each with its interval."""
    months = len(base.traded)
    a, b = sums(one), sums(base)
    rng = np.random.default_rng(0)
    starts = rng.integers(months, size=(2000, -(-months // 6)))
    picks = ((starts[:, :, None] + np.arange(6)) % months).reshape(2000, -1)[:, :months]
    drawn = np.array([ratios(a[p].sum(0), b[p].sum(0)) for p in picks])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    at = ratios(a.sum(0), b.sum(0))
    return [f"{100 * at[0]:+.0f} ({100 * low[0]:+.0f} to {100 * high[0]:+.0f})",
            f"{100 * at[1]:+.2f} ({100 * low[1]:+.2f} to {100 * high[1]:+.2f})"]  # fmt: skip


def parts(universe: Universe, one: Walk, base: Walk) -> list[float]:
    """The rise in volatility, %: by the estimates; realised of the distance itself; realised of what they lacked."""
    total = np.zeros(5)
    for k in range(1, len(base.weights)):
        best, d, r, s = base.weights[k], one.weights[k] - base.weights[k], universe.month(k), universe.known[k]
        gap = (best + d) @ s.covariance @ (best + d) - best @ s.covariance @ best
        total += np.array([gap * len(r), best @ s.covariance @ best * len(r), ((r @ d) ** 2).sum(),
                           2 * (r @ best) @ (r @ d), ((r @ best) ** 2).sum()])  # fmt: skip
    return [50 * total[0] / total[1], 50 * total[2] / total[4], 50 * total[3] / total[4]]


def developed(data: Path, months: int) -> Table:
    """One row a rule over the universes of development, each of which is printed as it is done."""
    rows: dict[str, list[list[float]]] = {name: [] for name in DEVELOPED}
    for of, frame in development(data).items():
        universe = Universe.of(frame, months)
        base = optimum(universe)
        for name in DEVELOPED:
            one = walk(universe, RULES_OF_TRADE[name])
            at = ratios(sums(one).sum(0), sums(base).sum(0))
            rows[name].append([100 * at[0], 100 * at[1], *parts(universe, one, base)])
            print(f"{of}, {name}: turnover {100 * at[0]:+.0f} %, volatility {100 * at[1]:+.2f} %", flush=True)
    count = len(rows[DEVELOPED[0]])
    table = Table(title=f"{count} universes of development: mean, deviation between universes, and the worst")
    headings = ("rule", "turnover %", "less than halved", "volatility %", "above +1", "estimated", "d'Rd", "2w*'Rd")
    for heading in headings:
        table.add_column(heading)
    for name, found in rows.items():
        a = np.array(found)
        mean, spread, worst = a.mean(0), a.std(0), a.max(0)
        table.add_row(
            name, f"{mean[0]:+.0f}, {spread[0]:.0f}, {worst[0]:+.0f}", f"{(a[:, 0] > -50).sum()}",
            f"{mean[1]:+.2f}, {spread[1]:.2f}, {worst[1]:+.2f}", f"{(a[:, 1] > 1).sum()}",
            *(f"{part:+.2f}" for part in mean[2:]),
        )  # fmt: skip
    return table


def tested(data: Path, months: int) -> Table:
    """Every rule on the six universes."""
    table = Table(title="Against the optimum every month: turnover %, volatility % (95 % intervals)")
    for heading in ("universe", "rule", "turnover", "volatility"):
        table.add_column(heading)
    for name, frame in universes(data).items():
        universe = Universe.of(frame, months)
        base = optimum(universe)
        table.add_row(name, "optimum", f"{base.traded.mean():.3f} a month", "")
        for rule, of in RULES_OF_TRADE.items():
            table.add_row("", rule, *interval(walk(universe, of), base))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--months", type=int, default=600, help="the last so many, or all where there are fewer")
    parser.add_argument("--development", action="store_true", help="the universes that the rule was made on instead")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if not args.data.is_dir():
        raise SystemExit(f"{args.data}: no such folder; give one with --data (french/, stocks/, multi_asset/).")
    Console(width=130).print((developed if args.development else tested)(args.data, args.months))


if __name__ == "__main__":
    main()
