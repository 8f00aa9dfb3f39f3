"""Dates and tables in every shape people store them are read, told, and never crashed on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_data_doctor import DAYS, look, only, world

from portfolio_ebm.data.doctor import Report, examine, fix, loose
from portfolio_ebm.errors import DataError

SMALL = world().iloc[:500, :8]
INDEX = pd.DatetimeIndex(SMALL.index)


def swapped() -> list[pd.Timestamp]:
    return [item if item.day > 12 else item.replace(month=item.day, day=item.month) for item in INDEX]


# name: (index, word in the finding, fixable)
STORED: dict[str, tuple[Any, str, bool]] = {
    "zone": (INDEX.tz_localize("America/New_York"), "time zone", True),
    "offset in text": ([f"{d:%Y-%m-%d}T00:00:00-05:00" for d in INDEX], "time zones", True),
    "evening before": (INDEX.tz_localize("Europe/Berlin").tz_convert("UTC").tz_localize(None), "another zone", True),
    "time of day": (INDEX + pd.Timedelta(hours=16), "times of day", True),
    "seconds": (INDEX.as_unit("s").asi8, "s since 1970", True),
    "milliseconds": (INDEX.as_unit("ms").asi8, "ms since 1970", True),
    "microseconds": (INDEX.as_unit("us").asi8, "us since 1970", True),
    "nanoseconds": (INDEX.as_unit("ns").asi8, "ns since 1970", True),
    "seconds as text": (INDEX.as_unit("s").asi8.astype(str), "s since 1970", True),
    "seconds for nanoseconds": (pd.to_datetime(INDEX.as_unit("s").asi8), "1970", True),
    "milliseconds for nanoseconds": (pd.to_datetime(INDEX.as_unit("ms").asi8), "1970", True),
    "days of Excel": ((INDEX - pd.Timestamp("1899-12-30")).days, "Excel", True),
    "day first": (INDEX.strftime("%d/%m/%Y"), "day first", True),
    "month first": (INDEX.strftime("%m/%d/%Y"), "month first", True),
    "day first, two digits": (INDEX.strftime("%d.%m.%y"), "day first", True),
    "swapped up to the 12th": (swapped(), "swapped", True),
    "newest first": (INDEX, "newest", True),
}


@pytest.mark.parametrize("name", STORED)
def test_stored_dates_are_read_as_what_they_are(name: str) -> None:
    index, word, fixable = STORED[name]
    frame = SMALL.set_axis(pd.Index(index), axis=0)
    frame = frame.iloc[::-1] if name == "newest first" else frame
    report = look(frame)
    told = report.where(lambda item: item.kind == "date" and word in item.what)
    assert len(told) == 1 and told[0].fixable == fixable, report.text()
    read = loose(frame)
    np.testing.assert_array_equal(read.dates, INDEX.to_numpy().astype("datetime64[ns]"))
    np.testing.assert_array_equal(read.values, SMALL.to_numpy())
    cleaned, _ = fix(frame, report)
    assert (cleaned.index == INDEX).all() and (cleaned.to_numpy() == SMALL.to_numpy()).all()


@pytest.mark.parametrize("index", [INDEX, INDEX.strftime("%Y-%m-%d"), INDEX.strftime("%Y%m%d").astype(int)])
def test_dates_as_they_should_be_are_not_told(index: pd.Index[Any]) -> None:
    assert not look(SMALL.set_axis(index, axis=0)).where(lambda item: item.kind == "date")


def test_text_that_may_be_read_both_ways_is_told_as_such() -> None:
    days = pd.to_datetime(["2020-02-03", "2020-03-03", "2020-04-03"])  # a Monday, a Tuesday, a Friday
    frame = SMALL.iloc[:3].set_axis(days.strftime("%d/%m/%Y"), axis=0)
    (item,) = look(frame).where(lambda item: "written as" in item.what)
    assert "both ways" in item.what


def test_sundays_without_fridays_are_a_shift_of_a_day() -> None:
    frame = SMALL.set_axis(INDEX - pd.Timedelta(days=1), axis=0)
    (item,) = only(look(frame))
    assert item.kind == "date" and "day early" in item.what and not item.fixable
    week = SMALL.set_axis(pd.date_range("2015-01-01", periods=len(SMALL)), axis=0)
    assert not only(look(week))  # a market that never closes has weekends


def test_repeats_futures_weekends_and_lost_dates_are_told() -> None:
    twice = pd.concat([SMALL.iloc[:100], SMALL.iloc[99:]])
    (item,) = only(look(twice))
    assert "more than once" in item.what and item.fixable
    other = twice.copy()
    other.iloc[100] *= 1.001
    (item,) = only(look(other))
    assert "different numbers" in item.what and not item.fixable
    far = SMALL.set_axis(pd.DatetimeIndex([*INDEX[:-1], pd.Timestamp("2091-01-02")]), axis=0)
    assert any("future" in item.what for item in look(far).findings)
    odd = SMALL.set_axis(pd.DatetimeIndex([*INDEX[:100], INDEX[100] + pd.Timedelta(days=1), *INDEX[101:]]), axis=0)
    assert INDEX[100].weekday() == 4
    assert any("weekend" in item.what for item in look(odd).findings)
    lost = SMALL.set_axis(pd.Index([*INDEX[:50].astype(str), "soon", *INDEX[51:].astype(str)]), axis=0)
    (item,) = look(lost).where(lambda item: "readable" in item.what)
    assert "'soon'" in item.what and "row 51" in item.what


def test_long_tables_bars_and_downloads_are_recognised() -> None:
    long = SMALL.reset_index(names="date").melt("date", var_name="ticker", value_name="close")
    report = look(long)
    assert report.shape == SMALL.shape and any("long table" in item.what for item in report.findings)
    one = SMALL["N00"]
    bars = pd.DataFrame({"Open": one, "High": one, "Low": one, "Close": one, "Volume": 100.0})
    report = look(bars)
    assert report.shape == (len(one), 1) and "thin trading" in report.ran
    both = pd.concat({"Close": SMALL, "Volume": SMALL * 0 + 10.0}, axis=1)
    report = look(both)
    assert report.shape == SMALL.shape and "thin trading" in report.ran


def test_what_is_no_frame_is_refused_with_a_sentence() -> None:
    with pytest.raises(DataError, match="give a pandas DataFrame"):
        examine([1, 2, 3])
    with pytest.raises(DataError, match="say 'prices' or 'returns'"):
        examine(SMALL, what="yields")


def test_tables_beside_that_share_nothing_are_told() -> None:
    report = look(SMALL, volume=SMALL.rename(columns=str.lower))
    assert any("nothing" in item.what or "no date and name in common" in item.what for item in report.findings)
    assert "no volume, so thin trading was not checked." in report.unchecked


CELLS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(0.0, 200.0),
    st.integers(-(10**30), 10**30),
    st.text(max_size=6),
    st.sampled_from([None, "", "n.a.", "1,000.5", "$3", True, pd.NaT, pd.Timestamp("2020-01-01"), 1 + 2j, (1, 2)]),
)
STAMPS = st.one_of(
    st.dates().map(str),
    st.datetimes().map(str),
    st.integers(-(10**19), 10**19),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from([None, "31/12/2020", "2020-02-30", "0000-00-00", "1e999", "20200101", pd.NaT, "9999-12-31"]),
)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows, columns = draw(st.integers(0, 12)), draw(st.integers(0, 7))
    names = draw(st.lists(st.one_of(st.text(max_size=3), st.integers(), st.none()), min_size=columns, max_size=columns))
    cells = [draw(st.lists(CELLS, min_size=columns, max_size=columns)) for _ in range(rows)]
    frame = pd.DataFrame(cells, columns=pd.Index(names, dtype="object"), dtype="object")
    if draw(st.booleans()):
        frame.index = pd.Index(draw(st.lists(STAMPS, min_size=rows, max_size=rows)), dtype="object")
    return frame


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames(), st.sampled_from(["prices", "returns"]))
def test_no_frame_is_too_odd(frame: pd.DataFrame, what: str) -> None:
    report = examine(frame, what=what, today="2024-01-01")
    assert isinstance(report, Report) and report.text()
    assert all(0.0 <= item.sure <= 1.0 and item.what and item.remedy for item in report.findings)
    fix(frame, report)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 260),
    st.integers(1, 12),
    st.sampled_from(["noise", "constant", "zeros", "huge", "holes", "steps"]),
)
def test_tables_of_odd_numbers_are_examined_and_fixed(seed: int, rows: int, names: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = {
        "noise": rng.standard_cauchy((rows, names)),
        "constant": np.full((rows, names), 3.0),
        "zeros": np.zeros((rows, names)),
        "huge": 10.0 ** rng.uniform(-300, 300, (rows, names)),
        "holes": np.where(rng.random((rows, names)) < 0.8, np.nan, 50.0 + rng.standard_normal((rows, names))),
        "steps": 10.0 ** rng.integers(-2, 3, (rows, names)),
    }[kind]
    frame = pd.DataFrame(values, DAYS[:rows], [f"X{i}" for i in range(names)])
    for what in ("prices", "returns"):
        report = look(frame, what=what, volume=frame, forecasts=frame, adjusted=frame, dividends=frame.abs())
        assert report.text()
        fix(frame, report)


def test_a_digit_that_is_no_number_is_told() -> None:
    report = examine(pd.DataFrame({"A": ["1.0", "\u00b9", "2.0"]}, index=pd.bdate_range("2020-01-01", periods=3)))
    assert any("A" in finding.asset and finding.first == "2020-01-02" for finding in report.findings)
