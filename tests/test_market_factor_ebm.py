"""The composed market: its density, its samples, its outlook, its store and its errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from market_worlds import cut, world
from scipy import stats

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.composed import FactorEBMMarket, split
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.types import generator

SPEC = FactorEBM(factors=("market", "value"), lookback=300, min_history=200, scenarios=4000)

pytestmark = pytest.mark.usefixtures("module_store")


@pytest.fixture(scope="module", name="past")
def _past() -> Past:
    return world()


@pytest.fixture(scope="module", name="market")
def _market(past: Past, module_store: None) -> FactorEBMMarket:
    return SPEC.fit(past)


def rows(past: Past, names: tuple[str, ...] = ("market", "value")) -> torch.Tensor:
    """The panel's days as rows of chosen factors, then assets."""
    columns = [past.factors.index(name) for name in names]
    return torch.from_numpy(np.concatenate([past.factor_returns[:, columns], past.returns], axis=1))


def files(home: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in home.rglob("*.safetensors")}


def test_energies_add_up_and_density_is_their_negative(past: Past, market: FactorEBMMarket) -> None:
    r = rows(past)[-50:]
    parts = market.parts(r)
    assert list(parts) == [
        "market",
        "value",
        "factor dependence",
        *(f"A{i} residual" for i in range(4)),
        "residual dependence",
    ]
    assert torch.allclose(sum(parts.values()), market.energy(r))
    assert torch.equal(market.log_prob(r), -market.energy(r))
    with pytest.raises(ShapeError, match="expected"):
        market.log_prob(r[:, :-1])


def test_joint_density_integrates_to_one() -> None:
    """One factor and one asset, by a grid over the plane; the map (f, r) -> (x, eps) has determinant one."""
    past = world(assets=1)
    market = FactorEBM(("market",), lookback=300, min_history=200).fit(past)
    wide = np.sinh(np.linspace(-7, 7, 301)) * 0.002
    width = np.cosh(np.linspace(-7, 7, 301)) * 0.002 * (14 / 300)
    a, b = np.meshgrid(wide, wide, indexing="ij")
    value = market.log_prob(torch.from_numpy(np.stack([a.ravel(), (b + 0.7 * a).ravel()], -1))).exp().numpy()
    assert width @ value.reshape(301, 301) @ width == pytest.approx(1.0, abs=1e-3)


def test_a_missing_asset_is_integrated_out(past: Past, market: FactorEBMMarket) -> None:
    """The density without A1 is the integral of the density over A1."""
    r = rows(past)[-1].clone()
    grid = torch.linspace(-0.3, 0.3, 3001, dtype=torch.float64)
    full = r.expand(3001, -1).clone()
    full[:, 3] = grid
    r[3] = torch.nan
    assert float(torch.trapezoid(market.log_prob(full).exp(), grid)) == pytest.approx(
        float(market.log_prob(r).exp()), rel=1e-3
    )


def test_samples_follow_the_parts(market: FactorEBMMarket) -> None:
    draws = market.sample(3000, generator(4, "draws"))
    x, eps = split(draws, market.beta, market.loadings, market.market)
    for block, values in zip(market.blocks, (x, eps), strict=True):
        u = block.law.cdf(values[:1000, :, None])[..., 0].numpy()
        assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-3
    # The mean log density of own samples is minus the entropy: any other law scores worse on them.
    wider = draws.mean(0) + 1.5 * (draws - draws.mean(0))
    assert market.log_prob(draws).mean() > market.log_prob(wider).mean()


def test_scenarios_agree_with_the_structured_covariance_and_the_mean(market: FactorEBMMarket) -> None:
    found = market.outlook(21, generator(1, "outlook"))
    assert found.scenarios is not None and found.scenarios.shape == (4000, 4)
    dense, sample = found.covariance.dense(), torch.cov(found.scenarios.T)
    assert ((sample.diagonal() / dense.diagonal()).sqrt() - 1).abs().max() < 0.08
    widths = dense.diagonal().sqrt(), sample.diagonal().sqrt()
    gap = dense / torch.outer(widths[0], widths[0]) - sample / torch.outer(widths[1], widths[1])
    assert gap.abs().max() < 0.08
    assert (found.scenarios.mean(0) - found.mean).abs().max() < 0.1 * dense.diagonal().sqrt().max()
    assert torch.linalg.eigvalsh(dense)[0] > 0
    assert (found.scenarios > -1).all()


