"""1/N: the baseline every other strategy is shown beside."""

from portfolio_ebm import EqualWeight, Monthly, Strategy

STRATEGY = Strategy(name="equal-weight", constructor=EqualWeight(), rebalance=Monthly())
