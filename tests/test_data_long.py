"""Long tables and folders: the same panel as wide files, whatever the order of the rows; what is ambiguous is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_worlds import NAMES, world

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError

NAN = np.nan
DAYS = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06"], name="date")
LONG = """date,ticker,close,volume,sector
2020-01-06,B,21,600,energy
2020-01-02,A,10,100,tech
2020-01-02,B,20,,energy
2020-01-03,A,11,300,tech
2020-01-06,A,,500,tech
2020-01-03,B,19,400,energy
"""
PRICES = pd.DataFrame({"A": [10.0, 11, NAN], "B": [20.0, 19, 21]}, index=DAYS)
VOLUME = pd.DataFrame({"A": [100.0, 300, 500], "B": [NAN, 400, 600]}, index=DAYS)
SECTORS = {"sector": {"A": "tech", "B": "energy"}}


def stacked(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    return frame.rename_axis("date").reset_index().melt("date", var_name="ticker", value_name=name).dropna()


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "frame", "two levels", "date as the index"])
def test_one_long_table_holds_several_things(form: str, tmp_path: Path) -> None:
    wide = Panel.from_prices(PRICES, volume=VOLUME, groups=SECTORS).fingerprint()
    (tmp_path / "long.csv").write_text(LONG)
    frame = pd.read_csv(tmp_path / "long.csv")
    path = tmp_path / f"mine.{form}"
    if form.startswith("csv"):
        frame.to_csv(path, index=False)
        panel = read_panel(path)
    elif form == "parquet":
        frame.assign(date=pd.to_datetime(frame["date"]).astype("datetime64[us]")).to_parquet(path)
        panel = read_panel(path)
    elif form == "frame":
        panel = Panel.from_long(frame)
    elif form == "two levels":
        panel = Panel.from_long(frame.set_index(["date", "ticker"]))
    else:
        panel = Panel.from_long(frame.assign(date=pd.DatetimeIndex(frame["date"])).set_index("date"))
    assert panel.fingerprint() == wide and panel.assets == ("A", "B")


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_the_order_of_the_rows_says_nothing(shuffle: Any, drop: int) -> None:
    prices, extras = world(40)
    rows = stacked(prices, "close").merge(stacked(extras["volume"], "volume"), how="left")
    rows = rows.drop(index=rows.index[drop::31])
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    one, other = Panel.from_long(rows), Panel.from_long(rows.iloc[order].reset_index(drop=True))
    assert one.fingerprint() == other.fingerprint() and one.notes == other.notes
    assert one.prices is not None and int(np.isfinite(one.prices).sum()) == len(rows)


def test_returns_alone_and_returns_beside_prices() -> None:
    rows = stacked(PRICES, "prc").assign(ret=0.01)
    panel = Panel.from_long(rows)
    assert panel.prices is not None and set(panel.returns[panel.tradeable]) == {0.01}
    alone = Panel.from_long(rows[["date", "ticker", "ret"]])
    assert alone.prices is None and alone.tradeable.tolist() == panel.tradeable.tolist()


def test_an_adjusted_close_goes_before_a_raw_one_and_is_told() -> None:
    rows = stacked(PRICES, "Close").assign(**{"Adj Close": lambda item: item["Close"] / 2})
    panel = Panel.from_long(rows.assign(open=1.0, Note="x"))
    np.testing.assert_array_equal(panel.prices, PRICES.to_numpy() / 2)
    told = panel.describe()
    assert "'Adj Close' is taken as the price, and 'Close' left out" in told and "open, Note were left out" in told
    with pytest.raises(DataError, match="count twice"):
        Panel.from_long(rows.assign(dividend=0.0))


def test_dividends_and_splits_come_with_the_price() -> None:
    rows = stacked(PRICES.replace(11.0, 5.0), "close").assign(dividend=NAN, split=NAN)
    rows.loc[(rows["ticker"] == "A") & (rows["date"] == DAYS[1]), ["dividend", "split"]] = [0.5, 2.0]
    panel = Panel.from_long(rows)
    assert panel.returns[1, 0] == pytest.approx((5.0 + 0.5) * 2.0 / 10.0 - 1.0)


def test_a_label_that_changes_does_so_on_its_day() -> None:
    rows = stacked(PRICES, "close").assign(sector="old").sort_values("date", ascending=False)
    rows.loc[rows["date"] == DAYS[2], "sector"] = "new"
    panel = Panel.from_long(rows.reset_index(drop=True))
    there = {str(day)[:10]: set(rows.loc[rows["date"] == day, "ticker"]) for day in DAYS[:3]}
    seen = dict.fromkeys(panel.assets, "unknown")
    for t, day in enumerate(DAYS[:3]):
        seen |= dict.fromkeys(there[str(day)[:10]], "new" if t == 2 else "old")
        assert dict(zip(panel.assets, panel.past(t).groups["sector"], strict=True)) == seen


def test_numbers_name_assets_as_whole_numbers() -> None:
    rows = stacked(PRICES, "prc").assign(permno=lambda item: item["ticker"].map({"A": 10107.0, "B": 14593.0}))
    assert Panel.from_long(rows.drop(columns="ticker")).assets == ("10107", "14593")


def test_a_ticker_may_be_called_na(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(LONG.replace(",A,", ",NA,").replace(",B,", ",NULL,"))
    assert read_panel(tmp_path / "long.csv").assets == ("NA", "NULL")


def test_a_column_that_is_blank_throughout_is_left_out_and_told() -> None:
    panel = Panel.from_long(stacked(PRICES, "close").assign(split=NAN))
    assert panel.fingerprint() == Panel.from_prices(PRICES).fingerprint()
    assert "'split' is blank from end to end" in panel.describe()


def test_names_without_a_price_are_left_out_and_told() -> None:
    rows = pd.concat([stacked(PRICES, "close"), pd.DataFrame({"date": [DAYS[0]], "ticker": ["Z"], "close": [NAN]})])
    panel = Panel.from_long(rows.assign(volume=1.0, sector="x").reset_index(drop=True))
    assert panel.assets == ("A", "B") and "1 name(s) without a single price" in str(panel.notes)


REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "a pair twice": (LONG + "2020-01-03,A,12,300,tech\n", ("A on 2020-01-03", "rows 4 and 7", "keep one")),
    "two names": (LONG.replace("sector", "permno"), ("'ticker'", "'permno'", "keep one")),
    "two dates": (LONG.replace("sector", "Day"), ("'date'", "'Day'", "keep one")),
    "two prices": (LONG.replace("volume", "price"), ("'close'", "'price'", "keep one")),
    "no price": (LONG.replace("close", "foo").replace("volume", "bar").replace("sector", "x"), ("foo, bar", "prices")),
    "volume alone": (
        "date,ticker,volume\n2020-01-02,A,1\n2020-01-03,A,1\n",
        ("no prices and no returns", "volume"),
    ),
    "text for a price": (LONG.replace(",21,", ",n.a.,"), ("'close'", "row 1", "n.a.")),
    "an american date": (LONG.replace("2020-01-03,B", "1/3/2020,B"), ("'date'", "row 6", "1/3/2020")),
    "seconds for a date": (LONG.replace("2020-01-03,B", "1578009600,B"), ("row 6", "unit='s'")),
    "no such day": (LONG.replace("2020-01-06,A", "2020-02-31,A"), ("'date'", "row 5", "2020-02-31")),
    "a blank name": (LONG.replace("2020-01-03,B", "2020-01-03,"), ("'ticker'", "row 6", "no name")),
    "a blank date": (LONG.replace("2020-01-03,B", ",B"), ("'date'", "row 6", "no date")),
    "a negative price": (LONG.replace(",21,", ",-21,"), ("'B'", "2020-01-06", "negative")),
    "no label": (LONG.replace(",energy", ","), ("'sector'", "'B'", "write one")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_ambiguous_or_broken_long_file_is_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, facts = REFUSED[case]
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_panel(tmp_path / "mine.csv")
    for fact in facts:
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"


def test_a_frame_that_is_not_long_says_what_it_lacks() -> None:
    with pytest.raises(DataError, match=r"date and a column asset.*this one has date, A, B"):
        Panel.from_long(PRICES)
    with pytest.raises(DataError, match="'volume' was given already"):
        Panel.from_long(stacked(PRICES, "close").assign(volume=1.0), volume=VOLUME)
    with pytest.raises(DataError, match="DataFrame"):
        Panel.from_long([1])


def write_folder(folder: Path, ending: str) -> dict[str, Any]:
    """Every piece of the world in a file of its own, wide; what they make as frames."""
    prices, extras = world(60)
    folder.mkdir()

    def put(name: str, frame: pd.DataFrame, index: bool = True) -> None:
        path = folder / f"{name}.{ending}"
        if ending == "parquet":
            (frame.rename_axis("date") if index else frame).to_parquet(path, index=index)
        else:
            frame.to_csv(path, index=index, index_label="date" if index else None)

    put("prices", prices)
    for name in ("volume", "dividends", "splits", "factors", "signals"):
        put(name, extras[name])
    put("benchmark", extras["benchmark"].to_frame())
    put("cash", extras["cash_rate"].to_frame("rate"))
    put("forecast-alpha", extras["forecasts"]["alpha"])
    put("benchmark_weights", extras["benchmark_weights"]["index"])
    put("benchmark_weights-other", extras["benchmark_weights"]["index"] * 0.5)
    put("membership", MEMBERS, index=False)
    put("delistings", FINAL, index=False)
    put("groups", pd.DataFrame({"asset": NAMES, "sector": "x", "issuer": "y"}), index=False)
    weights = extras.pop("benchmark_weights")["index"]
    return extras | {
        "prices": prices,
        "benchmark_weights": {"other": weights * 0.5, "benchmark": weights},
        "membership": MEMBERS,
        "delistings": FINAL,
        "groups": {"sector": dict.fromkeys(NAMES, "x"), "issuer": dict.fromkeys(NAMES, "y")},
    }


MEMBERS = pd.DataFrame({"asset": NAMES, "start": ["2018-01-01"] * 6, "end": ["2018-02-01", "", "", "", "", ""]})
FINAL = pd.DataFrame({"asset": ["S2"], "date": ["2018-03-20"], "return": [-0.4]})
KINDS: dict[str, Any] = {"factors_are": "returns", "benchmark_are": "returns", "cash_are": "annual_percent"}


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_folder_of_well_known_names_is_the_frames(ending: str, tmp_path: Path) -> None:
    frames = write_folder(tmp_path / "data", ending)
    (tmp_path / "data" / "readme.txt").write_text("mine")
    panel = read_panel(tmp_path / "data", **KINDS)
    expected = Panel.from_prices(frames.pop("prices"), **frames)
    assert panel.fingerprint() == expected.fingerprint()
    assert "1 file(s) of no known name were not read (readme.txt)" in panel.describe()
    singly = {name: tmp_path / "data" / f"{name}.{ending}" for name in READ}
    weights = {
        "other": tmp_path / "data" / f"benchmark_weights-other.{ending}",
        "benchmark": singly["benchmark_weights"],
    }
    one_by_one = read_panel(
        **(singly | KINDS | {"benchmark_weights": weights}),
        forecasts={"alpha": tmp_path / "data" / f"forecast-alpha.{ending}"},
    )
    assert one_by_one.fingerprint() == expected.fingerprint()


READ = (
    "prices", "volume", "dividends", "splits", "factors", "signals", "benchmark", "cash", "membership", "delistings",
    "groups", "benchmark_weights",
)  # fmt: skip


def test_files_that_are_long_are_the_wide_ones(tmp_path: Path) -> None:
    prices, extras = world(60)
    dividends = extras["dividends"]
    prices.to_csv(tmp_path / "prices.csv", index_label="date")
    factors = extras["factors"].rename_axis("date").reset_index().melt("date", var_name="factor", value_name="return")
    factors.to_csv(tmp_path / "factors.csv", index=False)
    stacked(dividends, "amount").to_csv(tmp_path / "dividends.csv", index=False)
    stacked(extras["volume"], "shares").to_csv(tmp_path / "volume.csv", index=False)
    stacked(extras["forecasts"]["alpha"], "score").to_csv(tmp_path / "alpha.csv", index=False)
    panel = read_panel(
        tmp_path / "prices.csv", tmp_path / "factors.csv", dividends=tmp_path / "dividends.csv",
        volume=tmp_path / "volume.csv", forecasts={"alpha": str(tmp_path / "alpha.csv")}, factors_are="returns",
    )  # fmt: skip
    kept = {"factors": extras["factors"], "factors_are": "returns", "volume": extras["volume"]}
    expected = Panel.from_prices(prices, dividends=dividends, forecasts=extras["forecasts"], **kept)
    assert panel.fingerprint() == expected.fingerprint()


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither prices nor returns"):
        read_panel(tmp_path)
    PRICES.to_csv(tmp_path / "prices.csv")
    assert read_panel(tmp_path).fingerprint() == Panel.from_prices(PRICES).fingerprint()
    with pytest.raises(DataError, match="'volume' was given already"):
        VOLUME.to_csv(tmp_path / "volume.csv")
        read_panel(tmp_path, volume=tmp_path / "volume.csv")
    PRICES.to_parquet(tmp_path / "prices.parquet")
    with pytest.raises(DataError, match=r"prices\.csv and prices\.parquet hold the same"):
        read_panel(tmp_path)


def test_the_benchmark_is_a_path_or_the_name_of_a_factor(tmp_path: Path) -> None:
    PRICES.to_csv(tmp_path / "prices.csv")
    PRICES[["B"]].to_csv(tmp_path / "index.csv")
    named = read_panel(tmp_path / "prices.csv", benchmark="market")
    assert named.benchmark_name == "market"
    by_path = read_panel(tmp_path / "prices.csv", benchmark=str(tmp_path / "index.csv"), benchmark_are="prices")
    assert by_path.benchmark_name == "B" and by_path.benchmark is not None
    with pytest.raises(DataError, match="one path"):
        read_panel(tmp_path / "prices.csv", forecasts=tmp_path / "index.csv")


def test_dates_in_every_unit_are_the_same(tmp_path: Path) -> None:
    expected = Panel.from_prices(PRICES).fingerprint()
    for k, unit in enumerate(("s", "ms", "us", "ns")):
        PRICES.set_axis(DAYS.astype(f"datetime64[{unit}]")).to_parquet(tmp_path / f"{k}.parquet")
        assert read_panel(tmp_path / f"{k}.parquet").fingerprint() == expected
    PRICES.set_axis(pd.Index([day.date() for day in DAYS], name="date")).to_parquet(tmp_path / "dates.parquet")
    PRICES.set_axis(DAYS.tz_localize("Europe/Vienna")).to_parquet(tmp_path / "zone.parquet")
    for name in ("dates", "zone"):
        assert read_panel(tmp_path / f"{name}.parquet").fingerprint() == expected
    PRICES.set_axis(pd.Index([int(day.timestamp()) for day in DAYS], name="date")).to_parquet(
        tmp_path / "epoch.parquet"
    )
    with pytest.raises(DataError, match=r"epoch\.parquet.*s since 1970 it would be 2020-01-02.*unit='s'"):
        read_panel(tmp_path / "epoch.parquet")
