"""A universe file: the names to fetch, and from when to when each of them belonged, where the file says so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from portfolio_ebm.data.columns import ASSET, need, plain
from portfolio_ebm.data.membership import START
from portfolio_ebm.data.reading import read_cells
from portfolio_ebm.errors import DataError


def read_universe(path: str | Path) -> tuple[list[str], pd.DataFrame | None]:
    """The names, each once and in the file's order, and the spells of membership, or None where there are none.

    Args:
        path: a table (CSV or parquet) with a column asset, ticker or symbol, and start and end where it has spells; or
            a text file with one name a line, "#" before a remark.

    Raises:
        DataError: no such file, no such column, or no name in it.

    Example:
        >>> names, spells = read_universe("sp500.csv")
        >>> Panel.from_yahoo(names, "2010-01-01", membership=spells)
    """
    file = Path(path)
    if file.suffix in (".txt", ".lst", ""):
        return _named(_lines(file), file), None
    cells = read_cells(file, "universe")
    column = need(cells, ASSET, file.name, "name of the asset")
    names = _named([str(cell) for cell in cells[column]], file)
    spells = cells if {plain(name) for name in cells.columns} & set(START) else None
    return names, spells


def _lines(file: Path) -> list[str]:
    try:
        return [line.partition("#")[0] for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); give a text file with one ticker a line.") from None


def _named(cells: list[str], file: Path) -> list[str]:
    names = list(dict.fromkeys(cell.strip() for cell in cells if cell.strip()))
    if not names:
        raise DataError(f"{file}: there is no ticker in it; write one a line, or a CSV with a column 'ticker'.")
    return names
