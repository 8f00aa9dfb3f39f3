"""Damaged files: each is read or refused with a sentence; never another exception, a crash, a hang or a full memory."""

from __future__ import annotations

import gzip
import io
import re
import resource
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from panel_worlds import world

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.errors import DataError, PortfolioEBMError

Rng = np.random.Generator

SNIPPETS = (
    b",", b";", b"\t", b"|", b'"', b"'", b"\n", b"\r\n", b"\n\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x85",
    b"\xe2\x80\xa8", b"nan", b"NA", b"None", b"inf", b"-inf", b"1e999", b"1e308", b"-1e-320", b"0", b"-1", b"1_0",
    b"0x10", b"9" * 400, b"True", b"1/3/2014", b"2020-02-30", b"9999-12-31", b"0001-01-01", b"1577923200", b"20200102",
    b"2020-01-02T25:00", b"P1D", b"date", b"ticker", b"close", b"price", b"=1+1", b"\xf0\x9f\x98\x80",
    b"2020-01-02 00:00:00+99:99", b"NaT", b"{", b"}", b"[", b"null", b'""', b"\\", b"a" * 140_000,
)  # fmt: skip


def flip(raw: bytearray, rng: Rng) -> None:
    for _ in range(int(rng.integers(1, 3))):
        raw[int(rng.integers(len(raw)))] = int(rng.integers(256))


def cut(raw: bytearray, rng: Rng) -> None:
    start, end = sorted(int(item) for item in rng.integers(0, len(raw) + 1, 2))
    if rng.random() < 0.5:
        del raw[start:]
    else:
        del raw[start:end]


def insert(raw: bytearray, rng: Rng) -> None:
    at = int(rng.integers(len(raw) + 1))
    raw[at:at] = SNIPPETS[int(rng.integers(len(SNIPPETS)))]


def overwrite(raw: bytearray, rng: Rng) -> None:
    at, snippet = int(rng.integers(len(raw))), SNIPPETS[int(rng.integers(len(SNIPPETS) - 1))]
    raw[at : at + len(snippet)] = snippet


def copy_part(raw: bytearray, rng: Rng) -> None:
    start, end, to = (int(item) for item in rng.integers(0, len(raw) + 1, 3))
    raw[to:to] = raw[min(start, end) : max(start, end)]


def replace_all(raw: bytearray, rng: Rng) -> None:
    one = bytes([raw[int(rng.integers(len(raw)))]])
    raw[:] = raw.replace(one, SNIPPETS[int(rng.integers(len(SNIPPETS) - 1))])[:200_000]


