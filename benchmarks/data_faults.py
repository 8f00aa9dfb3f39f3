"""How many planted faults the data doctor finds, and how often it cries wolf, on 20 years of US stocks.

    python benchmarks/data_faults.py [--data FOLDER] [--develop] [--faults 50]

FOLDER holds stocks/us_stocks_ret_2000_2020.parquet (daily total returns); without --data it is the environment's
PORTFOLIO_EBM_DATA, or ../shared/data. Returns are cumulated to prices and rounded to cents, so that ticks repeat
honestly. A file is 100 names over 5 years, 10 of them with one fault of one kind; sizes run from moderate to blatant.
A fault is found if a finding of its kind, at least 50 % sure, names its column and touches its dates (2 days of
grace). Thresholds were developed with --develop (every second name, other seeds); the table is of the other names.

Beside it a plain rule: a return beyond 6 standard deviations of the 252 before it, counted as found if it flags within
2 days of a fault's first or last day.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.data.doctor import Finding, Report, examine

Rng = np.random.Generator
Plant = tuple[str, int, int]  # column, first row, last row
ROWS, NAMES, EACH = 1260, 100, 10
GRACE = np.timedelta64(2, "D")
SURE = 0.5


@dataclass
class File:
    """One file with planted faults, and what goes with it."""

    frame: pd.DataFrame
    plants: list[Plant]
    what: str = "prices"
    extra: dict[str, Any] = field(default_factory=dict)
    partners: dict[str, str] = field(default_factory=dict)


@dataclass
class Tally:
    """What came of all files of one kind."""

    faults: int = 0
    found: int = 0
    plain: int = 0
    clean: int = 0
    alarms: int = 0
    others: int = 0
    flags: int = 0


def prices_of(returns: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """Prices in cents with a median near 40 dollars."""
    path = np.log1p(returns.fillna(0.0)).cumsum()
    level = np.exp(rng.normal(np.log(40.0), 0.6, returns.shape[1]))
    prices = np.exp(path - path.median()) * level
    return prices.where(returns.notna()).round(2)


def once(returns: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The names without those that repeat an earlier one (two tickers of one security), and which those are."""
    corr = returns.corr(min_periods=250).fillna(0.0).to_numpy()
    again = np.triu(corr > 0.98, 1).any(axis=0)
    return returns.loc[:, ~again], [str(name) for name in returns.columns[again]]


