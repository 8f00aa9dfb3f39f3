"""Sets with a corner that far too many rules meet at: never called empty, and the nearest point is the known one.

Around a chosen point every rule is drawn so that it is tight there, or nearly all are; then y = point + N z, with N
the outward normals of the tight rules and z >= 0, is nearest to that point by the conditions of the optimum.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_convex import market
from numpy.typing import NDArray

from portfolio_ebm.constraints import active_set, capped, projections, roots
from portfolio_ebm.constraints.capped import cut_of
from portfolio_ebm.constraints.caps import Ball, Ellipsoid
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.exact import Cut
from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.interior import least_excess_of, nearest_inside
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.risk import VolatilityCap
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.linear import Structured

Array = NDArray[np.float64]
F64 = torch.float64


def cornered(seed: int, rows: int = 12) -> tuple[Region, Array, Array]:
    """(region, its corner (n,), points (rows, n) that are nearest to the corner)."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 30))
    corner = rng.dirichlet(np.full(n, rng.choice([0.2, 1.0, 5.0])))
    if rng.random() < 0.5:
        corner += rng.normal(size=n) * 0.1 / np.sqrt(n)
        corner += (1.0 - corner.sum()) / n
    normals: list[Array] = []
    lower, upper = corner - rng.uniform(0.0, 0.3, n), corner + rng.uniform(0.0, 0.3, n)
    low, high = rng.random(n) < 0.4, rng.random(n) < 0.3
    lower[low], upper[high] = corner[low], corner[high]
    normals += [-e for e in np.eye(n)[low]] + list(np.eye(n)[high])
    region = Region.free(n).with_box(torch.tensor(lower), torch.tensor(upper))
    region = region.with_row(torch.ones(n, dtype=F64), corner.sum(), corner.sum(), "budget")
    normals += [np.ones(n), -np.ones(n)]
    labels, others = rng.integers(0, max(1, n // 3), n), rng.integers(0, 3, n)
    groups = [labels == k for k in np.unique(labels)] + [others == k for k in np.unique(others)]
    exposures = [rng.normal(size=n) for _ in range(int(rng.integers(0, 4)))]
    for row in [g.astype(float) for g in groups] + exposures:
        value, up, both = float(row @ corner), rng.random() < 0.7, rng.random() < 0.3
        region = region.with_row(
            torch.tensor(row), value if both or not up else -np.inf, value if both or up else np.inf, "row"
        )
        normals += [row] * (both or up) + [-row] * (both or not up)
    held = corner + np.where(rng.random(n) < 0.5, rng.normal(size=n) * 0.1 / np.sqrt(n), 0.0)
    region = replace(region, anchor=torch.tensor(held), turnover=float(np.abs(corner - held).sum()))
    # At a kink any slope from -1 to 1 belongs to the ball's normals.
    normals += [np.where(corner == held, rng.uniform(-1, 1, n), np.sign(corner - held)) for _ in range(4)]
    if rng.random() < 0.5:
        zero, one = torch.zeros(n, dtype=F64), torch.ones(n, dtype=F64)
        region = region.with_cap(Ball("leverage", float(np.abs(corner).sum()), zero, one, one))
        normals.append(np.sign(corner))
    weights = rng.exponential(size=(rows, len(normals))) * (rng.random((rows, len(normals))) < 0.5)
    return region, corner, corner + rng.choice([0.01, 0.3, 3.0]) * weights @ np.stack(normals)


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(k, marks=pytest.mark.slow) for k in range(8, 24)), 1104])
def test_the_nearest_point_is_the_corner(seed: int) -> None:
    region, corner, points = cornered(seed)
    found = project_region(torch.tensor(points), region)
    assert float((found.weights - torch.tensor(corner)).abs().max()) <= 1e-10
    assert float(found.residual.max()) <= 1e-10


