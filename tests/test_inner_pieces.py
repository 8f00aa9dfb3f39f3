"""Choices under a mean absolute deviation: its slices go to the interior point, and the optimum is known by hand."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.construction.choosing import inner

RETURNS = pd.DataFrame([[0.1, 0.2, -0.1], [-0.1, -0.2, 0.1]], columns=list("ABC"))
"""Every portfolio earns x or -x, x = .1 a + .2 b - .1 c, so that its mean absolute deviation is |x|."""
LONG = pe.Budget() & pe.LongOnly()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a slice was solved by the interior point, and how often by cvxpy."""
    asked: Counter[str] = Counter()
    through, pieces = inner.through_cvxpy, inner._in_pieces
    monkeypatch.setattr(inner, "through_cvxpy", lambda *a: (asked.update(["cvxpy"]), through(*a))[1])
    monkeypatch.setattr(inner, "_in_pieces", lambda *a: (asked.update(["pieces"]), pieces(*a))[1])
    return asked


@pytest.mark.parametrize(
    "rule, least",
    [
        (pe.Cardinality(at_most=1), 0.1),  # A alone or C alone
        (pe.Cardinality(at_most=2, min_weight=0.3), 0.0),  # half A and half C
        (pe.Cardinality(exactly=3, min_weight=0.2), 0.0),  # .2 of B is .04, which .2 of A and .6 of C take back
        (pe.Cardinality(exactly=3, min_weight=0.3), 0.05),  # at most .4 of C: .03 + .06 - .04
    ],
)
def test_the_optimum_is_known_and_proven(rule: pe.Constraint, least: float, engines: Counter[str]) -> None:
    found = pe.optimize(pe.MeanAbsoluteDeviation(), LONG & rule, scenarios=RETURNS)
    assert found.energy == pytest.approx(least, abs=1e-9)
    assert found.bound == pytest.approx(least, abs=1e-8)
    assert engines["pieces"] > 0 and engines["cvxpy"] == 0


def test_a_dear_ticket_keeps_what_is_held(engines: Counter[str]) -> None:
    """All of A is .1 and costs nothing; anything else pays two tickets of .2."""
    held = pd.Series([1.0, 0.0, 0.0], index=list("ABC"))
    energy = pe.MeanAbsoluteDeviation() + pe.FixedCost(rate=0.2)
    found = pe.optimize(energy, LONG, scenarios=RETURNS, held=held)
    assert found.weights.tolist() == [1.0, 0.0, 0.0]
    assert found.energy == pytest.approx(0.1, abs=1e-12) and found.bound == pytest.approx(0.1, abs=1e-8)
    # With a ticket of .02 half of C is bought: nothing is left of .1, for two tickets.
    cheap = pe.MeanAbsoluteDeviation() + pe.FixedCost(rate=0.02)
    found = pe.optimize(cheap, LONG, scenarios=RETURNS, held=held)
    assert found.weights.tolist() == pytest.approx([0.5, 0.0, 0.5], abs=1e-6)
    assert found.energy == pytest.approx(0.04, abs=1e-9)
