"""Energies of which only the gradient is known under every rule that is a choice, against brute force: every slice,
written from the rule's own text, is searched by SLSQP from the best of many random points."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cases_modes import BASE, F64, HELD, HOUSES, RULES, Array, N, Slice, context, convex, row, traded
from scipy.optimize import linprog, minimize
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.diversified import TopSum
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.errors import InfeasibleError

SMALL, LARGE = AnnealedLangevin(chains=12, steps=25, walkers=4), AnnealedLangevin(chains=32)


class Net(Energy):
    """E(w) = mean_k v_k tanh(gain a_k . w + b_k) over twelve random units: many hills."""

    seed: int = 0
    gain: float = 8.0

    def bind(self, ctx: Any) -> Bound:
        draw = torch.Generator().manual_seed(self.seed)
        a = torch.randn(12, N, generator=draw, dtype=F64)
        b, v = torch.randn(2, 12, generator=draw, dtype=F64)
        return lambda w: (torch.tanh(self.gain * (w @ a.T) + b) * v).sum(-1) / 12


class Funnel(Energy):
    """E(w) = |z|^2 + depth sum (1 - cos 25 z_k) with three exposures z = A (w - w0): a bowl full of wells."""

    seed: int = 0
    depth: float = 0.05

    def bind(self, ctx: Any) -> Bound:
        a = torch.randn(3, N, generator=torch.Generator().manual_seed(self.seed), dtype=F64)
        middle = a @ torch.tensor([0.3, 0.1, 0.2, 0.1, 0.2, 0.1], dtype=F64)

        def energy(w: Tensor) -> Tensor:
            z = w @ a.T - middle
            return z.square().sum(-1) + self.depth * (1.0 - torch.cos(25.0 * z)).sum(-1)

        return energy


ENERGIES: list[Energy] = [Net(), Funnel(), Net(seed=1, gain=15.0), Funnel(seed=1)]


def brute(value: Bound, slices: list[Slice], draws: int = 60, starts: int = 2) -> float:
    """The least energy over all slices that many local searches find; +inf where none has a portfolio."""
    rng, best = np.random.default_rng(0), np.inf

    def slope(w: Array) -> tuple[float, Array]:
        point = torch.tensor(w, requires_grad=True)
        energy = value(point)
        energy.backward()
        assert point.grad is not None
        return float(energy.detach()), point.grad.numpy()

    for one in slices:
        lower, upper = np.maximum(one.lower, -1.0), np.minimum(one.upper, 1.0)
        if (lower > upper + 1e-12).any():
            continue
        above, below = np.isfinite(one.high), np.isfinite(one.low)
        rows, ends = np.vstack([one.rows[above], -one.rows[below]]), np.r_[one.high[above], -one.low[below]]
        box = np.column_stack([lower, np.maximum(lower, upper)])
        found = [linprog(c, A_ub=rows, b_ub=ends, bounds=box) for c in rng.normal(size=(8, N))]
        if found[0].status != 0:
            continue
        mixed = rng.dirichlet(np.full(8, 0.7), size=draws) @ np.array([one.x for one in found])
        for k in np.argsort(value(torch.tensor(mixed)).numpy())[:starts]:
            inside = {"type": "ineq", "fun": lambda w, a=rows, b=ends: b - a @ w, "jac": lambda w, a=rows: -a}
            end = minimize(
                slope, mixed[k], jac=True, method="SLSQP", bounds=box, constraints=[inside],
                options={"maxiter": 60, "ftol": 1e-12},
            )  # fmt: skip
            if max((rows @ end.x - ends).max(), (lower - end.x).max(), (end.x - upper).max()) < 1e-8:
                best = min(best, float(end.fun) + one.cost)
    return best


def agrees(energy: Energy, rules: Constraint, truth: float, effort: AnnealedLangevin = SMALL) -> Solution:
    found = effort.build(energy, rules, context(0), torch.Generator().manual_seed(0))
    assert np.isfinite(truth) and max(found.residuals.values()) <= 1e-9
    assert found.energy <= truth + 1e-6 * (1.0 + abs(truth))
    assert found.bound is None
    assert "not convex" in str(found.status)
    assert "nothing bounds it" in str(found.status)
    return found


def one_rule(name: str, energy: Energy, effort: AnnealedLangevin) -> None:
    rule, slices = RULES[name]
    agrees(energy, BASE & rule, brute(energy.bind(context(0)), [convex() & one for one in slices]), effort)


@pytest.mark.parametrize("name", [pytest.param("at least", marks=pytest.mark.slow), "5/10/40"])
def test_no_slice_is_better(name: str) -> None:
    one_rule(name, Net(), SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("energy", ENERGIES, ids=repr)
@pytest.mark.parametrize("name", RULES)
def test_no_slice_is_better_for_any_rule(name: str, energy: Energy) -> None:
    one_rule(name, energy, LARGE)


@pytest.mark.slow
@pytest.mark.parametrize("pair", list(itertools.combinations(["at least", "by land", "25/50", "minimum"], 2)), ids=str)
def test_no_pair_of_slices_is_better(pair: tuple[str, str]) -> None:
    (one, first), (two, second) = (RULES[name] for name in pair)
    slices = [convex() & a & b for a in first for b in second]
    truth = brute(Net().bind(context(0)), slices, draws=30, starts=1)
    if truth == np.inf:
        with pytest.raises(InfeasibleError):
            SMALL.build(Net(), BASE & one & two, context(0), torch.Generator().manual_seed(0))
        return
    agrees(Net(), BASE & one & two, truth, LARGE)


@pytest.mark.parametrize("ticket", [0.002, pytest.param(0.05, marks=pytest.mark.slow)])
def test_tickets_on_an_energy_that_is_not_convex(ticket: float) -> None:
    energy = Funnel()
    truth = brute(energy.bind(context(0)), [convex() & one for one in traded(ticket)], draws=30, starts=1)
    found = agrees(energy + FixedCost(rate=ticket), BASE, truth)
    paid = ticket * int((np.abs(found.weights.numpy() - HELD) > 1e-9).sum())
    assert found.energy == pytest.approx(float(energy.bind(context(0))(found.weights)) + paid, abs=1e-12)


@pytest.mark.slow
def test_issuers_in_sum_and_either() -> None:
    """TopSum by hand: every two of the four houses within the cap; Either is the better of its cases."""
    houses = [np.array([house == name for house in HOUSES], dtype=float) for name in sorted(set(HOUSES))]
    top = convex()
    for a, b in itertools.combinations(houses, 2):
        top = top & row(a + b, -np.inf, 0.5)
    value = Net().bind(context(0))
    rule, slices = RULES["at least"]
    either = [convex() & one for one in slices]
    agrees(Net(), BASE & TopSum(2, 0.5, "house"), brute(value, [top]))
    found = agrees(
        Net(), BASE & Either(TopSum(2, 0.5, "house"), rule), min(brute(value, [top]), brute(value, either, 30, 1))
    )
    assert "Best of 2 cases" in str(found.status)


@pytest.mark.slow
def test_kinks_of_the_cost_of_trading_and_a_cap_on_it() -> None:
    """On each side of what is held the cost is linear; every pattern of sides is a slice of its own."""
    energy, rate, most = Net(), 0.02, 0.3
    rule, slices = RULES["25/50"]
    sides = [np.array(side) for side in itertools.product((-1.0, 1.0), repeat=N)][::9]
    value = energy.bind(context(0))
    truth = np.inf
    for side in sides:
        part = row(side, -np.inf, most + float(side @ HELD))
        half = Slice(
            np.where(side > 0, HELD, -np.inf), np.where(side > 0, np.inf, HELD), part.rows, part.low, part.high
        )
        cut = [convex() & half & one for one in slices[::5]]
        tilt = torch.tensor(rate * side)
        truth = min(truth, brute(lambda w, t=tilt: value(w) + ((w - torch.tensor(HELD)) * t).sum(-1), cut, 10, 1))
    found = agrees(energy + TradingCost(rate), BASE & rule & Turnover(most), truth)
    assert np.abs(found.weights.numpy() - HELD).sum() <= most + 1e-9


@pytest.mark.parametrize("energy", [Net(), Funnel()], ids=repr)
def test_whole_lots_by_enumeration(energy: Energy) -> None:
    ctx = context(0)
    rules = Budget(1.0, 0.8) & LongOnly() & Box(upper=0.45) & RoundLots(lot=5.0)
    step = RoundLots(lot=5.0).step(ctx).numpy()
    counts = [np.arange(int(0.45 / size + 1e-9) + 1) for size in step]
    grid = np.array(list(itertools.product(*counts)), dtype=float) * step
    grid = grid[(grid.sum(1) <= 1.0 + 1e-12) & (grid.sum(1) >= 0.8 - 1e-12)]
    found = agrees(energy, rules, float(energy.bind(ctx)(torch.tensor(grid)).min()))
    assert found.ablation["without whole lots"] <= found.energy + 1e-9
    assert "whole lots" in str(found.status)
