"""French's library as a source: joined, dated, kept and asked for again, by the real code against a server here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases_french import DAILY, FACTORS, INDUSTRIES, MOMENTUM, Library, answer, days, die, library, raw, status, zipped

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources import french as module
from portfolio_ebm.data.sources.cache import Cache
from portfolio_ebm.data.sources.french import SETS, french, panel_extras
from portfolio_ebm.errors import DataError

__all__ = ["library"]  # a fixture


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "french")


FF5 = "F-F_Research_Data_5_Factors_2x3_daily"
FF3 = "F-F_Research_Data_Factors"
MOM = "F-F_Momentum_Factor_daily"
IND = "10_Industry_Portfolios"


def grown_old(cache: Cache, days_ago: float) -> None:
    """As if everything had been fetched that many days ago."""
    for key in cache.keys():  # noqa: SIM118 - a method of the cache
        entry = cache.read(key)
        assert entry is not None
        then = pd.Timestamp(entry.facts["fetched"]) - pd.Timedelta(days=days_ago)
        cache.write(key, entry.dates, entry.columns, {**entry.facts, "fetched": then.isoformat()})


def test_two_sets_are_joined_on_common_dates(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY)
    library.put(MOM, MOMENTUM)
    frame = french("ff5", "momentum", cache=cache)
    assert list(frame.columns) == ["Mkt-RF", "SMB", "HML", "RMW", "CMA", "RF", "Mom"]
    np.testing.assert_array_equal(frame.index.to_numpy(), days("2024-01-02", "2024-01-03", "2024-01-05"))
    assert frame["Mkt-RF"].tolist() == [-0.0053, -0.0084, 0.0015]
    assert frame["RF"].tolist() == [0.00022] * 3
    assert frame["Mom"].tolist() == [-0.0246, -0.0051, 0.004]
    assert frame.attrs["source"] == "french ff5, momentum (daily)"
    assert frame.attrs["fetched"] == dict.fromkeys(("ff5", "momentum"), f"{pd.Timestamp.now('UTC'):%Y-%m-%d}")
    assert frame.attrs["url"]["momentum"].endswith("/ftp/F-F_Momentum_Factor_daily_CSV.zip")
    assert frame.attrs["notes"] == ["ff5: 1 date(s) that another set does not have were left out."]


def test_months_are_dated_by_their_last_day_and_weights_choose_the_table(library: Library, cache: Cache) -> None:
    library.put(IND, INDUSTRIES)
    value = french("industries-10", frequency="monthly", cache=cache)
    equal = french("industries-10", frequency="monthly", weights="equal", cache=cache)
    yearly = french("industries-10", frequency="annual", cache=cache)
    np.testing.assert_array_equal(value.index.to_numpy(), days("1926-07-31", "1926-08-31", "1926-09-30"))
    np.testing.assert_array_equal(value["Other"].to_numpy(), [0.0213, 0.0435, np.nan])
    np.testing.assert_array_equal(equal.to_numpy(), [[0.005, 0.015], [0.01, np.nan]])
    assert yearly["NoDur"].to_dict() == {pd.Timestamp("1927-12-31"): 0.4345}
    assert library.asked == [IND]  # one file, one download
    with pytest.raises(DataError, match=r"no equal annual returns; it has monthly.value, monthly.equal, annual.value"):
        french("industries-10", frequency="annual", weights="equal", cache=cache)


def test_start_and_end_are_included(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY)
    cut = french("ff5", cache=cache, start="2024-01-03", end="2024-01-04")
    assert [f"{day:%d}" for day in cut.index] == ["03", "04"]
    with pytest.raises(DataError, match="run from 2024-01-02 to 2024-01-05"):
        french("ff5", cache=cache, start="2030-01-01")
    with pytest.raises(DataError, match="start: '2024-01' is a month or a year, not a day"):
        french("ff5", cache=cache, start="2024-01")


def test_a_column_of_two_sets_is_there_once_or_refused(library: Library, cache: Cache) -> None:
    three = DAILY.replace("RMW,CMA,", "").replace("0.71,0.30,", "").replace("0.12,0.19,", "")
    three = three.replace("-0.03,0.22,", "").replace("0.00,0.10,", "")
    library.put(FF5, DAILY)
    library.put(f"{FF3}_daily", three)
    assert french("ff3", "ff5", cache=cache).columns.tolist() == ["Mkt-RF", "SMB", "HML", "RF", "RMW", "CMA"]
    hole = [text.replace("0.58", "-99.99") for text in (three, DAILY)]
    library.put(f"{FF3}_daily", hole[0])
    library.put(FF5, hole[1])
    assert np.isnan(french("ff3", "ff5", cache=cache, refresh=0)["HML"].iloc[0])
    library.put(f"{FF3}_daily", hole[0].replace("0.70", "0.69"))
    with pytest.raises(DataError, match="'SMB' is in 'ff3' and in 'ff5'"):
        french("ff3", "ff5", cache=cache, refresh=0)


def test_sets_without_a_date_in_common_are_refused(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY)
    library.put(MOM, MOMENTUM.replace("2024", "1999"))
    with pytest.raises(DataError, match=r"no date in common; ff5 2024-01-02 to 2024-01-05, momentum 1999"):
        french("ff5", "momentum", cache=cache)


def test_a_panel_takes_factors_and_the_rate_of_cash(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY)
    frame = french("ff5", cache=cache)
    prices = pd.DataFrame({"A": [10.0, 11.0, 12.0, 11.0]}, index=frame.index)
    panel = Panel.from_prices(prices, **panel_extras(frame))
    assert panel.factors == ("Mkt-RF", "SMB", "HML", "RMW", "CMA") and panel.market == "Mkt-RF"
    np.testing.assert_array_equal(panel.factor_returns[:, 0], frame["Mkt-RF"])
    np.testing.assert_array_equal(panel.cash_rate, frame["RF"])
    with pytest.raises(DataError, match="no factor beside RF"):
        panel_extras(frame[["RF"]])


# Freshness and trouble


def test_what_is_fresh_is_not_asked_for_and_what_is_old_is(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY)
    french("ff5", cache=cache)
    grown_old(cache, 6.9)
    french("ff5", cache=cache)
    assert len(library.asked) == 1
    grown_old(cache, 0.2)
    french("ff5", cache=cache)
    assert len(library.asked) == 2
    french("ff5", cache=cache, refresh=0)
    assert len(library.asked) == 3


def test_a_file_that_has_not_changed_is_not_sent_again(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY, etag='"one"')
    first = french("ff5", cache=cache)
    before = cache.card(f"{FF5}.daily.plain")
    grown_old(cache, 40)
    again = french("ff5", cache=cache)
    after = cache.card(f"{FF5}.daily.plain")
    assert library.sent == [200, 304] and before is not None and after is not None
    pd.testing.assert_frame_equal(first, again)
    assert after.sha256 == before.sha256 and after.facts["etag"] == '"one"'
    assert again.attrs["fetched"]["ff5"] == f"{pd.Timestamp.now('UTC'):%Y-%m-%d}" and again.attrs["notes"] == []


def test_a_revised_file_takes_the_place_of_the_old_one(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY, etag='"one"')
    french("ff5", cache=cache)
    library.put(FF5, DAILY.replace("-0.53", "-0.54"), etag='"two"')
    assert french("ff5", cache=cache)["Mkt-RF"].iloc[0] == -0.0053
    assert french("ff5", cache=cache, refresh=0)["Mkt-RF"].iloc[0] == -0.0054
    assert french("ff5", cache=cache, offline=True)["Mkt-RF"].iloc[0] == -0.0054


def test_a_revision_without_the_table_is_told_and_not_hidden_by_the_old_one(library: Library, cache: Cache) -> None:
    library.put(IND, INDUSTRIES)
    french("industries-10", frequency="monthly", weights="equal", cache=cache)
    library.put(IND, INDUSTRIES.replace("Average Equal Weighted Returns", "Median of something"))
    with pytest.raises(DataError, match="no equal monthly returns"):
        french("industries-10", frequency="monthly", weights="equal", cache=cache, refresh=0)


def test_offline_asks_nobody(library: Library, cache: Cache) -> None:
    with pytest.raises(DataError, match=r"'ff5'.*is not stored"):
        french("ff5", cache=cache, offline=True)
    library.put(FF5, DAILY)
    kept = french("ff5", cache=cache)
    grown_old(cache, 4000)
    pd.testing.assert_frame_equal(french("ff5", cache=cache, offline=True), kept, check_like=True)
    assert len(library.asked) == 1


@pytest.mark.parametrize("trouble", [status(429, Retry_After="0"), status(503), status(500), die], ids=range(4))
def test_trouble_that_passes_is_waited_out(
    library: Library, cache: Cache, trouble: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    library.say(FF5, trouble, trouble, raw(zipped(FF5, DAILY)))
    assert len(french("ff5", cache=cache)) == 4
    assert len(library.asked) == 3


TROUBLE = {
    "gone": (status(404), "no such file .near: F-F_Research_Data_5_Factors_2x3_daily", 1),
    "forbidden": (status(403), "answers 403", 1),
    "busy": (status(503), "answers 503 .*4 times over", 4),
    "busy for long": (status(429, Retry_After="86400"), "asks to wait for 86400 seconds", 1),
    "dying": (die, "the connection failed .*4 times over", 4),
    "page": (raw(b"<!DOCTYPE html><html>moved</html>"), "an HTML page came in place of a zip", 1),
    "other": (raw(b"hello"), "something came in place of a zip", 1),
    "empty": (raw(b""), "the answer is empty", 1),
    "cut": (raw(zipped(FF5, DAILY)[:-40]), "cut or damaged", 1),
    "damaged": (raw(zipped(FF5, DAILY).replace(zipped(FF5, DAILY)[80:84], b"\0\1\2\3")), "cut or damaged", 1),
    "layout": (raw(zipped(FF5, DAILY.replace("0.70", "zero"))), "line 4: column 'SMB' has 'zero'", 1),
    "prose": (raw(zipped(FF5, "Nothing but prose.")), "no table in it", 1),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_a_sentence_and_leaves_what_is_stored(name: str, library: Library, cache: Cache) -> None:
    trouble, message, asked = TROUBLE[name]
    library.say(FF5, trouble)
    with pytest.raises(DataError, match=message):
        french("ff5", cache=cache)
    assert len(library.asked) == asked and cache.keys() == []
    library.put(FF5, DAILY)
    kept = french("ff5", cache=cache)
    library.say(FF5, trouble)
    again = french("ff5", cache=cache, refresh=0)
    np.testing.assert_array_equal(again.to_numpy(), kept.to_numpy())
    (note,) = again.attrs["notes"]
    assert note.startswith(f"ff5: the copy fetched on {kept.attrs['fetched']['ff5']} is used, since ")


def test_many_who_ask_at_once_fetch_once(library: Library, cache: Cache) -> None:
    begun = threading.Barrier(4, timeout=20)

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)  # so that the others are waiting for the lock by then
        answer(handler, zipped(FF5, DAILY))

    def ask(_: int) -> pd.DataFrame:
        begun.wait()
        return french("ff5", cache=cache)

    library.say(FF5, slowly)
    with ThreadPoolExecutor(4) as pool:
        frames = list(pool.map(ask, range(4)))
    assert library.asked == [FF5]
    assert all(frame.equals(frames[0]) for frame in frames)


def test_the_date_of_a_file_is_sent_back_where_it_has_no_tag(library: Library, cache: Cache) -> None:
    stamp = "Tue, 02 Jan 2024 00:00:00 GMT"

    def dated(handler: BaseHTTPRequestHandler) -> None:
        known = handler.headers.get("If-Modified-Since") == stamp
        answer(handler, b"" if known else zipped(FF5, DAILY), 304 if known else 200, Last_Modified=stamp)

    library.say(FF5, dated)
    french("ff5", cache=cache)
    french("ff5", cache=cache, refresh=0)
    assert library.sent == [200, 304]


def test_a_server_that_is_not_there(library: Library, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARY", "http://127.0.0.1:9/ftp")
    with pytest.raises(DataError, match=r"the connection failed .*refused"):
        french("ff5", cache=cache)


def test_a_damaged_entry_is_fetched_again(library: Library, cache: Cache) -> None:
    library.put(FF5, DAILY, etag='"one"')
    kept = french("ff5", cache=cache)
    for file in cache.folder.glob("*.parquet"):
        file.write_bytes(b"not parquet")
    pd.testing.assert_frame_equal(french("ff5", cache=cache), kept)
    assert len(library.asked) == 2


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ((), {}, "no set is named"),
        (("ff6",), {}, "no set 'ff6' .near: .*ff5"),
        (("industry-10",), {}, "near: industries-10"),
        (("ff5",), {"frequency": "hourly"}, "frequency 'hourly' is unknown"),
        (("ff5",), {"weights": "rank"}, "weights 'rank' are unknown"),
        (("momentum",), {"frequency": "weekly"}, "no weekly file"),
        (("../x_y",), {}, "no name of a file"),
    ],
)
def test_impossible_questions_never_reach_the_server(
    names: tuple[str, ...], settings: dict[str, str], message: str, library: Library, cache: Cache
) -> None:
    with pytest.raises(DataError, match=message):
        french(*names, cache=cache, **settings)
    assert library.asked == []


def test_names_become_files(library: Library, cache: Cache) -> None:
    library.put("Portfolios_Formed_on_X", INDUSTRIES)
    assert french("Portfolios_Formed_on_X_CSV.zip", frequency="monthly", cache=cache).columns.tolist() == [
        "NoDur",
        "Other",
    ]
    library.put(FF3, FACTORS)
    for name in ("FF3", FF3):
        assert len(french(name, frequency="monthly", cache=cache)) == 3
    weekly = DAILY.replace("20240103", "20240109").replace("20240104", "20240116").replace("20240105", "20240123")
    library.put(f"{FF3}_weekly", weekly)
    assert len(french("ff3", frequency="weekly", cache=cache)) == 4
    assert {"ff3", "ff5", "momentum", "industries-10", "industries-49", "europe-ff5"} <= set(SETS)
