"""The portfolios of a lattice that meet a narrow rule, an exact budget, from the sums of two halves of its names.

Of N^2 portfolios only those are written down whose halves' sums, N each, add up to what the rule asks for: one side is
sorted, and the other looks its partners up.

Source: Horowitz, E. and Sahni, S. (1974), Computing partitions with applications to the knapsack problem, Journal of
the ACM 21.
"""

from __future__ import annotations

import numpy as np

from portfolio_ebm.constraints.mixed.grids.lattice import Lattice
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints

HALF = 2**17
"""Sums of one half at most."""
MATCHES = 2**16
"""Portfolios written down at most."""
ROUNDING = 1e-13


def matched(lattice: Lattice) -> Ints | None:
    """The columns (k, m) of every portfolio that meets the narrowest rule; None where a half has too many sums or the
    rule is met by too many."""
    sizes = lattice.count(np.ones(len(lattice.x), dtype=bool))
    row = _narrowest(lattice, sizes)
    if row is None:
        return None
    left, right = _parts(sizes)
    if max(lattice.portfolios(part) for part in (left, right)) > HALF:
        return None
    use = lattice.use[row]
    sums = [_sums(lattice, use, sizes, part) for part in (left, right)]
    order = np.argsort(sums[1], kind="stable")
    ends = lattice.low[row] - ROUNDING - sums[0], lattice.high[row] + ROUNDING - sums[0]
    first = np.searchsorted(sums[1][order], ends[0], side="left")
    many = np.searchsorted(sums[1][order], ends[1], side="right") - first
    total = int(many.sum())
    if total > MATCHES:
        return None
    mine = np.repeat(np.arange(len(many)), many)
    theirs = order[np.arange(total) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)]
    taken = np.empty((total, lattice.m), dtype=np.int64)
    for part, at in ((left, mine), (right, theirs)):
        if len(part):
            taken[:, part] = np.column_stack(np.unravel_index(at, tuple(sizes[part])))
    return np.asarray(taken + lattice.first)


def _narrowest(lattice: Lattice, sizes: Ints) -> int | None:
    """The rule that fewest portfolios are expected to meet, from the spread of its sums; None where too many would."""
    mean = np.add.reduceat(lattice.use, lattice.first, axis=1) / sizes
    square = np.add.reduceat(lattice.use**2, lattice.first, axis=1) / sizes
    spread = np.sqrt(np.maximum(square - mean**2, 0.0).sum(axis=1))
    width = lattice.high - lattice.low
    share = np.where(spread > 0.0, np.minimum(width / np.maximum(2.5 * spread, 1e-300), 1.0), 1.0)
    if not len(share):
        return None
    row = int(share.argmin())
    return row if lattice.portfolios() * share[row] <= MATCHES else None


def _parts(sizes: Ints) -> tuple[Ints, Ints]:
    """Two parts of the names with about as many portfolios each."""
    found: tuple[list[int], list[int]] = ([], [])
    many = [0.0, 0.0]
    for name in np.argsort(-sizes, kind="stable").tolist():
        part = int(many[1] < many[0])
        found[part].append(name)
        many[part] += float(np.log(sizes[name]))
    return np.array(found[0], dtype=np.int64), np.array(found[1], dtype=np.int64)


def _sums(lattice: Lattice, use: Array, sizes: Ints, part: Ints) -> Array:
    """The uses of all portfolios of some names, in the order of `np.unravel_index`."""
    found = np.zeros(1)
    for name in part.tolist():
        begin = int(lattice.first[name])
        found = (found[:, None] + use[begin : begin + int(sizes[name])]).ravel()
    return found