def sample(returns: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """Prices of 100 names over 5 years, without holes."""
    start = int(rng.integers(0, len(returns) - ROWS))
    block = returns.iloc[start : start + ROWS]
    whole = block.columns[block.notna().all()]
    picked = rng.choice(len(whole), min(NAMES, len(whole)), replace=False)
    return prices_of(block[whole[np.sort(picked)]], rng)


def chosen(frame: pd.DataFrame, rng: Rng, count: int = EACH) -> list[str]:
    return [str(frame.columns[i]) for i in rng.choice(frame.shape[1], count, replace=False)]


# One function a kind: a clean frame and a generator to a file with faults.


def on_prices(plant: Callable[[np.ndarray, Rng], tuple[int, int]]) -> Callable[[pd.DataFrame, Rng], File]:
    """A planter of one column's prices, in place, as a planter of a file."""

    def build(frame: pd.DataFrame, rng: Rng) -> File:
        out, plants = frame.copy(), []
        for name in chosen(frame, rng):
            values = out[name].to_numpy(copy=True)
            first, last = plant(values, rng)
            out[name] = values.round(2)
            plants.append((name, first, last))
        return File(out, plants)

    return build


def some_row(rng: Rng, margin: int = 70) -> int:
    return int(rng.integers(margin, ROWS - margin))


def stale(values: np.ndarray, rng: Rng) -> tuple[int, int]:
    row, length = some_row(rng), int(rng.choice([3, 4, 5, 6, 8, 10, 15, 20]))
    values[row : row + length] = values[row - 1]
    return row, row + length - 1


def delisted(values: np.ndarray, rng: Rng) -> tuple[int, int]:
    row = ROWS - int(rng.integers(5, 120))
    values[row:] = values[row - 1]
    return row, ROWS - 1


def spike_of(low: float, high: float) -> Callable[[np.ndarray, Rng], tuple[int, int]]:
    """A spike of so many standard deviations of the 60 returns on each side."""

    def plant(values: np.ndarray, rng: Rng) -> tuple[int, int]:
        row, length = some_row(rng), int(rng.choice([1, 1, 1, 2, 3]))
        deviation = float(np.diff(np.log(values[row - 60 : row + 60])).std())
        size = float(np.exp(rng.uniform(np.log(low), np.log(high)))) * deviation
        values[row : row + length] *= np.exp(size if rng.random() < 0.5 else -size)
        return row, row + length - 1

    return plant


def slip(values: np.ndarray, rng: Rng) -> tuple[int, int]:
    row, length = some_row(rng), int(rng.choice([1, 1, 1, 2, 3]))
    values[row : row + length] *= float(rng.choice([10.0, 100.0, 0.1]))
    return row, row + length - 1


def split_by(ratios: list[float]) -> Callable[[np.ndarray, Rng], tuple[int, int]]:
    def plant(values: np.ndarray, rng: Rng) -> tuple[int, int]:
        row = some_row(rng)
        values[:row] /= float(rng.choice(ratios))
        return row, row

    return plant


def cents(values: np.ndarray, rng: Rng) -> tuple[int, int]:
    row = some_row(rng)
    length = int(rng.choice([8, 20, 60, 250, ROWS]))
    last = min(row + length, ROWS) - 1
    values[row : last + 1] *= 100.0
    return row, last


def gap(values: np.ndarray, rng: Rng) -> tuple[int, int]:
    row, length = some_row(rng), int(rng.choice([1, 2, 3, 5, 10, 30]))
    values[row : row + length] = np.nan
    return row, row + length - 1


def impossible(values: np.ndarray, rng: Rng) -> tuple[int, int]:
    row = some_row(rng)
    values[row] = rng.choice([0.0, -1.0, np.inf]) * (1.0 if rng.random() < 0.5 else values[row])
    values[row] = 0.0 if np.isnan(values[row]) else values[row]
    return row, row


def percent(frame: pd.DataFrame, rng: Rng) -> File:
    out, plants = frame.pct_change(fill_method=None).iloc[1:], []
    for name in chosen(frame, rng):
        length = int(rng.choice([3, 5, 10, 40, 250, ROWS]))
        row = 0 if length == ROWS else some_row(rng)
        last = min(row + length, len(out)) - 1
        out.iloc[row : last + 1, out.columns.get_loc(name)] *= 100.0
        plants.append((name, row, last))
    return File(out, plants, "returns")


def duplicate(frame: pd.DataFrame, rng: Rng) -> File:
    """All or the last 60 to 600 returns of a column are another column's, at another level."""
    return _copied(frame, rng, lambda: 0)


def copied_late(frame: pd.DataFrame, rng: Rng) -> File:
    """As `duplicate`, 1 to 3 rows late."""
    return _copied(frame, rng, lambda: int(rng.choice([1, 1, 2, 3])))


def _copied(frame: pd.DataFrame, rng: Rng, lag: Callable[[], int]) -> File:
    out, plants, partners = frame.copy(), [], {}
    names = chosen(frame, rng, 2 * EACH)
    for copy, origin in zip(names[:EACH], names[EACH:], strict=True):
        values, other, late = out[copy].to_numpy(copy=True), frame[origin].to_numpy(), lag()
        row = 0 if rng.random() < 0.5 else ROWS - int(rng.choice([60, 150, 600]))
        moved = np.roll(other, late)
        moved[:late] = other[0]
        start = max(row, late)
        values[start:] = moved[start:] * values[start] / moved[start]
        out[copy] = values.round(2)
        plants.append((copy, row, ROWS - 1))
        partners[copy] = origin
    return File(out, plants, partners=partners)


def own_dates(frame: pd.DataFrame, rng: Rng) -> File:
    """A column a row (or two) off, for all rows or from some row on."""
    out, plants = frame.copy(), []
    for name in chosen(frame, rng, 5):
        values, late = frame[name].to_numpy(copy=True), int(rng.choice([-2, -1, -1, 1, 1, 2]))
        row = 0 if rng.random() < 0.5 else ROWS - int(rng.choice([250, 500]))
        moved = np.roll(frame[name].to_numpy(), late)
        inside = slice(max(row, late), ROWS + min(late, 0))
        values[inside] = moved[inside]
        out[name] = values
        plants.append((name, row, ROWS - 1))
    return File(out, plants)


def dividends_of(frame: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """Quarterly dividends of about half a percent, days of the quarter a little ragged."""
    paid = pd.DataFrame(0.0, index=frame.index, columns=frame.columns)
    for name in frame.columns:
        rows = np.arange(int(rng.integers(0, 63)), ROWS, 63) + rng.integers(-4, 5, len(np.arange(0, ROWS, 63)) + 1)[0]
        rows = np.unique(np.clip(rows + rng.integers(-3, 4, len(rows)), 0, ROWS - 1))
        paid.loc[paid.index[rows], name] = (frame[name].iloc[rows] * rng.uniform(0.002, 0.008)).round(2)
    return paid


def hole(frame: pd.DataFrame, rng: Rng) -> File:
    paid, plants = dividends_of(frame, rng), []
    for name in chosen(frame, rng):
        rows = np.flatnonzero(paid[name] > 0)
        row = int(rng.choice(rows[2:-2]))
        paid.loc[paid.index[row], name] = 0.0
        plants.append((name, row - 20, row + 20))
    return File(frame, plants, extra={"dividends": paid})


def unadjusted(frame: pd.DataFrame, rng: Rng) -> File:
    paid, plants = dividends_of(frame, rng), []
    known = paid.copy()
    for name in chosen(frame, rng):
        row = int(rng.choice(np.flatnonzero(paid[name] > 0)[1:]))
        known.loc[known.index[row], name] = 0.0
        plants.append((name, row, row))
    step = ((frame + known) / frame.shift(1)).fillna(1.0).cumprod()
    adjusted = (step / step.iloc[-1] * frame.iloc[-1]).round(4)
    return File(frame, plants, extra={"dividends": paid, "adjusted": adjusted})


KINDS: dict[str, tuple[str, Callable[[pd.DataFrame, Rng], File]]] = {
    "stale run, 3 to 20 days": ("stale", on_prices(stale)),
    "delisted, still quoted": ("stale", on_prices(delisted)),
    "spike of 8 to 40 deviations": ("spike", on_prices(spike_of(8.0, 40.0))),
    "spike of 4 to 8 deviations": ("spike", on_prices(spike_of(4.0, 8.0))),
    "decimal slip": ("spike", on_prices(slip)),
    "split 2:1 to 20:1, 1:10": (
        "split",
        on_prices(split_by([1 / 2, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 10, 1 / 20, 10.0])),
    ),
    "split 3:2": ("split", on_prices(split_by([2 / 3]))),
    "cents for a while": ("units", on_prices(cents)),
    "percent for a while": ("units", percent),
    "duplicated": ("duplicate", duplicate),
    "duplicated, days late": ("shift", copied_late),
    "own dates off": ("shift", own_dates),
    "gap of 1 to 30 days": ("gap", on_prices(gap)),
    "zero, negative, infinite": ("impossible", on_prices(impossible)),
    "dividend lacking": ("dividend", hole),
    "dividend not adjusted": ("dividend", unadjusted),
}


def touches(item: Finding, first: np.datetime64, last: np.datetime64) -> bool:
    if not item.first:
        return True
    return bool(np.datetime64(item.first) <= last + GRACE and np.datetime64(item.last) >= first - GRACE)


def judge(file: File, kind: str, tally: Tally, calibration: list[tuple[float, bool, str]]) -> None:
    """Examine one file and count."""
    report = examine(file.frame, what=file.what, **file.extra)
    days = file.frame.index.to_numpy().astype("datetime64[D]")
    spans = {name: (days[max(first, 0)], days[min(last, len(days) - 1)]) for name, first, last in file.plants}
    with_partner = {**spans, **{origin: spans[copy] for copy, origin in file.partners.items()}}
    hit: set[str] = set()
    for item in report.findings:
        if not item.asset or item.kind == "large move":
            continue
        right = item.kind == kind and item.asset in with_partner and touches(item, *with_partner[item.asset])
        calibration.append((item.sure, right, item.kind))
        if right and item.sure >= SURE:
            origin = {value: key for key, value in file.partners.items()}
            hit.add(origin.get(item.asset, item.asset))
        elif item.sure >= SURE and item.asset not in with_partner:
            tally.alarms += item.kind == kind
            tally.others += item.kind != kind
    tally.faults += len(spans)
    tally.found += len(hit)
    tally.clean += file.frame.shape[1] - len(with_partner)
    flags = plain_rule(file.frame, file.what)
    for name, (first, last) in spans.items():
        near = np.abs(days - first) <= GRACE
        near |= (days >= last - GRACE) & (days <= last + GRACE * 2)
        tally.plain += bool(flags[name].to_numpy()[near].any())
    tally.flags += int(flags[[name for name in file.frame.columns if name not in with_partner]].to_numpy().sum())


def plain_rule(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    """|return - mean| > 6 standard deviations, of the 252 returns before."""
    with np.errstate(all="ignore"):
        moves = frame if what == "returns" else frame.pct_change(fill_method=None)
        moves = moves.replace([np.inf, -np.inf], np.nan)
        past = moves.shift(1).rolling(252, min_periods=60)
        return ((moves - past.mean()).abs() > 6.0 * past.std()).fillna(False)


# Kinds of a whole file: one fault a file, told with asset "".


def file_kinds(frame: pd.DataFrame, rng: Rng) -> dict[str, tuple[str, Callable[[], Report], Callable[[], Report]]]:
    """name: (kind, report on a faulty file, report on a clean one)."""
    days, small = frame.index, frame.iloc[:, :20]
    row = some_row(rng)

    def dated(index: Any) -> pd.DataFrame:
        return small.set_axis(pd.Index(index), axis=0)

    swapped = [d if d.day > 12 else d.replace(month=d.day, day=d.month) for d in pd.DatetimeIndex(days)]
    odd_dates: tuple[Callable[[], pd.DataFrame], ...] = (
        lambda: dated(pd.DatetimeIndex(days).tz_localize("America/New_York")),
        lambda: dated(pd.DatetimeIndex(days).tz_localize("Europe/Berlin").tz_convert("UTC").tz_localize(None)),
        lambda: dated(pd.DatetimeIndex(days).as_unit("s").asi8),
        lambda: dated(pd.to_datetime(pd.DatetimeIndex(days).as_unit("s").asi8)),
        lambda: dated(days.strftime("%d/%m/%Y")),
        lambda: dated(swapped),
        lambda: pd.concat([small.iloc[:row], small.iloc[row - 3 :]]),
        lambda: pd.concat([small.iloc[row:], small.iloc[:row]]),
        lambda: dated(pd.DatetimeIndex(days) - pd.Timedelta(days=1)),
        lambda: dated([*days[:-1], days[-1] + pd.DateOffset(years=30)]),
    )
    odd = odd_dates[int(rng.integers(len(odd_dates)))]
    momentum = np.log(frame).diff(21).rank(axis=1)
    moves = frame.pct_change(fill_method=None)
    noise = pd.DataFrame(rng.standard_normal(frame.shape), index=frame.index, columns=frame.columns)
    share = float(rng.uniform(0.12, 0.5))
    ranked = moves.rank(axis=1).sub(moves.rank(axis=1).mean(axis=1), axis=0) / (frame.shape[1] / 12**0.5)
    slow = momentum.sub(momentum.mean(axis=1), axis=0) / (frame.shape[1] / 12**0.5)
    honest = (noise + slow, noise - ranked, noise)[int(rng.integers(3))]
    sessions = pd.DatetimeIndex(days)
    leaves = small.copy()
    for name in leaves.columns:
        gone = int(rng.exponential(252 / 0.08))
        if gone < ROWS - 15:
            leaves.loc[leaves.index[max(gone, 60) :], name] = np.nan
    joins = pd.concat([frame.iloc[:, 20:], leaves], axis=1)
    for name in joins.columns[20:]:
        gone = int(rng.exponential(252 / 0.05))
        if gone < ROWS - 15:
            joins.loc[joins.index[max(gone, 60) :], name] = np.nan
    return {
        "dates of ten kinds": ("date", lambda: examine(odd()), lambda: examine(small)),
        "a week lacks": ("gap", lambda: examine(small.drop(days[row : row + 5])), lambda: examine(small)),
        "a session lacks, calendar": (
            "gap",
            lambda: examine(small.drop(days[row]), calendar=sessions),
            lambda: examine(small, calendar=sessions),
        ),
        "nobody leaves": ("survivorship", lambda: examine(frame), lambda: examine(joins)),
        "forecast of the next day": (
            "look-ahead",
            lambda: examine(frame, forecasts=noise + share * ranked.shift(-1)),
            lambda: examine(frame, forecasts=honest),
        ),
        "forecast of the same day": (
            "look-ahead",
            lambda: examine(frame, forecasts=noise + share * ranked),
            lambda: examine(frame, forecasts=honest),
        ),
    }


def whole_files(returns: pd.DataFrame, seed: int, count: int) -> dict[str, list[int]]:
    """name: [faults, found, clean files, false alarms]."""
    tally: dict[str, list[int]] = {}
    for trial in range(count):
        rng = np.random.default_rng([seed, 1000, trial])
        for name, (kind, faulty, clean) in file_kinds(sample(returns, rng), rng).items():
            count_of = tally.setdefault(name, [0, 0, 0, 0])
            hits = [
                report.where(lambda f, k=kind: f.kind == k and not f.asset and f.sure >= SURE)
                for report in (faulty(), clean())
            ]
            if kind == "survivorship":
                hits[1] = tuple(item for item in hits[1] if "begin together" not in item.what)
            count_of[0] += 1
            count_of[1] += bool(hits[0])
            count_of[2] += 1
            count_of[3] += bool(hits[1])
    return tally


def calibrated(items: list[tuple[float, bool, str]]) -> None:
    print("\nStated sureness against the share that was planted (a tenth of the names of each file had a fault):")
    edges = (0.05, 0.2, 0.5, 0.8, 0.95, 1.01)
    print(f"{'stated':>14s} {'findings':>9s} {'right':>7s}")
    for low, high in pairwise(edges):
        here = [right for sure, right, _ in items if low <= sure < high]
        if here:
            print(f"{f'{low:.0%} to {min(high, 1):.0%}':>14s} {len(here):9d} {np.mean(here):7.0%}")


def clean_run(returns: pd.DataFrame, seed: int) -> None:
    frame = prices_of(returns, np.random.default_rng([seed, 77]))
    began = time.time()
    report = examine(frame)
    years = float(frame.notna().sum().sum()) / 252
    size = f"{frame.shape[1]} names, {len(frame)} dates, {years:.0f} name-years"
    print(f"\nUntouched: {size}, in {time.time() - began:.1f} s.")
    table = report.frame()
    table = table[table.sure >= SURE]
    print("Findings at least 50 % sure: " + ", ".join(f"{k} {n}" for k, n in table.kind.value_counts().items()))
    for item in report.where(lambda f: f.sure >= SURE)[:40]:
        print("  " + f"{item.kind:12s} " + item.line()[:150])
    report = examine(returns, what="returns")
    seen = report.where(lambda f: f.sure >= SURE and f.kind not in ("duplicate", "survivorship"))
    print("The same as returns, duplicates left out:")
    for item in seen[:20]:
        print("  " + f"{item.kind:12s} " + item.line()[:150])


def data_folder(given: str | None) -> Path:
    there = [os.environ.get("PORTFOLIO_EBM_DATA"), str(Path(__file__).resolve().parents[2] / "shared" / "data")]
    places = [given] if given else there  # a folder that was named is never replaced by another
    for place in places:
        if place and (file := Path(place) / "stocks" / "us_stocks_ret_2000_2020.parquet").exists():
            return file
    sys.exit("No stocks/us_stocks_ret_2000_2020.parquet (dates x names, daily returns): give its folder with --data.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--develop", action="store_true", help="the names and seeds that thresholds were chosen on")
    parser.add_argument("--faults", type=int, default=50)
    given = parser.parse_args()
    returns = pd.read_parquet(data_folder(given.data)).astype(np.float64)
    returns = returns.iloc[:, (0 if given.develop else 1) :: 2]
    seed = 1 if given.develop else 2
    began = time.time()
    items: list[tuple[float, bool, str]] = []
    untouched = returns
    returns, again = once(returns)
    names = "the names developed on" if given.develop else "names and seeds kept apart from development"
    print(f"Planted faults, {names}; files of {NAMES} names over 5 years; found: at least {SURE:.0%} sure.")
    print(f"Kept out, as the data hold them twice under two tickers: {', '.join(again) or 'none'}.\n")
    print(f"{'':28s} {'':6s} {'':>7s} {'false alarms a 100 clean series':>33s} | {'plain 6-sigma rule':>22s}")
    head = f"{'fault':28s} {'faults':>6s} {'recall':>7s} {'of this kind':>17s} {'other':>15s}"
    print(f"{head} | {'recall':>8s} {'flags/100':>13s}")
    for number, (name, (kind, plant)) in enumerate(KINDS.items()):
        tally, trial = Tally(), 0
        while tally.faults < given.faults:
            rng = np.random.default_rng([seed, number, trial])
            judge(plant(sample(returns, rng), rng), kind, tally, items)
            trial += 1
        per = 100.0 / tally.clean
        print(
            f"{name:28s} {tally.faults:6d} {tally.found / tally.faults:7.2f} {tally.alarms * per:17.1f} "
            f"{tally.others * per:15.1f} | {tally.plain / tally.faults:8.2f} {tally.flags * per:13.0f}",
            flush=True,
        )
    print(f"\n{'whole files':28s} {'faults':>6s} {'recall':>7s} {'clean files':>17s} {'false alarms':>15s}")
    for name, (faults, found, clean, alarms) in whole_files(returns, seed, given.faults).items():
        print(f"{name:28s} {faults:6d} {found / faults:7.2f} {clean:17d} {alarms:15d}")
    calibrated(items)
    clean_run(untouched, seed)
    print(f"\n{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
