"""Yahoo as a source: the real library against a small Yahoo on this machine, through a proxy, nothing patched."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from web import Reply, Request, Web
from yahoo_world import CHART, QUERY, Stock, Yahoo, walk, weekdays

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources import yahoo as module
from portfolio_ebm.data.sources.cache import Cache
from portfolio_ebm.data.sources.yahoo import fetch
from portfolio_ebm.data.sources.yahoo_load import load, yahoo
from portfolio_ebm.data.sources.yahoo_rows import Fetched
from portfolio_ebm.errors import DataError, StoreError

DAYS = weekdays("2024-01-02", 40)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web, and a yfinance that has not been used: it keeps its session, cookie and crumb in one object a process."""
    from yfinance.data import SingletonMeta

    SingletonMeta._instances.clear()
    with Web.open(tmp_path) as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        yield web
    SingletonMeta._instances.clear()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "yahoo")


def get(tickers: str | list[str], cache: Cache, start: str = "2024-01-01", **settings: object) -> Fetched:
    return fetch(tickers, start, cache=cache, wait=0.01, **settings)


def status(fetched: Fetched) -> dict[str, str]:
    return {row.ticker: row.status for row in fetched.rows}


def asked(web: Web, symbol: str) -> list[str]:
    """The first days of the histories that were asked for."""
    seen = [item for item in web.seen(QUERY, CHART + symbol) if "period1" in item.query]
    return [f"{datetime.fromtimestamp(int(item.query['period1']), UTC):%Y-%m-%d}" for item in seen]


def stock(n: int = 40, **more: object) -> Stock:
    return Stock(walk("2024-01-02", n), **more)


def stored(cache: Cache, name: str) -> np.ndarray:
    entry = cache.read(name)
    assert entry is not None
    return entry.dates


def test_total_returns_by_hand_across_a_dividend_and_a_split(web: Web, cache: Cache) -> None:
    """100 -> 102 pays 1: +3%. 102 -> 52 after 2 for 1, paying 0.5 a new share: 2 (52 + 0.5) / 102 - 1."""
    closes = dict(zip(DAYS, [100.0, 102.0, 52.0, 52.0, 17.5], strict=False))
    acts = {"dividends": {DAYS[1]: 1.0, DAYS[2]: 0.5}, "splits": {DAYS[2]: 2.0, DAYS[4]: 3.0}}
    Yahoo({"A": Stock(closes, **acts)}).open(web)
    assert status(get("A", cache)) == {"A": "new"}
    entry = cache.read("A")
    assert entry is not None
    np.testing.assert_allclose(entry.columns["close"], [100 / 6, 102 / 6, 52 / 3, 52 / 3, 17.5])  # as Yahoo says it
    raw = load("A", "2024-01-01", cache=cache)
    np.testing.assert_allclose(raw.close["A"], [100, 102, 52, 52, 17.5], rtol=1e-12)
    np.testing.assert_allclose(raw.volume["A"], [1000] * 5)
    np.testing.assert_allclose(raw.dividends["A"], [np.nan, 1, 0.5, np.nan, np.nan])
    np.testing.assert_array_equal(raw.splits["A"], [np.nan, np.nan, 2, np.nan, 3])
    assert list(raw.close.index) == [pd.Timestamp(day) for day in DAYS[:5]]
    truth = [0.03, 2 * 52.5 / 102 - 1, 0.0, 3 * 17.5 / 52 - 1]
    panel = Panel.from_prices(raw.close, **raw.extras)
    np.testing.assert_allclose(panel.returns[1:, 0], truth, rtol=1e-12)
    # Yahoo's own adjusted close says the same, its way: a dividend is taken from the close of the day before.
    steps = raw.adjusted["A"].to_numpy()[1:] / raw.adjusted["A"].to_numpy()[:-1]
    np.testing.assert_allclose(steps, [102 / 99, 52 / (51 - 0.5), 1.0, 17.5 * 3 / 52], rtol=1e-12)


def test_facts_are_kept(web: Web, cache: Cache) -> None:
    Yahoo({"A": stock()}).open(web)
    get(" a ", cache)
    facts = cache.facts("A")
    assert facts is not None
    wanted = {"name": "A Inc.", "currency": "USD", "exchange": "NasdaqGS", "zone": "America/New_York"}
    wanted |= {"instrument": "EQUITY", "first_trade": "2024-01-02", "asked_from": "2024-01-01", "ticker": "A"}
    assert {key: facts[key] for key in wanted} == wanted
    assert abs(datetime.now(UTC) - datetime.fromisoformat(facts["fetched"])).total_seconds() < 60


