"""What the laws with choices share: limits on heavy units, and what modes leave of the convex part of the rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.heavy import Heavy

ROUNDING = 1e-10
"""A weight this far above a limit counts as on it."""

LEAST = 1e-9
"""A least weight above this is one."""


def within_modes(hull: Region, c: Choices, upper: Tensor) -> Region:
    """The hull, with the largest weight that any mode leaves each name and each issuer.

    Raises:
        SpecError: a group of names that has a least weight in one of its modes.
    """
    hull = replace(hull, upper=hull.upper.minimum(upper))
    for u in range(c.units):
        names, most = c.name[c.unit == u], float(c.upper[u, c.exists[u]].max())
        if len(names) > 1 and (c.lower[u, c.exists[u]] > LEAST).any():
            raise SpecError(
                "A group of names with a least weight, or none at all, is a choice that this law does not know; "
                "make the choice of single names."
            )
        if len(names) > 1 and most < float(hull.upper[torch.as_tensor(names)].sum()):
            row = hull.lower.new_zeros(hull.n)
            row[torch.as_tensor(names)] = 1.0
            hull = hull.with_row(row, -torch.inf, most, "the largest weight of an issuer")
    return hull


def heavy_of(c: Choices, limit: Limit, kept: Tensor, base: Tensor) -> Heavy:
    """A limit on the weight of the units in some modes, as one on the units above what their other modes allow."""
    index = {int(u): k for k, u in enumerate(limit.units.tolist())}
    unit = torch.full_like(base, len(index), dtype=torch.long)
    over, counted = base.new_full((len(index),), torch.inf), set(limit.modes)
    for u, k in index.items():
        unit[torch.as_tensor(c.name[c.unit == u])] = k
        modes = np.flatnonzero(c.exists[u])
        if any(m in counted for m in modes):
            over[k] = max([float(c.upper[u, m]) for m in modes if m not in counted], default=0.0) + ROUNDING
    fixed = base.new_zeros(len(index) + 1).index_add(0, unit, base)[:-1]
    return Heavy(unit[kept], over, float(limit.most) + ROUNDING, fixed)
