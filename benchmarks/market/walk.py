"""The walk of the baselines: parameters of year y from rows before it, forecasts for its days, one frame a baseline.

A frame has one row a test day and the columns

    log_score                   joint log density of the day's decimal returns, nats
    log:NAME, pit:NAME          of each series alone
    var1:NAME es1:NAME var5:NAME es5:NAME          tails as decimal returns, of each series and each portfolio

with NaN where a law has none (historical simulation has no density).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.market import margins as m
from benchmarks.market.dependence import DCC, DECAYS, SHRINKS, EwmaT, squares, t_copula, t_log_pdf, t_scores, vine
from benchmarks.market.laws import Student, tail_mean
from benchmarks.market.simulate import tails_of_copula, tails_of_uniforms

Array = NDArray[np.float64]
LEVELS = {"1": 0.01, "5": 0.05}

FITS: dict[str, m.Fit] = {
    "GARCH-t": m.garch_t,
    "GJR-skewt": m.gjr_skewt,
    "EWMA-t": m.ewma_t,
}
HISTORICAL = "filtered historical"


@dataclass(frozen=True)
class Year:
    """Test rows [first, stop) that share parameters fitted on rows before `first`."""

    name: str
    first: int
    stop: int


@dataclass
class Walk:
    """Decimal returns x (T, K) of complete rows, and what was fitted on them so far.

    Attributes:
        dates, names, x: the data.
        first, stop: the test rows.
        portfolios: weights (P, K) over the series, or None.
        events: baseline fits that had to be mended.
    """

    dates: pd.DatetimeIndex
    names: tuple[str, ...]
    x: Array
    first: int
    stop: int
    portfolios: Array | None = None
    events: list[m.Event] = field(default_factory=list)
    _fitted: dict[str, list[list[m.Filtered]]] = field(default_factory=dict)

    @property
    def years(self) -> list[Year]:
        """Calendar years of the test rows."""
        label = self.dates.year.to_numpy()[self.first : self.stop]
        pairs = pairwise([0, *(np.flatnonzero(np.diff(label)) + 1), len(label)])
        return [Year(str(label[a]), self.first + int(a), self.first + int(b)) for a, b in pairs]

    @property
    def test_dates(self) -> pd.DatetimeIndex:
        return self.dates[self.first : self.stop]

    @property
    def percent(self) -> Array:
        return 100.0 * self.x

    def filtered(self, law: str) -> list[list[m.Filtered]]:
        """By year, then by series: one-step forecasts of rows [0, year.stop) under the year's parameters."""
        if law not in self._fitted:
            self._fitted[law] = [self._fit_year(law, year) for year in self.years]
        return self._fitted[law]

    def _fit_year(self, law: str, year: Year) -> list[m.Filtered]:
        if law == HISTORICAL:
            base = self.filtered("GARCH-t")[[y.name for y in self.years].index(year.name)]
            return [f.historical(self.percent[: year.stop, k], year.first) for k, f in enumerate(base)]
        found = []
        for k, name in enumerate(self.names):
            margin = FITS[law](self.percent[: year.first, k])
            if margin.event:
                self.events.append(m.Event(law, name, year.name, margin.event))
            found.append(margin.filter(self.percent[: year.stop, k]))
        return found

    # ---- frames -----------------------------------------------------------------------------------------------------

    def independent(self, law: str) -> pd.DataFrame:
        """Margins of one kind; the joint log score is their sum."""
        columns: dict[str, Array] = {}
        years = list(zip(self.years, self.filtered(law), strict=True))
        for k, name in enumerate(self.names):
            parts = [_margin(found[k], self.percent[: year.stop, k], year.first) for year, found in years]
            columns |= {f"{what}:{name}": np.concatenate([p[what] for p in parts]) for what in parts[0]}
        columns["log_score"] = np.sum([columns[f"log:{name}"] for name in self.names], axis=0)
        if self.portfolios is not None and law != HISTORICAL:
            rng = np.random.default_rng(1)
            k = len(self.names)
            columns |= self._tails(
                [tails_of_copula(f, np.eye(k), math.inf, self.portfolios, span, rng) for f, span in self._spans(law)]
            )
        return self._frame(columns)

    def historical(self, window: int) -> pd.DataFrame:
        """The last `window` days as equally likely tomorrows, for series and portfolios."""
        columns: dict[str, Array] = {}
        for name, series in self._all_series():
            past = np.lib.stride_tricks.sliding_window_view(series, window)[self.first - window : self.stop - window]
            ordered, today = np.sort(past, axis=1), series[self.first : self.stop]
            below, ties = (past < today[:, None]).sum(1), (past == today[:, None]).sum(1)
            columns[f"pit:{name}"] = (below + (ties + 1) / 2) / (window + 1)
            for tag, level in LEVELS.items():
                columns[f"var{tag}:{name}"] = ordered[:, math.ceil(level * window - 1e-9) - 1]
                columns[f"es{tag}:{name}"] = tail_mean(ordered, level)
        return self._frame(columns)

    def own_series(self, law: str = "GARCH-t") -> pd.DataFrame:
        """A univariate law on every portfolio's own return series."""
        if self.portfolios is None:
            return self._frame({})
        names = tuple(portfolio_name(p) for p in range(len(self.portfolios)))
        walk = Walk(self.dates, names, self.x @ self.portfolios.T, self.first, self.stop)
        found = walk.independent(law)
        self.events.extend(walk.events)
        return found.drop(columns=[c for c in found if not c.startswith(("var", "es"))])

    def dcc(self, law: str = "GARCH-t") -> pd.DataFrame:
        """Margins of one kind under a DCC t copula."""
        score, tails, last = [], [], None
        rng = np.random.default_rng(2)
        for year, found in zip(self.years, self.filtered(law), strict=True):
            u = self._pits(found, year)
            last = DCC.fit(u[: year.first], last)
            path = last.correlations(u)[year.first :]
            y = t_scores(u[year.first :], last.freedom)
            score.append(self._log_margins(found, year) + t_copula(y, path, last.freedom))
            if self.portfolios is not None:
                span = slice(year.first, year.stop)
                tails.append(tails_of_copula(found, path, last.freedom, self.portfolios, span, rng))
        return self._frame({"log_score": self._decimal(np.concatenate(score))} | self._tails(tails))

    def ewma(self, decay: float | None = None) -> pd.DataFrame:
        """AR(1) means and a multivariate t on an EW covariance: one decay, or the best of the grid in the past."""
        score, columns = [], list[dict[str, Array]]()
        for year, found in zip(self.years, self.filtered("EWMA-t"), strict=True):
            location = np.stack([f.location for f in found], axis=1)
            e = self.percent[: year.stop] - location
            past = e[: year.first]
            law = EwmaT.fit(past, DECAYS, SHRINKS) if decay is None else EwmaT.fit(past, (decay,), (0.0,))
            c = law.covariances(e)[year.first :]
            square, log_det = squares(e[year.first :], c)
            score.append(t_log_pdf(square, log_det, len(self.names), law.freedom))
            if self.portfolios is not None:
                columns.append(self._elliptical(location[year.first :], c, Student(law.freedom)))
        return self._frame({"log_score": self._decimal(np.concatenate(score))} | self._tails(columns))

    def vine(self, depth: int, law: str = "GARCH-t") -> pd.DataFrame | None:
        """Margins of one kind under a vine copula fitted once a year; None without skfolio."""
        score, tails = [], []
        for year, found in zip(self.years, self.filtered(law), strict=True):
            u = self._pits(found, year)
            copula = vine(u[: year.first], depth)
            if copula is None:
                return None
            score.append(self._log_margins(found, year) + copula.score_samples(u[year.first :]))
            if self.portfolios is not None:
                span = slice(year.first, year.stop)
                tails.append(tails_of_uniforms(found, np.asarray(copula.sample(4000)), self.portfolios, span))
        return self._frame({"log_score": self._decimal(np.concatenate(score))} | self._tails(tails))

    # ---- parts ------------------------------------------------------------------------------------------------------

    def _pits(self, found: Sequence[m.Filtered], year: Year) -> Array:
        return np.stack([f.pit(self.percent[: year.stop, k]) for k, f in enumerate(found)], axis=1)

    def _log_margins(self, found: Sequence[m.Filtered], year: Year) -> Array:
        parts = [f.log_pdf(self.percent[: year.stop, k])[year.first :] for k, f in enumerate(found)]
        return np.asarray(np.sum(parts, axis=0))

    def _elliptical(self, location: Array, c: Array, law: Student) -> dict[str, Array]:
        assert self.portfolios is not None
        w = self.portfolios
        mean, deviation = location @ w.T, np.sqrt(np.einsum("pi,tij,pj->tp", w, c, w))
        tails = {}
        for tag, level in LEVELS.items():
            tails[f"var{tag}"] = (mean + deviation * float(law.quantile(np.array(level)))) / 100
            tails[f"es{tag}"] = (mean + deviation * law.shortfall(level)) / 100
        return tails

    def _spans(self, law: str) -> list[tuple[list[m.Filtered], slice]]:
        pairs = zip(self.years, self.filtered(law), strict=True)
        return [(found, slice(year.first, year.stop)) for year, found in pairs]

    def _tails(self, years: Sequence[dict[str, Array]]) -> dict[str, Array]:
        """Arrays (days, P) of each year as columns."""
        if not years:
            return {}
        whole = {what: np.concatenate([year[what] for year in years]) for what in years[0]}
        return {
            f"{what}:{portfolio_name(p)}": table[:, p] for what, table in whole.items() for p in range(table.shape[1])
        }

    def _all_series(self) -> list[tuple[str, Array]]:
        found = [(name, self.x[:, k]) for k, name in enumerate(self.names)]
        if self.portfolios is not None:
            found += [(portfolio_name(p), self.x @ w) for p, w in enumerate(self.portfolios)]
        return found

    def _decimal(self, score: Array) -> Array:
        return score + len(self.names) * math.log(100.0)

    def _frame(self, columns: dict[str, Array]) -> pd.DataFrame:
        return pd.DataFrame(columns, index=self.test_dates)


def _margin(f: m.Filtered, x: Array, first: int) -> dict[str, Array]:
    """The columns of one series in one year, in decimals."""
    location, scale = f.location[first:], f.scale[first:]
    tails = {"log": f.log_pdf(x)[first:] + math.log(100.0), "pit": f.pit(x)[first:]}
    for tag, level in LEVELS.items():
        tails[f"var{tag}"] = (location + scale * float(f.law.quantile(np.array(level)))) / 100
        tails[f"es{tag}"] = (location + scale * f.law.shortfall(level)) / 100
    return tails


def portfolio_name(p: int) -> str:
    return f"portfolio {p + 1}"


def sign_portfolios(k: int, most: int = 20, seed: int = 7) -> Array:
    """At most `most` portfolios with weights +-1/k, no two equal or opposite, from a fixed seed: (P, k)."""
    rng = np.random.default_rng(seed)
    found: list[tuple[float, ...]] = []
    for _ in range(50 * most):
        signs = tuple(rng.choice([-1.0, 1.0], size=k))
        if signs not in found and tuple(-s for s in signs) not in found:
            found.append(signs)
        if len(found) == most:
            break
    return np.array(found) / k
