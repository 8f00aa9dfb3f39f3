"""The main job: 20 stocks, six independently trained factor energies, costs, turnover and a choice of names."""

from portfolio_ebm import (
    AnnealedLangevin,
    Box,
    Budget,
    Cardinality,
    CVaR,
    FactorEBM,
    FactorRisk,
    LongOnly,
    Monthly,
    Return,
    Strategy,
    TradingCost,
    Turnover,
    bps,
)

STRATEGY = Strategy(
    name="factor-ebm",
    market=FactorEBM(factors=("market", "MTUM", "QUAL", "SIZE", "USMV", "VLUE"), lookback=1260),
    energy=Return() + FactorRisk(risk_aversion=5) + 0.5 * CVaR(level=0.95, centred=True) + TradingCost(5 * bps),
    constraint=(
        Budget() & LongOnly() & Box(upper=0.15) & Turnover(at_most=0.5) & Cardinality(at_most=8, min_weight=0.03)
    ),
    constructor=AnnealedLangevin(chains=64),
    rebalance=Monthly(),
)
