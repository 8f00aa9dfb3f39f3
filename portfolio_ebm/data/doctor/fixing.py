"""Safe remedies, on a copy: every changed cell is in a log, every other cell is the same bits.

Safe is what invents no number: a blank for a bad tick, a ratio taken out where it is known, rows sorted. Whatever needs
another source is told by the report and left alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Edit, Finding, Report
from portfolio_ebm.data.doctor.stamps import as_index, text_day
from portfolio_ebm.errors import DataError, StoreError

COLUMNS = ("asset", "date", "before", "after", "why")
"""The columns of the log of changes."""


def fix(frame: pd.DataFrame | pd.Series[Any], report: Report) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A cleaned copy and the log of its changes, one changed cell (or date) a row.

    Ratios go first and blanks last, so that a cell with two faults ends blank. Dates are changed only if the report
    has a fixable finding about them; then rows are sorted, and repeats of whole rows dropped.

    Raises:
        DataError: the report is about another frame.

    Example:
        >>> cleaned, changes = fix(prices, examine(prices))  # doctest: +SKIP
    """
    if isinstance(frame, pd.Series):
        frame = frame.to_frame(str(frame.name) if frame.name is not None else "prices")
    _check_same(frame, report)
    jobs = [(edit, item) for item in report.findings if item.fixable for edit in item.edits]
    jobs.sort(key=lambda job: (job[0].value is None, not job[0].scale))
    # What was odd about the file itself is mended by writing it: commas, points, UTF-8.
    mended = [item for item in report.findings if item.kind == "layout" and item.fixable]
    log: list[tuple[str, str, Any, Any, str]] = [("", "", item.what, item.remedy, "layout") for item in mended]
    touched: dict[int, tuple[pd.Series[Any], NDArray[Any], NDArray[np.float64], dict[int, str]]] = {}
    for edit, item in jobs:
        _apply(frame, edit, item, touched)
    cleaned = frame.copy()
    for place, (series, cells, numbers, why) in sorted(touched.items()):
        rows = sorted(why)
        cleaned.isetitem(place, _column(series, cells, numbers, rows).array)
        for row in rows:
            name = str(frame.columns[place]) if report.rows.names is None else report.rows.names[row]
            before, after = series.iloc[row], numbers[row]
            if not (pd.isna(before) and np.isnan(after)) and before != after:
                log.append((name, text_day(report.rows.dates[row]), before, after, why[row]))
    cleaned = _dated(cleaned, report, log)
    return cleaned, pd.DataFrame(log, columns=list(COLUMNS))


def write_fixed(source: str | Path, out: str | Path, cleaned: pd.DataFrame, changes: pd.DataFrame) -> tuple[Path, Path]:
    """Write the cleaned copy to `out` and the log next to it (`<name>.changes.csv`); returns both paths.

    Both are written under another name first and linked into place, which fails where a file is, so that nothing is
    overwritten and nothing is left half done.

    Raises:
        StoreError: `out` is the input, exists already, is in no folder, or does not end in .csv, .csv.gz or .parquet.
    """
    given, target = Path(source), Path(out)
    ending = ending_of(target)
    log = target.with_name(target.name.removesuffix(ending) + ".changes.csv")
    if not target.parent.is_dir():
        raise StoreError(f"{target}: there is no folder {target.parent}; make it first.")
    for path in (target, log):
        if path.resolve() == given.resolve():
            raise StoreError(f"{path}: this is the input, which is never written over; choose another name.")
        if path.exists() or path.is_symlink():
            raise StoreError(f"{path}: there is a file already; choose another name, or remove it.")
    place(target, ending, cleaned, index=True)
    try:
        place(log, ".csv", changes, index=False)
    except StoreError:
        target.unlink()
        raise
    return target, log


def ending_of(path: Path) -> str:
    """The ending of a table's file.

    Raises:
        StoreError: none that can be written.
    """
    ending = next((end for end in (".csv.gz", ".csv", ".parquet", ".pq") if path.name.endswith(end)), None)
    if ending is None:
        raise StoreError(f"{path}: a table ends in .csv, .csv.gz or .parquet; choose such a name.")
    return ending


def place(path: Path, ending: str, frame: pd.DataFrame, *, index: bool) -> None:
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=path.parent) as folder:
        draft = Path(folder) / f"draft{ending}"
        if ending in (".parquet", ".pq"):
            frame.to_parquet(draft)
        else:
            keep = index and not isinstance(frame.index, pd.RangeIndex)
            frame.to_csv(draft, index=keep, index_label=str(frame.index.name or "date") if keep else None)
        try:
            os.link(draft, path)
        except FileExistsError:
            raise StoreError(f"{path}: there is a file already; choose another name, or remove it.") from None
        except OSError:  # a file system without hard links
            with path.open("xb") as target:
                target.write(draft.read_bytes())


