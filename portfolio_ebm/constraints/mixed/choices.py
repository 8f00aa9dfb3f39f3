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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from portfolio_ebm.constraints.mixed.program import Array, Ints, Mask

TOLERANCE = 1e-9

Modes = Sequence[tuple[float, float]]
"""The interval of each mode."""
Limits = Sequence[tuple[int, float, float, bool]]
"""(mode, least, most, whether it is the weight that is limited)."""


@dataclass(frozen=True)
class Limit:
    """A limit on the units in one mode: on their number, or on their weight together.

    Attributes:
        units: the units it speaks of.
        mode: the mode it counts.
        least, most: of the number (or, where `mass`, `most` of the weight).
        mass: whether it is the weight that is limited.
        name: the rule, for messages.
    """

    units: Ints
    mode: int
    least: float
    most: float
    mass: bool
    name: str


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

    @cached_property
    def size(self) -> Ints:
        """How many names each unit has, (U,)."""
        return np.asarray(np.bincount(self.unit, minlength=self.units), dtype=np.int64)

    def weights(self, w: Array) -> Array:
        """x (U,) of weights (n,)."""
        return np.asarray(np.bincount(self.unit, w[self.name], self.units), dtype=np.float64)

    def spread(self, coefficients: Array, n: int) -> Array:
        """Coefficients of the units (U,) as coefficients of the names (n,)."""
        return np.asarray(np.bincount(self.name, coefficients[self.unit], n), dtype=np.float64)

    @classmethod
    def none(cls) -> Choices:
        """No unit at all."""
        whole, real = np.zeros(0, dtype=np.int64), np.zeros((0, 1))
        return cls(whole, whole, real, real, real, ())

    @classmethod
    def of_names(
        cls,
        names: Ints,
        modes: Modes,
        limits: Limits,
        rule: str,
    ) -> Choices:
        """One unit a name, all with the same modes; limits as (mode, least, most, mass).

        Example:
            >>> Choices.of_names(np.arange(n), [(0.0, 0.0), (0.01, 1.0)], [(1, 0, 10, False)], "Cardinality(...)")
        """
        count = len(names)
        low, high = (np.tile([mode[end] for mode in modes], (count, 1)) for end in (0, 1))
        every = np.arange(count, dtype=np.int64)
        found = tuple(Limit(every, mode, least, most, mass, rule) for mode, least, most, mass in limits)
        return cls(every, np.asarray(names, dtype=np.int64), low, high, np.zeros_like(low), found)

    @classmethod
    def of_groups(
        cls,
        labels: Ints,
        modes: Modes,
        limits: Limits,
        rule: str,
    ) -> Choices:
        """One unit a label of `labels` (n,), -1 for names in none; else as `of_names`."""
        name = np.flatnonzero(labels >= 0)
        unit = labels[name].astype(np.int64)
        count = int(unit.max(initial=-1)) + 1
        alone = cls.of_names(np.arange(count, dtype=np.int64), modes, limits, rule)
        return replace(alone, unit=unit, name=name)

    def joined(self, other: Choices) -> Choices:
        """Both sets of units, each with its own modes."""
        modes = max(self.lower.shape[1], other.lower.shape[1])

        def both(a: Array, b: Array, fill: float) -> Array:
            wide = [np.pad(x, ((0, 0), (0, modes - x.shape[1])), constant_values=fill) for x in (a, b)]
            return np.concatenate(wide)

        shift = self.units
        return Choices(
            unit=np.concatenate([self.unit, other.unit + shift]),
            name=np.concatenate([self.name, other.name]),
            lower=both(self.lower, other.lower, np.inf),
            upper=both(self.upper, other.upper, -np.inf),
            cost=both(self.cost, other.cost, 0.0),
            limits=(*self.limits, *(replace(limit, units=limit.units + shift) for limit in other.limits)),
        )
