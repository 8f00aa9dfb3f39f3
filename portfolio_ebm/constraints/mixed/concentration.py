"""The nearest point under 5/10/40, 25/50 or 75-5-10 alone, no other wall beside it: unit by unit, coupled by one sum.

    min sum_u (x_u - s_u)^2 / (2 k_u)    x_u in [0, t_u], or in [t_u, m_u] as one of the big ones, together at most C

s_u and k_u are a unit's weight and number of names, and every name of it moves by (x_u - s_u) / k_u. Under a price l on
the big ones' sum a unit is big below its own price

    l_u = (s - sqrt(t (2 s - t))) / k, or (a - (m - s)^2 / 2k) / m where that one leaves x at m,    a = (s - t)^2 / 2k

so one search along l solves the relaxation, at most one unit is in between there, and branch and bound decides it.
Where units are of few kinds, as where only issuers of one and of two names are, every set of big ones worth trying is
tried instead, for all points at once (big_sets.py).

Source: Martello, S. and Toth, P. (1990), Knapsack Problems, chapter 2, for the relaxation with one broken item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.constraints.mixed.big_sets import best_of_sets, big_sets
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.programs.slice import Array, Mask
from portfolio_ebm.constraints.region import Region

CLOSE = 1e-12
"""Squared distances are told apart to this share."""


@dataclass(frozen=True)
class Items:
    """Units above their small mode: s, k, t, m, (c,) each, and the cap C on the sum of the big ones."""

    s: Array
    k: Array
    t: Array
    m: Array
    cap: float

    @property
    def small(self) -> Array:
        """The cost at t, (c,)."""
        return np.asarray((self.s - self.t) ** 2 / (2.0 * self.k))

    @property
    def turn(self) -> Array:
        """The price from which on a unit is small, (c,)."""
        inner = (self.s - np.sqrt(self.t * (2.0 * self.s - self.t))) / self.k
        outer = (self.small - (self.m - self.s) ** 2 / (2.0 * self.k)) / self.m
        return np.where(outer <= (self.s - self.m) / self.k, outer, inner)

    def big(self, price: float | Array) -> Array:
        """x of the big ones under a price, (..., c)."""
        return np.asarray(np.clip(self.s - self.k * np.asarray(price)[..., None], self.t, self.m))


def alone(region: Region, choices: Choices) -> bool:
    """Whether the region is one such rule and nothing else."""
    free = region.at_most is None and region.min_weight == 0.0 and region.grid is None and region.turnover is None
    if not free or region.caps or len(region.rows) or len(choices.limits) != 1 or choices.lower.shape[1] != 2:
        return False
    limit = choices.limits[0]
    return bool(
        region.lower.isinf().all() & region.upper.isinf().all()
        and limit.mass and limit.modes == (1,) and len(limit.units) == choices.units
        and (choices.lower == 0.0).all() and (choices.cost == 0.0).all()
        and (choices.upper[:, 0] > 0.0).all() and (choices.upper[:, 0] <= choices.upper[:, 1]).all()
        and np.bincount(choices.name).max(initial=0) <= 1
    )  # fmt: skip


def nearest_alone(y: Array, choices: Choices, most: int) -> tuple[Array, Mask]:
    """The nearest points to y (m, n), and where `most` nodes a point have proven that, (m,)."""
    s, k = choices.weights_of(y), choices.size.astype(np.float64)
    t, m = choices.upper.T
    cap = float(choices.limits[0].most)
    x = s.clip(0.0, m)
    proven = np.ones(len(y), dtype=bool)
    over = np.flatnonzero(np.where(s > t, x, 0.0).sum(axis=1) > cap)
    sets = big_sets(choices) if len(over) else None
    if sets is not None:
        x[over], over = best_of_sets(s[over], sets), over[:0]
    for row in over:
        at = np.flatnonzero(s[row] > t)
        x[row, at], proven[row] = _search(Items(s[row, at], k[at], t[at], m[at], cap), most)
    w = y.copy()
    w[:, choices.name] += ((x - s) / k)[:, choices.unit]
    return w, proven


def _search(items: Items, most: int) -> tuple[Array, bool]:
    """x (c,) of the best choice of big ones, by branch and bound depth first, and whether it is proven."""
    best, value = items.t, float(items.small.sum())
    none = np.zeros(len(items.s), dtype=bool)
    left = [(none, ~none)]
    for _ in range(most):
        if not left:
            return best, True
        big, open_ = left.pop()
        if items.t[big].sum() > items.cap:
            continue
        price, between = _price(items, big, open_)
        bound = _bound(items, big, open_, price)
        if bound >= value * (1.0 - CLOSE):
            continue
        chosen = big | (open_ & (price < items.turn))
        if between is not None:
            chosen[between] = False
        fixed = price if between is None else _price(items, chosen, none)[0]
        x = np.where(chosen, items.big(fixed), items.t)
        cost = float(((x - items.s) ** 2 / (2.0 * items.k)).sum())
        if cost < value:
            best, value = x, cost
        if between is not None:
            rest = open_.copy()
            rest[between] = False
            more = big.copy()
            more[between] = True
            left += [(big, rest), (more, rest)]
    return best, not left


def _price(items: Items, big: Mask, open_: Mask) -> tuple[float, int | None]:
    """The price at which the big ones sum to the cap (zero where they do so without), and the open unit that is in
    between there, None where there is none."""
    last = np.where(big, np.inf, np.where(open_, items.turn, -np.inf))
    kinks = np.concatenate([(items.s - items.m) / items.k, (items.s - items.t) / items.k, items.turn[open_], [0.0]])
    at = np.sort(kinks[kinks >= 0.0])
    x, here = items.big(at), at[:, None]
    right = np.where(here < last, x, 0.0).sum(axis=1)
    j = int((right <= items.cap).argmax())
    if j == 0:
        return float(at[0]), None
    before = float(np.where(here[j] <= last, x[j], 0.0).sum())
    if before > items.cap:
        return float(at[j]), int(np.abs(np.where(open_, items.turn, np.inf) - at[j]).argmin())
    share = (right[j - 1] - items.cap) / (right[j - 1] - before)
    return float(at[j - 1] + share * (at[j] - at[j - 1])), None


def _bound(items: Items, big: Mask, open_: Mask, price: float) -> float:
    """The dual value of a node: no choice below it costs less."""
    x = items.big(price)
    paid = (x - items.s) ** 2 / (2.0 * items.k) + price * x
    each = np.where(big, paid, np.where(open_, np.minimum(paid, items.small), items.small))
    return float(each.sum()) - price * items.cap
