"""Files as the doctor reads them: what the other doors refuse is read where that can be done in one way, and told.

semicolons, tabs and decimal commas; UTF-16 and Windows text; names that are there twice; a column that counts the
rows; the columns of a field and a ticker that yfinance writes; lines with too few or too many cells
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from portfolio_ebm.data.columns import DATE, plain
from portfolio_ebm.data.parquet import read_parquet
from portfolio_ebm.data.reading import DOCTOR, MOST_BYTES, existing, levels, read_cells
from portfolio_ebm.errors import DataError

MARKS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
_COMMA = re.compile(r"\s*[-+]?[\d.\s']*,\d+\s*%?\s*")
_POINT = re.compile(r"\s*[-+]?[\d,\s']*\.\d+\s*%?\s*")


def read_rough(path: str | Path, what: str = "prices") -> pd.DataFrame:
    """Every cell of a file; `frame.attrs["told"]` holds (sentence, remedy) of what was odd about the file itself.

    Raises:
        DataError: what nobody can read: no such file, no table in it, a damaged parquet file.

    Example:
        >>> read_rough("kurse.csv").attrs["told"]  # doctest: +SKIP
        [('cells are separated by semicolons.', 'Separate them by commas.'), ...]
    """
    told: list[tuple[str, str]] = []
    try:
        frame = read_cells(path, what)
    except DataError as refused:
        try:
            frame = _again(existing(path, what), refused, told)
        except DataError as error:
            raise DataError(str(error).removesuffix(f" {DOCTOR}.")) from None  # it is the doctor who says so
    frame = _without_counts(frame, told)
    frame.attrs = {"source": Path(path).name, "told": told}
    return frame


def _again(file: Path, refused: DataError, told: list[tuple[str, str]]) -> pd.DataFrame:
    if not file.name.endswith((".csv", ".csv.gz")):
        frame = read_parquet(file)
        named = [levels(str(name)) for name in frame.columns[1:]]
        if not named or any(name is None for name in named):
            raise refused
        return _stacked(frame.set_axis(["date", *range(len(named))], axis=1), [n for n in named if n], refused, told)
    try:
        text = _text(file, told)
        mark, rows = _rows(text)
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error):
        raise refused from None
    if "\0" in text or len(rows) < 2 or len(rows[0]) < 2:
        raise refused
    if mark != ",":
        told.append((f"cells are separated by {MARKS[mark]}.", "Separate them by commas."))
    fields = {plain(name) for row in rows[:2] for name in row[1:]}
    two = len(rows) > 2 and plain(rows[1][0]) in ("", "ticker", "tickers", "price") and "close" in fields
    two = two and len(rows[1]) == len(rows[0])
    below = rows[2:] if two else rows[1:]
    if two and plain(below[0][0]) in ("", *DATE) and not any(below[0][1:]):
        below = below[1:]
    body = _even(len(rows[0]), below, told)
    if not body:
        raise refused
    if mark != "," and _commas(body):
        body = [[_pointed(cell) for cell in row] for row in body]
        told.append(("numbers have decimal commas.", "Write decimal points."))
    if two:
        cells = pd.DataFrame(body, columns=["date", *range(len(rows[0]) - 1)])
        return _stacked(cells, list(zip(rows[0][1:], rows[1][1:], strict=True)), refused, told)
    return pd.DataFrame(body, dtype="str").set_axis(rows[0], axis=1)


def _stacked(
    cells: pd.DataFrame, named: Sequence[tuple[str, ...]], refused: DataError, told: list[tuple[str, str]]
) -> pd.DataFrame:
    """Columns of a field and a name, as yfinance gives them, as a long table: date, ticker, close, volume, ..."""
    fields = next((k for k in range(2) if any(plain(name[k]) == "close" for name in named)), None)
    if fields is None or any(len(name) != 2 for name in named):
        raise refused
    tables: dict[str, dict[str, pd.Series[Any]]] = {}
    for place, name in enumerate(named):
        tables.setdefault(name[1 - fields], {})[plain(name[fields])] = cells[place]
    told.append(
        ("columns are called by a field and a ticker, as yfinance does.", "Write one row a date and ticker, or closes.")
    )
    parts = [pd.DataFrame({"date": cells["date"], "ticker": ticker, **columns}) for ticker, columns in tables.items()]
    return pd.concat(parts, ignore_index=True)


def _text(file: Path, told: list[tuple[str, str]]) -> str:
    if file.suffix == ".gz":
        with gzip.open(file) as opened:
            raw = opened.read(MOST_BYTES + 1)
    else:
        raw = file.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        told.append(("the text is UTF-16.", "Save it as UTF-8."))
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        told.append(("the text is not UTF-8, and was read as Windows-1252.", "Save it as UTF-8."))
        return raw.decode("cp1252")


def _rows(text: str) -> tuple[str, list[list[str]]]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ",", []
    mark = max(MARKS, key=lambda item: (lines[0].count(item), item == ","))
    return mark, [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]


def _even(width: int, body: list[list[str]], told: list[tuple[str, str]]) -> list[list[str]]:
    odd = [number for number, row in enumerate(body, start=1) if len(row) != width]
    if odd:
        what = f"{len(odd)} row(s) have not {width} cells as the header, first row {odd[0]}; they were left out."
        told.append((what, "Leave missing cells blank between commas."))
    return [row for row in body if len(row) == width]


def _commas(body: list[list[str]]) -> bool:
    cells = [cell for row in body[:200] for cell in row[1:]]
    return sum(bool(_COMMA.fullmatch(cell)) for cell in cells) > sum(bool(_POINT.fullmatch(cell)) for cell in cells)


def _pointed(cell: str) -> str:
    return cell.replace(".", "").replace(",", ".") if _COMMA.fullmatch(cell) else cell


def _without_counts(frame: pd.DataFrame, told: list[tuple[str, str]]) -> pd.DataFrame:
    """Without a first column that only counts the rows beside a column of dates."""
    if frame.shape[1] < 3:
        return frame
    first, second = (plain(name) for name in frame.columns[:2])
    if first in ("", "unnamed:_0", "index") and second in DATE:
        told.append(("the first column counts the rows.", "Leave it out, as to_csv(index=False) does."))
        return frame.iloc[:, 1:]
    return frame
