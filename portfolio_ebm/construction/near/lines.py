"""What lines of q + 1 names have to leave open, so that face-Gibbs meets all of the law under q equations A x = b.

A face whose ranges have columns of rank below q is where the others, at their points, meet an equation by themselves:
some y has y'A zero on all ranges, and y'A x = y'b at the points. No line leads there, and ranges around b instead of b
would give it all of the mass. For q = 1 it is the portfolio that trades nothing, which has a move of its own.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.face_set import FaceSet

TIE = 1e-9
"""Sums nearer than this, in units of an equation's largest entry, are one."""

MOST = 200_000
"""Sets of names looked at."""


def require_lines(faces: FaceSet) -> None:
    """Refuse a set that lines do not lead through.

    Raises:
        SpecError: the equations fix every weight, or leave parts of the set to themselves; with what to do.
    """
    q = len(faces.equations)
    if faces.n < q + 1:
        raise SpecError("The equations fix every weight; there is nothing to draw.")
    if q == 1:
        return
    if bool((faces.count_lower == faces.count_upper).any()):
        raise SpecError(
            "With an exact number of names and an equation beside the budget a name may have to go in one group where "
            "one comes in another, which no move of few names does, so that parts of the law would never be met; give "
            "the number a range, at_least below at_most, or the equation one."
        )
    if rests_on_equation(faces):
        raise SpecError(
            "Names that all stay as they are, or out, may meet an equation beside the budget by themselves (a group "
            "that is neutral without any position, a portfolio held that obeys it already). Such portfolios stand "
            "apart, no move of few names leads to them, and no volume compares them with others; give the equation a "
            "range, with an upper end above its lower one."
        )


def rests_on_equation(faces: FaceSet) -> bool:
    """Whether names at their points may meet a combination of the equations without the others; True where this
    cannot be excluded by intervals."""
    q, system = len(faces.system), faces.system / faces.equations.abs().amax(1, keepdim=True)
    columns = torch.unique(system[:, :-1].T, dim=0)
    if math.comb(len(columns), q - 1) > MOST:
        return True
    point = faces.exists & ~faces.ranged
    ends = _ends(faces.lower, faces.upper, faces.exists), _ends(faces.lower, faces.upper, point)
    for some in combinations(range(len(columns)), q - 1):
        normal = _normal(columns[list(some)])
        if normal is not None and _meets(normal, system, ends, point.any(1)):
            return True
    return False


Ends = tuple[Tensor, Tensor]
"""The least and the largest weight of every name, (d,) each."""


def _ends(lower: Tensor, upper: Tensor, here: Tensor) -> Ends:
    return torch.where(here, lower, torch.inf).amin(1), torch.where(here, upper, -torch.inf).amax(1)


def _normal(columns: Tensor) -> Tensor | None:
    """y (q,) with y'a = 0 for these columns a (q - 1, q); None where they are not independent."""
    if int(torch.linalg.matrix_rank(columns, atol=TIE, rtol=0.0)) < len(columns):
        return None
    found: Tensor = torch.linalg.svd(columns).Vh[-1]
    return found


def _meets(y: Tensor, system: Tensor, ends: tuple[Ends, Ends], rests: Tensor) -> bool:
    """Whether y'A x = y'b may hold with all names of y'A at points, and every equation with the others anywhere."""
    pull = y @ system
    moved = pull[:-1].abs() > TIE
    if not bool(moved.any()) or not bool(rests[moved].all()):
        return False
    low, high = (torch.where(moved, rest, all_) for all_, rest in zip(*ends, strict=True))
    for row in (pull, *system):
        part = row[:-1]
        live = part.abs() > TIE
        one, other = part[live] * low[live], part[live] * high[live]
        if not float(one.minimum(other).sum()) - TIE <= float(row[-1]) <= float(one.maximum(other).sum()) + TIE:
            return False
    return True
