"""The smallest set of things that cannot be had together, by hitting sets of what has to be given up.

A correction set is what a largest set that can be had leaves out: every conflict has a member of each. The smallest set
that meets all correction sets known so far is no larger than the smallest conflict; so if it cannot be had, it is one.
Else it is grown to a largest set that can be had, and what that leaves out is a new correction set, which it did not
meet. The question is asked of no set whose answer follows from an answer before: what lies in a set that can be had can
be had, what holds a conflict cannot.

Source: Ignatiev, A., Previti, A., Liffiton, M. and Marques-Silva, J. (2015), Smallest MUS extraction with minimal
hitting set dualization, Principles and Practice of Constraint Programming (CP 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from portfolio_ebm.errors import SolverError

Some = frozenset[int]


class Conflict(NamedTuple):
    """Members, in order, that cannot be had together, and whether no conflict has fewer."""

    members: tuple[int, ...]
    smallest: bool


def smallest_conflict(count: int, together: Callable[[Some], bool], asked: int) -> Conflict:
    """The smallest set of the members 0..count-1 that cannot be had together, where all of them cannot.

    After `asked` questions the smallest conflict known is made irreducible instead: none of its members can be left
    out, but another conflict may be smaller.

    Args:
        count: how many members there are.
        together: whether some of them can be had together; nothing at all can.
        asked: the most questions asked before the search gives up on the smallest.

    Raises:
        SolverError: HiGHS could not tell the smallest hitting set.

    Example:
        >>> smallest_conflict(4, lambda some: not {1, 3} <= some, asked=100)
        Conflict(members=(1, 3), smallest=True)
    """
    known = _Known(together, possible=[frozenset()], impossible=[frozenset(range(count))])
    given_up: list[Some] = []
    while known.asked < asked:
        candidate = _hitting(given_up, count)
        # Nothing at all can be had, so no conflict has fewer members than one.
        if len(known.least) <= max(len(candidate), 1):
            return Conflict(tuple(sorted(known.least)), True)
        if not known.together(candidate):
            return Conflict(tuple(sorted(candidate)), True)
        rest = [member for member in range(count) if member not in candidate]
        given_up.append(frozenset(range(count)) - _grown(candidate, rest, known))
    return Conflict(_irreducible(known.least, known), False)


@dataclass
class _Known:
    """The answers so far, and what follows from them."""

    ask: Callable[[Some], bool]
    possible: list[Some]
    impossible: list[Some]
    asked: int = field(default=0)

    @property
    def least(self) -> Some:
        """The smallest conflict so far."""
        return min(self.impossible, key=len)

    def together(self, some: Some) -> bool:
        if any(conflict <= some for conflict in self.impossible):
            return False
        if any(some <= whole for whole in self.possible):
            return True
        self.asked += 1
        answer = self.ask(some)
        (self.possible if answer else self.impossible).append(some)
        return answer


def _grown(some: Some, rest: Sequence[int], known: _Known) -> Some:
    """`some` with as many of the `rest` as can be had with it: all at once, or else one half after the other; less
    where a member that cannot be had alone ends the search."""
    if not rest or len(known.least) == 1:
        return some
    larger = some.union(rest)
    if known.together(larger):
        return larger
    if len(rest) == 1:
        return some
    half = len(rest) // 2
    return _grown(_grown(some, rest[:half], known), rest[half:], known)


def _irreducible(conflict: Some, known: _Known) -> tuple[int, ...]:
    """What stays of a conflict when every member without which it is still one is left out."""
    for member in sorted(conflict):
        if not known.together(conflict - {member}):
            conflict -= {member}
    return tuple(sorted(conflict))


def _hitting(sets: Sequence[Some], count: int) -> Some:
    """The smallest set that meets each of the `sets`."""
    if not sets:
        return frozenset()
    meets = np.array([[float(member in one) for member in range(count)] for one in sets])
    found = milp(
        np.ones(count), constraints=[LinearConstraint(meets, 1.0, np.inf)], bounds=Bounds(0.0, 1.0),
        integrality=np.ones(count),
    )  # fmt: skip
    if found.status != 0:
        raise SolverError(f"HiGHS could not tell the smallest set of rules that meets others: {found.message}")
    return frozenset(np.flatnonzero(found.x > 0.5).tolist())
