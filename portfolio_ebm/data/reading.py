"""Files to frames: cells from CSV or parquet, and the wide tables (dates down the first column) among them.

Nothing here judges a price; it only makes sure that what comes out is the table the user meant, and that a file which
is not one is refused with its name, line, column and remedy instead of a parser's traceback.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.parquet import first_line, read_parquet
from portfolio_ebm.errors import DataError

ENDINGS = (".csv", ".csv.gz", ".parquet", ".pq")
BLANKS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>", "#n/a"})
LONG = "Call its columns date, asset and price (or close, return, volume ...) and give it to Panel.from_long"
"""What to do with a table of one row a date and name where a wide one was expected."""

DOCTOR = "portfolio-ebm data doctor FILE --fix writes such a copy"
"""What to do with a file that the doctor can read and cure."""

CLOSES = f"Write the closes alone, as frame['Close'].to_csv(), or one row a date and name. {DOCTOR}."
"""What to do with columns of a field and a name, as yfinance gives them."""

LONGEST = 200
"""Characters of a name at most."""

MOST_BYTES = 8 << 30
"""Bytes of text read at most."""


def read_cells(path: str | Path, what: str = "prices") -> pd.DataFrame:
    """Every cell of a file as it is written: text from CSV ("" where blank), typed columns from parquet.

    Args:
        path: `.csv`, `.csv.gz`, `.parquet` or `.pq`.
        what: what the file holds, for messages.

    Raises:
        DataError: no such file, another kind of file, not readable, no header, ragged lines.
    """
    file = existing(path, what)
    if file.suffix in (".parquet", ".pq"):
        frame = read_parquet(file)
        if not len(frame) or not frame.shape[1]:
            raise DataError(
                f"{file.name}: {len(frame)} rows and {frame.shape[1]} columns hold nothing; write it again."
            )
        _check_header(file.name, [str(name) for name in frame.columns])
    else:
        header, lines = _lines(file)
        frame = _parse(file, header, lines)
    frame.attrs["source"] = file.name
    return frame


def read_wide(path: str | Path, what: str = "prices") -> pd.DataFrame:
    """A frame of numbers with the file's dates (still as written) as its index.

    Args:
        path: `.csv`, `.csv.gz`, `.parquet` or `.pq`; first column (or parquet index) the dates, then one column a name.
        what: what the file holds, for messages.

    Raises:
        DataError: as `read_cells`, and cells that are no numbers.

    Example:
        >>> read_wide("data/stocks.csv.gz").shape
        (8313, 20)
    """
    return wide(read_cells(path, what))


def read_labels(path: str | Path, what: str = "groups") -> pd.DataFrame:
    """A frame of labels: first column the asset, one column a grouping.

    Raises:
        DataError: as `read_cells`.
    """
    return label_frame(read_cells(path, what))


def wide(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with dates in the first column as a frame of numbers with these dates as its index."""
    source = str(cells.attrs.get("source", "table"))
    first, second = (str(name).strip().lower() for name in (*cells.columns[:2], "", "")[:2])
    if first in ("", "unnamed: 0") and second in ("date", "datetime", "timestamp"):
        raise DataError(
            f"{source}: column '{second}' comes after one without a name that counts the rows; leave that out, as "
            "to_csv(index=False) does."
        )
    body = cells.set_index(cells.columns[0])
    columns = {name: body[name] if _typed(body[name]) else numbers(body[name], source) for name in body.columns}
    frame = pd.DataFrame(columns, index=body.index)
    frame.attrs["source"] = source
    return frame


def label_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with names in the first column as a frame of labels, blanks as NaN."""
    source = str(cells.attrs.get("source", "groups"))
    body = cells.set_index(cells.columns[0])
    frame = body.astype("object").where(~body.isin(["", "nan", "NaN"]), np.nan)
    frame.index = frame.index.map(str)
    frame.attrs["source"] = source
    return frame


def numbers(column: pd.Series[Any], source: str) -> NDArray[np.float64]:
    """The numbers of a column to the last digit, NaN where it is blank.

    Raises:
        DataError: naming the first cell that is neither.
    """
    if _typed(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    cells = column.to_numpy(dtype=object)
    try:
        if not any(isinstance(item, str) and "_" in item for item in cells):  # float("1_0") is 10
            blank = np.array([isinstance(item, str) and not item for item in cells], dtype=bool)
            return np.where(blank, "nan", cells).astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        pass
    refuse_text(column.to_frame(), source)
    known = [np.nan if pd.isna(item) or str(item).strip().lower() in BLANKS else item for item in cells]
    return np.array([float(item) for item in known])


def existing(path: str | Path, what: str) -> Path:
    """The path of a file of a kind that can be read.

    Raises:
        DataError: it is not there, or is something else; the message lists its neighbours.
    """
    file = Path(path)
    if file.exists() and not file.name.endswith(ENDINGS):
        hint = " Save the sheet as CSV." if file.suffix in (".xls", ".xlsx", ".ods") else ""
        raise DataError(f"{file}: {what} are read from {', '.join(ENDINGS)}, and this ends in '{file.suffix}'.{hint}")
    if not file.exists():
        near = (
            [item.name for item in file.parent.glob("*") if item.name.endswith(ENDINGS)] if file.parent.is_dir() else []
        )
        raise DataError(
            f"{file}: no such file; in that folder there is {', '.join(sorted(near)[:8]) or 'no CSV or parquet'}."
        )
    if file.is_dir():
        raise DataError(f"{file}: is a folder; give the file with the {what}.")
    return file


def _typed(column: pd.Series[Any]) -> bool:
    kind = column.dtype
    return bool(pd.api.types.is_numeric_dtype(kind) and kind.kind not in "cb")


def _text(file: Path) -> str:
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as opened:
                raw = opened.read(MOST_BYTES + 1)
        else:
            raw = file.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.name}: cannot be read ({first_line(error)}); copy or download it again.") from None
    except UnicodeDecodeError as error:
        if b"\0" in raw[:4096] and raw[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{file.name}: is no text, whatever its name says; save the table as UTF-8 CSV.") from None
        raise DataError(
            f"{file.name}: byte {error.start} is not UTF-8 text; save the file as UTF-8 CSV. {DOCTOR}."
        ) from None
    if len(raw) > MOST_BYTES:
        raise DataError(f"{file.name}: more than {MOST_BYTES:,} bytes of text; write it as parquet.")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{file.name}: line {line} holds a zero byte: not text as UTF-8; save the file as UTF-8 CSV.")
    return text


def _lines(file: Path) -> tuple[list[str], list[str]]:
    """The header's names and the other lines, all with as many cells as the header."""
    lines = _text(file).splitlines()
    rows = [line for line in lines if line.strip()]
    if not rows:
        raise DataError(f"{file.name}: the file is empty; the first line names the columns (date, AAPL, ...).")
    header = [name.strip() for name in _split(file, rows[0], 1)]
    _check_header(file.name, header)
    if len(rows) == 1:
        raise DataError(f"{file.name}: there is a header and no rows below it.")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            got = len(_split(file, line, number)) if '"' in line else line.count(",") + 1
            if got != len(header):
                raise DataError(
                    f"{file.name}: line {number} ('{line[:24]}') has {got} cells and the header {len(header)}; "
                    "leave missing cells blank between commas."
                )
    return header, rows[1:]


