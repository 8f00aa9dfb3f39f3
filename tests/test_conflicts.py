"""The smallest conflict among many, against the enumeration of all sets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from portfolio_ebm.construction.feasibility.conflicts import _hitting, smallest_conflict
from portfolio_ebm.errors import SolverError


class Planted:
    """Sets can be had together where they hold none of the conflicts; counts how often it is asked."""

    def __init__(self, count: int, conflicts: list[frozenset[int]]) -> None:
        self.count, self.conflicts, self.seen = count, conflicts, []

    def __call__(self, some: frozenset[int]) -> bool:
        self.seen.append(some)
        return not any(conflict <= some for conflict in self.conflicts)

    def least(self) -> int:
        """How many members the smallest conflict has, by trying out all sets."""
        for size in range(1, self.count + 1):
            for some in combinations(range(self.count), size):
                if any(conflict <= frozenset(some) for conflict in self.conflicts):
                    return size
        raise AssertionError("nothing was planted")


def dealt(seed: int) -> Planted:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 12))
    conflicts = [
        frozenset(rng.choice(count, size=int(rng.integers(1, min(count, 6) + 1)), replace=False).tolist())
        for _ in range(int(rng.integers(1, 9)))
    ]
    return Planted(count, conflicts)


@pytest.mark.parametrize("seed", range(200))
def test_no_conflict_has_fewer_members(seed: int) -> None:
    planted = dealt(seed)
    found = smallest_conflict(planted.count, planted, asked=10_000)
    assert found.smallest and frozenset(found.members) in planted.conflicts
    assert len(found.members) == planted.least()
    assert len(set(planted.seen)) == len(planted.seen), "nothing is asked twice"
    assert frozenset() not in planted.seen and frozenset(range(planted.count)) not in planted.seen


@pytest.mark.parametrize("seed", range(60))
def test_the_smallest_set_that_meets_all_is_that_of_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = int(rng.integers(1, 9))
    sets = [
        frozenset(rng.choice(members, size=int(rng.integers(1, min(members, 4) + 1)), replace=False).tolist())
        for _ in range(int(rng.integers(0, 12)))
    ]
    tried = (frozenset(some) for size in range(members + 1) for some in combinations(range(members), size))
    least = next(some for some in tried if all(some & one for one in sets))
    found = _hitting(sets)
    assert len(found) == len(least) and all(found & one for one in sets)


@pytest.mark.parametrize("seed", range(200))
def test_open_answers_are_neither_raised_nor_taken_for_proof(seed: int) -> None:
    """A third of all sets is open, said by None or raised as it comes: what is named is impossible, and called the
    smallest only where it is."""
    planted, rng = dealt(seed), np.random.default_rng(seed)
    open_: dict[frozenset[int], bool] = {}

    def at_times(some: frozenset[int]) -> bool | None:
        answer = planted(some)
        if not open_.setdefault(some, bool(rng.random() < 1 / 3)):
            return answer
        if rng.random() < 0.5:
            raise SolverError("not settled")
        return None

    found = smallest_conflict(planted.count, at_times, asked=10_000)
    named = frozenset(found.members)
    assert any(conflict <= named for conflict in planted.conflicts)
    assert len(set(planted.seen)) == len(planted.seen), "nothing is asked twice"
    if found.smallest:
        assert len(named) == planted.least()
    else:
        assert any(open_.values())


@pytest.mark.parametrize("raises", [False, True])
def test_where_every_answer_is_open_all_members_are_named(raises: bool) -> None:
    def never(some: frozenset[int]) -> bool | None:
        if raises:
            raise SolverError("not settled")
        return None

    assert smallest_conflict(5, never, asked=10_000) == ((0, 1, 2, 3, 4), False)


def test_an_open_set_larger_than_the_conflict_does_not_unsettle_it() -> None:
    def at_times(some: frozenset[int]) -> bool | None:
        return None if len(some) > 3 else not {1, 3} <= some

    assert smallest_conflict(9, at_times, asked=10_000) == ((1, 3), True)


@pytest.mark.parametrize("seed", range(50))
def test_a_known_conflict_is_bettered_or_kept(seed: int) -> None:
    planted = dealt(seed)
    for known in planted.conflicts:
        found = smallest_conflict(planted.count, planted, asked=10_000, known=[known])
        assert found.smallest and len(found.members) == planted.least()


def test_a_pair_among_forty_takes_few_questions() -> None:
    # Trying out pairs would take 780, leaving out one by one 40; each half that is asked about halves what is left.
    for pair in ({0, 39}, {17, 18}, {3, 30}):
        planted = Planted(40, [frozenset(pair)])
        assert set(smallest_conflict(40, planted, asked=10_000).members) == pair
        assert len(planted.seen) <= 20


def test_the_smallest_is_found_behind_larger_ones_that_share_its_members() -> None:
    larger = [frozenset({0, *some}) for some in combinations(range(1, 9), 4)]
    planted = Planted(30, [*larger, frozenset({20, 21, 22})])
    assert smallest_conflict(30, planted, asked=10_000) == ((20, 21, 22), True)


@pytest.mark.parametrize("asked", [0, 1, 5])
def test_past_the_last_question_a_conflict_is_irreducible_and_not_said_to_be_the_smallest(asked: int) -> None:
    planted = Planted(12, [frozenset({0, 1}), frozenset({5, 6, 7}), frozenset({8, 9, 10, 11})])
    found = smallest_conflict(12, planted, asked=asked)
    assert not found.smallest and frozenset(found.members) in planted.conflicts
    assert len(planted.seen) <= asked + 12, "one question more a member"


@pytest.mark.parametrize("count", range(2, 8))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_rules_take_no_more_questions_than_trying_out_all_sets_from_the_smallest(count: int, size: int) -> None:
    # Over all places that one conflict can have; trying out stops at the conflict and never asks about all of them.
    ours = theirs = 0
    for place in combinations(range(count), size):
        planted = Planted(count, [frozenset(place)])
        smallest_conflict(count, planted, asked=10_000)
        ours += len(planted.seen)
        tried = [some for k in range(1, count) for some in combinations(range(count), k)]
        theirs += tried.index(place) + 1 if size < count else len(tried)
    # One by one is the best way to a rule that is impossible alone, and halves of few are near it.
    assert ours <= theirs + (count if size == 1 else 0), (ours, theirs)
