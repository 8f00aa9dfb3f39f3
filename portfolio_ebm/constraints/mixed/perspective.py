"""The perspective relaxation of a limit on numbers: each name counted pays a price, and all pay the price of K less.

    min 1/2 w'Qw + c'w   with at most K in   >=   max over price >= 0 of
    min 1/2 w'(Q - 2 D)w + c'w + sum_i envelope of (d_i w_i^2 + price where i is in) - price K

For a given D = diag(d) the best price makes it the relaxation with sum z <= K and d_i w_i^2 / z_i in place of
d_i w_i^2, a weighted K-support norm. Any price and any D that leave Q - 2 D convex give a true bound. It is concave in
(d, price), with slopes w_i^2 (1 / z_i - 1) and sum z - K at the minimum: D goes, in part, to the split that is worth
most by the slopes so far, and the price to where sum z meets K.

Source: Zheng, X., Sun, X. and Li, D. (2014), Improving the performance of MIQP solvers for quadratic programs with
cardinality and minimum threshold constraints, INFORMS Journal on Computing 26; Frank, M. and Wolfe, P. (1956), An
algorithm for quadratic programming, Naval Research Logistics 3, for the steps in D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices, Limit, some
from portfolio_ebm.constraints.mixed.programs.slice import Array, Mask, Point
from portfolio_ebm.constraints.mixed.programs.splitting import Split

MOST_NAMES, MANY = 700, 300
"""Names up to which the split is looked for, and up to which at once."""
STEPS = 8
"""Steps in D."""
PRICES = 12, 3
"""Prices tried for the first D, and for each further one."""
REPRICED = 0.5, 2.0
"""The least and the largest factor from one node's price to that of its parts."""
MET = 0.02
"""The relative distance of sum z from K that ends the search for a price."""


@dataclass(frozen=True)
class Perspective:
    """What is split off, the limit that is priced, and the price of a unit in one of its modes."""

    split: Split
    limit: Limit
    price: float

    def idle(self, allowed: Mask) -> bool:
        """Whether the limit cannot be broken by the open modes: a price would only weaken the relaxation."""
        inside, _ = self.limit.split(allowed)
        return bool(some(inside).sum() <= self.limit.most)

    def dues(self, choices: Choices, price: float) -> Choices:
        """`choices` with the price on every mode that the limit counts."""
        cost = choices.cost.copy()
        cost[np.ix_(self.limit.units, np.array(self.limit.modes, dtype=np.int64))] += price
        return replace(choices, cost=cost)

    def shares(self, allowed: Mask, choices: Choices, charged: Array) -> Array:
        """z of the units that it counts: 1 where they are decided for it, else what the envelopes charge, (n,)."""
        inside, outside = self.limit.split(allowed)
        able, free = some(inside), some(outside)
        found = np.zeros(len(charged))
        name = np.zeros(choices.units, dtype=np.int64)
        name[choices.unit] = choices.name
        at = name[self.limit.units]
        found[at] = np.where(able & free, charged[at], able)
        return found

    def undecided(self, allowed: Mask, choices: Choices, n: int) -> tuple[Mask, int]:
        """The names (n,) that count if they are in and are at zero if not, and how many of them may be in."""
        inside, outside = self.limit.split(allowed)
        able, free = some(inside), some(outside)
        ends = np.maximum(np.abs(self.limit.own(choices.lower)), np.abs(self.limit.own(choices.upper)))
        open_ = able & free & ~some(outside & (ends > 0.0))
        found = np.zeros(n, dtype=bool)
        found[choices.only[self.limit.units[open_]]] = True
        return found, int(self.limit.most - (able & ~free).sum())

    def repriced(self, allowed: Mask, z: Array, price: float) -> float:
        """A price under which the shares of open units should come nearer to what the decided ones leave of K."""
        inside, outside = self.limit.split(allowed)
        decided = float((some(inside) & ~some(outside)).sum())
        left = max(self.limit.most - decided, 0.5)
        return float(price * np.clip((z.sum() - decided) / left, *REPRICED))


