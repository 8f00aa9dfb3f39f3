"""Sessions of exchanges and the schedules that read them: by hand for two markets, and laws of causality.

What is said here of New York, London and Tokyo is in the exchanges' own lists of holidays for those years.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("exchange_calendars", reason="the extra 'calendars' is not installed")

from portfolio_ebm.data.calendar import EveryPeriod, Monthly, Schedule, Weekly
from portfolio_ebm.data.session_schedules import MonthEnd, On, QuarterEnd, WeekEnd, YearEnd
from portfolio_ebm.data.sessions import absent, common, early, foreign, holidays, markets, missing, sessions
from portfolio_ebm.errors import DataError, SpecError

FRENCH = Path(__file__).resolve().parents[2] / "shared" / "data" / "french" / "ff5_mom_daily_1963_2019.csv.gz"
BOTH = ("XNYS", "XTKS")


def days(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[ns]")


def said(dates: np.ndarray) -> list[str]:
    return [str(day) for day in dates.astype("datetime64[D]")]


def union(start: str, end: str) -> np.ndarray:
    """The rows of a panel of New York and Tokyo."""
    return np.union1d(sessions("XNYS", start, end).dates, sessions("XTKS", start, end).dates)


# New Year 2024: New York opens on the 2nd, Tokyo on the 4th; Monday the 8th is a holiday in Tokyo only.
WEEK = days("2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08")


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Over a year of both; made when it is asked for, since calendars take seconds."""
    return union("2022-12-20", "2024-03-29")


def test_sessions_of_the_week_of_good_friday() -> None:
    found = sessions("XNYS", "2024-03-25", "2024-04-01")
    assert said(found.dates) == ["2024-03-25", "2024-03-26", "2024-03-27", "2024-03-28", "2024-04-01"]
    assert found.dates.dtype == np.dtype("datetime64[ns]") and not found.early.any()


def test_half_days_are_marked() -> None:
    found = sessions("XNYS", "2024-01-01", "2024-12-31")
    assert said(found.dates[found.early]) == ["2024-07-03", "2024-11-29", "2024-12-24"]
    assert len(found) == 252


def test_closures_nobody_planned_are_known() -> None:
    assert said(sessions("XNYS", "2001-09-10", "2001-09-18").dates) == ["2001-09-10", "2001-09-17", "2001-09-18"]


def test_a_span_of_one_day_and_one_without_a_session() -> None:
    assert said(sessions("XLON", "2024-05-07", "2024-05-07").dates) == ["2024-05-07"]
    assert len(sessions("XLON", "2024-05-04", "2024-05-06")) == 0  # a weekend and the early May bank holiday


def test_an_alias_is_the_exchange_itself() -> None:
    assert sessions("nyse", "2024-01-01", "2024-01-31").name == "XNYS"


def test_regular_holidays_before_1970_are_holidays_too() -> None:
    found = said(sessions("XNYS", "1963-07-01", "1963-12-31").dates)
    assert not {"1963-07-04", "1963-09-02", "1963-11-28", "1963-12-25"} & set(found)
    assert "1963-11-25" not in found  # the funeral of President Kennedy


