"""Whole lots are proven: bounds, screening and the search over columns against every portfolio of small grids."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import portfolio_ebm as pe
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.grids.lattice import Lattice, lattice_of
from portfolio_ebm.constraints.mixed.grids.lattice_bound import around, mixed_columns
from portfolio_ebm.constraints.mixed.grids.lattice_tree import LotProof, LotTree
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Cut
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.optimization import given_context

CAPITAL = 1000.0


def problem(seed: int, n: int = 4, lots: float = 1.0) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(n, 2)) * 0.05
    names, prices = [f"A{k}" for k in range(n)], np.round(lots * rng.uniform(40.0, 160.0, n))
    held = np.floor(rng.dirichlet(np.full(n, 0.8)) * CAPITAL / prices) * prices / CAPITAL
    return {
        "mean": rng.normal(4e-3, 6e-3, n), "covariance": loads @ loads.T + np.diag(rng.uniform(1e-3, 6e-3, n)),
        "assets": names, "prices": prices, "capital": CAPITAL, "held": held, "volume": np.full(n, 4e4),
        "groups": {"sector": {name: "xy"[k % 2] for k, name in enumerate(names)},
                   "issuer": {name: f"issuer {k // 2}" for k, name in enumerate(names)}},
    }  # fmt: skip


FORMULA = pe.Return() + 2.0 * pe.Variance() + pe.FixedCost(rate=5e-4) + pe.MarketImpact() + pe.TradingCost(2e-4)
ROOM = pe.Budget(at_least=0.85)
RULES = {
    "budget": ROOM & pe.LongOnly(),
    "short": ROOM & pe.Box(-0.25, 0.6),
    "turnover": ROOM & pe.LongOnly() & pe.Turnover(0.5),
    "numbers": ROOM & pe.LongOnly() & pe.Cardinality(at_most=3, min_weight=0.1) & pe.Turnover(1.0),
    "exact number": ROOM & pe.LongOnly() & pe.Cardinality(exactly=2, min_weight=0.05),
    "minimum": ROOM & pe.LongOnly() & pe.MinPosition(0.15) & pe.Group("sector", upper=0.6),
    "funds": pe.Budget(at_least=0.3) & pe.LongOnly() & pe.UCITS(issuers=None),
    "25/50 of issuers": pe.Budget(at_least=0.6) & pe.LongOnly() & pe.RIC2550(issuers="issuer"),
    "volatility": pe.Budget(at_least=0.7) & pe.LongOnly() & pe.VolatilityCap(0.06),
}


def least_of_all(
    energy: pe.Energy, rules: pe.Constraint, given: dict[str, object], least: float, most: float
) -> float:  # fmt: skip
    """Every portfolio of the grid, judged by the rules themselves; +inf where none obeys them."""
    ctx = given_context(energy, rules, **given).ctx
    step = np.asarray(given["prices"]) / CAPITAL
    counts = [np.arange(np.ceil(least / s), np.floor(most / s + 1e-9) + 1.0) for s in step]
    w = torch.tensor(np.array(list(itertools.product(*counts))) * step)
    w = w[w.sum(1) <= 1.0 + 1e-8]
    for rule in rules.rules():
        w = w[rule.residual(w, ctx) <= 1e-9]
    return float(energy.bind(ctx)(w).min()) if len(w) else np.inf


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(k, marks=pytest.mark.slow) for k in range(2, 12))])
def test_whole_lots_are_the_best_of_all_and_proven(seed: int, rule: str) -> None:
    given, rules = problem(seed, lots=0.25 if rule == "funds" else 1.0), RULES[rule] & pe.RoundLots()
    energy = FORMULA if seed % 2 else pe.Return() + 2.0 * pe.Variance() + pe.FixedCost(rate=5e-4)
    ends = {"short": (-0.25, 0.6), "funds": (0.0, 0.1)}.get(rule, (0.0, 1.0))
    truth = least_of_all(energy, rules, given, *ends)
    if truth == np.inf:
        with pytest.raises(InfeasibleError):
            pe.optimize(energy, rules, **given)
        return
    found = pe.optimize(energy, rules, **given)
    assert found.energy == pytest.approx(truth, abs=1e-10)
    assert found.bound is not None and found.bound <= truth + 1e-12
    assert found.proven and "proven best by columns of lots" in str(found.status)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_search_that_ends_early_leaves_a_true_bound_above_that_of_fractions(seed: int) -> None:
    """Least variance of forty names in coarse lots: a search of few nodes says that it proves nothing."""
    given, rules = problem(seed, 40), RULES["budget"]
    energy, one = pe.Variance(), pe.AnnealedLangevin(nodes=4)
    short = pe.optimize(energy, rules & pe.RoundLots(), constructor=one, **given)
    longer = pe.optimize(energy, rules & pe.RoundLots(), **given)
    fractions = pe.optimize(energy, rules, **given)
    assert short.bound is not None and fractions.bound is not None and longer.proven
    assert "which columns of lots bound and do not prove best" in str(short.status)
    assert fractions.bound + 0.01 * longer.energy < short.bound < longer.energy <= short.energy


def lattice(seed: int) -> tuple[Lattice, np.ndarray, np.ndarray]:
    """Columns under a budget and a cap on two names, with the energy and the columns of every portfolio they allow."""
    rng, n = np.random.default_rng(seed), 4
    root = rng.normal(size=(n, n)) * 0.1
    step, rows = rng.uniform(0.08, 0.2, n), np.vstack([np.ones(n), [1.0, 1.0, 0.0, 0.0]])
    program = Program(
        root @ root.T + 0.01 * np.eye(n), rng.normal(size=n) * 0.02, np.zeros(n), np.ones(n), rows,
        np.array([0.8, -np.inf]), np.array([1.0, 0.5]), step * 2.0, 3e-3, 0.9,
    )  # fmt: skip
    stays = Choices.of_names(np.arange(n), [(0.0, 0.0), (-np.inf, np.inf)], [], "FixedCost")
    stays.lower[:, 0], stays.upper[:, 0], stays.cost[:, 1] = program.held, program.held, 2e-3
    found = lattice_of(Mixed(program, stays.clipped(program.lower, program.upper)), step)
    assert found is not None
    taken = np.array(list(itertools.product(*(np.flatnonzero(found.name == k) for k in range(n)))))
    w = found.x[taken]
    fits = ((w @ rows.T <= [1.0, 0.5]) & (w @ rows.T >= [0.8, -1.0])).all(1) & (np.abs(w - program.held).sum(1) <= 0.9)
    w, taken = w[fits], taken[fits]
    energy = 0.5 * np.einsum("ki,ij,kj->k", w, program.matrix, w) + w @ program.linear
    z = np.abs(w - program.held)
    return found, energy + 3e-3 * z.sum(1) + 2e-3 * (z > 1e-9).sum(1), taken


@pytest.mark.parametrize("seed", range(5))
def test_any_multipliers_bound_every_portfolio_and_each_column(seed: int) -> None:
    found, energy, taken = lattice(seed)
    rng, alive = np.random.default_rng(seed), np.ones(len(found.x), dtype=bool)
    best = mixed_columns(found, around(found, np.full(4, 0.25)))
    assert best is not None and np.isfinite(found.split).all() and found.split.min() > 0.0
    draws = [(rng.uniform(0.0, 0.5, 4), np.append(rng.normal(size=1), rng.uniform(0.0, 0.3, 2)) * 0.05)]
    for y, mu in [*draws, (best.y, best.mu)]:
        bound, above = found.bound(y, mu, alive)
        assert (bound + above[taken].max(axis=1) <= energy + 1e-12).all()
        assert bound <= best.bound + 1e-9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("known", [False, True])
def test_the_search_finds_the_best_with_or_without_an_incumbent(
    seed: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few portfolios are looked at at once, so that lattices are split."""
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.grids.lattice_tree.FEW", 12)
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.grids.matching.HALF", 2)
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.grids.lattice_tree.USES", 60)
    found, energy, taken = lattice(seed)
    worst = int(energy.argmax())

    def search(value: float, w: np.ndarray | None, breaks: float) -> LotProof:
        tree = LotTree(found, w, value, lambda w: np.full(len(w), breaks), lambda w: (), 1e-12)
        return tree.grow(around(found, np.full(4, 0.25)), 10_000)

    end = search(float(energy[worst]), found.x[taken[worst]], 0.0) if known else search(np.inf, None, 0.0)
    assert end.finished and end.value == pytest.approx(energy.min(), abs=1e-12) and end.nodes > 2
    assert end.bound == pytest.approx(energy.min(), abs=1e-11) and end.bound <= energy.min() + 1e-15
    assert end.weights == pytest.approx(found.x[taken[energy.argmin()]])
    nothing = search(np.inf, None, 1.0)
    assert nothing.finished and nothing.weights is None and nothing.bound == np.inf