def test_marginals_are_centred_consistent_and_do_not_depend_on_nodes(past: Past, market: FactorEBMMarket) -> None:
    found = market.outlook(21, generator(1, "outlook"))
    table = found.marginals
    assert table is not None
    weight = table.log_mass.exp()
    assert (weight.sum(-1) - 1).abs().max() < 1e-12
    assert (weight * table.values).sum(-1).abs().max() < 1e-15
    variance = (weight * table.values.square()).sum(-1)
    k = len(market.factors)
    dense = found.covariance.dense()
    core = found.covariance.core[:k, :k].diagonal()
    assert torch.allclose(variance[:k], core)
    whole = table.exposures[:, :k].square() @ variance[:k] + variance[k:]
    assert (whole / dense.diagonal() - 1).abs().max() < 0.4
    finer = SPEC.replace(nodes=400).fit(past).outlook(21, generator(1, "outlook")).marginals
    assert finer is not None
    for g in (1.0, 5.0, 25.0):
        one, two = (torch.logsumexp(t.log_mass - g * t.values, -1) / g for t in (table, finer))
        assert (one - two).abs().max() < 1e-6


def test_horizon_scales_the_variance(market: FactorEBMMarket) -> None:
    one, ten = (market.outlook(h, generator(0, "h")) for h in (1, 10))
    assert torch.allclose(10 * one.mean, ten.mean)
    ratio = ten.covariance.dense().diagonal() / one.covariance.dense().diagonal()
    assert ((ratio > 5) & (ratio < 20)).all()


def test_the_day_after_does_not_matter(past: Past) -> None:
    """Everything after t poisoned: the market at t is the same to the last bit."""
    t = 400
    clean = SPEC.fit(cut(past, t)).outlook(5, generator(0, "t"))
    dirty = replace(past, returns=past.returns.copy(), factor_returns=past.factor_returns.copy())
    dirty.returns[t:], dirty.factor_returns[t:] = 10 * dirty.returns[t:], dirty.factor_returns[t:][::-1]
    again = SPEC.fit(cut(dirty, t)).outlook(5, generator(0, "t"))
    assert torch.equal(clean.scenarios, again.scenarios)
    assert torch.equal(clean.covariance.dense(), again.covariance.dense())


