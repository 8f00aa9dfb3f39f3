"""Nearest points of many slices at once, and the modes that many points round to: against programs, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from test_mixed import choices

from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.on_slices import Flat, nearest_one
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.rounding import rounded, rounded_all

N = 7
FLAT = ["at most", "exactly", "at least", "short", "5/10/40", "fixed cost"]


def mixed(case: str, least: float = 1.0, most: float = 1.0, n: int = N) -> Mixed:
    lower = -0.3 if case == "short" else 0.0
    box = np.full(n, lower), np.full(n, 0.6)
    ends = np.array([least]), np.array([most])
    return Mixed(Program(np.eye(n), np.zeros(n), *box, np.ones((1, n)), *ends), choices(case, n))


@pytest.mark.parametrize("case", FLAT)
@pytest.mark.parametrize(("least", "most"), [(1.0, 1.0), (0.7, 0.9), (-np.inf, 1.0)])
def test_nearest_points_of_slices_are_those_of_the_program(case: str, least: float, most: float) -> None:
    m, draws = mixed(case, least, most), np.random.default_rng(0)
    flat = Flat.of(m)
    assert flat is not None
    y = draws.normal(0.15, 0.3, size=(60, N))
    modes = np.array([[draws.choice(np.flatnonzero(row)) for row in m.choices.exists] for _ in y])
    found, there = flat.nearest(y, modes)
    for row, (point, one) in enumerate(zip(y, modes, strict=True)):
        exact = nearest_one(m, point, one)
        assert bool(there[row]) == (exact is not None)
        if exact is not None:
            assert found[row] == pytest.approx(exact, abs=1e-9)


def test_a_cap_that_binds_by_hand() -> None:
    """Two big ones of 0.4 together; of 0.5 and 0.4 each gives up 0.25, and what is left goes to the small ones."""
    box = np.zeros(5), np.ones(5)
    program = Program(np.eye(5), np.zeros(5), *box, np.ones((1, 5)), np.ones(1), np.ones(1))
    rule = Choices.of_names(np.arange(5), [(0.0, 0.3), (0.0, 1.0)], [(1, 0, 0.4, True)], "fund")
    flat = Flat.of(Mixed(program, rule))
    assert flat is not None
    found, there = flat.nearest(np.array([[0.5, 0.4, 0.1, 0.1, 0.1]]), np.array([[1, 1, 0, 0, 0]]))
    assert there.all()
    assert found[0] == pytest.approx([0.25, 0.15, 0.2, 0.2, 0.2], abs=1e-12)


@pytest.mark.parametrize("case", ["issuers", "both"])
def test_units_of_several_names_are_left_to_programs(case: str) -> None:
    assert Flat.of(mixed(case)) is None


@pytest.mark.parametrize("case", [*FLAT, "issuers", "both"])
@pytest.mark.parametrize("step", [None, 0.1])
def test_many_points_round_as_each_alone_and_within_the_limits(case: str, step: float | None) -> None:
    c, draws = mixed(case).choices, np.random.default_rng(1)
    x = c.weights_of(draws.dirichlet(np.ones(N), size=40))
    allowed = c.exists & (draws.uniform(size=(40, *c.exists.shape)) < 0.8)
    allowed = np.where(allowed.any(axis=2, keepdims=True), allowed, c.exists)
    many = rounded_all(c, allowed, x, step)
    for row in range(40):
        assert many[row].tolist() == rounded(c, allowed[row], x[row], step).tolist()
    for one in rounded_all(c, c.exists, x, step):
        for limit in c.limits:
            held = limit.holds(one).sum()
            assert limit.mass or limit.least <= held <= limit.most


def test_the_nearest_modes_by_hand() -> None:
    """Three names in: the largest stay. Weights just above 15 % are big; the limit of 0.5 lets the dearest stay so."""
    few = choices("at most", 5)
    assert rounded(few, few.exists, np.array([0.3, 0.05, 0.25, 0.2, 0.2])).tolist() == [1, 0, 1, 1, 0]
    fund = choices("5/10/40", 4)
    assert rounded(fund, fund.exists, np.array([0.4, 0.3, 0.16, 0.14])).tolist() == [1, 0, 0, 0]
