"""Why a name has its weight: marginal energies with the rules priced in, by hand."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

import portfolio_ebm as pe

RULES = pe.Budget() & pe.LongOnly()


def test_marginal_energies_by_hand() -> None:
    # All in A: the budget is worth 0.03, so B, which earns 0.01, costs 0.02 a unit.
    best = pe.optimize(pe.Return(), RULES, mean=[0.03, 0.01], assets=["A", "B"], constructor=pe.Convex())
    assert best.marginal["reduced"].to_dict() == pytest.approx({"A": 0.0, "B": 0.02}, abs=1e-12)
    assert "raise the energy by 0.0002" in best.why("B") and "No bound" in best.why("A")
    # The gradient 2 S w at w = (1, 0) is (2, 3).
    cov = np.array([[1.0, 1.5], [1.5, 4.0]])
    risk = pe.optimize(pe.Variance(), RULES, covariance=cov, assets=["A", "B"], constructor=pe.Convex())
    assert risk.marginal["reduced"].to_dict() == pytest.approx({"A": 0.0, "B": 1.0}, abs=1e-9)
    assert risk.marginal["marginal"].to_dict() == pytest.approx({"A": 2.0, "B": 3.0}, abs=1e-9)
    assert risk.marginal["weight"].to_dict() == pytest.approx({"A": 1.0, "B": 0.0}, abs=1e-9)
    assert risk.marginal["held_by"].to_dict() == {"A": "", "B": "LongOnly() at 0"}
    # Held back by its cap: A would earn 0.02 more than B.
    capped = RULES & pe.Box(upper=0.6)
    back = pe.optimize(pe.Return(), capped, mean=[0.03, 0.01], assets=["A", "B"], constructor=pe.Convex())
    assert back.marginal["reduced"]["A"] == pytest.approx(-0.02, abs=1e-12) and "lower the energy" in back.why("A")
    assert back.marginal["held_by"]["A"] == "Box(upper=0.6) at 0.6" and "Box(upper=0.6) at 0.6" in back.why("A")
    with pytest.raises(pe.errors.SpecError, match="No asset 'C'"):
        best.why("C")


def test_chains_price_the_budget_by_the_names_held() -> None:
    # The best two of three are A and B, alike: half each. Slopes 2 s_i w_i = (0.04, 0.04, 0), so C reads -0.04.
    cov = np.diag([0.04, 0.04, 0.09])
    rules = RULES & pe.Cardinality(at_most=2)
    found = pe.optimize(pe.Variance(), rules, covariance=cov, assets=["A", "B", "C"])
    assert found.marginal["marginal"].to_dict() == pytest.approx({"A": 0.04, "B": 0.04, "C": 0.0}, abs=1e-9)
    assert found.marginal["reduced"].to_dict() == pytest.approx({"A": 0.0, "B": 0.0, "C": -0.04}, abs=1e-9)
    assert found.marginal["held_by"].to_dict() == {"A": "", "B": "", "C": "left out by Cardinality(at_most=2)"}
    assert "lower the energy by 0.0004, the budget priced in. What holds it: left out by" in found.why("C")
    # Where the multipliers are known, the gradient and the budget alone say the same.
    free = RULES & pe.Cardinality(at_most=3)
    three = [
        pe.optimize(pe.Variance(), some, covariance=cov, constructor=how)
        for some, how in ((RULES, pe.Convex()), (RULES, pe.AnnealedLangevin()), (free, pe.AnnealedLangevin()))
    ]
    for item in three[1:]:
        np.testing.assert_allclose(item.marginal["reduced"], three[0].marginal["reduced"], atol=1e-8)
    assert [item.priced for item in three] == ["the other rules", "the other rules", "the budget"]


def test_marginal_energies_are_those_of_the_call_whenever_they_are_read() -> None:
    cov, weights = torch.tensor([[1.0, 1.5], [1.5, 4.0]], dtype=torch.float64), torch.tensor([1.0, 0.0]).double()
    call = {"covariance": cov, "constructor": pe.AnnealedLangevin()}
    now = pe.optimize(pe.Variance(), RULES, **call)
    later, stored = pe.optimize(pe.Variance(), RULES, **call), pickle.dumps(pe.optimize(pe.Variance(), RULES, **call))
    frame = now.marginal
    assert frame["weight"].tolist() == pytest.approx(weights.tolist(), abs=1e-9)
    later.weights.zero_()
    cov.zero_()
    pd.testing.assert_frame_equal(later.marginal, frame)
    pd.testing.assert_frame_equal(pickle.loads(stored).marginal, frame)
    assert torch.equal(pickle.loads(stored).ensemble, now.ensemble) and later.priced == "the other rules"


def test_an_input_is_let_go_once_all_that_waits_for_it_was_read() -> None:
    cov = pd.DataFrame(np.eye(3), list("ABC"), list("ABC"))
    kept = weakref.ref(cov)
    found = pe.optimize(pe.Variance(), RULES, covariance=cov)
    del cov
    assert found.ablation and found.ranges and found.marginal is not None
    gc.collect()
    assert kept() is None, "chains that ran are framed without it"
    assert list(found.ensemble.columns) == list("ABC")


def test_weights_that_no_formula_decided_say_so() -> None:
    found = pe.optimize(pe.Variance(), RULES, covariance=np.eye(2), assets=["A", "B"], constructor=pe.EqualWeight())
    assert found.marginal is None and "no formula decided it" in found.why("A")