def test_trained_once_a_year_and_read_back(past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later in the year nothing is trained; a date fitted with a cold store is the same to the last bit."""
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path / "one"))
    early, late = cut(past, 380), cut(past, 415)
    first = SPEC.fit(early)
    assert {"factor market", "factor value", "residual A0", "factor dependence", "loadings"} <= set(first.refitted)
    before = files(tmp_path / "one")
    warm = SPEC.fit(late)
    assert warm.refitted == ("loadings",)
    assert files(tmp_path / "one") == before
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path / "two"))
    cold = SPEC.fit(late)
    assert "factor market" in cold.refitted
    one, two = (m.outlook(21, generator(0, "x")) for m in (warm, cold))
    assert torch.equal(one.scenarios, two.scenarios)


def test_adding_a_factor_trains_that_factor_only(past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    two = SPEC.fit(past)
    before = files(tmp_path)
    three = SPEC.replace(factors=("market", "value", "size")).fit(past)
    trained = [name for name in three.refitted if name.startswith("factor ") and not name.endswith("dependence")]
    assert trained == ["factor size"]
    assert {"factor dependence", "residual dependence", "loadings", "residual A0"} <= set(three.refitted)
    after = files(tmp_path)
    assert len(after) > len(before) and all(after[name] == blob for name, blob in before.items())
    assert torch.equal(two.blocks[0].law.flat, three.blocks[0].law.flat[:2])
    swapped = SPEC.replace(factors=("size", "market")).fit(past)
    assert not any(name.startswith("factor ") and not name.endswith("dependence") for name in swapped.refitted)


def test_young_missing_and_untradeable_names_have_finite_numbers(past: Past) -> None:
    r = past.returns.copy()
    r[:, 0], r[:-3, 1], r[:-60, 2] = np.nan, np.nan, np.nan
    tradeable = np.array([False, True, True, True])
    market = SPEC.fit(replace(past, returns=r, tradeable=tradeable))
    found = market.outlook(21, generator(0, "young"))
    assert found.scenarios is not None and found.marginals is not None
    for value in (
        found.mean,
        found.covariance.dense(),
        found.scenarios,
        found.marginals.values,
        found.marginals.log_mass,
    ):
        assert torch.isfinite(value).all()
    assert market.loadings[0] == pytest.approx([1.0, 0.0])
    assert "kept at the prior" in market.status.message and market.status.ok
    width = found.covariance.dense().diagonal().sqrt()
    assert 0.3 < width[0] / width[3] < 3 and 0.3 < width[1] / width[3] < 3
    day = torch.cat([torch.from_numpy(past.factor_returns[-1, :2]), torch.from_numpy(r[-1])])
    assert torch.isfinite(market.log_prob(day))


def test_independent_and_untrained_variants(past: Past, market: FactorEBMMarket) -> None:
    alone = SPEC.replace(dependence="none").fit(past)
    r = rows(past)[-30:]
    both = market.parts(r)
    assert torch.allclose(
        alone.log_prob(r), market.log_prob(r) + both["factor dependence"] + both["residual dependence"]
    )
    plain = SPEC.replace(residual="ewma").fit(past)
    assert not any(name.startswith("residual A") for name in plain.refitted)
    raw = SPEC.replace(orthogonalise="none").fit(past)
    assert torch.equal(raw.beta, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        (SPEC.replace(factors=("market", "growth")), {}, "growth.*market, value, size"),
        (SPEC.replace(factors=("market", "market")), {}, "twice"),
        (SPEC.replace(factors=("value",)), {}, "orthogonal.*market"),
        (SPEC, {"factors": ()}, "no factors"),
        (SPEC, {"constant": 1}, "value.*constant"),
        (SPEC, {"short": 1}, "value has 40 observations.*200"),
        (SPEC.replace(factors=("market", "value", "size")), {"sum": 2}, "linear combination of market, value"),
        (SPEC, {"infinite": 0}, "market.*infinite"),
        (SPEC, {"percent": 1}, "value.*percent"),
    ],
)
def test_bad_input_is_named(past: Past, spec: FactorEBM, changes: dict[str, int], words: str) -> None:
    f = past.factor_returns.copy()
    if "factors" in changes:
        past = replace(past, factors=(), factor_returns=f[:, :0], market=None)
    else:
        if "constant" in changes:
            f[:, 1] = 0.001
        if "short" in changes:
            f[:-40, 1] = np.nan
        if "sum" in changes:
            f[:, 2] = 0.5 * f[:, 0] - 2 * f[:, 1]
        if "infinite" in changes:
            f[-5, 0] = np.inf
        if "percent" in changes:
            f[:, 1] *= 100
        past = replace(past, factor_returns=f)
    with pytest.raises(DataError, match=words):
        spec.fit(past)


def test_too_little_history_is_named(past: Past) -> None:
    with pytest.raises(DataError, match="150 observations"):
        SPEC.fit(cut(past, 150))


def test_spec_round_trips() -> None:
    assert MarketModel.from_json(SPEC.model_dump_json()) == SPEC
    assert eval(repr(SPEC)) == SPEC
    assert FactorEBM(("market", "MTUM")).factors == ("market", "MTUM")
    with pytest.raises(SpecError, match="exceeds lookback"):
        FactorEBM(lookback=200, min_history=300)