@pytest.mark.parametrize("seed", range(24, 36))
def test_the_multipliers_prove_it(seed: int) -> None:
    """The conditions of the optimum: y - w is a normal, with no multiplier off its side."""
    region, corner, points = cornered(seed, rows=2)
    cut = cut_of(region.folded())
    for y in points:
        w, nu, lam = nearest_inside(y, cut)
        assert np.abs(w - corner).max() <= 1e-10 and (lam >= 0.0).all()
        assert (nu[~np.isfinite(cut.high)] <= 0.0).all() and (nu[~np.isfinite(cut.low)] >= 0.0).all()
        # What is left of the pull is for the bounds, and for the kinks, which take any slope between their two.
        pull = y - w - nu @ cut.rows
        slack = 1e-9
        reach = slack * (1.0 + np.abs(y).max())
        most, least = np.full_like(w, reach), np.full_like(w, -reach)
        for weight, centre, up, down in zip(lam, cut.centres, cut.ups, cut.downs, strict=True):
            most += weight * np.where(w >= centre - slack, up, -down)
            least += weight * np.where(w <= centre + slack, -down, up)
        assert (pull[w < cut.upper - slack] <= most[w < cut.upper - slack]).all()
        assert (pull[w > cut.lower + slack] >= least[w > cut.lower + slack]).all()


def thin(by: float) -> Region:
    """Four names capped at 1/4, whose budget is out of reach by `by`, and a group that says so again."""
    region = Region.free(4).with_box(torch.zeros(4, dtype=F64), torch.full((4,), 0.25, dtype=F64))
    region = region.with_row(torch.ones(4, dtype=F64), 1.0 + by, 1.0 + by, "budget")
    pair = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=F64)
    return region.with_row(pair, 0.5, 0.5, "pair").with_row(1.0 - pair, 0.5, np.inf, "others")


@pytest.mark.parametrize("by", [0.0, 1e-12, 2e-11])
def test_a_set_emptied_by_rounding_alone_is_a_point(by: float) -> None:
    found = project_region(torch.randn(5, 4, dtype=F64), thin(by)).weights
    assert float((found - 0.25).abs().max()) <= 1e-10


@pytest.mark.parametrize("by", [1e-9, 1e-6, 0.1])
def test_an_empty_set_is_called_empty(by: float) -> None:
    assert least_excess_of(cut_of(thin(by))) == pytest.approx(by, rel=1e-5)
    with pytest.raises(InfeasibleError):
        nearest_inside(np.zeros(4), cut_of(thin(by)))
    with pytest.raises(InfeasibleError):
        project_region(torch.randn(5, 4, dtype=F64), thin(by))


def test_what_the_active_set_calls_empty_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise InfeasibleError("none")

    region, corner, points = cornered(3)
    monkeypatch.setattr(projections, "nearest", lost)
    assert float((project_region(torch.tensor(points), region).weights - torch.tensor(corner)).abs().max()) <= 1e-10


def test_a_row_without_an_answer_leaves_the_others_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    region, corner, points = cornered(5)
    whole = projections.nearest_inside

    def sometimes(y: Array, cut: Cut) -> tuple[Array, Array, Array]:
        if (y == points[4]).all():
            raise SolverError("lost")
        return whole(y, cut)

    monkeypatch.setattr(projections, "nearest", lambda *_: None)
    monkeypatch.setattr(projections, "nearest_inside", sometimes)
    w, left = projections.nearest_in(torch.tensor(points), region)
    assert (left > projections.TOLERANCE).nonzero().flatten().tolist() == [4]
    others = np.arange(len(points)) != 4
    assert float((w[others] - torch.tensor(corner)).abs().max()) <= 1e-10


def test_rows_with_bounds_of_their_own_are_empty_alone() -> None:
    region, corner, points = cornered(7)
    upper = region.upper.expand(points.shape).clone()
    upper[2] = region.lower - 1e-3
    w, left = projections.nearest_in(torch.tensor(points), region, region.lower.expand(points.shape), upper)
    assert (left > projections.TOLERANCE).nonzero().flatten().tolist() == [2]
    others = np.arange(len(points)) != 2
    assert float((w[others] - torch.tensor(corner)).abs().max()) <= 1e-10


