"""Bad ticks: how well a cell's tail probability finds prices that were never paid, and what a fit costs.

One cell in 200 of the test days' stocks, from a fixed seed, is moved by 3 to 6 of its own deviations, up or down; every
cell is judged against the clean past, so a tick is never its own excuse.

    energy        -log(2 min(u, 1 - u)),  u = F_i(eps_i | state), the asset's own residual law
    residual z    |eps_i| / EW deviation of eps_i, half-life 23 days, known the day before

Both see the same residual eps = r - B x, so that what differs is the law alone.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.market.data import Data
from benchmarks.market.statistics import average_precision, bootstrap
from portfolio_ebm.market.composed import split
from portfolio_ebm.market.days import FactorEBMDays
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.variances import ew_mean
from portfolio_ebm.models.families import Mixed
from portfolio_ebm.training.maximum_likelihood import maximum_likelihood

Array = NDArray[np.float64]
SHARE, SMALL, LARGE = 0.005, 3.0, 6.0
HALF_LIFE = 23.0
FINE, CHUNK = 4000, 250

Ticks = tuple[float, float, tuple[float, float]]


def bad_ticks(model: FactorEBM, data: Data, first: int, stop: int) -> Ticks:
    """Average precision of the energy and of the residual z, and the block-bootstrap interval of their difference."""
    panel = data.panel()
    returns = panel.returns
    rng = np.random.default_rng(0)
    event = rng.random((stop - first, returns.shape[1])) < SHARE
    jump = rng.uniform(SMALL, LARGE, event.shape) * rng.choice([-1.0, 1.0], event.shape) * event
    deviation = np.sqrt(ew_mean(returns**2, HALF_LIFE))[first:stop]
    moved = returns[first:stop] + jump * deviation
    energy, z = np.empty(event.shape), np.empty(event.shape)
    years = panel.dates[first:stop].astype("datetime64[Y]")
    for year in np.unique(years):
        inside = np.flatnonzero(years == year)
        market = model.fit_days(panel, (first + inside).tolist())
        assert isinstance(market, FactorEBMDays)
        energy[inside], z[inside] = _judged(market, panel.factor_returns[first + inside], moved[inside])
    n = len(event)

    def gap(rows: NDArray[np.intp]) -> float:
        ours, theirs = (average_precision(x[rows].ravel(), event[rows].ravel()) for x in (energy, z))
        return ours - theirs

    found = [average_precision(x.ravel(), event.ravel()) for x in (energy, z)]
    return found[0], found[1], bootstrap(gap, n, draws=200)


def _judged(market: FactorEBMDays, factors: Array, returns: Array) -> tuple[Array, Array]:
    """Both scores of returns (D, n) beside factors (D, K) on the market's days."""
    energy, z = np.empty_like(returns), np.empty_like(returns)
    which = np.array([w for w, _ in market.places])
    rows = np.array([t for _, t in market.places])
    for w, window in enumerate(market.windows):
        columns = [window.factors.index(name) for name in window.factors]
        clean = window.blocks[1].series.x
        wide = np.sqrt(ew_mean(clean**2, HALF_LIFE))
        mine = np.flatnonzero(which == w)
        for part in np.array_split(mine, -(-len(mine) // CHUNK)):
            at = rows[part]
            day = torch.from_numpy(np.concatenate([factors[part][:, columns], returns[part]], axis=1))
            beta, b = torch.from_numpy(window.beta[at]), torch.from_numpy(window.loadings[at])
            eps = torch.stack([split(r, *both, window.market)[1] for r, *both in zip(day, beta, b, strict=True)])
            with torch.no_grad():
                u = window.blocks[1].law(at).level(eps.T[None])[0].T.numpy()
            energy[part] = -np.log(2 * np.clip(np.minimum(u, 1 - u), 1e-300, None))
            z[part] = np.abs(eps.numpy()) / wide[at]
    return energy, z


REPEATS = 10


def cost(model: FactorEBM, data: Data, first: int) -> tuple[float, float]:
    """Processor seconds that training takes a factor energy, all in one batch up to the last anchor before row `first`
    (the least of ten: a busy machine adds to them), and the largest error of log Z at the nodes in use over a year of
    states, against 4,000 nodes."""
    window = model.window(data.panel().past(first - 1))
    block = window.blocks[0]
    series = block.series
    assert isinstance(block.family, Mixed)
    anchor = next(row for row in window.calendar.rows if row is not None)
    rows = slice(0, anchor + 1)
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        for layout, mine in block.family.groups:
            maximum_likelihood(layout, series.state.models(mine).rows(rows), series.target[mine, rows],
                               series.scored[mine, rows])  # fmt: skip
        spent.append(time.process_time() - began)
    seconds = min(spent) / len(window.factors)
    law = block.law(np.arange(len(window.dates) - 252, len(window.dates), 4))
    with torch.no_grad():
        error = (law.log_z() - law.log_z(FINE)).abs().max()
    return seconds, float(error)
