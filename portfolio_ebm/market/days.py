"""Windows of a FactorEBM, and its markets of many days at once.

A window holds the states of every series at every row, each from rows before it alone, and the energies trained at the
window's anchor. Between two anchors nothing else changes, so one window serves all the days in between: today's market
is its last row, and the market as known before day t is its row t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.data.labels import moves
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import DRAWS, Market, Outlook, Rng, streams
from portfolio_ebm.market.composed import Block, FactorEBMMarket, log_probs, pooled, split
from portfolio_ebm.market.dependence import Dependence, scores
from portfolio_ebm.market.stacked import StackedMarket
from portfolio_ebm.market.stale import parted
from portfolio_ebm.market.states import Series
from portfolio_ebm.market.training import FEW, YOUNG, Calendar
from portfolio_ebm.models.conditional import Conditional
from portfolio_ebm.models.families import Layout, Mixed
from portfolio_ebm.models.quadrature import interval_rule
from portfolio_ebm.types import Status, require_last

if TYPE_CHECKING:
    from portfolio_ebm.data.panel import Panel
    from portfolio_ebm.market.factor_ebm import FactorEBM

Array = NDArray[np.float64]

CHUNK = 64
"""Days worked on at once."""


@dataclass(frozen=True)
class Fitted:
    """One block of a window: the factors, or the residuals.

    Attributes:
        series: M series and their states at rows 0..T.
        family: of each.
        parameters: (M, P).
        theta: calibration known before each row, (M, T + 1, 6), or None where no part has one.
        dependence: their copula.
        levels: PITs (T, M), calibrated where the part is, NaN where not scored.
        known: the first of them as scores of the copula, as they were stored.
        anew: what was trained for this window and not read from the store.
        reused: what was read from the store, and the seconds its training once took.
        problems: sentences about fits that did not converge or were not made.
        pool: a part too young for a scale has the median one.
    """

    series: Series
    family: Layout | Mixed
    parameters: Tensor
    theta: Tensor | None
    dependence: Dependence
    levels: Array
    known: Array
    anew: tuple[str, ...]
    reused: tuple[tuple[str, float], ...]
    problems: tuple[str, ...]
    pool: bool = False

    def law(self, rows: NDArray[np.intp]) -> Conditional:
        """The parts' laws of the days `rows`, batch shape (M, d)."""
        which = torch.from_numpy(rows)
        state = self.series.state.rows(which)
        if self.pool:
            state = pooled(state, torch.from_numpy(self.series.ready[rows].T.copy()))
        theta = None if self.theta is None else self.theta[:, which]
        return Conditional(self.family, self.parameters, state, theta)

    @cached_property
    def scores(self) -> Array:
        """The levels as scores of the copula."""
        return np.concatenate([self.known, scores(self.levels[len(self.known) :], self.dependence.freedom)])

    def correlation(self, rows: NDArray[np.intp]) -> Tensor:
        """R of the days `rows`, each from the days before it: (len(rows), M, M)."""
        return self.dependence.path(self.scores, rows)


@dataclass(frozen=True)
class FittedWindow:
    """A fitted window of T rows; row t of a path is what was known before day t, row T before the day to come.

    Attributes:
        dates: (T,).
        loadings: (T + 1, n, K); beta: (T + 1, K); means: of factors (T + 1, K) and residuals (T + 1, n).
        shares: probabilities of standing still, (T + 1, n), or None; see `stale`.
        market: the market's column, or None where the factors are taken as they are.
    """

    spec: FactorEBM
    calendar: Calendar
    dates: NDArray[np.datetime64]
    assets: tuple[str, ...]
    factors: tuple[str, ...]
    market: int | None
    blocks: tuple[Fitted, Fitted]
    loadings: Array
    beta: Array
    means: tuple[Array, Array]
    shares: Array | None = None

    @property
    def status(self) -> Status:
        """Ok unless a fit did not converge; a name too young for its own energy, or with fewer days than that has
        parameters, is an ordinary thing, and said."""
        problems = self.blocks[0].problems + self.blocks[1].problems
        trained_to = next((name for name in self.calendar.names if name), "no anchor yet")
        bad = [text for text in problems if YOUNG not in text and FEW not in text]
        shown = "; ".join([*bad, *(text for text in problems if text not in bad)][:6])
        said = f"{len(self.factors)} factor and {len(self.assets)} residual energies, trained to {trained_to}"
        return Status(not bad, said + (f"; {shown}" if shown else ""))

    @property
    def anew(self) -> tuple[str, ...]:
        return (*self.blocks[0].anew, *self.blocks[1].anew, "loadings")

    @property
    def reused(self) -> dict[str, float]:
        return dict(self.blocks[0].reused + self.blocks[1].reused)

    @property
    def settled(self) -> bool:
        """Whether every energy was trained at the first anchor: the window then serves all days up to the next one."""
        row = self.calendar.rows[0]
        if row is None or row < 0:
            return False
        scored = [each.series.scored[:, : row + 1].sum(-1) for each in self.blocks]
        return all(bool((count >= self.spec.fewest).all()) for count in scored)

    def today(self) -> FactorEBMMarket:
        """The market of the day after the last one."""
        return self.at(len(self.dates))

    def at(self, t: int) -> FactorEBMMarket:
        """The market as known before day t."""
        blocks = tuple(
            Block(each.law(np.array([t])), each.dependence, each.dependence.correlation(each.scores[:t]))
            for each in self.blocks
        )
        return FactorEBMMarket(
            assets=self.assets,
            factors=self.factors,
            status=self.status,
            refitted=self.anew,
            reused=self.reused,
            date=str(self.dates[t - 1].astype("datetime64[D]")),
            spec=self.spec,
            blocks=(blocks[0], blocks[1]),
            loadings=torch.from_numpy(self.loadings[t].copy()),
            beta=torch.from_numpy(self.beta[t].copy()),
            market=self.market,
            factor_mean=torch.from_numpy(self.means[0][t].copy()),
            residual_mean=torch.from_numpy(self.means[1][t].copy()),
            share=None if self.shares is None else torch.from_numpy(self.shares[t].copy()),
        )