def test_only_the_tail_is_asked_for(web: Web, cache: Cache) -> None:
    world = Yahoo({"A": stock()}, today=DAYS[29])
    world.open(web)
    get("A", cache)
    world.today = DAYS[39]
    done = get("A", cache)
    assert status(done) == {"A": "updated"} and done.rows[0].added == 10
    assert asked(web, "A") == ["2024-01-01", DAYS[20]]
    assert [str(day)[:10] for day in stored(cache, "A")] == DAYS
    assert status(get("A", cache)) == {"A": "unchanged"}
    np.testing.assert_allclose(load("A", DAYS[0], cache=cache).close["A"], list(walk("2024-01-02", 40).values()))


@pytest.mark.parametrize(
    ("change", "why", "factor"),
    [
        ({"splits": {DAYS[35]: 4.0}}, f"refetched: the split on {DAYS[35]} changes the adjusted history", 4.0),
        ({"dividends": {DAYS[35]: 2.0}}, f"refetched: the dividend on {DAYS[35]} changes the adjusted history", 1.0),
        ({"splits": {DAYS[25]: 2.0}}, f"refetched: history was revised (close of {DAYS[20]} was 105, is 52.5)", 2.0),
        ({"dividends": {DAYS[25]: 2.0}}, "refetched: history was revised (adj_close of", 1.0),
    ],
    ids=["a split in the tail", "a dividend in the tail", "a split in the overlap", "a late dividend in the overlap"],
)
def test_what_changes_history_fetches_it_whole(
    web: Web, cache: Cache, change: dict[str, dict[str, float]], why: str, factor: float
) -> None:
    before = stock()
    world = Yahoo({"A": before}, today=DAYS[29])
    world.open(web)
    get("A", cache)
    (kind, acts) = next(iter(change.items()))
    (day, amount) = next(iter(acts.items()))
    closes = {d: value / (amount if kind == "splits" and d >= day else 1.0) for d, value in before.closes.items()}
    world.stocks, world.today = {"A": Stock(closes, **change)}, DAYS[39]
    done = get("A", cache)
    assert status(done)["A"].startswith(why)
    assert asked(web, "A") == ["2024-01-01", DAYS[20], "2024-01-01"]
    assert any(sentence.startswith("A fetched whole again: ") for sentence in done.report())
    raw = load("A", DAYS[0], cache=cache)
    np.testing.assert_allclose(raw.close["A"], list(closes.values()), rtol=1e-12)
    adjusted = raw.adjusted["A"].to_numpy()
    cash, ratio = (amount, 1.0) if kind == "dividends" else (0.0, amount)
    at = DAYS.index(day)
    # One day of Yahoo for all columns: the adjusted close moves by what close, dividend and split say, on every day.
    np.testing.assert_allclose(adjusted[at] / adjusted[at - 1], closes[day] * ratio / (closes[DAYS[at - 1]] - cash))
    np.testing.assert_allclose(adjusted[1] / adjusted[0], closes[DAYS[1]] / closes[DAYS[0]])
    assert (cache.read("A").columns["close"][0] * factor) == pytest.approx(closes[DAYS[0]])


def test_a_correction_of_a_close_fetches_history_whole(web: Web, cache: Cache) -> None:
    share = stock()
    world = Yahoo({"A": share}, today=DAYS[29])
    world.open(web)
    get("A", cache)
    share.closes[DAYS[27]] *= 1 + 1e-7  # rounding is no revision
    assert status(get("A", cache)) == {"A": "updated"}
    share.closes[DAYS[27]], share.closes[DAYS[3]] = 90.0, 95.0
    assert status(get("A", cache))["A"].startswith("refetched: history was revised (close of ")
    assert load("A", DAYS[0], cache=cache).close["A"].iloc[3] == pytest.approx(95.0)


