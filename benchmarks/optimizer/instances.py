"""The problems: OR-Library portfolios, US stocks, and a seeded factor covariance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.optimizer.problem import Array, Problem

MONTH = 21


def orlib(folder: Path, port: int) -> tuple[Array, Array]:
    """Mean (n,) and covariance (n, n) of an OR-Library portfolio problem."""
    with np.load(folder / f"port{port}.npz") as found:
        return found["mean"], found["corr"] * np.outer(found["std"], found["std"])


def stocks(folder: Path) -> Array:
    """Daily simple returns (days, names), the latest last."""
    return pd.read_parquet(folder / "kaggle_us1000_ret_2007_2017.parquet").to_numpy(float)


def moments(returns: Array, n: int, days: int = 756) -> tuple[Array, Array]:
    """A month's mean (n,) and covariance (n, n) of the first n names over the last `days`, a tenth shrunk to its
    diagonal."""
    x = returns[-days:, :n]
    covariance = np.cov(x, rowvar=False) * MONTH
    return x.mean(0) * MONTH, 0.9 * covariance + 0.1 * np.diag(np.diag(covariance))


def frontier(folder: Path, port: int, exactly: bool, points: int) -> list[tuple[Problem, float]]:
    """`points` of the 49 with a covariance in them, evenly, and for each the best value on record.

    The record holds exactly ten names, so its value is an upper bound where at most ten may be held.
    """
    mean, covariance = orlib(folder, port)
    table = pd.read_csv(folder / "ccef_K10_eps001_port1-3.csv")
    table = table[(table["instance"] == f"port{port}") & (table["lambda"] > 0.0)]
    rows = table.iloc[np.unique(np.linspace(0, len(table) - 1, points).round().astype(int))]
    word = "exactly" if exactly else "at most"
    return [
        (
            Problem(
                f"port{port}, {len(mean)} names, {word} 10", mean, covariance, risk=float(lam), reward=1.0 - float(lam),
                names=10, exactly=exactly, floor=0.01,
            ),
            float(value),
        )
        for lam, value in zip(rows["lambda"], rows["objective"], strict=True)
    ]  # fmt: skip


def fund(label: str, mean: Array, covariance: Array, limits: str) -> Problem:
    return Problem(f"{limits}, {label}", mean, covariance, risk=2.5, reward=0.3, limits=limits)


def large(returns: Array, n: int, names: int, risk: float) -> Problem:
    mean, covariance = moments(returns, n)
    return Problem(
        f"{names} of {n} stocks, {risk:g} variance - .3 mean", mean, covariance, risk=risk, reward=0.3, names=names,
        floor=0.01,
    )  # fmt: skip


def simulated(n: int, names: int, seed: int = 0) -> Problem:
    """Least variance of ten factors and noise: loadings around one on the first, around zero on the others."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(n, 10)) * np.r_[0.3, np.full(9, 0.5)] + np.r_[1.0, np.zeros(9)]
    size = np.r_[0.04, np.full(9, 0.015)]
    covariance = (loadings * size**2) @ loadings.T + np.diag(rng.uniform(0.04, 0.12, n) ** 2)
    return Problem(f"{names} of {n}, ten factors, variance", np.zeros(n), covariance, risk=1.0, names=names, floor=0.01)


def tail(returns: Array, n: int, scenarios: int, limits: str = "", names: int = 0, floor: float = 0.0) -> Problem:
    """Scenarios are the last days; where there are fewer, days drawn again with a fifth of each name's spread added."""
    mean, covariance = moments(returns, n)
    days = returns[-scenarios:, :n]
    if len(days) < scenarios:
        rng = np.random.default_rng(0)
        days = days[rng.integers(0, len(days), scenarios)] + 0.2 * days.std(0) * rng.normal(size=(scenarios, n))
    rule = limits or f"at most {names}, {floor:.0%} each"
    return Problem(
        f"CVaR, {n} x {scenarios:,}, {rule}", mean, covariance, scenarios=days, tail=1.0, limits=limits, names=names,
        floor=floor,
    )  # fmt: skip


