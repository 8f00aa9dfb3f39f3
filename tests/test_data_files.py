"""Files that cannot be used as they are: each is refused with its name, column, date and remedy."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.doctor.rough import read_rough
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.reading import read_wide
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError

GOOD = """date,AAPL,XOM
2020-01-02,75.1,60.2
2020-01-03,74.3,
2020-01-06,74.9,60.1
2020-01-07,74.5,59.6
2020-01-08,75.7,58.7
"""


def edit(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# name of the case: (text of the file, what the message must hold)
BAD_PRICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "date twice": (edit("2020-01-07", "2020-01-06"), ("row 4", "2020-01-06", "twice", "keep one")),
    "dates unsorted": (edit("2020-01-07", "2020-01-04"), ("row 4", "2020-01-04", "2020-01-06", "sort")),
    "newest first": (
        "\n".join([GOOD.split("\n")[0], *reversed(GOOD.strip().split("\n")[1:])]),
        ("row 2", "2020-01-07", "sort"),
    ),
    "no such day": (edit("2020-01-07", "2020-01-37"), ("row 4", "2020-01-37", "YYYY-MM-DD")),
    "american dates": (edit("2020-01-02", "1/2/2020"), ("row 1", "1/2/2020", "YYYY-MM-DD")),
    "blank date": (edit("2020-01-06", ""), ("row 3", "date", "YYYY-MM-DD")),
    "year too far": (edit("2020-01-08", "9999-01-08"), ("row 5", "9999-01-08", "correct")),
    "negative price": (edit("59.6", "-59.6"), ("'XOM'", "2020-01-07", "negative", "blank")),
    "zero price": (edit("74.9", "0"), ("'AAPL'", "2020-01-06", "zero", "blank")),
    "infinite price": (edit("74.9", "inf"), ("'AAPL'", "2020-01-06", "not finite", "blank")),
    "number too large": (edit("74.9", "1e999"), ("'AAPL'", "2020-01-06", "not finite")),
    "text in a cell": (edit("59.6", "n.a."), ("'XOM'", "row 4", "2020-01-07", "n.a.", "blank")),
    "a true in a cell": (edit("59.6", "True"), ("'XOM'", "row 4", "2020-01-07", "True")),
    "a dot for missing": (edit("59.6", "."), ("'XOM'", "2020-01-07", "'.'", "blank")),
    "thousands separator": (edit("59.6", '"1,059.6"'), ("'XOM'", "2020-01-07", "1,059.6", "separators")),
    "column without numbers": (re.sub(r",[\d.]*\n", ",\n", GOOD), ("'XOM'", "2020-01-02", "remove")),
    "column twice": (edit("XOM", "AAPL"), ("'AAPL'", "2 times", "keep one")),
    "column without a name": (edit("XOM", ""), ("column 3", "no name")),
    "a cell too many": (edit("59.6", "59.6,1"), ("line 5", "2020-01-07", "4 cells", "3")),
    "a cell too few": (edit(",59.6", ""), ("line 5", "2020-01-07", "2 cells", "blank")),
    "semicolons": (GOOD.replace(",", ";"), ("';'", "commas")),
    "tabs": (GOOD.replace(",", "\t"), ("commas",)),
    "one column": ("date\n2020-01-02\n2020-01-03\n", ("one column", "names")),
    "a web page": ("<!DOCTYPE html><html>Too many requests</html>", ("web page", "download")),
    "nothing": ("", ("empty", "columns")),
    "blank lines": ("\n\n  \n", ("empty",)),
    "header alone": ("date,AAPL\n", ("no rows",)),
    "one row": ("date,AAPL\n2020-01-02,1.0\n", ("1 row", "at least 2")),
    "returns in place of prices": (
        "date,A\n2020-01-02,0.01\n2020-01-03,-0.02\n2020-01-06,0.01\n",
        ("'A'", "2020-01-03", "holds returns", "from_returns", "returns.csv in a folder"),
    ),
    "bars of one name": (
        "date,Open,High,Low,Close,Volume\n2020-01-02,1,1,1,1,5\n2020-01-03,1,1,1,1,5\n",
        ("bars", "wide", "closes"),
    ),
    "a long table that does not say so": (
        "date,code,close\n2020-01-02,A,1\n2020-01-02,B,2\n2020-01-03,A,1\n",
        ("'code'", "row 1", "'A' is not a number", "long table", "date, asset"),
    ),
    "seconds since an epoch": (edit("2020-01-02", "1577923200"), ("row 1", "s since 1970", "2020-01-02", "unit='s'")),
    "milliseconds since an epoch": (edit("2020-01-06", "1578268800000"), ("row 3", "2020-01-06", "unit='ms'")),
    "nanoseconds since an epoch": (edit("2020-01-06", "1578268800000000000"), ("2020-01-06", "unit='ns'")),
    "days of a spreadsheet": (edit("2020-01-06", "43836"), ("row 3", "2020-01-06", "1899-12-30")),
    "a quote left open": (edit("59.6", '"59.6'), ("line 5", "quotes")),
    "a zero byte": (edit("59.6", "59\0.6"), ("line 5", "zero byte", "UTF-8")),
    "an underscore in a number": (edit("59.6", "5_9.6"), ("'XOM'", "5_9.6", "not a number")),
}


@pytest.mark.parametrize("case", BAD_PRICES)
def test_a_bad_price_file_is_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, facts = BAD_PRICES[case]
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_panel(prices=file)
    message = str(caught.value)
    assert "mine.csv" in message, message
    for fact in facts:
        assert fact in message, f"{fact!r} is not in: {message}"
    assert caught.value.__cause__ is None and message.endswith((".", ")")), message


@pytest.mark.parametrize("name", ["lacking.csv", "lacking.xlsx", "lacking"])
def test_a_path_that_is_not_there_says_so_and_names_its_neighbours(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(GOOD)
    for read in (lambda file: read_panel(prices=file), read_rough):
        with pytest.raises(DataError, match=r"no such file; in that folder there is mine\.csv"):
            read(tmp_path / name)


def test_a_picture_is_no_table_and_the_doctor_sends_nobody_to_himself(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    for raw, words in ((bytes(range(256)) * 9, "is no text"), ("date\nMünchen\n".encode("latin-1"), "not UTF-8")):
        file.write_bytes(raw)
        with pytest.raises(DataError, match=words):
            read_panel(prices=file)
        with pytest.raises(DataError, match=words) as caught:
            read_rough(file)
        assert "doctor" not in str(caught.value)


def returns_file(
    scale: float, start: str = "2020-01-02", names: tuple[str, ...] = ("market", "style"), rows: int = 60
) -> str:
    rng = np.random.default_rng(2)
    days = pd.bdate_range(start, periods=rows)
    frame = pd.DataFrame(
        scale * rng.standard_normal((rows, len(names))), index=days.strftime("%Y-%m-%d"), columns=list(names)
    )
    return frame.to_csv(index_label="date")


def prices_file(rows: int = 60) -> str:
    days = pd.bdate_range("2020-01-02", periods=rows)
    levels = pd.DataFrame(
        {"AAPL": np.linspace(50, 60, rows), "XOM": np.linspace(70, 60, rows)}, index=days.strftime("%Y-%m-%d")
    )
    return levels.to_csv(index_label="date")


BAD_FACTORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "percent": (returns_file(1.0), ("'market'", "2020-01-02", "percent", "100")),
    "one column in percent": (
        "date,market,style\n"
        + "".join(
            f"{d:%Y-%m-%d},{0.001 * (-1) ** k},{0.9 * (-1) ** k}\n"
            for k, d in enumerate(pd.bdate_range("2020-01-02", periods=60))
        ),
        ("'style'", "percent", "100"),
    ),
    "other years": (returns_file(0.01, "1995-01-02"), ("1995-01-02", "2020-01-02", "no date in common")),
    "much sparser": (
        "date,market\n"
        + "".join(
            f"{d:%Y-%m-%d},{0.01 * (-1) ** k}\n" for k, d in enumerate(pd.bdate_range("2020-01-02", periods=20)[::6])
        ),
        ("sparser", "one frequency"),
    ),
    "loses more than everything": (
        returns_file(0.01) + "2020-03-30,-1.5,0.0\n",
        ("'market'", "2020-03-30", "-1.5", "decimal"),
    ),
    "not finite": (returns_file(0.01) + "2020-03-30,inf,0.0\n", ("'market'", "2020-03-30", "not finite")),
    "date twice": (returns_file(0.01) + "2020-03-25,0.0,0.0\n", ("2020-03-25", "twice")),
    "a level below zero": (
        "date,market\n"
        + "".join(f"{d:%Y-%m-%d},{100 + k}\n" for k, d in enumerate(pd.bdate_range("2020-01-02", periods=200)))
        + "2020-12-30,-5\n",
        ("'market'", "2020-12-30", "negative"),
    ),
}


@pytest.mark.parametrize("case", BAD_FACTORS)
def test_a_bad_factor_file_is_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, facts = BAD_FACTORS[case]
    (tmp_path / "prices.csv").write_text(prices_file())
    (tmp_path / "factors.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_panel(prices=tmp_path / "prices.csv", factors=tmp_path / "factors.csv")
    for fact in ("factors.csv", *facts):
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"


BAD_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a mistyped ticker": ("asset,sector\nAAPL,tech\nXON,energy\n", ("'XON'", "XOM", "Correct")),
    "a name too many": ("asset,sector\nAAPL,tech\nXOM,energy\nZZZ,none\n", ("'ZZZ'", "remove")),
    "a name too few": ("asset,sector\nAAPL,tech\n", ("'sector'", "'XOM'", "write one")),
    "a blank label": ("asset,sector\nAAPL,tech\nXOM,\n", ("'sector'", "'XOM'", "write one")),
    "a name twice": ("asset,sector\nAAPL,tech\nXOM,energy\nXOM,oil\n", ("'XOM'", "2 times", "keep one")),
    "no grouping": ("asset\nAAPL\nXOM\n", ("one column",)),
}


@pytest.mark.parametrize("case", BAD_GROUPS)
def test_a_bad_groups_file_is_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, facts = BAD_GROUPS[case]
    (tmp_path / "prices.csv").write_text(prices_file())
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_panel(prices=tmp_path / "prices.csv", groups=tmp_path / "groups.csv")
    for fact in ("groups.csv", *facts):
        assert fact in str(caught.value), f"{fact!r} is not in: {caught.value}"


def _truncated(path: Path) -> None:
    path.write_bytes(gzip.compress(GOOD.encode())[:-20])


UNREADABLE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": ("prices.csv", lambda path: None, "no such file"),
    "a folder": ("prices.csv", lambda path: path.mkdir(), "neither prices nor returns"),
    "a spreadsheet": ("prices.xlsx", lambda path: path.write_bytes(b"PK"), "Save the sheet as CSV"),
    "another ending": ("prices.pkl", lambda path: path.write_bytes(b"x"), r"\.csv"),
    "not a gzip": ("prices.csv.gz", lambda path: path.write_text(GOOD), "cannot be read"),
    "cut off": ("prices.csv.gz", _truncated, "download it again"),
    "not a parquet": ("prices.parquet", lambda path: path.write_text(GOOD), "cannot be read as parquet"),
    "not text": ("prices.csv", lambda path: path.write_bytes(b"date,\xff\xfe\n1,2\n"), "UTF-8"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_says_what_to_do(case: str, tmp_path: Path) -> None:
    name, make, fact = UNREADABLE[case]
    make(tmp_path / name)
    with pytest.raises(DataError, match=fact) as caught:
        read_panel(prices=tmp_path / name)
    assert name in str(caught.value)


def test_a_missing_file_lists_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "price.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"price\.csv"):
        read_panel(prices=tmp_path / "prices.csv")


@pytest.mark.parametrize(
    "form", ["csv", "csv.gz", "parquet", "parquet, dates as a column", "bom, blank lines and spaces"]
)
def test_good_files_of_every_kind_are_the_same_panel(form: str, tmp_path: Path) -> None:
    expected = [[75.1, 60.2], [74.3, np.nan], [74.9, 60.1], [74.5, 59.6], [75.7, 58.7]]
    path = tmp_path / f"prices.{form.split(',')[0] if form[0] in 'cp' else 'csv'}"
    frame = pd.DataFrame(
        expected, pd.to_datetime([f"2020-01-{d:02}" for d in (2, 3, 6, 7, 8)]).rename("date"), ["AAPL", "XOM"]
    )
    if form == "csv":
        path.write_text(GOOD)
    elif form == "csv.gz":
        path.write_bytes(gzip.compress(GOOD.encode()))
    elif form == "parquet":
        frame.to_parquet(path)
    elif form.startswith("parquet"):
        frame.reset_index().to_parquet(path)
    else:
        path.write_bytes(b"\xef\xbb\xbf" + ("\n" + GOOD.replace(",", " , ").replace("\n", "\r\n\r\n")).encode())
    panel = read_panel(prices=path)
    assert panel.assets == ("AAPL", "XOM") and panel.prices is not None and panel.built_factors
    np.testing.assert_array_equal(panel.prices, expected)
    assert panel.fingerprint() == Panel.from_prices(frame).fingerprint()


def test_every_digit_of_a_number_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(500) * 10.0 ** np.random.default_rng(1).integers(-8, 9, 500)
    days = pd.bdate_range("2000-01-03", periods=500)
    (tmp_path / "p.csv").write_text(
        "date,A\n" + "".join(f"{d:%Y-%m-%d},{v!r}\n" for d, v in zip(days, values.tolist(), strict=True))
    )
    np.testing.assert_array_equal(read_wide(tmp_path / "p.csv")["A"].to_numpy(), values)


def test_a_blank_is_missing_however_it_is_written(tmp_path: Path) -> None:
    for blank in ("", "NaN", "NA", "null", "None", "N/A", "nan"):
        (tmp_path / "p.csv").write_text(edit("59.6", blank))
        panel = read_panel(prices=tmp_path / "p.csv")
        assert panel.tradeable[:, 1].tolist() == [True, False, True, False, True]


FRAME = pd.DataFrame({"A": [1.0, 2.0, 3.0], "B": [1.0, 2.0, 3.0]}, index=pd.bdate_range("2020-01-02", periods=3))

BAD_CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: Panel.from_prices([1, 2]), "DataFrame"),
    "numbered rows": (lambda: Panel.from_prices(FRAME.reset_index(drop=True)), "set_index"),
    "two levels": (lambda: Panel.from_prices(pd.concat({"Close": FRAME}, axis=1)), r"frame\['Close'\]"),
    "a stacked table": (lambda: Panel.from_prices(FRAME.T.unstack().to_frame("p")), "levels"),
    "nothing": (lambda: Panel.from_prices(FRAME.iloc[:0]), "at least 2"),
    "no columns": (lambda: Panel.from_prices(FRAME[[]]), "no column"),
    "no date": (lambda: Panel.from_prices(FRAME.set_axis([pd.NaT, *FRAME.index[1:]])), "row 1 has no date"),
    "objects": (lambda: Panel.from_prices(FRAME.astype(object).replace(2.0, "x")), "'x' is not a number"),
    "a long frame": (
        lambda: Panel.from_prices(
            pd.DataFrame({"t": ["A", "B"], "p": [1.0, 2.0]}, index=pd.DatetimeIndex(["2020-01-02"] * 2))
        ),
        "Panel.from_long",
    ),
    "percent returns": (lambda: Panel.from_returns(FRAME), "percent"),
    "a return below -1": (lambda: Panel.from_returns(FRAME * 0.0 - 1.01), "percent"),
    "prices known once": (lambda: Panel.from_prices(FRAME.where(FRAME == 2.0)), "1 date"),
    "volume of others": (
        lambda: Panel.from_prices(FRAME, volume=FRAME.rename(columns={"A": "AA"})),
        "'AA' is no asset",
    ),
    "negative volume": (
        lambda: Panel.from_prices(FRAME, volume=-FRAME),
        "column 'A', 2020-01-02: the volume is negative",
    ),
    "forecasts without a name": (lambda: Panel.from_prices(FRAME, forecasts=FRAME), "forecast"),
    "annual cash rate": (lambda: Panel.from_prices(FRAME, cash_rate=0.04), "decimal rate of one period"),
    "two benchmarks": (lambda: Panel.from_prices(FRAME, benchmark=FRAME), "one series"),
    "an unknown benchmark": (lambda: Panel.from_prices(FRAME, benchmark="SPX"), "'SPX' is no factor"),
    "an unknown delisting": (lambda: Panel.from_prices(FRAME, delistings={"C": -1.0}), "'C' is no asset"),
    "delistings without returns": (lambda: Panel.from_prices(FRAME, delistings=["A"]), "final return"),
    "an impossible delisting": (lambda: Panel.from_prices(FRAME, delistings={"A": -2.0}), "at least -1"),
    "factors of an unknown kind": (lambda: Panel.from_prices(FRAME, factors=FRAME, factors_are="levels"), "'levels'"),
    "labels of another length": (
        lambda: Panel.from_prices(FRAME, groups={"sector": ["x"]}),
        "one label for each of the 2",
    ),
    "labels of no kind": (lambda: Panel.from_prices(FRAME, groups=3), "assets down"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_frame_is_refused_in_words(case: str) -> None:
    call, fact = BAD_CALLS[case]
    with pytest.raises(DataError, match=fact):
        call()
