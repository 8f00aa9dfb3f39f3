"""The smallest set of things that cannot be had together, by hitting sets of what has to be given up.

A correction set is what a largest set that can be had leaves out: every conflict has a member of each. The smallest set
that meets all correction sets known so far is no larger than the smallest conflict; so if it cannot be had, it is one.
Else it is grown to a largest set that can be had, and what that leaves out is a new correction set, which it did not
meet. The question is asked of no set whose answer follows from an answer before: what lies in a set that can be had can
be had, what holds a conflict cannot.

A question may stay open. What is open is no conflict, and nothing is learned of it: a set is not grown by it.

Source: Ignatiev, A., Previti, A., Liffiton, M. and Marques-Silva, J. (2015), Smallest MUS extraction with minimal
hitting set dualization, Principles and Practice of Constraint Programming (CP 2015).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from portfolio_ebm.errors import SolverError

Some = frozenset[int]


class Conflict(NamedTuple):
    """Members, in order, that cannot be had together, and whether it is settled that no conflict has fewer."""

    members: tuple[int, ...]
    smallest: bool


def smallest_conflict(
    count: int, together: Callable[[Some], bool | None], asked: int, known: Sequence[Some] = ()
) -> Conflict:
    """The smallest set of the members 0..count-1 that cannot be had together, where all of them cannot.

    After `asked` questions, or where more than `count` open answers leave the smallest unsettled, members are left out
    of the smallest conflict known instead, by one more question each at most: where all answers are settled none of
    those that stay can be left out, but another conflict may be smaller.

    Args:
        count: how many members there are.
        together: whether some of them can be had together; nothing at all can. None, or a SolverError, where that is
            open.
        asked: the most questions asked before the search gives up on the smallest.
        known: sets that are known to be impossible, beside all members.

    Example:
        >>> smallest_conflict(4, lambda some: not {1, 3} <= some, asked=100)
        Conflict(members=(1, 3), smallest=True)
    """
    everything = frozenset(range(count))
    answers = _Answers(together, asked, possible=[frozenset()], impossible=[*known, everything])
    given_up: list[Some] = []
    # Candidates never shrink, and a conflict inside an open one is no smaller than the first open one.
    unsettled, open_ = count, 0
    while True:
        candidate = _hitting(given_up)
        # Nothing at all can be had, so no conflict has fewer members than one.
        least = answers.least
        if len(least) <= max(min(len(candidate), unsettled), 1):
            return Conflict(tuple(sorted(least)), True)
        if len(least) <= len(candidate) or answers.spent or open_ > count:
            return Conflict(_irreducible(least, answers), False)
        answer = answers.of(candidate)
        if answer is None:
            unsettled, open_ = min(unsettled, len(candidate)), open_ + 1
        elif not answer:
            continue
        rest = [member for member in range(count) if member not in candidate]
        given_up.append(everything - (_grown(candidate, rest, answers) if answer else candidate))


@dataclass
class _Answers:
    """The answers so far, and what follows from them."""

    ask: Callable[[Some], bool | None]
    most: int
    possible: list[Some]
    impossible: list[Some]
    open: list[Some] = field(default_factory=list)
    asked: int = field(default=0)

    @property
    def least(self) -> Some:
        """The smallest conflict so far."""
        return min(self.impossible, key=len)

    @property
    def spent(self) -> bool:
        """Whether there are no questions left."""
        return self.asked >= self.most

    def of(self, some: Some) -> bool | None:
        """Whether some can be had together, asked where no answer before tells; None where it is open."""
        if any(conflict <= some for conflict in self.impossible):
            return False
        if any(some <= whole for whole in self.possible):
            return True
        if some in self.open:
            return None
        self.asked += 1
        try:
            answer = self.ask(some)
        except SolverError:
            answer = None
        (self.open if answer is None else self.possible if answer else self.impossible).append(some)
        return answer

    def worth_asking(self, some: Some) -> bool:
        """Whether there is a question left, and nothing in `some` was open already: more of it is not easier."""
        return not self.spent and not any(part <= some for part in self.open)


def _grown(some: Some, rest: Sequence[int], answers: _Answers) -> Some:
    """`some` with as many of the `rest` as can be had with it: all at once, or else one half after the other; less
    where answers are open, no questions are left, or a member that cannot be had alone ends the search."""
    if not rest or len(answers.least) == 1:
        return some
    larger = some.union(rest)
    if answers.worth_asking(larger) and answers.of(larger):
        return larger
    if len(rest) == 1:
        return some
    half = len(rest) // 2
    return _grown(_grown(some, rest[:half], answers), rest[half:], answers)


def _irreducible(conflict: Some, answers: _Answers) -> tuple[int, ...]:
    """What stays of a conflict when every member without which it is still one is left out."""
    for member in sorted(conflict, reverse=True):
        if answers.of(conflict - {member}) is False:
            conflict -= {member}
    return tuple(sorted(conflict))


def _hitting(sets: Sequence[Some]) -> Some:
    """The smallest set that meets each of the `sets`: of ever more members, until there is one. Few are asked about, so
    that it has about ten."""
    return next(found for most in itertools.count() if (found := _meeting(sets, most)) is not None)


def _meeting(sets: Sequence[Some], most: int) -> Some | None:
    """A set of at most so many members that meets each of the `sets`, None where there is none: with one member of a
    smallest of them after the other, and without those that were tried before."""
    if not sets or most == 0:
        return None if sets else frozenset()
    fewest = min(sets, key=len)
    for member in sorted(fewest):
        rest = _meeting([one for one in sets if member not in one], most - 1)
        if rest is not None:
            return rest | {member}
        sets = [one - {member} for one in sets]
    return None
