"""portfolio_ebm: portfolios as formulas of energies.

Factor energy models, trained alone, are added into one market; objective, cost and constraint energies are
added in the space of weights; an annealed Langevin optimizer turns the sum into allocations that are
certified feasible, with a bound on how far from optimal they can be.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives. Loaded on first use, so that `portfolio-ebm --help` does not wait for torch.
_HOMES = {
    "ActiveShare": "constraints.leverage",
    "Allocation": "allocation",
    "Allocations": "many",
    "AnnealedLangevin": "construction.annealed",
    "AnomalyReport": "market.anomaly.report",
    "BetaNeutral": "constraints.exposures",
    "BorrowCost": "energies.impact",
    "Box": "constraints.weights",
    "BoxReturn": "energies.robust",
    "BranchAndBound": "construction.certifier",
    "Budget": "constraints.weights",
    "CDaR": "energies.drawdown",
    "CVaR": "energies.risk",
    "CVaRCap": "constraints.risk",
    "Cardinality": "constraints.discrete",
    "Cash": "energies.cash",
    "Condition": "market.condition",
    "Conditioned": "market.conditioned",
    "Constraint": "constraints.base",
    "Context": "context",
    "Convex": "construction.convex",
    "ConvexEnergy": "energy",
    "DCC": "market.dependence.dcc",
    "Distribution": "ensembles",
    "Diversified75510": "constraints.diversified",
    "DollarNeutral": "constraints.exposures",
    "EVaR": "energies.entropic",
    "EWMA": "market.ewma",
    "Either": "constraints.either",
    "EllipsoidReturn": "energies.robust",
    "Energy": "energy",
    "Ensemble": "ensembles",
    "EntropicRisk": "energies.entropic",
    "EqualWeight": "construction.naive",
    "EveryPeriod": "data.calendar",
    "Factor": "market.parts",
    "FactorCovariance": "market.factor_covariance",
    "FactorEBM": "market.factor_ebm",
    "FactorExposure": "constraints.exposures",
    "FactorRisk": "energies.free_energy",
    "FactorRiskBudget": "energies.budgeting",
    "FilteredHistorical": "market.historical",
    "FixedCost": "energies.fixed",
    "Frontier": "frontiers",
    "GaussianCopula": "market.dependence.static",
    "Group": "constraints.exposures",
    "Herfindahl": "energies.diversification",
    "Historical": "market.historical",
    "Independent": "market.dependence.independent",
    "Learned": "energies.learned",
    "LeastTrade": "construction.least_trade",
    "LedoitWolf": "market.ledoit_wolf",
    "Leverage": "constraints.leverage",
    "LongOnly": "constraints.weights",
    "MarketImpact": "energies.impact",
    "MaxDrawdown": "energies.drawdown",
    "MaxRatio": "energies.ratio",
    "MaximumDiversification": "energies.ratio",
    "MeanAbsoluteDeviation": "energies.deviation",
    "MeanVolatility": "energies.ratio",
    "MinPosition": "constraints.discrete",
    "MonthEnd": "data.session_schedules",
    "Monthly": "data.calendar",
    "MovingCopula": "market.dependence.mixture",
    "NegativeEntropy": "energies.diversification",
    "OAS": "market.ledoit_wolf",
    "On": "data.session_schedules",
    "Panel": "data.panel",
    "Participation": "constraints.trading",
    "QuarterEnd": "data.session_schedules",
    "Quarterly": "data.calendar",
    "RIC2550": "constraints.diversified",
    "Recipe": "energies.learned",
    "RegimeGauge": "market.anomaly.gauge",
    "Region": "constraints.region",
    "Relaxed": "constraints.envelope",
    "Residual": "market.parts",
    "Result": "backtesting.result",
    "Return": "energies.returns",
    "RiskBudget": "energies.budgeting",
    "RobustVariance": "energies.robust",
    "RoundLots": "constraints.lots",
    "SampleMoments": "market.moments",
    "Semideviation": "energies.deviation",
    "Semivariance": "energies.deviation",
    "ShortLimit": "constraints.leverage",
    "Strategy": "strategy",
    "StudentCopula": "market.dependence.static",
    "Tally": "tally",
    "TopSum": "constraints.diversified",
    "TrackingError": "energies.tracking",
    "TrackingErrorCap": "constraints.risk",
    "TradingCost": "energies.costs",
    "Turnover": "constraints.trading",
    "UCITS": "constraints.diversified",
    "Variance": "energies.risk",
    "View": "energies.views",
    "Views": "energies.views",
    "Volatility": "energies.deviation",
    "VolatilityCap": "constraints.risk",
    "WeekEnd": "data.session_schedules",
    "Weekly": "data.calendar",
    "YearEnd": "data.session_schedules",
    "Yearly": "data.calendar",
    "anomaly_report": "market.anomaly.report",
    "backtest": "backtesting.walk_forward",
    "bps": "types",
    "breakdown": "energy",
    "bundled": "data.sources.bundled",
    "cure_due": "strategy",
    "ensemble": "ensembles",
    "french": "data.sources.french",
    "frontier": "frontiers",
    "optimize": "optimization",
    "optimize_many": "many",
    "read_panel": "data.sources.files",
    "rebalance": "strategy",
    "regime_gauge": "market.anomaly.gauge",
    "resampled_ranges": "ensembles",
    "score": "market.score",
    "score_summary": "market.score",
    "train": "learning",
}

if TYPE_CHECKING:
    from portfolio_ebm.allocation import Allocation
    from portfolio_ebm.backtesting.result import Result
    from portfolio_ebm.backtesting.walk_forward import backtest
    from portfolio_ebm.constraints.base import Constraint
    from portfolio_ebm.constraints.discrete import Cardinality, MinPosition
    from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510, TopSum
    from portfolio_ebm.constraints.either import Either
    from portfolio_ebm.constraints.envelope import Relaxed
    from portfolio_ebm.constraints.exposures import BetaNeutral, DollarNeutral, FactorExposure, Group
    from portfolio_ebm.constraints.leverage import ActiveShare, Leverage, ShortLimit
    from portfolio_ebm.constraints.lots import RoundLots
    from portfolio_ebm.constraints.region import Region
    from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
    from portfolio_ebm.constraints.trading import Participation, Turnover
    from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
    from portfolio_ebm.construction.annealed import AnnealedLangevin
    from portfolio_ebm.construction.certifier import BranchAndBound
    from portfolio_ebm.construction.convex import Convex
    from portfolio_ebm.construction.least_trade import LeastTrade
    from portfolio_ebm.construction.naive import EqualWeight
    from portfolio_ebm.context import Context
    from portfolio_ebm.data.calendar import EveryPeriod, Monthly, Quarterly, Weekly, Yearly
    from portfolio_ebm.data.panel import Panel
    from portfolio_ebm.data.session_schedules import MonthEnd, On, QuarterEnd, WeekEnd, YearEnd
    from portfolio_ebm.data.sources.bundled import bundled
    from portfolio_ebm.data.sources.files import read_panel
    from portfolio_ebm.data.sources.french import french
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
    from portfolio_ebm.energies.learned import Learned, Recipe
    from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio, MeanVolatility
    from portfolio_ebm.energies.returns import Return
    from portfolio_ebm.energies.risk import CVaR, Variance
    from portfolio_ebm.energies.robust import BoxReturn, EllipsoidReturn, RobustVariance
    from portfolio_ebm.energies.tracking import TrackingError
    from portfolio_ebm.energies.views import View, Views
    from portfolio_ebm.energy import ConvexEnergy, Energy, breakdown
    from portfolio_ebm.ensembles import Distribution, Ensemble, ensemble, resampled_ranges
    from portfolio_ebm.frontiers import Frontier, frontier
    from portfolio_ebm.learning import train
    from portfolio_ebm.many import Allocations, optimize_many
    from portfolio_ebm.market.anomaly.gauge import RegimeGauge, regime_gauge
    from portfolio_ebm.market.anomaly.report import AnomalyReport, anomaly_report
    from portfolio_ebm.market.condition import Condition
    from portfolio_ebm.market.conditioned import Conditioned
    from portfolio_ebm.market.dependence.dcc import DCC
    from portfolio_ebm.market.dependence.independent import Independent
    from portfolio_ebm.market.dependence.mixture import MovingCopula
    from portfolio_ebm.market.dependence.static import GaussianCopula, StudentCopula
    from portfolio_ebm.market.ewma import EWMA
    from portfolio_ebm.market.factor_covariance import FactorCovariance
    from portfolio_ebm.market.factor_ebm import FactorEBM
    from portfolio_ebm.market.historical import FilteredHistorical, Historical
    from portfolio_ebm.market.ledoit_wolf import OAS, LedoitWolf
    from portfolio_ebm.market.moments import SampleMoments
    from portfolio_ebm.market.parts import Factor, Residual
    from portfolio_ebm.market.score import score, score_summary
    from portfolio_ebm.optimization import optimize
    from portfolio_ebm.strategy import Strategy, cure_due, rebalance
    from portfolio_ebm.tally import Tally
    from portfolio_ebm.types import bps

__all__ = [
    "DCC",
    "EWMA",
    "OAS",
    "RIC2550",
    "UCITS",
    "ActiveShare",
    "Allocation",
    "Allocations",
    "AnnealedLangevin",
    "AnomalyReport",
    "BetaNeutral",
    "BorrowCost",
    "Box",
    "BoxReturn",
    "BranchAndBound",
    "Budget",
    "CDaR",
    "CVaR",
    "CVaRCap",
    "Cardinality",
    "Cash",
    "Condition",
    "Conditioned",
    "Constraint",
    "Context",
    "Convex",
    "ConvexEnergy",
    "Distribution",
    "Diversified75510",
    "DollarNeutral",
    "EVaR",
    "Either",
    "EllipsoidReturn",
    "Energy",
    "Ensemble",
    "EntropicRisk",
    "EqualWeight",
    "EveryPeriod",
    "Factor",
    "FactorCovariance",
    "FactorEBM",
    "FactorExposure",
    "FactorRisk",
    "FactorRiskBudget",
    "FilteredHistorical",
    "FixedCost",
    "Frontier",
    "GaussianCopula",
    "Group",
    "Herfindahl",
    "Historical",
    "Independent",
    "Learned",
    "LeastTrade",
    "LedoitWolf",
    "Leverage",
    "LongOnly",
    "MarketImpact",
    "MaxDrawdown",
    "MaxRatio",
    "MaximumDiversification",
    "MeanAbsoluteDeviation",
    "MeanVolatility",
    "MinPosition",
    "MonthEnd",
    "Monthly",
    "MovingCopula",
    "NegativeEntropy",
    "On",
    "Panel",
    "Participation",
    "QuarterEnd",
    "Quarterly",
    "Recipe",
    "RegimeGauge",
    "Region",
    "Relaxed",
    "Residual",
    "Result",
    "Return",
    "RiskBudget",
    "RobustVariance",
    "RoundLots",
    "SampleMoments",
    "Semideviation",
    "Semivariance",
    "ShortLimit",
    "Strategy",
    "StudentCopula",
    "Tally",
    "TopSum",
    "TrackingError",
    "TrackingErrorCap",
    "TradingCost",
    "Turnover",
    "Variance",
    "View",
    "Views",
    "Volatility",
    "VolatilityCap",
    "WeekEnd",
    "Weekly",
    "YearEnd",
    "Yearly",
    "anomaly_report",
    "backtest",
    "bps",
    "breakdown",
    "bundled",
    "cure_due",
    "ensemble",
    "french",
    "frontier",
    "optimize",
    "optimize_many",
    "read_panel",
    "rebalance",
    "regime_gauge",
    "resampled_ranges",
    "score",
    "score_summary",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"portfolio_ebm has no '{name}'")
    value = getattr(import_module(f"portfolio_ebm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
