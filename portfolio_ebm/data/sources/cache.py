"""The cache of series: one parquet file and one JSON card a key, and a crash at any moment leaves the old or the new.

    write(key):  parquet under a name with its digest  ->  card, renamed into place  ->  what the old card named goes
                                                           ^ the one moment at which the entry changes

A card says what the parquet holds, its SHA-256 and the facts of its source. Readers take no lock: a reader whose
parquet is gone reads the card again. Writers of one key wait for one another (`lock`), so that read, merge and write
by two processes loses nothing. A file that is not what was written is an error that names it, never a shorter series.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from portfolio_ebm.data.sources.keys import file_stem, key_of
from portfolio_ebm.data.sources.series_file import Array, ArrowException, Dates, decode, encode, place
from portfolio_ebm.errors import StoreError

ENVIRONMENT = "PORTFOLIO_EBM_HOME"
"""Environment variable that names the folder of everything that is kept between runs."""

T = TypeVar("T")

FORMAT = 1
PART = 16
"""Series that a thread reads in one go."""

PATIENCE = 300.0
"""Seconds to wait for another process that writes the same key."""


def home() -> Path:
    """$PORTFOLIO_EBM_HOME, or the user's cache folder of this package; it need not exist."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else user_cache_path("portfolio_ebm")


@dataclass(frozen=True, eq=False)
class Entry:
    """One series: `dates` datetime64[ns] (T,) strictly increasing, `columns` by name (T,), `facts` as JSON values."""

    key: str
    dates: Dates
    columns: Mapping[str, Array]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """What is known of an entry without reading its numbers.

    Attributes:
        columns: names of the columns; `rows`, `first`, `last`: their length and span (YYYY-MM-DD, None if empty).
        facts: as the source gave them.
        parquet: the file beside the card; `sha256` of its bytes.
        written: when, UTC, ISO 8601.
    """

    key: str
    columns: tuple[str, ...]
    rows: int
    first: str | None
    last: str | None
    facts: Mapping[str, Any]
    parquet: str
    sha256: str
    written: str