def test_an_earlier_start_fetches_whole_once(web: Web, cache: Cache) -> None:
    Yahoo({"A": stock()}).open(web)
    get("A", cache, DAYS[20])
    assert "earliest date asked for" in status(get("A", cache, "2010-05-03"))["A"]
    assert len(stored(cache, "A")) == 40
    get("A", cache, "2015-01-01")  # the series begins in 2024, and that is known
    assert asked(web, "A") == [DAYS[20], "2010-05-03", DAYS[30]]
    assert load("A", "2015-01-01", cache=cache).notes == ()
    assert "nothing as early as 2001-01-01" in load("A", "2001-01-01", cache=cache).notes[0]


def test_what_reaches_the_end_or_need_not_be_new_is_not_asked_for(web: Web, cache: Cache) -> None:
    Yahoo({"A": stock(), "B": stock()}).open(web)
    get("A", cache)
    count = len(web.requests)
    assert status(get("A", cache, end=DAYS[39])) == status(get("A", cache, refresh=False)) == {"A": "unchanged"}
    assert len(web.requests) == count
    assert status(get(["A", "B"], cache, refresh=False)) == {"A": "unchanged", "B": "new"}
    cut = load(["A", "B"], DAYS[5], DAYS[7], cache)
    assert [str(day)[:10] for day in cut.close.index] == DAYS[5:8]


def test_one_that_fails_does_not_stop_the_others(web: Web, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    Yahoo({"A": stock(), "B": stock(), "EMPTY": Stock(walk("2001-01-02", 3)), "NAN": Stock({}, {})}).open(web)
    row = {"timestamp": [1704205800, 1704292200]}
    quote = {name: [None, None] for name in ("open", "high", "low", "close", "volume")}
    nan = {**row, "meta": Yahoo({}).meta("NAN", stock(), DAYS), "indicators": {"quote": [quote]}}
    web.on(QUERY, CHART + "NAN", Reply(body=json.dumps({"chart": {"result": [nan], "error": None}})))
    bad = {"code": "Bad Request", "description": "Data doesn't exist for startDate = 1704085200"}
    web.on(QUERY, CHART + "GONE", lambda request: Yahoo({"GONE": stock()}).chart(request))
    chart = {"chart": {"result": None, "error": bad}}
    first = Yahoo({"GONE": stock()}).chart
    web.on(
        QUERY,
        CHART + "GONE",
        lambda request: Reply(400, json.dumps(chart)) if "period1" in request.query else first(request),
    )
    done = get(["A", "TYPO", "EMPTY", "NAN", "GONE", "B"], cache)
    assert done.ok == ("A", "B") and done.failed == ("TYPO", "EMPTY", "NAN", "GONE")
    said = status(done)
    assert said["A"] == said["B"] == "new"
    assert said["TYPO"] == "failed: Yahoo knows no such ticker, or has delisted it"
    assert said["EMPTY"] == said["NAN"] == "failed: Yahoo has no prices from 2024-01-01 on"
    assert said["GONE"] == "failed: Yahoo says: Data doesn't exist for startDate = 1704085200"
    assert cache.keys() == ["A", "B"]
    assert done.report()[0] == "6 tickers: 2 new, 4 failed."
    assert "2 ticker(s) not fetched (EMPTY, NAN): Yahoo has no prices from 2024-01-01 on." in done.report()
    assert done.frame().loc["A", ["rows", "first", "last", "added"]].tolist() == [40, DAYS[0], DAYS[39], 40]
    assert not [record for record in caplog.records if record.name == "yfinance"]
    assert logging.getLogger("yfinance").level == logging.NOTSET


def test_all_that_fail_are_an_error_with_the_reasons(web: Web, cache: Cache) -> None:
    Yahoo({"A": stock()}).open(web)
    with pytest.raises(DataError, match=r"not one of 2 ticker\(s\).*TYPO, WRONG\): Yahoo knows no such ticker"):
        get(["TYPO", "WRONG"], cache)


def chart_of(world: Yahoo, *first: Reply) -> list[object]:
    """Answers for histories: these first, then what the world says."""
    return [*first, world.chart]


def only_histories(web: Web, world: Yahoo, answers: list[object]) -> None:
    """What finds the time zone is answered at once; `answers` are for the histories."""

    def answer(request: Request) -> Reply:
        if "period1" not in request.query:
            return world.chart(request)
        chosen = answers.pop(0) if len(answers) > 1 else answers[0]
        return chosen if isinstance(chosen, Reply) else chosen(request)

    web.on(QUERY, CHART, answer)


LIMIT = Reply(429, "Too Many Requests\r\n")
CUT = Reply(body='{"chart": {"result": [{"meta": {"currency": "USD", "symb')
DEAD = Reply(body=b"x" * 1000, cut=100)
DOWN = Reply(502, "<html>Bad Gateway</html>")


@pytest.mark.parametrize("trouble", [[LIMIT] * 4, [CUT], [DEAD] * 2, [DOWN] * 2], ids=["429", "cut", "dead", "502"])
def test_what_passes_is_waited_for(web: Web, cache: Cache, trouble: list[Reply]) -> None:
    world = Yahoo({"A": stock()})
    world.open(web)
    only_histories(web, world, chart_of(world, *trouble))
    assert status(get("A", cache)) == {"A": "new"}
    assert len(asked(web, "A")) == len(trouble) + 1
    assert len(stored(cache, "A")) == 40


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (LIMIT, r"Yahoo limits the rate: 1 ticker\(s\) not fetched \(B\); the others are stored; run again later"),
        (CUT, r"not fetched \(B\): Yahoo's answer was cut short or is no JSON"),
        (DEAD, r"not fetched \(B\): the connection to Yahoo failed"),
        (DOWN, r"not fetched \(B\): Yahoo's answer was cut short or is no JSON"),
    ],
    ids=["429", "cut", "dead", "502"],
)
def test_what_does_not_pass_is_told_and_the_rest_is_stored(
    web: Web, cache: Cache, trouble: Reply, sentence: str
) -> None:
    world = Yahoo({"A": stock(), "B": stock(), "C": stock()})
    world.open(web)
    web.on(QUERY, CHART + "B", trouble)
    done = get(["A", "B", "C"], cache)
    assert done.ok == ("A", "C") and cache.keys() == ["A", "C"]
    assert re.search(sentence, str(done))