def test_the_sessions_of_new_york_are_the_dates_of_french() -> None:
    if not FRENCH.is_file():
        pytest.skip("shared/data/french is not there")
    dates = pd.read_csv(FRENCH, usecols=["date"], parse_dates=["date"])["date"].to_numpy().astype("datetime64[ns]")
    np.testing.assert_array_equal(sessions("XNYS", "1963-07-01", "2019-12-31").dates, dates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("XNYZ", "2024-01-01", "2024-02-01"), "near: .*XNYS"),
        (("XTKS", "1990-01-01", "2024-02-01"), "begins 1997-01-01"),
        (("XNYS", "1950-01-01", "2024-02-01"), "begins 1953-01-01"),
        (("XNYS", "2024-01-01", "2199-01-01"), "about a year ahead"),
        (("XNYS", "2024-02-01", "2024-01-01"), "earlier one as start"),
        (("XNYS", "tomorrow-ish", "2024-01-01"), "start: 'tomorrow-ish' is not a date"),
    ],
)
def test_what_no_calendar_knows_is_a_sentence(arguments: tuple[str, str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sessions(*arguments)


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from portfolio_ebm.data import sessions as module

    module._resolved.cache_clear()
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.raises(DataError, match=r"pip install 'portfolio-ebm\[calendars\]'"):
        sessions("XNYS", "2024-01-01", "2024-02-01")


def test_blank_cells_of_two_markets_by_hand() -> None:
    calendars = markets(("SPY", "TOPIX", "NEW"), {"SPY": "XNYS", "TOPIX": "XTKS", "NEW": "XNYS"}, WEEK)
    tradeable = np.array(
        [
            [1, 0, 0],  # Tokyo closed; NEW not listed yet
            [1, 1, 0],  # a price of Tokyo on a day it was closed
            [0, 1, 1],  # SPY has a gap
            [1, 0, 1],  # no price of TOPIX on a session, and none ever after: it may have left
            [1, 0, 0],  # Tokyo closed; NEW without a price to the end
        ],
        dtype=bool,
    )
    none = [False, False, False]
    expected = [[False, True, False], none, none, none, [False, True, False]]
    assert holidays(WEEK, tradeable, calendars).tolist() == expected
    assert foreign(WEEK, tradeable, calendars).tolist() == [none, [False, True, False], none, none, none]
    assert missing(WEEK, tradeable, calendars).tolist() == [none, none, [True, False, False], none, none]


def test_dates_in_common_and_half_days_by_hand() -> None:
    calendars = markets(("SPY", "TOPIX"), ("XNYS", "XTKS"), WEEK)
    assert common(WEEK, calendars).tolist() == [False, False, True, True, False]
    eve = days("2024-12-23", "2024-12-24", "2024-12-27")
    pair = markets(("SPY", "TOPIX"), ("XNYS", "XTKS"), eve)
    assert early(eve, pair).tolist() == [[False, False], [True, False], [False, False]]


def test_sessions_without_a_row_are_told_by_exchange() -> None:
    calendars = markets(("SPY", "TOPIX"), BOTH, WEEK)
    found = absent(np.delete(WEEK, 2), calendars)  # 4 January, on which both were open
    assert {name: said(item) for name, item in found.items()} == {"XNYS": ["2024-01-04"], "XTKS": ["2024-01-04"]}
    assert all(len(item) == 0 for item in absent(WEEK, calendars).values())


def test_every_cell_is_one_of_the_five(rows: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    names = [f"A{i}" for i in range(6)]
    calendars = markets(names, [BOTH[i % 2] for i in range(6)], rows)
    tradeable = rng.random((len(rows), 6)) < 0.7
    closed, odd, gap = (rule(rows, tradeable, calendars) for rule in (holidays, foreign, missing))
    traded = tradeable & ~odd
    unlisted = ~tradeable & ~closed & ~gap
    np.testing.assert_array_equal(closed.astype(int) + odd + gap + traded + unlisted, 1)
    # A blank session is unlisted exactly where no price came before it, or none after.
    before = np.cumsum(tradeable, axis=0) > 0
    after = np.cumsum(tradeable[::-1], axis=0)[::-1] > 0
    assert not (unlisted & before & after).any() and not (gap & ~(before & after)).any()


def test_an_intraday_row_belongs_to_its_day() -> None:
    stamps = np.array(["2024-01-03T10", "2024-01-04T10", "2024-01-04T15"], "datetime64[ns]")
    calendars = markets(("TOPIX",), ("XTKS",), stamps)
    assert holidays(stamps, np.zeros((3, 1), bool), calendars)[:, 0].tolist() == [True, False, False]


def test_calendars_that_do_not_fit_are_refused() -> None:
    calendars = markets(("SPY", "TOPIX"), BOTH, WEEK)
    with pytest.raises(DataError, match="in the order of the columns"):
        holidays(WEEK, np.ones((5, 3), bool), calendars)
    with pytest.raises(DataError, match="none is given for TOPIX"):
        markets(("SPY", "TOPIX"), {"SPY": "XNYS"}, WEEK)
    with pytest.raises(DataError, match="one for each of the 2"):
        markets(("SPY", "TOPIX"), ("XNYS",), WEEK)
    with pytest.raises(DataError, match="sessions were taken from 2024-01-02 to 2024-01-08"):
        common(days("2024-01-08", "2024-01-09"), calendars)
    with pytest.raises(DataError, match="sessions were taken from"):
        early(days("2024-01-08", "2024-01-09"), calendars)
    with pytest.raises(DataError, match="over different days"):
        common(WEEK, {"A": calendars["SPY"], "B": sessions("XNYS", "2024-01-01", "2024-02-01")})
    with pytest.raises(DataError, match="daily panels only"):
        months = np.arange("2023-01", "2024-01", dtype="datetime64[M]").astype("datetime64[ns]")
        markets(("SPY",), ("XNYS",), months)
    with pytest.raises(DataError, match="No calendar"):
        common(WEEK, {})


# Schedules

ALL: tuple[Schedule, ...] = (
    MonthEnd("XNYS"),
    MonthEnd(BOTH, before=1),
    WeekEnd("XTKS"),
    QuarterEnd(BOTH),
    YearEnd("XNYS", before=2),
    On(Monthly(), "XNYS"),
    On(Monthly(), BOTH),
    On(Weekly(), BOTH, delay=0),
    On(EveryPeriod(3), BOTH, delay=2),
    On(MonthEnd("XTKS"), BOTH),
)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_cutting_the_dates_never_changes_a_decision(rows: np.ndarray, schedule: Schedule) -> None:
    full = schedule.decisions(rows)
    assert full.any() and not full.all()
    for end in range(1, len(rows) + 1):
        np.testing.assert_array_equal(schedule.decisions(rows[:end]), full[:end])


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_other_dates_to_come_never_change_a_decision(rows: np.ndarray, schedule: Schedule) -> None:
    rng = np.random.default_rng(3)
    full = schedule.decisions(rows)
    for cut in (1, 9, 100, 250):
        later = rows[cut:][rng.random(len(rows) - cut) < 0.5]
        np.testing.assert_array_equal(schedule.decisions(np.concatenate([rows[:cut], later]))[:cut], full[:cut])


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_pastes_back_and_round_trips(schedule: Schedule) -> None:
    assert eval(repr(schedule)) == schedule
    again = Schedule.from_json(schedule.model_dump_json())
    assert again == schedule and again.fingerprint() == schedule.fingerprint()


def test_fingerprints_tell_exchanges_apart() -> None:
    prints = {schedule.fingerprint() for schedule in ALL}
    assert len(prints) == len(ALL)
    assert MonthEnd("XNYS") == MonthEnd(exchange=("XNYS",)) == MonthEnd()


@pytest.mark.parametrize("schedule", [MonthEnd("XNYS"), WeekEnd("XNYS"), QuarterEnd("XNYS"), YearEnd("XNYS")], ids=repr)
def test_the_end_of_a_period_is_the_last_date_before_the_next(schedule: Schedule) -> None:
    """Hindsight over the dates gives the same rows, but for the last one, which only a calendar knows."""
    dates = sessions("XNYS", "2020-01-01", "2024-12-31").dates
    stamps = pd.DatetimeIndex(dates)
    rule = {"MonthEnd": "M", "WeekEnd": "W", "QuarterEnd": "Q", "YearEnd": "Y"}[type(schedule).__name__]
    keys = stamps.to_period(rule)
    np.testing.assert_array_equal(schedule.decisions(dates)[:-1], keys[1:] != keys[:-1])


def test_month_ends_by_hand() -> None:
    dates = sessions("XNYS", "2024-02-27", "2024-05-31").dates
    ends = dates[MonthEnd("XNYS").decisions(dates)]
    assert said(ends) == ["2024-02-29", "2024-03-28", "2024-04-30", "2024-05-31"]
    early_by_one = dates[MonthEnd("XNYS", before=1).decisions(dates)]
    assert said(early_by_one) == ["2024-02-28", "2024-03-27", "2024-04-29", "2024-05-30"]


def test_the_last_session_in_common_by_hand() -> None:
    # Tokyo ends 2023 on 29 December as New York does, but 2022 on the 30th; April 2024: the 29th is a holiday in Tokyo.
    dates = union("2022-12-26", "2023-01-10")
    assert said(dates[MonthEnd(BOTH).decisions(dates)]) == ["2022-12-30"]
    dates = union("2024-04-25", "2024-05-08")
    assert said(dates[MonthEnd(BOTH, before=1).decisions(dates)]) == ["2024-04-26"]


def test_an_end_without_a_row_is_made_up_for_on_the_next() -> None:
    dates = days("2024-03-26", "2024-03-27", "2024-04-01", "2024-04-02")  # 28 March is missing
    assert MonthEnd("XNYS").decisions(dates).tolist() == [False, False, True, False]
    gap = days("2024-01-30", "2024-04-02", "2024-04-03")  # three ends at once are one decision
    assert MonthEnd("XNYS").decisions(gap).tolist() == [False, True, False]


def test_the_first_row_decides_only_where_it_is_an_end() -> None:
    assert MonthEnd("XNYS").decisions(days("2024-03-28", "2024-04-01")).tolist() == [True, False]
    assert MonthEnd("XNYS").decisions(days("2024-03-29", "2024-04-01")).tolist() == [False, False]


def test_a_decision_waits_until_both_are_open() -> None:
    assert On(Monthly(), BOTH, delay=0).decisions(WEEK).tolist() == [False, False, True, False, False]
    # Decided on the 4th, traded on the 5th: both open on both.
    assert On(Monthly(), BOTH).decisions(WEEK).tolist() == [False, False, True, False, False]
    # Two sessions ahead is the 8th, a holiday in Tokyo; from the 9th on all goes well.
    dates = union("2024-01-02", "2024-01-12")
    assert said(dates[On(Monthly(), BOTH, delay=2).decisions(dates)]) == ["2024-01-09"]


def test_the_date_of_the_trade_counts_too() -> None:
    # Friday 5 January 2024: both open, but Monday's trade would find Tokyo closed.
    dates = days("2024-01-05", "2024-01-08", "2024-01-09", "2024-01-10")
    assert On(EveryPeriod(100), BOTH, delay=0).decisions(dates).tolist() == [True, False, False, False]
    assert On(EveryPeriod(100), BOTH).decisions(dates).tolist() == [False, False, True, False]


def test_a_decision_on_an_open_date_does_not_move() -> None:
    dates = sessions("XNYS", "2023-01-01", "2023-12-31").dates
    for schedule in (Monthly(), Weekly(), EveryPeriod(5)):
        np.testing.assert_array_equal(On(schedule, "XNYS").decisions(dates), schedule.decisions(dates))
        assert On(schedule, "XNYS").horizon(dates) == schedule.horizon(dates)


def test_where_on_decides_all_are_open_and_each_decision_is_kept_or_merged(rows: np.ndarray) -> None:
    calendars = markets(("A", "B"), BOTH, rows)
    together = common(rows, calendars)
    for inner in (Monthly(), Weekly(), EveryPeriod(4)):
        wanted, done = inner.decisions(rows), On(inner, BOTH, delay=0).decisions(rows)
        assert not (done & ~together).any()
        # Between a wish and the decision it leads to no date in common is left unused.
        for row in np.flatnonzero(wanted):
            later = np.flatnonzero(together[row:])
            assert later.size == 0 or done[row + later[0]]
        assert done.sum() <= wanted.sum()


def test_markets_that_never_meet_are_a_sentence() -> None:
    saturdays = np.arange("2023-01-07", "2024-01-01", 7, dtype="datetime64[D]")
    with pytest.raises(DataError, match="open together on none"):
        On(Weekly(), "XNYS").decisions(saturdays)


def test_horizons_by_hand() -> None:
    dates = sessions("XNYS", "2019-01-01", "2020-02-28").dates
    assert (MonthEnd("XNYS").horizon(dates), WeekEnd("XNYS").horizon(dates)) == (21, 5)
    assert (MonthEnd().horizon(dates[:2]), QuarterEnd().horizon(dates[:2]), YearEnd().horizon(dates[:2])) == (
        21,
        63,
        252,
    )
    assert On(Monthly(), BOTH).horizon(dates[:2]) == 21


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SpecError, match="exchange"):
        MonthEnd(())
    with pytest.raises(SpecError, match="delay"):
        On(Monthly(), "XNYS", delay=-1)
    with pytest.raises(DataError, match="No exchange 'XNYX'"):
        MonthEnd("XNYX").decisions(WEEK)
    with pytest.raises(DataError, match="dates"):
        MonthEnd().decisions(WEEK[::-1])
    assert MonthEnd().decisions(WEEK[:0]).shape == On(Monthly(), BOTH).decisions(WEEK[:0]).shape == (0,)
