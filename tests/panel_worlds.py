"""A small panel with everything in it that a panel may hold, and ways to change what comes after a date."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.data.past import Past

NAMES = [f"S{i}" for i in range(6)]


def world(periods: int = 320, seed: int = 3) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Prices as traded of six names (one late, one that ends, one with gaps) and all the extras of a panel."""
    rng = np.random.default_rng(seed)
    days = pd.bdate_range("2018-01-02", periods=periods)
    values = 50.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.015, (periods, 6)), axis=0))
    values[: periods // 4, 1] = np.nan
    values[periods - periods // 5 :, 2] = np.nan
    values[[10, 11, periods // 2], 3] = np.nan
    splits = pd.DataFrame(np.nan, days, NAMES)
    splits.iloc[periods // 3, 0], splits.iloc[periods // 2, 3], splits.iloc[-periods // 16, 4] = 2.0, 3.0, 0.1
    values /= splits.fillna(1.0).cumprod().to_numpy()
    prices = pd.DataFrame(values, days, NAMES)
    dividends = pd.DataFrame(np.where(rng.random((periods, 6)) < 0.02, 0.01, np.nan), days, NAMES)

    def table(columns: list[str], scale: float) -> pd.DataFrame:
        return pd.DataFrame(scale * rng.standard_normal((periods, len(columns))), index=days, columns=columns)

    weights = pd.DataFrame(rng.dirichlet(np.ones(6), periods // 20), days[::20][: periods // 20], NAMES)
    day = [f"{item:%Y-%m-%d}" for item in days]

    def at(row: int) -> str:  # a row of 320, whatever the length
        return day[row * periods // 320]

    extras: dict[str, Any] = {
        "factors": table(["market", "style"], 0.01),
        "factors_are": "returns",
        "groups": {"sector": dict.fromkeys(NAMES, "x"), "issuer": {name: name[0] for name in NAMES}},
        "benchmark": table(["index"], 0.01)["index"],
        "benchmark_are": "returns",
        "benchmark_weights": {"index": weights, "other": weights.iloc[3:] * 0.5},
        "cash_rate": pd.Series(2.0 + rng.random(periods), index=days),
        "cash_are": "annual_percent",
        "volume": table(NAMES, 1.0).abs() * 1e6,
        "dividends": dividends,
        "splits": splits,
        "forecasts": {"alpha": table(NAMES, 0.02)},
        "signals": table(["vix"], 1.0).abs(),
        "delistings": pd.DataFrame({"asset": ["S2"], "date": [at(310)], "return": [-0.4]}),
        "membership": pd.DataFrame(
            {
                "asset": ["S0", "S0", "S1", "S2", "S3", "S4", "S5"],
                "start": [day[0], at(200), at(90), day[0], day[0], at(150), at(250)],
                "end": [at(120), "", "", at(290), at(260), "", ""],
            }
        ),
    }
    return prices, extras


def content(past: Past) -> dict[str, Any]:
    """All fields of a past, mappings opened."""
    out: dict[str, Any] = {}
    for item in dataclasses.fields(past):
        value = getattr(past, item.name)
        if isinstance(value, dict):
            out |= {f"{item.name}.{name}": entry for name, entry in value.items()}
        else:
            out[item.name] = value
    return out


def assert_identical(a: Past, b: Past) -> None:
    """The same fields, and the same bits in every array."""
    first, second = content(a), content(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == second[name].dtype, name
            assert value.tobytes() == np.ascontiguousarray(second[name]).tobytes(), name
        else:
            assert value == second[name], name


def until(item: Any, day: pd.Timestamp) -> Any:
    """What was known of an extra at the close of `day`: later rows, and ends and delistings of later days, are not."""
    if isinstance(item, dict):
        return {name: until(entry, day) for name, entry in item.items()}
    if isinstance(item, pd.Series) and isinstance(item.index, pd.DatetimeIndex):
        return item.loc[:day]
    if not isinstance(item, pd.DataFrame):
        return item
    if "start" in item:
        known = item[item["start"] <= f"{day:%Y-%m-%d}"]
        return known.assign(end=known["end"].where(known["end"] <= f"{day:%Y-%m-%d}", ""))
    if "return" in item:
        return item[item["date"] <= f"{day:%Y-%m-%d}"]
    return item.loc[:day]
