"""One series as the bytes of a parquet file, and bytes put on the disk whole or not at all.

A date column and float64 columns, none nullable; every page has a checksum, so that a byte that changed on the disk is
an error and not a price.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from portfolio_ebm.errors import StoreError

DATE = "date"

Array = NDArray[np.float64]
Dates = NDArray[np.datetime64]
ArrowException: type[Exception] = pa.ArrowException


def encode(key: str, dates: Dates, columns: Mapping[str, Array]) -> tuple[bytes, list[str | None]]:
    """The bytes of the file, and the first and last date as YYYY-MM-DD (None where there is none).

    Raises:
        StoreError: dates that do not increase strictly, a column of another length.
    """
    table = _table(key, dates, columns)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="lz4",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        store_schema=False,
    )
    ends = table[DATE].to_numpy()[[0, -1]].astype("datetime64[D]") if table.num_rows else [None, None]
    return sink.getvalue().to_pybytes(), [None if end is None else str(end) for end in ends]


def decode(file: Path, names: Sequence[str]) -> tuple[Dates, dict[str, Array]]:
    """The dates and the named columns of a file.

    Raises:
        OSError, ValueError, KeyError, ArrowException: it is not the file that was written.
    """
    # Mapped: of a file with ten columns only the pages of those asked for are read.
    with pq.ParquetFile(file, memory_map=True, page_checksum_verification=True) as opened:
        table = opened.read([DATE, *names], use_threads=False)
    return table[DATE].to_numpy(), {name: table[name].to_numpy() for name in names}


def _table(key: str, dates: Dates, columns: Mapping[str, Array]) -> pa.Table:
    days = np.asarray(dates)
    if days.dtype.kind != "M" or days.ndim != 1 or np.isnat(days).any() or (np.diff(days) <= np.timedelta64(0)).any():
        raise StoreError(
            f"{key}: the dates of a series are one array of datetime64, strictly increasing, none missing."
        )
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    wrong = [name for name, values in arrays.items() if values.shape != days.shape or name == DATE]
    if wrong:
        raise StoreError(f"{key}: column {wrong[0]!r} has shape {arrays[wrong[0]].shape}, the dates {days.shape}.")
    fields = [pa.field(DATE, pa.timestamp("ns"), nullable=False)]
    fields += [pa.field(name, pa.float64(), nullable=False) for name in arrays]
    data = [pa.array(days.astype("datetime64[ns]")), *(pa.array(values) for values in arrays.values())]
    return pa.Table.from_arrays(data, schema=pa.schema(fields))


def place(file: Path, data: bytes, stem: str) -> None:
    """Bytes under `file`, whole or not at all, and on the disk before the name is."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{stem}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(file)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is durable once its folder is
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
