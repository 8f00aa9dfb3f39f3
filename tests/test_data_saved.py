"""Panels in folders: exact to the bit, whole or not at all, and nothing of anybody else's is written over."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from panel_worlds import world

from portfolio_ebm.data import saved
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError, StoreError


def whole(periods: int = 80) -> Panel:
    prices, extras = world(periods)
    return Panel.from_prices(prices, **extras)


def assert_same(a: Panel, b: Panel) -> None:
    """Every field equal, arrays to the bit, mappings in the same order."""
    for item in dataclasses.fields(Panel):
        _assert_same(getattr(a, item.name), getattr(b, item.name), item.name)
    assert a.fingerprint() == b.fingerprint()


def _assert_same(one: Any, other: Any, name: str) -> None:
    assert type(one) is type(other), name
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape, name
        assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes(), name
        assert not other.flags.writeable, name
    elif isinstance(one, Mapping):
        assert list(one) == list(other), name
        for key, value in one.items():
            _assert_same(value, other[key], f"{name}.{key}")
    else:
        assert one == other, name


def test_a_panel_with_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    panel = whole()
    assert panel.notes and panel.members is not None and panel.delistings and panel.benchmark_weights
    assert panel.save(tmp_path / "a") == tmp_path / "a"
    again = Panel.load(tmp_path / "a")
    assert_same(panel, again)
    assert_same(panel, read_panel(tmp_path / "a"))
    assert panel.describe() == again.describe()
    assert not [item for item in tmp_path.iterdir() if item.name != "a"]


def test_two_saves_are_the_same_bytes(tmp_path: Path) -> None:
    panel = whole()
    one, other = panel.save(tmp_path / "a"), Panel.load(panel.save(tmp_path / "b")).save(tmp_path / "c")
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in other.iterdir()
    }


NAMES = st.text(min_size=0, max_size=8)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def panels(draw: st.DrawFn) -> Panel:
    t, n, k = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(0, 2))
    starts = np.cumsum(draw(st.lists(st.integers(1, 10**15), min_size=t, max_size=t)))

    def floats(*shape: int) -> Any:
        bits = draw(hn.arrays(np.uint64, shape))  # every bit pattern: NaNs of all kinds and both zeros
        return bits.view(np.float64) if draw(st.booleans()) else draw(hn.arrays(np.float64, shape, elements=FLOATS))

    def mask() -> Any:
        return draw(hn.arrays(np.bool_, (t, n)))

    def named(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.dictionaries(NAMES, values, max_size=2))

    return Panel(
        dates=starts.astype("datetime64[ns]"),
        assets=tuple(draw(st.lists(st.one_of(NAMES, st.just("date")), min_size=n, max_size=n))),
        returns=floats(t, n),
        tradeable=mask(),
        cash_rate=floats(t),
        factors=tuple(draw(st.lists(NAMES, min_size=k, max_size=k))),
        factor_returns=floats(t, k),
        prices=floats(t, n) if draw(st.booleans()) else None,
        market=draw(st.none() | NAMES),
        built_factors=draw(st.booleans()),
        groups=named(st.tuples(*[NAMES] * n)),
        volume=floats(t, n) if draw(st.booleans()) else None,
        benchmark=floats(t) if draw(st.booleans()) else None,
        benchmark_name=draw(st.none() | NAMES),
        forecasts={name: floats(t, n) for name in named(st.none())},
        signals={name: floats(t) for name in named(st.none())},
        delistings=named(st.floats(-1.0, 1e300)),
        members=mask() if draw(st.booleans()) else None,
        benchmark_weights={name: floats(t, n) for name in named(st.none())},
        notes=tuple(draw(st.lists(st.text(max_size=20), max_size=3))),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(panels())
def test_every_panel_comes_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, panel: Panel) -> None:
    folder = tmp_path_factory.mktemp("saved")
    one = Panel.load(panel.save(folder / "a"))
    assert_same(panel, one)
    assert_same(panel, Panel.load(one.save(folder / "a")))


def test_every_kind_of_nan_and_both_zeros_come_back(tmp_path: Path) -> None:
    bits = np.array([0x7FF8 << 48, (0x7FF8 << 48) + 1, 0xFFF8 << 48, 0, 1 << 63] * 2, dtype=np.uint64)
    panel = dataclasses.replace(Panel.from_prices(world(60)[0]).cut(0, 9), cash_rate=bits.view(np.float64))
    assert_same(panel, Panel.load(panel.save(tmp_path / "a")))


def test_other_readers_open_the_files(tmp_path: Path) -> None:
    panel = whole()
    file = next(panel.save(tmp_path / "a").glob("returns-*.parquet"))
    frame = pd.read_parquet(file).set_index("date")
    np.testing.assert_array_equal(frame.to_numpy(), panel.returns)
    assert tuple(frame.columns) == panel.assets and (frame.index == panel.dates).all()


def test_a_saved_panel_is_replaced_and_its_old_files_go(tmp_path: Path) -> None:
    first, second = whole(80), whole(100)
    first.save(tmp_path / "a")
    second.save(tmp_path / "a")
    assert_same(second, Panel.load(tmp_path / "a"))
    fresh = second.save(tmp_path / "b")
    assert sorted(item.name for item in (tmp_path / "a").iterdir()) == sorted(item.name for item in fresh.iterdir())
    (tmp_path / "empty").mkdir()
    assert_same(second, Panel.load(second.save(tmp_path / "empty")))


class Crash(Exception):
    """The power goes."""


@pytest.mark.parametrize("there", [False, True], ids=["fresh", "over another panel"])
def test_a_crash_at_any_write_or_rename_leaves_a_whole_panel_or_none(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Panel.from_prices(world(periods)[0]) for periods in (40, 60))
    done = False
    for step in range(200):
        folder = tmp_path / f"{step}"
        if there:
            first.save(folder)
        left = [step]

        def failing(call: Any, half: bool, left: list[int] = left) -> Any:
            def wrapped(*args: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    if half:  # half of it is on the disk
                        call(args[0], args[1][: len(args[1]) // 2])
                    raise Crash
                return call(*args)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(saved, "_write", failing(saved._write, True))
            patch.setattr(saved.os, "replace", failing(os.replace, False))
            try:
                second.save(folder)
                done = True
            except Crash:
                pass
        if done:
            assert_same(second, Panel.load(folder))
            break
        if there:
            found = Panel.load(folder)
            assert found.fingerprint() in (first.fingerprint(), second.fingerprint())
            second.save(folder)  # what the crash left is no hindrance, and goes
            assert not [item.name for item in folder.iterdir() if item.name.startswith(".")]
        else:
            assert not folder.exists() or Panel.load(folder).fingerprint() == second.fingerprint()
            assert not list(tmp_path.glob(".*")), "what was begun is taken away"
    assert done and step > 5


def test_nothing_of_somebody_else_is_written_over(tmp_path: Path) -> None:
    panel = whole()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds notes\.txt and no saved panel"):
        panel.save(tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        panel.save(tmp_path / "notes.txt")
    for text in ("{}", "no json", '{"format": "another"}', "[]"):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / "panel.json").write_text(text)
        with pytest.raises(StoreError, match=r"panel\.json is not one of a panel"):
            panel.save(other)
        assert (other / "panel.json").read_text() == text and len(list(other.iterdir())) == 1
    kept = panel.save(tmp_path / "kept")
    (kept / "mine.csv").write_text("1")
    panel.save(kept)
    assert (kept / "mine.csv").read_text() == "1"


def _edit(folder: Path, change: Any) -> None:
    whole = json.loads((folder / "panel.json").read_text())
    change(whole)
    (folder / "panel.json").write_text(json.dumps(whole))


def _rehashed(whole: dict[str, Any], change: Any) -> None:
    change(whole["content"])
    whole["checksum"] = saved._checksum(whole["content"])


DAMAGE: dict[str, tuple[Any, str]] = {
    "a file is missing": (lambda folder: next(folder.glob("prices-*")).unlink(), r"prices-.*missing"),
    "a bit of a file": (lambda folder: _flip(next(folder.glob("returns-*"))), r"returns-.*was changed"),
    "a note": (
        lambda folder: _edit(folder, lambda whole: whole["content"]["values"]["notes"]["tuple"].append("x")),
        "was changed",
    ),
    "a name, with its checksum": (
        lambda folder: _edit(
            folder, lambda w: _rehashed(w, lambda c: c["values"]["assets"]["tuple"].__setitem__(0, "X"))
        ),
        "fingerprint",
    ),
    "an unknown field, with its checksum": (
        lambda folder: _edit(folder, lambda w: _rehashed(w, lambda c: c["values"].update(more=1))),
        "do not make a panel",
    ),
    "a file elsewhere, with its checksum": (
        lambda folder: _edit(
            folder, lambda w: _rehashed(w, lambda c: c["arrays"]["returns"].update(file="../../etc/passwd"))
        ),
        "no file of a panel",
    ),
    "a later version": (lambda folder: _edit(folder, lambda whole: whole.update(version=2)), "version 2"),
    "no json": (lambda folder: (folder / "panel.json").write_bytes(b"\xff{"), "not what Panel.save wrote"),
    "another json": (lambda folder: (folder / "panel.json").write_text("[1]"), "not what Panel.save wrote"),
    "no panel.json": (lambda folder: (folder / "panel.json").unlink(), "no saved panel"),
    "deep json": (lambda folder: (folder / "panel.json").write_text("[" * 10**5), "not what Panel.save wrote"),
}


def _flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_panel_says_what_is_wrong_with_it(case: str, tmp_path: Path) -> None:
    damage, fact = DAMAGE[case]
    folder = whole().save(tmp_path / "a")
    damage(folder)
    with pytest.raises(StoreError, match=fact):
        Panel.load(folder)


def test_a_saved_panel_takes_nothing_beside_it(tmp_path: Path) -> None:
    folder = whole().save(tmp_path / "a")
    with pytest.raises(DataError, match="market cannot be added"):
        read_panel(folder, market="style")
    with pytest.raises(StoreError, match="no saved panel"):
        Panel.load(tmp_path / "nowhere")
