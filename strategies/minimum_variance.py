"""A convex strategy: the least-variance portfolio of the last year, no name above 10 %."""

from portfolio_ebm import Box, Budget, Convex, LongOnly, Monthly, SampleMoments, Strategy, Variance

STRATEGY = Strategy(
    name="minimum-variance",
    market=SampleMoments(lookback=252),
    energy=Variance(),
    constraint=Budget() & LongOnly() & Box(upper=0.10),
    constructor=Convex(),
    rebalance=Monthly(),
)
