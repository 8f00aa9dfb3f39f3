"""Bad input is refused by name, before any solver sees it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.base import Constructor
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.optimization import optimize


class Unasked(Constructor):
    """A constructor that must not be reached."""

    def build(self, energy, constraint, ctx, rng):
        raise AssertionError("a solver was asked")


BAD = [
    ({"mean": [0.01, np.nan]}, DataError, r"mean.*A1"),
    ({"covariance": [[1.0, np.inf], [np.inf, 1.0]]}, DataError, "covariance.*not finite"),
    ({"covariance": [[1.0, 1.1], [1.1, 1.0]]}, DataError, "covariance is not positive semi-definite"),
    ({"covariance": [[1.0, 0.2], [0.1, 1.0]]}, DataError, "covariance is not symmetric"),
    ({"scenarios": [[0.01, 0.02, 0.03]] * 5}, ShapeError, "scenarios"),
    ({"scenarios": [[0.01, np.nan]] * 5}, DataError, r"scenarios.*A1"),
    ({"paths": [[[0.01, 0.02, 0.03]] * 4]}, ShapeError, "paths"),
    ({"held": [0.5, np.nan]}, DataError, "held"),
    ({"held": [0.5, 0.3, 0.2]}, DataError, "3 weights and there are 2 assets"),
    ({"benchmarks": {"index": [0.5, 0.3, 0.2]}}, ShapeError, "index"),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD, ids=[f"{i} {next(iter(b[0]))}" for i, b in enumerate(BAD)])
def test_bad_input_is_refused_by_name_before_any_solver_sees_it(given, error, words):
    fine = {"mean": np.array([0.01, 0.02]), "covariance": np.array([[1.0, 0.1], [0.1, 1.0]]), "assets": ["A0", "A1"]}
    with pytest.raises(AssertionError, match="was asked"):
        optimize(Return() + Variance(), Budget() & LongOnly(), constructor=Unasked(), **fine)
    bad = {name: value if name == "benchmarks" else np.array(value) for name, value in given.items()}
    with pytest.raises(error, match=words):
        optimize(Return() + Variance(), Budget() & LongOnly(), constructor=Unasked(), **{**fine, **bad})


def test_bounds_that_cross_are_refused_as_they_are_written():
    for wrong in (
        lambda: Box(lower=0.5, upper=0.2),
        lambda: Box(upper=0.1, floors={"A0": 0.2}),
        lambda: Group("sector", "x", upper=0.1, lower=0.2),
        lambda: Budget(total=0.5, at_least=0.8),
    ):
        with pytest.raises(SpecError):
            wrong()


LONG = Budget() & LongOnly()
DRAWS = pd.DataFrame(np.random.default_rng(0).normal(0.005, 0.04, (60, 8)), columns=list("ABCDEFGH"))
MIXED = Return() + 5 * Variance()


@pytest.mark.parametrize("swap", [False, True])
def test_inputs_that_cover_other_assets_are_refused_whichever_comes_first(swap):
    inputs = {"mean": DRAWS.mean().iloc[:5], "scenarios": DRAWS}
    if swap:
        inputs = {"mean": DRAWS.mean(), "scenarios": DRAWS.iloc[:, :5]}
    with pytest.raises(DataError, match="has no entry for F, G, H"):
        optimize(MIXED, LONG, constructor=Unasked(), **inputs)
    with pytest.raises(DataError, match="the list of assets has no entry for D, E, F, G, H, which scenarios has"):
        optimize(Variance(), LONG, constructor=Unasked(), scenarios=DRAWS, assets=list("ABC"))
    with pytest.raises(AssertionError, match="was asked"):  # another order is no other cover
        optimize(MIXED, LONG, constructor=Unasked(), mean=DRAWS.mean().iloc[::-1], scenarios=DRAWS)
    with pytest.raises(AssertionError, match="was asked"):
        optimize(Return(), LONG, constructor=Unasked(), mean=DRAWS.mean().to_numpy()[::-1])


def test_an_asset_named_twice_is_refused():
    twice = DRAWS.iloc[:, :4].set_axis(list("AABC"), axis=1)
    rules = LONG & Box(caps={"A": 0.1})
    for given in (
        {"scenarios": twice},
        {"mean": twice.mean()},
        {"scenarios": twice.to_numpy(), "assets": list("AABC")},
        {"mean": DRAWS.mean().iloc[:4], "scenarios": twice},
        {"scenarios": DRAWS, "held": twice.mean()},
        {"scenarios": DRAWS, "volume": twice.mean().abs()},
    ):
        with pytest.raises(DataError, match="names A more than once"):
            optimize(Variance(), rules, constructor=Unasked(), **given)


def test_inputs_that_are_empty_or_no_numbers_are_refused_by_name():
    for energy, given, error, words in (
        (CVaR(), {"scenarios": DRAWS.iloc[:0]}, ShapeError, r"scenarios: got shape \(0, 8\)"),
        (Variance(), {"scenarios": DRAWS.iloc[:, :0]}, ShapeError, r"scenarios: got shape \(60, 0\)"),
        (Return(), {"mean": []}, ShapeError, r"mean: got shape \(0,\)"),
        (Return(), {"mean": ["a", "b"]}, DataError, "mean is not made of numbers"),
        (Return(), {"mean": {"A": 0.1}}, DataError, "mean is not made of numbers"),
        (Return(), {"mean": [0.1, 0.2], "held": ["a", "b"]}, DataError, "held is not made of numbers"),
        (Return(), {"mean": DRAWS.mean(), "held": {"A": "all"}}, DataError, "held is not made of numbers"),
        (Return(), {"mean": [0.1, 0.2], "volume": ["a", "b"]}, DataError, "volume is not made of numbers"),
    ):
        with pytest.raises(error, match=words):
            optimize(energy, LONG, constructor=Unasked(), **given)


def test_a_word_for_a_measure_and_a_benchmark_that_is_not_there_say_what_to_give():
    with pytest.raises(SpecError, match=r"'measure': give a measure, not 'l1'.*MeanAbsoluteDeviation\(\) for l1"):
        TrackingError("index", "l1")
    assert TrackingError.from_json(TrackingError("index", CVaR()).model_dump_json()) == TrackingError("index", CVaR())
    with pytest.raises(SpecError, match=r"benchmarks= to optimize, or with benchmark_weights= to a Panel"):
        optimize(TrackingError("index"), LONG, constructor=Unasked(), scenarios=DRAWS)
