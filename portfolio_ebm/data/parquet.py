"""Parquet to a frame of columns as they are stored, without trusting a word of the file.

A parquet file says how many rows it has before any is read; that claim is checked before memory is given for it.
Metadata of pandas is used for one thing, the name of the index, and what cannot be understood of it is passed over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from portfolio_ebm.errors import DataError

MOST_CELLS = 400_000_000
"""Cells read at most: 3.2 GB of numbers, ten thousand names over a century of days."""

MOST_BYTES = 8 << 30
"""Bytes unpacked at most, by the file's own account."""

MOST_PER_BYTE = 2000
"""Cells a byte holds at most: blanks and constants pack well, and dates and names do not."""

_DAMAGED = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, pa.ArrowException)


def read_parquet(file: Path) -> pd.DataFrame:
    """All columns of a file, its index among them as the first.

    Raises:
        DataError: not parquet, damaged, or larger than a panel can be; the message says which.
    """
    try:
        with pq.ParquetFile(
            file, thrift_string_size_limit=1 << 26, thrift_container_size_limit=1 << 22, page_checksum_verification=True
        ) as opened:
            _check_size(opened, file)
            index = _index_names(opened.schema_arrow.metadata)
            table = opened.read(use_threads=False).replace_schema_metadata(None)
            claimed = opened.metadata.num_rows
            if table.num_rows != claimed:
                raise DataError(
                    f"{file.name}: the parquet file says {claimed:,} rows and holds {table.num_rows:,}; it is damaged, "
                    "write it again."
                )
            frame = table.to_pandas(ignore_metadata=True)
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(
            f"{file.name}: cannot be read as parquet ({first_line(error)}); write it again, or give a CSV."
        ) from None
    frame.columns = pd.Index([str(name) for name in frame.columns])
    return _index_first(frame, index)


def _index_first(frame: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """The index in front; row numbers beside a column of dates are nothing but numbers, and an index without a name is
    the dates otherwise.
    """
    front = [name for name in index if name in frame.columns]
    unnamed = [name for name in front if name.startswith("__index_level_")]
    if any(name.lower() in ("date", "asset", "ticker", "symbol") for name in frame.columns):
        frame = frame.drop(columns=unnamed)
    ordered = front + [name for name in frame.columns if name not in front]
    found = frame[[name for name in ordered if name in frame.columns]]
    return found.rename(columns=dict.fromkeys(unnamed[:1], "date"))


def _check_size(opened: Any, file: Path) -> None:
    """The claims of the footer agree with one another, and are not more than a panel can be."""
    meta = opened.metadata
    rows, columns = meta.num_rows, meta.num_columns
    groups = [meta.row_group(k) for k in range(meta.num_row_groups)]
    size = sum(max(group.total_byte_size, 0) for group in groups)
    if rows < 0 or sum(group.num_rows for group in groups) != rows or any(group.num_rows < 0 for group in groups):
        raise DataError(f"{file.name}: the parquet file says {rows} rows and its parts say otherwise; write it again.")
    cells, length = rows * max(columns, 1), file.stat().st_size
    if cells > MOST_PER_BYTE * length:
        raise DataError(
            f"{file.name}: the parquet file says {rows:,} rows of {columns:,} columns in {length:,} bytes; it is "
            "damaged, write it again."
        )
    if cells > MOST_CELLS or size > MOST_BYTES:
        raise DataError(
            f"{file.name}: {rows:,} rows of {columns:,} columns are more than a panel holds ({MOST_CELLS:,} cells); "
            "choose fewer names or dates."
        )


def _index_names(metadata: dict[bytes, bytes] | None) -> list[str]:
    try:
        stored = json.loads((metadata or {})[b"pandas"])["index_columns"]
        return [name for name in stored if isinstance(name, str)]
    except (KeyError, ValueError, TypeError):
        return []


def first_line(error: BaseException) -> str:
    """The first line of an error, short enough for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
