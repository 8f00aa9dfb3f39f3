"""Faults planted by hand in a synthetic market are found where they are; what is honest is left in peace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.doctor import Finding, Report, examine

DAYS = pd.bdate_range("2015-01-02", periods=900)
NAMES = [f"N{i:02d}" for i in range(24)]
TODAY = "2024-01-01"


def world(seed: int = 0) -> pd.DataFrame:
    """Prices in cents: one factor, Student-t residuals, some names that come late and some that leave."""
    rng = np.random.default_rng(seed)
    factor = 0.009 * rng.standard_t(5, len(DAYS)) * 0.77
    beta = rng.uniform(0.6, 1.4, len(NAMES))
    own = rng.uniform(0.009, 0.018, len(NAMES)) * rng.standard_t(5, (len(DAYS), len(NAMES))) * 0.77
    level = rng.uniform(25.0, 120.0, len(NAMES))
    prices = pd.DataFrame(level * np.exp(np.cumsum(beta * factor[:, None] + own, axis=0)), DAYS, NAMES).round(2)
    for place, name in enumerate(NAMES[-4:]):
        prices.loc[DAYS[500 + 90 * place] :, name] = np.nan
    for place, name in enumerate(NAMES[-8:-4]):
        prices.loc[: DAYS[100 + 40 * place], name] = np.nan
    return prices


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return world()


def look(frame: pd.DataFrame, **given: object) -> Report:
    return examine(frame, today=TODAY, **given)


def only(report: Report, least: float = 0.5) -> tuple[Finding, ...]:
    return report.where(lambda item: item.sure >= least)


def day(row: int) -> str:
    return str(DAYS[row].date())


def test_a_clean_market_has_no_sure_finding_and_says_what_was_checked(clean: pd.DataFrame) -> None:
    for seed in range(6):
        assert only(look(world(seed) if seed else clean)) == ()
    report = look(clean)
    assert "no volume, so thin trading was not checked." in report.unchecked
    assert "missing dividends cannot be told from prices alone" in report.text()
    assert "bad ticks" in report.ran
    quiet = look(clean.iloc[:80, :10])
    if not quiet.findings:
        assert "Nothing wrong was found." in quiet.text()


def spike(x: pd.DataFrame) -> None:
    x.loc[DAYS[300], "N03"] = round(x.loc[DAYS[300], "N03"] * 1.3, 2)


def long_spike(x: pd.DataFrame) -> None:
    x.loc[DAYS[300:303], "N03"] = (x.loc[DAYS[300:303], "N03"] * 0.7).round(2)


def slip(x: pd.DataFrame) -> None:
    x.loc[DAYS[300], "N03"] *= 10.0


def cents(x: pd.DataFrame) -> None:
    x.loc[DAYS[300:340], "N03"] *= 100.0


def cents_for_good(x: pd.DataFrame) -> None:
    x.loc[DAYS[300:], "N03"] *= 100.0


def halves(x: pd.DataFrame) -> None:
    x.loc[: DAYS[299], "N03"] *= 2.0


def reverse_split(x: pd.DataFrame) -> None:
    x.loc[DAYS[300:], "N03"] *= 10.0


def two_thirds(x: pd.DataFrame) -> None:
    x.loc[: DAYS[299], "N03"] *= 1.5


def still(x: pd.DataFrame) -> None:
    x.loc[DAYS[300:306], "N03"] = x.loc[DAYS[299], "N03"]


def quoted_on(x: pd.DataFrame) -> None:
    x.loc[DAYS[860:], "N03"] = x.loc[DAYS[859], "N03"]


def twin(x: pd.DataFrame) -> None:
    x["N03"] = (x["N05"] * 0.4).round(2)


def late_twin(x: pd.DataFrame) -> None:
    x["N03"] = (x["N05"].shift(2).bfill() * 0.4).round(2)


def day_early(x: pd.DataFrame) -> None:
    x["N03"] = x["N03"].shift(-1).ffill()


def hole(x: pd.DataFrame) -> None:
    x.loc[DAYS[300:304], "N03"] = np.nan


def negative(x: pd.DataFrame) -> None:
    x.loc[DAYS[300], "N03"] *= -1.0


def infinite(x: pd.DataFrame) -> None:
    x.loc[DAYS[300], "N03"] = np.inf


# fault: (planted by, kind, first day, last day, word that the sentence holds)
FAULTS: dict[str, tuple[Callable[[pd.DataFrame], None], str, int, int, str]] = {
    "spike": (spike, "spike", 300, 300, "undone 1 row"),
    "spike of three days": (long_spike, "spike", 300, 302, "undone 3 row"),
    "decimal point": (slip, "spike", 300, 300, "10 times"),
    "cents": (cents, "units", 300, 339, "100 times"),
    "cents for good": (cents_for_good, "units", 300, 899, "stays"),
    "split": (halves, "split", 300, 300, "2-for-1"),
    "reverse split": (reverse_split, "split", 300, 300, "1-for-10"),
    "split of 3 for 2": (two_thirds, "split", 300, 300, "3-for-2"),
    "stale": (still, "stale", 300, 305, "6 rows"),
    "delisted": (quoted_on, "stale", 860, 899, "delisted"),
    "duplicate": (twin, "duplicate", 0, 899, "100%"),
    "duplicate two days late": (late_twin, "shift", 2, 899, "100%"),
    "dates a day early": (day_early, "shift", 0, 898, "early"),
    "gap": (hole, "gap", 300, 303, "4 row"),
    "negative price": (negative, "impossible", 300, 300, "not above zero"),
    "infinite price": (infinite, "impossible", 300, 300, "infinite"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_where_it_is_and_nothing_else(clean: pd.DataFrame, name: str) -> None:
    plant, kind, first, last, word = FAULTS[name]
    frame = clean.copy()
    plant(frame)
    found = only(look(frame))
    assert {item.kind for item in found} == {kind}, [item.line() for item in found]
    assert {item.asset for item in found} <= ({"N03", "N05"} if "duplicate" in name else {"N03"})
    # A late copy is told twice: as another's series, and as one that does not go with the market of its day.
    assert len(found) == (2 if "late" in name else 1)
    (item,) = (item for item in found if word in item.what)
    grace = 12 if name == "dates a day early" else 0
    assert abs(np.busday_count(item.first, day(first))) <= grace
    assert abs(np.busday_count(item.last, day(last))) <= grace


def test_a_crash_of_the_whole_market_is_no_fault(clean: pd.DataFrame) -> None:
    frame = clean.copy()
    frame.loc[DAYS[400] :] = (frame.loc[DAYS[400] :] * 0.88).round(2)
    assert only(look(frame)) == ()
    assert not look(frame).where(lambda item: item.first == day(400) and item.asset != "")
    back = clean.copy()
    back.loc[DAYS[400]] = (back.loc[DAYS[400]] * 0.88).round(2)  # down 12 % and up again the next day, all names
    assert only(look(back)) == ()


def test_a_true_crash_of_one_name_is_a_large_move_of_low_sureness(clean: pd.DataFrame) -> None:
    frame = clean.copy()
    frame.loc[DAYS[400] :, "N03"] = (frame.loc[DAYS[400] :, "N03"] * 0.4).round(2)
    report = look(frame)
    (item,) = report.where(lambda item: item.asset == "N03" and item.first == day(400))
    assert item.kind == "large move" and item.sure < 0.3 and not item.fixable
    assert only(report) == ()


def test_volume_tells_a_split_from_a_crash(clean: pd.DataFrame) -> None:
    rng = np.random.default_rng(3)
    frame = clean.copy()
    frame.loc[: DAYS[299], "N03"] *= 1.5
    calm = pd.DataFrame(np.exp(rng.normal(13.0, 0.3, frame.shape)), DAYS, NAMES)
    split, crash = calm.copy(), calm.copy()
    split.loc[DAYS[300] :, "N03"] *= 1.5
    crash.loc[DAYS[300], "N03"] *= 6.0
    sure = {
        name: max((f.sure for f in look(frame, volume=flow).findings if f.kind == "split"), default=0.0)
        for name, flow in {"split": split, "crash": crash}.items()
    }
    assert sure["split"] > 0.9 and sure["crash"] < 0.5


def test_a_market_of_another_country_has_holidays_and_no_gaps(clean: pd.DataFrame) -> None:
    frame = clean.copy()
    for row in (50, 180, 310, 311, 440, 600, 720):
        frame.loc[DAYS[row], ["N00", "N01", "N02", "N04"]] = np.nan
    assert not look(frame).where(lambda item: item.kind == "gap")


def test_cheap_names_with_a_coarse_tick_repeat_honestly(clean: pd.DataFrame) -> None:
    frame = clean.copy()
    cheap = ["N06", "N07", "N08"]
    frame[cheap] = (frame[cheap] / frame[cheap].iloc[0] * 0.4).round(2)  # a cent is 2.5 %
    assert (frame[cheap].diff() == 0).mean().min() > 0.2
    assert only(look(frame)) == ()


def test_returns_in_percent_are_told_by_segment_column_and_file(clean: pd.DataFrame) -> None:
    moves = clean.pct_change(fill_method=None).iloc[1:]
    part, column = moves.copy(), moves.copy()
    part.loc[DAYS[300:320], "N03"] *= 100.0
    column["N03"] *= 100.0
    (item,) = only(look(part, what="returns"))
    assert (item.kind, item.asset) == ("units", "N03")
    assert abs(np.busday_count(item.first, day(300))) <= 2 and abs(np.busday_count(item.last, day(319))) <= 2
    (item,) = only(look(column, what="returns"))
    assert (item.kind, item.asset, "all rows" in item.what) == ("units", "N03", True)
    (item,) = only(look(moves * 100.0, what="returns"))
    assert (item.kind, item.asset) == ("units", "")
    mixed = moves * 100.0
    mixed["N03"] /= 100.0
    whole, one = sorted(only(look(mixed, what="returns")), key=lambda item: item.asset)
    assert whole.asset == "" and (one.asset, one.kind) == ("N03", "units") and "decimals among percent" in one.what
    assert only(look(moves, what="returns")) == ()


def test_a_name_in_distress_and_one_with_an_agreed_deal_are_in_no_other_unit(clean: pd.DataFrame) -> None:
    moves = clean.pct_change(fill_method=None).iloc[1:]
    rng = np.random.default_rng(9)
    moves.loc[DAYS[300:320], "N03"] = 0.2 * rng.standard_normal(20).clip(-2, 2)
    moves.loc[DAYS[400:430], "N05"] = 0.0004 * rng.standard_normal(30)
    assert not look(moves, what="returns").where(lambda item: item.kind == "units")


def test_a_scaled_copy_of_returns_is_a_duplicate(clean: pd.DataFrame) -> None:
    moves = clean.pct_change(fill_method=None).iloc[1:]
    moves["N03"] = 2.0 * moves["N05"]
    (item,) = only(look(moves, what="returns"))
    assert item.kind == "duplicate" and ("times 2" in item.what or "times 0.5" in item.what)


def test_a_table_of_the_other_kind_is_told(clean: pd.DataFrame) -> None:
    moves = clean.pct_change(fill_method=None).iloc[1:]
    assert any("holds returns" in item.what for item in look(moves).findings)
    assert any("holds prices" in item.what for item in look(clean, what="returns").findings)


def test_missing_sessions_with_and_without_a_calendar(clean: pd.DataFrame) -> None:
    lost = clean.drop(DAYS[300])
    (item,) = only(look(lost, calendar=DAYS))
    assert (item.kind, item.first, item.last) == ("gap", day(300), day(300))
    assert only(look(lost)) == ()  # it may have been a holiday
    (item,) = only(look(clean.drop(DAYS[300:306])))
    assert (item.kind, item.first, item.last) == ("gap", day(300), day(305))


def test_a_row_without_any_price_and_a_row_filled_with_the_one_before(clean: pd.DataFrame) -> None:
    empty, copied = clean.copy(), clean.copy()
    empty.loc[DAYS[300]] = np.nan
    copied.loc[DAYS[300]] = copied.loc[DAYS[299]]
    (item,) = only(look(empty))
    assert (item.kind, item.asset, item.first) == ("gap", "", day(300))
    (item,) = only(look(copied))
    assert (item.kind, item.asset, item.first) == ("stale", "", day(300))


def test_survivorship_is_told_by_the_odds_that_nobody_left() -> None:
    rng = np.random.default_rng(5)
    days = pd.bdate_range("2010-01-04", periods=252 * 8)
    paths = 50.0 * np.exp(np.cumsum(0.015 * rng.standard_normal((len(days), 60)), axis=0))
    frame = pd.DataFrame(paths, days, [f"S{i}" for i in range(60)])
    told = only(look(frame))
    assert {item.kind for item in told} == {"survivorship"}
    # 60 names, 7.7 years, 3 % a year: 13.9 expected, exp(-13.9) is nothing
    assert told[0].sure > 0.95 and "no name of 60 left" in told[0].what
    for place in range(20):
        frame.iloc[200 + 80 * place :, place] = np.nan
        frame.iloc[: 150 + 60 * place, 30 + place] = np.nan
    assert not only(look(frame))
    small = look(frame.iloc[:300, 50:58])
    assert not only(small)  # 8 names in a year: 0.3 leavers expected, and that none left says nothing


def test_thin_trading_and_impossible_volume(clean: pd.DataFrame) -> None:
    volume = clean.notna() * 1000.0
    volume.loc[DAYS[::4], "N02"] = 0.0
    volume.loc[DAYS[7], "N04"] = -5.0
    found = {(item.kind, item.asset) for item in only(look(clean, volume=volume))}
    assert ("thin trading", "N02") in found and ("impossible", "N04") in found


def test_fewer_than_five_names_are_examined_on_their_own() -> None:
    frame = world()[["N00"]]
    frame.loc[DAYS[300], "N00"] = round(frame.loc[DAYS[300], "N00"] * 1.5, 2)
    report = look(frame)
    (item,) = only(report)
    assert (item.kind, item.first) == ("spike", day(300))
    assert any("fewer than five names" in sentence for sentence in report.unchecked)


def test_the_report_reads_as_text_and_as_a_frame(clean: pd.DataFrame) -> None:
    frame = clean.copy()
    spike(frame)
    frame.loc[: DAYS[599], "N05"] *= 2.0
    frame.attrs["source"] = "mine.csv"
    report = look(frame)
    assert list(report.frame().sure) == sorted(report.frame().sure, reverse=True)
    text = report.text()
    assert text.startswith("mine.csv: prices of 24 names, 900 dates.")
    assert "spike (1)" in text and f"N03, {day(300)}: a move of" in text and "2-for-1" in text
    assert "2 of " in text  # both have a safe remedy


def test_the_report_depends_on_nothing_but_the_data(clean: pd.DataFrame) -> None:
    frame = clean.copy()
    halves(frame)
    before = frame.copy(deep=True)
    one, two = look(frame), look(frame.copy())
    assert one.findings == two.findings
    pd.testing.assert_frame_equal(frame, before)
    mixed = frame[frame.columns[::-1]]
    assert only(look(mixed)) == only(one)  # the order of names decides nothing
