"""Whole lots of an energy whose trades are quadratic, proportional, fixed or of the 3/2 power: by exact moves.

Each of the given portfolios is solved again on its own modes, for the multipliers of the rules there; from those minima
`best_whole` goes to the grid. Other energies, and rules that it does not know, are left to `best_lots`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.node import on_slice
from portfolio_ebm.constraints.mixed.reading import assign
from portfolio_ebm.constraints.mixed.slice import Point
from portfolio_ebm.constraints.mixed.whole import Grid, best_whole
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing import impact_of, mixed_of, quadratic
from portfolio_ebm.construction.formula import take_apart, without_tickets
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, curvature
from portfolio_ebm.types import as_numpy


def exact_lots(energy: Energy, region: Region, ctx: Context, near: Tensor) -> Tensor | None:
    """The point of least energy on the region's grid that was found from portfolios `near` (k, n), (n,); None where
    the energy or a rule is not of the known kinds, or no point of the grid was found that obeys them."""
    assert region.grid is not None
    energy, ticket = without_tickets(energy, ctx)
    if curvature(energy) == "none":
        return None
    formula = take_apart(energy, ctx)
    if not quadratic(formula) and impact_of(formula) is None:
        return None
    mixed = mixed_of(formula, region.ungridded(), ticket)
    if not Grid.fits(mixed):
        return None
    seeds: dict[bytes, Point] = {}
    for w in as_numpy(near):
        modes = assign(mixed.choices, mixed.choices.exists, w)[0]
        if modes.tobytes() not in seeds:
            point = on_slice(mixed, modes, w)
            if point is not None:
                seeds[modes.tobytes()] = point
    found = best_whole(Grid(mixed, as_numpy(region.grid)), list(seeds.values()))
    return None if found is None else torch.as_tensor(found).to(near)
