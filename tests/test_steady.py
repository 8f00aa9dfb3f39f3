"""Nearest points that the host does not wait for: the exact ones where a point is near, and obeyed rules anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from other_device import other_device, reads

from portfolio_ebm.constraints import steady
from portfolio_ebm.constraints.caps import Ball, Ellipsoid
from portfolio_ebm.constraints.combine import region_residual
from portfolio_ebm.constraints.projections import nearest_in
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.constraints.simplex import box_budget_turnover
from portfolio_ebm.constraints.steady import Steady
from portfolio_ebm.linear import Structured

N = 12
ONES = torch.ones(N, dtype=torch.float64)
EVEN = ONES / N
TILT = torch.linspace(-1.0, 1.0, N, dtype=torch.float64)
HELD = torch.cat([2.0 * ONES[:6], 0.0 * ONES[6:]]) / N


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def budget(low: float = 1.0, high: float = 1.0) -> Region:
    return Region.free(N).with_row(ONES, low, high, "budget")


LONG = budget().with_box(0.0, 0.3)
TRADED = {"anchor": HELD, "turnover": 1.2}
REGIONS = {
    "box": Region.free(N).with_box(-0.1, 0.2),
    "budget": LONG,
    "no bounds": budget(),
    "a floor alone": budget().with_box(0.0, torch.inf),
    "open budget": budget(0.9, 1.0).with_box(0.0, 0.3),
    "turnover": replace(LONG, **TRADED),
    "turnover alone": replace(Region.free(N), **TRADED),
    "turnover, open budget": replace(budget(0.9, 1.0).with_box(0.0, 0.3), **TRADED),
    "neutral": budget().with_box(-0.2, 0.4).with_row(TILT, 0.0, 0.0, "beta"),
    "groups": LONG.with_row(ONES * (TILT < 0), 0.4, 0.55, "low").with_row(ONES * (TILT.abs() < 0.5), 0.3, 0.6, "mid"),
    "a row without a budget": Region.free(N).with_box(0.0, 0.3).with_row(TILT, -0.1, 0.1, "beta"),
    "groups and turnover": replace(LONG.with_row(ONES * (TILT < 0), 0.4, 0.55, "low"), **TRADED),
    "leverage": budget().with_box(-0.1, 0.4).with_cap(Ball("leverage", 1.3, 0.0 * ONES, ONES, ONES)),
    "leverage and turnover": replace(
        budget().with_box(-0.1, 0.4).with_cap(Ball("leverage", 1.3, 0.0 * ONES, ONES, ONES)), **TRADED
    ),
}
"""The even portfolio is inside each."""


def points(scale: float, count: int = 50) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return EVEN + scale * torch.randn(count, N, generator=g, dtype=torch.float64)


def projector(region: Region) -> Steady:
    found = Steady.of(region, EVEN)
    assert found is not None
    return found


@pytest.mark.parametrize("name", REGIONS)
def test_what_is_near_is_nearest_and_what_is_far_obeys(name: str) -> None:
    region = REGIONS[name]
    assert float(region_residual(EVEN, region)) < 1e-12
    near, far = points(0.08), points(5.0)
    exact, _ = nearest_in(near, region)
    torch.testing.assert_close(projector(region)(near), exact, atol=1e-9, rtol=0)
    # Of those between, all but a few are nearest.
    between = points(0.25)
    exact, _ = nearest_in(between, region)
    assert float(((projector(region)(between) - exact).norm(dim=-1) < 1e-9).double().mean()) >= 0.9
    drawn = projector(region)(far)
    assert float(region_residual(drawn, region).max()) < 2e-10
    # No portfolio is nearer than the nearest, and those drawn in are not far behind it.
    exact, _ = nearest_in(far, region)
    away, least = ((w - far).norm(dim=-1) for w in (drawn, exact))
    assert bool((away >= least - 1e-9).all()) and float((away / least.clamp_min(1e-9)).max()) < 1.5


@pytest.mark.parametrize(
    "name",
    [
        "box",
        "no bounds",
        "a floor alone",
        "turnover alone",
        "turnover, open budget",
        "neutral",
        "leverage and turnover",
    ],
)
def test_nothing_is_read_on_another_device_and_the_points_are_the_same(name: str) -> None:
    region, y = REGIONS[name], torch.cat([points(0.08, 20), points(0.25, 20)])
    here = projector(region)(y)
    with other_device() as device:
        place = torch.zeros(0, dtype=torch.float64, device=device)
        there = Steady.of(region.to(place), EVEN.to(device))
        assert there is not None
        moved = y.to(device)
        before = reads()
        found = there(moved)
        assert reads() == before and found.device == device
        # A search of a length ends after so many tries there, which now and then are not enough.
        assert float(((found.cpu() - here).norm(dim=-1) < 1e-9).double().mean()) >= 0.95
        assert float(region_residual(found.cpu(), region).max()) < 2e-10


@pytest.mark.parametrize("name", ["groups and turnover", "leverage", "turnover"])
def test_a_batch_is_its_rows(name: str) -> None:
    y = points(0.3, 6)
    project = projector(REGIONS[name])
    every = torch.stack([project(row) for row in y])
    torch.testing.assert_close(project(y), every, atol=1e-12, rtol=0)
    torch.testing.assert_close(project(y.reshape(2, 3, N)), every.reshape(2, 3, N), atol=1e-12, rtol=0)
    assert project(y.float()).dtype == torch.float32


def test_without_enough_steps_a_point_is_drawn_in_until_it_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "STEPS", 0)
    monkeypatch.setattr("portfolio_ebm.constraints.dual._tidy", lambda problem, w, theta: w)
    region = Region.free(3).with_box(0.0, 1.0).with_row(t(1.0, 1.0, 1.0), 1.0, 1.0, "budget")
    region = region.with_row(t(1.0, 1.0, 0.0), -torch.inf, 0.6, "group")
    inside = t(0.1, 0.3, 0.6)
    found = Steady.of(region, inside)
    assert found is not None
    # Nearest under the budget: (1, 0, 0), which the group's 1 > 0.6 forbids; from 0.4 at m it is a third of the way.
    w = found(t(3.0, 0.0, 0.0))
    torch.testing.assert_close(w, inside + (t(1.0, 0.0, 0.0) - inside) / 3.0, atol=1e-14, rtol=0)


def test_an_exact_sum_is_not_broken_by_its_last_bit() -> None:
    project, y = projector(REGIONS["groups"]), points(2.0, 200)
    p = project.problem
    w = box_budget_turnover(y, p.lower, p.upper, project.total, None, None)
    drawn = project._drawn_in(w)
    low, high, sums = p.low[1:], p.high[1:], w @ p.rows[1:].T
    here = EVEN @ p.rows[1:].T
    ends = torch.where(sums > high, (high - here) / (sums - here), (low - here) / (sums - here))
    share = torch.where((sums > high) | (sums < low), ends, torch.ones_like(ends)).amin(-1, keepdim=True)
    assert float(share.min()) > 0.05
    torch.testing.assert_close(drawn, EVEN + share * (w - EVEN), atol=1e-9, rtol=0)


def test_curves_and_choices_are_not_of_this_kind() -> None:
    risk = Ellipsoid("volatility", 0.1, 0.0 * ONES, Structured.from_dense(torch.eye(N, dtype=torch.float64)))
    assert Steady.of(LONG.with_cap(risk), EVEN) is None
    assert Steady.of(replace(LONG, at_most=3), EVEN) is None
