"""The evidence that factor energy models are good densities, made anew on any daily factor returns.

    python -m benchmarks.market                                        # the default data, writes docs/EVIDENCE.md
    python -m benchmarks.market --factors F.csv --test-from 2015-01-01 # your factors, decimal returns, one column each
    python -m benchmarks.market --quick                                # two test years, printed only
    python -m benchmarks.market --development                          # ours on 1980-1999, before anything is frozen

Frames are cached under the user's cache folder by data, configuration and code; --fresh makes all of them anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from benchmarks.market import frozen, warning
from benchmarks.market.cache import Cache, installed
from benchmarks.market.data import Absent, Data, french, read_factors, with_stocks
from benchmarks.market.effect import effect
from benchmarks.market.evidence import document
from benchmarks.market.run import OURS, Evaluation, evaluate
from benchmarks.market.ticks import bad_ticks, cost
from benchmarks.market_time import spent
from portfolio_ebm.errors import DataError
from portfolio_ebm.market.factor_ebm import FactorEBM

EVIDENCE = Path(__file__).resolve().parents[2] / "docs" / "EVIDENCE.md"
TEST_FROM, STOCKS_FROM = "2000-01-01", "2008-01-01"
NOT_FROZEN = "No configuration is frozen yet (benchmarks/market/frozen.py), so nothing of ours is scored after 1999."


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 with a sentence."""
    given = _parse(arguments)
    torch.set_num_threads(1)
    try:
        if installed("arch") == "absent":
            raise DataError("The baselines need `arch`: pip install -e '.[bench]'.")
        return _run(given)
    except (DataError, Absent) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    began = time.time()
    data, start, end = _data(given)
    skipped: list[str] = []
    cache = Cache.default(given.fresh)
    six_model, stocks_model = _models(given, data, end, skipped)
    if given.quick and end is None:
        end = str((pd.Timestamp(start) + pd.DateOffset(years=2) - pd.DateOffset(days=1)).date())
    _say(f"{data.source}, from {start}")
    default = None if six_model is None else frozen.DEFAULT
    six = evaluate(data, start, end, six_model, cache, quick=given.quick, say=_say, default=default)
    stress = _stress(six)
    stocks, table, ticks, windows = None, None, None, None
    price = None if six_model is None else cost(six_model, data, six.walk.first)
    if given.factors is None and not (given.quick or given.development):
        both = with_stocks(data)
        _say(f"{both.source}, from {given.stocks_from}")
        stocks = evaluate(both, given.stocks_from, None, stocks_model, cache, quick=False, say=_say)
        if given.brief:
            skipped.append("Portfolios and bad ticks: left out by --brief.")
        else:
            if stocks_model is not None:
                _say("judging bad ticks")
                ticks = bad_ticks(stocks_model, both, stocks.walk.first, stocks.walk.stop)
            _say("walking portfolios forward")
            table = effect(stocks_model, both.panel(), given.stocks_from, None)
            _say("fitting 20 years of monthly windows")
            windows = spent(years=20, history=10).total
    command = "python -m benchmarks.market " + " ".join(arguments_of(given))
    text = document(six, stocks, stress, table, command.strip(), time.time() - began, skipped, ticks, price, windows)
    print(text)
    target = given.out or (EVIDENCE if _full(given) else None)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        _say(f"written: {target}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.market", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--factors", type=Path, help="CSV of daily factor returns, decimal; by default ../shared's")
    parser.add_argument("--test-from", help=f"first test day; {TEST_FROM} for the default data")
    parser.add_argument("--stocks-from", default=STOCKS_FROM, help="first test day of factors and stocks together")
    parser.add_argument("--out", type=Path, help="where the document goes; docs/EVIDENCE.md for a full default run")
    parser.add_argument("--quick", action="store_true", help="two test years, fewer baselines, no stocks")
    parser.add_argument(
        "--brief", action="store_true", help="no walk of portfolios and no bad ticks, the slowest parts"
    )
    parser.add_argument("--development", action="store_true", help="1980 to 1999 only, data cut there")
    parser.add_argument("--fresh", action="store_true", help="make every frame anew")
    given = parser.parse_args(arguments)
    if given.factors is not None and given.test_from is None:
        parser.error("--factors needs --test-from DATE: the first day that is scored, with four years before it.")
    return given


def arguments_of(given: argparse.Namespace) -> list[str]:
    """What was asked for, to be asked again; of files the names alone."""
    found = []
    if given.factors is not None:
        found.append(f"--factors {given.factors.name}")
    if given.test_from is not None:
        found.append(f"--test-from {given.test_from}")
    if given.stocks_from != STOCKS_FROM:
        found.append(f"--stocks-from {given.stocks_from}")
    return found + [f"--{flag}" for flag in ("quick", "brief", "development") if getattr(given, flag)]


def _data(given: argparse.Namespace) -> tuple[Data, str, str | None]:
    data = french() if given.factors is None else read_factors(given.factors)
    if not given.development:
        return data, given.test_from or TEST_FROM, None
    start = given.test_from or frozen.DEVELOPMENT_START
    return data.until(frozen.DEVELOPMENT_END), start, None


def _models(
    given: argparse.Namespace, data: Data, end: str | None, skipped: list[str]
) -> tuple[FactorEBM | None, FactorEBM | None]:
    """Ours, or nothing while it is not frozen and the data run past the development years."""
    last = data.factors.index[-1]
    if frozen.FROZEN_ON is None and last > pd.Timestamp(frozen.DEVELOPMENT_END):
        _say(NOT_FROZEN)
        skipped.append(NOT_FROZEN)
        return None, None
    return frozen.SIX, frozen.STOCKS


def _stress(ev: Evaluation) -> pd.DataFrame:
    wanted = (OURS, "GJR-skewt", "GARCH-t", "EWMA-t")
    frames = {law: ev.frames[law] for law in wanted if law in ev.frames}
    scores = warning.scorers(frames, ev.data, ev.walk.x, ev.walk.years)
    skipped = [name for name, s in scores.items() if pd.isna(s).mean() > 0.05]
    for name in skipped:
        ev.skipped.append(f"{name}: known on fewer than 95 % of the test days")
        del scores[name]
    return warning.precision_table(ev.market, scores, next(iter(scores)))


def _full(given: argparse.Namespace) -> bool:
    return given.factors is None and not given.quick and not given.development and given.test_from is None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
