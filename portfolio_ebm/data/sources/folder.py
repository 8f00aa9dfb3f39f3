"""A folder of files with well-known names: which file holds what.

prices.*  returns.*  volume.*  dividends.*  splits.*  factors.*  groups.*  membership.*  delistings.*  benchmark.*
benchmark_weights.*  benchmark_weights-NAME.*  cash.*  forecast-NAME.*  signals.*
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from portfolio_ebm.data.reading import ENDINGS
from portfolio_ebm.errors import DataError

SINGLE = (
    "prices", "returns", "volume", "dividends", "splits", "factors", "groups", "membership", "delistings", "benchmark",
    "benchmark_weights", "cash", "signals",
)  # fmt: skip
"""Names of files, without their endings."""

NAMED = {"benchmark_weights": "benchmark_weights", "forecast": "forecasts"}
"""Beginnings of the names of files that carry a name of their own, and what they are."""


def scan(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Paths by what they hold; forecasts and named benchmark weights by their names. Other files are told in `notes`.

    Raises:
        DataError: two files for the same thing, or neither prices nor returns.
    """
    found: dict[str, Any] = {}
    other: list[str] = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        ending = next((item for item in sorted(ENDINGS, key=len, reverse=True) if file.name.endswith(item)), None)
        stem = file.name.removesuffix(ending) if ending is not None and file.is_file() else ""
        kind, _, name = stem.partition("-")
        if stem in SINGLE:
            # The plain file is the benchmark that is called so, beside named ones.
            _put(found, stem, file)
        elif kind in NAMED and name:
            _put(found.setdefault(f"{NAMED[kind]} by name", {}), name, file)
        else:
            other.append(file.name)
    if "prices" not in found and "returns" not in found:
        raise DataError(
            f"{folder}: neither prices nor returns are in it (prices.csv, prices.parquet, ...); there is "
            f"{', '.join(other[:6]) or 'nothing of a known name'}."
        )
    if other:
        notes.append(f"{folder.name}: {len(other)} file(s) of no known name were not read ({', '.join(other[:5])}).")
    weights = found.pop("benchmark_weights by name", {})
    if weights and "benchmark_weights" in found:
        _put(weights, "benchmark", found["benchmark_weights"])
    if weights:
        found["benchmark_weights"] = weights
    if forecasts := found.pop("forecasts by name", None):
        found["forecasts"] = forecasts
    return found


def _put(found: dict[str, Any], name: str, file: Path) -> None:
    if name in found:
        raise DataError(f"{file.parent}: {found[name].name} and {file.name} hold the same; keep one of them.")
    found[name] = file