def _check_same(frame: pd.DataFrame, report: Report) -> None:
    rows = report.rows
    if not isinstance(frame, pd.DataFrame) or len(frame) != len(rows.labels) or len(frame.columns) != len(rows.columns):
        raise DataError(f"{report.source}: the report is about another frame; examine this one first.")
    if not frame.index.equals(rows.labels) or not frame.columns.equals(rows.columns):
        raise DataError(f"{report.source}: rows or columns changed since the report; examine the frame again.")


def _apply(
    frame: pd.DataFrame,
    edit: Edit,
    item: Finding,
    touched: dict[int, tuple[pd.Series[Any], NDArray[Any], NDArray[np.float64], dict[int, str]]],
) -> None:
    if edit.column not in touched:
        series = frame.iloc[:, edit.column]
        cells = series.astype("object").to_numpy(copy=True)
        numbers = _floats(series)
        touched[edit.column] = series, cells, numbers, {}
    series, _, numbers, why = touched[edit.column]
    before = numbers[edit.rows]
    numbers[edit.rows] = edit.apply(before)
    for row in edit.rows.tolist():
        if edit.scale and np.isnan(numbers[row]):
            continue  # a blank stays a blank
        why[row] = f"{why[row]}, {item.kind}" if row in why and item.kind not in why[row] else item.kind


def _floats(series: pd.Series[Any]) -> NDArray[np.float64]:
    """The numbers of a column, NaN for whatever else it holds."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "Oc":
        series = series.astype("object").where(
            ~series.map(lambda cell: isinstance(cell, (complex, np.complexfloating)))
        )
    return pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()


def _column(
    series: pd.Series[Any], cells: NDArray[Any], numbers: NDArray[np.float64], rows: list[int]
) -> pd.Series[Any]:
    """The column with new numbers in some rows; it keeps its type where that can hold them."""
    kind = series.dtype
    if isinstance(kind, np.dtype) and kind.kind == "f":
        out = series.to_numpy(copy=True)
        out[rows] = numbers[rows].astype(kind)
        return pd.Series(out, index=series.index, name=series.name)
    if isinstance(kind, np.dtype) and kind.kind in "iu":
        return pd.Series(numbers, index=series.index, name=series.name)
    for row in rows:
        cells[row] = float(numbers[row])
    mixed = pd.Series(cells, index=series.index, name=series.name, dtype="object")
    plain = pd.to_numeric(mixed, errors="coerce")
    return plain if bool((plain.notna() | mixed.isna()).all()) else mixed


def _dated(frame: pd.DataFrame, report: Report, log: list[tuple[str, str, Any, Any, str]]) -> pd.DataFrame:
    """Rows with dates as they should be, sorted, repeats of whole rows dropped; as it was where nothing is to do."""
    if not any(item.kind == "date" and item.fixable for item in report.findings):
        return frame
    rows = report.rows
    old = rows.labels if rows.column is None else as_index(frame.iloc[:, rows.column])
    for row in range(len(frame)):
        label, new = str(old[row]), text_day(rows.dates[row])
        if new and label.removesuffix(" 00:00:00") != new:
            log.append(("", new, label, new, "date"))
    log += [("", text_day(rows.dates[row]), "a row", "no row", "date: the same row twice") for row in rows.repeats]
    known = ~np.isnat(rows.dates)
    known[rows.repeats] = False
    lost = np.flatnonzero(np.isnat(rows.dates))
    kept = np.flatnonzero(known)
    order = np.argsort(rows.dates[kept], kind="stable")
    if (np.diff(order) < 0).any():
        log.append(("", text_day(rows.dates[kept[0]]), "rows in another order", "rows by date", "date"))
    kept = kept[order]
    if lost.size:  # rows that nobody can date stay where they cannot be mistaken: they are left out, and logged
        log += [("", "", str(old[row]), "no row", "date: not readable") for row in lost.tolist()]
    stamps = pd.DatetimeIndex(rows.dates[kept], name=frame.index.name)
    stamps = stamps.as_unit(old.unit) if isinstance(old, pd.DatetimeIndex) else stamps
    out = frame.iloc[kept].copy()
    if rows.column is None:
        out.index = stamps
    else:
        out.isetitem(rows.column, stamps.array)
        out.index = pd.RangeIndex(len(out))
    return out
