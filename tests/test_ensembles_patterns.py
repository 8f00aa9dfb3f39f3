"""ensemble with a choice of names: against enumeration and quadrature, planted modes, limits, and what it refuses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import portfolio_ebm as pe
from portfolio_ebm.errors import SolverError, SpecError
from portfolio_ebm.samplers.exchange import exchanged

NAMES = list("ABCDEF")
GROUPS = {"sector": dict(zip(NAMES, "xxxyyy", strict=True))}


def covariance(n: int, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed)
    loadings = g.normal(size=(n, 3))
    return 1e-4 * (0.3 * loadings @ loadings.T + np.diag(g.uniform(0.5, 3.0, n)))


def sampled(rule: pe.Constraint, cov: np.ndarray, tolerance: float = 0.03, **more) -> pe.Distribution:
    names = NAMES[: len(cov)] if len(cov) <= 6 else [f"n{i}" for i in range(len(cov))]
    groups = GROUPS if len(cov) == 6 else None
    rules = pe.Budget() & pe.LongOnly() & rule
    law = pe.Ensemble(tolerance, **{"support": "all", "chains": 600, **more})
    return pe.ensemble(pe.Variance(), rules, covariance=cov, assets=names, groups=groups, law=law)


def exact(cov: np.ndarray, sizes: tuple[int, ...], heat: float, keep=None, energy=None) -> np.ndarray:
    """Draws by rejection: every choice of names alike, uniform on its simplex, the rule `keep`, then E."""
    every = [c for m in sizes for c in combinations(range(len(cov)), m)]
    g, draws = np.random.default_rng(1), []
    for c in every:
        w = np.zeros((1_500_000 // len(every), len(cov)))
        w[:, list(c)] = 0.05 + (1.0 - len(c) * 0.05) * g.dirichlet(np.ones(len(c)), len(w))
        draws.append(w)
    w = np.concatenate(draws)
    w = w if keep is None else w[keep(w)]
    value = np.einsum("ki,ij,kj->k", w, cov, w) if energy is None else energy(w)
    found = w[g.random(len(w)) < np.exp(-(value - value.min()) / heat)]
    assert len(found) > 2000
    return found


@pytest.mark.parametrize(
    "rule, sizes, keep",
    [
        pytest.param(pe.Cardinality(exactly=3, min_weight=0.05), (3,), None, id="exactly"),
        pytest.param(pe.Cardinality(at_most=3, min_weight=0.05), (1, 2, 3), None, id="at most", marks=pytest.mark.slow),
        pytest.param(
            pe.Cardinality(exactly=4, min_weight=0.05) & pe.Cardinality(at_most=2, groups="sector")
            & pe.Group("sector", "x", upper=0.6),
            (4,), lambda w: (w[:, :3].sum(1) <= 0.6) & ((w[:, :3] > 0).sum(1) == 2), id="groups",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_shares_and_weights_are_those_of_the_law(rule, sizes, keep) -> None:
    cov = covariance(6)
    found = sampled(rule, cov, 0.1)
    truth = exact(cov, sizes, found.temperature, keep)
    assert found.r_hat < 1.02 and found.apart < 4.5
    ours = found.draws.to_numpy()
    families = len(ours) // 24
    held = (ours > 1e-3).reshape(-1, families, 6).mean(0)
    for i in range(6):
        error = held[:, i].std() / families**0.5 + 0.5 / len(truth) ** 0.5
        assert abs(found.weights["held"].iloc[i] - (truth[:, i] > 0).mean()) < 4.5 * error
        last, other = ours[-families:, i], truth[:, i]
        if (last > 0).sum() > 20:
            assert stats.ks_2samp(last[last > 0], other[other > 0]).pvalue > 1e-3 / 6
    assert abs(found.excess.mean() / found.tolerated - 1.0) < 0.25
    assert abs(found.choices["share"].sum() - 1.0) < 0.05 and found.coverage > 0.95


@pytest.mark.slow
def test_a_tail_over_choices_of_names_has_its_law() -> None:
    scenarios = np.random.default_rng(0).multivariate_normal(np.zeros(6), covariance(6), 400)
    rules, energy = pe.Budget() & pe.LongOnly() & pe.Cardinality(exactly=3, min_weight=0.05), pe.CVaR(level=0.9)
    law = pe.Ensemble(0.1, support="all", chains=600)
    found = pe.ensemble(energy, rules, scenarios=pd.DataFrame(scenarios, columns=NAMES), law=law)

    def tail(w: np.ndarray) -> np.ndarray:
        return np.concatenate([-np.sort(part @ scenarios.T, axis=1)[:, :40].mean(1) for part in np.array_split(w, 200)])

    truth = exact(np.eye(6), (3,), found.temperature, energy=tail)
    ours = found.draws.to_numpy()
    families = len(ours) // 24
    held = (ours > 1e-3).reshape(-1, families, 6).mean(0)
    for i in range(6):
        error = held[:, i].std() / families**0.5 + 0.5 / len(truth) ** 0.5
        assert abs(held[:, i].mean() - (truth[:, i] > 0).mean()) < 4.5 * error
        last, other = ours[-families:, i], truth[:, i]
        if (last > 0).sum() > 20:
            assert stats.ks_2samp(last[last > 0], other[other > 0]).pvalue > 1e-3 / 6


def planted() -> np.ndarray:
    """Three pairs that each cancel a factor of their own: only whole pairs are good, and between them is a wall."""
    exposure = np.kron(np.eye(3), np.array([[1.0], [-1.0]]))
    return 1e-4 * (40.0 * exposure @ exposure.T + np.diag([1.0, 1.0, 1.01, 1.01, 1.03, 0.99]))


def test_planted_modes_have_their_masses() -> None:
    cov = planted()
    # Moves to spare, for a longer stride where R-hat comes near its limit.
    found = sampled(pe.Cardinality(exactly=2, min_weight=0.05), cov, 0.02, chains=1000, moves=80_000)
    grid, masses = np.linspace(0.05, 0.95, 20_001), {}
    for i, j in combinations(range(6), 2):
        value = cov[i, i] * grid**2 + cov[j, j] * (1 - grid) ** 2 + 2 * cov[i, j] * grid * (1 - grid)
        masses[f"{NAMES[i]}, {NAMES[j]}"] = np.trapezoid(np.exp(-(value - 0.5e-4) / found.temperature), grid)
    total = sum(masses.values())
    modes = {name: mass / total for name, mass in masses.items() if mass / total > 0.01}
    assert set(modes) == {"A, B", "C, D", "E, F"}
    told = found.choices.set_index("names")
    for name, share in modes.items():
        assert 0.0 < told.loc[name, "error"] < 0.05
        assert abs(told.loc[name, "share"] - share) < 4.5 * told.loc[name, "error"]


def test_walls_that_the_chains_had_no_time_for_are_an_error() -> None:
    with pytest.raises(SolverError, match="did not mix over choices of names"):
        sampled(pe.Cardinality(exactly=2, min_weight=0.05), planted(), 0.02, moves=100)


def test_a_small_tolerance_is_the_optimum() -> None:
    cov = covariance(6)
    rule = pe.Cardinality(exactly=3, min_weight=0.05)
    found = sampled(rule, cov, 1e-5)
    best = pe.optimize(
        pe.Variance(), pe.Budget() & pe.LongOnly() & rule, covariance=cov, assets=NAMES, groups=GROUPS
    ).weights
    assert found.patterns == 1 and found.choices["names"][0] == ", ".join(best.index[best > 0])
    assert np.allclose(found.draws.mean(), best, atol=2e-3)


@pytest.mark.slow
def test_names_that_are_proven_out_of_reach_are_left_out() -> None:
    cov = covariance(6)
    # F is five times the market of the others: more of it never pays.
    market = np.vstack([np.eye(6)[:5], np.r_[np.ones(5), 1.0]])
    cov = market @ cov @ market.T
    found = sampled(pe.Cardinality(exactly=3, min_weight=0.05), cov, support="near")
    assert "F" in found.left_out and (found.draws["F"] == 0.0).all()


@pytest.mark.slow
def test_limits_on_heavy_issuers_hold_in_every_draw() -> None:
    found = sampled(pe.UCITS(issuers=None), covariance(24), 0.02, support="near", chains=64)
    w = found.draws.to_numpy()
    assert w.max() <= 0.1 + 1e-9 and np.where(w > 0.05 + 1e-9, w, 0.0).sum(1).max() <= 0.4 + 1e-9
    assert "not convex" in str(found.status) and found.r_hat < 1.02


CARD = pe.Cardinality(exactly=2, min_weight=0.05)
HELD = pd.Series([0.5, 0.3, 0.2, 0.0, 0.0, 0.0], index=NAMES)


@pytest.mark.parametrize(
    "rules, energy, words",
    [
        pytest.param(
            pe.Budget() & pe.LongOnly() & pe.Group("sector", "x", lower=1.0, upper=1.0), pe.FixedCost(rate=0.001),
            "equation a range", id="tickets and another equation",
        ),
        pytest.param(
            pe.Budget() & pe.LongOnly() & CARD & pe.Group("sector", "x", lower=0.5, upper=0.5), None,
            "the number a range", id="an exact number and another equation",
        ),
        pytest.param(pe.Budget() & pe.Cardinality(at_most=3), None, "give Box", id="shorts without an end"),
        pytest.param(pe.Budget() & pe.LongOnly() & CARD, -1.0 * pe.Variance(), "not convex", id="not convex"),
    ],
)  # fmt: skip
def test_what_has_no_exact_kernel_is_refused_in_words(rules, energy, words) -> None:
    formula = pe.Variance() if energy is None else 0.5 * pe.Variance() + energy
    with pytest.raises(SpecError, match=words):
        pe.ensemble(formula, rules, covariance=covariance(6), assets=NAMES, groups=GROUPS, held=HELD)


def test_exchange_leaves_the_product_of_laws() -> None:
    levels, families = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), 20_000
    rng = torch.Generator().manual_seed(0)
    heat = levels.repeat_interleave(families)
    energy = torch.empty(3 * families, dtype=torch.float64).exponential_(generator=rng) * heat
    traded = False
    for odd in (False, True, False):
        order = exchanged(energy, levels, odd, rng)
        assert torch.equal(order.sort().values, torch.arange(3 * families))
        traded |= bool((order != torch.arange(3 * families)).any())
        energy = energy[order]
    assert traded
    for level, drawn in zip(levels.tolist(), energy.reshape(3, families), strict=True):
        assert stats.kstest(drawn.numpy() / level, "expon").pvalue > 1e-3
