"""The parts of the composed market: states, loadings, store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from market_worlds import world

from portfolio_ebm.errors import StoreError
from portfolio_ebm.market.loadings import loadings, orthogonalise
from portfolio_ebm.market.states import states
from portfolio_ebm.market.store import Store, key
from portfolio_ebm.market.variances import ew_mean


def test_ew_mean_by_hand() -> None:
    """Half-life one: weights halve; a missing day keeps its place in time and has no weight."""
    mean = ew_mean(np.array([1.0, 3.0, np.nan, 5.0]), 1.0)
    assert np.isnan(mean[0])
    assert mean[1:] == pytest.approx([1.0, (3 + 0.5) / 1.5, (3 + 0.5) / 1.5, (5 + 3 / 4 + 1 / 8) / (1 + 1 / 4 + 1 / 8)])


@pytest.mark.parametrize("poison", [10.0, np.nan, -3.0])
def test_states_know_nothing_of_the_day_or_after(poison: float) -> None:
    past = world(200)
    x, market = past.returns, past.factor_returns[:, 0]
    clean = states(x, market)
    x2, market2 = x.copy(), market.copy()
    x2[120:], market2[120:] = x2[120:] * poison, market2[120:] * poison
    dirty = states(x2, market2)
    for name in ("level", "ratios", "features", "drift"):
        a, b = getattr(clean.state, name)[:, :121], getattr(dirty.state, name)[:, :121]
        assert torch.equal(a, b), name
        assert not torch.equal(getattr(clean.state, name)[:, 121:], getattr(dirty.state, name)[:, 121:]), name


def test_states_are_prefix_stable_scale_free_and_columnwise() -> None:
    past = world(200)
    x, market = past.returns, past.factor_returns[:, 0]
    whole = states(x, market)
    part = states(x[:150], market[:150])
    alone = states(x[:, 1:2], market)
    scaled = states(100 * x, 7 * market)
    for name in ("level", "ratios", "features", "drift"):
        assert torch.equal(getattr(whole.state, name)[:, :151], getattr(part.state, name)), name
        assert torch.equal(getattr(whole.state, name)[1], getattr(alone.state, name)[0]), name
        if name != "level":
            assert (getattr(whole.state, name) - getattr(scaled.state, name)).abs().max() < 1e-9, name


def test_states_are_finite_whatever_is_missing() -> None:
    x = world(150).returns.copy()
    x[:, 0], x[:100, 1], x[50:60, 2] = np.nan, np.nan, np.nan
    found = states(x, world(150).factor_returns[:, 0])
    for name in ("level", "ratios", "features", "drift"):
        assert torch.isfinite(getattr(found.state, name)).all()
    assert not found.ready[:, 0].any()


def test_loadings_are_causal_and_near_the_truth() -> None:
    rng = np.random.default_rng(1)
    f = rng.standard_normal((800, 2))
    truth = np.array([[1.0, 0.5], [0.2, -0.7]])
    r = f @ truth.T + 0.1 * rng.standard_normal((800, 2))
    found = loadings(r, f, 0)
    # A ridge of 5 % of the diagonal shrinks by 1 / 1.05 and the prior by a hair more.
    assert np.abs(found.today - truth / 1.05).max() < 0.06
    r2, f2 = r.copy(), f.copy()
    r2[500:], f2[500:] = 9.0, -4.0
    other = loadings(r2, f2, 0)
    assert np.array_equal(found.path[:501], other.path[:501])
    assert np.array_equal(found.residuals[:500], other.residuals[:500])
    assert np.allclose(found.residuals[10], r[10] - found.path[10] @ f[10])
    short = loadings(r[:600], f[:600], 0)
    assert np.array_equal(found.path[:601], short.path)


def test_short_history_is_put_on_the_market() -> None:
    past = world(300)
    r = past.returns.copy()
    r[:, 0], r[:297, 1] = np.nan, np.nan
    found = loadings(r, past.factor_returns[:, :1], 0)
    assert found.today[0] == pytest.approx([1.0])
    full = loadings(past.returns[297:], past.factor_returns[297:, :1], None).today[1, 0] * 1.05
    assert min(full, 1.0) - 0.7 < found.today[1, 0] < max(full, 1.0) + 0.7
    assert np.isnan(found.residuals[:, 0]).all() and np.isfinite(found.residuals[297:, 1]).all()
    # Names with other gaps do not touch one another.
    assert np.allclose(found.today[2:], loadings(past.returns, past.factor_returns[:, :1], 0).today[2:])


def test_loadings_by_hand() -> None:
    """One factor of ones and half-life one: sums 1, 1.5, 1.75; the ridge adds 5 %, the prior 20 / days."""
    f, r = np.ones((3, 1)), np.array([[2.0, 0.5], [np.nan, 0.5], [4.0, 0.5]])
    found = loadings(r, f, 0, 1.0)
    lift = 0.05 + 20 / np.array([1, 2, 3])
    full = np.array([1.0, 1.5, 1.75])
    assert found.path[1:, 1, 0] == pytest.approx((0.5 * full + full * 20 / np.array([1, 2, 3])) / (full * (1 + lift)))
    # The asset with a gap: weights 1, then 1/2, then 1/4 + 1 of its own two days.
    assert found.path[3, 0, 0] == pytest.approx((2 / 4 + 4 + 1.25 * 20 / 2) / (1.25 * (1.05 + 20 / 2)))
    assert found.days == pytest.approx([1.25, 1.75])
    assert found.residuals[2] == pytest.approx(r[2] - found.path[2, :, 0]) and np.isnan(found.residuals[1, 0])


def test_group_priors_by_hand() -> None:
    """A name without a day has its group's mean, drawn to the market by 20 days; one without a group the market."""
    f = np.ones((3, 1))
    r = np.array([[2.0, np.nan, 0.5, np.nan]] * 3)
    alone, found = loadings(r, f, 0, 1.0), loadings(r, f, 0, 1.0, groups=("a", "a", "b", ""))
    assert found.today[1, 0] == pytest.approx((1.75 * alone.today[0, 0] + 20) / 21.75)
    assert found.today[3, 0] == 1.0
    # Alone in its group, or beside a name without a day, it keeps the market as its prior.
    assert found.today[0] == pytest.approx(alone.today[0]) and found.today[2] == pytest.approx(alone.today[2])
    both = loadings(r[:, [0, 2]], f, 0, 1.0, groups=("a", "a")).today[:, 0]
    prior = (1.75 * alone.today[2, 0] + 20) / 21.75
    assert both[0] == pytest.approx((2 * 1.75 + 1.75 * 20 / 3 * prior) / (1.75 * (1.05 + 20 / 3)))


