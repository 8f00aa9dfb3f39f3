"""The decision records as tables for the report: terms, stages, what was re-estimated, one line per date."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.backtesting.result import Result


def term_table(result: Result) -> pd.DataFrame:
    """By term: median share, low and high of its range, and its width as a part of the widest one's.

    A term whose part is near zero decides nothing: every feasible portfolio pays about the same for it.
    """
    table = result.decisions
    rows = []
    for name in _named(table, "term: "):
        found = {"term": name, "share": table[f"term: {name}"].median()}
        for side in ("low", "high"):
            column = f"{side}: {name}"
            found[side] = table[column].median() if column in table else np.nan
        wide = f"low: {name}" in table and f"high: {name}" in table
        found["width"] = (table[f"high: {name}"] - table[f"low: {name}"]).median() if wide else np.nan
        rows.append(found)
    terms = pd.DataFrame(rows, columns=["term", "share", "low", "high", "width"]).set_index("term")
    terms["part"] = terms["width"] / terms["width"].max() if len(terms) else terms["width"]
    return terms


def stage_table(result: Result) -> pd.DataFrame:
    """By stage: mean and worst energy above the final one, in bps, the share of dates on which it was improved, and how
    many dates have it: an exact solve alone has none."""
    table = result.decisions
    rows = []
    for name in _named(table, "stage: "):
        above = ((table[f"stage: {name}"] - table["energy"]) * 1e4).dropna()
        if len(above) and name != "final":
            # Engines agree to about eight digits; a smaller difference is no improvement.
            rows.append((name, above.mean(), above.max(), float((above > 1e-4).mean()), len(above)))
    columns = ["stage", "mean", "worst", "improved", "dates"]
    return pd.DataFrame(rows, columns=columns).set_index("stage")


def exact(result: Result) -> tuple[int, int]:
    """How many decisions took one exact solve and no more (none that was brought to whole lots, none beside chains),
    and how many of these minima are proven."""
    table = result.decisions
    if "search: exact" not in table:
        return 0, 0
    stages = table[[f"stage: {name}" for name in _named(table, "stage: ")]]
    proven = table.loc[stages.isna().all(axis=1), "search: exact"].dropna().eq(1.0)
    return len(proven), int(proven.sum())


def search_table(result: Result) -> pd.DataFrame:
    """By diagnostic of the search: median, least and largest over the dates."""
    table = result.decisions
    names = _named(table, "search: ")
    found = {name: table[f"search: {name}"].agg(["median", "min", "max"]) for name in names}
    return pd.DataFrame(found).T


def refits(result: Result) -> list[tuple[str, int, int]]:
    """What was estimated anew: (what, on how many decisions, of how many)."""
    if "refitted" not in result.decisions:
        return []
    counts: Counter[str] = Counter()
    good = result.decisions["refitted"].dropna()
    for text in good:
        counts.update(item for item in str(text).split(", ") if item)
    return [(name, count, len(good)) for name, count in counts.most_common()]


def lines(result: Result) -> list[dict[str, Any]]:
    """One line per decision, with what there is of it; a failed one has its sentence and holdings stayed."""
    found = []
    for date, row in result.decisions.iterrows():
        good = bool(row["ok"])
        executed = row["executed"]
        found.append({
            "date": f"{date:%Y-%m-%d}",
            "executed": "–" if pd.isna(executed) else f"{executed:%Y-%m-%d}",
            "ok": good,
            "status": str(row["status"]),
            "names": "–" if not good else f"{int(row['names'])}",
            "energy": _bps(row.get("energy")),
            "gap": "proven" if good and row["proven"] else _bps(row.get("gap")),
            "turnover": f"{row['turnover']:.1%}",
            "unfilled": "" if row["unfilled"] < 5e-5 else f"{row['unfilled']:.2%}",
            "why": str(row.get("reason", "")),
            "breached": "" if pd.isna(row.get("breached")) else str(row["breached"]),
        })  # fmt: skip
    return found


def _named(table: pd.DataFrame, prefix: str) -> list[str]:
    return [str(name).removeprefix(prefix) for name in table.columns if str(name).startswith(prefix)]


def _bps(value: Any) -> str:
    return "–" if value is None or pd.isna(value) else f"{float(value) * 1e4:.3f}"
