"""Slices under curved caps where the energy is not convex: nearest points and minima, against Clarabel."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from cases_modes import BASE, HELD, RULES, Array, N, context

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.mixed.programs.slice import Ints
from portfolio_ebm.constraints.risk import CVaRCap, VolatilityCap
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.construction.rugged.slices import Slices, settle
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy

CAPS: dict[str, Constraint] = {
    "volatility": VolatilityCap(0.042),
    "cvar": CVaRCap(at_most=0.07, level=0.9),
    "volatility and turnover": VolatilityCap(0.042) & Turnover(0.5),
}
RATE = 0.002


def capped(rules: Constraint, energy: Energy) -> Slices:
    found = Slices.of(energy, region_of(BASE & RULES["at most"][0] & rules, context(0)), context(0), 0.0)
    assert found is not None
    return found


def drawn(slices: Slices, count: int) -> tuple[Array, Ints]:
    """Points of a budget of one, and the modes they round to."""
    y = np.random.default_rng(1).dirichlet(np.full(N, 0.5), size=count)
    return y, slices.modes_near(y)


def by_clarabel(slices: Slices, rules: Constraint, modes: Ints, matrix: Array, linear: Array) -> Array | None:
    """The minimum of 1/2 w'Mw + c'w + what the program says trades cost, on the slice."""
    w, c, p = cp.Variable(N), slices.choices, slices.mixed.program
    low, high = p.lower.copy(), p.upper.copy()
    low[c.name] = np.maximum(low[c.name], c.lower[c.unit, modes[c.unit]])
    high[c.name] = np.minimum(high[c.name], c.upper[c.unit, modes[c.unit]])
    box = [w >= low, w <= high, *BASE.to_cvxpy(w, context(0)), *rules.to_cvxpy(w, context(0))]
    cost = 0.0 if p.held is None else p.rate * cp.norm1(w - HELD)
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(w, cp.psd_wrap(matrix)) + linear @ w + cost), box)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return None if w.value is None else np.asarray(w.value)


@pytest.mark.parametrize("name", CAPS)
def test_the_nearest_point_obeys_the_caps_and_is_the_nearest(name: str) -> None:
    slices = capped(CAPS[name], Return())
    y, modes = drawn(slices, 16)
    found, there = slices.nearest_all(y, modes)
    moved = 0
    for point, mode, w, alive in zip(y, modes, found, there, strict=True):
        best = by_clarabel(slices, CAPS[name], mode, np.eye(N), -point)
        assert bool(alive) == (best is not None)
        if best is not None:
            assert w == pytest.approx(best, abs=1e-6)
            assert float(CAPS[name].residual(torch.as_tensor(w), context(0))) <= 1e-9
            moved += np.abs(w - point).max() > 1e-2
    assert moved >= 3


@pytest.mark.parametrize("name", CAPS)
def test_an_energy_comes_down_to_the_minimum_of_the_slice(name: str) -> None:
    """The model sets out with half the curvature there is."""
    slices = capped(CAPS[name], 3.0 * Variance() - 2.0 * Return() + TradingCost(RATE))
    matrix, linear = 6.0 * context(0).covariance.dense().numpy(), 2.0 * context(0).mean.numpy()
    y, modes = drawn(slices, 6)
    solved = 0
    for one, low in zip(modes, settle(slices, list(modes), list(y), 0.5 * matrix, 1.0, 60), strict=True):
        best = by_clarabel(slices, CAPS[name], one, matrix, linear)
        assert (low is None) == (best is None)
        if low is not None and best is not None:
            value, _ = slices.evaluate(best[None], [one])
            assert low.value == pytest.approx(float(value[0]), abs=1e-8)
            solved += 1
    assert solved
