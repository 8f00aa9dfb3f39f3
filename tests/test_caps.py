"""Cuts of the convex caps: by hand, and as the tensor faces have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from portfolio_ebm.constraints.caps import Ball, Cap, Ellipsoid, Tail
from portfolio_ebm.linear import Structured

F64 = torch.float64
ONES = torch.ones(3, dtype=F64)
SPHERE = Ellipsoid("sphere", 1.0, 0.0 * ONES, Structured.from_dense(torch.eye(3, dtype=F64)))
SIZES = Ball("sizes", 2.0, 0.0 * ONES, ONES, ONES)
SHORTS = Ball("shorts", 0.5, 0.0 * ONES, 0.0 * ONES, ONES)
TAIL = Tail("tail", 1.0, torch.eye(3, dtype=F64), 1.5)

BY_HAND = [
    # (3, 4, 0) is 5 from the centre of the sphere, and its normal there is (.6, .8, 0).
    (SPHERE, [3.0, 4.0, 0.0], 5.0, [0.6, 0.8, 0.0]),
    (SPHERE, [0.0, 0.0, 0.0], 0.0, [0.0, 0.0, 0.0]),
    (SIZES, [3.0, -4.0, 0.0], 7.0, [1.0, -1.0, 0.0]),
    (SHORTS, [3.0, -4.0, 0.0], 4.0, [0.0, -1.0, 0.0]),
    # The worst one and a half of 1, 3 and 2: (3 + 2 / 2) / 1.5.
    (TAIL, [1.0, 3.0, 2.0], 8.0 / 3.0, [0.0, 2.0 / 3.0, 1.0 / 3.0]),
]


@pytest.mark.parametrize("cap, w, value, slope", BY_HAND)
def test_a_cut_by_hand(cap: Cap, w: list[float], value: float, slope: list[float]) -> None:
    """g is homogeneous in all of these, so that slope'w = g(w) and the cut is slope'x <= limit."""
    row, most = cap.cut(np.array(w))
    assert row.tolist() == pytest.approx(slope) and most == pytest.approx(cap.limit)
    assert cap.taken_at(np.array(w))[0] == pytest.approx(value)


@pytest.mark.parametrize("seed", range(5))
def test_one_point_is_as_the_tensors_have_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, centre = 7, torch.tensor(rng.normal(size=7))
    a = torch.tensor(rng.normal(size=(n, n)))
    caps = [
        Ellipsoid(
            "e", 0.7, centre, Structured.from_dense(a @ a.T).plus(Structured.from_dense(torch.eye(n, dtype=F64)))
        ),
        Ball("b", 0.4, centre, torch.tensor(rng.uniform(size=n)), torch.tensor(rng.uniform(size=n))),
        Tail("t", 0.1, torch.tensor(rng.normal(size=(40, n))), float(rng.uniform(0.5, 40.0))),
    ]
    for cap in caps:
        w = rng.normal(size=n)
        value, slope = cap.taken_at(w)
        assert value == pytest.approx(float(cap.value(torch.tensor(w))), rel=1e-12)
        np.testing.assert_allclose(slope, cap.slope(torch.tensor(w)).numpy(), rtol=1e-10, atol=1e-12)
