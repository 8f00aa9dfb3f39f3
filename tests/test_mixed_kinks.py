"""A cap on masses solved on the sides of its kinks: by hand, and against the cuts that reach the same minimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from portfolio_ebm.constraints.mixed import node
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.kinks import Kinks, on_sides
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Slice


def test_two_above_and_one_at_the_kink_by_hand() -> None:
    """min 1/2 |w - y|^2 with y = 9 %, 9 %, 5.05 % under 2 sum max(w - 5 %, 0) <= 6 %: the first two share what may
    be above, 1.5 % each, at a price of 2 * 1.25 %, which is more than the last one's 0.05 %."""
    y = np.array([0.09, 0.09, 0.0505])
    program = Program(np.eye(3), -y, np.zeros(3), np.full(3, 0.1), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    slice_ = Slice(program, program.lower, program.upper, program.rows, program.row_lower, program.row_upper)
    every = np.ones(3, dtype=bool)
    kinks = Kinks(np.arange(3), every, ~every, np.full(3, 0.05), np.full(3, 2.0), 0.06)
    for near in (y, np.zeros(3), np.array([0.0, 0.1, 0.1])):
        found = on_sides(slice_, kinks, near)
        assert found is not None
        np.testing.assert_allclose(found.weights, [0.065, 0.065, 0.05], atol=1e-12)
        np.testing.assert_allclose(found.bound, 0.5 * (2 * 0.065**2 + 0.05**2) - found.weights @ y, atol=1e-12)


def test_what_a_limit_counts_by_hand() -> None:
    """Up to 5 % small and 10 % big, big ones at most 12 % together: open, x counts 2 (x - 5 %) above 5 %; big, all of
    x; small, nothing. The last unit reaches 4 % only, and counts where it is big alone."""
    choices = Choices.of_names(np.arange(4), [(0.0, 0.05), (0.0, 0.1)], [(1, 0.0, 0.12, True)], "5/10/12")
    clipped = choices.clipped(np.zeros(4), np.array([1.0, 1.0, 1.0, 0.04]))
    whole = Kinks.of(clipped, clipped.limits[0])
    assert whole.open.tolist() == [True, True, True, False] and not whole.decided.any()
    np.testing.assert_allclose(whole.slope, [2.0, 2.0, 2.0, 0.0])
    # 2 * 5 % + 2 * 1 % is 12 %.
    assert whole.hold(np.array([0.10, 0.06, 0.05, 0.04])) and not whole.hold(np.array([0.10, 0.0601, 0.05, 0.04]))
    # The first is big, the second open, the third small, the last big: 6 % + 2 * 1 % + 4 %.
    part = whole.among(np.array([True, True, False, True]), np.array([False, True, True, False]))
    assert part.open.tolist() == [False, True, False, False] and part.decided.tolist() == [True, False, False, True]
    assert part.hold(np.array([0.06, 0.06, 0.1, 0.04])) and not part.hold(np.array([0.0601, 0.06, 0.0, 0.04]))


def test_a_limit_that_is_left_with_nothing_to_count_is_no_cap() -> None:
    """Held at 1 % to 4 %, no name can be beyond 5 %: of the four pairs of modes out and small stay, and none of them is
    counted. Nearest to y = 2 %, -1 % and 5 % are 2 %, 0 and 4 %."""
    every, y = np.arange(3), np.array([0.02, -0.01, 0.05])
    held = Choices.of_names(every, [(0.0, 0.0), (0.01, 0.04)], [], "held")
    fund = Choices.of_names(every, [(0.0, 0.05), (0.0, 0.1)], [(1, 0.0, 0.4, True)], "5/10/40")
    program = Program(np.eye(3), -y, np.zeros(3), np.ones(3), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    mixed = Mixed(program, fund.joined(held))
    assert mixed.choices.lower.shape == (3, 2) and mixed.kinks is None
    found = relax(mixed, mixed.root())
    assert found is not None
    np.testing.assert_allclose(found.weights, [0.02, 0.0, 0.04], atol=1e-12)


def _fund(n: int, seed: int) -> Mixed:
    draw = np.random.default_rng(seed)
    loadings = draw.normal(size=(n, 3)) * 0.1 + np.array([0.2, 0.0, 0.0])
    matrix = loadings @ loadings.T + np.diag(draw.uniform(0.001, 0.02, n))
    program = Program(
        matrix, -0.02 * draw.normal(size=n), np.zeros(n), np.full(n, 0.1), np.ones((1, n)), np.ones(1), np.ones(1)
    )
    choices = Choices.of_names(np.arange(n), [(0.0, 0.05), (0.0, 0.1)], [(1, 0.0, 0.4, True)], "5/10/40")
    return Mixed(program, choices)


@pytest.mark.parametrize("n", [16, 70])
def test_cuts_reach_the_same_minimum(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the root and where units are decided at random, some of them so that nothing is left."""
    asked = []

    def counted(*given):
        found = on_sides(*given)
        asked.append(found is not None)
        return found

    for seed in range(12):
        mixed, draw = _fund(n, seed), np.random.default_rng(100 + seed)
        allowed = mixed.root()
        assert allowed is not None
        for unit in draw.permutation(n)[: seed % 6]:
            allowed[unit, int(draw.random() < 0.5)] = False
        monkeypatch.setattr(node, "on_sides", counted)
        sides = relax(mixed, allowed)
        monkeypatch.setattr(node, "on_sides", lambda *given: None)
        cuts = relax(mixed, allowed)
        assert (sides is None) == (cuts is None)
        if sides is not None and cuts is not None:
            size = abs(float(mixed.program.linear @ cuts.weights)) + abs(cuts.value)
            assert abs(sides.value - cuts.value) <= 1e-8 * size
            np.testing.assert_allclose(sides.weights, cuts.weights, atol=1e-6)
    assert sum(asked) >= 6 and all(asked)


@pytest.mark.parametrize("seed", [1, 3, 5, 6])
def test_with_a_ticket_beside_it_no_slice_is_below_the_bound(seed: int) -> None:
    """Four names, those above 30 % at most half together; each may stay as it is held, or pays a ticket."""
    draw, n = np.random.default_rng(seed), 4
    held = draw.dirichlet(np.full(n, 3.0)).clip(0.0, 0.6)
    loadings = draw.normal(size=(n, 1)) * 0.1
    program = Program(
        loadings @ loadings.T + np.diag(draw.uniform(0.01, 0.05, n)), -0.02 * draw.normal(size=n), np.zeros(n),
        np.full(n, 0.6), np.ones((1, n)), np.ones(1), np.ones(1), held,
    )  # fmt: skip
    choices = Choices.of_names(np.arange(n), [(0.0, 0.3), (0.0, 0.6)], [(1, 0.0, 0.5, True)], "small or big")
    still = Choices.of_names(np.arange(n), [(0.0, 0.0), (0.0, 0.6)], [], "FixedCost")
    still.lower[:, 0], still.upper[:, 0], still.cost[:, 1] = held, held, 5e-4 if seed == 1 else 2e-3
    mixed = Mixed(program, choices.joined(still))
    c, root = mixed.choices, mixed.root()
    modes = (np.array(one) for one in itertools.product(range(c.lower.shape[1]), repeat=n))
    points = (on_slice(mixed, one) for one in modes if c.exists[np.arange(n), one].all())
    truth = min(point.value for point in points if point is not None)
    assert root is not None
    found = relax(mixed, root)
    assert found is not None and found.bound <= truth + 1e-12
