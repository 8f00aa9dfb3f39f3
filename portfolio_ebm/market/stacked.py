"""StackedMarket: markets of many dates asked one after the other, their answers stacked with the dates in front.

The batch that every market has; a market with arrays of its own for many dates replaces it by something faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.errors import DataError, ShapeError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import DRAWS, Marginals, Market, Outlook, Rng, streams
from portfolio_ebm.types import Status


@dataclass(frozen=True)
class StackedMarket(Market):
    """D markets of the same series, as a batch.

    Attributes:
        markets: one a date.

    Raises:
        DataError: markets of different series.
    """

    markets: tuple[Market, ...]

    def __post_init__(self) -> None:
        if not self.markets or any(m.series != self.markets[0].series or m.batch for m in self.markets):
            raise DataError("A batch needs at least one market, all at single dates and of the same series.")

    @property
    def assets(self) -> tuple[str, ...]:
        return self.markets[0].assets

    @property
    def factors(self) -> tuple[str, ...]:
        return self.markets[0].factors

    @property
    def status(self) -> Status:
        return joint_status([m.status for m in self.markets])

    @property
    def refitted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for m in self.markets for name in m.refitted))

    @property
    def batch(self) -> tuple[int, ...]:
        return (len(self.markets),)

    @property
    def exact(self) -> bool:
        return all(m.exact for m in self.markets)

    @property
    def has_density(self) -> bool:
        return all(m.has_density for m in self.markets)

    def log_prob(self, r: Tensor) -> Tensor:
        return torch.stack([m.log_prob(x) for m, x in zip(self.markets, self._each(r), strict=True)])

    def sample(self, n: int, rng: Rng) -> Tensor:
        return torch.stack([m.sample(n, g) for m, g in self._streams(rng)])

    def scenarios(self, horizon: int, n: int, rng: Rng) -> Tensor:
        return torch.stack([m.scenarios(horizon, n, g) for m, g in self._streams(rng)])

    def paths(self, horizon: int, n: int, rng: Rng) -> Tensor:
        return torch.stack([m.paths(horizon, n, g) for m, g in self._streams(rng)])

    def outlook(self, horizon: int, rng: Rng) -> Outlook:
        found = [m.outlook(horizon, g) for m, g in self._streams(rng)]
        drawn = [o.scenarios for o in found if o.scenarios is not None]
        tables = [o.marginals for o in found if o.marginals is not None]
        return Outlook(
            mean=torch.stack([o.mean for o in found]),
            covariance=joint_structure([o.covariance for o in found]),
            scenarios=torch.stack(drawn) if len(drawn) == len(found) else None,
            marginals=joint_marginals(tables) if len(tables) == len(found) else None,
            horizon=float(horizon),
        )

    @property
    def mean(self) -> Tensor:
        return torch.stack([m.mean for m in self.markets])

    @property
    def covariance(self) -> Structured:
        return joint_structure([m.covariance for m in self.markets])

    @property
    def marginals(self) -> Marginals | None:
        tables = [m.marginals for m in self.markets]
        there = [table for table in tables if table is not None]
        return joint_marginals(there) if len(there) == len(tables) else None

    def pit(self, r: Tensor, *, draws: int = DRAWS, rng: Rng | None = None) -> Tensor:
        rows = zip(self.markets, self._each(r), self._optional(rng), strict=True)
        return torch.stack([m.pit(x, draws=draws, rng=g) for m, x, g in rows])

    def var_es(
        self, weights: Tensor, level: float = 0.95, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        rows = zip(self.markets, self._each(self.positions(weights)), self._optional(rng), strict=True)
        found = [m.var_es(w, level, draws=draws, rng=g) for m, w, g in rows]
        return torch.stack([var for var, _ in found]), torch.stack([es for _, es in found])

    def free_energy(
        self, exposures: Tensor, risk_aversion: float, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> Tensor:
        rows = zip(self.markets, self._each(exposures), self._optional(rng), strict=True)
        return torch.stack([m.free_energy(b, risk_aversion, draws=draws, rng=g) for m, b, g in rows])

    def _each(self, x: Tensor) -> list[Tensor]:
        days = len(self.markets)
        if x.ndim < 2 or x.shape[0] not in (1, days):
            raise ShapeError(f"got shape {tuple(x.shape)}, expected the {days} dates in front: ({days}, ..., entries).")
        return list(x.expand(days, *x.shape[1:]))

    def _streams(self, rng: Rng) -> list[tuple[Market, torch.Generator]]:
        return list(zip(self.markets, streams(rng, self.batch), strict=True))

    def _optional(self, rng: Rng | None) -> Sequence[torch.Generator | None]:
        return [None] * len(self.markets) if rng is None else streams(rng, self.batch)


def joint_status(found: Sequence[Status]) -> Status:
    """Ok where all are; else the first that is not, with its place."""
    bad = [(i, status) for i, status in enumerate(found) if not status.ok]
    if not bad:
        return Status(True, f"{len(found)} dates; the last: {found[-1].message}")
    return Status(False, f"{len(bad)} of {len(found)} dates; the first, number {bad[0][0]}: {bad[0][1].message}")


def joint_structure(found: Sequence[Structured]) -> Structured:
    """Structured matrices of equal shapes with the dates in front."""
    return Structured(*(torch.stack([get(s) for s in found]) for get in _PARTS))


def joint_marginals(found: Sequence[Marginals]) -> Marginals:
    """Tables of the same parts with the dates in front."""
    first = found[0]
    return Marginals(
        names=first.names,
        exposures=torch.stack([table.exposures for table in found]),
        values=torch.stack([table.values for table in found]),
        log_mass=torch.stack([table.log_mass for table in found]),
        bound=first.bound,
    )


_PARTS: tuple[Callable[[Structured], Tensor], ...] = (lambda s: s.loadings, lambda s: s.core, lambda s: s.diagonal)
