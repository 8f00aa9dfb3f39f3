"""Marginal energies: what one more unit of each name would do to the energy, and which bound holds the name.

    marginal_i = dE/dw_i           reduced_i = dE/dw_i + multipliers of the rows and caps the name stands in

At a minimum a name between its bounds has reduced_i = 0, one that a lower bound keeps from falling has reduced_i >= 0,
one that an upper bound holds back reduced_i <= 0. Where the multipliers are not known (a choice of names, an energy
that is not convex) the budget row alone is priced in, by the multiplier that leaves the names between their bounds the
least slope in squares: the mean of their gradients.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, section 5.5.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import alone_of, region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import Marginal
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy

TOUCHING = 1e-9
"""A weight this near to a bound stands at it."""


def marginal_of(
    energy: Energy, weights: Tensor, constraint: Constraint, ctx: Context, reduced: Tensor | None = None
) -> Marginal:
    """The Marginal at `weights` (n,); `reduced` where multipliers of a minimum are known.

    Example:
        >>> marginal_of(Return(), torch.tensor([1.0, 0.0]), Budget() & LongOnly(), ctx).held_by  # means 3 % and 1 %
        ('', 'LongOnly() at 0')
    """
    # Of rules that are a choice between several sets, the set that the weights are in.
    cases = constraint.cases()
    constraint = cases[0] if len(cases) == 1 else min(cases, key=lambda case: float(case.residual(weights, ctx)))
    point = weights.detach().double().clone().requires_grad_()
    value = energy.bind(ctx)(point)
    slope = torch.autograd.grad(value, point)[0].detach() if value.requires_grad else torch.zeros_like(point)
    region = region_of(constraint, ctx)
    held_by = tuple(_held_by(weights.double(), constraint, region, ctx))
    exact = reduced is not None
    if reduced is None:
        reduced = slope - budget_price(slope, weights.double(), region)
    return Marginal(weights, slope, reduced.to(slope), held_by, exact)


def budget_price(slope: Tensor, weights: Tensor, region: Region) -> float:
    """The multiplier of the budget row that fits `slope` (n,) best; 0 where no row fixes the sum of the weights."""
    fixed = (region.row_upper - region.row_lower).abs() <= 1e-14
    if not bool((fixed & (region.rows == 1.0).all(-1)).any()):
        return 0.0
    least = region.min_weight if region.discrete else -torch.inf
    held = ~region.frozen & (weights.abs() > TOUCHING) & slope.isfinite()
    between = held & (weights > region.lower.clamp_min(least) + TOUCHING) & (weights < region.upper - TOUCHING)
    chosen = between if bool(between.any()) else held
    return float(slope[chosen].mean()) if bool(chosen.any()) else 0.0


def _held_by(weights: Tensor, constraint: Constraint, region: Region, ctx: Context) -> list[str]:
    """By name, the rule and the place of the bound that its weight stands at."""
    parts = [(repr(rule), alone_of(rule, region, ctx)) for rule in constraint.rules()]
    own = [(name, part.lower.tolist(), part.upper.tolist()) for name, part in parts]
    held = int((weights.abs() > TOUCHING)[~region.frozen].sum())
    choosing = " and ".join(
        name for name, part in parts if part.min_weight > 0.0 or (part.at_most is not None and part.at_most <= held)
    )
    found = []
    frozen = region.frozen.tolist()
    for i, (w, low, high) in enumerate(
        zip(weights.tolist(), region.lower.tolist(), region.upper.tolist(), strict=True)
    ):
        if frozen[i]:
            found.append("not tradeable")
        elif choosing and abs(w) <= TOUCHING:
            found.append(f"left out by {choosing}")
        elif choosing and region.min_weight > 0.0 and w <= region.min_weight + TOUCHING:
            found.append(f"{choosing} at {region.min_weight:g}")
        elif w <= low + TOUCHING:
            found.append(f"{' and '.join(name for name, mine, _ in own if mine[i] == low)} at {low:g}")
        elif w >= high - TOUCHING:
            found.append(f"{' and '.join(name for name, _, mine in own if mine[i] == high)} at {high:g}")
        else:
            found.append("")
    return found
