"""Each objective's optimum and time beside skfolio, Riskfolio-Lib and PyPortfolioOpt, in one run.

    python benchmarks/terms.py [--days 750] [--repeats 3] [--returns FILE]

One window of the bundled data (or of FILE, a parquet table of daily returns), long-only and fully invested, every
library through its public calls with its own defaults. Every weight vector is put on the simplex by its nearest point
and evaluated by one set of numpy functions that belong to no side. Printed for each objective: the least value any side
reached; by side, how far above it its weights are, relative to it, and the time as a multiple of ours (CPU time of the
process, the best of the repeats). A dash: the library does not offer the objective, or failed on it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

import portfolio_ebm as pe
from portfolio_ebm.constraints.projections import capped_simplex

LEVEL = 0.95
Side = Callable[[], np.ndarray]
Measure = Callable[[np.ndarray, np.ndarray], float]


def tail(x: np.ndarray) -> float:
    """The mean of the largest 1 - LEVEL of x."""
    x = np.sort(x)[::-1]
    count = (1 - LEVEL) * len(x)
    whole = int(count + 1e-9)
    part = count - whole
    return float((x[:whole].sum() + (part * x[whole] if part > 1e-9 else 0.0)) / count)


def falls(x: np.ndarray) -> np.ndarray:
    path = np.cumsum(x)
    return np.maximum(np.maximum.accumulate(path), 0.0) - path


def entropic(x: np.ndarray) -> float:
    def bound(u: float) -> float:
        t = np.exp(u)
        return float(t * (logsumexp(-x / t) - np.log(len(x) * (1 - LEVEL))))

    return float(minimize_scalar(bound, bounds=(-12.0, 2.0), method="bounded", options={"xatol": 1e-12}).fun)


def parity(r: np.ndarray, w: np.ndarray) -> float:
    """The largest distance of a share of the variance from 1/n, in shares of 1/n."""
    pull = w * (np.cov(r.T) @ w)
    return float(np.abs(len(w) * pull / pull.sum() - 1.0).max())


def spread(r: np.ndarray, w: np.ndarray) -> float:
    return float(-(r.std(0) @ w) / (r @ w).std())


MEASURES: dict[str, Measure] = {
    "variance": lambda r, w: float(np.var(r @ w, ddof=1)),
    "mean absolute deviation": lambda r, w: float(np.abs(r @ w - (r @ w).mean()).mean()),
    "semideviation, below the mean": lambda r, w: float((((r @ w).mean() - r @ w).clip(0) ** 2).mean() ** 0.5),
    "semideviation, below zero": lambda r, w: float(((-(r @ w)).clip(0) ** 2).mean() ** 0.5),
    "CVaR 95 %": lambda r, w: tail(-(r @ w)),
    "EVaR 95 %": lambda r, w: entropic(r @ w),
    "CDaR 95 %": lambda r, w: tail(falls(r @ w)),
    "maximum drawdown": lambda r, w: float(falls(r @ w).max()),
    "-mean / volatility": lambda r, w: float(-(r @ w).mean() / np.std(r @ w, ddof=1)),
    "-mean / CVaR 95 %": lambda r, w: float(-(r @ w).mean() / tail(-(r @ w))),
    "-mean / mean absolute deviation": lambda r, w: float(-(r @ w).mean() / np.abs(r @ w - (r @ w).mean()).mean()),
    "-diversification ratio": spread,
    "risk parity, worst share off": parity,
}
OURS = {
    "variance": pe.Variance(),
    "mean absolute deviation": pe.MeanAbsoluteDeviation(),
    "semideviation, below the mean": pe.Semideviation(),
    "semideviation, below zero": pe.Semideviation(centred=False),
    "CVaR 95 %": pe.CVaR(LEVEL),
    "EVaR 95 %": pe.EVaR(LEVEL),
    "CDaR 95 %": pe.CDaR(LEVEL),
    "maximum drawdown": pe.MaxDrawdown(),
    "-mean / volatility": pe.MaxRatio(),
    "-mean / CVaR 95 %": pe.MaxRatio(pe.Return(), pe.CVaR(LEVEL)),
    "-mean / mean absolute deviation": pe.MaxRatio(pe.Return(), pe.MeanAbsoluteDeviation()),
    "-diversification ratio": pe.MaximumDiversification(),
    "risk parity, worst share off": pe.RiskBudget(),
}


def ours(name: str, frame: pd.DataFrame) -> Side:
    def run() -> np.ndarray:
        found = pe.optimize(
            OURS[name], pe.Budget() & pe.LongOnly(), scenarios=frame, paths=frame.to_numpy(), constructor=pe.Convex()
        )
        return found.weights.to_numpy()

    return run


def skfolio(name: str, frame: pd.DataFrame) -> Side | None:
    from skfolio import RiskMeasure as Risk
    from skfolio.optimization import MaximumDiversification, MeanRisk, ObjectiveFunction, RiskBudgeting

    least, ratio = ObjectiveFunction.MINIMIZE_RISK, ObjectiveFunction.MAXIMIZE_RATIO
    models = {
        "variance": lambda: MeanRisk(least, Risk.VARIANCE),
        "mean absolute deviation": lambda: MeanRisk(least, Risk.MEAN_ABSOLUTE_DEVIATION),
        "semideviation, below the mean": lambda: MeanRisk(least, Risk.SEMI_DEVIATION),
        "semideviation, below zero": lambda: MeanRisk(least, Risk.SEMI_DEVIATION, min_acceptable_return=0.0),
        "CVaR 95 %": lambda: MeanRisk(least, Risk.CVAR),
        "EVaR 95 %": lambda: MeanRisk(least, Risk.EVAR),
        "CDaR 95 %": lambda: MeanRisk(least, Risk.CDAR),
        "maximum drawdown": lambda: MeanRisk(least, Risk.MAX_DRAWDOWN),
        "-mean / volatility": lambda: MeanRisk(ratio, Risk.STANDARD_DEVIATION),
        "-mean / CVaR 95 %": lambda: MeanRisk(ratio, Risk.CVAR),
        "-mean / mean absolute deviation": lambda: MeanRisk(ratio, Risk.MEAN_ABSOLUTE_DEVIATION),
        "-diversification ratio": lambda: MaximumDiversification(),
        "risk parity, worst share off": lambda: RiskBudgeting(Risk.VARIANCE),
    }
    return lambda: np.asarray(models[name]().fit(frame.to_numpy()).weights_)


def riskfolio(name: str, frame: pd.DataFrame) -> Side | None:
    import riskfolio as rp

    codes = {
        "variance": ("MV", "MinRisk"),
        "mean absolute deviation": ("MAD", "MinRisk"),
        "semideviation, below the mean": ("MSV", "MinRisk"),
        "semideviation, below zero": ("SLPM", "MinRisk"),
        "CVaR 95 %": ("CVaR", "MinRisk"),
        "EVaR 95 %": ("EVaR", "MinRisk"),
        "CDaR 95 %": ("CDaR", "MinRisk"),
        "maximum drawdown": ("MDD", "MinRisk"),
        "-mean / volatility": ("MV", "Sharpe"),
        "-mean / CVaR 95 %": ("CVaR", "Sharpe"),
        "-mean / mean absolute deviation": ("MAD", "Sharpe"),
    }
    if name not in codes and not name.startswith("risk parity"):
        return None

    def run() -> np.ndarray:
        book = rp.Portfolio(returns=frame)
        book.assets_stats(method_mu="hist", method_cov="hist")
        if name in codes:
            found = book.optimization(model="Classic", rm=codes[name][0], obj=codes[name][1], rf=0, l=0, hist=True)
        else:
            found = book.rp_optimization(model="Classic", rm="MV", rf=0, b=None, hist=True)
        return found["weights"].reindex(frame.columns).to_numpy()

    return run


def pypfopt(name: str, frame: pd.DataFrame) -> Side | None:
    from pypfopt import EfficientCDaR, EfficientCVaR, EfficientFrontier, EfficientSemivariance

    mean = frame.mean()
    models = {
        "variance": lambda: EfficientFrontier(mean, frame.cov()).min_volatility(),
        "semideviation, below zero": lambda: EfficientSemivariance(mean, frame, frequency=1).min_semivariance(),
        "CVaR 95 %": lambda: EfficientCVaR(mean, frame, beta=LEVEL).min_cvar(),
        "CDaR 95 %": lambda: EfficientCDaR(mean, frame, beta=LEVEL).min_cdar(),
        "-mean / volatility": lambda: EfficientFrontier(mean, frame.cov()).max_sharpe(risk_free_rate=0.0),
    }
    if name not in models:
        return None
    return lambda: pd.Series(models[name]()).reindex(frame.columns).to_numpy()


def attempt(run: Side | None, repeats: int) -> tuple[float, np.ndarray] | None:
    """(CPU seconds, weights on the simplex), or None where there is no such objective or it failed."""
    if run is None:
        return None
    best = np.inf
    try:
        run()  # imports and first-call set-up are nobody's fault
        for _ in range(repeats):
            start = time.process_time()
            weights = run()
            best = min(best, time.process_time() - start)
    except Exception:  # a peer that fails on an objective is shown as a dash
        return None
    w = torch.tensor(np.asarray(weights, dtype=np.float64))
    return best, capped_simplex(w, torch.zeros_like(w), torch.ones_like(w), 1.0).numpy()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What both tables of objectives may be asked for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--days", type=int, default=750)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--returns", help="a parquet table of daily returns; names with a blank are left out")
    parser.add_argument("--names", type=int, default=50, help="the first so many names of --returns")
    return parser


def returns_of(asked: argparse.Namespace) -> pd.DataFrame:
    """The returns asked for, of names without a blank."""
    whole = pe.bundled().returns_frame() if asked.returns is None else pd.read_parquet(asked.returns)
    frame = whole.tail(asked.days).dropna(axis=1)
    return frame if asked.returns is None else frame.iloc[:, : asked.names]


def main() -> None:
    asked = arguments(__doc__).parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    frame = returns_of(asked)
    r = frame.to_numpy()
    table = Table(title=f"{frame.shape[1]} names, {len(frame)} days, long-only: above the least value (time, ours = 1)")
    for heading in ("objective", "least value", "portfolio_ebm", "skfolio", "Riskfolio-Lib", "PyPortfolioOpt"):
        table.add_column(heading, justify="left" if heading == "objective" else "right")
    for name, measure in MEASURES.items():
        found = [attempt(side(name, frame), asked.repeats) for side in (ours, skfolio, riskfolio, pypfopt)]
        values = [np.nan if one is None else measure(r, one[1]) for one in found]
        least, base = np.nanmin(values), found[0][0] if found[0] else np.nan
        cells = []
        for one, value in zip(found, values, strict=True):
            # A distance from parity has no scale beside its least: it is shown itself.
            above = value if name.startswith("risk parity") else (value - least) / abs(least)
            cells.append("-" if one is None else f"{max(above, 0.0):.0e} ({one[0] / base:.2g})")
        table.add_row(name, f"{least:.6g}", *cells)
    Console(width=130).print(table)
    print(f"{frame.index[0]:%Y-%m-%d} to {frame.index[-1]:%Y-%m-%d}, one thread.")


if __name__ == "__main__":
    main()
