"""One example of every rule there is and of combinations, and a small world that has all they ask for."""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.discrete import Cardinality, MinPosition
from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510, TopSum
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.exposures import BetaNeutral, DollarNeutral, FactorExposure, Group
from portfolio_ebm.constraints.leverage import ActiveShare, Leverage, ShortLimit
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
from portfolio_ebm.constraints.trading import Participation, Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.relaxing import LetOut
from portfolio_ebm.context import Context
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

F64 = torch.float64
N = 8
HELD = torch.tensor([0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0], dtype=F64)
INDEX = torch.tensor([0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=F64)
SECTORS = ("tech", "tech", "tech", "oil", "oil", "food", "food", "food")
HOUSES = ("a", "a", "b", "c", "d", "d", "e", "f")
LANDS = ("US", "EU", "US", "EU", "US", "EU", "US", "EU")


def outlook(n: int = N, size: int = 240, seed: int = 0) -> Outlook:
    """A factor covariance and scenarios of it."""
    rng = torch.Generator().manual_seed(seed)
    loadings = 1.0 + 0.5 * torch.randn(n, 2, generator=rng, dtype=F64)
    core = torch.diag(torch.tensor([0.03**2, 0.02**2], dtype=F64))
    diagonal = 0.03**2 * (0.5 + torch.rand(n, generator=rng, dtype=F64))
    factors = torch.randn(size, 2, generator=rng, dtype=F64) @ core.sqrt()
    noise = torch.randn(size, n, generator=rng, dtype=F64) * diagonal.sqrt()
    scenarios = 0.005 + factors @ loadings.T + noise
    return Outlook(scenarios.mean(0), Structured(loadings, core, diagonal), scenarios, None, 21.0)


def context(held: Tensor | None = HELD, frozen: tuple[int, ...] = ()) -> Context:
    tradeable = torch.ones(N, dtype=torch.bool)
    tradeable[list(frozen)] = False
    rng = torch.Generator().manual_seed(1)
    return Context(
        assets=tuple(f"A{i}" for i in range(N)), market=outlook(), held=held, tradeable=tradeable,
        groups={"sector": SECTORS, "land": LANDS, "house": HOUSES}, benchmarks={"index": INDEX},
        exposures={"value": torch.randn(N, generator=rng, dtype=F64)},
        forecasts={"market_value": torch.linspace(2e5, 9e5, N, dtype=F64)},
        prices=torch.linspace(900.0, 9000.0, N, dtype=F64),
        volume=1e6 * (0.5 + torch.rand(N, generator=rng, dtype=F64)), capital=1e6,
    )  # fmt: skip


RULES: dict[str, Constraint] = {
    "budget": Budget(),
    "budget with cash": Budget(total=1.0, at_least=0.8),
    "long only": LongOnly(),
    "box": Box(lower=0.05, upper=0.2),
    "box with single caps": Box(upper=0.5, caps=(("A1", 0.1),), floors=(("A2", 0.05),)),
    "group": Group("sector", "tech", upper=0.3),
    "group between": Group("sector", "tech", upper=0.4, lower=0.2),
    "group exactly": Group("sector", "tech", upper=0.4, lower=0.4),
    "every group": Group("sector", upper=0.35, lower=0.1),
    "groups near the index": Group("land", upper=0.05, lower=-0.05, benchmark="index"),
    "exposure": FactorExposure("value", upper=0.1, lower=-0.1),
    "exposure near the index": FactorExposure("value", upper=0.05, benchmark="index"),
    "beta neutral": BetaNeutral("index"),
    "beta of about a half to a factor": BetaNeutral("value", target=0.5, within=0.1),
    "dollar neutral": DollarNeutral(),
    "leverage": Leverage(1.2),
    "short limit": ShortLimit(0.1),
    "active share": ActiveShare(0.3, benchmark="index"),
    "turnover": Turnover(0.3),
    "participation": Participation(0.1),
    "volatility": VolatilityCap(0.03),
    "tracking error": TrackingErrorCap(0.01, benchmark="index"),
    "tail": CVaRCap(0.06, level=0.9),
    "centred tail": CVaRCap(0.07, level=0.95, centred=True),
    "cardinality": Cardinality(3),
    "cardinality with a floor": Cardinality(3, min_weight=0.1),
    "exactly so many": Cardinality(exactly=3, min_weight=0.1),
    "at least so many": Cardinality(at_least=5, min_weight=0.05),
    "so many of each sector": Cardinality(at_most=2, groups="sector"),
    "between in every land": Cardinality(at_least=1, at_most=3, min_weight=0.05, groups="land"),
    "minimum position": MinPosition(0.1),
    "5/10/40": UCITS(issuers=None),
    "25/50": RIC2550("house"),
    "75-5-10": Diversified75510("house", market_value=None),
    "75-5-10 with votes": Diversified75510("house"),
    "the largest names": TopSum(2, at_most=0.3),
    "the largest issuers": TopSum(3, at_most=0.5, issuers="house"),
    "simplex": Budget() & LongOnly(),
    "capped with turnover": Budget() & LongOnly() & Box(upper=0.35) & Turnover(0.4),
    "sectors": Budget() & LongOnly() & Group("sector", "tech", upper=0.3) & Group("sector", "oil", lower=0.2),
    "overlapping groups": Budget() & LongOnly() & Group("sector", upper=0.4) & Group("land", upper=0.55, lower=0.4),
    "everything convex": Budget(1.0, 0.9) & Box(upper=0.35) & Group("sector", "tech", upper=0.3) & Turnover(0.9),
    "long short": Budget() & Box(lower=-0.3, upper=0.4) & Leverage(1.5) & ShortLimit(0.2) & Turnover(0.8),
    "market neutral": DollarNeutral() & BetaNeutral("index") & Leverage(1.0) & Box(lower=-0.2, upper=0.2),
    "leverage of a long book": LongOnly() & Leverage(0.9) & Box(upper=0.3),
    "tracker": Budget() & LongOnly() & TrackingErrorCap(0.01, benchmark="index") & ActiveShare(0.3, benchmark="index"),
    "two ellipsoids": Budget() & LongOnly() & TrackingErrorCap(0.015, benchmark="index") & VolatilityCap(0.055),
    "capped tail": Budget() & LongOnly() & Box(upper=0.4) & CVaRCap(0.11, level=0.9),
    "all kinds of caps": (
        Budget() & Box(lower=-0.2, upper=0.5) & Leverage(1.3) & TrackingErrorCap(0.02, benchmark="index")
        & CVaRCap(0.12, level=0.9) & Turnover(1.0)
    ),
    "a cap let out": LetOut(Group("sector", "tech", upper=0.3), by=0.05),
    "main job": Budget() & LongOnly() & Box(upper=0.4) & Turnover(0.8) & Cardinality(4, min_weight=0.1),
    "sectors and names": Budget() & Box(upper=0.5) & Group("sector", "tech", upper=0.6) & Cardinality(3, 0.05),
    "whole lots": RoundLots(lot=10.0),
    "one or the other": Either(Box(lower=0.1, upper=0.3), Cardinality(2)),
    "whole lots of a long book": Budget(1.0, 0.9) & Box(upper=0.4) & RoundLots(lot=2.0, lots=(("A1", 5.0),)),
    "diversified or few": Budget() & LongOnly() & Either(RIC2550("house"), Cardinality(2, min_weight=0.2)),
    "a diversified fund": Budget(1.0, 0.3) & LongOnly() & UCITS("house") & Turnover(0.9),
    "a concentrated fund": Budget(1.0, 0.5) & LongOnly() & RIC2550("house") & Cardinality(4, min_weight=0.05),
    "exactly and a minimum": Budget() & Cardinality(exactly=4, min_weight=0.05) & Cardinality(at_most=2, groups="land"),
    "names and a tail": Budget() & LongOnly() & Cardinality(4, 0.05) & CVaRCap(0.12, level=0.9),
}  # fmt: skip
CONVEX = {name: rule for name, rule in RULES.items() if rule.convex}
SINGLE = {name: rule for name, rule in CONVEX.items() if len(rule.rules()) == 1}


def points(batch: int = 12, seed: int = 0) -> Tensor:
    return HELD + 0.3 * torch.randn(batch, N, generator=torch.Generator().manual_seed(seed), dtype=F64)
