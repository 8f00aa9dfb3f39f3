"""The doors: loading a strategy file, rebalance, optimize; and what each says to bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import portfolio_ebm as pe
from portfolio_ebm.errors import DataError, InfeasibleError, ShapeError, SpecError

ROOT = Path(__file__).resolve().parent.parent


def panel(days: int = 300, n: int = 5) -> pe.Panel:
    rng = np.random.default_rng(0)
    index = pd.bdate_range("2019-01-01", periods=days)
    returns = 0.01 * rng.standard_normal((days, n)) + 0.0003
    return pe.Panel.from_prices(100 * pd.DataFrame(1 + returns, index=index, columns=list("ABCDEFGH"[:n])).cumprod())


MIN_VARIANCE = pe.Strategy(
    name="mv",
    market=pe.SampleMoments(lookback=100),
    energy=pe.Variance(),
    constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.5),
    constructor=pe.Convex(),
)


@pytest.mark.parametrize("name", ["factor_ebm", "minimum_variance", "equal_weight"])
def test_the_shipped_strategies_load_round_trip_and_paste_back(name: str) -> None:
    strategy = pe.Strategy.load(ROOT / "strategies" / f"{name}.py")
    assert pe.Strategy.from_json(strategy.model_dump_json()) == strategy
    assert eval(repr(strategy), {item: getattr(pe, item) for item in pe.__all__}) == strategy


def test_load_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such strategy file"):
        pe.Strategy.load(tmp_path / "nothing.py")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(SpecError, match="defines no STRATEGY"):
        pe.Strategy.load(tmp_path / "a.py")
    with pytest.raises(SpecError, match=r"There is a\.py"):
        pe.Strategy.load(tmp_path / "aa.py")
    (tmp_path / "b.py").write_text("from portfolio_ebm import CVaR\n\nSTRATEGY = CVaR(level=2)\n")
    with pytest.raises(SpecError, match=r"b\.py, line 3: SpecError: CVaR: 'level'"):
        pe.Strategy.load(tmp_path / "b.py")
    (tmp_path / "c.py").write_text("STRATEGY = (\n")
    with pytest.raises(SpecError, match="SyntaxError"):
        pe.Strategy.load(tmp_path / "c.py")


def test_rebalance_gives_named_weights_with_a_certificate() -> None:
    data = panel()
    allocation = pe.rebalance(MIN_VARIANCE, data.past("2020-01-15"), None)
    assert isinstance(allocation.weights, pd.Series)
    assert allocation.weights.name == "weight"
    assert list(allocation.weights.index) == list(data.assets)
    assert allocation.weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert allocation.status.ok
    assert allocation.gap is not None
    assert -1e-9 <= allocation.gap <= 1e-8
    assert max(allocation.residuals.values()) <= 1e-9
    assert sum(allocation.breakdown.values()) == pytest.approx(allocation.energy)
    low, high = allocation.ranges["Variance()"]
    assert low <= allocation.breakdown["Variance()"] <= high


def test_holdings_come_in_every_form() -> None:
    past = panel().past(250)
    strategy = MIN_VARIANCE.replace(constraint=MIN_VARIANCE.constraint & pe.Turnover(at_most=0.2))
    weights = [0.2, 0.2, 0.2, 0.2, 0.2]
    forms = (np.array(weights), pd.Series(weights, index=list("EDCBA")), dict(zip("ABCDE", weights, strict=True)))
    found = [pe.rebalance(strategy, past, held).weights for held in forms]
    for other in found[1:]:
        pd.testing.assert_series_equal(found[0], other)
    assert (found[0] - 0.2).abs().sum() == pytest.approx(0.2, abs=1e-9)


def test_rebalance_refuses_holdings_it_does_not_know() -> None:
    past = panel().past(250)
    with pytest.raises(DataError, match="AA"):
        pe.rebalance(MIN_VARIANCE, past, {"AA": 0.5})
    with pytest.raises(DataError, match="4 weights and there are 5 assets"):
        pe.rebalance(MIN_VARIANCE, past, [0.25] * 4)
    with pytest.raises(DataError, match="B is not a finite number"):
        pe.rebalance(MIN_VARIANCE, past, {"A": 0.5, "B": float("nan")})
    with pytest.raises(DataError, match="needs 100 periods"):
        pe.rebalance(MIN_VARIANCE, panel().past(50), None)


def test_infeasible_rules_are_named() -> None:
    strategy = MIN_VARIANCE.replace(constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.1))
    with pytest.raises(InfeasibleError) as caught:
        pe.rebalance(strategy, panel().past(250), None)
    assert set(caught.value.conflict) == {"Budget()", "Box(upper=0.1)"}


# --- optimize -------------------------------------------------------------------------------------------------------

COVARIANCE = np.array([[0.04, 0.0], [0.0, 0.01]])
RULES = pe.Budget() & pe.LongOnly()


def test_two_uncorrelated_assets_by_hand() -> None:
    # min 0.04 a^2 + 0.01 (1 - a)^2: 0.04 a = 0.01 (1 - a), a = 1/5
    for constructor in (pe.Convex(), pe.AnnealedLangevin()):
        found = pe.optimize(pe.Variance(), RULES, covariance=COVARIANCE, constructor=constructor)
        np.testing.assert_allclose(found.weights, [0.2, 0.8], atol=1e-8)
        assert found.energy == pytest.approx(0.008, rel=1e-10)


def test_weights_come_back_as_the_inputs_were() -> None:
    frame = pd.DataFrame(COVARIANCE, index=["A", "B"], columns=["A", "B"])
    convex = pe.Convex()
    assert isinstance(pe.optimize(pe.Variance(), RULES, covariance=COVARIANCE, constructor=convex).weights, np.ndarray)
    assert isinstance(
        pe.optimize(pe.Variance(), RULES, covariance=torch.tensor(COVARIANCE), constructor=convex).weights, torch.Tensor
    )
    named = pe.optimize(pe.Variance(), RULES, covariance=frame, constructor=convex).weights
    assert isinstance(named, pd.Series)
    assert list(named.index) == ["A", "B"]
    assert list(
        pe.optimize(pe.Variance(), RULES, covariance=COVARIANCE, assets=["X", "Y"], constructor=convex).weights.index
    ) == ["X", "Y"]


def test_frames_are_aligned_by_name_not_by_place() -> None:
    frame = pd.DataFrame(COVARIANCE, index=["A", "B"], columns=["A", "B"])
    mean = pd.Series({"B": 0.02, "A": 0.0})
    energy = pe.Return() + pe.Variance()
    found = pe.optimize(energy, RULES, mean=mean, covariance=frame, constructor=pe.Convex())
    turned = pe.optimize(
        energy, RULES, mean=mean, covariance=frame.loc[["B", "A"], ["B", "A"]], constructor=pe.Convex()
    )
    np.testing.assert_allclose(found.weights[["A", "B"]], turned.weights[["A", "B"]], atol=1e-10)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({}, SpecError, "at least one of"),
        ({"covariance": np.array([[1.0, np.nan], [0.0, 1.0]])}, DataError, "not finite"),
        ({"covariance": np.array([[1.0, 0.5], [0.1, 1.0]])}, DataError, "not symmetric"),
        ({"covariance": np.array([[1.0, 2.0], [2.0, 1.0]])}, DataError, "positive semi-definite"),
        ({"covariance": COVARIANCE, "mean": np.zeros(3)}, ShapeError, "expected 3|expected 2"),
        ({"covariance": np.zeros(2)}, ShapeError, r"expected \(n, n\)"),
        ({"mean": np.zeros(2)}, SpecError, "needs covariance"),
        ({"covariance": COVARIANCE, "assets": ["A"]}, ShapeError, "got 1 names"),
    ],
)
def test_optimize_says_what_is_wrong(inputs: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pe.optimize(pe.Variance(), RULES, constructor=pe.Convex(), **inputs)


def test_group_rules_through_optimize() -> None:
    labels = {"sector": {"A": "x", "B": "y"}}
    frame = pd.DataFrame(COVARIANCE, index=["A", "B"], columns=["A", "B"])
    rules = RULES & pe.Group("sector", "x", lower=0.5)
    found = pe.optimize(pe.Variance(), rules, covariance=frame, groups=labels, constructor=pe.Convex())
    assert found.weights["A"] == pytest.approx(0.5, abs=1e-9)
    with pytest.raises(SpecError, match="'x'"):
        pe.optimize(
            pe.Variance(), RULES & pe.Group("sector", "xx", lower=0.5), covariance=frame, groups=labels,
            constructor=pe.Convex(),
        )  # fmt: skip
