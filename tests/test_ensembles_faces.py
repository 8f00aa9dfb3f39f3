"""ensemble with tickets, short positions, open budgets and other equations: against draws by rejection."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import portfolio_ebm as pe
from portfolio_ebm.errors import SolverError, SpecError

NAMES = list("ABCDEF")
HELD = pd.Series([0.5, 0.3, 0.2, 0.0, 0.0, 0.0], index=NAMES)


def covariance(n: int = 6, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed)
    loadings = g.normal(size=(n, 3))
    return 1e-4 * (0.3 * loadings @ loadings.T + np.diag(g.uniform(0.5, 3.0, n)))


def drawn(values: np.ndarray, w: np.ndarray, mass: np.ndarray, heat: float, count: int = 20_000) -> np.ndarray:
    """Draws of weights w (k, n) with masses before E has its say."""
    chance = mass * np.exp(-(values - values.min()) / heat)
    return w[np.random.default_rng(7).choice(len(w), count, p=chance / chance.sum())]


def agrees(found: pe.Distribution, truth: np.ndarray, still: np.ndarray) -> None:
    """Shares of what is not `still` and laws of the weights, by name: ours from the end of each chain's record."""
    ours = found.draws.to_numpy()
    families = len(ours) // 24
    moves = (np.abs(ours - still) > 1e-9).reshape(-1, families, len(still)).mean(0)
    for i in range(len(still)):
        error = moves[:, i].std() / families**0.5 + 0.5 / len(truth) ** 0.5
        assert abs(moves[:, i].mean() - (np.abs(truth[:, i] - still[i]) > 1e-9).mean()) < 4.5 * error
        last, other = (x[np.abs(x - still[i]) > 1e-9] for x in (ours[-families:, i], truth[:, i]))
        if len(last) > 20:
            assert stats.ks_2samp(last, other).pvalue > 1e-3 / len(still)
    assert abs(found.excess.mean() / found.tolerated - 1.0) < 0.3 and found.r_hat < 1.02 and found.apart < 4.5


def test_names_traded_have_the_law_of_tickets() -> None:
    cov, ticket, rate = covariance(4), 4e-6, 2e-6
    held = HELD[:4].to_numpy()
    energy, rules = pe.Variance() + pe.FixedCost(rate=ticket) + pe.TradingCost(rate), pe.Budget() & pe.LongOnly()
    law = pe.Ensemble(0.15, support="all", chains=200)
    found = pe.ensemble(energy, rules, covariance=cov, assets=NAMES[:4], held=HELD[:4], law=law)
    g, w, mass = np.random.default_rng(1), [held[None]], [np.ones(1)]
    for m in (2, 3, 4):
        for traded in combinations(range(4), m):
            one = np.tile(held, (60_000, 1))
            one[:, traded] = held[list(traded)].sum() * g.dirichlet(np.ones(m), len(one))
            w, mass = [*w, one], [*mass, np.full(len(one), 1.0 / len(one))]
    every = np.concatenate(w)
    trade = np.abs(every - held)
    value = np.einsum("ki,ij,kj->k", every, cov, every) + rate * trade.sum(1) + ticket * (trade > 1e-9).sum(1)
    truth = drawn(value, every, np.concatenate(mass), found.temperature)
    agrees(found, truth, held)
    said = found.weights["traded"].to_numpy()
    assert 0.02 < said.min() < 0.98 and np.allclose(said, (np.abs(found.draws - held) > 1e-9).mean(), atol=1e-12)
    assert "set of names traded once" in str(found.status) and "face-Gibbs" in str(found.status)


@pytest.mark.slow
def test_short_names_and_cash_have_their_law() -> None:
    cov, mean = covariance(4), 1e-5 * np.array([4.0, -3.0, 2.0, 5.0])
    rules = pe.Budget(at_least=0.6) & pe.Box(lower=-0.2, upper=0.7) & pe.Cardinality(at_most=3)
    energy, law = pe.Return() + pe.Variance(), pe.Ensemble(0.15, support="all", chains=200)
    found = pe.ensemble(energy, rules, covariance=cov, mean=mean, assets=NAMES[:4], law=law)
    g, w, mass = np.random.default_rng(1), [], []
    for m in (1, 2, 3):
        for names in combinations(range(4), m):
            one = np.zeros((300_000, 4))
            one[:, names] = g.uniform(-0.2, 0.7, (len(one), m))
            one = one[(one.sum(1) >= 0.6) & (one.sum(1) <= 1.0)]
            w, mass = [*w, one], [*mass, np.full(len(one), 1.0 / len(one))]
    every = np.concatenate(w)
    value = np.einsum("ki,ij,kj->k", every, cov, every) - every @ mean
    agrees(found, drawn(value, every, np.concatenate(mass), found.temperature), np.zeros(4))
    assert "between -0.2 and 0.7" in str(found.status)


