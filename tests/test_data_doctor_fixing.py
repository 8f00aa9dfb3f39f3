"""Safe remedies give the truth back where it can be known, touch nothing else, and never the input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_data_doctor import DAYS, look, world

from portfolio_ebm.data.doctor import examine, fix, write_fixed
from portfolio_ebm.errors import DataError, StoreError


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    return world()


def same_bits(a: pd.DataFrame, b: pd.DataFrame, skip: pd.DataFrame) -> bool:
    """Every cell outside `skip` is the same bits."""
    one, two = a.to_numpy().view(np.int64), b.to_numpy().view(np.int64)
    return bool((one == two)[~skip.to_numpy()].all())


def test_ratios_are_taken_out_to_the_cent_and_every_other_cell_keeps_its_bits(truth: pd.DataFrame) -> None:
    frame, skip = truth.copy(), pd.DataFrame(False, truth.index, truth.columns)
    frame.loc[DAYS[300], "N01"] *= 10.0
    frame.loc[DAYS[300:340], "N02"] *= 100.0
    frame.loc[: DAYS[299], "N03"] *= 2.0
    frame.loc[DAYS[500:502], "N04"] /= 10.0
    skip.loc[DAYS[300], "N01"] = skip.loc[DAYS[300:340], "N02"] = skip.loc[DAYS[500:502], "N04"] = True
    skip.loc[: DAYS[299], "N03"] = True
    kept = frame.copy(deep=True)
    cleaned, changes = fix(frame, look(frame))
    pd.testing.assert_frame_equal(frame, kept)  # never in place
    np.testing.assert_allclose(cleaned, truth, rtol=0, atol=0.0051)
    assert same_bits(cleaned, frame, skip)
    assert len(changes) == int(skip.to_numpy().sum())
    assert list(changes.columns) == ["asset", "date", "before", "after", "why"]
    row = changes[(changes.asset == "N01")].iloc[0]
    assert (row.date, row.why) == (str(DAYS[300].date()), "spike")
    assert row.before == frame.loc[DAYS[300], "N01"] and row.after == pytest.approx(truth.loc[DAYS[300], "N01"])


def test_a_bad_tick_and_old_prices_become_blanks(truth: pd.DataFrame) -> None:
    frame = truth.copy()
    frame.loc[DAYS[300], "N01"] *= 1.5
    frame.loc[DAYS[400:408], "N02"] = frame.loc[DAYS[399], "N02"]
    frame.loc[DAYS[500], "N03"] = -1.0
    cleaned, changes = fix(frame, look(frame))
    blank = cleaned.isna() & truth.notna()
    assert set(zip(*np.nonzero(blank.to_numpy()), strict=True)) == {
        (300, 1),
        *((row, 2) for row in range(400, 408)),
        (500, 3),
    }
    assert same_bits(cleaned, truth, blank) and len(changes) == 10
    again = look(cleaned).where(lambda item: item.sure > 0.5 and item.kind != "gap")
    assert again == ()  # nothing but the blanks is left to tell


def test_returns_in_percent_are_divided_and_a_bad_return_keeps_the_product(truth: pd.DataFrame) -> None:
    moves = truth.pct_change(fill_method=None).iloc[1:]
    frame = moves.copy()
    # At the edges, only returns that cannot be decimals tell where the percent begin and end.
    first, last = (DAYS[i] for i in np.flatnonzero(np.abs(np.r_[0.0, moves["N01"]]) > 0.012)[[60, 75]])
    frame.loc[first:last, "N01"] *= 100.0
    cleaned, _ = fix(frame, look(frame, what="returns"))
    np.testing.assert_allclose(cleaned, moves, rtol=1e-12, atol=1e-15)
    wrong = moves.copy()
    wrong.loc[DAYS[300], "N02"] = 1.4 * (1.0 + moves.loc[DAYS[300], "N02"]) - 1.0
    wrong.loc[DAYS[301], "N02"] = (1.0 + moves.loc[DAYS[301], "N02"]) / 1.4 - 1.0
    cleaned, _ = fix(wrong, look(wrong, what="returns"))
    assert np.isnan(cleaned.loc[DAYS[300], "N02"])
    two = float((1.0 + moves.loc[DAYS[300:302], "N02"]).prod() - 1.0)
    assert cleaned.loc[DAYS[301], "N02"] == pytest.approx(two, abs=1e-12)


def test_what_has_no_safe_remedy_is_left_alone(truth: pd.DataFrame) -> None:
    frame = truth.copy()
    frame["N03"] = (frame["N05"] * 0.4).round(2)
    frame.loc[DAYS[300:303], "N01"] = np.nan
    frame.loc[DAYS[400] :, "N02"] = (frame.loc[DAYS[400] :, "N02"] * 0.4).round(2)
    report = look(frame)
    assert {item.kind for item in report.findings} >= {"duplicate", "gap", "large move"}
    cleaned, changes = fix(frame, report)
    pd.testing.assert_frame_equal(cleaned, frame)
    assert changes.empty


def test_types_of_columns_survive_where_they_can(truth: pd.DataFrame) -> None:
    frame = truth.iloc[:, :8].astype(np.float32)
    frame["I"] = (world(3)["N00"] * 100).round().astype(np.int64)
    frame.loc[DAYS[300], "I"] *= 100
    frame.loc[DAYS[300], "N01"] *= np.float32(10.0)
    cleaned, _ = fix(frame, look(frame))
    assert cleaned["N01"].dtype == np.float32 and cleaned["N00"].dtype == np.float32
    assert cleaned.loc[DAYS[300], "I"] == frame.loc[DAYS[300], "I"] / 100


def test_dates_are_sorted_repeats_dropped_and_the_log_says_so(truth: pd.DataFrame) -> None:
    frame = pd.concat([truth.iloc[450:], truth.iloc[:450], truth.iloc[10:12]])
    cleaned, changes = fix(frame, look(frame))
    pd.testing.assert_frame_equal(cleaned, truth, check_freq=False)
    assert (changes.why == "date: the same row twice").sum() == 2
    text = truth.set_axis(pd.Index(truth.index.strftime("%d/%m/%Y")), axis=0)
    cleaned, changes = fix(text, look(text))
    assert (cleaned.index == truth.index).all()
    assert len(changes) == len(truth) and changes.before.iloc[0] == "02/01/2015"


def test_dates_in_a_column_stay_in_it(truth: pd.DataFrame) -> None:
    frame = truth.reset_index(names="Date").iloc[::-1].reset_index(drop=True)
    cleaned, _ = fix(frame, look(frame))
    assert list(cleaned.columns) == list(frame.columns)
    assert (pd.DatetimeIndex(cleaned["Date"]) == truth.index).all()
    np.testing.assert_array_equal(cleaned["N00"].to_numpy(), truth["N00"].to_numpy())


def test_text_that_stands_for_a_number_is_read_and_other_text_left(truth: pd.DataFrame) -> None:
    frame = truth.iloc[:60, :6].astype("object")
    frame.iloc[5, 0] = "$1,234.50"
    frame.iloc[6, 1] = "n.a."
    frame.iloc[7, 2] = "see note"
    report = look(frame)
    assert {(item.asset, item.fixable) for item in report.findings if item.kind == "text"} == {
        ("N00", True),
        ("N01", True),
        ("N02", False),
    }
    cleaned, changes = fix(frame, report)
    assert cleaned.iloc[7, 2] == "see note" and pd.isna(cleaned.iloc[6, 1])
    assert "$1,234.50" in set(changes.before)


def test_a_report_about_another_frame_is_refused(truth: pd.DataFrame) -> None:
    report = look(truth)
    with pytest.raises(DataError, match="another frame"):
        fix(truth.iloc[1:], report)
    with pytest.raises(DataError, match="examine the frame again"):
        fix(truth.rename(columns={"N00": "Z"}), report)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_writing_makes_a_copy_and_a_log(truth: pd.DataFrame, tmp_path: Path, ending: str) -> None:
    source = tmp_path / "prices.csv"
    frame = truth.copy()
    frame.loc[DAYS[300], "N01"] *= 10.0
    frame.to_csv(source, index_label="date")
    before = source.read_bytes()
    cleaned, changes = fix(frame, look(frame))
    out, log = write_fixed(source, tmp_path / f"clean{ending}", cleaned, changes)
    assert source.read_bytes() == before
    back = pd.read_parquet(out) if ending == ".parquet" else pd.read_csv(out, index_col=0, parse_dates=True)
    np.testing.assert_array_equal(back.to_numpy(), cleaned.to_numpy())
    assert (pd.DatetimeIndex(back.index) == truth.index).all()
    assert log.name == "clean.changes.csv" and len(pd.read_csv(log)) == len(changes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["prices.csv", out.name, log.name])


def test_nothing_is_written_over(truth: pd.DataFrame, tmp_path: Path) -> None:
    source, link = tmp_path / "prices.csv", tmp_path / "link.csv"
    truth.to_csv(source)
    cleaned, changes = fix(truth, look(truth))
    link.symlink_to(source)
    before = source.read_bytes()
    for out, word in ((source, "never written over"), (link, "never written over"), (tmp_path / "x.txt", "ends in")):
        with pytest.raises(StoreError, match=word):
            write_fixed(source, out, cleaned, changes)
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "log.changes.csv").write_text("mine")
    for name in ("there.csv", "log.csv"):
        with pytest.raises(StoreError, match="there is a file already"):
            write_fixed(source, tmp_path / name, cleaned, changes)
    with pytest.raises(StoreError, match="no folder"):
        write_fixed(source, tmp_path / "nowhere" / "x.csv", cleaned, changes)
    assert source.read_bytes() == before and (tmp_path / "there.csv").read_text() == "mine"
    assert not (tmp_path / "log.csv").exists()


def test_examples_of_the_docstrings_hold() -> None:
    frame = pd.DataFrame({"A": [10.0, 10.1, -10.2]}, index=pd.bdate_range("2020-01-01", periods=3))
    first = examine(frame).findings[0]
    assert (first.kind, first.first) == ("impossible", "2020-01-03")
