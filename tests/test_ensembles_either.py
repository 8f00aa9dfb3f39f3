"""ensemble under Either: unions against volumes by hand, enumeration and rejection, gaps, and what it refuses."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import portfolio_ebm as pe
from portfolio_ebm.errors import InfeasibleError, SolverError, SpecError
from portfolio_ebm.samplers.exchange import exchanged

NAMES = list("ABCDEF")
LONG = pe.Budget() & pe.LongOnly()


def group(names: str, **ends: float) -> pe.Constraint:
    return pe.Group("sector", names, **ends)


def covariance(n: int, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed)
    loadings = g.normal(size=(n, 3))
    return 1e-4 * (0.3 * loadings @ loadings.T + np.diag(g.uniform(0.5, 3.0, n)))


def drawn(rules: pe.Constraint, n: int, *, energy=None, tolerance: float = 0.2, held=None, extra=None, **more):
    names = NAMES[:n]
    sectors = {"sector": dict(zip(names, "x" * (n // 2) + "y" * (n - n // 2), strict=True))}
    law = pe.Ensemble(tolerance, **{"support": "all", "chains": 512, **more})
    inputs = {"covariance": covariance(n), "mean": np.full(n, 0.01), "assets": names, "groups": sectors, "held": held}
    return pe.ensemble(energy or pe.Variance(), rules, law=law, **inputs | (extra or {}))


def uniform(n: int, floor: float = 0.0, sizes=None, count: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
    """Draws from the simplices of all choices of names of these sizes, each of mass one, and their masses."""
    g, w, mass = np.random.default_rng(3), [], []
    for m in sizes or (n,):
        for names in combinations(range(n), m):
            one = np.zeros((count, n))
            one[:, names] = floor + (1.0 - m * floor) * g.dirichlet(np.ones(m), count)
            w, mass = [*w, one], [*mass, np.full(count, 1.0 / count)]
    return np.concatenate(w), np.concatenate(mass)


def agrees(found: pe.Distribution, w: np.ndarray, mass: np.ndarray, cases, value=None) -> None:
    """Shares of the cases (functions of w), means, second moments and presence of the weights, all in standard errors
    of ours and of the truth's, which has none where a portfolio has a mass of its own."""
    inside = np.stack([case(w) for case in cases])
    ok = inside.any(0)
    w, mass, inside = w[ok], mass[ok], inside[:, ok]
    energy = np.einsum("ki,ij,kj->k", w, covariance(w.shape[1]), w) if value is None else value(w)
    chance = mass * np.exp(-(energy - energy.min()) / found.temperature)
    chance /= chance.sum()
    part = np.where(mass < 1.0, chance, 0.0)
    assert (part**2).sum() < 1.0 / 3000
    ours = found.draws.to_numpy()
    families = len(ours) // 24
    seen = np.stack([case(ours) for case in cases])
    assert seen.any(0).all() and len(seen) == len(found.cases)
    assert np.allclose(found.cases["share"], seen.mean(1), atol=1e-12)
    both = [np.vstack([s, x.T, x.T**2, x.T > 1e-9]).astype(float) for s, x in ((seen, ours), (inside, w))]
    each = both[0].reshape(len(both[0]), 24, families).mean(1)
    truth = both[1] @ chance
    spread = np.sqrt(((both[1] - truth[:, None]) ** 2) @ part**2)
    error = np.hypot(each.std(1) / families**0.5, spread)
    assert (np.abs(each.mean(1) - truth) < 4.5 * error + 1e-9).all()
    assert found.r_hat < 1.02 and found.apart < 4.5


def test_the_shares_of_sets_apart_are_their_volumes() -> None:
    # So hot that the energy says nothing: masses are areas of the triangle, 1 - .8^2 = .36 and .2^2 = .04.
    rules = LONG & pe.Either(group("x", upper=0.2), group("x", lower=0.8))
    found = drawn(rules, 3, tolerance=1e4, moves=1600)
    told = found.cases.set_index("rule")
    assert list(told.index) == [repr(group("x", upper=0.2)), repr(group("x", lower=0.8))]
    for share, truth in zip(told["share"], (0.9, 0.1), strict=True):
        assert 0.0 < told["error"].iloc[0] < 0.03 and abs(share - truth) < 4.5 * told["error"].iloc[0]
    assert f"{told['share'].iloc[1]:.1%} (error {told['error'].iloc[1]:.1%})" in str(found.status)
    a = found.draws["A"]
    assert ((a <= 0.2 + 1e-9) | (a >= 0.8 - 1e-9)).all() and "Lebesgue measure, on portfolios of any" in str(
        found.status
    )


