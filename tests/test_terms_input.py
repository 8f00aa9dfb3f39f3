"""Bad input is refused by name, before any solver sees it."""

from __future__ import annotations

import numpy as np
import pytest

from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.base import Constructor
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
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
