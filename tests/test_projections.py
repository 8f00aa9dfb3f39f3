"""The pure projections: against cvxpy, by hand, and where Newton's method is known to fail."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from portfolio_ebm.constraints import projections
from portfolio_ebm.constraints.dual import Problem, first_guess, solve
from portfolio_ebm.constraints.projections import TOLERANCE, capped_simplex, project_polyhedron
from portfolio_ebm.constraints.simplex import shift_root, sorted_root
from portfolio_ebm.errors import DataError, InfeasibleError, ShapeError

TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13}


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draw(n: int, rows: int, turnover: bool, batch: int, seed: int) -> tuple[Tensor, dict[str, object]]:
    """Points y and a set that is not empty: rows through the neighbourhood of a known portfolio."""
    r = np.random.default_rng(seed)
    inside = r.dirichlet(np.ones(n))
    more = r.normal(size=(rows, n)) if seed % 2 else (r.random((rows, n)) < 0.4).astype(float)
    a = np.vstack([np.ones((1, n)), more])
    low, high = a @ inside - 0.05 * r.random(rows + 1), a @ inside + 0.05 * r.random(rows + 1)
    low[0] = high[0] = 1.0
    if seed % 3 == 0:
        low[1:] = -np.inf
    held = inside + 0.05 * r.normal(size=n)
    region = {
        "lower": torch.zeros(n, dtype=torch.float64), "upper": torch.tensor(np.maximum(0.35, inside)),
        "rows": torch.tensor(a), "row_lower": torch.tensor(low), "row_upper": torch.tensor(high),
        "anchor": torch.tensor(held) if turnover else None,
        "turnover": float(np.abs(inside - held).sum() + 0.05) if turnover else None,
    }  # fmt: skip
    return torch.tensor(r.normal(size=(batch, n)) * 0.4), region


def oracle(y: Tensor, set_: dict[str, object]) -> Tensor:
    """cvxpy's nearest point, the objective scaled so that its tolerance is far below 1e-8."""
    n = y.shape[-1]
    w = cp.Variable(n)
    a, low, high = (set_[k].numpy() for k in ("rows", "row_lower", "row_upper"))
    rules = [w >= set_["lower"].numpy(), w <= set_["upper"].numpy()]
    for i in range(len(a)):
        rules += [a[i] @ w == high[i]] if low[i] == high[i] else []
        rules += [a[i] @ w <= high[i]] if low[i] < high[i] < np.inf else []
        rules += [a[i] @ w >= low[i]] if -np.inf < low[i] < high[i] else []
    if set_["anchor"] is not None:
        rules.append(cp.norm(w - set_["anchor"].numpy(), 1) <= set_["turnover"])
    problem = cp.Problem(cp.Minimize(100 * cp.sum_squares(w - y.numpy())), rules)
    problem.solve(**TIGHT)
    assert w.value is not None
    return torch.tensor(w.value)


def test_capped_simplex_by_hand() -> None:
    assert capped_simplex(t(3.0, 1.0, 0.0), 0.0, 0.6, 1.0).tolist() == pytest.approx([0.6, 0.4, 0.0], abs=1e-15)
    assert capped_simplex(t(0.2, 0.2), 0.0, 1.0, 1.0).tolist() == [0.5, 0.5]
    assert capped_simplex(t(0.2, 0.2), -torch.inf, torch.inf, 0.0).tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
    # As an interval: inside it the point is its own projection; outside, the nearer end binds.
    assert capped_simplex(t(0.3, 0.3), 0.0, 1.0, (0.5, 1.0)).tolist() == [0.3, 0.3]
    assert capped_simplex(t(0.1, 0.1), 0.0, 1.0, (0.5, 1.0)).tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("n", [3, 20, 64, 65, 150])