@pytest.mark.slow
def test_a_portfolio_of_two_cases_counts_once() -> None:
    found = drawn(LONG & pe.Either(pe.Box(upper=0.4), group("x", upper=0.5)), 4, moves=1500)
    cases = [lambda w: w.max(1) <= 0.4 + 1e-9, lambda w: w[:, :2].sum(1) <= 0.5 + 1e-9]
    assert found.cases["share"].sum() > 1.2
    agrees(found, *uniform(4), cases)


@pytest.mark.slow
def test_walls_lead_where_no_line_does() -> None:
    # Four names have to move to come from one pair to the other: no line of two names goes through both.
    pairs = [pe.Box(lower=-1.0, upper=2.0, floors=tuple((name, 0.4) for name in pair)) for pair in ("AC", "BD")]
    found = drawn(LONG & pe.Either(*pairs) & group("y", lower=0.45), 4, tolerance=1e4)
    agrees(
        found, *uniform(4, count=3_000_000),
        [lambda w, i=i: (w[:, [i, i + 2]] >= 0.4 - 1e-9).all(1) & (w[:, 2:].sum(1) >= 0.45 - 1e-9) for i in range(2)],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule, sizes, floor, cases, moves",
    [
        pytest.param(
            pe.Either(pe.Cardinality(at_most=2, min_weight=0.05), pe.Box(upper=0.4)), (1, 2, 3, 4), 0.0,
            [lambda w: ((w > 0).sum(1) <= 2) & ((w == 0) | (w >= 0.05 - 1e-9)).all(1),
             lambda w: w.max(1) <= 0.4 + 1e-9],
            None, id="a choice of names or none",
        ),
        pytest.param(
            pe.Cardinality(at_most=3, min_weight=0.05) & pe.Either(pe.Box(upper=0.5), group("x", upper=0.3)),
            (1, 2, 3), 0.05, [lambda w: w.max(1) <= 0.5 + 1e-9, lambda w: w[:, :2].sum(1) <= 0.3 + 1e-9],
            1500, id="beside a choice of names",
        ),
        pytest.param(
            pe.Either(pe.Cardinality(exactly=2, min_weight=0.1), pe.Cardinality(exactly=4, min_weight=0.05)),
            (2, 4), 0.05, [lambda w: ((w == 0) | (w >= 0.1 - 1e-9)).all(1) & ((w > 0).sum(1) == 2),
                           lambda w: (w > 0).sum(1) == 4],
            None, id="no number between",
        ),
        pytest.param(
            pe.Either(pe.Box(lower=-1.0, upper=2.0, caps=(("A", 0.0),)),
                      pe.Box(lower=-1.0, upper=2.0, floors=(("A", 0.2),))),
            (1, 2, 3, 4), 0.0, [lambda w: w[:, 0] == 0.0, lambda w: w[:, 0] >= 0.2 - 1e-9], 1500, id="out or large",
        ),
        pytest.param(
            pe.Either(
                pe.Box(upper=0.35), pe.Either(group("x", lower=0.7), group("y", lower=0.7) & pe.Box(upper=0.6))
            ),
            None, 0.0, [lambda w: w.max(1) <= 0.35 + 1e-9, lambda w: w[:, :2].sum(1) >= 0.7 - 1e-9,
                        lambda w: (w[:, 2:].sum(1) >= 0.7 - 1e-9) & (w.max(1) <= 0.6 + 1e-9)], 1500,
            id="nested",
        ),
    ],
)  # fmt: skip
def test_shares_and_weights_are_those_of_the_union(rule, sizes, floor, cases, moves) -> None:
    found = drawn(LONG & rule, 4, tolerance=1.0, moves=moves)
    agrees(found, *uniform(4, floor, sizes), cases)
    assert ("each choice of names" if sizes == (1, 2, 3, 4) else "measure") in str(found.status).replace("once", "")


