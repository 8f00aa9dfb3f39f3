"""A slice by Clarabel: what it hands back where Clarabel comes to no end, or ends beside the rules."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from portfolio_ebm.constraints.mixed.programs import conic
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Slice

N = 5
CURVES = np.linspace(1.0, 3.0, N)


def slice_(share: float = 1.0, turnover: float = np.inf) -> Slice:
    """A budget of one, and the first two names at most `share` of it; from equal weights."""
    rows = np.array([np.ones(N), np.arange(N) < 2])
    low, high = np.array([1.0, -np.inf]), np.array([1.0, share])
    p = Program(
        np.diag(CURVES), np.zeros(N), np.zeros(N), np.ones(N), rows, low, high, np.full(N, 1.0 / N), 0.0, turnover
    )
    return Slice(p, p.lower, p.upper, rows, low, high)


def obeys(s: Slice, w: np.ndarray) -> bool:
    at = s.rows @ w
    off = max(float((at - s.high).max()), float((s.low - at).max()), float((s.lower - w).max()))
    return max(off, float(np.abs(w - s.program.held).sum()) - s.program.turnover) <= 1e-9


@pytest.mark.parametrize("turnover", [np.inf, 0.3])
def test_no_end_is_not_an_empty_slice(monkeypatch: pytest.MonkeyPatch, turnover: float) -> None:
    def failing(*_: object, **__: object) -> None:
        raise cp.error.SolverError("insufficient progress")

    monkeypatch.setattr(cp.Problem, "solve", failing)
    found = conic.by_cone(slice_(0.3, turnover))
    assert found is not None
    assert found.bound == -np.inf
    assert obeys(slice_(0.3, turnover), found.weights)
    assert found.value == pytest.approx(0.5 * float(CURVES @ found.weights**2))
    assert conic.by_cone(slice_(-0.1)) is None


@pytest.mark.parametrize("turnover", [np.inf, 0.3])
def test_an_end_beside_the_rules_is_brought_onto_the_slice(monkeypatch: pytest.MonkeyPatch, turnover: float) -> None:
    exact = conic.by_cone(slice_(0.3, turnover))
    assert exact is not None
    if turnover == np.inf:
        assert exact.value == pytest.approx(slice_(0.3).program.minimum(*_rules(slice_(0.3))).value, abs=1e-9)
    monkeypatch.setattr(conic, "snapped", lambda w, *_: w + 1e-6 * np.arange(N))
    found = conic.by_cone(slice_(0.3, turnover))
    assert found is not None
    assert obeys(slice_(0.3, turnover), found.weights)
    assert found.bound <= exact.value <= found.value + 1e-9


def _rules(s: Slice) -> tuple[np.ndarray, ...]:
    return s.lower, s.upper, s.rows, s.low, s.high


def test_an_empty_slice_has_no_point() -> None:
    assert conic.by_cone(slice_(-0.1)) is None
