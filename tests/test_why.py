"""Why a name has its weight: marginal energies with the rules priced in, by hand."""

from __future__ import annotations

import numpy as np
import pytest

import portfolio_ebm as pe

RULES = pe.Budget() & pe.LongOnly()


def test_marginal_energies_by_hand() -> None:
    # All in A: the budget is worth 0.03, so B, which earns 0.01, costs 0.02 a unit.
    best = pe.optimize(pe.Return(), RULES, mean=[0.03, 0.01], assets=["A", "B"], constructor=pe.Convex())
    assert best.reduced.to_dict() == pytest.approx({"A": 0.0, "B": 0.02}, abs=1e-12)
    assert "raise the energy by 0.0002" in best.why("B") and "no bound" in best.why("A")
    # The gradient 2 S w at w = (1, 0) is (2, 3).
    cov = np.array([[1.0, 1.5], [1.5, 4.0]])
    risk = pe.optimize(pe.Variance(), RULES, covariance=cov, assets=["A", "B"], constructor=pe.Convex())
    assert risk.reduced.to_dict() == pytest.approx({"A": 0.0, "B": 1.0}, abs=1e-9)
    # Held back by its cap: A would earn 0.02 more than B.
    capped = RULES & pe.Box(upper=0.6)
    back = pe.optimize(pe.Return(), capped, mean=[0.03, 0.01], assets=["A", "B"], constructor=pe.Convex())
    assert back.reduced["A"] == pytest.approx(-0.02, abs=1e-12) and "lower the energy" in back.why("A")
    with pytest.raises(pe.errors.SpecError, match="No asset 'C'"):
        best.why("C")
