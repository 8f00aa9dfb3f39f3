"""The bundled data are what data/README.md says, and scripts/make_data.py makes them."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.bundled import FILES, NOTES, bundled
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def panel() -> Panel:
    return bundled()


def rows_of_readme() -> dict[str, list[str]]:
    lines = [line for line in (ROOT / "data" / "README.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row for row in cells if row[0] in FILES}


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_what_the_readme_says(name: str) -> None:
    _, _, first, last, shape, _, digest = rows_of_readme()[name]
    raw = (ROOT / "data" / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    assert f"`{hashlib.sha256(text).hexdigest()}`" == digest
    rows = text.decode().splitlines()
    assert shape == f"{len(rows) - 1} x {rows[0].count(',')}"
    if first != "-":
        assert (rows[1][:10], rows[-1][:10]) == (first, last)


def test_the_bundled_panel(panel: Panel) -> None:
    assert len(panel) == 8313 and panel.n_assets == 20 and panel.periods_per_year == 252.0
    assert (panel.start, panel.end) == ("1990-01-02", "2022-12-28")
    assert panel.factors == ("market", "MTUM", "QUAL", "SIZE", "USMV", "VLUE")
    assert panel.market == "market" and not panel.built_factors and panel.benchmark_name == "SP500 price only"
    assert panel.tradeable.all() and len(set(panel.groups["sector"])) == 7
    assert panel.groups["sector"][panel.assets.index("XOM")] == "Energy"
    assert panel.signals["vix"][panel.row("2018-02-05")] == 37.32


def test_factors_start_when_they_are_known(panel: Panel) -> None:
    known = np.isfinite(panel.factor_returns)
    starts = [str(panel.dates[row])[:10] for row in known.argmax(axis=0)]
    assert starts == ["1995-03-01", *["2014-01-03"] * 5]
    assert all(known[first:, column].all() for column, first in enumerate(known.argmax(axis=0)))


def test_the_market_is_the_index_with_a_smooth_dividend_gap(panel: Panel) -> None:
    assert panel.benchmark is not None
    days = pd.DatetimeIndex(panel.dates)
    gap = pd.Series(panel.factor_returns[:, 0] - panel.benchmark, index=days).dropna()
    yearly = gap.groupby(gap.index.year).mean() * 252
    assert yearly.loc[1997:].between(0.019, 0.028).all() and 0.03 < yearly.loc[1995] < 0.036
    by_month = gap.groupby(gap.index.to_period("M"))
    assert float((by_month.max() - by_month.min()).max()) < 1e-7  # known before the month begins, so constant in it
    price = np.prod(1.0 + panel.benchmark[days.year == 2019]) - 1.0
    total = np.prod(1.0 + panel.factor_returns[days.year == 2019, 0]) - 1.0
    assert price == pytest.approx(0.2888, abs=5e-4) and total == pytest.approx(0.3149, abs=8e-3)


def test_it_says_what_to_beware_of(panel: Panel) -> None:
    told = panel.describe()
    assert all(note in told for note in NOTES)
    assert "No name ever leaves" in told and "SP500 price only" in told


def test_files_of_the_user_go_with_what_is_bundled(panel: Panel, tmp_path: Path) -> None:
    own = read_panel(prices=ROOT / "data" / "stocks.csv.gz", groups=ROOT / "data" / "groups.csv")
    assert own.built_factors and own.groups["sector"] == panel.groups["sector"]
    np.testing.assert_array_equal(own.returns, panel.returns)
    again = read_panel(factors=ROOT / "data" / "factors.csv.gz", factors_are="prices")
    np.testing.assert_array_equal(again.factor_returns, panel.factor_returns)
    assert again.groups["sector"] == panel.groups["sector"]
    (tmp_path / "kinds.csv").write_text("ticker,kind\n" + "".join(f"{name},stock\n" for name in panel.assets))
    kinds = read_panel(groups=tmp_path / "kinds.csv")
    assert list(kinds.groups) == ["kind"] and kinds.factors == panel.factors


def test_another_folder_can_be_named(panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_EBM_DATA", str(tmp_path))
    with pytest.raises(DataError, match="stocks") as caught:
        bundled()
    assert "PORTFOLIO_EBM_DATA" in str(caught.value) and "--prices" in str(caught.value)
    for name in FILES:
        (tmp_path / name).write_bytes((ROOT / "data" / name).read_bytes())
    assert bundled().fingerprint() == panel.fingerprint()


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    for package in ("skfolio", "arch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install -e '.[data]')")
    spec = importlib.util.spec_from_file_location("make_data", ROOT / "scripts" / "make_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_data"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_what_is_in_the_folder_byte_for_byte_again(
    maker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make() for make in maker.MAKERS]
    for item in made:
        assert maker.unpacked(ROOT / "data" / item.name) == item.text, item.name
    assert [make().packed for make in maker.MAKERS] == [item.packed for item in made]
    monkeypatch.setattr(maker, "MAKERS", tuple((lambda item=item: item) for item in made))
    assert maker.main(["--check"]) == 0, capsys.readouterr().out
    assert maker.main(["--out", str(tmp_path)]) == 0 == maker.main(["--out", str(tmp_path), "--check"])
    (tmp_path / "groups.csv").write_text("asset,sector\n")
    assert maker.main(["--out", str(tmp_path), "--check"]) == 1
    assert "groups.csv" in capsys.readouterr().out


def test_the_dividend_gap_of_a_month_does_not_know_the_month_or_the_one_before(maker: ModuleType) -> None:
    days = pd.bdate_range("1990-01-01", "2018-12-31")
    rng = np.random.default_rng(0)
    index = pd.Series(100.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.01, len(days)))), index=days)
    months = pd.period_range("1990-01", "2018-11", freq="M")
    french = pd.DataFrame({"Mkt-RF": rng.normal(0.7, 4.0, len(months)), "RF": 0.2}, index=months)
    known = maker.dividend_gap(index, french)
    changed = french.copy()
    changed.loc["2005-05":, "Mkt-RF"] += 50.0
    other = maker.dividend_gap(index, changed)
    pd.testing.assert_series_equal(known.loc[:"2005-06"], other.loc[:"2005-06"])
    assert other.loc["2005-07"] > known.loc["2005-07"]
    assert str(known.first_valid_index()) == "1995-03" and known.loc["2018-12"] == known.loc["2018-12":].iloc[0]
