"""The cache of series: exact, locked, and whole after a kill at any line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from portfolio_ebm.data.sources import cache as module
from portfolio_ebm.data.sources import series_file
from portfolio_ebm.data.sources.beside import Beside, Few
from portfolio_ebm.data.sources.cache import Cache
from portfolio_ebm.errors import StoreError

DATES = np.arange("2020-01-01", "2020-02-20", dtype="datetime64[D]").astype("datetime64[ns]")
OLD = {"close": np.linspace(1.0, 2.0, 50), "volume": np.full(50, 7.0)}
NEW = {"close": np.linspace(3.0, 4.0, 50), "volume": np.full(50, 9.0)}


@pytest.mark.parametrize("key", ["AAPL", "brk-b", "BRK-B", "^GSPC", "CON", "a/b", "Ä Ö", "..", "x" * 90])
def test_what_is_written_is_read(tmp_path: Path, key: str) -> None:
    cache = Cache(tmp_path)
    columns = {"close": np.array([0.1, np.nan, -0.0]), "n": np.array([1e-300, 1e300, np.pi])}
    cache.write(key, DATES[:3], columns, {"asked_from": "2020-01-01"})
    assert cache.keys() == [key]
    found = cache.read(key, verify=True)
    assert found is not None and found.key == key and found.facts["asked_from"] == "2020-01-01"
    np.testing.assert_array_equal(found.dates, DATES[:3])
    for name, values in columns.items():
        assert found.columns[name].tobytes() == values.tobytes()
    cache.remove(key)
    assert cache.keys() == [] and cache.read(key) is None


def test_keys_that_differ_in_case_are_two(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.write("ab", DATES, OLD, {})
    cache.write("AB", DATES, NEW, {})
    files = [file.name.lower() for file in tmp_path.glob("*.json")]
    assert len(set(files)) == 2, "two files on a file system that ignores case, too"
    first, second = cache.read("ab"), cache.read("AB")
    assert first is not None and second is not None
    assert first.columns["close"][0] == 1.0 and second.columns["close"][0] == 3.0


def test_series_come_on_one_calendar(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.write("A", DATES[:3], {"close": np.array([1.0, 2.0, 3.0])}, {})
    cache.write("B", DATES[[0, 2, 4]], {"close": np.array([5.0, 6.0, 7.0])}, {})
    series = Beside.of(cache.each(lambda entry: (entry.dates, entry.columns), ["B", "A"], ["close"]))
    np.testing.assert_array_equal(series.dates, DATES[[0, 1, 2, 4]])
    nan = np.nan
    np.testing.assert_array_equal(series.matrix("close"), [[5.0, 1.0], [nan, 2.0], [6.0, 3.0], [7.0, nan]])
    with pytest.raises(StoreError, match="C is not stored"):
        cache.each(lambda entry: entry.key, ["A", "C"], ["close"])


def test_many_series_stand_beside_one_another_in_their_order() -> None:
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(60, rng.integers(1, 60), replace=False)) for _ in range(37)]  # more than two blocks
    days = np.datetime64("2020-01-01", "ns") + np.arange(60) * np.timedelta64(1, "D")
    series = [(days[some], {"close": rng.random(len(some)), "volume": rng.random(len(some))}) for some in rows]
    series = [(when, item | {"cash": np.where(item["close"] < 0.2, 1.0, np.nan)}) for when, item in series]
    found = Beside.of([(when, item | {"cash": Few.of(item["cash"])}) for when, item in series])
    np.testing.assert_array_equal(found.dates, days[np.unique(np.concatenate(rows))])
    for name in ("close", "volume", "cash"):
        frame = pd.concat([pd.Series(item[name], index=when) for when, item in series], axis=1, sort=True)
        np.testing.assert_array_equal(found.matrix(name), frame.to_numpy())


@pytest.mark.parametrize("damage", ["cut parquet", "no parquet", "cut card", "another parquet"])
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    cache.write("A", DATES, OLD, {})
    cache.write("B", DATES, NEW, {})
    (own,), (other,) = (list(tmp_path.glob(f"{name}.*.parquet")) for name in ("A", "B"))
    if damage == "cut parquet":
        own.write_bytes(own.read_bytes()[:100])
    elif damage == "no parquet":
        own.unlink()
    elif damage == "another parquet":
        own.write_bytes(other.read_bytes())
    else:
        card = next(tmp_path.glob("A*.json"))
        card.write_text(card.read_text()[:20])
    with pytest.raises(StoreError, match="A"):
        cache.read("A", verify=True)
    assert cache.read("B") is not None
    cache.write("A", DATES, NEW, {})
    assert cache.read("A", verify=True) is not None


KEYS = ("A", "B", "C")
"""A first, a last and one between: every line of a write is met in each place."""


def killed_at(cache: Cache, line: int) -> bool:
    """Write NEW over OLD in a process that kills itself at the `line`-th line of the cache; False if it got through."""
    child = os.fork()
    if child == 0:  # pragma: no cover  # a process that kills itself reports no lines
        count = 0

        def tracer(frame, event, argument):
            nonlocal count
            if frame.f_code.co_filename not in (module.__file__, series_file.__file__):
                return None
            if event == "line":
                count += 1
                if count == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return tracer

        sys.settrace(tracer)
        for key in KEYS:
            cache.write(key, DATES, NEW, {"asked_from": "2019-01-01"})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_line_leaves_the_old_entry_or_the_new_one(tmp_path: Path, stride: int) -> None:
    states, points, before = set(), 0, Cache(tmp_path / "before")
    for key in KEYS:
        before.write(key, DATES, OLD, {"asked_from": "2020-01-01"})
    for line in range(1, 4000, stride):
        folder = shutil.copytree(tmp_path / "before", tmp_path / str(line))
        cache = Cache(folder)
        died = killed_at(cache, line)
        points += died
        fresh = [_whole(cache, key) for key in KEYS]
        assert fresh == sorted(fresh, reverse=True), "keys are written one after the other"
        states.add(sum(fresh))
        assert cache.keys() == list(KEYS)
        for key in KEYS:
            cache.write(key, DATES, NEW, {"asked_from": "2019-01-01"})
            assert _whole(cache, key)
        assert len(list(folder.glob("*.parquet"))) == len(KEYS), "what a kill left behind is swept up"
        if not died:
            break
    assert states == set(range(len(KEYS) + 1))
    assert points >= 40 * len(KEYS) / stride


def _whole(cache: Cache, key: str) -> bool:
    """True for the new entry, False for the old one; anything else fails."""
    found = cache.read(key, verify=True)
    assert found is not None
    truth = OLD if found.columns["close"][0] == 1.0 else NEW
    assert found.facts["asked_from"] == ("2019-01-01" if truth is NEW else "2020-01-01")
    for name, values in truth.items():
        np.testing.assert_array_equal(found.columns[name], values)
    return truth is NEW


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from portfolio_ebm.data.sources.cache import Cache
cache, own = Cache(__import__('pathlib').Path(sys.argv[1])), int(sys.argv[2])
for step in range(25):
    with cache.lock('shared'):
        entry = cache.read('shared')
        old = [] if entry is None else list(entry.columns['x'])
        values = np.array([*old, 1000.0 * own + step])
        dates = np.datetime64('2020-01-01', 'ns') + np.arange(len(values)) * np.timedelta64(1, 'D')
        cache.write('shared', dates, {'x': values}, {})
    cache.write(f'own{own}-{step}', dates, {'x': values}, {})
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(i)]) for i in (1, 2)]
    assert [process.wait(timeout=600) for process in running] == [0, 0]
    cache = Cache(tmp_path)
    entry = cache.read("shared", verify=True)
    assert entry is not None
    assert sorted(entry.columns["x"]) == sorted(1000.0 * own + step for own in (1, 2) for step in range(25))
    assert len(cache.keys()) == 51


def test_a_card_is_plain_json(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.write("A", DATES, OLD, {"currency": "USD"})
    card = json.loads(next(tmp_path.glob("A*.json")).read_text())
    text = json.dumps(card)
    assert all(word in text for word in ("currency", "USD", "close", "volume", "2020-01-01"))
