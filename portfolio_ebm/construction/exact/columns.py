"""Column generation: a large quadratic program solved on the few names that matter, all the others priced.

Most names of a long-only portfolio rest on a bound. Solve for the names in play with the others at rest, price these at
the row multipliers found, r = M w + m + A'nu, bring in those that would rather leave their bound (r < 0 on a lower one,
r > 0 on an upper one), and again, until there are none: then w is the minimum over all names, whatever was left out.
Only M's rows at the names in play are ever formed.

Source: Gilmore, P. C. and Gomory, R. E. (1961), A linear programming approach to the cutting-stock problem, Operations
Research 9 (the pricing of columns).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.constraints import active_set
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import Formula

Array = NDArray[np.float64]
Names = NDArray[np.bool_]

FEWEST = 60
"""Fewer names than this are solved for at once."""


def by_columns(formula: Formula, box: Box, scale: float, start: Array | None = None) -> tuple[Array, Array] | None:
    """(w, row multipliers) of the minimum, on a growing set of names.

    None where too many names have no bound to rest on, or a step fails.

    `start` are weights whose names are put in play first: those of a problem close by.
    """
    n = formula.n
    rest = np.clip(np.zeros(n), box.lower, box.upper)
    settled = (rest == box.lower) | (rest == box.upper)
    if n < 2 * FEWEST or settled.sum() < 0.8 * n:
        return None
    active = ~settled
    if start is not None:
        active |= start != rest
    first = formula.slope(np.full(n, 1.0 / n))[1] - box.rows.mean(0)
    caps = np.where(np.isfinite(box.upper), box.upper, 1.0)
    order = np.argsort(first, kind="stable")
    # Room for the whole budget and half as much again, at least.
    enough = int(np.searchsorted(np.cumsum(np.abs(caps[order])), 1.5)) + 1
    active[order[: max(FEWEST - int(active.sum()), enough if start is None else 0)]] = True
    for _ in range(60):
        if active.sum() > 0.5 * n:
            return None
        found = _on(formula, box, scale, active, rest)
        if found is None:
            # The names in play cannot obey the rules yet.
            active[order[: 2 * int(active.sum())]] = True
            continue
        w, nu = found
        reduced = scale * formula.slope(w)[1] + box.rows.T @ nu
        out = ~active
        wish = np.where(out & (rest == box.lower), -reduced, -np.inf)
        wish = np.maximum(wish, np.where(out & (rest == box.upper), reduced, -np.inf))
        wish[box.lower == box.upper] = -np.inf
        eager = np.flatnonzero(wish > 1e-12)
        if eager.size == 0:
            return w, nu
        active[eager[np.argsort(-wish[eager], kind="stable")[:FEWEST]]] = True
    return None


def _on(formula: Formula, box: Box, scale: float, active: Names, rest: Array) -> tuple[Array, Array] | None:
    """The minimum over the names in play, the others at rest."""
    names = np.flatnonzero(active)
    still = np.where(active, 0.0, rest)
    moved = box.rows @ still
    linear = scale * formula.slope(still)[1][names]
    found = active_set.minimum(
        scale * formula.block(names), linear, (box.lower[names], box.upper[names]),
        box.rows[:, names], (box.row_lower - moved, box.row_upper - moved),
    )  # fmt: skip
    if isinstance(found, active_set.Failure):
        return None
    w = still
    w[names] = found.x
    return w, found.rows