@pytest.mark.slow
def test_names_traded_have_the_law_of_tickets_in_any_case() -> None:
    held, cov, ticket = np.array([0.5, 0.3, 0.2, 0.0]), covariance(4), 4e-6
    rules = LONG & pe.Either(pe.Box(upper=0.45), group("x", lower=0.75))
    energy = pe.Variance() + pe.FixedCost(rate=ticket)
    found = drawn(rules, 4, energy=energy, held=pd.Series(held, index=NAMES[:4]), tolerance=0.5)
    g, w, mass = np.random.default_rng(1), [held[None]], [np.ones(1)]
    for m in (2, 3, 4):
        for traded in combinations(range(4), m):
            one = np.tile(held, (200_000, 1))
            one[:, traded] = held[list(traded)].sum() * g.dirichlet(np.ones(m), len(one))
            w, mass = [*w, one], [*mass, np.full(len(one), 1.0 / len(one))]

    def value(w: np.ndarray) -> np.ndarray:
        return np.einsum("ki,ij,kj->k", w, cov, w) + ticket * (np.abs(w - held) > 1e-9).sum(1)

    cases = [lambda w: w.max(1) <= 0.45 + 1e-9, lambda w: w[:, :2].sum(1) >= 0.75 - 1e-9]
    agrees(found, np.concatenate(w), np.concatenate(mass), cases, value)
    assert "set of names traded once" in str(found.status)


@pytest.mark.slow
def test_shorts_or_none_with_cash_have_lebesgue_measure() -> None:
    mean = np.array([2e-5, 0.0, 1e-5, -1e-5])
    rules = pe.Budget(at_least=0.7) & pe.Either(pe.Box(lower=-0.2, upper=0.5), pe.LongOnly())
    found = drawn(rules, 4, energy=pe.Return() + pe.Variance(), tolerance=0.5, moves=1500, extra={"mean": mean})
    w = np.random.default_rng(2).uniform(-0.2, 1.0, (8_000_000, 4))
    w = w[(w.sum(1) >= 0.7) & (w.sum(1) <= 1.0)]
    cases = [lambda w: (w.max(1) <= 0.5 + 1e-9) & (w.min(1) >= -0.2 - 1e-9), lambda w: w.min(1) >= -1e-9]
    agrees(
        found, w, np.full(len(w), 1e-6), cases, lambda w: np.einsum("ki,ij,kj->k", w, covariance(4), w) - w @ mean
    )  # fmt: skip


@pytest.mark.slow
def test_exact_numbers_alike_have_lebesgue_measure() -> None:
    three = pe.Cardinality(exactly=3, min_weight=0.05)
    found = drawn(
        LONG & pe.Either(three & pe.Box(upper=0.5), three & group("x", lower=0.6)), 4, tolerance=0.5, moves=1500
    )
    cases = [lambda w: w.max(1) <= 0.5 + 1e-9, lambda w: w[:, :2].sum(1) >= 0.6 - 1e-9]
    agrees(found, *uniform(4, 0.05, (3,)), cases)
    assert "slices of exactly 3 names" in str(found.status)


@pytest.mark.slow
def test_other_energies_and_curved_caps_have_their_law() -> None:
    energy, cov = pe.Volatility() + 0.01 * pe.Herfindahl(), covariance(4)

    def spread(w: np.ndarray) -> np.ndarray:
        return np.sqrt(np.einsum("ki,ij,kj->k", w, cov, w))

    def value(w: np.ndarray) -> np.ndarray:
        return spread(w) + 0.01 * (w**2).sum(1)

    rules = LONG & pe.Either(pe.VolatilityCap(0.0062), pe.Box(upper=0.45) & group("x", lower=0.5))
    found = drawn(rules, 4, energy=energy, moves=1500)
    agrees(
        found, *uniform(4, count=3_000_000),
        [lambda w: spread(w) <= 0.0062 + 1e-12,
         lambda w: (w.max(1) <= 0.45 + 1e-9) & (w[:, :2].sum(1) >= 0.5 - 1e-9)], value,
    )  # fmt: skip
    assert "Metropolis" in str(found.status)


