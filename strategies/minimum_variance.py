"""A convex strategy: the least variance of the last year's returns, no name above 10 %, trades paid for."""

from portfolio_ebm import Box, Budget, Convex, LongOnly, Monthly, SampleMoments, Strategy, TradingCost, Variance, bps

STRATEGY = Strategy(
    name="minimum-variance",
    market=SampleMoments(lookback=252),
    energy=5 * Variance() + TradingCost(5 * bps),
    constraint=Budget() & LongOnly() & Box(upper=0.10),
    constructor=Convex(),
    rebalance=Monthly(),
)
