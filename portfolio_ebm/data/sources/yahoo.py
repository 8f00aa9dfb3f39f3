"""Daily prices from Yahoo, kept: a series is fetched whole once, and then only its tail.

    cache + tail -> overlap agrees -> merged        overlap disagrees, or an action is new -> fetched whole

Yahoo's closes, dividends and volumes are adjusted for every split up to the day of the fetch, and its adjusted close
for every dividend: one more split or dividend changes all that was stored. So what Yahoo gave is stored as it came,
and the whole series is fetched again when the tail holds a split, a dividend or a distribution of gains, or when the
last `OVERLAP` rows are no longer what they were; all columns of an entry are then of one day, and adj_close agrees
with close and dividends. A correction of older rows is not seen; `cache.remove(ticker)` fetches them again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portfolio_ebm.data.dates import stamp
from portfolio_ebm.data.sources.cache import Cache, Entry
from portfolio_ebm.data.sources.yahoo_ask import ACTIONS, COLUMNS, Series, Trouble, ask
from portfolio_ebm.data.sources.yahoo_quiet import prepared
from portfolio_ebm.data.sources.yahoo_rows import Fetched, Row
from portfolio_ebm.errors import DataError, StoreError

OVERLAP = 10
"""Rows that are fetched again to see whether history is still what it was."""

CLOSE_ENOUGH = 1e-5
"""Relative difference of prices that is rounding."""

TRIES = 4
"""Rounds in a row in which not one ticker came, before giving up."""

WAIT = 3.0
"""Seconds before the second round, doubled while nothing comes."""

WORKERS = 4
HOPELESS = 3
"""Failed connections in a row after which a round asks no further."""

When = Any
Progress = Callable[[Row, int, int], None]


def fetch(
    tickers: Sequence[str] | str,
    start: When,
    end: When = None,
    *,
    cache: Cache | None = None,
    offline: bool = False,
    refresh: bool = True,
    progress: Progress | None = None,
    wait: float = WAIT,
) -> Fetched:
    """Bring the stored series of `tickers` up to date; those that fail do not stop the others.

    Args:
        start: first date wanted; series that begin later begin later.
        end: last date wanted; a series that reaches it is not asked for again. None: up to the last close.
        cache: by default `Cache.default("yahoo")`.
        offline: ask nothing, say what is stored.
        refresh: False asks only for what is not stored from `start` on.
        progress: called with (row, how many are done, how many there are).
        wait: seconds before a second try; doubled for each further one.

    Raises:
        DataError: every single ticker failed, with the reasons; tickers or dates that make no sense.
        StoreError: the cache cannot be written.

    Example:
        >>> print(fetch(["SPY", "TLT"], "2010-01-01"))
        2 tickers: 2 new.
    """
    cache = Cache.default("yahoo") if cache is None else cache
    names, since, until = symbols(tickers), day_of(start, "start"), None if end is None else day_of(end, "end")
    if until is not None and until < since:
        raise DataError(f"yahoo: start {since} is after end {until}; exchange them.")
    rows: dict[str, Row] = {}
    for name in names:
        row = _kept(cache, name, since, until, offline, refresh)
        if row is not None:
            rows[name] = row
            if progress is not None:
                progress(row, len(rows), len(names))
    todo = [name for name in names if name not in rows]
    if todo:
        with prepared():
            for row in _rounds(todo, since, cache, wait):
                rows[row.ticker] = row
                if progress is not None:
                    progress(row, len(rows), len(names))
    fetched = Fetched(tuple(rows[name] for name in names))
    if not fetched.ok:
        raise DataError(f"yahoo: not one of {len(names)} ticker(s) was fetched. {' '.join(fetched.report()[1:])}")
    return fetched


def symbols(tickers: Sequence[str] | str) -> tuple[str, ...]:
    """The tickers as Yahoo writes them: capitals, no blanks around, each once.

    Raises:
        DataError: none, not text, or one twice.
    """
    given = [tickers] if isinstance(tickers, str) else list(tickers)
    wrong = [item for item in given if not isinstance(item, str) or not item.strip()]
    if wrong or not given:
        raise DataError(
            f"yahoo: tickers are texts such as 'SPY', {f'not {wrong[0]!r}' if wrong else 'and none given'}."
        )
    names = tuple(item.strip().upper() for item in given)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"yahoo: {', '.join(twice)} is asked for twice; keep one of them.")
    return names


def day_of(when: When, what: str) -> str:
    """YYYY-MM-DD of a date; DataError where it is none."""
    return str(stamp(when, f"yahoo: {what}").astype("datetime64[D]"))


def _kept(cache: Cache, name: str, since: str, until: str | None, offline: bool, refresh: bool) -> Row | None:
    """The row of a ticker that need not or must not be asked for; None where it is to be asked."""
    try:
        card = cache.card(name)
    except StoreError as error:
        return Row(name, f"failed: {error}") if offline else None
    if card is None or card.last is None:
        return (
            Row(name, f"failed: it is not stored in {cache.folder}, and nothing is asked offline") if offline else None
        )
    asked = _asked_from(card.facts)
    if offline:
        late = f"nothing before {asked} was ever asked for" if since < asked else ""
        return Row(name, "offline", card.rows, card.first, card.last, note=late)
    if asked <= since and (not refresh or (until is not None and card.last >= until)):
        return Row(name, "unchanged", card.rows, card.first, card.last)
    return None


@dataclass
class _Brake:
    """Shared by the workers of a round: whether to ask any further, and why not."""

    cause: Trouble | None = None
    dead: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, trouble: Trouble | None) -> None:
        with self.lock:
            self.dead = self.dead + 1 if trouble is not None and trouble.kind == "network" else 0
            if trouble is not None and (trouble.kind == "limit" or self.dead >= HOPELESS):
                self.cause = trouble


def _rounds(todo: Sequence[str], since: str, cache: Cache, wait: float) -> Iterator[Row]:
    """Rows as they are settled: rounds over what is left, with longer and longer pauses while nothing comes."""
    left, idle = {name: Trouble("network", "it was not asked for") for name in todo}, 0
    while left and idle < TRIES:
        if idle:
            time.sleep(wait * 2.0 ** (idle - 1))
        settled = 0
        with closing(_round(list(left), since, cache)) as outcomes:
            for name, outcome in outcomes:
                if isinstance(outcome, Row) or outcome.kind == "final":
                    settled += 1
                    del left[name]
                    yield outcome if isinstance(outcome, Row) else _failed(name, outcome, cache)
                else:
                    left[name] = outcome
        idle = 1 if settled and left else idle + 1
    for name, trouble in left.items():
        yield _failed(name, trouble, cache)


def _round(names: Sequence[str], since: str, cache: Cache) -> Generator[tuple[str, Row | Trouble], None, None]:
    brake = _Brake()

    def work(name: str) -> Row | Trouble:
        if brake.cause is not None:
            return brake.cause
        try:
            row = _update(name, since, cache)
        except Trouble as trouble:
            brake.note(trouble)
            return trouble
        brake.note(None)
        return row

    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="yahoo")
    try:
        futures = {pool.submit(work, name): name for name in names}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _failed(name: str, trouble: Trouble, cache: Cache) -> Row:
    try:
        card = cache.card(name)
    except StoreError:
        card = None
    status = f"failed: {trouble}"
    return Row(name, status) if card is None else Row(name, status, card.rows, card.first, card.last)


def _update(name: str, since: str, cache: Cache) -> Row:
    """Fetch and store one ticker; the lock is held from the reading to the writing, so that nothing is lost."""
    with cache.lock(name):
        note = ""
        try:
            stored = cache.read(name)
        except StoreError as error:
            stored, note = None, f"what was stored could not be read and was fetched again ({error})"
        if stored is None or not len(stored.dates):
            return _whole(name, since, cache, "new", note)
        asked = _asked_from(stored.facts)
        if since < asked:
            return _whole(
                name, since, cache, f"refetched: {since} is before {asked}, the earliest date asked for so far"
            )
        tail = ask(name, str(stored.dates[-OVERLAP:][0].astype("datetime64[D]")))
        why = revision(stored, tail)
        if why is not None:
            return _whole(name, asked, cache, f"refetched: {why}")
        before = int(np.searchsorted(stored.dates, tail.dates[0]))
        dates = np.concatenate([stored.dates[:before], tail.dates])
        columns = {key: np.concatenate([stored.columns[key][:before], tail.columns[key]]) for key in COLUMNS}
        added = len(dates) - len(stored.dates)
        same = added == 0 and all(np.array_equal(columns[key], stored.columns[key], equal_nan=True) for key in COLUMNS)
        if not same:
            cache.write(name, dates, columns, {**tail.facts, "asked_from": asked})
        return _row(name, "unchanged" if same else "updated", dates, added)


def _asked_from(facts: Mapping[str, Any]) -> str:
    return str(facts.get("asked_from", "9999-12-31"))


def _whole(name: str, since: str, cache: Cache, status: str, note: str = "") -> Row:
    series = ask(name, since)
    cache.write(name, series.dates, series.columns, {**series.facts, "asked_from": since})
    return _row(name, status, series.dates, len(series.dates), note)


def _row(name: str, status: str, dates: Any, added: int, note: str = "") -> Row:
    first, last = (str(item) for item in dates[[0, -1]].astype("datetime64[D]"))
    return Row(name, status, len(dates), first, last, added, note)


def revision(stored: Entry, tail: Series) -> str | None:
    """Why a stored series cannot be continued by `tail`, or None where it can.

    Prices of the rows that both have agree to `CLOSE_ENOUGH`, actions too, and the new rows hold no action.
    """
    common = stored.dates[stored.dates >= tail.dates[0]]
    if not len(common) or not np.array_equal(common, tail.dates[: len(common)]):
        return "history was revised (its dates)"
    old = {key: values[-len(common) :] for key, values in stored.columns.items()}
    for key in ACTIONS:
        fresh = np.flatnonzero(tail.columns[key][len(common) :])
        if len(fresh):
            day = tail.dates[len(common) + fresh[0]].astype("datetime64[D]")
            return f"{_WORDS[key]} on {day} changes the adjusted history"
    for key in ("close", "adj_close", *ACTIONS):
        new = tail.columns[key][: len(common)]
        off = ~np.isclose(new, old[key], rtol=CLOSE_ENOUGH, atol=0.0, equal_nan=True)
        if off.any():
            at = int(np.argmax(off))
            day = common[at].astype("datetime64[D]")
            return f"history was revised ({key} of {day} was {old[key][at]:g}, is {new[at]:g})"
    return None


_WORDS = {"dividends": "the dividend", "splits": "the split", "capital_gains": "the distribution"}
