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
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Slice
from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import InfeasibleError, SolverError


def mended(s: Slice, caps: Sequence[Cap], w: Array) -> Array | None:
    """The nearest point to w (n,) of the slice that obeys the caps; None where none is found."""
    try:
        found, left = nearest_in(torch.as_tensor(w), _region(s, caps), prove=False)
    except (InfeasibleError, SolverError):
        return None
    return np.asarray(found.numpy()) if float(left) <= TOLERANCE else None


def _region(s: Slice, caps: Sequence[Cap]) -> Region:
    program = s.program
    lower, upper, rows, low, high = (torch.as_tensor(x) for x in (s.lower, s.upper, s.rows, s.low, s.high))
    capped = program.held is not None and bool(np.isfinite(program.turnover))
    return replace(
        Region.free(program.n), lower=lower, upper=torch.maximum(lower, upper), rows=rows, row_lower=low,
        row_upper=high, names=("",) * len(rows), caps=tuple(caps),
        anchor=torch.as_tensor(program.held) if capped else None, turnover=program.turnover if capped else None,
    )  # fmt: skip
