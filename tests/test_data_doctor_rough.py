"""The doctor reads files that the other doors refuse, and its cured copy is the table that was meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_data_doctor import DAYS, look, world
from test_data_fuzz import corpus

from portfolio_ebm.data.doctor import examine, fix, write_fixed
from portfolio_ebm.data.doctor.rough import read_rough
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError, PortfolioEBMError

TRUTH = world().iloc[:500, :8].rename_axis("date")


def stacked(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index().melt("date", var_name="ticker", value_name="close")


def downloaded(names: tuple[str, str]) -> pd.DataFrame:
    """As yfinance gives many tickers."""
    volume = TRUTH * 0 + np.random.default_rng(0).integers(10**5, 10**6, TRUTH.shape)
    both = pd.concat({"Close": TRUTH, "Volume": volume}, axis=1)
    return both.rename_axis(columns=list(names)).rename_axis(index="Date")


# How the file is written, and a word of what the doctor says of it; the doors refuse each of them.
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "semicolons and decimal commas": (lambda f: TRUTH.to_csv(f, sep=";", decimal=","), "semicolons"),
    "semicolons, points for thousands": (
        lambda f: (TRUTH.map(lambda x: f"{x:,.2f}".translate(str.maketrans(",.", ".,")))).to_csv(f, sep=";"),
        "decimal commas",
    ),
    "semicolons and days first": (
        lambda f: TRUTH.set_axis(TRUTH.index.strftime("%d.%m.%Y")).to_csv(f, sep=";", decimal=",", index_label="Datum"),
        "day first",
    ),
    "tabs": (lambda f: TRUTH.to_csv(f, sep="\t"), "tabs"),
    "UTF-16": (lambda f: TRUTH.to_csv(f, encoding="utf-16"), "UTF-16"),
    "Windows": (lambda f: TRUTH.rename(columns={"N03": "Société"}).to_csv(f, encoding="cp1252"), "Windows-1252"),
    "rows counted": (lambda f: TRUTH.reset_index().to_csv(f), "counts the rows"),
    "yfinance": (lambda f: downloaded(("Price", "Ticker")).to_csv(f), "yfinance"),
    "yfinance, tickers first": (
        lambda f: downloaded(("Price", "Ticker")).swaplevel(axis=1).rename_axis(columns=["Ticker", "Price"]).to_csv(f),
        "yfinance",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_what_the_doors_refuse_is_read_told_and_cured(case: str, tmp_path: Path) -> None:
    write, word = FILES[case]
    file = tmp_path / "mine.csv"
    write(file)
    with pytest.raises(DataError, match=r"mine\.csv"):
        read_panel(file)
    cells = read_rough(file)
    report = examine(cells, what=None)
    assert report.shape == TRUTH.shape and report.what == "prices"
    assert any(word in item.what for item in report.findings), report.text()
    cleaned, changes = fix(cells, report)
    assert len(changes), "the log says that the copy differs"
    panel = read_panel(write_fixed(file, tmp_path / "cured.csv", cleaned, changes)[0])
    assert panel.assets == tuple(sorted(TRUTH.columns)) if case != "Windows" else "Société" in panel.assets
    assert panel.prices is not None
    np.testing.assert_array_equal(panel.prices, TRUTH.to_numpy())
    assert (panel.dates == DAYS[:500].to_numpy()).all()


def test_a_stored_download_is_no_table_of_closes_and_volumes(tmp_path: Path) -> None:
    file = tmp_path / "download.parquet"
    downloaded(("Price", "Ticker")).to_parquet(file)
    with pytest.raises(DataError, match=r"by a field and a name.*frame\['Close'\]"):
        read_panel(file)
    report = examine(read_rough(file), what=None)
    assert report.shape == TRUTH.shape and "thin trading" in report.ran


def planted() -> pd.DataFrame:
    frame = TRUTH.copy()
    frame.loc[DAYS[200] :, "N01"] = (frame.loc[DAYS[200] :, "N01"] / 4).round(2)
    frame.loc[DAYS[300], "N02"] *= 10.0
    frame.loc[DAYS[100:130], "N03"] *= 100.0
    frame.iloc[250, 4] = 0.0
    return frame


@pytest.mark.parametrize("form", ["csv", "parquet", "shuffled"])
def test_a_long_table_is_examined_and_cured_as_the_wide_one(form: str, tmp_path: Path) -> None:
    """Findings, cured cells and log are those of the wide table; the copy is long, its rows in the user's order."""
    sick = planted()
    told = look(sick, volume=sick * 0 + 1e6)
    cured, log = fix(sick, told)
    rows = stacked(sick).assign(volume=1e6)
    rows = rows.sample(frac=1.0, random_state=0) if form == "shuffled" else rows
    file = tmp_path / ("long.parquet" if form == "parquet" else "long.csv")
    rows.to_parquet(file, index=False) if form == "parquet" else rows.to_csv(file, index=False)
    cells = read_rough(file)
    report = look(cells)
    assert report.shape == TRUTH.shape and "thin trading" in report.ran

    def said(items: object) -> set[tuple[str, str, str]]:
        return {(i.kind, i.asset, i.first) for i in items.findings if i.asset}

    assert said(told) <= said(report)
    assert {"split", "spike", "units", "impossible"} <= {item.kind for item in report.findings if item.fixable}
    cleaned, changes = fix(cells, report)
    assert list(cleaned.columns) == ["date", "ticker", "close", "volume"]
    back = cleaned.assign(date=pd.to_datetime(cleaned["date"])).pivot(index="date", columns="ticker", values="close")
    np.testing.assert_array_equal(back.to_numpy(dtype=float), cured.to_numpy())
    key = ["asset", "date"]
    one, two = (item.sort_values(key)[[*key, "after"]].reset_index(drop=True) for item in (changes, log))
    pd.testing.assert_frame_equal(one, two, check_dtype=False)


