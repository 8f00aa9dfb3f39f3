"""EqualWeight(): 1/n, the portfolio every other one is measured against."""

from __future__ import annotations

import torch

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import regions_of
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.certificate import FEASIBLE, measured, residuals_of
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.types import Status


class EqualWeight(Constructor):
    """The same weight in every tradeable name; names that cannot be traded stay as they are held.

    The budget is the sum of weights the rules ask for (1 where they say nothing), less what is frozen. 1/n uses no
    estimate and obeys no other rule on purpose: where the strategy's rules are broken, the status says which.

    Example:
        >>> Strategy("1/N", constructor=EqualWeight())

    Source: DeMiguel, V., Garlappi, L. and Uppal, R. (2009), Optimal versus naive diversification, Review of
    Financial Studies 22(5).
    """

    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """See Constructor.

        Raises:
            InfeasibleError: no name can be traded and what is held does not meet the budget.
        """
        free = ctx.tradeable
        count = int(free.sum())
        weights = ctx.fixed.double().masked_fill(free, 0.0)
        total = _budget(constraint, ctx)
        if count == 0 and abs(float(weights.sum()) - total) > FEASIBLE:
            raise InfeasibleError(
                f"EqualWeight: none of the {ctx.n_assets} names can be traded{ctx.at}, and what is held weighs "
                f"{float(weights.sum()):.4g} and not {total:.4g}; leave the date out, or give prices."
            )
        if count:
            weights = torch.where(free, (total - weights[~free].sum()) / count, weights)
        residuals = residuals_of(weights, constraint, ctx)
        broken = [f"{rule} by {residual:.3g}" for rule, residual in residuals.items() if residual > FEASIBLE]
        message = f"Equal weight in {count} tradeable names"
        if broken:
            status = Status(False, f"{message}; this breaks {', '.join(broken)}.")
        else:
            status = Status(True, f"{message}.")
        return measured(weights, energy, constraint, ctx, residuals, bound=None, status=status, rng=rng)


def _budget(constraint: Constraint, ctx: Context) -> float:
    """The most that all weights may add up to, by the rules that bound their sum; 1 where none does."""
    sums = [
        float(high)
        for region in regions_of(constraint, ctx)
        for row, high in zip(region.rows, region.row_upper, strict=True)
        if bool((row == 1.0).all()) and bool(torch.isfinite(high))
    ]
    return min(sums, default=1.0)