@dataclass(frozen=True)
class Trade:
    """One case of trading: the ticket, the turnover, whole lots or not, and how many names may be held (0: any)."""

    ticket: float
    turnover: float
    lots: bool
    names: int = 0
    floor: float = 0.0


TRADES = (
    Trade(1e-4, 0.5, True), Trade(5e-4, 0.5, True), Trade(5e-4, 1.0, True), Trade(0.0, 0.5, True),
    Trade(5e-4, 0.5, False), Trade(5e-4, 1.0, False, 40), Trade(5e-4, 0.8, True, 30), Trade(2e-4, 1.5, True, 20, 0.01),
)  # fmt: skip


def trading(returns: Array, trade: Trade, n: int = 225, capital: float = 2e6, seed: int = 0) -> Problem:
    """From about equal weights in a fifth of the names, in whole lots of 100; prices and volumes are drawn.

    Prices are around 60, volumes around a day's capital in each name, so that a trade of a hundredth of the capital
    moves its price by a tenth of the volatility of a day.
    """
    rng = np.random.default_rng(seed)
    mean, covariance = moments(returns, n)
    lots = 100.0 * np.round(60.0 * np.exp(0.5 * rng.normal(size=n)), 2) / capital
    volume = MONTH * capital * np.exp(rng.normal(size=n))
    even = np.where(np.arange(n) % 5 == 0, 1.0 / len(range(0, n, 5)), 0.0)
    held = np.floor(even / lots) * lots if trade.lots else even
    names = f", {trade.names} names" if trade.names else ""
    return Problem(
        f"trades: {1e4 * trade.ticket:g} bps, turnover {trade.turnover:g}{', lots' if trade.lots else ''}{names}",
        mean, covariance, risk=2.5, reward=1.0, held=held, ticket=trade.ticket, turnover=trade.turnover,
        volume=volume, capital=capital, lots=lots if trade.lots else None, cash=0.02 if trade.lots else 0.0,
        names=trade.names, floor=trade.floor,
    )  # fmt: skip


def tickets(returns: Array, n: int, rate: float, turnover: float) -> Problem:
    """From an equal weight in a fifth of the names."""
    mean, covariance = moments(returns, n)
    held = np.where(np.arange(n) % 5 == 0, 1.0 / len(range(0, n, 5)), 0.0)
    return Problem(
        f"ticket {1e4 * rate:g} bps, turnover {turnover:g}, {n} stocks", mean, covariance, risk=2.5, reward=1.0,
        held=held, ticket=rate, turnover=turnover,
    )  # fmt: skip


def costly(returns: Array, n: int, names: int, rate: float, turnover: float = np.inf) -> Problem:
    """A cost of trading from an equal weight in every name to a few of them; at a rate of 0 that of impact, with the
    volumes of `trading`."""
    mean, covariance = moments(returns, n)
    cap = f", turnover {turnover:g}" if np.isfinite(turnover) else ""
    cost = f"trades at {1e4 * rate:g} bps" if rate else "impact of trades"
    volume = None if rate else MONTH * np.exp(np.random.default_rng(0).normal(size=n))
    return Problem(
        f"{names} of {n} stocks, {cost}{cap}", mean, covariance, risk=10.0, reward=0.3, names=names, floor=0.02,
        held=np.full(n, 1.0 / n), rate=rate, turnover=turnover, volume=volume,
    )  # fmt: skip


def rooted(returns: Array, n: int, names: int, rate: float = 0.0) -> Problem:
    """A volatility in place of a variance; with a rate from equal weights in every name."""
    mean, covariance = moments(returns, n)
    cost = f", {1e4 * rate:g} bps" if rate else ""
    return Problem(
        f"{names} of {n} stocks, volatility{cost}", mean, covariance, root=1.0, reward=0.3, names=names,
        floor=0.01, held=np.full(n, 1.0 / n) if rate else None, rate=rate,
    )  # fmt: skip