def test_a_pair_that_is_there_twice_is_told_with_its_row() -> None:
    rows = stacked(TRUTH)
    report = look(pd.concat([rows, rows.iloc[[3]]], ignore_index=True))
    (item,) = report.where(lambda item: item.kind == "date")
    assert item.asset == rows["ticker"][3] and f"row {len(rows) + 1}" in item.what and not item.fixable


def test_forecasts_may_be_long_too() -> None:
    knows = TRUTH.pct_change(fill_method=None).shift(-1)
    rows = knows.reset_index().melt("date", var_name="ticker", value_name="score").astype({"score": "str"})
    assert look(TRUTH, forecasts=rows).where(lambda item: item.kind == "look-ahead" and item.sure > 0.9)


def test_percent_signs_are_a_hundredth() -> None:
    frame = TRUTH.pct_change(fill_method=None).iloc[1:]
    text = frame.map(lambda x: f"{100 * x:.4f}%")
    report = examine(text, what="returns")
    cleaned, _ = fix(text, report)
    np.testing.assert_allclose(cleaned.to_numpy(dtype=float), frame.to_numpy(), atol=1e-6)


def test_rows_that_were_put_in_order_are_in_the_log() -> None:
    cleaned, changes = fix(TRUTH[::-1], look(TRUTH[::-1]))
    assert cleaned.index.is_monotonic_increasing
    assert (changes["after"] == "rows by date").sum() == 1


def test_a_column_that_counts_the_rows_is_named_by_the_door(tmp_path: Path) -> None:
    file = tmp_path / "counted.csv"
    TRUTH.reset_index().to_csv(file)
    with pytest.raises(DataError, match=r"counts the rows; leave that out, as to_csv\(index=False\)"):
        read_panel(file)


@pytest.mark.parametrize(
    ("cases", "seed"), [(100, 7), *(pytest.param(1_250, seed, marks=pytest.mark.slow) for seed in range(8, 12))]
)
def test_damaged_files_are_examined_and_cured_or_refused(cases: int, seed: int, tmp_path: Path) -> None:
    found = {name: item for name, item in corpus(tmp_path).items() if name.split(".")[0] in ("prices", "long", "flat")}
    kinds, rng, count = list(found), np.random.default_rng(seed), {"examined": 0, "refused": 0}
    for k in range(cases):
        name, raw, ways = found[kinds[k % len(kinds)]]
        damaged = bytearray(raw)
        for _ in range(int(rng.geometric(0.7))):
            if damaged:
                ways[int(rng.integers(len(ways)))](damaged, rng)
        (tmp_path / name).write_bytes(bytes(damaged))
        try:
            cells = read_rough(tmp_path / name)
            fix(cells, examine(cells, what=None))
            count["examined"] += 1
        except PortfolioEBMError as error:
            assert name in str(error)
            count["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {k} of {name}: {type(error).__name__}: {error}") from error
    assert count["examined"] > cases / 8 and count["refused"] > cases / 50, count
