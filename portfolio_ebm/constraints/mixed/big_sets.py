"""Which units are big under 5/10/40 and its like, where units are of few kinds: every set worth trying, for all rows.

    min sum_u (x_u - s_u)^2 / (2 k_u)    x_u in [0, t] (small) or [0, m] (big),    the big ones together at most C

Among units of the same k, t and m the big ones have the largest s: exchanging the x of two units that stand the other
way round never costs more. And fewer than C / t are above t. So there are few sets to try; on each of them
x_u = clip(s_u - l k_u, 0, m) with one price l >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask

MOST_SETS = 128
"""With more sets a row the search along the price is quicker."""


@dataclass(frozen=True)
class BigSets:
    """k, t, m (U,) and the cap C; `kinds` the units of each kind, `sizes` how many of each are big, (sets, kinds)."""

    k: Array
    t: Array
    m: Array
    cap: float
    kinds: tuple[Ints, ...]
    sizes: Ints


def big_sets(choices: Choices) -> BigSets | None:
    """The sets of units with a small and a big mode from zero and one cap on the big ones; None for too many."""
    (t, m), k, cap = choices.upper.T, choices.size.astype(np.float64), float(choices.limits[0].most)
    _, kind = np.unique(np.column_stack([k, t, m]), axis=0, return_inverse=True)
    kinds = tuple(np.flatnonzero(kind == one) for one in range(int(kind.max(initial=-1)) + 1))
    most = int(np.ceil(cap / t.min() - 1e-9)) - 1
    counts = [min(len(one), most) + 1 for one in kinds]
    if np.prod(counts, dtype=float) > 4 * MOST_SETS:
        return None
    sizes = np.array([one for one in product(*map(range, counts)) if sum(one) <= most], dtype=np.int64)
    return BigSets(k, t, m, cap, kinds, sizes) if 0 < len(sizes) <= MOST_SETS else None


def best_of_sets(s: Array, sets: BigSets) -> Array:
    """x (r, U) at the least cost for units' weights s (r, U)."""
    x = s.clip(0.0, sets.t)
    # What is not above t has no use for being big.
    useful = [int((s[:, at] > sets.t[at]).sum(axis=1).max(initial=0)) for at in sets.kinds]
    sizes = sets.sizes[(sets.sizes <= useful).all(axis=1)]
    # The largest units of each kind, in order: the j-th of them is big in the sets with more than j of its kind.
    order = [at[np.argsort(-s[:, at], axis=1, kind="stable")] for at in sets.kinds]
    top = np.concatenate([one[:, :most] for one, most in zip(order, sizes.max(axis=0), strict=True)], axis=1)
    place = np.concatenate([np.arange(most) for most in sizes.max(axis=0)])
    chosen = np.repeat(sizes, sizes.max(axis=0), axis=1) > place
    at, score = np.arange(len(s))[:, None], np.take_along_axis(s, top, axis=1)
    k, m, low = sets.k[top], sets.m[top], x[at, top]
    big = (score[:, None] - _prices(score, k, m, chosen, sets.cap)[..., None] * k[:, None]).clip(0.0, m[:, None])
    change = ((big - score[:, None]) ** 2 - ((low - score) ** 2)[:, None]) / k[:, None]
    best = np.where(chosen, change, 0.0).sum(axis=-1).argmin(axis=1)
    x[at, top] = np.where(chosen[best], big[at[:, 0], best], low)
    return np.asarray(x)


def _prices(s: Array, k: Array, m: Array, chosen: Mask, cap: float) -> Array:
    """For every row of s, k, m (r, J) and set (c, J) the price l, (r, c), at which clip(s - l k, 0, m) sums to the cap
    over the set; zero where it does not exceed it without.

    The sum falls from that of m to zero, in straight pieces between (s - m) / k and s / k.
    """
    ends = np.concatenate([(s - m) / k, s / k], axis=1)
    order = np.argsort(ends, axis=1, kind="stable")
    ends = np.take_along_axis(ends, order, axis=1)
    turn = np.take_along_axis(np.concatenate([-k, k], axis=1), order, axis=1)
    # Ends of units outside a set bend nothing there.
    inside = np.tile(chosen, 2)[:, order].swapaxes(0, 1)
    slope = np.cumsum(inside * turn[:, None], axis=-1)
    height = np.empty_like(slope)
    height[..., 0] = (chosen * m[:, None]).sum(axis=-1)
    height[..., 1:] = height[..., :1] + np.cumsum(slope[..., :-1] * np.diff(ends, axis=1)[:, None], axis=-1)
    # The piece in which it crosses the cap begins at the last end that is still above.
    last = np.maximum((height > cap).sum(axis=-1) - 1, 0)[..., None]
    high, steep = (np.take_along_axis(x, last, axis=-1)[..., 0] for x in (height, slope))
    price = np.take_along_axis(ends, last[..., 0], axis=1) + (high - cap) / np.maximum(-steep, 1e-300)
    return np.where(height[..., 0] > cap, price, 0.0).clip(min=0.0)
