"""Choices: what a rule that is not convex leaves open, unit by unit.

A unit is a name or a group of names (an issuer) with the weight x_u = sum of its names' weights. It is in one of a few
modes, each an interval for x_u:

    Cardinality, minimum position     out [0, 0]      in [l, u]               #in <= K
    5/10/40                           small [0, 5%]   big [0, 10%]            sum of x_u over the big <= 40%
    25/50                             small [0, 5%]   big [0, 25%]            sum of x_u over the big <= 50%
    fixed cost of a trade             still [h, h]    traded [l, u]           a cost for each traded

Once every unit has its mode the rest is convex: a slice. `Node` says which modes are still open, and its relaxation
holds every slice below it:

    counts   y_u >= (x_u - b) / (u - b)      where b is the most x_u can be in the other modes,   sum y_u <= K
    masses   z_u >= u (x_u - b) / (u - b)    sum z_u <= cap

with the pieces that are positive at a point added as cuts, since any subset of them is valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask

Modes = Sequence[tuple[float, float]]
"""The interval of each mode."""
Limits = Sequence[tuple[int, float, float, bool]]
"""(mode, least, most, whether it is the weight that is limited)."""


def some(mask: Mask, columns: Iterable[int] | None = None) -> Mask:
    """`mask.any(axis=1)` of (U, M), or of some of its columns; numpy's own takes several times as long where a row has
    two entries."""
    found: Mask = _folded(np.logical_or, mask, columns, False)
    return found


def least(x: Array, columns: Iterable[int] | None = None) -> Array:
    """`x.min(axis=1)` of (U, M), as `some`; of no column infinite."""
    found: Array = _folded(np.minimum, x, columns, np.inf)
    return found


def most(x: Array, columns: Iterable[int] | None = None) -> Array:
    """`x.max(axis=1)` of (U, M), as `some`; of no column minus infinity."""
    found: Array = _folded(np.maximum, x, columns, -np.inf)
    return found


def _folded(fold: np.ufunc, x: Any, columns: Iterable[int] | None, empty: float) -> Any:
    at = [x[:, k] for k in (range(x.shape[1]) if columns is None else columns)]
    found = at[0].copy() if at else np.full(len(x), empty, dtype=x.dtype)
    for column in at[1:]:
        fold(found, column, out=found)
    return found


@dataclass(frozen=True)
class Limit:
    """A limit on the units in some modes: on their number, or on their weight together.

    Attributes:
        units: the units it speaks of.
        modes: the modes it counts.
        least, most: of the number (or, where `mass`, `most` of the weight).
        mass: whether it is the weight that is limited.
        name: the rule, for messages.
    """

    units: Ints
    modes: tuple[int, ...]
    least: float
    most: float
    mass: bool
    name: str

    def holds(self, modes: Ints) -> Mask:
        """Which of its units are counted where all units' modes are `modes` (..., U)."""
        at = modes[..., self.units]
        found: Mask = np.zeros(at.shape, dtype=bool)
        for mode in self.modes:
            found |= at == mode
        return found

    def split(self, allowed: Mask) -> tuple[Mask, Mask]:
        """The open modes of its units that it counts, and the others, each (len(units), M)."""
        counted = np.zeros(allowed.shape[1], dtype=bool)
        counted[list(self.modes)] = True
        mine = self.own(allowed)
        return mine & counted, mine & ~counted

    def own(self, x: Any) -> Any:
        """The rows of its units, of (U, M)."""
        return x[: len(self.units)] if self._first else x[self.units]

    def others(self, modes: int) -> list[int]:
        """Those of so many modes that it does not count."""
        return [mode for mode in range(modes) if mode not in self.modes]

    @cached_property
    def _first(self) -> bool:
        """Whether its units are the first ones, in order."""
        return bool((self.units == np.arange(len(self.units))).all())