@pytest.mark.slow
def test_an_equation_beside_the_budget_leaves_each_choice_its_simplex() -> None:
    cov, names = covariance(), dict(zip(NAMES, "xxxyyy", strict=True))
    rules = pe.Budget() & pe.LongOnly() & pe.Cardinality(at_most=4, min_weight=0.05)
    rules, law = rules & pe.Group("sector", "x", lower=0.6, upper=0.6), pe.Ensemble(0.2, support="all", chains=200)
    found = pe.ensemble(pe.Variance(), rules, covariance=cov, assets=NAMES, groups={"sector": names}, law=law)
    g, w, mass = np.random.default_rng(1), [], []
    for k, other in ((1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (3, 1)):
        for first in combinations(range(3), k):
            for second in combinations(range(3, 6), other):
                one = np.zeros((40_000, 6))
                for part, total in ((first, 0.6), (second, 0.4)):
                    m = len(part)
                    one[:, part] = 0.05 + (total - m * 0.05) * g.dirichlet(np.ones(m), len(one))
                # On the slice Lebesgue measure is the product of those on two simplices; the whole simplex weighs one.
                volume = 1.0
                for s, m in ((0.6, k), (0.4, other)):
                    volume *= (s - m * 0.05) ** (m - 1) / math.factorial(m - 1)
                volume /= (1.0 - (k + other) * 0.05) ** (k + other - 1) / math.factorial(k + other - 1)
                w, mass = [*w, one], [*mass, np.full(len(one), volume / len(one))]
    every = np.concatenate(w)
    value = np.einsum("ki,ij,kj->k", every, cov, every)
    agrees(found, drawn(value, every, np.concatenate(mass), found.temperature), np.zeros(6))
    assert np.allclose(found.draws[["A", "B", "C"]].sum(axis=1), 0.6, atol=1e-9)


def planted() -> np.ndarray:
    """Three pairs that each cancel a factor of their own: only whole pairs are good, and between them is a wall."""
    exposure = np.kron(np.eye(3), np.array([[1.0], [-1.0]]))
    return 1e-4 * (40.0 * exposure @ exposure.T + np.diag([1.0, 1.0, 1.01, 1.01, 1.03, 0.99]))


@pytest.mark.slow
def test_planted_modes_have_their_masses() -> None:
    cov = planted()
    rules = pe.Budget() & pe.Box(lower=-0.2, upper=1.2) & pe.Cardinality(at_most=2)
    law = pe.Ensemble(0.02, support="all", chains=400)
    found = pe.ensemble(pe.Variance(), rules, covariance=cov, assets=NAMES, law=law)
    grid, masses = np.linspace(-0.2, 1.2, 20_001), {}
    for i, j in combinations(range(6), 2):
        value = cov[i, i] * grid**2 + cov[j, j] * (1 - grid) ** 2 + 2 * cov[i, j] * grid * (1 - grid)
        masses[f"{NAMES[i]}, {NAMES[j]}"] = np.trapezoid(np.exp(-(value - 0.5e-4) / found.temperature), grid)
    modes = {name: mass / sum(masses.values()) for name, mass in masses.items() if mass > 0.01 * sum(masses.values())}
    assert set(modes) == {"A, B", "C, D", "E, F"}
    told = found.choices.set_index("names")
    for name, share in modes.items():
        assert 0.0 < told.loc[name, "error"] < 0.05
        assert abs(told.loc[name, "share"] - share) < 4.5 * told.loc[name, "error"]


def test_what_the_chains_had_no_time_for_is_an_error() -> None:
    rules = pe.Budget() & pe.Box(lower=-0.2, upper=1.2) & pe.Cardinality(at_most=2)
    law = pe.Ensemble(0.02, support="all", chains=200, moves=60)
    with pytest.raises(SolverError, match="did not mix over choices of names"):
        pe.ensemble(pe.Variance(), rules, covariance=planted(), assets=NAMES, law=law)


def test_tickets_are_nothing_where_nothing_is_held() -> None:
    law, rules = pe.Ensemble(0.15, chains=64), pe.Budget() & pe.LongOnly()
    ticketed = pe.ensemble(pe.Variance() + pe.FixedCost(rate=1e-5), rules, covariance=covariance(4), law=law)
    free = pe.ensemble(pe.Variance(), rules, covariance=covariance(4), law=law)
    assert ticketed.draws.equals(free.draws)


def test_a_term_that_is_not_convex_is_refused_by_the_door_that_was_asked() -> None:
    with pytest.raises(SpecError, match="or leave it out"):
        pe.ensemble(-1 * pe.Variance(), pe.Budget() & pe.LongOnly(), covariance=covariance())


def test_names_that_meet_an_equation_at_rest_are_refused() -> None:
    # No line of three names leads to, or from, a group that has no position at all, or does not trade.
    groups, law = {"sector": dict(zip(NAMES, "xxxyyy", strict=True))}, pe.Ensemble(0.3, support="all", chains=64)
    neutral = pe.Budget() & pe.Box(lower=-0.4, upper=0.8) & pe.Cardinality(at_most=4)
    neutral = neutral & pe.Group("sector", "x", lower=0.0, upper=0.0)
    with pytest.raises(SpecError, match=r"meet an equation beside the budget by themselves.*give the equation a range"):
        pe.ensemble(pe.Variance(), neutral, covariance=covariance(), assets=NAMES, groups=groups, law=law)
    fixed = pe.Budget(at_least=0.9) & pe.LongOnly() & pe.Group("sector", "x", lower=0.6, upper=0.6)
    held = pd.Series([0.3, 0.2, 0.1, 0.2, 0.1, 0.05], index=NAMES)
    with pytest.raises(SpecError, match="a portfolio held that obeys it already"):
        pe.ensemble(
            pe.Variance() + pe.FixedCost(rate=2e-5), fixed, covariance=covariance(), assets=NAMES, held=held,
            groups=groups, law=law,
        )  # fmt: skip


@pytest.mark.parametrize("budget", [pe.Budget(), pe.Budget(at_least=0.98)])
def test_pieces_that_no_move_joins_are_an_error(budget: pe.Budget) -> None:
    # Three names of 34 % at most or four of 24 % at least: one that comes in takes more than one other can give.
    rules = budget & pe.LongOnly() & pe.Box(upper=0.34) & pe.Cardinality(at_most=4, min_weight=0.24)
    law = pe.Ensemble(0.5, support="all", chains=128, moves=700)
    with pytest.raises(SolverError, match="no move joins such portfolios"):
        pe.ensemble(pe.Variance(), rules, covariance=covariance(), assets=NAMES, law=law)
