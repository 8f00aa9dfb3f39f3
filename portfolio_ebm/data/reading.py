"""Files to frames: a wide table (dates down the first column, one name a column) from CSV or parquet.

Nothing here judges a price; it only makes sure that what comes out is the table the user meant, and that a file which
is not one is refused with its name, line, column and remedy instead of a parser's traceback.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from portfolio_ebm.errors import DataError

ENDINGS = (".csv", ".csv.gz", ".parquet", ".pq")
BLANKS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>", "#n/a"})


def read_wide(path: str | Path, what: str = "prices") -> pd.DataFrame:
    """A frame of numbers with the file's dates (still as written) as its index.

    Args:
        path: `.csv`, `.csv.gz`, `.parquet` or `.pq`; first column (or parquet index) the dates, then one column a name.
        what: what the file holds, for messages.

    Raises:
        DataError: no such file, another kind of file, not readable, no header, ragged lines, cells that are no numbers.

    Example:
        >>> read_wide("data/stocks.csv.gz").shape
        (8313, 20)
    """
    file = _existing(path, what)
    frame = _parquet(file) if file.suffix in (".parquet", ".pq") else _csv(file)
    frame.attrs["source"] = file.name
    return frame


def read_labels(path: str | Path, what: str = "groups") -> pd.DataFrame:
    """A frame of labels: first column the asset, one column a grouping.

    Raises:
        DataError: as `read_wide`.
    """
    file = _existing(path, what)
    if file.suffix in (".parquet", ".pq"):
        frame = _parquet(file).astype("object")
    else:
        header, lines = _lines(file)
        frame = _parse(file, header, lines).set_index(header[0])
    frame.index = frame.index.map(str)
    frame.attrs["source"] = file.name
    return frame


def _existing(path: str | Path, what: str) -> Path:
    file = Path(path)
    if not file.name.endswith(ENDINGS):
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


def _parquet(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{file.name}: cannot be read as parquet ({_first_line(error)}); write it again, or give a CSV."
        ) from None
    if isinstance(frame.index, pd.RangeIndex) and frame.shape[1]:
        frame = frame.set_index(frame.columns[0])
    return frame


def _csv(file: Path) -> pd.DataFrame:
    header, lines = _lines(file)
    text = _parse(file, header, lines).set_index(header[0])
    columns = {}
    for position, name in enumerate(header[1:]):
        cells = text.iloc[:, position].to_numpy(dtype=object)
        try:
            columns[name] = cells.astype(np.float64)  # every digit counts; blanks are NaN already
        except ValueError:
            refuse_text(text, file.name)
            raise DataError(f"{file.name}: column '{name}' has a cell that is not a number.") from None
    return pd.DataFrame(columns, index=text.index)


def _lines(file: Path) -> tuple[list[str], list[str]]:
    """The header's names and the other lines, all with as many cells as the header."""
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.name}: cannot be read ({_first_line(error)}); copy or download it again.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name}: byte {error.start} is not UTF-8 text; save the file as UTF-8 CSV.") from None
    lines = text.splitlines()
    rows = [line for line in lines if line.strip()]
    if not rows:
        raise DataError(f"{file.name}: the file is empty; the first line names the columns (date, AAPL, ...).")
    header = [name.strip() for name in next(csv.reader(rows[:1]))]
    _check_header(file.name, header)
    if len(rows) == 1:
        raise DataError(f"{file.name}: there is a header and no rows below it.")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            got = len(next(csv.reader([line]))) if '"' in line else line.count(",") + 1
            if got != len(header):
                raise DataError(
                    f"{file.name}: line {number} ('{line[:24]}') has {got} cells and the header {len(header)}; "
                    "leave missing cells blank between commas."
                )
    return header, rows[1:]


def _check_header(name: str, header: Sequence[str]) -> None:
    if len(header) < 2:
        other = next((mark for mark in (";", "\t", "|") if mark in header[0]), None)
        why = (
            f"cells look separated by {other!r}; separate them by commas"
            if other
            else "there is one column; dates come first, then names"
        )
        raise DataError(f"{name}: {why}.")
    for position, item in enumerate(header[1:], start=2):
        if not item:
            raise DataError(f"{name}: column {position} has no name in the first line; name it or remove it.")
    if len(set(header)) < len(header):
        twice = next(item for item in header if header.count(item) > 1)
        raise DataError(f"{name}: column '{twice}' is there {header.count(twice)} times; keep one.")


def _parse(file: Path, header: list[str], lines: list[str]) -> pd.DataFrame:
    """All cells as text, blanks as NaN."""
    body = io.StringIO("\n".join(lines))
    return pd.read_csv(body, header=None, names=header, dtype="str", index_col=False, skipinitialspace=True)


def refuse_text(frame: pd.DataFrame, source: str) -> None:
    """Raise on the first cell that is neither a number nor blank.

    Raises:
        DataError: naming the file, row, column and text.
    """
    for column in frame.columns:
        for row, cell in enumerate(frame[column].to_numpy(dtype=object)):
            if not _numeric(cell):
                hint = "leave the cell blank where nothing is known"
                if "," in str(cell):
                    hint = "write it without thousands separators"
                elif frame.index.has_duplicates:
                    hint = "dates repeat, so this is a long table: pivot it to dates down and names across"
                raise DataError(
                    f"{source}: column '{column}', row {row + 1} ({str(frame.index[row])[:10]}): "
                    f"'{str(cell)[:24]}' is not a number; {hint}."
                )


def _numeric(cell: object) -> bool:
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    if isinstance(cell, bool | np.bool_):
        return False
    try:
        float(str(cell))
    except ValueError:
        return str(cell).strip().lower() in BLANKS
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
