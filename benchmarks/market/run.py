"""One evaluation: data and test rows in, the frames of all laws out, from the cache where they are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.market.cache import Cache, code
from benchmarks.market.data import Data
from benchmarks.market.margins import Event
from benchmarks.market.models import densities, forecasts
from benchmarks.market.sanity import strange
from benchmarks.market.walk import HISTORICAL, Walk, portfolio_name, sign_portfolios
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.scoring_rules import fz0

Array = NDArray[np.float64]
OURS, DEFAULT = "FactorEBM", "FactorEBM(), the default"
DCC, BEST, FIXED, VINE = "GARCH-t + DCC-t", "EWMA-t, best of a grid", "EWMA(.97)-t", "GARCH-t + vine"
INDEPENDENT = "independent sum of {}"
UNIVARIATE = ("GARCH-t", "GJR-skewt", "EWMA-t", HISTORICAL, "historical, 250 days", "historical, 1000 days")
JOINT = (DEFAULT, DCC, BEST, FIXED, VINE)
OWN = "GARCH-t on each portfolio"
Job = Callable[[Walk], pd.DataFrame | None]
Say = Callable[[str], None]


@dataclass
class Evaluation:
    """Frames of every law on the same test days.

    Attributes:
        data: what was scored.
        walk: test rows, names and portfolios.
        frames: by law; ours, where it was scored, is first.
        events: baseline fits that were mended, or looked strange and were kept.
        skipped: sentences about laws that were not run.
        seconds: by law, as spent in this run.
    """

    data: Data
    walk: Walk
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return self.walk.names

    @property
    def portfolios(self) -> list[str]:
        return [] if self.walk.portfolios is None else [portfolio_name(p) for p in range(len(self.walk.portfolios))]

    @property
    def dates(self) -> pd.DatetimeIndex:
        return self.walk.test_dates

    @property
    def market(self) -> Array:
        """The market's returns on the test days."""
        return self.returns(self.data.market)

    def returns(self, name: str) -> Array:
        """Returns of a series or portfolio on the test days."""
        x = self.walk.x[self.walk.first : self.walk.stop]
        if name in self.names:
            return x[:, self.names.index(name)]
        assert self.walk.portfolios is not None
        return x @ self.walk.portfolios[self.portfolios.index(name)]

    def has(self, law: str, column: str) -> bool:
        return law in self.frames and column in self.frames[law]

    def joint(self, law: str) -> Array:
        """Joint log scores a day; "independent sum of L" adds up the margins of law L."""
        for each in self.frames:
            if law == INDEPENDENT.format(each):
                return self.frames[each][[f"log:{name}" for name in self.names]].to_numpy().sum(axis=1)
        return self.frames[law]["log_score"].to_numpy()

    def single(self, law: str) -> Array:
        """Log scores of the series alone, averaged over the series, a day."""
        return self.frames[law][[f"log:{name}" for name in self.names]].to_numpy().mean(axis=1)

    def tail_loss(self, law: str, names: tuple[str, ...] | list[str]) -> Array:
        """FZ0 losses at 5 % averaged over `names`, a day."""
        frame = self.frames[law]
        parts = [fz0(self.returns(n), frame[f"var5:{n}"].to_numpy(), frame[f"es5:{n}"].to_numpy(), 0.05) for n in names]
        return np.asarray(np.mean(parts, axis=0))

    def hits(self, law: str, name: str, tail: str) -> NDArray[np.bool_]:
        return self.returns(name) <= self.frames[law][f"var{tail}:{name}"].to_numpy()


def evaluate(
    data: Data,
    start: str,
    end: str | None,
    model: MarketModel | None,
    cache: Cache,
    *,
    quick: bool,
    say: Callable[[str], None],
    default: MarketModel | None = None,
) -> Evaluation:
    """All laws on the test days from `start` to `end`; portfolios only where there are factors alone."""
    whole = data.everything
    first = data.row(start)
    stop = len(whole) if end is None else int(whole.index.searchsorted(pd.Timestamp(end), side="right"))
    names = tuple(map(str, whole.columns))
    weights = sign_portfolios(len(names)) if data.stocks is None else None
    walk = Walk(pd.DatetimeIndex(whole.index), names, whole.to_numpy(dtype=float), first, stop, weights)
    found = Evaluation(data, walk)
    if model is not None:
        _add(found, OURS, _ours(model, data), cache, code(model=True) + repr(model), say)
    if default is not None:
        _add(found, DEFAULT, lambda w: densities(default, data.panel(), w.first, w.stop), cache,
             code(model=True) + repr(default), say)  # fmt: skip
    for law, job in jobs(len(names), quick).items():
        _add(found, law, job, cache, code(model=False), say)
        if law in found.frames:
            found.events += strange(law, found.frames[law], walk)
    found.events = sorted(set(found.events), key=lambda e: (e.law, e.series, e.year))
    return found


def jobs(count: int, quick: bool) -> dict[str, Job]:
    """The baselines by name; above ten series the vine is cut at four trees, and portfolios are left out."""
    found: dict[str, Job] = {
        "GARCH-t": lambda w: w.independent("GARCH-t"),
        "GJR-skewt": lambda w: w.independent("GJR-skewt"),
        "EWMA-t": lambda w: w.independent("EWMA-t"),
        HISTORICAL: lambda w: w.independent(HISTORICAL),
        "historical, 250 days": lambda w: w.historical(250),
        "historical, 1000 days": lambda w: w.historical(1000),
        DCC: lambda w: w.dcc(),
        BEST: lambda w: w.ewma(),
        FIXED: lambda w: w.ewma(0.97),
        VINE: lambda w: w.vine(count if count <= 10 else 4),
        OWN: lambda w: w.own_series(),
    }
    if quick:
        del found[VINE], found[OWN]
    if count > 10:
        for law in (HISTORICAL, "historical, 250 days", "historical, 1000 days", OWN):
            found.pop(law, None)
    return found


def _ours(model: MarketModel, data: Data) -> Job:
    """All of a model's forecasts; beside stocks, where the tables show joint scores alone, its density."""
    if data.stocks is not None:
        return lambda w: densities(model, data.panel(), w.first, w.stop)
    return lambda w: forecasts(model, data.panel(), w.first, w.stop, w.portfolios)


def _add(found: Evaluation, law: str, job: Job, cache: Cache, version: str, say: Say) -> None:
    walk, began = found.walk, time.time()
    until = walk.x[: walk.stop]
    days = walk.dates[: walk.stop].to_numpy().astype("datetime64[D]").astype(np.int64).astype(np.float64)
    question = {"law": law, "names": "|".join(walk.names), "first": str(walk.first), "code": version}
    question["portfolios"] = "0" if walk.portfolios is None else str(len(walk.portfolios))

    def compute() -> tuple[pd.DataFrame | None, list[Event]]:
        before = len(walk.events)
        frame = job(walk)
        return frame, walk.events[before:]

    frame, events = cache.frame(question, (until, days), compute)
    if frame is None:
        found.skipped.append(f"{law}: skfolio is not installed; `pip install -e '.[bench]'` brings it.")
        return
    found.frames[law] = frame
    found.events.extend(events)
    found.seconds[law] = time.time() - began
    say(f"  {law:28s} {found.seconds[law]:6.1f} s")