def test_what_was_not_solved_is_not_called_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both engines are made to give up: the rules have portfolios, so the error is the solver's and not the rules'.
    def gives_up(*_: object) -> None:
        raise SolverError("gave up")

    monkeypatch.setattr(projections, "nearest", lambda *_: None)
    monkeypatch.setattr(projections, "nearest_inside", gives_up)
    ctx = market(6)
    tight = Budget() & LongOnly() & Group("sector", "odd", upper=0.2)
    w = torch.eye(6, dtype=torch.float64)
    with pytest.raises(SolverError, match=r"was not reached for 3 of 6 rows, although there is one") as told:
        tight.project(w, ctx)
    assert "Group(grouping='sector'" in str(told.value)
    with pytest.raises(InfeasibleError, match="No portfolio obeys"):
        (tight & Group("sector", "even", upper=0.7)).project(w, ctx)
    # Of two cases one is solved in closed form: its point is given, and the status is not ok.
    either = Either(one=tight, other=Budget(total=0.5) & LongOnly()).project(w, ctx)
    assert not either.status.ok and "not solved" in either.status.message
    torch.testing.assert_close(either.weights, 0.5 * w)


def test_what_the_box_rules_out_is_not_asked_of_a_cone_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a volatility cap: six names of at most .1 sum to no 1, and at .1 each they are .6 from holdings of .2; a
    box up to 1 has the point of equal weights. Rows with one and the same box are empty together."""
    ctx = market(6)
    w = torch.zeros(3, 6, dtype=torch.float64)
    upper = torch.tensor([[0.1], [1.0], [0.1]], dtype=torch.float64).expand(3, 6)
    region = region_of(Budget() & LongOnly() & VolatilityCap(9.0), ctx)
    monkeypatch.setattr(capped, "least_excess", lambda _: pytest.fail("a cone program was asked"))
    found, left = projections.nearest_in(w, region, region.lower.expand(3, 6), upper)
    assert (left > projections.TOLERANCE).tolist() == [True, False, True]
    torch.testing.assert_close(found[1], torch.full((6,), 1.0 / 6.0, dtype=torch.float64))
    far = region_of(LongOnly() & Turnover(0.5) & VolatilityCap(9.0), replace(ctx, held=torch.full((6,), 0.2).double()))
    assert float(projections.nearest_in(w, far, far.lower.expand(3, 6), upper)[1][0]) > projections.TOLERANCE


def test_where_the_active_set_cycles_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """(3, 4) under |w|_2 <= 1, |w|_1 <= 2 is nearest to (.6, .8), also if an attempt fails; if all do, an error."""
    one = torch.ones(2, dtype=F64)
    circle = Ellipsoid("a circle", 1.0, 0.0 * one, Structured.from_dense(torch.eye(2, dtype=F64)))
    region = Region.free(2).with_cap(circle).with_cap(Ball("sizes", 2.0, torch.zeros(2, dtype=F64), one, one))
    solve, asked = active_set.minimum, []

    def cycles(curvature: Array, *rest: Array) -> active_set.Minimum | active_set.Failure:
        asked.append(float(curvature[-1, -1]))
        return solve(curvature, *rest) if asked[-1] > lowest else active_set.Failure.UNENDED

    monkeypatch.setattr(active_set, "minimum", cycles)
    lowest = min(roots._LIFTS)
    found = project_region(torch.tensor([[3.0, 4.0]], dtype=F64), region).weights
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]], dtype=F64), atol=1e-10, rtol=0.0)
    assert len(set(asked)) == 2
    lowest = 1.0
    with pytest.raises(SolverError, match="leaves almost no room"):
        project_region(torch.tensor([[3.0, 4.0]], dtype=F64), region)
