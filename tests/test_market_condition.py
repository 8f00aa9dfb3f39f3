"""Views and stress: the grammar, closed forms, brute force, what draws are worth, horizons, causality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from market_worlds import cut, world
from scipy import stats

from portfolio_ebm import (
    EWMA,
    Condition,
    Conditioned,
    CVaR,
    FactorCovariance,
    FactorEBM,
    FilteredHistorical,
    Historical,
    LedoitWolf,
    Monthly,
    SampleMoments,
    Strategy,
    rebalance,
)
from portfolio_ebm.errors import SolverError, SpecError
from portfolio_ebm.market.base import Market, MarketModel
from portfolio_ebm.market.conditioned import ConditionedMarket
from portfolio_ebm.market.pinning import Pinned
from portfolio_ebm.market.stacked import StackedMarket
from portfolio_ebm.market.walks import Weighted
from portfolio_ebm.types import generator

PAIR = ("market", "value")
EBM = FactorEBM(min_history=200)
MODELS: dict[str, MarketModel] = {
    "SampleMoments": SampleMoments(factors=PAIR, lookback=250),
    "LedoitWolf": LedoitWolf(factors=PAIR),
    "EWMA": EWMA(freedom=5.0, factors=PAIR),
    "FactorCovariance": FactorCovariance(),
    "Historical": Historical(lookback=400, factors=PAIR),
    "FilteredHistorical": FilteredHistorical(lookback=300, factors=PAIR),
    "FactorEBM": EBM,
    "FactorEBM as they are": EBM.replace(orthogonalise=False),
}
FEW = ("SampleMoments", "EWMA", "FilteredHistorical", "FactorEBM")
"""One of each kind."""
DENSE = [name for name in MODELS if "Historical" not in name]
PAST = world(420)
BIG = 40_000
_FITTED: dict[str, Market] = {}


def fitted(name: str) -> Market:
    if name not in _FITTED:
        _FITTED[name] = MODELS[name].fit(PAST)
    return _FITTED[name]


def rng(name: str) -> torch.Generator:
    return generator(0, name)


# -- the grammar


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("HML>2%", "HML > 0.02"),
        ("  Mkt-RF  ==  -5 % ", "Mkt-RF = -0.05"),
        ("B and Q <= 50bps and A < .01", "A < 0.01 and B and Q <= 0.005"),
        ("HML ~ 0.02 +- 5e-3", "HML ~ 0.02 +- 0.005"),
        ("Standard > 0.1 and Standard > 0.1", "Standard > 0.1"),
    ],
)
def test_sentences_have_one_form_each(text: str, said: str) -> None:
    if text.startswith("B and Q"):
        with pytest.raises(SpecError, match="'B' cannot be read"):
            Condition(text)
        return
    assert Condition(text).text == said
    assert Condition(said) == Condition(text)
    assert Condition.from_json(Condition(text).model_dump_json()) == Condition(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("HML", "cannot be read"),
        ("HML > __import__('os')", "cannot be read"),
        ("HML > 0.02 or SMB > 0", "cannot be read"),
        ("0.01 < HML < 0.02", "cannot be read"),
        ("HML ~ 0.02", "deviation"),
        ("HML > 0.02 +- 0.01", "deviation"),
        ("HML ~ 0.02 +- 0", "above zero"),
        ("HML < -2", "above -100%"),
        ("", "cannot be read"),
    ],
)
def test_what_cannot_be_read_says_what_can(text: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        Condition(text)


def test_names_are_checked_with_near_matches() -> None:
    market = fitted("EWMA")
    with pytest.raises(SpecError, match="did you mean value"):
        market + Condition("Valu > 0.01")
    with pytest.raises(SpecError, match="factors="):
        SampleMoments().fit(PAST).clamp(market=-0.05)
    with pytest.raises(SpecError, match="cannot hold together"):
        market + Condition("value > 0.02") + Condition("value < 0.01")
    with pytest.raises(SpecError, match="which series"):
        market.clamp()
    with pytest.raises(SpecError, match="one date"):
        StackedMarket((market, market)) + Condition("value > 0.02")


def test_the_energy_of_a_condition_by_hand() -> None:
    condition = Condition("a > 0.01 and b ~ 0.02 +- 0.01")
    r = torch.tensor([[0.02, 0.05], [0.01, 0.02], [0.011, 0.02]], dtype=torch.float64)
    assert condition.energy(r, ("a", "b")).tolist() == pytest.approx([4.5, math.inf, 0.0])


# -- the algebra


def test_conditions_add_in_any_order_bit_for_bit() -> None:
    one, two = Condition("market < -0.005"), Condition("A1 > -0.01")
    for model in (MODELS["EWMA"], EBM):
        a, b = (model + one + two).fit(PAST), (model + (two + one)).fit(PAST)
        c = model.fit(PAST) + two + one
        draws = [m.sample(50, rng("x")) for m in (a, b, c)]
        assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
        assert (model + one + two) == (model + two + one)


def test_a_conditioned_model_is_a_spec() -> None:
    model = MODELS["EWMA"] + Condition("market < -1%")
    assert repr(model) == "EWMA(freedom=5.0, factors=('market', 'value')) + Condition('market < -0.01')"
    assert eval(repr(model), {"EWMA": EWMA, "Condition": Condition}) == model
    assert MarketModel.from_json(model.model_dump_json()) == model
    assert isinstance(model, Conditioned) and model.history == MODELS["EWMA"].history
    with pytest.raises(TypeError):
        _ = MODELS["EWMA"] + 3


# -- closed forms


def test_a_normal_law_given_a_value_has_the_moments_of_the_book() -> None:
    """m_a + S_ab S_bb^-1 (v - m_b),  S_aa - S_ab S_bb^-1 S_ba; and the density of the value is normal."""
    market = fitted("LedoitWolf")
    given = market.clamp(market=-0.02)
    s, m = market.spread.numpy(), market.centre.numpy()
    share = s[:, 0] / s[0, 0]
    mean, spread = m + share * (-0.02 - m[0]), s - np.outer(share, s[0])
    outlook = given.outlook(1, rng("o"))
    assert outlook.mean.numpy() == pytest.approx(mean[2:], abs=1e-12)
    assert outlook.covariance.dense().numpy() == pytest.approx(spread[2:, 2:], abs=1e-12)
    x = given.sample(BIG, rng("s"))
    assert bool((x[:, 0] == -0.02).all())
    se = np.sqrt(np.diag(spread) / BIG)
    assert (np.abs(x.mean(0).numpy() - mean) <= 4.5 * se + 1e-12).all()
    got = np.cov(x.numpy().T)
    assert np.abs(got - spread)[1:, 1:].max() < 0.05 * np.diag(spread)[1:].max()
    found = given.evidence(1)
    assert found.exact and found.mass == pytest.approx(stats.norm(m[0], math.sqrt(s[0, 0])).pdf(-0.02))


def test_a_view_is_a_noisy_observation() -> None:
    """Over 21 days of a normal law: the posterior of Black and Litterman with one view."""
    market = fitted("LedoitWolf")
    given = market + Condition("value ~ 0.03 +- 0.01")
    s, m = 21 * market.spread.numpy(), 21 * market.centre.numpy()
    gain = s[:, 1] / (s[1, 1] + 0.01**2)
    outlook = given.outlook(21, rng("o"))
    assert outlook.mean.numpy() == pytest.approx((m + gain * (0.03 - m[1]))[2:], abs=1e-12)
    assert outlook.covariance.dense().numpy() == pytest.approx((s - np.outer(gain, s[1]))[2:, 2:], abs=1e-12)
    assert outlook.scenarios is not None and outlook.status is not None
    # Drawn paths compound, the closed moments do not: they agree to a fraction of the deviation.
    off = outlook.scenarios.mean(0) - outlook.mean
    assert bool((off.abs() < 0.25 * outlook.covariance.dense().diagonal().sqrt()).all())


def test_a_t_law_given_a_value_is_a_t_law_with_more_freedom() -> None:
    """x_2 | x_1 of a t copula: location R x_1, scale^2 (1 - R^2) (nu + x_1^2) / (nu + 1), nu + 1 degrees."""
    nu, r, at, n = 5.0, 0.6, -4.0, 20_000
    scale = torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)
    law = Pinned(scale, [0], nu, n)
    value = torch.tensor(at, dtype=torch.float64)
    _, log_density = law.pin(value, value, rng("t"))
    assert log_density.numpy() == pytest.approx(stats.t(nu).logpdf(at))
    x = law.rest(rng("t"))[:, 1].numpy()
    width = math.sqrt((1 - r * r) * (nu + at * at) / (nu + 1))
    assert stats.kstest(x, stats.t(nu + 1, r * at, width).cdf).pvalue > 1e-3


def test_pinned_intervals_multiply_to_the_joint_probability() -> None:
    nu, n = 4.0, 40_000
    scale = torch.tensor([[1.0, 0.5, 0.2], [0.5, 2.0, -0.3], [0.2, -0.3, 1.5]], dtype=torch.float64)
    law = Pinned(scale, [1, 0], nu, n)
    end = torch.tensor(math.inf, dtype=torch.float64)
    low, high = torch.tensor(1.0, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    one, log_one = law.pin(low, end, rng("p"))
    two, log_two = law.pin(-end, high, rng("p"))
    assert bool((one >= 1.0).all()) and bool((two <= -0.5).all())
    joint = stats.multivariate_t(shape=scale[:2, :2].numpy(), df=nu)
    draws = joint.rvs(400_000, random_state=0)
    truth = ((draws[:, 1] >= 1.0) & (draws[:, 0] <= -0.5)).mean()
    assert float((log_one + log_two).exp().mean()) == pytest.approx(truth, rel=0.03)
    with pytest.raises(SpecError, match="determine one another"):
        Pinned(torch.ones(2, 2, dtype=torch.float64), [0, 1], nu, 5)


# -- brute force


def sentences(market: Market) -> list[str]:
    draws = market.sample(4000, rng("width"))
    width = dict(zip(market.series, draws.std(0).tolist(), strict=True))
    one, two, a = width["market"], width["value"], width["A1"]
    return [
        f"market < {-0.8 * one}",
        f"value > {0.8 * two}",
        f"A1 < {-0.8 * a}",
        f"value > 0 and market < {0.3 * one} and A0 < 0.001",
        f"market ~ {-0.5 * one} +- {0.4 * one}",
    ]


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_day_given_a_condition_is_what_rejection_finds(name: str) -> None:
    market = fitted(name)
    brute = market.sample(BIG, rng("brute"))
    for text in sentences(market):
        given = market + Condition(text)
        weight = torch.exp(-given.condition.energy(brute, given.series))
        share, worth = float(weight.mean()), float(weight.sum() ** 2 / weight.square().sum())
        found = given.evidence(1)
        assert found.mass == pytest.approx(share, abs=5 * math.sqrt(share / BIG) + 5 * share / math.sqrt(4000)), text
        if found.effective < 30:
            continue
        x = given.sample(4000, rng("given"))
        assert not bool(torch.isinf(given.condition.energy(x, given.series)).any()), text
        mean = (weight[:, None] * brute).sum(0) / weight.sum()
        spread = ((weight[:, None] * (brute - mean).square()).sum(0) / weight.sum()).sqrt()
        error = spread * math.sqrt(1 / worth + 1 / min(found.effective, 4000))
        assert bool(((x.mean(0) - mean).abs() < 5 * error).all()), (name, text)
        ratio = x.std(0) / spread
        assert bool(((ratio - 1).abs() < 0.25).all()), (name, text, ratio)


@pytest.mark.parametrize("name", ["LedoitWolf", "EWMA", "FactorEBM", "FactorEBM as they are"])
def test_a_clamp_is_the_limit_of_narrow_windows(name: str) -> None:
    market = fitted(name)
    brute = market.sample(200_000 if "EBM" not in name else 80_000, rng("brute"))
    for series in ("market", "value", "A2"):
        column = market.series.index(series)
        wide = float(brute[:, column].std())
        at = float(brute[:, column].mean()) - 0.7 * wide
        near = brute[(brute[:, column] - at).abs() < 0.05 * wide]
        given = market.clamp({series: at})
        assert given.evidence(1).mass == pytest.approx(len(near) / len(brute) / (0.1 * wide), rel=0.08), series
        x = given.sample(4000, rng("given"))
        assert bool((x[:, column] == at).all())
        error = near.std(0) * math.sqrt(1 / len(near) + 1 / 2000) + 0.05 * wide / math.sqrt(len(near))
        assert bool(((x.mean(0) - near.mean(0)).abs() < 5 * error).all()), series
        assert bool(((x.std(0) / near.std(0)).nan_to_num(1.0) - 1).abs()[near.std(0) > 0.1 * wide].max() < 0.15)


@pytest.mark.parametrize("name", ["EWMA", "FilteredHistorical", "FactorEBM"])
def test_a_holding_period_given_a_condition_is_what_rejection_finds(name: str) -> None:
    """Paths of 5 days and their compound return; brute force compounds free steps and keeps those inside."""
    from portfolio_ebm.market.steps_ebm import steps_of

    market, horizon, n = fitted(name), 5, 20_000
    steps = steps_of(market, path=True)
    state, total, stream = steps.begin(n), torch.zeros(n, len(market.series), dtype=torch.float64), rng("brute")
    for _ in range(horizon):
        rows, state = steps.draw(state, n, stream)
        total = total + torch.log1p(rows)
    brute = torch.expm1(total)
    low = float(brute[:, 0].quantile(0.2))
    given = market + Condition(f"market < {low}")
    kept = brute[brute[:, 0] < low]
    found = given.weighted(horizon, 4000, rng("given"))
    assert math.exp(found.log_mass) == pytest.approx(0.2, rel=0.1)
    x = found.choose(4000, rng("choose"))
    assert bool((x[:, 0] < low).all())
    error = kept.std(0) * math.sqrt(1 / len(kept) + 1 / found.effective)
    assert bool(((x.mean(0) - kept.mean(0)).abs() < 5 * error).all())
    assert bool(((x.std(0) / kept.std(0) - 1).abs() < 0.2).all())


def test_a_stress_over_a_month_holds_on_every_path() -> None:
    for name in DENSE:
        found = fitted(name).clamp(market=-0.05).weighted(21, 1000, rng("stress"))
        assert found.rows[:, 0].tolist() == pytest.approx([-0.05] * len(found.rows))
        mean = found.weight @ found.rows
        assert float(mean[-4:].mean()) < -0.02, name


def test_paths_compound_to_what_is_given() -> None:
    for name in ("EWMA", "FactorEBM"):
        given = fitted(name).clamp(A1=-0.04)
        days = given.paths(5, 200, rng("days"))
        assert days.shape == (200, 5, 4)
        assert (torch.log1p(days).sum(1).expm1()[:, 1] + 0.04).abs().max() < 1e-9


# -- what draws are worth


def test_the_effective_size_is_that_of_the_weights_and_of_the_ancestors() -> None:
    rows = torch.zeros(4, 1, dtype=torch.float64)
    weight = torch.tensor([0.4, 0.4, 0.1, 0.1], dtype=torch.float64)
    apart = Weighted(rows, weight.log(), torch.arange(4))
    assert apart.effective == pytest.approx(1 / (2 * 0.16 + 2 * 0.01))
    assert apart.log_mass == pytest.approx(math.log(0.25))
    kin = Weighted(rows, weight.log(), torch.tensor([0, 0, 1, 1]))
    assert kin.effective == pytest.approx(1 / (0.64 + 0.04))
    nobody = Weighted(rows, torch.full((4,), -math.inf, dtype=torch.float64), torch.arange(4))
    assert nobody.effective == 0.0 and not nobody.even


def test_the_effective_size_tells_the_truth_about_the_error() -> None:
    """Means of 60 independent runs scatter as their effective sizes say."""
    given = fitted("EWMA").clamp(market=-0.05)
    runs = [given._walk(21, 400, rng(f"run {i}"), path=True) for i in range(60)]
    means = torch.stack([run.weight @ run.rows for run in runs])
    spread = torch.stack([(run.weight @ (run.rows - run.weight @ run.rows).square()).sqrt() for run in runs]).mean(0)
    size = float(np.mean([run.effective for run in runs]))
    scatter = means.std(0)[2:] / (spread[2:] / math.sqrt(size))
    assert bool((scatter < 1.35).all()) and bool((scatter > 0.4).all()), scatter


def test_few_days_are_few_draws() -> None:
    """Of an empirical law, days within the condition are all there is, however many are drawn."""
    market = fitted("Historical")
    days = market.days[:, 0]
    low = float(days.sort().values[60])
    found = (market + Condition(f"market < {low}")).evidence(1)
    assert found.mass == pytest.approx(60 / len(days)) and 54 < found.effective <= 60.001


def test_out_of_reach_is_refused_with_a_sentence() -> None:
    with pytest.raises(SolverError, match=r"out of reach .* effective sample size"):
        (fitted("Historical") + Condition("market < -0.3")).sample(10, rng("x"))
    far = fitted("Historical") + Condition("market < -0.3")
    assert not far.status and "fewer than 30" in far.status.message
    with pytest.raises(SpecError, match=r"cannot be clamped.*Condition"):
        fitted("Historical").clamp(market=-0.03).sample(10, rng("x"))
    assert "effective sample size 4000 of 4000" in fitted("EWMA").clamp(market=-0.05).status.message


# -- densities


@pytest.mark.parametrize("name", ["EWMA", "FactorEBM as they are"])
def test_the_conditional_density_is_normalised(name: str) -> None:
    """E_p[q / p] = 1 for the conditional density q under the unconditional law p."""
    market = fitted(name)
    draws = market.sample(6000, rng("density"))
    width = float(draws[:, 0].std())
    for text in (f"market < {0.5 * width}", f"market ~ 0 +- {width}"):
        given = market + Condition(text)
        ratio = torch.exp(given.log_prob(draws) - market.log_prob(draws))
        assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * float(ratio.std()) / math.sqrt(len(draws)) + 1e-6)
    clamp = market.clamp(market=0.01)
    row = draws[:3].clone()
    assert bool(torch.isinf(clamp.log_prob(row)).all())
    row[:, 0] = 0.01
    gone = row.clone()
    gone[:, 1:] = torch.nan
    alone = market.log_prob(gone)
    assert (clamp.log_prob(row) - (market.log_prob(row) - alone)).abs().max() < 5e-3
    with pytest.raises(SpecError, match="one is missing"):
        (market + Condition("market > 0")).log_prob(torch.full_like(row, torch.nan))


# -- the house


def test_the_future_is_not_in_the_room() -> None:
    model = MODELS["EWMA"] + Condition("market < -0.5%")
    past = world(420, tradeable=np.ones(4, dtype=bool))
    poisoned = past.returns.copy()
    poisoned[400:] *= -7
    a = model.fit(cut(past, 400)).sample(20, rng("c"))
    b = model.fit(cut(world(420, returns=poisoned), 400)).sample(20, rng("c"))
    assert torch.equal(a, b)


def test_a_strategy_takes_a_conditioned_market() -> None:
    strategy = Strategy(
        name="stressed",
        market=EWMA(factors=PAIR) + Condition("market = -5%"),
        energy=CVaR(level=0.95),
        rebalance=Monthly(),
    )
    assert Strategy.from_json(strategy.model_dump_json()) == strategy
    found = rebalance(strategy, PAST, None)
    assert float(found.weights.sum()) == pytest.approx(1.0)
    plain = rebalance(strategy.replace(market=EWMA(factors=PAIR)), PAST, None)
    # Given that the market falls, names with less beta are worth more.
    beta = np.linspace(0.7, 1.3, 4)
    assert float(found.weights.to_numpy() @ beta) < float(plain.weights.to_numpy() @ beta) + 1e-9


def test_what_a_market_answers_it_answers_given_the_condition() -> None:
    given = fitted("EWMA").clamp(market=-0.02)
    assert isinstance(given, ConditionedMarket)
    row = given.sample(1, rng("row"))[0]
    assert given.pit(row).shape == row.shape
    var, es = given.var_es(torch.full((4,), 0.25, dtype=torch.float64), 0.95)
    assert float(es) <= float(var) < 0
    assert given.marginals is None and given.mean.shape == (4,)
    assert float(given.mean.mean()) < float(fitted("EWMA").mean.mean()) - 0.005