def _split(file: Path, line: str, number: int) -> list[str]:
    try:
        return next(csv.reader([line], strict=True, skipinitialspace=True))
    except csv.Error as error:
        what = f"{file.name}: line {number} ('{line[:24]}')"
        if len(line) > csv.field_size_limit():
            raise DataError(f"{what} has {len(line):,} characters; is it a table?") from None
        raise DataError(
            f"{what} has quotes out of place ({first_line(error)}); close every quote on its line."
        ) from None


def levels(name: str) -> tuple[str, ...] | None:
    """The levels in the name of a column that pandas wrote as "('Close', 'AAPL')"; None for any other name."""
    if not (name.startswith("(") and name.endswith(")") and "," in name):
        return None
    try:
        found = ast.literal_eval(name)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not (isinstance(found, tuple) and len(found) > 1 and all(isinstance(item, str) for item in found)):
        return None
    return found


def _check_header(name: str, header: Sequence[str]) -> None:
    if header[0].startswith("<"):
        raise DataError(f"{name}: is a web page and no table ({header[0][:24]}); download it again.")
    if len(header) < 2:
        other = next((mark for mark in (";", "\t", "|") if mark in header[0]), None)
        why = (
            f"cells look separated by {other!r}; separate them by commas, with decimal points. {DOCTOR}"
            if other
            else "there is one column; dates come first, then names"
        )
        raise DataError(f"{name}: {why}.")
    if any(levels(item) for item in header[1:]):
        raise DataError(f"{name}: columns are called as '{header[1]}', by a field and a name. {CLOSES}")
    for position, item in enumerate(header[1:], start=2):
        if not item:
            raise DataError(f"{name}: column {position} has no name in the first line; name it or remove it.")
        if len(item) > LONGEST:
            raise DataError(f"{name}: column {position} has a name of {len(item):,} characters ('{item[:24]}...').")
    if len(set(header)) < len(header):
        twice = next(item for item in header if header.count(item) > 1)
        if twice.lower() in ("open", "high", "low", "close", "adj close", "volume"):
            raise DataError(f"{name}: column '{twice}' is there {header.count(twice)} times, one a name. {CLOSES}")
        raise DataError(f"{name}: column '{twice}' is there {header.count(twice)} times; keep one.")


def _parse(file: Path, header: list[str], lines: list[str]) -> pd.DataFrame:
    """All cells as text; a blank is the empty text, and NA may be a ticker."""
    body = io.StringIO("\n".join(lines))
    try:
        frame = pd.read_csv(
            body, header=None, names=header, dtype="str", index_col=False, skipinitialspace=True, na_filter=False
        )
    except (ValueError, OverflowError, csv.Error) as error:
        raise DataError(f"{file.name}: cannot be read as CSV ({first_line(error)}); write it again.") from None
    if len(frame) != len(lines):
        raise DataError(f"{file.name}: {len(lines)} lines make {len(frame)} rows; close every quote on its line.")
    return frame


def refuse_text(frame: pd.DataFrame, source: str) -> None:
    """Raise on the first cell that is neither a number nor blank.

    Raises:
        DataError: naming the file, row, column and text.
    """
    for position, column in enumerate(frame.columns):
        for row, cell in enumerate(frame.iloc[:, position].to_numpy(dtype=object)):
            if not _numeric(cell):
                hint = "leave the cell blank where nothing is known"
                if "," in str(cell):
                    hint = "write it without thousands separators"
                elif frame.index.has_duplicates:
                    hint = f"dates repeat, so this is a long table. {LONG}"
                raise DataError(
                    f"{source}: column '{column}', row {row + 1} ({str(frame.index[row])[:10]}): "
                    f"'{str(cell)[:24]}' is not a number; {hint}."
                )


def _numeric(cell: object) -> bool:
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    if isinstance(cell, bool | np.bool_) or "_" in str(cell):
        return False
    try:
        float(str(cell))
    except ValueError:
        return str(cell).strip().lower() in BLANKS
    return True