def cell(raw: bytearray, rng: Rng) -> None:
    parts = re.split(rb"([,\n])", bytes(raw))
    at = int(rng.integers((len(parts) + 1) // 2)) * 2
    parts[at] = SNIPPETS[int(rng.integers(len(SNIPPETS) - 1))]
    raw[:] = b"".join(parts)


def lines(raw: bytearray, rng: Rng) -> None:
    rows = bytes(raw).split(b"\n")
    one, other = (int(item) for item in rng.integers(0, len(rows), 2))
    how = int(rng.integers(3))
    if how == 0:
        rows[one], rows[other] = rows[other], rows[one]
    elif how == 1:
        rows.insert(one, rows[other])
    else:
        del rows[one]
    raw[:] = b"\n".join(rows)


def recode(raw: bytearray, rng: Rng) -> None:
    code = ("utf-16", "utf-32", "latin-1", "utf-8-sig", "cp500")[int(rng.integers(5))]
    raw[:] = bytes(raw).decode("latin-1").encode(code, "replace")


ANYWHERE = (flip, cut, insert, overwrite, copy_part)
IN_TEXT = (*ANYWHERE, replace_all, cell, lines, recode)
Mutation = Callable[[bytearray, Rng], None]


def csv(frame: pd.DataFrame, index: bool = True) -> bytes:
    return frame.to_csv(index=index, index_label="date" if index else None).encode()


def parquet(frame: pd.DataFrame, **how: Any) -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink, **how)
    return sink.getvalue()


def corpus(folder: Path) -> dict[str, tuple[str, bytes, tuple[Mutation, ...]]]:
    """Case: the file that is damaged, what is in it, and how it may be damaged. The others are whole."""
    prices, extras = world(40)
    prices, volume = prices.iloc[:, :4], extras["volume"].iloc[:, :4]
    names = list(prices)
    rows = prices.rename_axis("date").reset_index().melt("date", var_name="ticker", value_name="close").dropna()
    rows = rows.assign(volume=5.0, sector="x", split=np.nan)
    wide, long = prices.rename_axis("date"), csv(rows, index=False)
    members = pd.DataFrame({"asset": names, "start": "2018-01-01", "end": ["2018-02-01", "", "", ""]})
    final = pd.DataFrame({"asset": ["S2"], "date": ["2018-03-20"], "return": [-0.4]})
    weights = pd.DataFrame(0.25, prices.index[::9], names)
    labels = pd.DataFrame({"asset": names, "sector": "x", "issuer": "y"})
    spare = Panel.from_prices(prices, volume=volume)
    saved = spare.save(folder / "saved")
    text = {
        "prices.csv": csv(prices), "long.csv": long, "volume.csv": csv(volume), "membership.csv": csv(members, False),
        "delistings.csv": csv(final, False), "benchmark_weights.csv": csv(weights), "groups.csv": csv(labels, False),
        "factors.csv": csv(extras["factors"]), "dividends.csv": csv(extras["dividends"].iloc[:, :4]),
        "cash.csv": csv(extras["cash_rate"].to_frame("rate") * 1e-5), "panel.json": (saved / "panel.json").read_bytes(),
    }  # fmt: skip
    other = {
        "prices.csv.gz": gzip.compress(csv(prices)), "prices.parquet": parquet(wide),
        "flat.parquet": parquet(wide.reset_index(), compression=None),
        "long.parquet": parquet(rows.assign(sector=rows["sector"].astype("category"))),
        "membership.parquet": parquet(members.assign(start=pd.to_datetime(members["start"]))),
        "returns.parquet": next(saved.glob("returns-*")).read_bytes(),
    }  # fmt: skip
    cases = {name: (name, raw, IN_TEXT) for name, raw in text.items()}
    return cases | {name: (name, raw, ANYWHERE) for name, raw in other.items()}


@contextmanager
def not_for_ever(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError(f"still at it after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(folder: Path, name: str, raw: bytes, good: Path) -> Panel:
    """The panel with one damaged file in it."""
    if name in ("panel.json", "returns.parquet"):
        target = next((folder / "saved").glob(name.split(".")[0] + "*"))
        whole = target.read_bytes()
        try:
            target.write_bytes(raw)
            return read_panel(folder / "saved")
        finally:
            target.write_bytes(whole)
    path = folder / name
    path.write_bytes(raw)
    kind = name.split(".")[0]
    if kind in ("prices", "long", "flat"):
        return read_panel(path)
    return read_panel(good, **{kind: path})


def run(cases: int, seed: int, folder: Path) -> dict[str, int]:
    """How many damaged files of each kind were read, of those tried."""
    found = corpus(folder)
    good = folder / "good.csv"
    good.write_bytes(found["prices.csv"][1])
    kinds = list(found)
    rng = np.random.default_rng(seed)
    count = {"read": 0, "refused": 0}
    for k in range(cases):
        name, raw, ways = found[kinds[k % len(kinds)]]
        damaged = bytearray(raw)
        for _ in range(int(rng.geometric(0.7))):
            if damaged:
                ways[int(rng.integers(len(ways)))](damaged, rng)
        if name.endswith(".gz") and rng.random() < 0.5:  # damage under the gzip, so that its own checksum is right
            text = bytearray(found["prices.csv"][1])
            IN_TEXT[int(rng.integers(len(IN_TEXT)))](text, rng)
            damaged = bytearray(gzip.compress(bytes(text)))
        try:
            with not_for_ever(30):
                read(folder, name, bytes(damaged), good)
            count["read"] += 1
        except PortfolioEBMError as error:
            message = str(error)
            assert message and len(message) < 900 and error.__cause__ is None, (k, name, message)
            count["refused"] += 1
        except Exception as error:
            (folder / f"case-{k}-{name}").write_bytes(damaged)
            raise AssertionError(f"case {k} of {name} in {folder}: {type(error).__name__}: {error}") from error
    return count


def test_the_files_are_read_before_they_are_damaged(tmp_path: Path) -> None:
    found = corpus(tmp_path)
    (tmp_path / "good.csv").write_bytes(found["prices.csv"][1])
    for name, (_, raw, _ways) in found.items():
        assert read(tmp_path, name, raw, tmp_path / "good.csv").n_assets == 4, name


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    count = run(300, 0, tmp_path)
    assert count["read"] > 15 and count["refused"] > 100, count


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_twenty_thousand_damaged_files_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    """In four parts, for as many workers."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = run(5_000, seed, tmp_path)
    assert count["read"] > 250 and count["refused"] > 1250, count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 375_000  # kilobytes


def test_a_name_of_thousands_of_letters_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("date,S1\n2020-01-02,1\n2020-01-03,2\n2020-01-06,3\n")
    (tmp_path / "g.csv").write_text(f"asset,sector\nS1,x\nS1{'57' * 2000},y\n")
    with pytest.raises(DataError, match=r"'S15757.* is no asset of the panel; near it there is S1\. Correct") as told:
        read_panel(tmp_path / "p.csv", groups=tmp_path / "g.csv")
    assert len(str(told.value)) < 300


def varint(value: int) -> bytes:
    out, value = bytearray(), value << 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("rows", [10**9, 10**8, 3 * 10**6])
def test_a_parquet_that_claims_to_be_huge_is_refused_before_it_is_read(rows: int, tmp_path: Path) -> None:
    table = pa.table({"date": pa.array(np.arange(123_457), pa.int64()), "A": pa.array(np.zeros(123_457))})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    raw = sink.getvalue()
    size = int.from_bytes(raw[-8:-4], "little")
    footer = raw[-8 - size : -8]
    assert footer.count(varint(123_457)) >= 4  # of the file, its only part, and the two columns
    footer = footer.replace(varint(123_457), varint(rows))
    path = tmp_path / "huge.parquet"
    path.write_bytes(raw[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.ParquetFile(path).metadata.num_rows == rows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = f"says {rows:,} rows (of 2 columns in|and holds 123,457)"
    with pytest.raises(DataError, match=rf"huge\.parquet: .*{said}.*damaged, write it again"):
        read_panel(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_a_gzip_of_nothing_but_zeros_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv.gz").write_bytes(zlib.compress(b"0" * 10**7, wbits=31))
    with pytest.raises(DataError, match="10,000,000 characters"):
        read_panel(tmp_path / "p.csv.gz")


def test_numbers_beyond_anything_traded_are_refused(tmp_path: Path) -> None:
    for cells, fact in ((("1e31", "1"), "larger than anything"), (("1e-200", "1"), "the return is 1e\\+200")):
        (tmp_path / "p.csv").write_text(f"date,A\n2020-01-02,{cells[0]}\n2020-01-03,{cells[1]}\n")
        with pytest.raises(DataError, match=fact):
            read_panel(tmp_path / "p.csv")