@dataclass(frozen=True)
class Cache:
    """Series under `folder`; it is made when the first one is written.

    Example:
        >>> cache = Cache.default("yahoo")
        >>> cache.write("SPY", dates, {"close": close}, {"currency": "USD"})
        >>> cache.read("SPY", ["close"]).columns["close"]
    """

    folder: Path

    @classmethod
    def default(cls, source: str) -> Cache:
        """The series of one source, below `home()`."""
        return cls(home() / "data" / source)

    def keys(self) -> list[str]:
        """The keys that are stored, sorted; damaged ones too."""
        try:
            names = [item.name.removesuffix(".json") for item in self.folder.glob("*.json")]
        except OSError as error:
            raise StoreError(f"{self.folder}: this folder cannot be read ({error}); set {ENVIRONMENT}.") from error
        return sorted(key for key in map(key_of, names) if key is not None)

    def facts(self, key: str) -> Mapping[str, Any] | None:
        """What the source said of `key`, or None where it is not stored; StoreError as `read`."""
        card = self.card(key)
        return None if card is None else card.facts

    def card(self, key: str) -> Card | None:
        """The card of `key`, or None where it is not stored.

        Raises:
            StoreError: it cannot be read; names the file and the remedy.
        """
        file = self._card_file(key)
        try:
            said = json.loads(file.read_bytes())
            card = Card(**{**said["card"], "columns": tuple(said["card"]["columns"])})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(file, key, f"{type(error).__name__}: {error}") from error
        if said.get("format") != FORMAT or card.key != key:
            raise _damaged(file, key, f"it is of format {said.get('format')} and speaks of {card.key!r}")
        return card

    def read(self, key: str, columns: Sequence[str] | None = None, *, verify: bool = False) -> Entry | None:
        """The series of `key`, or None where it is not stored.

        Args:
            columns: those to read; None for all.
            verify: compare the SHA-256 of the whole file too (the checksums of what is read are always compared).

        Raises:
            StoreError: it is there and cannot be read, or has no such column; names the file and the remedy.
        """
        card = self.card(key)
        while card is not None:
            try:
                return self._read(card, columns, verify)
            except FileNotFoundError as error:
                # A writer may have put another parquet in its place since the card was read.
                newer = self.card(key)
                if newer == card:
                    raise _damaged(self.folder / card.parquet, key, "the file is gone") from error
                card = newer
        return None

    def write(self, key: str, dates: Dates, columns: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Put a series in the place of what `key` held, if anything; durable when this returns.

        Raises:
            StoreError: dates that do not increase, columns of another length, facts that are no JSON, a folder that
                cannot be written, a full disk. What was there before is then still there.
        """
        blob, days = encode(key, dates, columns)
        stem, digest = file_stem(key), hashlib.sha256(blob).hexdigest()
        card = {"key": key, "columns": list(columns), "rows": len(dates), "first": days[0], "last": days[1]}
        card |= {"facts": dict(facts), "parquet": f"{stem}.{digest[:16]}.parquet", "sha256": digest}
        card["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            words = json.dumps({"format": FORMAT, "card": card}, allow_nan=False, indent=1).encode()
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"{key}: its facts are no JSON ({error}); give text, numbers, lists and mappings."
            ) from error
        with self.lock(key):
            try:
                place(self.folder / str(card["parquet"]), blob, stem)
                place(self._card_file(key), words, stem)
            except OSError as error:
                raise self._unwritable(key, error) from error
            self._sweep(stem, keep=str(card["parquet"]))

    def remove(self, key: str) -> None:
        """Forget `key`; nothing happens where it is not stored."""
        if not self.folder.is_dir():
            return
        with self.lock(key):
            try:
                self._card_file(key).unlink(missing_ok=True)
                self._sweep(file_stem(key), keep="")
            except OSError as error:
                raise self._unwritable(key, error) from error

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Only one process, and one thread of it, is in here for `key`; the same thread may enter again.

        Raises:
            StoreError: the folder cannot be written, or another process has been in here for too long.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(self.folder / f"{file_stem(key)}.lock", timeout=PATIENCE, is_singleton=True)
            held.acquire()
        except Timeout as error:
            raise StoreError(
                f"{self.folder}: another process has held {key} for {PATIENCE:.0f} s; wait for it or end it."
            ) from error
        except OSError as error:
            raise self._unwritable(key, error) from error
        try:
            yield
        finally:
            held.release()

    def each(self, make: Callable[[Entry], T], keys: Sequence[str], columns: Sequence[str]) -> list[T]:
        """What `make` makes of each series, in the order of the keys; read and made in a few threads.

        Raises:
            StoreError: a key that is not stored, or as `read`.

        Example:
            >>> cache.each(lambda entry: entry.columns["close"].max(), ["SPY", "TLT"], ["close"])
        """

        def some(part: Sequence[str]) -> list[T | None]:
            found = (self.read(key, columns) for key in part)
            return [None if entry is None else make(entry) for entry in found]

        parts = [keys[k : k + PART] for k in range(0, len(keys), PART)]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            made = [item for part in pool.map(some, parts) for item in part]
        missing = [key for key, item in zip(keys, made, strict=True) if item is None]
        if missing:
            raise StoreError(f"{self.folder}: {', '.join(missing[:8])} is not stored; fetch it first.")
        return [item for item in made if item is not None]

    def _card_file(self, key: str) -> Path:
        return self.folder / f"{file_stem(key)}.json"

    def _read(self, card: Card, columns: Sequence[str] | None, verify: bool) -> Entry:
        file = self.folder / card.parquet
        unknown = [name for name in columns or () if name not in card.columns]
        if unknown:
            raise StoreError(f"{card.key}: no column {unknown[0]!r} is stored, only {', '.join(card.columns)}.")
        names = card.columns if columns is None else tuple(columns)
        try:
            if verify and hashlib.sha256(file.read_bytes()).hexdigest() != card.sha256:
                raise ValueError("these are not the bytes that were written")
            dates, arrays = decode(file, names)
            if len(dates) != card.rows:
                raise ValueError(f"{len(dates)} rows in place of {card.rows}")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, ArrowException) as error:
            raise _damaged(file, card.key, str(error)) from error
        return Entry(card.key, dates, arrays, card.facts)

    def _sweep(self, stem: str, keep: str) -> None:
        """Under the lock every other parquet and every temporary of this key is a dead one's."""
        ours = re.compile(rf"{re.escape(stem)}\.[0-9a-f]{{16}}\.parquet|\.{re.escape(stem)}\.[^.]*\.part")
        for name in os.listdir(self.folder):
            if name != keep and ours.fullmatch(name):
                try:
                    (self.folder / name).unlink(missing_ok=True)
                except PermissionError:  # a reader on Windows has it open; the next write takes it away
                    continue

    def _unwritable(self, key: str, error: OSError) -> StoreError:
        return StoreError(
            f"{self.folder}: {key} cannot be written ({error.strerror or error}); free space, or set {ENVIRONMENT} "
            "to a folder that can be written. What was stored before is still there."
        )


def _damaged(file: Path, key: str, why: str) -> StoreError:
    return StoreError(f"{file}: what is stored of {key} cannot be read ({why}); fetch it again, which replaces it.")