def test_capped_simplex_satisfies_its_optimality_conditions(n: int) -> None:
    """w = clip(y - nu): on names between their bounds y - w is one number, below it at the cap, above at the floor."""
    rng = torch.Generator().manual_seed(n)
    y = 0.4 * torch.randn(200, n, generator=rng, dtype=torch.float64)
    upper = 2.5 / n * torch.rand(n, generator=rng, dtype=torch.float64) + 1.0 / n
    w = capped_simplex(y, 0.0, upper, 1.0)
    assert float((w.sum(-1) - 1.0).abs().max()) < 1e-12
    assert bool((w >= 0).all()) and bool((w <= upper).all())
    gap, free = y - w, (w > 0) & (w < upper)
    nu = torch.where(free, gap, -torch.inf).amax(-1, keepdim=True)
    some = free.any(-1)
    assert int(some.sum()) > 150
    spread = nu - torch.where(free, gap, torch.inf).amin(-1, keepdim=True)
    assert float(spread[some].max()) < 1e-12
    assert bool((torch.where(w == 0, gap, -torch.inf) <= nu + 1e-12)[some].all())
    assert bool((torch.where(w == upper, gap, torch.inf) >= nu - 1e-12)[some].all())


def adversarial(rows: int, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs on which Newton inside a fixed bracket can walk between two points: steep and flat stretches of
    sum clip(y - nu) by turns, from clusters of names with narrow and wide ranges, ties and far outliers."""
    rng = torch.Generator().manual_seed(seed)
    centre = torch.randn(rows, 4, generator=rng, dtype=torch.float64) * 10 ** (
        3 * torch.rand(rows, 1, generator=rng, dtype=torch.float64) - 2
    )
    which = torch.randint(0, 4, (rows, n), generator=rng)
    y = centre.gather(-1, which) + 1e-3 * torch.randn(rows, n, generator=rng, dtype=torch.float64)
    y = torch.where(torch.rand(rows, n, generator=rng) < 0.2, y.round(decimals=1), y)
    width = 10 ** (4 * torch.rand(rows, n, generator=rng, dtype=torch.float64) - 4)
    lower = -0.1 * torch.rand(rows, n, generator=rng, dtype=torch.float64) * (torch.rand(rows, 1, generator=rng) < 0.5)
    upper = lower + width
    share = torch.rand(rows, generator=rng, dtype=torch.float64)
    total = lower.sum(-1) + share * (upper - lower).sum(-1)
    return y, lower, upper, total


def test_newton_never_walks_in_circles() -> None:
    """60,000 points made to catch a two-cycle; everything that leaves is feasible and optimal."""
    for seed, n in enumerate((2, 3, 5, 12, 30)):
        y, lower, upper, total = adversarial(12_000, n, seed)
        nu = shift_root(y, lower, upper, total)
        w = (y - nu.unsqueeze(-1)).clamp(lower, upper)
        scale = 1.0 + y.abs().amax(-1)
        assert float(((w.sum(-1) - total).abs() / scale).max()) < 1e-13
        by_sorting = (y - sorted_root(y, lower, upper, total).unsqueeze(-1)).clamp(lower, upper)
        assert float(((w - by_sorting).abs().amax(-1) / scale).max()) < 1e-11


def test_newton_on_the_smallest_two_cycle() -> None:
    """f falls steeply at both ends and flatly between: plain Newton from the middle jumps end to end for ever."""
    y, lower, upper = t(10.0, 9.9, -10.0, -9.9, 0.0), t(0.0, 0.0, 0.0, 0.0, 0.0), t(1.0, 1.0, 1.0, 1.0, 0.01)
    for total in (0.5, 1.99, 2.0, 2.005, 2.01, 3.5):
        nu = shift_root(y.unsqueeze(0), lower, upper, t(total))
        assert float((y - nu).clamp(lower, upper).sum()) == pytest.approx(total, abs=1e-13)


@pytest.mark.parametrize("seed", range(24))
def test_the_polyhedron_equals_cvxpy(seed: int) -> None:
    y, set_ = draw(n=(4, 9, 25)[seed % 3], rows=seed % 4, turnover=seed % 5 < 3, batch=2, seed=seed)
    w, left = project_polyhedron(y, **set_)
    assert float(left.max()) < 1e-12
    for row, found in zip(y, w, strict=True):
        assert float((oracle(row, set_) - found).abs().max()) < 1e-8


@pytest.mark.parametrize("turnover", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_batched_dual_equals_the_active_set(seed: int, turnover: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few names go through the active set, many through the dual: both give the same point."""
    y, set_ = draw(n=20, rows=4, turnover=turnover, batch=24, seed=seed)
    one, _ = project_polyhedron(y, **set_)
    monkeypatch.setattr(projections, "_ONE_BY_ONE_UP_TO", 0)
    two, left = project_polyhedron(y, **set_)
    assert float(left.max()) < 1e-12
    assert float((one - two).abs().max()) < 1e-12


def test_a_converged_row_is_not_moved_by_the_others() -> None:
    y, set_ = draw(n=20, rows=3, turnover=True, batch=16, seed=2)
    a, low, high = set_["rows"], set_["row_lower"], set_["row_upper"]
    inf = t(torch.inf)
    m = Problem(
        y,
        set_["lower"],
        set_["upper"],
        a,
        torch.cat([low, -inf]),
        torch.cat([high, t(set_["turnover"])]),
        set_["anchor"],
    )
    start = first_guess(m, y.clamp(0.0, 0.3))
    tolerance = torch.full((16,), 1e-13, dtype=torch.float64)
    w, _, done = solve(m, start, tolerance)
    assert int(done.sum()) >= 12
    for i in done.nonzero().flatten().tolist():
        alone, _, settled = solve(m.at(torch.tensor([i])), start[i : i + 1], tolerance[:1])
        assert bool(settled)
        assert float((alone[0] - w[i]).abs().max()) < 1e-12


def test_the_dual_says_when_it_stopped_early() -> None:
    y, set_ = draw(n=20, rows=4, turnover=False, batch=8, seed=1)
    m = Problem(y, set_["lower"], set_["upper"], set_["rows"], set_["row_lower"], set_["row_upper"], None)
    _, _, done = solve(
        m, torch.zeros(8, 5, dtype=torch.float64), torch.full((8,), 1e-13, dtype=torch.float64), max_steps=1
    )
    assert not bool(done.any())


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("turnover", [False, True])
def test_batched_equals_looped(rows: int, turnover: bool) -> None:
    y, set_ = draw(n=12, rows=rows, turnover=turnover, batch=12, seed=4)
    w, left = project_polyhedron(y.reshape(3, 4, 12), **set_)
    assert w.shape == (3, 4, 12) and left.shape == (3, 4)
    looped = torch.stack([project_polyhedron(row, **set_)[0] for row in y])
    assert float((w.reshape(12, 12) - looped).abs().max()) < 1e-12


@pytest.mark.parametrize("n", [6, 100])
def test_a_row_of_a_batch_is_what_it_is_alone_to_the_bit(n: int) -> None:
    """Chains that walk beside others end where they would alone: on some energies the last digit decides where."""
    y = torch.randn(200, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 0.3
    whole = capped_simplex(y, 0.0, 1.0, 1.0)
    assert torch.equal(whole, torch.cat([capped_simplex(row, 0.0, 1.0, 1.0) for row in y.split(5)]))


def test_every_row_may_have_its_own_bounds() -> None:
    y, set_ = draw(n=8, rows=0, turnover=True, batch=6, seed=6)
    upper = set_["upper"].expand(6, 8).clone()
    upper[torch.arange(6), torch.arange(6)] = 0.0
    w, left = project_polyhedron(y, **(set_ | {"upper": upper, "turnover": 1.2}))
    assert float(left.max()) < 1e-12
    assert bool((w[torch.arange(6), torch.arange(6)] == 0.0).all())
    for i in range(6):
        alone, _ = project_polyhedron(y[i], **(set_ | {"upper": upper[i], "turnover": 1.2}))
        assert float((alone - w[i]).abs().max()) < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans(), st.booleans())
def test_idempotent_and_non_expansive(seed: int, n: int, rows: bool, turnover: bool) -> None:
    y, set_ = draw(n=n, rows=2 * rows, turnover=turnover, batch=4, seed=seed)
    w, left = project_polyhedron(y, **set_)
    assert float(left.max()) < 1e-10
    again, _ = project_polyhedron(w, **set_)
    assert float((again - w).abs().max()) < 1e-9
    before = (y.unsqueeze(0) - y.unsqueeze(1)).norm(dim=-1)
    after = (w.unsqueeze(0) - w.unsqueeze(1)).norm(dim=-1)
    assert bool((after <= before + 1e-9).all())


def test_turnover_where_the_holdings_break_the_box() -> None:
    """Held 0.7 and 0.3, caps of 0.5: the forced sale of 0.2 is the whole turnover of 0.4."""
    y = t(0.0, 0.2, 0.9)
    w, left = project_polyhedron(
        y, torch.zeros(3), t(0.5, 0.5, 0.5), torch.ones(1, 3), t(1.0), t(1.0), t(0.7, 0.3, 0.0), 0.4
    )
    assert float(left) < 1e-15
    assert w.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=1e-14)