@dataclass(frozen=True)
class FactorEBMDays(Market):
    """Fitted FactorEBMs of D days, as a batch; the day at `places[i]` = (w, t) is row t of window w.

    Densities, and the marginals of factors taken as they are, come from arrays over all days of a window; what is
    drawn is drawn day by day, each from its own stream, as that day's market alone would draw it.
    """

    windows: tuple[FittedWindow, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def assets(self) -> tuple[str, ...]:
        return self.windows[0].assets

    @property
    def factors(self) -> tuple[str, ...]:
        return self.windows[0].factors

    @property
    def batch(self) -> tuple[int, ...]:
        return (len(self.places),)

    @property
    def exact(self) -> bool:
        """Factors alone, as they are: each series is a part, and its law a table."""
        return not self.assets and all(window.market is None for window in self.windows)

    @cached_property
    def days(self) -> StackedMarket:
        """One market a day."""
        return StackedMarket(tuple(self.windows[w].at(t) for w, t in self.places))

    @property
    def status(self) -> Status:
        found = [window.status for window in self.windows]
        return next((status for status in found if not status), found[-1])

    @property
    def refitted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for window in self.windows for name in window.anew))

    def log_prob(self, r: Tensor) -> Tensor:
        require_last(r, len(self.series), "FactorEBMDays")
        with torch.no_grad():
            return self._gather(lambda window, rows, here: _log_prob(window, rows, here), r)

    def pit(self, r: Tensor, *, draws: int = DRAWS, rng: Rng | None = None) -> Tensor:
        if not self.exact:
            return super().pit(r, draws=draws, rng=rng)
        require_last(r, len(self.series), "FactorEBMDays")
        with torch.no_grad():
            return self._gather(lambda window, rows, here: _levels(window, rows, here), r)

    def var_es(
        self, weights: Tensor, level: float = 0.95, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        """See Market; exact for single series (weights the identity) where `exact` says so."""
        single = torch.eye(len(self.series), dtype=weights.dtype)
        if not (self.exact and weights.shape[-2:] == single.shape and bool((weights == single).all())):
            return super().var_es(weights, level, draws=draws, rng=rng)
        with torch.no_grad():
            r = torch.empty(len(self.places), 0, dtype=torch.float64)
            found = self._gather(lambda window, rows, _: _tails(window, rows, 1.0 - level), r)
            return found[..., 0], found[..., 1]

    def sample(self, n: int, rng: Rng) -> Tensor:
        found = zip(self.places, streams(rng, self.batch), strict=True)
        return torch.stack([self.windows[w].at(t).sample(n, g) for (w, t), g in found])

    def scenarios(self, horizon: int, n: int, rng: Rng) -> Tensor:
        return self.days.scenarios(horizon, n, rng)

    def paths(self, horizon: int, n: int, rng: Rng) -> Tensor:
        return self.days.paths(horizon, n, rng)

    @property
    def mean(self) -> Tensor:
        return self.days.mean

    @property
    def covariance(self) -> Structured:
        return self.days.covariance

    def outlook(self, horizon: int, rng: Rng) -> Outlook:
        return self.days.outlook(horizon, rng)

    def _gather(self, answer: Callable[[FittedWindow, NDArray[np.intp], Tensor], Tensor], r: Tensor) -> Tensor:
        """The answers of every window for its own days, at most CHUNK at a time, put back in the order of the days."""
        r = r.expand(len(self.places), *r.shape[1:])
        which = np.array([w for w, _ in self.places])
        rows = np.array([t for _, t in self.places])
        order, found = [], []
        for w, window in enumerate(self.windows):
            mine = np.flatnonzero(which == w)
            for part in np.array_split(mine, -(-len(mine) // CHUNK)):
                order.append(part)
                found.append(answer(window, rows[part], r[torch.from_numpy(part)]))
        back = np.argsort(np.concatenate(order), kind="stable")
        return torch.cat(found)[torch.from_numpy(back)]


def fit_days(model: FactorEBM, panel: Panel, rows: Sequence[int]) -> FactorEBMDays:
    """The batch of markets, each known before its row: one window a refit period, or a month where names are young."""
    windows: list[FittedWindow] = []
    places: dict[int, tuple[int, int]] = {}
    known = panel.dates[np.asarray(rows) - 1]  # the last day each market has seen
    unit = {"YE": "datetime64[Y]", "QE": "datetime64[M]", "ME": "datetime64[M]"}[model.refit]
    period = known.astype(unit).astype(np.int64) // (3 if model.refit == "QE" else 1)
    if model.groups is not None:  # a window lends one set of labels to all of its days
        eras = moves(panel.relabels.get(model.groups, ()), panel.assets, panel.dates, panel.tradeable)
        period = period * (len(eras) + 1) + np.searchsorted(eras, known, side="right")
    for each in np.unique(period):
        inside: list[int] = np.flatnonzero(period == each).tolist()
        window = model.window(panel.past(max(rows[i] for i in inside) - 1))
        groups = [(inside, window)]
        if not window.settled:
            month = known[inside].astype("datetime64[M]").astype(np.int64)
            split = [[inside[k] for k in np.flatnonzero(month == one)] for one in np.unique(month)]
            groups = [(group, model.window(panel.past(max(rows[i] for i in group) - 1))) for group in split]
        for group, each_window in groups:
            windows.append(each_window)
            places |= {i: (len(windows) - 1, rows[i] - each_window.calendar.start) for i in group}
    return FactorEBMDays(tuple(windows), tuple(places[i] for i in range(len(rows))))


def _log_prob(window: FittedWindow, rows: NDArray[np.intp], r: Tensor) -> Tensor:
    """log p of rows r (d, ..., S) of the days `rows`: (d, ...)."""
    flat = r.reshape(len(rows), r.shape[1:-1].numel(), r.shape[-1])
    beta, b = torch.from_numpy(window.beta[rows])[:, None], torch.from_numpy(window.loadings[rows])
    total = torch.zeros(flat.shape[:-1], dtype=r.dtype)
    if window.shares is not None:
        k = len(window.factors)
        moved, log_mass = parted(flat[..., k:], torch.from_numpy(window.shares[rows])[:, None])
        flat, total = torch.cat([flat[..., :k], moved], -1), log_mass.sum(-1)
    values = split(flat, beta, b, window.market)
    for block, x in zip(window.blocks, values, strict=True):
        single, joint = log_probs(block.law(rows), block.dependence, block.correlation(rows), x)
        total = total + single.sum(-1) + joint
    return total.reshape(r.shape[:-1])


def _levels(window: FittedWindow, rows: NDArray[np.intp], r: Tensor) -> Tensor:
    """PITs of rows r (d, ..., K) of factors taken as they are."""
    law = window.blocks[0].law(rows)
    flat = r.reshape(len(rows), r.shape[1:-1].numel(), r.shape[-1])
    u = law.level(torch.nan_to_num(flat).permute(1, 2, 0)).permute(2, 0, 1)
    return torch.where(torch.isnan(flat), torch.nan, u).reshape(r.shape)


def _tails(window: FittedWindow, rows: NDArray[np.intp], share: float) -> Tensor:
    """Value at risk and expected shortfall of every factor's lower `share`, (d, K, 2), from tables of the law."""
    law = window.blocks[0].law(rows)
    var = law.quantile(torch.tensor(share, dtype=torch.float64))
    low = torch.full_like(var, -torch.inf)
    z, log_weight = interval_rule(low, (var - law.location) / law.scale)
    x = law.location + law.scale * z
    mass = torch.exp(log_weight - law.energy(x) + law.scale.log() - law.log_z())
    es = (mass * x).sum(0) / mass.sum(0)
    return torch.stack([var, es], -1).transpose(0, 1)
