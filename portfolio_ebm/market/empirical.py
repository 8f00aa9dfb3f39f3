"""EmpiricalMarket: T days, each as likely as any other, as the law of the next one.

    P = (1/T) sum_t delta(r_t);   filtered: r_t = m + sigma z_t, after a step sigma^2 <- lam sigma^2 + (1 - lam) e^2.

Every expectation is a finite sum, so PIT (by mid-rank), value at risk, expected shortfall and free energies are exact
for this law. It has no density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import (
    DRAWS,
    FLOOR,
    Market,
    Outlook,
    Rng,
    check_aversion,
    compound,
    entropic,
    streams,
)
from portfolio_ebm.market.portfolio_tails import pit_of_draws, portfolio_returns, tail_of_draws
from portfolio_ebm.market.stacked import joint_status
from portfolio_ebm.types import Status, require_last


@dataclass(frozen=True)
class EmpiricalMarket(Market):
    """An empirical law of days.

    Attributes:
        assets, factors, status, refitted: as for every market.
        days: the atoms, (*batch, T, S).
        count: scenarios of an outlook.
        centre: what a filtered law moves about, (*batch, S); None for a law that is not filtered.
        variance: the forecast variance of the next day, (*batch, S), or None.
        decay: lam of the variance's recursion.
    """

    assets: tuple[str, ...]
    factors: tuple[str, ...]
    status: Status
    refitted: tuple[str, ...]
    days: Tensor
    count: int = 1000
    centre: Tensor | None = None
    variance: Tensor | None = None
    decay: float = 1.0

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.days.shape[:-2])

    @property
    def exact(self) -> bool:
        return True

    @property
    def has_density(self) -> bool:
        return False

    def log_prob(self, r: Tensor) -> Tensor:
        """None: raises.

        Raises:
            SpecError: an empirical law has no density.
        """
        raise SpecError(
            "An empirical law (Historical, FilteredHistorical) puts its mass on single days and has no density: "
            "compare it by PITs, value at risk and expected shortfall, or use EWMA, LedoitWolf or FactorEBM."
        )

    def sample(self, n: int, rng: Rng) -> Tensor:
        return self._take(self.days, self._pick((n,), rng))

    def scenarios(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Whole days drawn with replacement and compounded, (*batch, n, n_assets).

        A filtered law draws days of z, and every drawn return moves its series' variance for the next step.
        """
        return compound(self._steps(horizon, n, rng))

    def paths(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """The steps behind `scenarios`, not compounded: (*batch, n, horizon, n_assets)."""
        return self._steps(horizon, n, rng).clamp_min(FLOOR).transpose(-3, -2)

    def _steps(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Returns of every step, (*batch, horizon, n, n_assets)."""
        k = len(self.factors)
        picks = self._pick((horizon, n), rng)
        if self.variance is None or self.centre is None:
            days = self._take(self.days[..., k:], picks.flatten(-2))
            return days.reshape(*days.shape[:-2], horizon, n, days.shape[-1])
        centre, v = self.centre[..., None, k:], self.variance[..., None, k:]
        z = (self.days[..., k:] - centre) / v.sqrt()
        steps = []
        for step in range(horizon):
            e = v.sqrt() * self._take(z, picks[..., step, :])
            steps.append(centre + e)
            v = self.decay * v + (1 - self.decay) * e.square()
        return torch.stack(steps, -3)

    @property
    def mean(self) -> Tensor:
        return self.days[..., len(self.factors) :].mean(-2)

    @property
    def covariance(self) -> Structured:
        return self._assets(1.0)

    @property
    def marginals(self) -> None:
        return None

    def outlook(self, horizon: int, rng: Rng) -> Outlook:
        """Moments times the horizon; the days themselves for one period, `count` bootstrapped paths for more."""
        drawn = self.days[..., len(self.factors) :] if horizon == 1 else self.scenarios(horizon, self.count, rng)
        return Outlook(self.mean * horizon, self._assets(horizon), drawn, None, float(horizon))

    def pit(self, r: Tensor, *, draws: int = DRAWS, rng: Rng | None = None) -> Tensor:
        """Mid-ranks among the days; `draws` and `rng` are not used."""
        require_last(r, len(self.series), "EmpiricalMarket")
        return pit_of_draws(self.days, r, len(self.batch))

    def var_es(
        self, weights: Tensor, level: float = 0.95, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of the days, as returns (losses negative); `draws` and `rng` are not used."""
        w = self.positions(weights)
        var, es = tail_of_draws(portfolio_returns(self.days, w, len(self.batch)), level)
        shape = (*var.shape[:-1], *w.shape[len(self.batch) : -1])
        return var.reshape(shape), es.reshape(shape)

    def free_energy(
        self, exposures: Tensor, risk_aversion: float, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> Tensor:
        """(1/g) log (1/T) sum_t exp(-g b'(r_t - mean)), x being the series: the scenario form, exact for this law."""
        require_last(exposures, len(self.series), "EmpiricalMarket")
        x = portfolio_returns(self.days, exposures, len(self.batch))
        found = entropic(x, check_aversion(risk_aversion))
        return found.reshape((*found.shape[:-1], *exposures.shape[len(self.batch) : -1]))

    @classmethod
    def stack(cls, markets: Sequence[Market]) -> Market:
        """One set of tensors where all dates have as many days."""
        found = [m for m in markets if isinstance(m, EmpiricalMarket)]
        first = found[0]
        alike = all(m.series == first.series and m.days.shape == first.days.shape for m in found)
        if len(found) != len(markets) or not alike or first.batch:
            return super().stack(markets)
        centres = [m.centre for m in found if m.centre is not None]
        variances = [m.variance for m in found if m.variance is not None]
        return cls(
            assets=first.assets,
            factors=first.factors,
            status=joint_status([m.status for m in found]),
            refitted=first.refitted,
            days=torch.stack([m.days for m in found]),
            count=first.count,
            centre=torch.stack(centres) if centres else None,
            variance=torch.stack(variances) if variances else None,
            decay=first.decay,
        )

    def _assets(self, times: float) -> Structured:
        days = self.days[..., len(self.factors) :]
        away = days - days.mean(-2, keepdim=True)
        return Structured.from_dense(away.mT @ away * (times / days.shape[-2]))

    def _pick(self, size: tuple[int, ...], rng: Rng) -> Tensor:
        """Row numbers of drawn days, (*batch, *size)."""
        found = [torch.randint(self.days.shape[-2], size, generator=g) for g in streams(rng, self.batch)]
        return torch.stack(found) if self.batch else found[0]

    def _take(self, days: Tensor, pick: Tensor) -> Tensor:
        """Rows `pick` (*batch, n) of days (*batch, T, m): (*batch, n, m)."""
        return days.gather(-2, pick[..., None].expand(*pick.shape, days.shape[-1]))
