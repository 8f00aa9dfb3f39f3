"""Every term there is, with a context that has all a term may ask for, and portfolios on which it is finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from cases_convex import market, portfolios, stacked

from portfolio_ebm.context import Context
from portfolio_ebm.energies.budgeting import FactorRiskBudget, RiskBudget
from portfolio_ebm.energies.cash import Cash
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation, Semideviation, Semivariance, Volatility
from portfolio_ebm.energies.diversification import Herfindahl, NegativeEntropy
from portfolio_ebm.energies.drawdown import CDaR, MaxDrawdown
from portfolio_ebm.energies.entropic import EntropicRisk, EVaR
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.impact import BorrowCost, MarketImpact
from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio, MeanVolatility
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.robust import BoxReturn, EllipsoidReturn, RobustVariance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energies.views import View, Views
from portfolio_ebm.energy import ConvexEnergy, Energy
from portfolio_ebm.types import bps

N = 8

VIEWS = (View("A1", 0.03, confidence=0.7), View({"A2": 1.0, "A5": -1.0}, 0.01, deviation=0.02))

CONVEX: list[Energy] = [
    Return(),
    Return(forecast="alpha"),
    Return(forecast="alpha", over=None, shrink=0.4),
    Return(shrink=1.0),
    Views(VIEWS),
    Views(VIEWS, tau=0.2, benchmark="index", risk_aversion=3.0),
    Cash(2 * bps),
    Cash(2 * bps, excess=True),
    MeanVolatility(),
    Variance(),
    Volatility(),
    CVaR(),
    CVaR(level=0.9, centred=True),
    CVaR(level=0.987),
    CVaR(level=0.0),
    CVaR(level=0.999),
    EVaR(),
    EVaR(level=0.3, centred=True),
    EVaR(level=0.999),
    EntropicRisk(),
    EntropicRisk(risk_aversion=30.0, centred=False),
    FactorRisk(),
    FactorRisk(risk_aversion=20.0),
    FactorRisk(dependence=True),
    MeanAbsoluteDeviation(),
    MeanAbsoluteDeviation(centred=False),
    Semivariance(),
    Semivariance(centred=False, target=0.01),
    Semideviation(),
    Semideviation(centred=False),
    MaxDrawdown(),
    MaxDrawdown(level=0.8),
    MaxDrawdown(level=0.99),
    CDaR(),
    CDaR(level=0.0),
    CDaR(level=0.9999),
    TrackingError("index"),
    TrackingError("index", Variance()),
    TrackingError("index", MeanAbsoluteDeviation()),
    TrackingError("index", Semideviation(centred=False)),
    TrackingError("index", CVaR(0.9)),
    TrackingError("A3", Return()),
    RiskBudget(),
    RiskBudget({f"A{i}": 1.0 + i for i in range(N)}, total=0.7),
    FactorRiskBudget({"beta": 0.7, "size": 0.3}),
    NegativeEntropy(),
    Herfindahl(),
    TradingCost(5 * bps),
    MarketImpact(),
    BorrowCost(rate=2 * bps),
    BorrowCost(rates="fee"),
    BoxReturn(observations=252, errors=1.5),
    EllipsoidReturn(observations=252, size=2.0),
    RobustVariance(frobenius=0.2),
    RobustVariance(frobenius=0.1, correlation=0.05),
]
RATIOS: list[Energy] = [
    MaxRatio(),
    MaxRatio(Return() + Cash(2 * bps, excess=True), CVaR(0.9)),
    MaximumDiversification(),
]
SUMS: list[Energy] = [
    Return() + FactorRisk(5.0) + 0.5 * CVaR(centred=True) + TradingCost(5 * bps),
    Return(forecast="alpha") + 2.0 * EVaR() + MarketImpact() + BorrowCost(rate=bps) + 0.1 * CDaR(),
]
JUMPS = [FixedCost(rate=10 * bps)]
CASES = CONVEX + RATIOS + SUMS + JUMPS

POSITIVE = (RiskBudget, FactorRiskBudget, NegativeEntropy)
"""Energies that are finite on long portfolios only."""

HOMOGENEOUS = (
    Volatility, MeanVolatility, CVaR, EVaR, MeanAbsoluteDeviation, Semideviation, MaxDrawdown, CDaR, Return, Views,
    BorrowCost, BoxReturn, EllipsoidReturn,
)  # fmt: skip


def rich(ctx: Context, seed: int = 0, paths: int = 12, steps: int = 10) -> Context:
    """The context with benchmarks, forecasts, exposures, volume, capital and paths."""
    rng = np.random.default_rng(1000 + seed)
    n = ctx.n_assets

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float64)

    look = replace(ctx.market, paths=tensor(rng.normal(0.0005, 0.01, (paths, steps, n))))
    return replace(
        ctx, market=look, span=21.0, capital=1e7, benchmarks={"index": tensor(rng.dirichlet(np.ones(n)))},
        forecasts={"alpha": tensor(rng.normal(0.0, 0.001, n)), "fee": tensor(rng.uniform(0.0, 1e-4, n))},
        exposures={"beta": tensor(rng.uniform(0.5, 1.5, n)), "size": tensor(rng.uniform(0.0, 1.0, n))},
        volume=tensor(rng.uniform(1e6, 1e8, n)), prices=tensor(rng.uniform(10, 100, n)),
    )  # fmt: skip


def world(seed: int = 0, **settings: object) -> Context:
    """One date with everything."""
    return rich(market(N, seed=seed, **settings), seed)


def piled(dates: list[Context]) -> Context:
    """Several dates as one context."""
    whole = stacked(dates)

    def pile(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.stack([getattr(ctx, name)[key] for ctx in dates]) for key in getattr(dates[0], name)}

    return replace(
        whole, market=replace(whole.market, paths=torch.stack([ctx.paths for ctx in dates])), span=21.0, capital=1e7,
        benchmarks=pile("benchmarks"), forecasts=pile("forecasts"), exposures=pile("exposures"),
        volume=torch.stack([ctx.volume for ctx in dates]), prices=torch.stack([ctx.prices for ctx in dates]),
    )  # fmt: skip


def points(energy: Energy, rows: int, n: int = N, seed: int = 1) -> torch.Tensor:
    """Portfolios (rows, n) that add up to one, long only where the energy asks for it."""
    if any(isinstance(part.energy, POSITIVE) for part in energy.terms()):
        draws = np.random.default_rng(seed).dirichlet(np.full(n, 2.0), rows)
        return torch.tensor(draws)
    return portfolios(rows, n, seed)


def convex(energy: Energy) -> bool:
    return all(isinstance(part.energy, ConvexEnergy) for part in energy.terms())
