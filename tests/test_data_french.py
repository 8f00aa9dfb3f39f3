"""The layout of French's library: truths by hand, and every way in which it may be broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases_french import FACTORS, INDUSTRIES, MOMENTUM, days
from hypothesis import given
from hypothesis import strategies as st

from portfolio_ebm.data.sources.french import _decimal, returns_of
from portfolio_ebm.data.sources.french_csv import parse
from portfolio_ebm.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "french"


def test_a_factor_file_is_two_tables() -> None:
    monthly, annual = parse(FACTORS)
    assert (monthly.frequency, annual.frequency) == ("monthly", "annual")
    assert (monthly.title, annual.title) == ("", "Annual Factors: January-December")
    assert monthly.columns == annual.columns == ("Mkt-RF", "SMB", "HML", "RF")
    np.testing.assert_array_equal(monthly.dates, days("1926-07-31", "1926-08-31", "1926-09-30"))
    np.testing.assert_array_equal(annual.dates, days("1927-12-31"))
    np.testing.assert_array_equal(monthly.values[1], [2.64, -1.17, np.nan, 0.25])
    assert (monthly.line, annual.line) == (4, 10)


def test_an_industry_file_is_six_tables_of_which_three_are_returns() -> None:
    blocks = parse(INDUSTRIES)
    assert [block.title for block in blocks] == [
        "Average Value Weighted Returns -- Monthly",
        "Average Equal Weighted Returns -- Monthly",
        "Average Value Weighted Returns -- Annual",
        "Number of Firms in Portfolios",
        "Average Firm Size",
        "Sum of BE / Sum of ME",
    ]
    assert all(block.columns == ("NoDur", "Other") for block in blocks)
    assert [block.frequency for block in blocks] == ["monthly"] * 2 + ["annual"] + ["monthly"] * 2 + ["annual"]
    found = returns_of(blocks, "file")
    assert {kind: block.title for kind, block in found.items()} == {
        "monthly.value": blocks[0].title,
        "monthly.equal": blocks[1].title,
        "annual.value": blocks[2].title,
    }
    np.testing.assert_array_equal(blocks[1].values, [[0.50, 1.50], [1.00, np.nan]])
    assert blocks[3].values.tolist() == [[112.0, 176.0]]


def test_a_line_of_prose_that_touches_the_header_is_no_matter() -> None:
    found = returns_of(parse(MOMENTUM), "momentum")
    assert list(found) == ["daily.plain"]
    assert found["daily.plain"].columns == ("Mom",)
    np.testing.assert_array_equal(found["daily.plain"].values[:, 0], [-2.46, -0.51, 0.40])


def test_the_title_of_the_first_table_touches_its_header_or_speaks_of_returns() -> None:
    (sizes,) = parse("Prose.\n\n  Average Firm Size\n,A\n1926,  2\n")
    (returns,) = parse("Prose.\n\n  Equal Weight Returns -- Annual\n\r\n,A\n1926,  2\n")
    assert (sizes.title, returns.title) == ("Average Firm Size", "Equal Weight Returns -- Annual")
    assert list(returns_of([returns], "file")) == ["annual.equal"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\r\n", "\n"),
        lambda text: text.replace("\r\n", "\r\r\n"),
        lambda text: text.replace("\r\n", "  \r\n"),
        lambda text: text.replace("\r\n", ",\r\n"),
        lambda text: text.replace("\r\n\r\n", "\r\n,,\r\n\r\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.encode("latin-1"),
        lambda text: text.replace("somewhere", "Zürich").encode("latin-1"),
        lambda text: ("\ufeff" + text).encode(),
        lambda text: text.rstrip(),
        lambda text: text.replace(",Mkt-RF,SMB,HML,RF", "  , Mkt-RF , SMB,HML ,RF "),
        lambda text: text.replace("    2.96", "2.96").replace("  1927", "1927"),
        lambda text: text.replace("The 1-month", "2012, a year,\r\nThe 1-month"),
    ],
    ids=range(13),
)
def test_line_ends_blanks_commas_and_encodings_change_nothing(change) -> None:
    for plain, other in zip(parse(FACTORS), parse(change(FACTORS)), strict=True):
        assert (plain.title, plain.columns, plain.frequency) == (other.title, other.columns, other.frequency)
        np.testing.assert_array_equal(plain.dates, other.dates)
        np.testing.assert_array_equal(plain.values, other.values)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("192608,    2.64,   -1.17,  -99.99,    0.25", "192608,    2.64,   -1.17", r"line 6: 2 numbers.* 4 columns"),
        ("    0.25\r\n", "    0.25,    0.11\r\n", r"line 6: 5 numbers"),
        ("    0.25\r\n", "\r\n", r"line 6: column 'RF' has ''"),
        ("-1.17", "n.a.", r"line 6: column 'SMB' has 'n.a.'"),
        ("-1.17", "1_17", r"line 6: column 'SMB' has '1_17'"),
        ("-1.17", "nan", r"line 6: column 'SMB' has 'nan'"),
        ("-1.17", "inf", r"line 6: column 'SMB' has 'inf'"),
        ("192608", "192613", r"line 6: 192613 is no date"),
        ("192608", "19260832", r"line 6: date 19260832 is not written as"),
        ("192608", "192607", r"line 6: date 192607 does not come after 192607"),
        ("192608", "192606", r"line 6: date 192606 does not come after"),
        ("192608", "Aug 26", r"line 6: 'Aug 26.*is no row"),
        ("192609,    0.36,   -1.40,    0.13,    0.23", "192609", r"line 7: '192609' is no row"),
        (",Mkt-RF,SMB,HML,RF\r\n192607", "192607", r"line 4: a row of numbers.*without a header"),
        (",Mkt-RF,SMB,HML,RF\r\n192607", ",Mkt-RF,,HML,RF\r\n192607", r"line 4: column 2 of the header has no name"),
        (",Mkt-RF,SMB,HML,RF\r\n192607", ",Mkt-RF,SMB,SMB,RF\r\n192607", r"line 4: column 'SMB'.* 2 times"),
        ("  1927,   29.47,   -2.04,   -4.54,    3.12\r\n", "", r"line 10: a header .*without a row"),
        ("192608,", "and so on\r\n192608,", r"line 7: a row of numbers.*without a header"),
    ],
)
def test_a_layout_that_is_not_understood_names_its_line(old: str, new: str, message: str) -> None:
    assert FACTORS.count(old) >= 1
    with pytest.raises(DataError, match="FF.csv, " + message):
        parse(FACTORS.replace(old, new, 1), "FF.csv")


@pytest.mark.parametrize("text", ["", "\r\n", "Only prose, nothing else.\n", "<html><body>Moved, sorry</body></html>"])
def test_no_table_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="no table"):
        parse(text)


def test_two_tables_of_one_kind_are_not_chosen_between() -> None:
    twice = INDUSTRIES.replace("Average Equal", "Average Value")
    with pytest.raises(DataError, match=r"monthly.value returns.*line 7.*line 13"):
        returns_of(parse(twice), "file")
    plain = "Prose.\n\n,A\n192607,1\n\nMore.\n,A\n192607,2\n"
    with pytest.raises(DataError, match=r"monthly.plain"):
        returns_of(parse(plain), "file")


def test_a_portfolio_cannot_lose_more_than_everything() -> None:
    with pytest.raises(DataError, match=r"'Other', 1926-08-31.*-435"):
        returns_of(parse(INDUSTRIES.replace("   4.35", "-435.00")), "file")
    assert returns_of(parse(FACTORS.replace("  -4.54", "-104.54")), "file")  # a difference of two returns may


percents = st.integers(-9998, 99999).map(lambda hundredths: hundredths / 100)


@given(st.lists(st.lists(percents, min_size=3, max_size=3), min_size=1, max_size=30), st.data())
def test_what_is_written_in_the_layout_is_read_back(rows: list[list[float]], data: st.DataObject) -> None:
    cells = np.array(rows)
    holes = np.array(data.draw(st.lists(st.booleans(), min_size=cells.size, max_size=cells.size))).reshape(cells.shape)
    dates = np.datetime64("1999-01-01") + np.cumsum(
        data.draw(st.lists(st.integers(1, 3), min_size=len(rows), max_size=len(rows)))
    )
    lines = ["Prose.", "", ",A,B,C"]
    for day, row, hole in zip(dates, cells, holes, strict=True):
        shown = [" -99.99" if gone else f"{value:8.2f}" for value, gone in zip(row, hole, strict=True)]
        lines.append(",".join([str(day).replace("-", ""), *shown]))
    (block,) = parse("\n".join(lines))
    np.testing.assert_array_equal(block.dates, dates.astype("datetime64[ns]"))
    np.testing.assert_array_equal(block.values, np.where(holes, np.nan, cells))


def written(frame: pd.DataFrame, form: str) -> str:
    """A frame of decimals in the library's layout, digits moved and not multiplied."""
    lines = ["This file was made for a test.", "", "," + ",".join(frame.columns)]
    for when, row in zip(frame.index.strftime(form), frame.to_numpy(), strict=True):
        cells = ["-99.99" if np.isnan(value) else str(round(value * 100, 6)) for value in row]
        lines.append(f"{when}," + ",".join(cells))
    return "\n".join([*lines, "", "Copyright"])


@pytest.mark.parametrize(
    ("name", "form", "span"),
    [
        ("ff5_mom_daily_1963_2019", "%Y%m%d", slice("1987-01-01", "1993-12-31")),
        ("ff5_mom_monthly_1963_2019", "%Y%m", slice(None)),
        ("ind30_daily_1960_2018", "%Y%m%d", slice("1987-10-01", "1988-12-31")),
    ],
)
def test_a_file_of_shared_data_is_read_back_to_the_last_digit(name: str, form: str, span: slice) -> None:
    file = SHARED / f"{name}.csv.gz"
    if not file.is_file():
        pytest.skip("shared/data/french is not there")
    frame = pd.read_csv(file, index_col="date", parse_dates=True).loc[span]
    (block,) = parse(written(frame, form))
    np.testing.assert_array_equal(block.dates, frame.index.to_numpy().astype("datetime64[ns]"))
    assert block.columns == tuple(frame.columns)
    np.testing.assert_array_equal(_decimal(block), frame.to_numpy())
    if name.startswith("ff5_mom_daily"):
        crash = block.dates == np.datetime64("1987-10-19")
        assert _decimal(block)[crash, block.columns.index("Mkt-RF")].tolist() == [-0.1744]