def test_known_loadings_by_hand() -> None:
    """What is known stands; the other loading is the regression of what it leaves."""
    rng = np.random.default_rng(2)
    f, r = rng.standard_normal((50, 2)), rng.standard_normal((50, 2))
    known = np.full((50, 2, 2), np.nan)
    known[20:, 0, 0] = 0.7
    found, plain = loadings(r, f, None, known=known), loadings(r, f, None)
    assert np.allclose(found.path[:21], plain.path[:21]) and np.allclose(found.path[:, 1], plain.path[:, 1])
    assert (found.path[21:, 0, 0] == 0.7).all()
    rest = loadings(r - 0.7 * f[:, :1], f[:, 1:], None).path[21:, 0, 0]
    assert found.path[21:, 0, 1] == pytest.approx(rest)


def test_orthogonalised_styles_are_causal_independent_of_each_other_and_of_the_market() -> None:
    past = world(1500)
    f = past.factor_returns
    x, beta = orthogonalise(f[:, 1:], f[:, 0])
    alone, _ = orthogonalise(f[:, 2:], f[:, 0])
    assert np.array_equal(x[:, 1:], alone, equal_nan=True)
    later = f.copy()
    later[700:] *= -5
    moved, _ = orthogonalise(later[:, 1:], later[:, 0])
    assert np.array_equal(x[:700], moved[:700], equal_nan=True)
    assert np.array_equal(x[700], f[700, 1:] - beta[700] * f[700, 0])
    raw = np.corrcoef(f[20:].T)[0, 1:]
    left = [np.corrcoef(f[20:, 0], x[20:, k])[0, 1] for k in (0, 1)]
    assert np.abs(raw).min() > 0.8 and np.abs(left).max() < 0.12


def test_store_round_trip_and_keys(tmp_path: Path) -> None:
    store = Store(tmp_path)
    window = np.arange(6.0).reshape(2, 3)
    name = key({"kind": "test"}, window)
    assert name == key({"kind": "test"}, window.copy())
    others = {key({"kind": "test"}, window + 1e-15), key({"kind": "rest"}, window), key({"kind": "test"}, window.T)}
    assert name not in others and len(others) == 3
    assert store.get(name) is None
    theta = torch.randn(3, 4, dtype=torch.float64)
    store.put(name, {"parameters": theta}, {"series": "MTUM", "rows": 12})
    back = Store(tmp_path).get(name)
    assert back is not None and torch.equal(back.tensors["parameters"], theta)
    assert back.facts == {"series": "MTUM", "rows": 12}
    path = store.path(name)
    assert path is not None and [file.name for file in path.parent.iterdir()] == [path.name]
    first = path.read_bytes()
    store.put(name, {"parameters": theta + 1}, {})
    assert path.read_bytes() == first
    memory = Store(None)
    memory.put(name, {"parameters": theta}, {})
    kept = memory.get(name)
    assert kept is not None and torch.equal(kept.tensors["parameters"], theta)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "words"])
def test_a_damaged_fit_is_named_with_its_remedy(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    store.put("ab12", {"parameters": torch.randn(50, dtype=torch.float64)}, {"series": "MTUM"})
    path = store.path("ab12")
    assert path is not None
    blob = path.read_bytes()
    changed = {
        "cut": blob[:-40],
        "flip": blob[:-9] + bytes([blob[-9] ^ 1]) + blob[-8:],
        "empty": b"",
        "words": blob.replace(b"MTUM", b"XTUM"),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(StoreError, match="delete") as caught:
        store.get("ab12")
    assert str(path) in str(caught.value)


def test_store_goes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    assert Store.default().root == tmp_path / "fits"
    blocked = tmp_path / "file"
    blocked.write_text(json.dumps({}))
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(blocked))
    assert Store.default().root is None
    assert Store.default().memory is Store.default().memory
