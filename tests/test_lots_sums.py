"""Sums of whole lots: divisors by hand, portfolios of an exact sum against every one, and budgets that ask for one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import portfolio_ebm as pe
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.grids.lattice import lattice_of
from portfolio_ebm.constraints.mixed.grids.matching import matched
from portfolio_ebm.constraints.mixed.grids.sums import divisor, never
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.errors import InfeasibleError


def test_divisors_by_hand() -> None:
    assert divisor(np.array([0.06, 0.045])) == pytest.approx(0.015, rel=1e-14)
    assert divisor(np.array([0.3])) == 0.3
    # 1001 = 7 11 13 and 1309 = 7 11 17 and 3553 = 11 17 19 have 11 in common, over a capital in cents.
    assert divisor(np.array([1001, 1309, 3553]) / 1e7) == pytest.approx(11e-7, rel=1e-12)
    assert divisor(np.array([2.0, 3.0]) ** 0.5 / 10.0) is None
    assert divisor(np.array([1.0, 1.0 + 1e-8])) is None


@pytest.mark.parametrize("seed", range(20))
def test_prices_in_cents_have_the_divisor_of_whole_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cents = int(rng.integers(1, 9)) * rng.integers(2000, 15_000, 40)
    capital = int(rng.integers(10**7, 10**8))
    assert divisor(cents / capital) == pytest.approx(np.gcd.reduce(cents) / capital, rel=1e-9)


def region(step: list[float], low: float, high: float, fixed: float = 0.0) -> Region:
    """A budget over names in lots of `step`, the last of them fixed where it has none."""
    lots = torch.tensor(step, dtype=torch.float64)
    found = Region.free(len(step)).with_row(torch.ones(len(step)), low, high, "Budget()").with_grid(lots)
    still, free = torch.full_like(lots, fixed), torch.zeros_like(lots)
    return found.with_box(torch.where(lots > 0.0, free, still), torch.where(lots > 0.0, torch.inf + free, still))


def test_sums_that_are_no_multiple_are_never_met() -> None:
    assert never(region([0.06, 0.04], 1.0, 1.0)) is None, "fifty times .02"
    name, low, high, unit = never(region([0.06, 0.04], 0.99, 0.995)) or ("", 0.0, 0.0, 0.0)
    assert (name, low, high) == ("Budget()", 0.99, 0.995) and unit == pytest.approx(0.02)
    assert never(region([0.06, 0.04], 0.99, 1.0 - 5e-10)) is None, "the rules' tolerance reaches it"
    assert never(region([0.06, 0.04], -np.inf, 0.99)) is None
    # What is fixed moves the sum: .93 is no multiple of .02, and .94 is.
    assert never(region([0.06, 0.04, 0.0], 1.0, 1.0, 0.07)) is not None
    assert never(region([0.06, 0.04, 0.0], 1.0, 1.0, 0.06)) is None


@pytest.mark.parametrize("seed", range(6))
def test_two_halves_give_every_portfolio_of_an_exact_sum(seed: int) -> None:
    rng, n = np.random.default_rng(seed), 6
    step = rng.integers(40, 160, n) / 1000.0
    rows = np.vstack([np.ones(n), rng.uniform(size=n)])
    ends = np.array([1.0, 0.0]), np.array([1.0, 0.7])
    p = Program(np.eye(n), np.zeros(n), np.zeros(n), np.full(n, 0.5), rows, *ends)
    lattice = lattice_of(Mixed(p, Choices.none()), step)
    assert lattice is not None
    every = np.array(list(itertools.product(*(np.flatnonzero(lattice.name == k) for k in range(n)))))
    wanted = every[np.abs(lattice.x[every].sum(1) - 1.0) <= 1e-9]
    found = matched(lattice)
    assert found is not None and len(wanted) > 0
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, wanted.tolist()))


def given(prices: np.ndarray, capital: float) -> dict[str, object]:
    n = len(prices)
    rng = np.random.default_rng(0)
    loads = rng.normal(size=(n, 2)) * 0.05
    return {
        "covariance": loads @ loads.T + np.diag(rng.uniform(1e-3, 6e-3, n)), "assets": [f"A{k}" for k in range(n)],
        "prices": prices, "capital": capital, "mean": np.zeros(n),
    }  # fmt: skip


EXACT = pe.Budget() & pe.LongOnly() & pe.RoundLots()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_an_exact_budget_in_lots_is_settled(seed: int) -> None:
    """Ten names at whole cents: more portfolios than can be looked at, few of them of the exact sum."""
    prices = np.round(np.random.default_rng(seed).uniform(20.0, 150.0, 10), 2)
    found = pe.optimize(pe.Variance(), EXACT, **given(prices, 20_000.0))
    shares = found.weights.to_numpy() * 20_000.0 / prices
    assert np.abs(shares - shares.round()).max() < 1e-6
    assert round(float(shares.round() @ prices), 2) == 20_000.0
    assert found.bound is not None and found.bound <= found.energy


def test_an_exact_budget_that_lots_never_make_up_names_both() -> None:
    """Prices in even cents, capital in odd ones: no sum is the capital."""
    prices = np.round(np.random.default_rng(0).integers(1000, 8000, 30) * 0.02, 2)
    with pytest.raises(InfeasibleError, match="multiple of") as caught:
        pe.optimize(pe.Variance(), EXACT, **given(prices, 50_000.01))
    assert set(caught.value.conflict) == {"Budget()", "RoundLots()"}


def test_an_exact_budget_that_few_lots_do_not_make_up_is_looked_at_to_the_end() -> None:
    """Coprime prices, so sums are any whole number; but few enough that 1000 is none of them."""
    prices = np.array([377.0, 410.0, 389.0])
    sums = {round(float(k @ prices)) for k in np.array(list(itertools.product(range(4), repeat=3)))}
    assert 1000 not in sums and np.gcd.reduce(prices.astype(int)) == 1
    with pytest.raises(InfeasibleError) as caught:
        pe.optimize(pe.Variance(), EXACT, **given(prices, 1000.0))
    assert {"Budget()", "RoundLots()"} <= set(caught.value.conflict)
