"""Scores out of sample: against truths by hand and other libraries, causal, and the same for every market model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from market_worlds import world
from scipy import stats
from test_market_plain import BOTH, MODELS, alone, panel_of

from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.condition import Condition
from portfolio_ebm.market.ewma import EWMA
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.historical import FilteredHistorical, Historical
from portfolio_ebm.market.moments import SampleMoments
from portfolio_ebm.market.parts import Residual
from portfolio_ebm.market.score import score, score_summary
from portfolio_ebm.market.scoring_rules import christoffersen, fz0, hits, kupiec, newey_west, uniform_distance

PAST = world()
PANEL = panel_of(PAST)
FACTORS = panel_of(alone(PAST, "market", "value"))


SCORED: dict[str, MarketModel] = MODELS | {
    "given": MODELS["ewma-t"] + Condition("value > -50%"),
    "stale": FactorEBM(factors=BOTH, residual=Residual("student", stale=True), lookback=300, min_history=200),
}


@pytest.mark.parametrize("name", list(SCORED))
def test_every_model_is_scored(name: str) -> None:
    frame = score(SCORED[name], PANEL, start=320, end=340, draws=500)
    assert len(frame) == 21 and frame.index[0] == pd.Timestamp(PAST.dates[320])
    series = ["market", "value", "A0", "A1", "A2", "A3"]
    kinds = ("return", "pit", "var1", "es1", "var5", "es5")
    assert list(frame.columns) == ["log_score", "observed", *(f"{k}:{s}" for s in series for k in kinds)]
    for s in series:
        assert frame[f"pit:{s}"].between(0, 1, inclusive="neither").all()
        ordered = frame[[f"es1:{s}", f"var1:{s}", f"var5:{s}"]].to_numpy()
        assert (np.diff(ordered, axis=1) >= 0).all() and (frame[f"es1:{s}"] <= frame[f"es5:{s}"]).all()
        assert (frame[f"es5:{s}"] < 0).all()
    assert np.isfinite(frame["log_score"]).all() == (name not in ("historical", "filtered"))


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_future_is_not_in_the_room(name: str, gap: bool) -> None:
    t = 330
    returns, factors = PAST.returns.copy(), PAST.factor_returns.copy()
    returns[t + 1 :] *= -2
    factors[t + 1 :] *= 3
    if gap:
        returns[t + 4 :, 1] = np.nan
    poisoned = replace(PANEL, returns=returns, factor_returns=factors)
    one, two = (score(MODELS[name], panel, start=325, end=335, draws=200) for panel in (PANEL, poisoned))
    # Bit for bit; names that share their gaps are regressed together, which a later gap may regroup: last digits.
    exact = not (gap and name.startswith("energies"))
    pd.testing.assert_frame_equal(one.iloc[:6], two.iloc[:6], check_exact=exact, **({} if exact else {"rtol": 1e-10}))
    assert not one.iloc[-1].equals(two.iloc[-1])


def test_scores_are_those_of_the_law_by_hand() -> None:
    """A normal law with the standard deviation of the last 50 days, mean zero."""
    panel = panel_of(alone(PAST, "market"))
    frame = score(SampleMoments(50, factors=("market",), mean="zero"), panel, start="2015-06-01", end="2015-07-31")
    x = PAST.factor_returns[:, 0]
    for day, row in frame.iterrows():
        t = int(np.searchsorted(PAST.dates, np.datetime64(day)))
        law = stats.norm(0, x[t - 50 : t].std(ddof=1))
        assert row["return:market"] == x[t] and row["observed"] == 1
        assert row["log_score"] == pytest.approx(law.logpdf(x[t]), abs=1e-10)
        assert row["pit:market"] == pytest.approx(law.cdf(x[t]), abs=1e-12)
        assert row["var5:market"] == pytest.approx(law.ppf(0.05), rel=1e-10)
        sd = law.std()
        assert row["es1:market"] == pytest.approx(-sd * stats.norm.pdf(stats.norm.ppf(0.01)) / 0.01, rel=1e-9)


def test_a_missing_series_is_integrated_out() -> None:
    returns = PAST.returns.copy()
    returns[330, 2] = np.nan
    returns[332] = np.nan
    gappy = replace(PANEL, returns=returns)
    frame = score(SampleMoments(100), gappy, start=330, end=333)
    assert frame["observed"].tolist() == [3, 4, 0, 4]
    window = PAST.returns[230:330][:, [0, 1, 3]]
    law = stats.multivariate_normal(window.mean(axis=0), np.cov(window, rowvar=False))
    assert frame["log_score"].iloc[0] == pytest.approx(law.logpdf(PAST.returns[330, [0, 1, 3]]), abs=1e-8)
    assert np.isnan(frame["pit:A2"].iloc[0]) and not np.isnan(frame["var1:A2"].iloc[0])
    assert np.isnan(frame["log_score"].iloc[2]) and np.isfinite(frame["log_score"].iloc[3])


def test_energies_on_factors_alone_with_their_own_draws() -> None:
    model = FactorEBM(factors=BOTH, lookback=300, min_history=200)
    one = score(model, FACTORS, start=300, end=330, draws=400, seed=1)
    assert one.attrs["draws"] == 400 and not one.attrs["exact"] and one.attrs["days"] == 31
    assert one.attrs["panel"] == FACTORS.fingerprint() and one.attrs["model"] == repr(model)
    # One stream a date: where the span begins does not matter; another seed does.
    part = score(model, FACTORS, start=320, end=330, draws=400, seed=1)
    pd.testing.assert_frame_equal(one.iloc[20:], part, check_exact=False, rtol=1e-8)
    other = score(model, FACTORS, start=320, end=330, draws=400, seed=2)
    assert (part["log_score"] - other["log_score"]).abs().max() < 1e-9
    assert (part["var1:value"] != other["var1:value"]).all()
    by_day = [model.fit(FACTORS.past(t - 1)) for t in (300, 330)]
    assert one["log_score"].iloc[[0, -1]].tolist() == pytest.approx(
        [float(m.log_prob(_row(t))) for m, t in zip(by_day, (300, 330), strict=True)], abs=1e-8
    )


def _row(t: int) -> object:
    import torch

    return torch.from_numpy(PAST.factor_returns[t, :2].copy())


def test_refit_replaces_the_field_of_models_that_have_one() -> None:
    model = EWMA(half_life=30, freedom="fit", factors=BOTH)
    yearly, monthly = (score(model, FACTORS, start=330, end=400, refit=rule) for rule in (None, "ME"))
    assert monthly.attrs["model"] == repr(model.replace(refit="ME")) and yearly.attrs["model"] == repr(model)
    assert not np.allclose(yearly["log_score"], monthly["log_score"])
    same = score(SampleMoments(100, factors=BOTH), FACTORS, start=330, end=335, refit="ME")
    assert np.isfinite(same["log_score"]).all()


@pytest.mark.parametrize(("name", "first"), [("moments", 120), ("filtered", 170), ("energies", 200)])
def test_a_start_without_history_says_the_first_date_possible(name: str, first: int) -> None:
    day = str(PAST.dates[first].astype("datetime64[D]"))
    with pytest.raises(DataError, match=f"start at {day}"):
        score(MODELS[name], PANEL, start="2015-01-01")
    assert len(score(MODELS[name], PANEL, start=day, end=day, draws=200)) == 1
    with pytest.raises(DataError, match="cannot be scored"):
        score(MODELS[name], PANEL, start=first - 1)


def test_a_young_factor_is_waited_for() -> None:
    """Twenty observations, of which the last is known the day before."""
    factors = PAST.factor_returns.copy()
    factors[:200, 1] = np.nan
    young = replace(PANEL, factor_returns=factors)
    day = str(PAST.dates[220].astype("datetime64[D]"))
    with pytest.raises(DataError, match=f"factor value has 10 observations.*start at {day}"):
        score(SampleMoments(100, factors=BOTH), young, start=210)
    assert len(score(SampleMoments(100, factors=BOTH), young, start=day, end=day)) == 1


def test_no_date_at_all_and_other_refusals() -> None:
    with pytest.raises(DataError, match="no date up to"):
        score(SampleMoments(1000), PANEL, start=300)
    with pytest.raises(SpecError, match="at least 200"):
        score(SampleMoments(100), PANEL, start=300, draws=10)
    with pytest.raises(DataError, match="No date"):
        score(SampleMoments(100), PANEL, start="2015-06-01", end="2015-05-01")
    twice = replace(PANEL, factors=("A0", "value", "size"))
    with pytest.raises(DataError, match="both a factor and an asset"):
        score(SampleMoments(100, factors=("A0",)), twice, start=300)


def test_a_summary_sets_models_beside_one_another() -> None:
    frames = {
        "normal": score(EWMA(half_life=30, factors=BOTH), FACTORS, start=150),
        "t": score(EWMA(half_life=30, freedom=5.0, factors=BOTH), FACTORS, start=150),
        "days": score(FilteredHistorical(lookback=100, factors=BOTH), FACTORS, start=150),
    }
    table = score_summary(frames)
    assert list(table.index) == [(m, s) for m in frames for s in ("all", "market", "value")]
    gap = frames["t"]["log_score"] - frames["normal"]["log_score"]
    row = table.loc[("t", "all")]
    assert row["difference"] == pytest.approx(gap.mean(), rel=1e-12)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.959964 * newey_west(gap.to_numpy()), rel=1e-6)
    assert table.loc[("normal", "all"), "difference"] == 0 and np.isnan(table.loc[("days", "all"), "log_score"])
    f = frames["t"]
    hit = f["return:value"] <= f["var5:value"]
    assert table.loc[("t", "value"), "hits5"] == pytest.approx(hit.mean())
    assert table.loc[("t", "value"), "kupiec5"] == pytest.approx(kupiec(hit.to_numpy().astype(float), 0.05))
    assert table.loc[("t", "value"), "pit_ks"] == pytest.approx(stats.kstest(f["pit:value"], "uniform").statistic)
    loss = fz0(*(f[f"{c}:value"].to_numpy() for c in ("return", "var5", "es5")), 0.05)
    assert table.loc[("t", "value"), "fz5"] == pytest.approx(loss.mean())
    assert row["fz5"] == pytest.approx(table.loc["t"].loc[["market", "value"], "fz5"].mean())


def test_only_like_is_compared_with_like() -> None:
    base = score(SampleMoments(100, factors=BOTH), FACTORS, start=300, end=310)
    other = score(SampleMoments(100, factors=("market",)), FACTORS, start=300, end=310)
    with pytest.raises(DataError, match=r"same series \(value\)"):
        score_summary({"two": base, "one": other})
    with pytest.raises(DataError, match="same start and end"):
        score_summary({"a": base, "b": base.iloc[:-1]})
    shifted = base.assign(**{"return:value": base["return:value"] + 1e-3})
    with pytest.raises(DataError, match="different returns of value"):
        score_summary({"a": base, "b": shifted})
    with pytest.raises(DataError, match="no frame of score"):
        score_summary({"a": base[["observed"]]})
    with pytest.raises(DataError, match="at least one"):
        score_summary({})


def test_newey_west_is_that_of_statsmodels_and_of_the_formula() -> None:
    x = np.array([1.0, 3.0, 2.0, 6.0])
    # e = -2, 0, -1, 3: c0 = 14/4, c1 = (0 + 0 - 3)/4; one lag has weight 1/2.
    assert newey_west(x, lags=1) == pytest.approx(np.sqrt((14 / 4 - 3 / 4) / 4))
    assert newey_west(np.append(x, np.nan), lags=0) == pytest.approx(x.std() / 2)
    api = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    y = np.random.default_rng(0).standard_normal(300).cumsum()
    peer = api.OLS(y, np.ones(300)).fit(cov_type="HAC", cov_kwds={"maxlags": 7, "use_correction": False})
    assert newey_west(y, lags=7) == pytest.approx(float(peer.bse[0]), rel=1e-10)


def test_kupiec_and_christoffersen_by_hand() -> None:
    hit = np.zeros(250)
    hit[[10, 50, 90, 130, 170]] = 1
    # 5 hits of 250 at 1 %: 2 [5 log(.02 / .01) + 245 log(.98 / .99)] = 1.9568.
    ratio = 2 * (5 * np.log(2) + 245 * np.log(0.98 / 0.99))
    assert kupiec(hit, 0.01) == pytest.approx(stats.chi2.sf(ratio, 1), rel=1e-12)
    assert kupiec(np.zeros(250), 0.01) == pytest.approx(stats.chi2.sf(-500 * np.log(0.99), 1), rel=1e-12)
    # No hit follows a hit: 5 of 244 after quiet days, 0 of 5 after hits.
    markov = 2 * (5 * np.log(5 / 244 / 0.01) + 239 * np.log(239 / 244 / 0.99)) + 2 * 5 * np.log(1 / 0.99)
    assert christoffersen(hit, 0.01) == pytest.approx(stats.chi2.sf(markov, 2), rel=1e-12)
    crowd = np.zeros(250)
    crowd[100:105] = 1
    assert christoffersen(crowd, 0.02) < 1e-4 < kupiec(crowd, 0.02)
    assert hits(np.array([-0.02, 0.0, np.nan]), np.array([-0.01, -0.01, -0.01])).tolist() == [1.0, 0.0]


def test_tests_of_coverage_keep_their_size() -> None:
    rng = np.random.default_rng(1)
    drawn = (rng.random((400, 1000)) < 0.05).astype(float)
    for test in (kupiec, christoffersen):
        rejected = np.mean([test(row, 0.05) < 0.05 for row in drawn])
        assert 0.02 < rejected < 0.09


def test_fz0_by_hand_and_least_at_the_truth() -> None:
    r, v, e = np.array([-4.0, 1.0, np.nan]), np.full(3, -2.0), np.full(3, -3.0)
    # -4 lies 2 beyond -2: 2 / (0.05 * 3) + 2/3 + log 3 - 1.
    base = 2 / 3 + np.log(3) - 1
    assert fz0(r, v, e, 0.05)[:2] == pytest.approx([40 / 3 + base, base])
    assert np.isnan(fz0(r, v, e, 0.05)[2]) and np.isnan(fz0(r, v, -e, 0.05)).all()
    x = np.random.default_rng(2).standard_normal(400_000)
    true = (stats.norm.ppf(0.05), -stats.norm.pdf(stats.norm.ppf(0.05)) / 0.05)
    least = fz0(x, np.array(true[0]), np.array(true[1]), 0.05).mean()
    for dv, de in ((0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)):
        assert fz0(x, np.array(true[0] + dv), np.array(true[1] + de), 0.05).mean() > least


def test_distance_from_uniform() -> None:
    assert uniform_distance(np.array([0.5, np.nan]))[0] == 0.5
    assert np.isnan(uniform_distance(np.array([np.nan]))[0])


@pytest.mark.slow
def test_a_true_law_is_calibrated_and_beats_a_false_one() -> None:
    """Days drawn from a t law of fixed covariance: the t market is calibrated, the normal one loses nats."""
    rng = np.random.default_rng(5)
    days = 2500
    root = np.linalg.cholesky(np.array([[1.0, 0.6], [0.6, 1.0]])) * 0.01 * np.sqrt(3 / 5)
    x = (rng.standard_normal((days, 2)) @ root.T) / np.sqrt(rng.chisquare(5, (days, 1)) / 5)
    panel = panel_of(replace(alone(world(days), "market", "value"), factor_returns=x))
    models = {
        "t": EWMA(half_life=400, freedom="fit", factors=BOTH),
        "normal": EWMA(half_life=400, factors=BOTH),
        "days": Historical(lookback=900, factors=BOTH),
    }
    table = score_summary({name: score(model, panel, start=1000) for name, model in models.items()})
    assert table.loc[("normal", "all"), "high"] < 0
    for name in ("t", "days"):
        for series in BOTH:
            row = table.loc[(name, series)]
            assert row["pit_p"] > 0.01 and min(row["kupiec1"], row["kupiec5"], row["christoffersen5"]) > 0.01
