"""ensemble over whole lots: against every portfolio of the grid, and lots too coarse to say anything."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.errors import SolverError, SpecError

NAMES = list("ABCD")
PRICES = pd.Series([50.0, 33.0, 71.0, 40.0], index=NAMES)
HELD = pd.Series([0.25, 0.231, 0.355, 0.12], index=NAMES)


def covariance() -> np.ndarray:
    g = np.random.default_rng(0)
    loadings = g.normal(size=(4, 3))
    return 1e-4 * (0.3 * loadings @ loadings.T + np.diag(g.uniform(0.5, 3.0, 4)))


def drawn(energy: pe.Energy, rules: pe.Constraint, prices: pd.Series, **more: object) -> pe.Distribution:
    law = pe.Ensemble(0.15, **{"support": "all", "chains": 128, **more})
    return pe.ensemble(
        energy, rules & pe.LongOnly() & pe.RoundLots(), covariance=covariance(), assets=NAMES, prices=prices,
        capital=1000.0, held=HELD, law=law,
    )  # fmt: skip


def test_every_portfolio_of_the_grid_has_its_share() -> None:
    energy = pe.Variance() + pe.FixedCost(rate=4e-6) + pe.TradingCost(2e-6)
    found = drawn(energy, pe.Budget(at_least=0.9) & pe.Cardinality(at_most=3, min_weight=0.1), PRICES)
    step, cov = PRICES.to_numpy() / 1000.0, covariance()
    w = np.array(list(product(*[np.arange(int(1.0 / s) + 1) for s in step]))) * step
    w = w[(w.sum(1) <= 1.0 + 1e-9) & (w.sum(1) >= 0.9 - 1e-9)]
    w = w[((w == 0.0) | (w >= 0.1 - 1e-9)).all(1) & ((w > 0.0).sum(1) <= 3)]
    trade = np.abs(w - HELD.to_numpy())
    value = np.einsum("ki,ij,kj->k", w, cov, w) + 4e-6 * (trade > 1e-9).sum(1) + 2e-6 * trade.sum(1)
    chance = np.exp(-(value - value.min()) / found.temperature)
    chance /= chance.sum()
    ours = found.draws.to_numpy()
    families = len(ours) // 24
    assert np.allclose(ours / step, (ours / step).round(), atol=1e-6)
    for seen, truth in ((ours, w), (ours > 1e-3, w > 1e-3), (np.abs(ours - HELD.to_numpy()) > 1e-9, trade > 1e-9)):
        each = seen.astype(float).reshape(-1, families, 4).mean(0)
        error = each.std(0) / families**0.5 + 0.1 / len(ours) ** 0.5 * truth.std(0)
        assert (np.abs(each.mean(0) - chance @ truth) < 4.5 * error + 1e-9).all()
    assert "whole lots once" in str(found.status) and found.r_hat < 1.02 and found.apart < 4.5
    assert abs(found.excess.mean() / found.tolerated - 1.0) < 0.3 and found.excess.min() >= -1e-12


def test_lots_so_coarse_that_portfolios_stand_alone_are_an_error() -> None:
    # 30 % and 70 %, or 55 % and 45 %: no move of two names leads from one to the other.
    with pytest.raises(SolverError, match=r"did not mix|No portfolio of whole lots"):
        drawn(pe.Variance(), pe.Budget(at_least=0.99), pd.Series([300.0, 550.0, 700.0, 450.0], index=NAMES), moves=1500)


def test_lots_that_have_to_add_up_to_all_are_refused_in_words() -> None:
    with pytest.raises(SpecError, match="leave room for cash"):
        drawn(pe.Variance(), pe.Budget(), pd.Series([100.0, 50.0, 100.0, 50.0], index=NAMES))
