"""Schedules: laws of causality over all of them, truths by hand."""

from __future__ import annotations

import numpy as np
import pytest

from portfolio_ebm.data.calendar import (
    EveryPeriod,
    Monthly,
    Quarterly,
    Schedule,
    Weekly,
    Yearly,
    anchor,
    periods_per_year,
)
from portfolio_ebm.errors import DataError, SpecError

ALL = (Monthly(), Weekly(), Quarterly(), Yearly(), EveryPeriod(), EveryPeriod(3))


def business_days(start: str, end: str) -> np.ndarray:
    days = np.arange(start, end, dtype="datetime64[D]")
    return days[np.is_busday(days, holidays=["2019-01-01", "2019-07-04", "2019-12-25", "2020-01-01"])].astype(
        "datetime64[ns]"
    )


DAYS = business_days("2019-01-01", "2020-02-20")


def days(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[ns]")


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_decision_depends_on_earlier_dates_only(schedule: Schedule) -> None:
    full = schedule.decisions(DAYS)
    for end in range(1, len(DAYS) + 1):
        np.testing.assert_array_equal(schedule.decisions(DAYS[:end]), full[:end])


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_decision_does_not_move_when_the_future_has_other_dates(schedule: Schedule) -> None:
    rng = np.random.default_rng(3)
    full = schedule.decisions(DAYS)
    for cut in (1, 20, 100, 200):
        later = DAYS[cut:][rng.random(len(DAYS) - cut) < 0.5]
        np.testing.assert_array_equal(schedule.decisions(np.concatenate([DAYS[:cut], later]))[:cut], full[:cut])


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_the_horizon_is_at_least_one_from_the_first_date_on(schedule: Schedule) -> None:
    assert all(schedule.horizon(DAYS[:end]) >= 1 for end in range(1, len(DAYS), 7))
    assert schedule.horizon(days("2020-01-31", "2020-02-28", "2020-03-31")) >= 1


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_pastes_back_and_round_trips(schedule: Schedule) -> None:
    assert eval(repr(schedule)) == schedule
    assert Schedule.from_json(schedule.model_dump_json()) == schedule


def test_monthly_decides_at_the_first_observed_date() -> None:
    dates = days("2020-01-30", "2020-01-31", "2020-02-03", "2020-02-04", "2020-04-01")
    assert Monthly().decisions(dates).tolist() == [True, False, True, False, True]


def test_weekly_begins_on_monday() -> None:
    dates = days("2020-01-03", "2020-01-05", "2020-01-06", "2020-01-10", "2020-01-14")  # Fri, Sun, Mon, Fri, Tue
    assert Weekly().decisions(dates).tolist() == [True, False, True, False, True]


def test_quarterly_and_yearly_open_with_their_period() -> None:
    dates = days("2019-11-29", "2019-12-31", "2020-01-02", "2020-03-31", "2020-04-01")
    assert Quarterly().decisions(dates).tolist() == [True, False, True, False, True]
    assert Yearly().decisions(dates).tolist() == [True, False, True, False, False]


def test_the_same_month_of_another_year_is_another_month() -> None:
    assert Monthly().decisions(days("2019-05-02", "2020-05-04")).tolist() == [True, True]


def test_horizons_by_hand() -> None:
    assert [schedule.horizon(DAYS) for schedule in ALL] == [22, 5, 65, 252, 1, 3]
    assert Monthly().horizon(DAYS[:2]) == 21  # nothing seen yet: 252 / 12
    months = np.arange("2010-01", "2015-01", dtype="datetime64[M]").astype("datetime64[ns]")
    assert (Monthly().horizon(months), Quarterly().horizon(months), Weekly().horizon(months)) == (1, 3, 1)


def test_the_span_cut_short_by_the_start_is_left_out() -> None:
    dates = business_days("2019-01-29", "2019-03-20")  # 3 days of January, then February and March
    assert Monthly().horizon(dates) == 20


@pytest.mark.parametrize(
    ("rule", "row"), [("YE", "2019-12-31"), ("QE", "2019-12-31"), ("ME", "2020-01-31"), ("WE", "2020-02-14")]
)
def test_anchor_is_the_last_row_of_the_last_completed_period(rule: str, row: str) -> None:
    assert str(DAYS[anchor(DAYS, rule)].astype("datetime64[D]")) == row


@pytest.mark.parametrize("rule", ["YE", "QE", "ME", "WE"])
def test_anchors_are_known_and_never_move_back(rule: str) -> None:
    rows = [anchor(DAYS[:end], rule) for end in range(1, len(DAYS) + 1)]
    known = [row for row in rows if row is not None]
    assert rows[0] is None and known == sorted(known)
    assert all(row is None or row < end for end, row in enumerate(rows))


def test_an_unknown_anchor_says_which_there_are() -> None:
    with pytest.raises(SpecError, match="'YE'"):
        anchor(DAYS, "annual")


@pytest.mark.parametrize(
    "dates", [days("2020-01-02", "2020-01-02"), days("2020-01-03", "2020-01-02"), np.arange(3), DAYS[None]]
)
def test_dates_that_are_no_calendar_are_refused(dates: np.ndarray) -> None:
    with pytest.raises(DataError, match="dates"):
        Monthly().decisions(dates)


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (DAYS, 252.0),
        (np.arange("2020-01-01", "2020-06-01", dtype="datetime64[D]"), 365.0),
        (np.arange("2020-01-03", "2021-01-01", 7, dtype="datetime64[D]"), 52.0),
        (np.arange("2010-01", "2014-01", dtype="datetime64[M]").astype("datetime64[D]"), 12.0),
        (np.arange("2010-01", "2014-01", 3, dtype="datetime64[M]").astype("datetime64[D]"), 4.0),
        (np.arange("2000", "2014", dtype="datetime64[Y]").astype("datetime64[D]"), 1.0),
        (days("2020-01-02"), 252.0),
        (np.concatenate([DAYS[:9] + np.timedelta64(h, "h") for h in (10, 12, 14, 16)]), 1008.0),
    ],
)
def test_periods_per_year(dates: np.ndarray, expected: float) -> None:
    assert periods_per_year(np.sort(dates)) == expected


def test_every_period_needs_a_positive_count() -> None:
    with pytest.raises(SpecError, match="n"):
        EveryPeriod(0)
