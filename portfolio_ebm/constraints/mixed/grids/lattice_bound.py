"""The best multipliers of a lattice: its columns mixed within each name, by column generation.

    min 1/2 w'Rw + own'l   over   l >= 0,   sum of l over a name = 1,   w_i = sum x l,   low <= use l <= high

is the relaxation whose multipliers make `Lattice.bound` largest. A few columns a name are solved for, all are priced at
the multipliers found, and those that are below the ones in play join. Every round gives a true bound. A rule that the
columns in play cannot meet is bought off at a high price.

Source: Dantzig, G. and Wolfe, P. (1960), Decomposition principle for linear programs, Operations Research 8; von
Hohenbalken, B. (1977), Simplicial decomposition in nonlinear programming algorithms, Mathematical Programming 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints import active_set
from portfolio_ebm.constraints.mixed.grids.lattice import Lattice
from portfolio_ebm.constraints.mixed.programs.linear import linear_minimum
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask

ROUNDS = 30
MOST_JOINING = 40
"""Columns that join in one round."""
CLOSE = 0.02
"""Of the gap to what is enough: what columns outside may still be worth where a search for multipliers ends."""
EXACT = 1e-12
"""The same of the size of the energies, where nothing is enough."""
WAYS = ((1e-4, 1e-7), (1.0, 1e-7), (1.0, 1e-4))
"""How the columns in play are solved for, until the active set ends well: the least unit that costs are counted in, of
the dearest column's, and a little curvature of the shares themselves, which spares it its flat ways."""
DEAR = 100.0
"""What buying off the largest use of a rule costs, in costs of the dearest column."""


@dataclass(frozen=True)
class Mixture:
    """What a relaxation found.

    Attributes:
        bound: no portfolio of the lattice is below this. above: what each column adds to it at least, (N,).
        y, mu: the point and the multipliers that say so. share: l, (N,). played: the columns solved for, (N,).
    """

    bound: float
    above: Array
    y: Array
    mu: Array
    share: Array
    played: Mask


def around(lattice: Lattice, w: Array) -> Mask:
    """The columns next to weights w (m,), below and above; a name on a column has that one alone."""
    off = lattice.x - w[lattice.name]
    found = np.zeros(len(off), dtype=bool)
    for side in (off, -off):
        away = np.where(side >= -1e-9, np.abs(side), np.inf)
        least = np.minimum.reduceat(away, lattice.first)
        found |= np.isfinite(away) & (away <= least[lattice.name] + 1e-12)
    on = found & (np.abs(off) <= 1e-9)
    exact = np.logical_or.reduceat(on, lattice.first)
    found &= on | ~exact[lattice.name]
    empty = ~np.logical_or.reduceat(found, lattice.first)
    found[lattice.first[empty]] = True
    return found


def mixed_columns(lattice: Lattice, played: Mask, enough: float = np.inf) -> Mixture | None:
    """The relaxation from the columns `played` (N,), one a name or more; it ends where its bound is `enough`. None
    where the active set fails at once."""
    alive, best = np.ones(len(played), dtype=bool), None
    size = float(np.abs(lattice.own).max())
    for _ in range(ROUNDS):
        at = np.flatnonzero(played)
        solved = next(filter(None, (_master(lattice, at, *way) for way in WAYS)), None)
        if solved is None:
            return best
        share, y, mu = solved
        bound, above = lattice.bound(y, mu, alive)
        if best is None or bound > best.bound:
            best = Mixture(bound, above, y, mu, share, played)
        least = lattice.each(above, played)
        left = float(least.sum())
        spare = CLOSE * (enough - best.bound) if np.isfinite(enough) else 0.0
        if best.bound >= enough or left <= max(spare, EXACT * size):
            break
        names = np.argsort(-least, kind="stable")[:MOST_JOINING]
        joining = np.isin(lattice.name, names[least[names] > 0.0]) & (above <= 0.0)
        played = played | joining
    return best


def _master(lattice: Lattice, at: Ints, coarse: float, ridge: float) -> tuple[Array, Array, Array] | None:
    """Shares (N,), weights (m,) and multipliers (L,) with the columns `at` alone, in units of at least `coarse` of the
    dearest column; None where the active set fails."""
    many = np.bincount(lattice.name[at], minlength=lattice.m)
    free = at[many[lattice.name[at]] > 1]
    fixed = at[many[lattice.name[at]] == 1]
    base, share = np.zeros(lattice.m), np.zeros(len(lattice.x))
    base[lattice.name[fixed]], share[fixed] = lattice.x[fixed], 1.0
    name, x = lattice.name[free], lattice.x[free]
    names, begin, place = np.unique(name, return_index=True, return_inverse=True)
    # Weights and costs count from one of each name's columns, what the shares of all make a constant.
    base[names] = x[begin]
    away = x - base[name]
    cost = lattice.own[free] + (lattice.rest @ base)[name] * away
    cost = cost - np.minimum.reduceat(cost, begin)[place] if len(free) else cost
    usual = max(float(cost.max(initial=0.0)), coarse * lattice.dearest)
    capped = [np.flatnonzero(np.isfinite(end)) for end in (lattice.high, lattice.low)]
    # Not of the columns in play: next to one another they cost nearly the same, and rules would be bought off cheaply.
    unit = (np.abs(lattice.use).max(axis=1, initial=0.0) + 1e-12) * usual / (DEAR * max(lattice.dearest, usual))
    k, slack = len(free), len(capped[0]) + len(capped[1])
    rows = np.zeros((len(names) + len(lattice.use), k + slack))
    rows[place, np.arange(k)] = 1.0
    rows[len(names) :, :k] = lattice.use[:, free]
    rows[len(names) + np.concatenate(capped), k + np.arange(slack)] = np.concatenate(
        [-unit[capped[0]], unit[capped[1]]]
    )
    matrix = np.zeros((k + slack, k + slack))
    matrix[:k, :k] = lattice.rest[np.ix_(name, name)] * np.outer(away, away)
    # Any multipliers bound, those of a problem beside it too.
    matrix[np.arange(k + slack), np.arange(k + slack)] += ridge * max(usual, float(matrix.max(initial=0.0)))
    used = lattice.use[:, fixed].sum(axis=1)
    one, zero = np.ones(len(names)), np.zeros(k + slack)
    ends = np.append(one, lattice.low - used), np.append(one, lattice.high - used)
    top = np.append(np.ones(k), np.full(slack, np.inf))
    found = _solved(matrix, np.append(cost, np.full(slack, usual)), (zero, top), rows, ends)
    if found is None:
        return None
    share[free] = found[0][:k].clip(0.0)
    np.add.at(base, name, share[free] * away)
    mu = found[1][len(names) :]
    # A multiplier of a side that a rule does not have is rounding.
    mu = np.where(np.isfinite(lattice.high), mu, np.minimum(mu, 0.0))
    return share, base, np.where(np.isfinite(lattice.low), mu, np.maximum(mu, 0.0))


def _solved(
    matrix: Array, linear: Array, box: tuple[Array, Array], rows: Array, ends: tuple[Array, Array]
) -> tuple[Array, Array] | None:
    """The minimum and the multipliers of the rows, positive at upper ends; None where there is none."""
    found = active_set.minimum(matrix, linear, box, rows, ends)
    if found is active_set.Failure.FLAT:
        flat = linear_minimum(linear, rows, box, *ends)
        return None if flat is None else (flat[0], -flat[1])
    return None if isinstance(found, active_set.Failure) else (found.x, found.rows)
