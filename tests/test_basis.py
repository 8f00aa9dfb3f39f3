"""A basis mended pivot by pivot is the basis computed anew; sums of hinges have the minimum of a linear program."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from portfolio_ebm.construction.exact.basis import Basis
from portfolio_ebm.construction.exact.vertices import Hinges, descend, dual

Array = NDArray[np.float64]


def basis(rng: np.random.Generator, size: int = 3) -> Basis:
    elements = rng.normal(size=(40, 30))
    found = Basis(elements, np.ascontiguousarray(elements.T), np.arange(size) * 3, np.arange(size) * 2)
    assert found.refresh()
    return found


def true_to(b: Basis, elements: Array) -> bool:
    block = elements[np.ix_(b.active, b.free)]
    return (
        np.allclose(b.inverse @ block, np.eye(len(block)), atol=1e-7)
        and np.array_equal(b.rows, elements[b.active])
        and np.array_equal(b.entries, elements[:, b.free].T)
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_pivot_leaves_the_inverse_of_its_block(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b = basis(rng)
    elements, done = b._elements, set()
    for _ in range(120):
        element = int(rng.choice(np.setdiff1d(np.arange(40), b.active)))
        entry = int(rng.choice(np.setdiff1d(np.arange(30), b.free)))
        slot, place = (int(rng.integers(len(b.active))) for _ in range(2))
        kind = int(rng.integers(4))
        if kind == 3 and len(b.active) == 1:
            continue
        done.add(kind)
        if kind == 0:
            assert b.exchange_elements(place, element) and b.active[place] == element
        elif kind == 1:
            assert b.exchange_entries(slot, entry) and b.free[slot] == entry
        elif kind == 2:
            assert b.add(entry, element) and entry in b.free and element in b.active
        else:
            gone = b.free[slot], b.active[place]
            assert b.remove(slot, place) and gone[0] not in b.free and gone[1] not in b.active
        assert true_to(b, elements)
    assert done == {0, 1, 2, 3}


def test_a_block_without_an_inverse_is_told() -> None:
    elements = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 1.0]])
    b = Basis(elements, np.ascontiguousarray(elements.T), np.array([0, 2]), np.array([0, 1]))
    assert b.refresh() and not b.exchange_elements(1, 1)


def hinges(rng: np.random.Generator, ties: bool) -> Hinges:
    """A few rules, many hinges, a box; with ties, whole numbers, so that many elements meet in one place."""
    e, d, rules = 60, 8, 2
    elements = rng.normal(size=(e, d))
    offsets, slope = 0.3 * rng.normal(size=e), rng.normal(size=d)
    if ties:
        elements, offsets, slope = elements.round(), np.zeros(e), slope.round()
        elements[e // 2 :] = elements[: e // 2]
    low, high = -rng.uniform(size=e), rng.uniform(size=e)
    low[::3] = 0.0
    elements[0], offsets[0] = 1.0, 0.4
    elements[1], offsets[1] = rng.uniform(size=d), 0.5
    low[0], high[0], low[1], high[1] = -1e4, 1e4, 0.0, 1e4
    return Hinges(
        slope, np.full(d, -1.0), np.full(d, 1.0), elements, np.ascontiguousarray(elements.T), offsets, low, high,
        np.arange(e) < rules, 1e4,
    )  # fmt: skip


def by_program(p: Hinges) -> float:
    """The same by HiGHS: v = up - down, the sum of hi up - lo down."""
    e, rule = len(p.elements), p.rules
    tall = np.hstack([p.elements, -np.eye(e), np.eye(e)])
    ends = [(a, b) for a, b in zip(p.lower, p.upper, strict=True)]
    ends += [(0.0, 0.0 if rule[k] and p.high[k] > 0.0 else None) for k in range(e)]
    ends += [(0.0, 0.0 if rule[k] and p.low[k] < 0.0 else None) for k in range(e)]
    cost = np.r_[p.slope, np.where(rule, 0.0, p.high), np.where(rule, 0.0, -p.low)]
    found = linprog(cost, A_eq=tall, b_eq=p.offsets, bounds=ends, method="highs")
    assert found.status == 0
    return float(found.fun)


def value(p: Hinges, z: Array) -> float:
    v = p.elements @ z - p.offsets
    charge = np.where(v > 0.0, p.high, p.low) * v
    return float(p.slope @ z + charge[~p.rules].sum())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_a_sum_of_hinges_and_its_dual_have_the_minimum_of_a_linear_program(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(100 + seed)
    p = hinges(rng, ties)
    truth = by_program(p)
    found = descend(p, rng.uniform(-1.0, 1.0, 8), 500)
    assert found is not None and found.least
    assert value(p, found.z) == pytest.approx(truth, abs=1e-8)
    assert (found.z >= p.lower).all() and (found.z <= p.upper).all()
    over = p.elements @ found.z - p.offsets
    assert abs(over[0]) <= 1e-9 and over[1] <= 1e-9
    assert (found.multipliers >= p.low - 1e-8).all() and (found.multipliers <= p.high + 1e-8).all()
    below = descend(dual(p), found.multipliers, 500)
    assert below is not None
    assert value(p, -below.multipliers) == pytest.approx(truth, abs=1e-8)


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_ends_as_soon_as_its_sum_is_enough(seed: int) -> None:
    rng = np.random.default_rng(200 + seed)
    p = hinges(rng, ties=False)
    truth = by_program(p)
    found = descend(p, rng.uniform(-1.0, 1.0, 8), 500, enough=truth + 0.5)
    assert found is not None and value(p, found.z) <= truth + 0.5 + 1e-9
    short = descend(p, rng.uniform(-1.0, 1.0, 8), 500, enough=truth - 1e-6)
    assert short is not None and short.least