@pytest.mark.parametrize("rounds", [1, 2, 20])
@pytest.mark.parametrize("seed", range(3))
def test_a_curved_cap_is_judged_where_the_rounds_of_cuts_end_before_it_is_met(
    seed: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.grids.lattice_tree.FEW", 12)
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.grids.lattice_tree.CUTS", rounds)
    found, energy, taken = lattice(seed)
    centre, radius = np.full(4, 0.2), 0.3

    def cuts(w: np.ndarray) -> list[Cut]:
        away = w - centre
        far = float(np.linalg.norm(away))
        return [(away / far, -np.inf, radius + float(centre @ away) / far)] if far > radius else []

    tree = LotTree(found, None, np.inf, lambda w: np.linalg.norm(w - centre, axis=1) - radius, cuts, 1e-12)
    end = tree.grow(around(found, np.full(4, 0.25)), 10_000)
    truth = energy[np.linalg.norm(found.x[taken] - centre, axis=1) <= radius].min()
    assert end.finished and end.value == pytest.approx(truth, abs=1e-12) and end.bound <= truth + 1e-12


def test_lots_that_the_tolerance_of_rules_lets_pass_are_columns() -> None:
    """A cap half the tolerance below 500 lots of .001 allows 500."""
    cap, none = np.full(1, 0.5 - 5e-10), np.zeros(0)
    p = Program(np.eye(1), np.zeros(1), np.zeros(1), cap, np.zeros((0, 1)), none, none)
    found = lattice_of(Mixed(p, Choices.none()), np.full(1, 1e-3))
    assert found is not None and found.x.max() == pytest.approx(0.5, abs=1e-15) and found.x.min() == 0.0


def test_a_lattice_leaves_what_it_does_not_know_to_others() -> None:
    """Too many lots, a name without an end, a name that is neither fixed nor in lots."""
    p = Program(np.eye(2), np.zeros(2), np.zeros(2), np.ones(2), np.ones((1, 2)), np.ones(1), np.ones(1))
    mixed, even = Mixed(p, Choices.none()), np.full(2, 0.25)
    assert lattice_of(mixed, even) is not None
    assert lattice_of(mixed, np.full(2, 1e-6)) is None and lattice_of(mixed, np.array([0.25, 0.0])) is None
    endless = Program(np.eye(2), np.zeros(2), np.zeros(2), np.full(2, np.inf), *(p.rows, p.row_lower, p.row_upper))
    assert lattice_of(Mixed(endless, Choices.none()), even) is None


def test_tickets_that_the_grid_forces_are_in_the_bound() -> None:
    # What is held, 5 % a name, is no whole number of lots but for one name: nineteen tickets have to be paid. Fractions
    # pay none, and nodes whose columns miss the budget at first were bounded below their parents.
    returns = pe.bundled().returns_frame().tail(750)
    names = list(returns.columns)
    prices = pd.Series(np.linspace(20.0, 300.0, len(names)).round(2), index=names)
    found = pe.optimize(
        5.0 * pe.Variance() + pe.FixedCost(2e-4) + pe.TradingCost(5e-4),
        pe.Budget(at_least=0.98) & pe.LongOnly() & pe.RoundLots() & pe.Turnover(0.6),
        scenarios=returns, held=pd.Series(0.05, index=names), prices=prices, capital=1e5,
    )  # fmt: skip
    assert found.bound > 19 * 2e-4
    assert found.proven and "proven best by columns of lots" in str(found.status)
