"""The benchmark's own statistics and baselines: truths by hand, and laws that no table may break."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import multivariate_t, norm

from benchmarks.market import __main__ as door
from benchmarks.market import data as market_data
from benchmarks.market import frozen, margins, walk, warning
from benchmarks.market.cache import Cache
from benchmarks.market.data import Absent, Data, read_factors
from benchmarks.market.dependence import DCC, EwmaT, ew_moments, squares, t_copula, t_log_pdf
from benchmarks.market.effect import claims
from benchmarks.market.gates import MET, MISSED, _less, _more
from benchmarks.market.laws import Empirical, Skewed, Student, tail_mean
from benchmarks.market.margins import Event, Filtered, Margin, defect, ewma_t
from benchmarks.market.models import forecasts
from benchmarks.market.simulate import tails_of_copula, tails_of_draws
from benchmarks.market.statistics import average_precision, bootstrap, hac, ks_floor
from benchmarks.market.walk import Walk, Year, sign_portfolios
from portfolio_ebm.errors import DataError
from portfolio_ebm.market.ewma import EWMA

LAWS = [Student(5.0), Skewed(6.0, -0.2), Skewed(8.0, 0.3)]


def simulated(days: int = 1500, k: int = 2, seed: int = 0) -> np.ndarray:
    """Percent returns with changing volatility and common shocks, (days, k)."""
    rng = np.random.default_rng(seed)
    level = np.exp(0.4 * np.sin(np.arange(days) / 60))[:, None]
    common = rng.standard_t(6, size=(days, 1))
    return level * (0.6 * common + 0.8 * rng.standard_t(6, size=(days, k)))


def frame(x: np.ndarray, start: str = "2010-01-01") -> pd.DataFrame:
    names = ["Mkt-RF", "SMB", "HML", "Mom"][: x.shape[1]]
    return pd.DataFrame(x, index=pd.bdate_range(start, periods=len(x), name="date"), columns=names)


# ---- statistics ----------------------------------------------------------------------------------------------------


def test_interval_of_a_mean_by_hand() -> None:
    # e = -1 -1 1 1: g0 = 1, g1 = (1 - 1 + 1) / 4; with one lag the variance of the mean is (1 + 2 / 2 * 0.25) / 4.
    mean, half = hac(np.array([0.0, 0.0, 2.0, 2.0]), lags=1)
    assert mean == 1.0
    assert half == pytest.approx(1.959964 * math.sqrt(1.25 / 4), rel=1e-6)


def test_missing_days_do_not_count() -> None:
    assert hac(np.array([1.0, np.nan, 3.0, 5.0]), 0) == hac(np.array([1.0, 3.0, 5.0]), 0)


def test_noise_floor_of_one_draw() -> None:
    # D = max(u, 1 - u) of one uniform draw has the median 3/4.
    assert ks_floor(1) == pytest.approx(0.75)


def test_average_precision_by_hand() -> None:
    event = np.array([True, False, True, False])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), event) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(np.zeros(4), event) == 0.5  # ties enter together: the rate of events
    assert math.isnan(average_precision(np.zeros(4), np.zeros(4, dtype=bool)))


def test_average_precision_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    score, event = rng.integers(0, 9, 300).astype(float), rng.random(300) < 0.2
    assert average_precision(score, event) == pytest.approx(metrics.average_precision_score(event, score))


def test_bootstrap_of_a_mean() -> None:
    x = np.random.default_rng(0).standard_normal(2000)
    low, high = bootstrap(lambda rows: float(x[rows].mean()), len(x), block=1, draws=2000)
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / math.sqrt(2000), rel=0.1)
    assert low < x.mean() < high


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_laws_have_mass_one_and_variance_one(law: Student) -> None:
    z = np.sinh(np.linspace(-9, 9, 40001))
    weight = np.exp(law.log_pdf(z)) * np.gradient(z)
    moments = [float((weight * z**power).sum()) for power in (0, 1, 2)]
    np.testing.assert_allclose(moments, [1.0, 0.0, 1.0], atol=2e-3)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_quantile_density_and_shortfall_are_of_one_law(law: Student) -> None:
    u = np.linspace(0.001, 0.999, 401)
    z = law.quantile(u)
    np.testing.assert_allclose(law.cdf(z), u, atol=1e-12)
    slope = (law.cdf(z + 1e-5) - law.cdf(z - 1e-5)) / 2e-5
    np.testing.assert_allclose(np.exp(law.log_pdf(z)), slope, rtol=1e-4)
    inside = (np.arange(400000) + 0.5) / 400000 * 0.05
    assert law.shortfall(0.05) == pytest.approx(float(law.quantile(inside).mean()), rel=1e-3)


def test_no_skew_is_student() -> None:
    z = np.linspace(-5, 5, 21)
    np.testing.assert_allclose(Skewed(7.0, 0.0).log_pdf(z), Student(7.0).log_pdf(z), atol=1e-12)
    np.testing.assert_allclose(Skewed(7.0, 0.0).cdf(z), Student(7.0).cdf(z), atol=1e-12)


def test_empirical_tail_by_hand() -> None:
    # A quarter of ten values is two and a half: (1 + 2 + 3 / 2) / 2.5.
    assert tail_mean(np.arange(1.0, 11.0)[None], 0.25)[0] == pytest.approx(1.8)
    law = Empirical.of(np.array([3.0, 1.0, 2.0, 4.0]))
    assert law.quantile(np.array(0.25)) == 1.0
    assert law.cdf(np.array([2.5]))[0] == pytest.approx(0.5)


# ---- margins -------------------------------------------------------------------------------------------------------

GJR = Margin(0.1, 0.2, 0.05, 0.04, 0.1, 0.8, Student(6.0), 1.5)


def test_the_variance_recursion_by_hand() -> None:
    x = np.array([1.0, -2.0, 0.5, 3.0])
    found = GJR.filter(x)
    location = [0.1, 0.1 + 0.2 * 1.0, 0.1 - 0.2 * 2.0, 0.1 + 0.2 * 0.5]
    variance = [1.5]
    for now, mean in zip(x[:-1], location[:-1], strict=True):
        e = now - mean
        variance.append(0.05 + (0.04 + 0.1 * (e < 0)) * e**2 + 0.8 * variance[-1])
    np.testing.assert_allclose(found.location, location)
    np.testing.assert_allclose(found.scale**2, variance)


def test_a_day_does_not_enter_its_own_forecast() -> None:
    x = simulated(300)[:, 0]
    changed = x.copy()
    changed[200] = 50.0
    one, other = GJR.filter(x), GJR.filter(changed)
    np.testing.assert_array_equal(one.scale[:201], other.scale[:201])
    np.testing.assert_array_equal(one.location[:201], other.location[:201])
    assert other.scale[201] > 2 * one.scale[201]


def test_ewma_is_the_best_of_its_grid() -> None:
    x = simulated()[:, 0]
    best = ewma_t(x)
    for decay in (0.9, 0.97):
        one = replace(best, alpha=1 - decay, beta=decay)
        assert margins.in_sample(best, x) >= margins.in_sample(one, x) - 1e-12
    assert margins.in_sample(best, x) >= margins.in_sample(replace(best, law=Student(50.0)), x)


@pytest.mark.parametrize(
    ("change", "converged", "word"),
    [
        ({}, False, "converge"),
        ({"beta": 0.95}, True, "persistence"),
        ({"law": Student(2.01)}, True, "nu"),
        ({"omega": 1e-9, "alpha": 1e-9, "gamma": 0.0, "beta": 0.5, "start": 1e-9}, True, "in-sample"),
        ({"omega": math.nan}, True, "in-sample"),
        ({}, True, ""),
    ],
)
def test_every_defect_of_a_fit_is_seen(change: dict[str, object], converged: bool, word: str) -> None:
    x = simulated()[:, 0]
    margin = replace(GJR, **({"constant": 0.0, "slope": 0.0, "omega": 0.3, "beta": 0.7} | change))
    said = defect(margin, x, converged, -2.5)
    assert (word in said) if word else said == ""


def degenerate(x: np.ndarray, asymmetric: bool, start: tuple[float, float] | None) -> tuple[Margin, bool]:
    return replace(GJR, law=Student(2.0001)), True


def integrated(x: np.ndarray, asymmetric: bool, start: tuple[float, float] | None) -> tuple[Margin, bool]:
    return Margin(0.0, 0.0, 0.01, 0.06, 0.0, 0.94, Student(6.0), float(np.var(x))), True


def test_a_degenerate_fit_gives_way_to_ewma(monkeypatch: pytest.MonkeyPatch) -> None:
    x = simulated()[:, 0]
    monkeypatch.setattr(margins, "_fit", degenerate)
    found = margins.garch_t(x)
    assert "EWMA-t in its place" in found.event
    assert replace(found, event="") == ewma_t(x)


def test_an_integrated_fit_is_held_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margins, "_fit", integrated)
    found = margins.garch_t(simulated()[:, 0])
    assert found.persistence < 1
    assert "persistence" in found.event


def test_a_sound_fit_from_another_start_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x = simulated()[:, 0]
    sound = replace(ewma_t(x), omega=0.01, alpha=0.05, beta=0.94)
    monkeypatch.setattr(
        margins, "_fit", lambda x, a, start: degenerate(x, a, start) if start is None else (sound, True)
    )
    assert replace(margins.garch_t(x), event="") == sound


def test_garch_finds_what_was_planted() -> None:
    pytest.importorskip("arch")
    rng, true = np.random.default_rng(3), Margin(0.05, 0.1, 0.02, 0.08, 0.0, 0.9, Student(6.0), 1.0)
    x, variance, z = np.zeros(6000), 1.0, Student(6.0).quantile(rng.random(6000))
    for t in range(1, len(x)):
        x[t] = true.constant + true.slope * x[t - 1] + math.sqrt(variance) * z[t]
        e = x[t] - true.constant - true.slope * x[t - 1]
        variance = true.omega + true.alpha * e**2 + true.beta * variance
    found = margins.garch_t(x)
    assert found.event == ""
    np.testing.assert_allclose([found.slope, found.alpha, found.beta], [0.1, 0.08, 0.9], atol=0.04)
    assert 4.5 < found.law.freedom < 8
    # Scale is no matter: a series a thousand times smaller has the same recursion.
    small = margins.garch_t(x / 1000)
    np.testing.assert_allclose([small.alpha, small.beta], [found.alpha, found.beta], rtol=1e-3)


# ---- dependence ----------------------------------------------------------------------------------------------------


def test_squares_and_the_t_density_are_scipys() -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 3))
    c, y = root @ root.T + np.eye(3), rng.standard_normal((5, 3))
    square, log_det = squares(y, c)
    np.testing.assert_allclose(square, np.einsum("ti,ij,tj->t", y, np.linalg.inv(c), y))
    truth = multivariate_t(np.zeros(3), c * (6 - 2) / 6, df=6).logpdf(y)
    np.testing.assert_allclose(t_log_pdf(square, log_det, 3, 6.0), truth)


def test_a_copula_of_one_series_says_nothing() -> None:
    y = np.linspace(-3, 3, 7)[:, None]
    np.testing.assert_allclose(t_copula(y, np.eye(1), 5.0), 0.0, atol=1e-12)


def test_a_t_copula_has_mass_one() -> None:
    law, u = Student(6.0), (np.arange(800) + 0.5) / 800
    y = law.quantile(u)
    grid = np.stack(np.meshgrid(y, y), axis=-1).reshape(-1, 2)
    r = np.array([[1.0, 0.4], [0.4, 1.0]])
    assert np.exp(t_copula(grid, r, 6.0)).mean() == pytest.approx(1.0, abs=5e-3)


def test_ew_moments_by_hand() -> None:
    y = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]])
    start = np.eye(2)
    found = ew_moments(y, 0.9, start)
    second = 0.9 * start + 0.1 * np.outer(y[0], y[0])
    np.testing.assert_allclose(found, [start, second, 0.9 * second + 0.1 * np.outer(y[1], y[1])])


def test_dcc_without_news_is_its_target_and_never_sees_its_own_day() -> None:
    u = np.random.default_rng(0).random((50, 2))
    target = np.array([[1.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(DCC(0.0, 0.9, 8.0, target).correlations(u), np.broadcast_to(target, (50, 2, 2)))
    changed = u.copy()
    changed[30] = [0.999, 0.001]
    one, other = (DCC(0.05, 0.9, 8.0, target).correlations(v) for v in (u, changed))
    np.testing.assert_array_equal(one[:31], other[:31])
    assert other[31, 0, 1] < one[31, 0, 1]
    np.testing.assert_allclose(np.einsum("tii->ti", other), 1.0)


def test_dcc_beats_a_constant_copula_where_correlations_move() -> None:
    rng = np.random.default_rng(0)
    rho = 0.8 * np.sign(np.sin(np.arange(1200) / 40))
    a, b = rng.standard_normal((2, 1200))
    u = norm.cdf(np.stack([a, rho * a + np.sqrt(1 - rho**2) * b], axis=1))
    found = DCC.fit(u)
    constant = t_copula(ndtri(u), np.broadcast_to(found.target, (1200, 2, 2)), 200.0)
    assert found.log_pdf(u).mean() > constant.mean() + 0.1
    assert found.a > 0.02


def test_the_ewma_grid_takes_the_best_member() -> None:
    e = simulated(700)
    best = EwmaT.fit(e, (0.9, 0.97), (0.0, 0.1))

    def value(law: EwmaT) -> float:
        return float(t_log_pdf(*squares(e[250:], law.covariances(e)[250:]), 2, law.freedom).mean())

    for decay in (0.9, 0.97):
        for shrink in (0.0, 0.1):
            assert value(best) >= value(EwmaT(decay, shrink, 8.0)) - 1e-12


# ---- portfolios ----------------------------------------------------------------------------------------------------


def test_draws_of_nearly_normal_margins_have_the_normal_tail() -> None:
    days, law = 40, Student(400.0)
    margin = Filtered(np.full(days, 0.05), np.full(days, 2.0), law)
    r, w = np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([[0.5, -0.5], [0.5, 0.5]])
    found = tails_of_copula([margin] * 2, r, math.inf, w, slice(0, days), np.random.default_rng(0))
    deviation = np.sqrt(np.einsum("pi,ij,pj->p", w, r, w)) * 2.0
    mean = w.sum(axis=1) * 0.05
    np.testing.assert_allclose(found["var5"].mean(axis=0), (mean - 1.6449 * deviation) / 100, rtol=0.01)
    np.testing.assert_allclose(found["es5"].mean(axis=0), (mean - 2.0627 * deviation) / 100, rtol=0.01)
    np.testing.assert_allclose(found["es1"].mean(axis=0), (mean - 2.6652 * deviation) / 100, rtol=0.015)


def test_tails_of_a_hundred_draws_by_hand() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1.0, 101.0)).reshape(1, 100, 1)
    found = tails_of_draws(draws, np.ones((1, 1)))
    assert found["var1"][0, 0] == found["es1"][0, 0] == 1.0
    assert (found["var5"][0, 0], found["es5"][0, 0]) == (5.0, 3.0)


def test_sign_portfolios_are_all_different_bets() -> None:
    found = sign_portfolios(6)
    assert found.shape == (20, 6)
    np.testing.assert_allclose(np.abs(found), 1 / 6)
    likeness = np.abs(found @ found.T * 6)
    assert (likeness[~np.eye(20, dtype=bool)] < 1 - 1e-9).all()
    assert len(sign_portfolios(2)) == 2


# ---- the walk ------------------------------------------------------------------------------------------------------


def plain_walk(x: np.ndarray) -> Walk:
    f = frame(x / 100)
    return Walk(f.index, tuple(f.columns), f.to_numpy(), 1100, len(f), sign_portfolios(x.shape[1]))


@pytest.mark.parametrize("job", ["independent", "ewma", "historical", "dcc"])
def test_no_forecast_sees_its_day_or_later(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(walk.FITS, "GARCH-t", ewma_t)
    x = simulated(1160)
    changed = x.copy()
    changed[1130:] *= -3.0

    def make(values: np.ndarray) -> pd.DataFrame:
        one = plain_walk(values)
        jobs = {"independent": lambda: one.independent("EWMA-t"), "ewma": one.ewma, "dcc": one.dcc}
        return jobs.get(job, lambda: one.historical(1000))()

    # One year: 1100 is in 2014 and so is the end, hence fixed parameters; rows 1100..1130 are 0..30 of the frame.
    first, second = make(x), make(changed)
    tails = [c for c in first if c.startswith(("var", "es"))]
    assert tails
    known = min(31, len(first))
    np.testing.assert_allclose(first[tails].iloc[:known], second[tails].iloc[:known], rtol=1e-12)
    if job != "historical":
        np.testing.assert_allclose(first["log_score"].iloc[:30], second["log_score"].iloc[:30], rtol=1e-9)


def test_years_cover_the_test_days_once() -> None:
    one = plain_walk(simulated(1500))
    years = one.years
    assert years[0].first == 1100
    assert years[-1].stop == 1500
    assert all(a.stop == b.first for a, b in pairwise(years))
    assert all(set(one.dates[y.first : y.stop].year) == {int(y.name)} for y in years)


def test_independent_scores_add_up_and_are_of_decimals() -> None:
    one = plain_walk(simulated(1160))
    found = one.independent("EWMA-t")
    np.testing.assert_allclose(found["log_score"], found["log:Mkt-RF"] + found["log:SMB"])
    law = one.filtered("EWMA-t")[0][0]
    x = one.x[1100, 0]
    density = np.exp(law.law.log_pdf(law.z(one.percent[: one.stop, 0])))[1100] / (law.scale[1100] / 100)
    assert found["log:Mkt-RF"].iloc[0] == pytest.approx(math.log(density))
    assert found["pit:Mkt-RF"].iloc[0] == pytest.approx(float(law.law.cdf(np.array(
        (x - law.location[1100] / 100) / (law.scale[1100] / 100)))))  # fmt: skip


def test_historical_simulation_by_hand() -> None:
    one = replace(plain_walk(simulated(1160)), portfolios=None)
    found = one.historical(20)
    last = one.x[1080:1100, 0]
    assert found["var5:Mkt-RF"].iloc[0] == found["es5:Mkt-RF"].iloc[0] == last.min()
    assert found["pit:Mkt-RF"].iloc[0] == pytest.approx(((last < one.x[1100, 0]).sum() + 0.5) / 21)


def test_our_frames_marginals_are_the_models_own() -> None:
    x = simulated(400) / 100
    data = Data("made up", frame(x))
    model = EWMA(half_life=20, lookback=250, factors=("Mkt-RF", "SMB"), mean="zero")
    both = forecasts(model, data.panel(), 390, 400, sign_portfolios(2))
    alone = forecasts(model.replace(factors=("SMB",)), data.panel(), 390, 400, None)
    np.testing.assert_allclose(both["log:SMB"], alone["log_score"], rtol=1e-9)
    assert (both["es5:portfolio 1"] < both["var5:portfolio 1"]).all()
    assert len(both) == 10


# ---- early warning -------------------------------------------------------------------------------------------------


def test_events_are_the_days_before_a_crash() -> None:
    market = np.tile([0.001, -0.001], 150)
    market[200] = -0.2
    found = warning.events(market)
    for event in found.values():
        assert event[180:201].all()
        assert not event[:180].any() or event.sum() > 21  # ties of the quiet days may fill the decile
    assert found["loss"].sum() >= 28


def test_scorers_know_the_close_before_and_no_more() -> None:
    x = simulated(300) / 100
    changed = x.copy()
    changed[250:] *= 5
    years = [Year("a", 200, 300)]
    for rank in (warning.turbulence, warning.isolation):
        one, other = rank(x, years), rank(changed, years)
        if one is None or other is None:
            pytest.skip("scikit-learn is not installed")
        np.testing.assert_allclose(one[:51], other[:51])
        assert not np.allclose(one[51:], other[51:])


def test_turbulence_by_hand() -> None:
    past = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    x = np.concatenate([past, [[2.0, 4.0], [9.0, 9.0]]])
    found = warning.turbulence(x, [Year("a", 5, 6)])
    # One row before the test row: (2, 4), against the mean and covariance of the five rows before the year.
    away = x[4] - x[:5].mean(axis=0)
    assert found == pytest.approx([away @ np.linalg.inv(np.cov(x[:5].T)) @ away])


def test_precision_of_the_reference_less_itself_is_zero() -> None:
    rng = np.random.default_rng(0)
    market = rng.standard_normal(400) * 0.01
    found = warning.precision_table(market, {"a": rng.random(400), "b": rng.random(400)}, "a")
    assert tuple(found.loc["a", ["volatility gap", "volatility low", "volatility high"]]) == (0.0, 0.0, 0.0)
    assert found.loc["b", "volatility low"] <= found.loc["b", "volatility gap"] <= found.loc["b", "volatility high"]


# ---- verdicts, data, door ------------------------------------------------------------------------------------------


def test_a_gate_needs_its_bar_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(400)
    steady, shaky = 1.0 + 0.01 * noise, 1.0 + 100 * (noise - noise.mean())
    assert _more(steady, 0.9)[1] == MET
    assert _more(steady, 1.5)[1] == MISSED
    assert _more(shaky, 0.9)[1] == MISSED
    assert _less(-steady)[1] == MET
    assert _less(-shaky)[1] == MISSED


def test_claims_follow_the_intervals() -> None:
    columns = ["CVaR low", "CVaR high", "Sharpe low", "Sharpe high"]
    table = pd.DataFrame([[0, 0, 0, 0], [-0.02, -0.01, -0.5, 0.4]], index=["ours", "1/N"], columns=columns)
    first, second = claims(table)
    assert "better" in first
    assert "nothing is claimed" in second


def test_percent_is_refused_with_a_sentence(tmp_path: Path) -> None:
    frame(simulated(1200)).to_csv(tmp_path / "f.csv")
    with pytest.raises(DataError, match="percent"):
        read_factors(tmp_path / "f.csv")


def test_the_risk_free_column_and_incomplete_days_are_left_out(tmp_path: Path) -> None:
    given = frame(simulated(1200) / 100)
    given.insert(0, "RF", 0.0001)
    given = given[["RF", "SMB", "Mkt-RF"]]
    given.iloc[7, 1] = np.nan
    given.to_csv(tmp_path / "f.csv")
    found = read_factors(tmp_path / "f.csv")
    assert list(found.factors) == ["Mkt-RF", "SMB"]
    assert len(found.factors) == 1199
    assert len(found.notes) == 2
    assert found.panel().market == "Mkt-RF"
    with pytest.raises(DataError, match="1000"):
        found.row("2012-01-01")


def test_without_shared_data_it_says_so_and_leaves_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(market_data, "SHARED", tmp_path)
    monkeypatch.setattr(door, "installed", lambda library: "1")
    assert door.main([]) == 2
    said = capsys.readouterr().err
    assert "--factors" in said
    assert "Traceback" not in said
    with pytest.raises(Absent):
        market_data.french()


def test_nothing_of_ours_is_scored_after_1999_before_it_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    late, early = (
        Data("late", frame(simulated(50) / 100, "2001-01-01")),
        Data("early", frame(simulated(50), "1990-01-01")),
    )
    given = door._parse(["--quick"])
    monkeypatch.setattr(frozen, "FROZEN_ON", None)
    skipped: list[str] = []
    assert door._models(given, late, None, skipped) == (None, None)
    assert skipped
    assert door._models(given, early, None, []) == (frozen.SIX, frozen.STOCKS)
    monkeypatch.setattr(frozen, "FROZEN_ON", "2026-01-01")
    assert door._models(given, late, None, []) == (frozen.SIX, frozen.STOCKS)


def test_a_kept_frame_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def compute() -> tuple[pd.DataFrame, list[Event]]:
        made.append(1)
        return frame(np.ones((3, 2))), [Event("GARCH-t", "SMB", "2000", "mended")]

    x = np.ones(3)
    for cache in (Cache(tmp_path), Cache(tmp_path)):
        found, events = cache.frame({"law": "a"}, (x,), compute)
        assert found is not None
        assert events[0].what == "mended"
    assert len(made) == 1
    Cache(tmp_path).frame({"law": "a"}, (x + 1,), compute)
    Cache(tmp_path, fresh=True).frame({"law": "a"}, (x,), compute)
    assert len(made) == 3


@pytest.mark.slow
def test_the_whole_document_on_data_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("arch")
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path / "home"))
    frame(simulated(1400) / 100, "1990-01-01").to_csv(tmp_path / "mine.csv")
    asked = [
        "--factors",
        str(tmp_path / "mine.csv"),
        "--test-from",
        "1995-01-02",
        "--quick",
        "--out",
        str(tmp_path / "e.md"),
    ]
    assert door.main(asked) == 0
    text = (tmp_path / "e.md").read_text()
    for heading in ("What was frozen", "Bars", "2 factors together", "Early warning", "mended", "Runtime"):
        assert heading in text
    assert str(tmp_path) not in text
    assert "nan" not in text
