"""Whole lots of an energy whose trades are quadratic, proportional, fixed or of the 3/2 power: found, and proven.

Each of the given portfolios is solved again on its own modes, for the multipliers of the rules there; from those minima
`best_whole` goes to the grid. The columns of all lots (lattice_tree.py) then say how much better any portfolio of whole
lots could be. Other energies, and rules that it does not know, are left to `best_lots`, and their bound is that of
fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import region_residual
from portfolio_ebm.constraints.mixed.grids.lattice import lattice_of
from portfolio_ebm.constraints.mixed.grids.lattice_bound import around
from portfolio_ebm.constraints.mixed.grids.lattice_tree import LotProof, LotTree
from portfolio_ebm.constraints.mixed.grids.whole import Grid, best_whole
from portfolio_ebm.constraints.mixed.node import Mixed, broken_cuts, on_slice
from portfolio_ebm.constraints.mixed.programs.slice import Array, Point
from portfolio_ebm.constraints.mixed.reading import assign
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing.choosing import impact_of, mixed_of, quadratic
from portfolio_ebm.construction.exact.formula import take_apart, without_tickets
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, breakdown, curvature
from portfolio_ebm.types import as_numpy


@dataclass(frozen=True)
class LotWork:
    """How long lots are proven: lattices looked at, the gap that ends it, in sizes of the terms, and a clock."""

    nodes: int
    gap: float = 1e-9
    stop: Callable[[], bool] | None = None


@dataclass(frozen=True)
class LotProgram:
    """The mixed program of an energy without the grid, what its energies lack, and the grid's steps (n,)."""

    mixed: Mixed
    constant: float
    step: Array

    @classmethod
    def of(cls, energy: Energy, region: Region, ctx: Context) -> LotProgram | None:
        """None where the energy is not of the known kinds."""
        assert region.grid is not None
        energy, ticket = without_tickets(energy, ctx)
        if curvature(energy) == "none":
            return None
        formula = take_apart(energy, ctx)
        if not quadratic(formula) and impact_of(formula) is None:
            return None
        return cls(mixed_of(formula, region.ungridded(), ticket), formula.constant, as_numpy(region.grid))


def exact_lots(program: LotProgram, near: Tensor) -> Tensor | None:
    """The point of least energy on the grid that was found from portfolios `near` (k, n), (n,); None where a rule is
    not of the known kinds, or no point of the grid was found that obeys them."""
    mixed = program.mixed
    if not Grid.fits(mixed):
        return None
    seeds: dict[bytes, Point] = {}
    for w in as_numpy(near):
        modes = assign(mixed.choices, mixed.choices.exists, w)[0]
        if modes.tobytes() not in seeds:
            point = on_slice(mixed, modes, w)
            if point is not None:
                seeds[modes.tobytes()] = point
    found = best_whole(Grid(mixed, program.step), list(seeds.values()))
    return None if found is None else torch.as_tensor(found).to(near)


def proven_lots(
    program: LotProgram, energy: Energy, region: Region, ctx: Context, best: Tensor | None, near: Tensor, work: LotWork
) -> LotProof | None:  # fmt: skip
    """How much better than `best` (n,) any portfolio of whole lots could be, or a better one; the bound and the value
    are those of the energy. None where the lots are not of the known kinds, or too many.

    Args:
        near: (n,), the best in fractions.
    """
    mixed, lattice, root = program.mixed, lattice_of(program.mixed, program.step), program.mixed.root()
    if lattice is None or root is None:
        return None
    at = near if best is None else best
    size = sum(abs(float(share)) for share in breakdown(energy, at, ctx).values())
    value = np.inf if best is None else float(energy.bind(ctx)(best)) - program.constant
    known = None if best is None else as_numpy(best)
    residual, cutter = partial(_residual, region), partial(broken_cuts, mixed, root)
    tree = LotTree(lattice, known, value, residual, cutter, work.gap * size)
    found = tree.grow(around(lattice, as_numpy(near)), work.nodes, work.stop)
    return LotProof(
        found.weights, found.value + program.constant, found.bound + program.constant, found.nodes, found.finished
    )  # fmt: skip


def _residual(region: Region, w: Array) -> Array:
    return as_numpy(region_residual(torch.as_tensor(w).to(region.lower), region))