@pytest.mark.parametrize("rows", [0, 3])
def test_an_empty_set_leaves_a_violation_and_ends(rows: int) -> None:
    y, set_ = draw(n=10, rows=rows, turnover=True, batch=5, seed=8)
    _, left = project_polyhedron(y, **(set_ | {"upper": torch.full((10,), 0.05)}))
    assert bool((left > TOLERANCE).all())
    _, left = project_polyhedron(y, **(set_ | {"anchor": torch.zeros(10), "turnover": 0.5}))
    assert bool((left > TOLERANCE).all())


def test_caps_that_add_up_to_the_budget_within_rounding_are_met() -> None:
    y = torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = capped_simplex(y, 0.0, 0.1, 1.0)
    assert float((w - 0.1).abs().max()) < 1e-15


def test_an_empty_capped_simplex_is_an_error_in_words() -> None:
    with pytest.raises(InfeasibleError, match=r"caps add up to 0\.8"):
        capped_simplex(torch.zeros(4, dtype=torch.float64), 0.0, 0.2, 1.0)
    with pytest.raises(InfeasibleError, match=r"floors add up to 1\.2"):
        capped_simplex(torch.zeros(4, dtype=torch.float64), 0.3, 0.4, 1.0)


def test_float32_in_float32_out() -> None:
    y, set_ = draw(n=12, rows=2, turnover=True, batch=4, seed=4)
    w, left = project_polyhedron(y.float(), **set_)
    exact, _ = project_polyhedron(y, **set_)
    assert w.dtype == torch.float32 and left.dtype == torch.float64
    assert float((w.double() - exact).abs().max()) < 1e-5


def test_far_points_stay_feasible() -> None:
    """Hot chains throw points far out; the budget is met to rounding all the same."""
    y = 1e6 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = capped_simplex(y, 0.0, 0.15, 1.0)
    assert float((w.sum(-1) - 1.0).abs().max()) < 1e-12


def test_wrong_inputs_are_typed_errors() -> None:
    y, set_ = draw(n=6, rows=1, turnover=False, batch=2, seed=0)
    with pytest.raises(ShapeError, match=r"got shape \(2, 6\), expected \(m, 5\)"):
        project_polyhedron(y[:, :5], **(set_ | {"lower": 0.0, "upper": 1.0}))
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., 6\)"):
        project_polyhedron(y, **(set_ | {"lower": torch.zeros(5)}))
    y[1, 3] = torch.nan
    with pytest.raises(DataError, match=r"entry \(1, 3\) is nan"):
        project_polyhedron(y, **set_)
    with pytest.raises(DataError, match="int64"):
        capped_simplex(torch.arange(3), 0.0, 1.0, 1.0)
