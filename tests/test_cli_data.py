"""The data commands as typed: fetch, doctor, describe."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm import cli
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.cache import Cache
from portfolio_ebm.data.sources.yahoo_ask import COLUMNS

DAYS = pd.bdate_range("2020-01-01", periods=400)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["portfolio-ebm", "data", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def prices() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    steps = 0.01 * rng.standard_normal((400, 1)) + 0.012 * rng.standard_normal((400, 6))
    return pd.DataFrame(100 * np.exp(steps.cumsum(axis=0)), index=DAYS, columns=list("ABCDEF")).round(2)


def test_the_doctor_finds_a_split_and_writes_a_cured_copy(typed, tmp_path: Path) -> None:
    frame = prices()
    sick = frame.copy()
    sick.loc[DAYS[200] :, "C"] = (sick.loc[DAYS[200] :, "C"] / 4).round(2)
    sick.rename_axis("date").to_csv("sick.csv")
    before = Path("sick.csv").read_bytes()
    code, out, _ = typed("doctor", "sick.csv", "--fix")
    assert code == 0
    assert "4-for-1 split" in out
    assert str(DAYS[200].date()) in out
    assert Path("sick.csv").read_bytes() == before
    cured = pd.read_csv("sick.fixed.csv", index_col=0, parse_dates=True)
    jump = cured["C"].pct_change().iloc[200]
    assert abs(jump - frame["C"].pct_change().iloc[200]) < 2e-3
    log = pd.read_csv("sick.fixed.changes.csv")
    assert set(log["asset"]) == {"C"} and set(log["why"]) == {"split"}
    code, _, err = typed("doctor", "sick.csv", "--fix")
    assert code == 2 and "there is a file already" in err


def test_a_healthy_file_has_nothing_that_is_sure_but_its_survivors(typed) -> None:
    prices().rename_axis("date").to_csv("well.csv")
    code, out, _ = typed("doctor", "well.csv", "--calendar", "XNYS")
    assert code == 0
    assert "split" not in out.split("Checked")[0]


def test_offline_fetch_writes_a_folder_that_the_other_commands_read(typed) -> None:
    cache, frame = Cache.default("yahoo"), prices()
    for name in frame:
        columns = dict.fromkeys(COLUMNS, frame[name].to_numpy())
        columns |= {key: np.zeros(400) for key in ("dividends", "splits", "capital_gains")}
        dates = DAYS.to_numpy().astype("datetime64[ns]")
        cache.write(str(name), dates, columns, {"asked_from": "2020-01-01", "currency": "USD"})
    Path("universe.csv").write_text("ticker,start,end\nA,2020-01-01,\nB,2020-01-01,2020-06-30\nC,2020-01-01,\n")
    words = ("fetch", "--source", "yahoo", "--universe", "universe.csv", "--start", "2020-01-01")
    code, out, err = typed(*words, "--offline", "--out", "panel")
    assert code == 0, err
    assert "3 tickers: 3 offline." in out
    code, out, _ = typed("describe", "panel")
    assert code == 0
    assert out.startswith("3 assets, 400 dates from 2020-01-01")
    code, _, err = typed(*words, "--offline", "--out", "panel")
    assert code == 2 and "is there already" in err
    code, _, err = typed(*words, "--tickers", "D", "--offline")
    assert code == 2 and "add them to it with a start" in err


def test_the_doctor_examines_a_folder_with_all_its_forecasts(typed, tmp_path: Path) -> None:
    frame = prices()
    noise = pd.DataFrame(np.random.default_rng(1).standard_normal(frame.shape), index=DAYS, columns=frame.columns)
    Path("mine").mkdir()
    tables = {"prices": frame, "volume": frame * 1e3, "forecast-fair": noise}
    tables["forecast-seer"] = frame.pct_change(fill_method=None).shift(-1)
    for name, table in tables.items():
        table.rename_axis("date").to_csv(f"mine/{name}.csv")
    code, out, err = typed("doctor", "mine")
    assert code == 0, err
    assert "thin trading" in out.split("Checked:")[1] and "look-ahead (" not in out
    assert "Forecast 'seer': 99%" in out or "Forecast 'seer': 100%" in out, out
    code, _, err = typed("doctor", "mine", "--fix")
    assert code == 2 and "cure its files one by one" in err


def test_prices_as_traded_with_their_splits_are_no_split_that_lacks(typed, tmp_path: Path) -> None:
    frame = prices()
    frame.loc[DAYS[200] :, "C"] = (frame.loc[DAYS[200] :, "C"] / 4).round(2)
    splits = pd.DataFrame(np.nan, index=DAYS[200:201], columns=["C"]).fillna(4.0)
    Path("raw").mkdir()
    frame.rename_axis("date").to_csv("raw/prices.csv")
    splits.rename_axis("date").to_csv("raw/splits.csv")
    Panel.from_prices(frame, splits=splits).save("kept")
    for folder in ("raw", "kept"):
        code, out, err = typed("doctor", folder)
        assert code == 0, err
        assert "returns of 6 names" in out and "split (" not in out
    frame.rename_axis("date").to_csv("bare.csv")
    assert "4-for-1 split" in typed("doctor", "bare.csv")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fetch", "--source", "bloomberg"), "there is yahoo and french"),
        (("fetch", "--source", "yahoo", "--start", "2020-01-01"), "give --tickers"),
        (("fetch", "--source", "yahoo", "--tickers", "A"), "--start is missing"),
        (("fetch", "--source", "yahoo", "--tickers", "A", "--start", "2020-01-01", "--offline"), "not stored"),
        (("fetch", "--source", "french"), "give --sets"),
        (("fetch", "--source", "french", "--sets", "ff6", "--offline"), "ff5"),
        (("doctor", "nothing.csv"), "no such file"),
    ],
)
def test_a_wrong_word_gets_a_sentence(typed, words: tuple[str, ...], said: str) -> None:
    code, _, err = typed(*words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
