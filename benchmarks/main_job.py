"""Where the main job's time goes, room by room, and whether its rebalances hold what they promise.

    python benchmarks/main_job.py [--start 2021-01-01] [--fresh]

`--fresh` trains every factor energy anew in a temporary store; without it, stored fits are read where they exist.
Shares of wall time are printed, and the total only against the promise of five minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import portfolio_ebm as pe

ROOT = Path(__file__).resolve().parent.parent
PROMISE = 300.0


class Clock:
    """Wall time by room: outer calls do not count what inner ones take."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inner: list[float] = []

    def wrap(self, owner: Any, name: str, room: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._inner.append(0.0)
            try:
                return original(*args, **kwargs)
            finally:
                whole = time.perf_counter() - start
                self.spent[room] += whole - self._inner.pop()
                self.calls[room] += 1
                if self._inner:
                    self._inner[-1] += whole

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    if arguments.fresh:
        os.environ["PORTFOLIO_EBM_HOME"] = tempfile.mkdtemp()

    from portfolio_ebm.backtesting import walk_forward
    from portfolio_ebm.construction import annealed
    from portfolio_ebm.construction.ablation import Polisher
    from portfolio_ebm.market.factor_ebm import FactorEBM, FactorEBMMarket

    clock = Clock()
    clock.wrap(FactorEBM, "fit", "market: energies, loadings, dependence")
    clock.wrap(FactorEBMMarket, "outlook", "market: scenarios and free energies")
    clock.wrap(annealed, "relaxation", "construction: lower bound")
    clock.wrap(Polisher, "polish", "construction: exact polish")
    clock.wrap(annealed.AnnealedLangevin, "build", "construction: chains and swaps")
    clock.wrap(walk_forward, "backtest", "ledger and all else")

    start = time.perf_counter()
    panel = pe.bundled()
    strategy = pe.Strategy.load(ROOT / "strategies" / "factor_ebm.py")
    result = walk_forward.backtest(strategy, panel, start=arguments.start)
    total = time.perf_counter() - start

    table = Table(title=f"the main job: {len(result.decisions)} monthly decisions, share of wall time by room")
    for heading in ("room", "share", "calls"):
        table.add_column(heading, justify="left" if heading == "room" else "right")
    for room, spent in sorted(clock.spent.items(), key=lambda item: -item[1]):
        table.add_row(room, f"{spent / total:.1%}", str(clock.calls[room]))
    console = Console(width=100)
    console.print(table)
    console.print(f"whole job: {total / PROMISE:.2f} of the five minutes promised")
    decisions = result.decisions
    console.print(f"decisions ok: {int(decisions['ok'].sum())} of {len(decisions)}")


if __name__ == "__main__":
    main()
