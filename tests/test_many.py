"""Many problems at once: each row is the single door's answer, and a failed one spoils no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import portfolio_ebm as pe
from portfolio_ebm.construction import certificate
from portfolio_ebm.energy import Energy

N = 8
NAMES = [f"A{i}" for i in range(N)]
RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=0.4)
SECTORS = {"sector": {name: "even" if i % 2 == 0 else "odd" for i, name in enumerate(NAMES)}}


def returns(seed: int, n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    draws = rng.normal(0.004, 0.04, (150, n)) + rng.normal(0.0, 0.03, (150, 1))
    return pd.DataFrame(draws, columns=NAMES[:n])


SETS = {f"2020-0{k + 1}": returns(k) for k in range(5)}
HELD = [None, np.full(N, 1 / N), np.eye(N)[0], np.full(N, 1 / N), np.eye(N)[1] * 0.4 + np.eye(N)[2] * 0.6]


def same(row: int, found: pe.Allocations, single: pe.Allocation) -> None:
    at = lambda item: item.iloc[row]  # noqa: E731
    np.testing.assert_allclose(at(found.weights), np.asarray(single.weights), atol=1e-9)
    assert at(found.ok) == single.status.ok and at(found.statuses) == str(single.status)
    assert at(found.energies) == pytest.approx(single.energy, abs=1e-12)
    assert np.isnan(at(found.bounds)) if single.bound is None else at(found.bounds) == pytest.approx(single.bound)
    assert at(found.breakdown).dropna().to_dict() == pytest.approx(dict(single.breakdown), abs=1e-12)
    assert at(found.residuals).to_dict() == pytest.approx(dict(single.residuals), abs=1e-12)
    for term, ends in single.ranges.items():
        np.testing.assert_allclose(at(found.ranges)[term], ends, atol=1e-8)


@pytest.mark.parametrize(
    ("energy", "rules"),
    [
        (pe.Variance(), RULES),
        (pe.Return() + 3 * pe.Variance() + pe.TradingCost(0.001), RULES & pe.Turnover(at_most=1.5)),
        (pe.CVaR(0.9), RULES & pe.Group("sector", "even", lower=0.3, upper=0.5)),
        (pe.Variance(), pe.Budget() & pe.Box(lower=-0.2, upper=0.4) & pe.BetaNeutral("A0", within=0.2)),
        (pe.Return(), RULES & pe.VolatilityCap(at_most=0.045)),
        (pe.Return(), RULES & pe.CVaRCap(at_most=0.09, level=0.9)),
        (pe.MaxRatio(pe.Return(), pe.Volatility()), RULES),
    ],
    ids=repr,
)
def test_each_row_is_the_single_doors(energy: pe.Energy, rules: pe.Constraint) -> None:
    found = pe.optimize_many(energy, rules, scenarios=SETS, held=HELD, groups=SECTORS, seed=3)
    assert list(found.weights.index) == list(SETS) and list(found.weights.columns) == NAMES
    for row, (draws, held) in enumerate(zip(SETS.values(), HELD, strict=True)):
        try:
            single = pe.optimize(
                energy, rules, scenarios=draws, held=held, groups=SECTORS, constructor=pe.Convex(), seed=3
            )
        except pe.errors.PortfolioEBMError as error:
            assert not found.ok.iloc[row] and str(error) in found.statuses.iloc[row]
            assert found.weights.iloc[row].isna().all()
        else:
            same(row, found, single)
    assert found.ok.any()


def test_many_formulas_over_one_context_and_every_way_to_hand_in_problems() -> None:
    draws = SETS["2020-01"]
    formulas = {k: pe.Return() + k * pe.Variance() for k in (0.5, 1.0, 4.0)}
    found = pe.optimize_many(formulas, RULES, scenarios=draws)
    for row, energy in enumerate(formulas.values()):
        same(row, found, pe.optimize(energy, RULES, scenarios=draws, constructor=pe.Convex()))
    cov = draws.cov()
    means = np.stack([item.mean().to_numpy() for item in SETS.values()])
    energy = pe.Return() + 2 * pe.Variance()
    frame = pd.DataFrame(means, index=list(SETS), columns=NAMES)
    ways: list[Any] = [
        means,
        torch.tensor(means),
        list(means),
        means.tolist(),
        frame,
        dict(zip(SETS, means, strict=True)),
    ]
    first = [pe.optimize(energy, RULES, mean=one, covariance=cov, constructor=pe.Convex()) for one in means]
    for way in ways:
        many = pe.optimize_many(energy, RULES, mean=way, covariance=cov)
        for row, single in enumerate(first):
            same(row, many, single)
    # Shared holdings by name are one for all, and a list of numbers is one mean.
    held = dict.fromkeys(NAMES[:4], 0.25)
    rules = RULES & pe.Turnover(at_most=0.5)
    many = pe.optimize_many([energy, pe.Variance()], rules, mean=means[0].tolist(), covariance=cov, held=held)
    for row, one in enumerate((energy, pe.Variance())):
        single = pe.optimize(one, rules, mean=means[0], covariance=cov, held=held, constructor=pe.Convex())
        same(row, many, single)


def test_a_failed_problem_is_a_row_with_its_sentence() -> None:
    spoilt = SETS["2020-02"].copy()
    spoilt.iloc[3, 2] = np.nan
    held = {"good": np.full(N, 1 / N), "bad input": np.full(N, 1 / N), "far": np.eye(N)[0], "narrow": np.full(N, 1 / N)}
    sets = dict(zip(held, [SETS["2020-01"], spoilt, SETS["2020-03"], returns(9, n=4)], strict=True))
    # From all in A0 to at most 40 % of it takes a turnover of 1.2.
    found = pe.optimize_many(pe.Variance(), RULES & pe.Turnover(at_most=1.0), scenarios=sets, held=held)
    assert found.ok.to_dict() == {"good": True, "bad input": False, "far": False, "narrow": False}
    said = found.statuses
    assert said["bad input"] == "DataError: scenarios is not finite for A2; fill or drop it first."
    assert said["far"].startswith("InfeasibleError") and "Turnover(at_most=1.0)" in said["far"]
    assert "Box(upper=0.4)" in said["far"] and said["narrow"].startswith("DataError: scenarios has no entry for A4")
    assert found.weights.loc[["bad input", "far", "narrow"]].isna().all(axis=None) and found.energies.isna().sum() == 3
    alone = pe.optimize(
        pe.Variance(), RULES & pe.Turnover(at_most=1.0), scenarios=sets["good"], held=held["good"],
        constructor=pe.Convex(),
    )  # fmt: skip
    same(0, found, alone)
    assert str(found).startswith("4 problems, 1 solved\n  bad input: DataError")


def test_what_no_problem_can_have_is_refused() -> None:
    draws = list(SETS.values())
    with pytest.raises(pe.errors.SpecError, match="choice of names"):
        pe.optimize_many(pe.Variance(), RULES & pe.Cardinality(at_most=3), scenarios=draws, constructor=pe.Convex())
    with pytest.raises(pe.errors.SpecError, match=r"BranchAndBound.* takes convex terms only"):
        pe.optimize_many(Bumps(), RULES, scenarios=draws, constructor=pe.BranchAndBound(time_limit=5))
    for jobs in (0, 1.5, True):
        with pytest.raises(pe.errors.SpecError, match="jobs="):
            pe.optimize_many(pe.Variance(), RULES, scenarios=draws, jobs=jobs)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(pe.errors.ShapeError, match="scenarios for 5, held for 2"):
        pe.optimize_many(pe.Variance(), RULES, scenarios=draws, held=[None, np.zeros(N)])
    with pytest.raises(pe.errors.SpecError, match="other labels"):
        pe.optimize_many(pe.Variance(), RULES, scenarios=SETS, held=dict.fromkeys("abcde", np.zeros(N)))
    with pytest.raises(pe.errors.SpecError, match="empty"):
        pe.optimize_many([], RULES, scenarios=draws[0])
    with pytest.raises(pe.errors.SpecError, match="needs scenarios"):
        pe.optimize_many(pe.CVaR(), RULES, covariance=draws[0].cov())


class Bumps(Energy):
    """E(w) = -(w' w): smooth, not convex, the same in every context."""

    def bind(self, ctx: Any) -> Any:
        return lambda w: -w.square().sum(-1)


@pytest.mark.parametrize(
    ("energy", "rules"),
    [
        (pe.Return() + 3 * pe.Variance(), RULES & pe.Cardinality(at_most=3, min_weight=0.1)),
        (pe.Variance(), RULES & pe.Turnover(at_most=1.5) & pe.Cardinality(at_most=5)),
        (pe.Variance() + pe.FixedCost(0.0001), RULES),
        (pe.CVaR(0.9), pe.Either(RULES & pe.Box(upper=0.2), RULES & pe.Cardinality(at_most=2))),
        (pe.MaxRatio(pe.Return(), pe.Volatility()), RULES & pe.Cardinality(at_most=4)),
    ],
    ids=repr,
)
def test_each_row_under_any_rule_and_energy_is_the_single_doors(energy: pe.Energy, rules: pe.Constraint) -> None:
    sets, held = dict(list(SETS.items())[:3]), HELD[1:4]
    found = pe.optimize_many(energy, rules, scenarios=sets, held=held, seed=3)
    for row, (draws, before) in enumerate(zip(sets.values(), held, strict=True)):
        try:
            single = pe.optimize(energy, rules, scenarios=draws, held=before, seed=3)
        except pe.errors.InfeasibleError as error:
            assert not found.ok.iloc[row] and str(error) in found.statuses.iloc[row]
        else:
            same(row, found, single)
            assert found.proven.iloc[row] == single.proven
            assert single.gap is None or found.gaps.iloc[row] == pytest.approx(single.gap, abs=1e-15)
    assert found.ok.any()


def test_formulas_for_the_exact_solve_and_for_the_search_side_by_side_in_their_order() -> None:
    draws = SETS["2020-01"]
    formulas = {"search": Bumps(), "exact": pe.Variance(), "again": 0.5 * Bumps()}
    rules = RULES & pe.Box(upper=0.2)
    found = pe.optimize_many(formulas, rules, scenarios=draws)
    for row, energy in enumerate(formulas.values()):
        exact = pe.Convex() if row == 1 else pe.AnnealedLangevin()
        same(row, found, pe.optimize(energy, rules, scenarios=draws, constructor=exact))
    assert found.proven.to_dict() == {"search": False, "exact": True, "again": False}
    # A constructor that does not take one of them is that row's error, and the others stand.
    some = pe.optimize_many(formulas, RULES, scenarios=draws, constructor=pe.BranchAndBound(time_limit=60))
    assert some.ok.to_dict() == {"search": False, "exact": True, "again": False}
    assert some.statuses["search"].startswith("SpecError: Bumps()") and some.proven["exact"]


@pytest.mark.slow  # each process imports torch anew
def test_processes_change_nothing_but_the_time() -> None:
    rules = RULES & pe.Cardinality(at_most=3) & pe.Turnover(at_most=1.22)
    asked = {"scenarios": SETS, "held": HELD}
    one, two = (pe.optimize_many(pe.Variance(), rules, jobs=jobs, **asked) for jobs in (1, 2))
    assert one.ok.any() and not one.ok.all()  # an error travels as well
    for left, right in ((one.weights, two.weights), (one.ranges, two.ranges), (one.gaps, two.gaps)):
        np.testing.assert_allclose(left.to_numpy(), right.to_numpy(), atol=1e-12)
    assert one.statuses.tolist() == two.statuses.tolist()


def test_ranges_are_drawn_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    drawn = certificate.ranges_over
    monkeypatch.setattr(certificate, "ranges_over", lambda *given: looks.append(1) or drawn(*given))
    found = pe.optimize_many(pe.Variance(), RULES & pe.Cardinality(at_most=3), scenarios=SETS)
    assert not looks
    assert (found.ranges[("Variance()", "least")] < found.ranges[("Variance()", "largest")]).all() and len(looks) == 5


def test_holdings_by_name_for_each_problem() -> None:
    held = {"a": {"A0": 1.0}, "b": {"A1": 0.5, "A2": 0.5}}
    energy, rules = pe.Variance() + pe.TradingCost(0.01), RULES & pe.Turnover(at_most=1.5)
    for given in (held, list(held.values()), {key: pd.Series(item) for key, item in held.items()}):
        found = pe.optimize_many(energy, rules, scenarios=SETS["2020-01"], held=given)
        assert list(found.weights.index) == (["a", "b"] if isinstance(given, dict) else [0, 1])
        for row, one in enumerate(held.values()):
            same(row, found, pe.optimize(energy, rules, scenarios=SETS["2020-01"], held=one, constructor=pe.Convex()))
    # The first problem may have none.
    found = pe.optimize_many(energy, RULES, scenarios=SETS["2020-01"], held={"a": None, "b": {"A1": 1.0}})
    assert found.ok.all()


def test_a_wider_problem_after_a_narrow_one_loses_no_assets() -> None:
    found = pe.optimize_many(pe.Variance(), RULES, scenarios={"narrow": returns(9, n=4), "wide": SETS["2020-01"]})
    assert list(found.ok) == [True, False] and "A4, A5, A6, A7, which scenarios has" in found.statuses["wide"]
