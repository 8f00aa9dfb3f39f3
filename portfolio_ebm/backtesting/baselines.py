"""The two portfolios a strategy has to be shown beside: 1/N, and plain convex mean-variance under the same rules."""

from __future__ import annotations

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.naive import EqualWeight
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy, add
from portfolio_ebm.market.moments import SampleMoments
from portfolio_ebm.strategy import Strategy

EQUAL = "1/N"
CONVEX = "mean-variance"


def baselines(strategy: Strategy, lookback: int = 252) -> tuple[Strategy, ...]:
    """1/N and mean-variance on `strategy`'s schedule; the one that `strategy` is itself is left out.

    Mean-variance minimises Return() + 2.5 * Variance() and the strategy's own trading costs over those of its rules
    that are convex; rules that are not (a limit on the number of names) are dropped, which only helps the baseline.

    Example:
        >>> [item.name for item in baselines(Strategy(name="mine", market=SampleMoments(), energy=Variance()))]
        ['1/N', 'mean-variance']
    """
    costs = tuple(part for part in strategy.energy.terms() if isinstance(part.energy, TradingCost))
    energy: Energy = add((*Return().terms(), *(2.5 * Variance()).terms(), *costs))
    rules = convex_rules(strategy.constraint)
    found = (
        Strategy(name=EQUAL, constructor=EqualWeight(), rebalance=strategy.rebalance),
        Strategy(
            name=CONVEX,
            market=SampleMoments(lookback=lookback),
            energy=energy,
            constraint=rules[0] if len(rules) == 1 else All(parts=rules),
            constructor=Convex(),
            rebalance=strategy.rebalance,
        ),
    )
    return tuple(item for item in found if item.replace(name=strategy.name) != strategy)


def convex_rules(constraint: Constraint) -> tuple[Constraint, ...]:
    """The rules of `constraint` whose set is convex."""
    return tuple(rule for rule in constraint.rules() if rule.convex)
