"""The CSV layout of Kenneth R. French's data library: prose, then tables one below the other.

    This file was created by ...                        prose, as many lines as it likes
      Average Value Weighted Returns -- Monthly         title of a block; factor files have none above the first
    ,NoDur,Durbl,Manuf                                  header: a line that begins with a comma
    192607,   1.45,  15.55,   4.69                      rows: YYYYMMDD, YYYYMM or YYYY, then percent
    ...
      Number of Firms in Portfolios                     the next block
    ,NoDur,Durbl,Manuf
    192607,    112,     41,    195
    Copyright 2024 Eugene F. Fama and Kenneth R. French

-99.99 and -999 mean missing. Line ends, trailing blanks and trailing commas differ from file to file; a line that fits
none of this is an error that names it, since a table read askew is a table of wrong numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.errors import DataError

Frequency = Literal["daily", "weekly", "monthly", "annual"]

MISSING = (-99.99, -999.0)
"""What the library writes where it knows nothing."""

_DATE = re.compile(r"\d{8}|\d{6}|\d{4}")
_COPYRIGHT = re.compile(r"copyright\b", re.IGNORECASE)
_UNITS: dict[int, Literal["D", "M", "Y"]] = {8: "D", 6: "M", 4: "Y"}


@dataclass(frozen=True, eq=False)
class Block:
    """One table of a file, in the file's own units (returns in percent, NaN where missing).

    Attributes:
        title: the words above it, "" where there are none.
        frequency: daily, weekly, monthly or annual, from the dates.
        columns: names as written, without the blanks around them.
        dates: datetime64[ns] (T,): the day; the last day of the month; 31 December of the year.
        values: (T, k).
        line: of its header in the file, counted from 1.
    """

    title: str
    frequency: Frequency
    columns: tuple[str, ...]
    dates: NDArray[np.datetime64]
    values: NDArray[np.float64]
    line: int


@dataclass
class _Open:
    """A block that is being read."""

    title: str
    columns: tuple[str, ...]
    line: int
    texts: list[str] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)


def parse(text: str | bytes, source: str = "text") -> list[Block]:
    """The tables of a file, in their order.

    Args:
        text: the CSV; bytes are read as UTF-8, else as latin-1.
        source: name of the file, for messages.

    Raises:
        DataError: a row without a header, with more or fewer cells than its header, with a cell that is no number or a
            date that is none; dates that do not increase or change their form; a header without rows; no table at all.
            The message names file and line.

    Example:
        >>> parse("Prose.\\n\\n,Mkt-RF,RF\\n192607,   2.96,   0.22\\n192608, -99.99,   0.25\\n")[0].values
        array([[2.96, 0.22],
               [ nan, 0.25]])
    """
    blocks: list[Block] = []
    now: _Open | None = None
    words: list[tuple[int, str]] = []
    for number, line in enumerate(_decoded(text).splitlines(), start=1):
        cells = [cell.strip() for cell in line.split(",")]
        if not any(cells):
            continue
        where = f"{source}, line {number}"
        if len(cells) > 1 and _DATE.fullmatch(cells[0]) and (now is not None or _all_numbers(cells[1:])):
            if now is None:
                raise DataError(f"{where}: a row of numbers ('{line.strip()[:40]}') without a header above it; {_CURE}")
            _add(now, cells, where)
        elif len(cells) > 1 and not cells[0]:
            _close(now, blocks, source)
            now, words = _Open(_title(words, number, first=not blocks), _columns(cells, where), number), []
        else:
            # Prose has words in it: numbers alone are a row whose date is broken, a date alone is a row that was cut.
            if _all_numbers(cells[1:]) or (now is not None and _DATE.fullmatch(cells[0])):
                raise DataError(f"{where}: '{line.strip()[:40]}' is no row (a date, then a number a column); {_CURE}")
            _close(now, blocks, source)
            now = None
            words.append((number, line.strip().strip(",").rstrip()))
    _close(now, blocks, source)
    if not blocks:
        raise DataError(
            f"{source}: no table in it (no line that begins with a comma, then rows of a date and numbers)."
        )
    return blocks


_CURE = "this is not the layout of French's library as it is known here. Fetch the file again, or report it."


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _title(words: list[tuple[int, str]], header: int, *, first: bool) -> str:
    """What was said since the block before; above the first one stands prose, so only a line that touches it counts."""
    if not first:
        return " ".join(text for _, text in words if not _COPYRIGHT.match(text))
    if not words:
        return ""
    number, text = words[-1]
    return text if number == header - 1 or "returns --" in text.lower() else ""


def _columns(cells: list[str], where: str) -> tuple[str, ...]:
    names = list(cells[1:])
    while names and not names[-1]:
        names.pop()
    if not all(names):
        raise DataError(f"{where}: column {names.index('') + 1} of the header has no name; {_CURE}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: column '{twice}' is in the header {names.count(twice)} times; {_CURE}")
    return tuple(names)


def _add(block: _Open, cells: list[str], where: str) -> None:
    size = len(block.columns)
    given = cells[1:]
    if len(given) > size and not any(given[size:]):
        given = given[:size]
    if len(given) != size:
        raise DataError(
            f"{where}: {len(given)} numbers, and the header (line {block.line}) has {size} columns; the file was cut "
            "or changed. Fetch it again."
        )
    if block.texts and len(cells[0]) != len(block.texts[0]):
        raise DataError(f"{where}: date {cells[0]} is not written as those above it ({block.texts[0]}); {_CURE}")
    if block.texts and cells[0] <= block.texts[-1]:
        raise DataError(f"{where}: date {cells[0]} does not come after {block.texts[-1]}; {_CURE}")
    block.texts.append(cells[0])
    block.rows.append([_number(cell, where, name) for cell, name in zip(given, block.columns, strict=True)])
    _stamp(cells[0], where)


def _number(cell: str, where: str, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or "_" in cell:
        raise DataError(f"{where}: column '{column}' has '{cell}', which is no number; {_CURE}")
    return np.nan if value in MISSING else value


def _stamp(text: str, where: str) -> np.datetime64:
    """The last day of what `text` names."""
    try:
        written = "-".join(part for part in (text[:4], text[4:6], text[6:]) if part)
        after: Any = np.datetime64(written, _UNITS[len(text)]) + 1
    except ValueError:
        raise DataError(f"{where}: {text} is no date; {_CURE}") from None
    last: np.datetime64 = after.astype("datetime64[D]") - 1
    return last


def _close(block: _Open | None, blocks: list[Block], source: str) -> None:
    if block is None:
        return
    if not block.rows:
        raise DataError(
            f"{source}, line {block.line}: a header ({', '.join(block.columns[:4])}) without a row below it; the file "
            "was cut. Fetch it again."
        )
    dates = np.array([_stamp(text, source) for text in block.texts], dtype="datetime64[ns]")
    blocks.append(Block(block.title, _frequency(block, dates), block.columns, dates, np.array(block.rows), block.line))


def _frequency(block: _Open, dates: NDArray[np.datetime64]) -> Frequency:
    if len(block.texts[0]) == 8:
        weekly = len(dates) > 1 and float(np.median(np.diff(dates) / np.timedelta64(1, "D"))) > 4.0
        return "weekly" if weekly else "daily"
    return "monthly" if len(block.texts[0]) == 6 else "annual"


def _all_numbers(cells: list[str]) -> bool:
    """Blanks and at least one number, and nothing else."""
    return any(cells) and all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)|", cell) for cell in cells)