@dataclass(frozen=True)
class Choices:
    """All units of a problem.

    Attributes:
        unit: of every member, its unit, (P,); name: its name, (P,). A unit has one member or more.
        lower, upper: (U, M), the interval of x_u in each mode; lower > upper where there is no such mode.
        cost: (U, M), what being in a mode costs.
        limits: on numbers and weights.
    """

    unit: Ints
    name: Ints
    lower: Array
    upper: Array
    cost: Array
    limits: tuple[Limit, ...]

    @property
    def units(self) -> int:
        return len(self.lower)

    @cached_property
    def exists(self) -> Mask:
        """Which modes there are, (U, M)."""
        found: Mask = self.lower <= self.upper
        return found

    def ends(self, allowed: Mask) -> tuple[Array, Array]:
        """The ends of the open modes, (U, M) each: of those that are not open the lower end is infinite."""
        return np.where(allowed, self.lower, np.inf), np.where(allowed, self.upper, -np.inf)

    @cached_property
    def size(self) -> Ints:
        """How many names each unit has, (U,)."""
        return np.asarray(np.bincount(self.unit, minlength=self.units), dtype=np.int64)

    @cached_property
    def single(self) -> tuple[Ints, Ints]:
        """The names that are units of their own, and those units, (k,) each."""
        alone = self.size[self.unit] == 1
        return self.name[alone], self.unit[alone]

    @cached_property
    def only(self) -> Ints:
        """The name of each unit that has one, (U,); of others zero."""
        found = np.zeros(self.units, dtype=np.int64)
        found[self.single[1]] = self.single[0]
        return found

    @cached_property
    def priced(self) -> bool:
        """Whether any mode costs something."""
        return bool((self.cost[self.exists] != 0.0).any())

    @cached_property
    def preference(self) -> Array:
        """(U, M), less where a mode is taken first: what it costs, a little more where a limit holds it from above, a
        little less where one asks for it."""
        found = np.zeros(self.lower.shape)
        for limit in self.limits:
            for mode in limit.modes:
                found[limit.units, mode] += 1e-3 if np.isfinite(limit.most) else -5e-4
        return found + self.cost

    def weights(self, w: Array) -> Array:
        """x (U,) of weights (n,)."""
        return np.asarray(np.bincount(self.unit, w[self.name], self.units), dtype=np.float64)

    def weights_of(self, w: Array) -> Array:
        """x (m, U) of weights (m, n)."""
        place = self.unit + self.units * np.arange(len(w))[:, None]
        found = np.bincount(place.ravel(), w[:, self.name].ravel(), len(w) * self.units)
        return np.asarray(found, dtype=np.float64).reshape(len(w), self.units)

    def spread(self, coefficients: Array, n: int) -> Array:
        """Coefficients of the units (U,) as coefficients of the names (n,)."""
        return np.asarray(np.bincount(self.name, coefficients[self.unit], n), dtype=np.float64)

    @classmethod
    def none(cls) -> Choices:
        """No unit at all."""
        whole, real = np.zeros(0, dtype=np.int64), np.zeros((0, 1))
        return cls(whole, whole, real, real, real, ())

    @classmethod
    def of_names(cls, names: Ints, modes: Modes, limits: Limits, rule: str) -> Choices:
        """One unit a name, all with the same modes; limits as (mode, least, most, mass).

        Example:
            >>> Choices.of_names(np.arange(n), [(0.0, 0.0), (0.01, 1.0)], [(1, 0, 10, False)], "Cardinality(...)")
        """
        count = len(names)
        every = np.arange(count, dtype=np.int64)
        return cls._alike(count, every, np.asarray(names, dtype=np.int64), modes, limits, rule)

    @classmethod
    def of_groups(cls, labels: Ints, modes: Modes, limits: Limits, rule: str) -> Choices:
        """One unit a label of `labels` (n,), -1 for names in none; else as `of_names`."""
        name = (labels >= 0).nonzero()[0]
        unit = labels[name].astype(np.int64)
        return cls._alike(int(unit.max(initial=-1)) + 1, unit, name, modes, limits, rule)

    @classmethod
    def _alike(cls, count: int, unit: Ints, name: Ints, modes: Modes, limits: Limits, rule: str) -> Choices:
        """`count` units with the same modes, each counted by all limits."""
        low, high = (np.full((count, len(modes)), end) for end in np.array(modes, dtype=np.float64).T)
        every = np.arange(count, dtype=np.int64)
        found = tuple(Limit(every, (mode,), least, most, mass, rule) for mode, least, most, mass in limits)
        return cls(unit, name, low, high, np.zeros(low.shape), found)

    def clipped(self, lower: Array, upper: Array) -> Choices:
        """The same choices inside a box on the names, (n,) each: no mode reaches further than the unit's names can."""
        low = np.maximum(self.lower, self.weights(lower)[:, None])
        high = np.minimum(self.upper, self.weights(upper)[:, None])
        gone = low > high + TOLERANCE
        return replace(self, lower=np.where(gone, np.inf, np.minimum(low, high)), upper=np.where(gone, -np.inf, high))

    def joined(self, other: Choices) -> Choices:
        """Both sets of units. Two units of one and the same name become one whose modes are the pairs of theirs: a name
        that is out and small, in and small, in and big."""
        if not self.units or not other.units:
            return self if self.units else other
        many = other.lower.shape[1]
        place, fresh = self._places(other)
        total = self.units + int(fresh.sum())
        low = np.full((total, self.lower.shape[1], many), np.inf)
        high, cost = -low, np.zeros_like(low)
        # A unit of one side alone has the other side's mode 0.
        low[: self.units, :, 0], high[: self.units, :, 0] = self.lower, self.upper
        cost[: self.units, :, 0] = self.cost
        new, old = place[fresh], place[~fresh]
        low[new, 0], high[new, 0], cost[new, 0] = other.lower[fresh], other.upper[fresh], other.cost[fresh]
        both = self.exists[old][:, :, None] & other.exists[~fresh][:, None, :]
        top = np.minimum(self.upper[old][:, :, None], other.upper[~fresh][:, None, :])
        floor = np.maximum(self.lower[old][:, :, None], other.lower[~fresh][:, None, :])
        # What is held may be above a cap by rounding: ends turned over by that much are a point.
        floor = np.where(floor <= top + TOLERANCE, np.minimum(floor, top), floor)
        low[old], high[old] = np.where(both, floor, np.inf), np.where(both, top, -np.inf)
        cost[old] = self.cost[old][:, :, None] + other.cost[~fresh][:, None, :]
        theirs = fresh[other.unit]
        mine = tuple(
            replace(limit, modes=tuple(m * many + k for m in limit.modes for k in range(many))) for limit in self.limits
        )
        others = tuple(
            replace(
                limit, units=place[limit.units],
                modes=tuple(k * many + m for m in limit.modes for k in range(self.lower.shape[1])),
            )
            for limit in other.limits
        )  # fmt: skip
        return Choices(
            np.concatenate([self.unit, place[other.unit[theirs]]]), np.concatenate([self.name, other.name[theirs]]),
            low.reshape(total, -1), high.reshape(total, -1), cost.reshape(total, -1), (*mine, *others),
        ).reduced()  # fmt: skip

    def _places(self, other: Choices) -> tuple[Ints, Mask]:
        """Where each unit of `other` stands in the join, and whether it is new there."""
        alone = self.size[self.unit] == 1
        by_name = dict(zip(self.name[alone].tolist(), self.unit[alone].tolist(), strict=True))
        single = np.full(other.units, -1)
        theirs = other.size[other.unit] == 1
        single[other.unit[theirs]] = other.name[theirs]
        place = np.array([by_name.get(int(name), -1) for name in single], dtype=np.int64)
        fresh: Mask = place < 0
        place[fresh] = self.units + np.arange(int(fresh.sum()))
        return place, fresh

    def reduced(self) -> Choices:
        """The same choices without modes that another mode of the unit can always stand in for: one with a wider
        interval, no dearer, that no limit holds against it. Columns that no unit uses are left out."""
        keep = self.exists.copy()
        counted = [(limit, np.isin(np.arange(keep.shape[1]), limit.modes)) for limit in self.limits]
        for p in range(keep.shape[1]):
            for q in range(keep.shape[1]):
                if p == q or not (keep[:, p] & keep[:, q]).any():
                    continue
                better = keep[:, p] & keep[:, q] & (self.lower[:, q] <= self.lower[:, p])
                better &= (self.upper[:, q] >= self.upper[:, p]) & (self.cost[:, q] <= self.cost[:, p])
                for limit, inside in counted:
                    worse = (inside[q] and not inside[p]) or (inside[p] and not inside[q] and limit.least > 0)
                    if worse:
                        better[limit.units] = False
                keep[better, p] = False
        columns = np.flatnonzero(keep.any(axis=0))
        at = {int(old): new for new, old in enumerate(columns)}
        limits = tuple(replace(one, modes=tuple(at[m] for m in one.modes if m in at)) for one in self.limits)
        keep = keep[:, columns]
        return replace(
            self, lower=np.where(keep, self.lower[:, columns], np.inf), cost=self.cost[:, columns],
            upper=np.where(keep, self.upper[:, columns], -np.inf), limits=limits,
        )  # fmt: skip
