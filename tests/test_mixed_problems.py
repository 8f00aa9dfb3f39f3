"""Every rule and every kind of term at once; benchmarks/mixed_problems.py counts more of them."""

from __future__ import annotations

import warnings

import pytest
from cases_mixed import outcome, problem


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_some_problems(seed: int) -> None:
    found = outcome(problem(seed), ranges=True)
    assert not found.wrong, found


def test_a_rounding_of_zero_is_no_false_bound() -> None:
    # Cash alone under a budget of one: the energy of every portfolio is zero.
    assert outcome(problem(37859882)).kind == "proven"
    assert not outcome(problem(37859882)).wrong


def test_a_planted_nan_is_refused() -> None:
    broken = [case for case in map(problem, range(120)) if case.broken][:3]
    assert len(broken) == 3
    for case in broken:
        assert outcome(case).kind == "NaN refused"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [
    54093757, 801162754, 466308103, 930403825, 395537577, 657169914, 456811757, 541137747, 663676627, 963417526,
    841537289, 373888957, 683872344, 571290896,
])  # fmt: skip
def test_what_once_ended_without_a_portfolio(seed: int) -> None:
    """Caps that meet at a corner, cuts that come down slowly, proposals out of sight, a slope endless at a bound."""
    warnings.simplefilter("ignore")
    found = outcome(problem(seed))
    assert not found.wrong and found.kind in ("proven", "bounded", "found"), found


@pytest.mark.slow
@pytest.mark.parametrize("first", [1000, 1040])
def test_dozens_of_problems(first: int) -> None:
    warnings.simplefilter("ignore")
    found = [(seed, outcome(problem(seed), ranges=seed % 4 == 0)) for seed in range(first, first + 40)]
    assert not [(seed, one) for seed, one in found if one.wrong]
    answered = sum(one.kind in ("proven", "bounded", "found") for _, one in found)
    assert answered > 20