def test_a_limit_stops_the_asking_for_a_while(web: Web, cache: Cache) -> None:
    """With the limit on, no more than one round of workers asks before the pause."""
    names = [f"S{i:02}" for i in range(30)]
    world = Yahoo({name: stock() for name in names})
    world.open(web)
    web.on(QUERY, CHART, LIMIT)
    with pytest.raises(DataError, match=r"Yahoo limits the rate: 30 ticker\(s\).* and 22 more\); run again later"):
        get(names, cache)
    assert len({item.path for item in web.seen(QUERY, CHART)}) <= module.WORKERS * module.TRIES
    done = None
    web.on(QUERY, CHART, world.chart)
    done = get(names, cache)
    assert len(done.ok) == 30


def test_without_a_network(web: Web, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    Yahoo({"A": stock(), "B": stock()}).open(web)
    get("A", cache)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(DataError) as caught:
        get(["A", "B"], cache)
    assert "the connection to Yahoo failed" in str(caught.value)
    assert f"Stored from before: A to {DAYS[39]}; offline=True serves that." in str(caught.value)
    done = get(["A", "B"], cache, offline=True)
    assert done.ok == ("A",) and "nothing is asked offline" in status(done)["B"]
    raw = yahoo(["A", "B"], "2024-01-01", cache=cache, offline=True)
    assert list(raw.close.columns) == ["A"]
    assert raw.notes[0].startswith("B is left out: it is not stored")
    assert "nothing before 2024-01-01" in str(get("A", cache, "2020-01-01", offline=True))


def test_an_expired_cookie_is_replaced(web: Web, cache: Cache) -> None:
    """The first crumb is refused with 401: another is asked for, and the request made again with it."""
    world = Yahoo({"A": stock()})
    world.open(web)
    web.on("query1.finance.yahoo.com", "/v1/test/getcrumb", Reply(body="stale"))
    web.on(QUERY, "/v1/test/getcrumb", Reply(body="fresh"))
    refused = {"finance": {"result": None, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}

    def answer(request: Request) -> Reply:
        fresh = request.query.get("crumb") == "fresh"
        return world.chart(request) if fresh else Reply(401, json.dumps(refused))

    web.on(QUERY, CHART, answer)
    assert status(get("A", cache)) == {"A": "new"}
    crumbs = [item.query.get("crumb") for item in web.seen(QUERY, CHART)]
    assert crumbs[0] == "stale" and crumbs[-1] == "fresh"


def open_session(start: float, end: float) -> dict[str, object]:
    """A session in London from so many seconds from now to so many."""
    now = time.time()
    regular = {"start": int(now + start), "end": int(now + end), "timezone": "GMT", "gmtoffset": 0}
    return {
        "exchangeTimezoneName": "UTC",
        "regularMarketTime": int(now + min(0.0, end)),
        "currentTradingPeriod": {"pre": regular, "regular": regular, "post": regular},
    }


@pytest.mark.parametrize(
    ("start", "end", "final"), [(-60, 3600, False), (-60, -30, False), (-3000, -2000, True)],
    ids=["open", "just closed", "closed"],
)  # fmt: skip
def test_the_bar_of_an_open_session_is_not_stored(
    web: Web, cache: Cache, start: float, end: float, final: bool
) -> None:
    meta = open_session(start, end)
    begun = meta["currentTradingPeriod"]["regular"]["start"]
    today = f"{datetime.fromtimestamp(begun, UTC):%Y-%m-%d}"
    share = Stock({**walk("2024-01-02", 5), today: 123.0}, meta=meta)
    share.stamp = lambda day, at=None: begun if day == today else Stock.stamp(share, day)
    Yahoo({"A": share}, today=today).open(web)
    get("A", cache)
    days = [str(day)[:10] for day in stored(cache, "A")]
    assert days == [*DAYS[:5], *([today] if final else [])]


def test_pence_become_pounds(web: Web, cache: Cache) -> None:
    share = Stock(dict(zip(DAYS, [500.0, 510.0, 505.0], strict=False)), {DAYS[1]: 5.0}, meta={"currency": "GBp"})
    Yahoo({"A.L": share, "B": stock(3)}).open(web)
    raw = yahoo(["A.L", "B"], "2024-01-01", cache=cache)
    np.testing.assert_allclose(raw.close["A.L"], [5.0, 5.1, 5.05])
    assert raw.dividends["A.L"].iloc[1] == pytest.approx(0.05)
    assert raw.currency == {"A.L": "GBP", "B": "USD"}
    assert any("A.L in GBp; prices and dividends are in GBP" in note for note in raw.notes)
    assert any("GBP, USD: the return of an asset is in its own currency" in note for note in raw.notes)


def test_gains_that_a_fund_distributes_count_once(web: Web, cache: Cache) -> None:
    """Beside the dividends for one fund, in them for the other: the adjusted close tells."""
    closes = dict(zip(DAYS, [100.0, 97.0, 97.0], strict=False))
    fund = {"instrumentType": "MUTUALFUND"}
    beside = Stock(closes, {DAYS[1]: 1.0}, {}, {DAYS[1]: 2.0}, meta=fund)
    inside = Stock(closes, {DAYS[1]: 3.0}, {}, {DAYS[1]: 0.0}, meta=fund)
    world = Yahoo({"IN": inside, "BESIDE": beside})
    world.open(web)

    def with_gains(request: Request) -> Reply:
        reply = json.loads(world.chart(request).body)
        stamp = inside.stamp(DAYS[1])
        if "period1" in request.query:
            reply["chart"]["result"][0]["events"]["capitalGains"] = {str(stamp): {"amount": 2.0, "date": stamp}}
        return Reply(body=json.dumps(reply))

    web.on(QUERY, CHART + "IN", with_gains)
    raw = yahoo(["IN", "BESIDE"], "2024-01-01", cache=cache)
    assert cache.read("IN").columns["capital_gains"].tolist() == [0, 2, 0]
    np.testing.assert_allclose(raw.dividends.iloc[1], [3.0, 3.0], rtol=1e-3)


def test_a_stale_series_is_served_with_a_note(web: Web, cache: Cache) -> None:
    world = Yahoo({"A": stock(), "B": stock()}, today=DAYS[29])
    world.open(web)
    get(["A", "B"], cache)
    world.today = DAYS[39]
    world.stocks = {"A": stock()}
    raw = yahoo(["A", "B"], "2024-01-01", cache=cache)
    assert raw.close["B"].last_valid_index() == pd.Timestamp(DAYS[29])
    (note,) = raw.notes
    assert note.startswith(f"B is not up to date, its prices end on {DAYS[29]}: Yahoo ") and "delisted" in note


def test_a_damaged_entry_is_fetched_again(web: Web, cache: Cache) -> None:
    Yahoo({"A": stock(), "B": stock()}).open(web)
    get(["A", "B"], cache)
    next(cache.folder.glob("A.*.parquet")).write_bytes(b"PAR1")
    (cache.folder / "B.json").write_text("{")
    with pytest.raises(StoreError, match=r"A\..*\.parquet.*fetch it again"):
        load("A", DAYS[0], cache=cache)
    done = get(["A", "B"], cache)
    assert status(done) == {"A": "new", "B": "new"}
    assert all("could not be read and was fetched again" in row.note for row in done.rows)
    assert load(["A", "B"], DAYS[0], cache=cache).close.shape == (40, 2)


def test_progress_is_told(web: Web, cache: Cache) -> None:
    Yahoo({"A": stock(), "B": stock()}).open(web)
    seen: list[tuple[str, int, int]] = []
    get(["A", "B", "TYPO"], cache, progress=lambda row, done, n: seen.append((row.ticker, done, n)))
    assert sorted(item[0] for item in seen) == ["A", "B", "TYPO"]
    assert [item[1:] for item in seen] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("tickers", "start", "end", "words"),
    [
        ([], "2024-01-01", None, "none given"),
        (["A", 5], "2024-01-01", None, "not 5"),
        (["A", "a"], "2024-01-01", None, "A is asked for twice"),
        (["A"], "soon", None, "'soon' is not a date"),
        (["A"], 20240101, None, "is not a date"),
        (["A"], "2024-01-01", "2023-01-01", "is after end 2023-01-01"),
    ],
)
def test_requests_that_make_no_sense(cache: Cache, tickers: list[str], start: str, end: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        fetch(tickers, start, end, cache=cache)


def test_what_other_threads_ask_of_warnings_shows_none_of_yfinance(web: Web, cache: Cache) -> None:
    """pandas asks for all DeprecationWarnings for a moment, in any thread, and so for those of its use by yfinance."""
    acts = {"dividends": {DAYS[35]: 1.0}, "splits": {DAYS[33]: 2.0}}
    world = Yahoo({name: stock(**acts) for name in "AB"})
    world.open(web)

    def between(request: Request) -> Reply:
        warnings.simplefilter("always", DeprecationWarning)  # as another thread; and nothing here takes it back
        return world.chart(request)

    web.on(QUERY, CHART + "B", between)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        before, show = list(warnings.filters), warnings.showwarning
        assert status(get(["A", "B"], cache)) == {"A": "new", "B": "new"}
        assert not shown
        assert warnings.filters == before and warnings.showwarning is show
        warnings.simplefilter("always")
        warnings.warn("of the caller", DeprecationWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["of the caller"]


def test_two_threads_at_once_leave_yfinance_as_they_found_it(web: Web, tmp_path: Path) -> None:
    """The first ends while the second still waits for an answer, whose trouble is then raised, and is not printed."""
    import yfinance

    world = Yahoo({"FIRST": stock(), "SECOND": stock()})
    world.open(web)
    log, debug = logging.getLogger("yfinance"), yfinance.config.debug
    before, seen = (log.level, debug.hide_exceptions), []
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first(request: Request) -> Reply:
        first_in.set()
        assert second_in.wait(60)
        return world.chart(request)

    def second(request: Request) -> Reply:
        second_in.set()
        assert first_out.wait(60)
        seen.append((log.level, debug.hide_exceptions))
        return world.chart(request)

    web.on(QUERY, CHART + "FIRST", first)
    web.on(QUERY, CHART + "SECOND", second)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(get, "FIRST", Cache(tmp_path / "first"))
        assert first_in.wait(60)
        two = pool.submit(get, "SECOND", Cache(tmp_path / "second"))
        assert status(one.result()) == {"FIRST": "new"}
        first_out.set()
        assert status(two.result()) == {"SECOND": "new"}
    assert before[1] and set(seen) == {(logging.CRITICAL + 1, False)}
    assert (log.level, debug.hide_exceptions) == before


def test_two_commands_at_once_on_one_cache_lose_nothing(web: Web, tmp_path: Path) -> None:
    """Half of the names are asked for by both; first into an empty cache, then both continue what is there."""
    names = [f"N{i:02d}" for i in range(12)]
    truth = {name: walk("2024-01-02", 40, first=100.0 + i) for i, name in enumerate(names)}
    acts = {"dividends": {DAYS[35]: 1.0}, "splits": {DAYS[33]: 2.0}}  # in the second tail of some: these start anew
    world = Yahoo(
        {name: Stock(closes, **(acts if i % 3 == 0 else {})) for i, (name, closes) in enumerate(truth.items())},
        today=DAYS[29],
    )
    world.open(web)
    environment = {**os.environ, **web.environment, "PORTFOLIO_EBM_HOME": str(tmp_path / "home")}
    for last in (29, 39):
        world.today = DAYS[last]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "portfolio_ebm.cli", "data", "fetch", "--source", "yahoo", "--start", DAYS[0],
                 "--tickers", ",".join(some)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for some in (names[:9], names[:2:-1])
        ]  # fmt: skip
        for process in running:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0 and out.startswith("9 tickers: ") and "failed" not in out, out + err
            assert not err, "nothing but progress on a terminal is for the user's eyes"
        cache = Cache(tmp_path / "home" / "data" / "yahoo")
        assert cache.keys() == names
        for name in names:
            assert cache.read(name, verify=True) is not None
            frame = load(name, DAYS[0], cache=cache).close[name]
            assert [f"{day:%Y-%m-%d}" for day in frame.index] == DAYS[: last + 1]
            np.testing.assert_allclose(frame, [truth[name][day] for day in DAYS[: last + 1]], rtol=1e-12)
        assert not list(cache.folder.glob(".*.part")) and len(list(cache.folder.glob("*.parquet"))) == len(names)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from portfolio_ebm.data.sources.cache import Cache
from portfolio_ebm.data.sources.yahoo import fetch
import yfinance  # once, and before any fork

ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
folder, names, start, points = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3], int(sys.argv[4])
rng, whole, deaths, halfway, lengths = random.Random(0), 0.5, 0, 0, set()
for _ in range(4 * points):
    begun, before = time.monotonic(), set(folder.glob("*.parquet"))
    child = os.fork()
    if child == 0:
        fetch(names, start, cache=Cache(folder), wait=0.01)
        os._exit(0)
    if deaths % 2:
        time.sleep(rng.uniform(0.0, whole))
    else:  # most of a fetch is waiting: half of the kills come after something was stored
        while set(folder.glob("*.parquet")) <= before and os.waitid(os.P_PID, child, ENDED) is None:
            time.sleep(1e-3)
        time.sleep(rng.uniform(0.0, whole / 4))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    deaths += os.WIFSIGNALED(status)
    if not os.WIFSIGNALED(status):
        whole = min(whole, 1.1 * (time.monotonic() - begun))
    found = [entry for name in names if (entry := Cache(folder).read(name, verify=True)) is not None]
    assert sorted(entry.key for entry in found) == Cache(folder).keys()
    lengths |= {len(entry.dates) for entry in found}
    halfway += os.WIFSIGNALED(status) and 0 < len(found) < len(names)
    if deaths == points:
        break
    if len(found) == len(names) or rng.random() < 0.5:
        for name in names:
            Cache(folder).remove(name)
print(deaths, halfway, *sorted(lengths))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fetch_killed_at_any_moment_leaves_every_series_whole_or_not_there(web: Web, tmp_path: Path) -> None:
    names = [f"N{i}" for i in range(6)]
    Yahoo({name: stock() for name in names}).open(web)
    environment = {**os.environ, **web.environment, "PORTFOLIO_EBM_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "yahoo"), ",".join(names), DAYS[0], "40"],
        env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    deaths, halfway, *lengths = map(int, done.stdout.split())
    # How many depends on how busy the machine is: the moments are drawn, the fetch is as fast as it is.
    assert deaths == 40 and halfway >= 10, "of the kills some came when a part was stored"
    assert lengths == [40], "no series is ever shorter than what was sent"
    cache = Cache(tmp_path / "yahoo")
    left = cache.keys()
    # From the same day: what is left is no reason to fetch anything again.
    assert status(get(names, cache, DAYS[0])) == {name: "unchanged" if name in left else "new" for name in names}
    assert all(len(stored(cache, name)) == 40 for name in names)
