"""The minimum that a risk-budgeting energy has without any rule, where it obeys the rules already.

Its scale is chosen so that the free minimum adds up to the total asked for: under Budget and LongOnly nothing pulls.
"""

from __future__ import annotations

import numpy as np

from portfolio_ebm.construction.exact.duality import Box, Multipliers
from portfolio_ebm.construction.exact.engines import Found
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.energies.budgeting import Budgeting
from portfolio_ebm.types import as_numpy

OBEYED = 1e-12
"""A free minimum further off a bound or a row than this is pulled by it."""


def free_minimum(formula: Formula, box: Box) -> Found | None:
    """The free minimum of a lone risk-budgeting energy; None for another formula, and where a rule pulls it away."""
    parts = formula.energy.terms()
    if len(parts) != 1 or not isinstance(parts[0].energy, Budgeting) or box.turnover is not None:
        return None
    w = as_numpy(parts[0].energy.free_minimum(formula.ctx))
    at = box.rows @ w
    inside = (w >= box.lower - OBEYED).all() and (w <= box.upper + OBEYED).all()
    if not inside or (at > box.row_upper + OBEYED).any() or (at < box.row_lower - OBEYED).any():
        return None
    return Found(w, Multipliers((), np.zeros(len(box.rows)), 0.0), "damped Newton, without a rule that pulls")
