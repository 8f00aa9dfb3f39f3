"""A minimum that breaks a rule by more than rounding, brought onto its slice.

    P(w) = the nearest point to w of { lower <= x <= upper, low <= A x <= high, sum |x - held| <= turnover, g(x) <= 0 }

Cutting planes come down on a convex set from outside, so where their rounds end before they arrive, the last point is a
bound and no portfolio; an interior point may end a little beside its rows. The projection makes a portfolio of either,
whose energy is a little above the minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from portfolio_ebm.constraints.caps import Cap
from portfolio_ebm.constraints.mixed.program import TOLERANCE, Array, Program
from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import InfeasibleError, SolverError

Slice = tuple[Array, Array, Array, Array, Array]
"""lower, upper (n,), rows (m, n), their least and their most (m,)."""


def mended(program: Program, caps: Sequence[Cap], slice_: Slice, w: Array) -> Array | None:
    """The nearest point of the slice to w (n,); None where none is found."""
    try:
        found, left = nearest_in(torch.as_tensor(w), _region(program, caps, slice_))
    except (InfeasibleError, SolverError):
        return None
    return np.asarray(found.numpy()) if float(left) <= TOLERANCE else None


def _region(program: Program, caps: Sequence[Cap], slice_: Slice) -> Region:
    lower, upper, rows, low, high = (torch.as_tensor(x, dtype=torch.float64) for x in slice_)
    capped = program.held is not None and bool(np.isfinite(program.turnover))
    return replace(
        Region.free(program.n), lower=lower, upper=torch.maximum(lower, upper), rows=rows, row_lower=low,
        row_upper=high, names=("",) * len(rows), caps=tuple(caps),
        anchor=torch.as_tensor(program.held) if capped else None, turnover=program.turnover if capped else None,
    )  # fmt: skip
