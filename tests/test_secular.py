"""The multiplier at which the minimum on a face meets an ellipsoid: against the equations of the minimum, solved."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from portfolio_ebm.constraints.exact import Cut
from portfolio_ebm.constraints.roots import Bracket, Inner
from portfolio_ebm.constraints.secular import secular_root

Array = NDArray[np.float64]
K = 6


def drawn(seed: int, rows: int) -> tuple[Array, Array, Array, Array, Array, Array]:
    """H, c, S, m, rows and a point; the minimum on its face is well inside of the ellipsoid for a large multiplier."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(2, K, K))
    bend, curve = (r @ r.T + 0.1 * np.eye(K) for r in root)
    a, w = rng.normal(size=(rows, K)), rng.normal(size=K)
    return bend, rng.normal(size=K), curve, w + 0.1 * rng.normal(size=K), a, w


def minimum(bend: Array, linear: Array, curve: Array, centre: Array, rows: Array, w: Array, mu: float) -> Array:
    """argmin 1/2 x'Hx + c'x + mu/2 (x - m)'S(x - m) where rows x = rows w, by its equations."""
    r = len(rows)
    system = np.block([[bend + mu * curve, rows.T], [rows, np.zeros((r, r))]])
    return np.linalg.solve(system, np.r_[mu * curve @ centre - linear, rows @ w])[:K]


def size(curve: Array, centre: Array, w: Array) -> float:
    return float((w - centre) @ curve @ (w - centre))


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_minimum_with_the_multiplier_has_the_size_that_was_asked_for(seed: int, rows: int) -> None:
    bend, linear, curve, centre, a, w = drawn(seed, rows)
    ends = [size(curve, centre, minimum(bend, linear, curve, centre, a, w, mu)) for mu in (0.0, 1e8)]
    goal = 0.7 * ends[0] + 0.3 * ends[1]
    mu = secular_root(bend, bend @ w + linear, curve, curve @ (w - centre), size(curve, centre, w), a, goal)
    assert mu > 0.0
    assert size(curve, centre, minimum(bend, linear, curve, centre, a, w, mu)) == pytest.approx(goal, rel=1e-10)


def test_a_size_below_the_least_of_the_face_and_a_face_of_one_point_have_no_root() -> None:
    bend, linear, curve, centre, a, w = drawn(0, 3)
    least = size(curve, centre, minimum(bend, linear, curve, centre, a, w, 1e12))
    here = bend @ w + linear, curve, curve @ (w - centre), size(curve, centre, w)
    assert np.isnan(secular_root(bend, *here, a, 0.9 * least))
    assert np.isnan(secular_root(bend, *here, np.eye(K), least))
    none, point = np.zeros((0, 0)), np.zeros(0)
    assert np.isnan(secular_root(none, point, none, point, 2.0, np.zeros((1, 0)), 1.0))


def test_rows_that_depend_on_each_other_are_one() -> None:
    bend, linear, curve, centre, a, w = drawn(1, 1)
    here = bend, bend @ w + linear, curve, curve @ (w - centre), size(curve, centre, w)
    goal = 0.5 * size(curve, centre, minimum(bend, linear, curve, centre, a, w, 0.0))
    twice = np.concatenate([a, -2.0 * a])
    assert secular_root(*here, twice, goal) == pytest.approx(secular_root(*here, a, goal), rel=1e-9)


def test_an_ellipsoid_is_met_after_a_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the face is known the root is, so that three or four programs do, where false position takes ten."""
    rng, n, asked = np.random.default_rng(0), 20, []
    loadings = rng.normal(1.0, 0.5, size=(n, 2))
    curve = loadings @ loadings.T + np.diag(rng.uniform(0.5, 2.0, n))
    even, none = np.full(n, 1.0 / n), np.zeros((0, n))
    one = np.ones(1)
    cut = Cut(np.zeros(n), np.ones(n), np.ones((1, n)), one, one, none, none, none, np.zeros(0))
    curve = curve / (0.9 * even @ curve @ even)
    solve = Inner.at
    monkeypatch.setattr(Inner, "at", lambda self, mu: asked.append(mu) or solve(self, mu))
    points = [np.eye(n)[k] for k in range(n)]
    for y in points:
        found = Inner(y, cut, (curve,), (np.zeros(n),), y).one_root(np.zeros(1))
        assert found is not None
        q = found[0] @ curve @ found[0]
        assert q == pytest.approx(1.0, abs=1e-12) if found[1][0] > 0.0 else q <= 1.0
    assert 2 * len(points) < len(asked) <= 5 * len(points)


def test_a_bracket_closes_on_a_root_without_an_upper_end() -> None:
    """The root of x^3 - 2, from 0 and a guess a thousand times too small."""
    found = Bracket(0.0, -2.0)
    x = 1e-3
    for _ in range(60):
        found.take(x, x**3 - 2.0, 0.0)
        if found.narrow or found.f_high == 0.0:
            break
        x = found.next()
    assert found.high == pytest.approx(2.0 ** (1.0 / 3.0), rel=1e-14)