@pytest.mark.slow
def test_every_portfolio_of_whole_lots_in_any_case_has_its_share() -> None:
    prices = pd.Series([50.0, 33.0, 71.0, 40.0], index=NAMES[:4])
    rules = (
        pe.Budget(at_least=0.9) & pe.LongOnly() & pe.RoundLots() & pe.Either(pe.Box(upper=0.3), group("x", lower=0.7))
    )
    found = drawn(rules, 4, extra={"prices": prices, "capital": 1000.0}, tolerance=1.0)
    step = prices.to_numpy() / 1000.0
    w = np.array(list(product(*[np.arange(int(1.0 / s) + 1) for s in step]))) * step
    w = w[(w.sum(1) <= 1.0 + 1e-9) & (w.sum(1) >= 0.9 - 1e-9)]
    agrees(
        found, w, np.ones(len(w)), [lambda w: w.max(1) <= 0.3 + 1e-9, lambda w: w[:, :2].sum(1) >= 0.7 - 1e-9],
    )  # fmt: skip


def test_a_case_without_a_portfolio_and_one_that_no_draw_meets_are_told_apart() -> None:
    # Nine tenths in a name of 400 times the variance: its chance beside the others is nothing, and finite draws say so.
    alone = pe.Box(lower=-1.0, upper=2.0, floors=(("C", 0.9),))
    rules = LONG & pe.Either(pe.Box(upper=0.45), pe.Either(pe.Box(upper=0.2), alone))
    found = drawn(rules, 3, moves=900, chains=256, extra={"covariance": np.diag([1.0, 1.0, 400.0])})
    told = found.cases.set_index("rule")
    assert told["share"].tolist() == [1.0, 0.0, 0.0] and not told["error"].any()
    assert told["at_most"].tolist() == pytest.approx([1.0, 3.0 / found.ess, 0.0])
    assert told.index.tolist() == [repr(pe.Box(upper=0.45)), repr(alone), repr(pe.Box(upper=0.2))]
    assert f"{alone!r} met by no draw, at most about {3.0 / found.ess:.2g}" in str(found.status)
    assert f"{pe.Box(upper=0.2)!r} none, no portfolio was found there" in str(found.status)
    with pytest.raises(InfeasibleError):
        drawn(LONG & pe.Either(pe.Box(upper=0.1), pe.Box(upper=0.2)), 3)


@pytest.mark.parametrize(
    "rules, words",
    [
        pytest.param(LONG & pe.Either(group("x", lower=0.5, upper=0.5), pe.Box(upper=0.5)), "an equation of its own",
                     id="equation"),
        pytest.param(
            LONG & pe.Either(pe.Box(lower=-1, upper=2, caps=(("A", 0.2),), floors=(("A", 0.2),)), pe.Box(upper=0.5)),
            "fixes a weight", id="a weight",
        ),
        pytest.param(LONG & pe.Either(pe.RoundLots(), pe.Box(upper=0.5)), "RoundLots.* beside it", id="lots"),
    ],
)  # fmt: skip
def test_cases_that_no_volume_compares_are_refused_in_words(rules, words) -> None:
    with pytest.raises(SpecError, match=words):
        drawn(rules, 4, extra={"prices": pd.Series(50.0, index=NAMES[:4]), "capital": 1000.0})


def test_cases_that_the_chains_had_no_time_for_are_an_error() -> None:
    with pytest.raises(SolverError, match="did not mix"):
        drawn(LONG & pe.Either(group("x", upper=0.02), group("x", lower=0.98)), 4, moves=60, chains=128)


def test_exchange_behind_walls_leaves_the_product_of_laws() -> None:
    # exp(-E / T - lambda V) with E and V independent: exponentials of scales T and 1 / lambda.
    levels, stiff, families = torch.tensor([0.5, 1.0, 1.0]), torch.tensor([2.0, 1.0, 0.5]), 20_000
    levels, stiff, rng = levels.double(), stiff.double(), torch.Generator().manual_seed(0)
    draws = torch.empty(2, 3, families, dtype=torch.float64).exponential_(generator=rng)
    energy, wall = (draws[0] * levels[:, None]).flatten(), (draws[1] / stiff[:, None]).flatten()
    for odd in (False, True, False):
        order = exchanged(energy, levels, odd, rng, (wall, stiff))
        assert bool((order != torch.arange(3 * families)).any())
        energy, wall = energy[order], wall[order]
    for level, slope, one, other in zip(levels, stiff, energy.reshape(3, -1), wall.reshape(3, -1), strict=True):
        assert stats.kstest(one.numpy() / float(level), "expon").pvalue > 1e-3
        assert stats.kstest(other.numpy() * float(slope), "expon").pvalue > 1e-3