def priced_limit(choices: Choices) -> Limit | None:
    """The limit on numbers from above that a perspective may price: the first; None where modes cost something."""
    if choices.priced or (choices.size != 1).any():
        return None
    found = [one for one in choices.limits if not one.mass and one.most < len(one.units)]
    return found[0] if found else None


@dataclass(frozen=True)
class Seen:
    """A relaxation's minimum under a perspective: the names that may still move, (n,), and the shares z of those that
    the limit counts, (n,)."""

    view: Perspective
    point: Point
    z: Array
    moving: Mask


Solve = Callable[[Perspective, Point | None], Seen | None]
"""The relaxation under a perspective, from a point near by; None where it fails or the limit no longer binds."""


def perspective_of(matrix: Array, limit: Limit, moving: Mask, solve: Solve) -> Perspective | None:
    """The perspective of the best bound that was found; None where nothing can be split off, or a relaxation fails.
    `moving` (n,) are the names that may move before `solve` has excluded any."""
    here = _first(matrix, limit, moving, solve)
    if here is None:
        return None
    best, worth = here, np.zeros(0)
    for k in range(STEPS):
        slope = _slope(here.point.weights, here.z)
        worth = slope if not k else 0.5 * (worth + slope)
        new, old = Split.of(matrix, worth, here.moving, MOST_NAMES), here.view.split
        if new is None:
            break
        step = 2.0 / (k + 3.0)
        split = Split(old.diagonal + step * (new.diagonal - old.diagonal), (1.0 - step) * old.rest + step * new.rest)
        after = _priced(replace(here.view, split=split), solve, here.point, PRICES[1])
        if after is None:
            break
        here = after
        best = max(best, here, key=lambda one: one.point.bound)
    return best.view


def _first(matrix: Array, limit: Limit, moving: Mask, solve: Solve) -> Seen | None:
    """With the split that is alike for all; of many names first a multiple of the diagonal, which may exclude most."""
    found: Seen | None = None
    for most in (0, MOST_NAMES) if moving.sum() > MANY else (MOST_NAMES,):
        split = Split.of(matrix, None, moving, most)
        if split is None:
            return None
        # Where all K hold alike a name pays what its part of the split is worth at 1 / K.
        price = float(split.diagonal[moving].mean()) / max(limit.most, 1.0) ** 2
        found = _priced(Perspective(split, limit, price), solve, None, PRICES[0])
        if found is None:
            return None
        moving = found.moving
    return found


def _priced(view: Perspective, solve: Solve, start: Point | None, most: int) -> Seen | None:
    """The best of a few prices: secants in the logarithms of price and sum z."""
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    best: Seen | None = None
    for _ in range(most):
        found = solve(view, start)
        if found is None:
            break
        best = found if best is None or found.point.bound > best.point.bound else best
        start, at = found.point, float(np.log(view.price))
        over = float(np.log(max(float(found.z.sum()), 1e-6) / view.limit.most))
        if abs(over) <= MET:
            break
        low, high = ((at, over), high) if over > 0.0 else (low, (at, over))
        if low is None or high is None:
            at += float(np.clip(2.0 * over, -1.5, 1.5))
        else:
            share = float(np.clip(low[1] / (low[1] - high[1]), 0.1, 0.9))
            at = low[0] + share * (high[0] - low[0])
        view = replace(view, price=float(np.exp(at)))
    return best


def _slope(w: Array, z: Array) -> Array:
    """w^2 (1 / z - 1) over its mean, and a little everywhere."""
    at = np.abs(w) > 1e-9
    found = np.where(at, w**2 * (1.0 / np.where(at, z, 1.0).clip(1e-9) - 1.0), 0.0).clip(0.0)
    return np.asarray(found / max(float(found.mean()), 1e-300) + 1e-3)
