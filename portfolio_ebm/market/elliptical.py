"""EllipticalMarket: a normal or Student-t law of the next day, at one date or at many.

    normal:   log p(r) = -1/2 [q + log det S + d log 2 pi],                        q = (r - m)' S^{-1} (r - m)
    Student:  the same with S (nu - 2) / nu for the scale: S is the covariance in both.

Both are closed under marginals and sums: missing entries leave their rows and columns, a portfolio has a law of the
same kind in one dimension, and so PIT, value at risk and expected shortfall are closed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from portfolio_ebm.errors import DataError, ShapeError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import DRAWS, Market, Outlook, Rng, check_aversion, streams
from portfolio_ebm.market.portfolio_tails import pit_of_elliptical, tail_of_elliptical
from portfolio_ebm.market.stacked import joint_status, joint_structure
from portfolio_ebm.market.window import Window
from portfolio_ebm.models.quadrature import interval_rule
from portfolio_ebm.types import Status, lift, require_last

SINGULAR = 1e-12
"""Share of a series' variance that the others must leave, for the joint law to have a density."""

BOUND = 10.0
"""Where a Student-t law is cut for a free energy, in its standard deviations; FactorEBM's default too."""

NODES = 256


@dataclass(frozen=True)
class EllipticalMarket(Market):
    """A normal or Student-t market.

    Attributes:
        assets, factors, status, refitted: as for every market.
        centre: expected returns of the series, (*batch, S).
        spread: covariance of the series, (*batch, S, S).
        freedom: nu > 2, (*batch), or None for the normal law.
        structure: the assets' covariance in parts, where the model has such; else it comes from `spread`.
        windows: days that an outlook takes for its scenarios, one window a date; without, scenarios are drawn.
        count: scenarios of an outlook that are drawn.
    """

    assets: tuple[str, ...]
    factors: tuple[str, ...]
    status: Status
    refitted: tuple[str, ...]
    centre: Tensor
    spread: Tensor
    freedom: Tensor | None = None
    structure: Structured | None = None
    windows: tuple[Window, ...] = ()
    count: int = 1000

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.centre.shape[:-1])

    @property
    def exact(self) -> bool:
        return True

    def log_prob(self, r: Tensor) -> Tensor:
        """log p at rows r (*batch, ..., S), nats.

        Raises:
            DataError: the covariance is singular.
            ShapeError: r has not one entry a series.
        """
        square, log_det, d = self.quadratic(r)
        nu = None if self.freedom is None else lift(self.freedom, square[..., None], 0)
        return elliptical_log_density(square, log_det, d, nu)

    def quadratic(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(q, log det S, d) of the observed entries of each row (*batch, ..., S), each (*batch, ...).

        One Cholesky factor a date and pattern of missing entries; their order is exact and none of the rest.
        """
        require_last(r, len(self.series), "EllipticalMarket")
        b = len(self.batch)
        if r.ndim <= b or (b and r.shape[0] not in (1, *self.batch)):
            raise ShapeError(
                f"EllipticalMarket: got shape {tuple(r.shape)}, expected the dates in front: ({self.batch[0]}, ..., S)."
            )
        r = r.expand(*self.batch, *r.shape[b:]) if b else r
        here = ~torch.isnan(r)
        if r.ndim == b + 1:
            one = self._solve(r[..., None, :], here)
            return one[0][..., 0], one[1][..., 0], one[2][..., 0]
        rows, masks = r.flatten(b, -2), here.flatten(b, -2)
        found = [torch.zeros(rows.shape[:-1], dtype=r.dtype) for _ in range(3)]
        for pattern in torch.unique(masks.flatten(0, -2), dim=0):
            same = (masks == pattern).all(-1)
            got = self._solve(torch.where(pattern, rows, torch.nan), pattern.expand(*self.batch, -1))
            found = [torch.where(same, new, old) for new, old in zip(got, found, strict=True)]
        square, log_det, d = (x.reshape(r.shape[:-1]) for x in found)
        return square, log_det, d

    def _solve(self, rows: Tensor, here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For rows (*batch, m, S) with one pattern `here` (*batch, S) a date: each (*batch, m)."""
        on = here.to(self.spread)
        eye = torch.eye(len(self.series), dtype=self.spread.dtype)
        width = self.spread.diagonal(dim1=-2, dim2=-1).sqrt()
        scale = torch.where(here & (width > 0), width, 1.0)
        # Units of each series' own deviation, a missing one replaced by an independent 1: no term in q or log det.
        r = self.spread / (scale[..., :, None] * scale[..., None, :]) * (on[..., :, None] * on[..., None, :])
        root, info = torch.linalg.cholesky_ex(r + torch.diag_embed(1 - on) * eye)
        left = root.diagonal(dim1=-2, dim2=-1).square()
        if bool((info > 0).any()) or bool((left < SINGULAR).any()):
            raise DataError(
                f"The covariance of {len(self.series)} series is singular and has no density: look back further, "
                "shrink it (LedoitWolf, OAS, EWMA(shrinkage=0.05)), or leave out a series that is a sum of others."
            )
        away = torch.where(here[..., None, :], rows - self.centre[..., None, :], 0.0) / scale[..., None, :]
        solved = torch.linalg.solve_triangular(root, away.mT, upper=False)
        log_det = left.log().sum(-1) + 2 * scale.log().sum(-1)
        square = solved.square().sum(-2)
        return square, log_det[..., None].expand_as(square), on.sum(-1)[..., None].expand_as(square)

    def sample(self, n: int, rng: Rng) -> Tensor:
        values, vectors = torch.linalg.eigh(self.spread)
        root = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
        normal, mix = [], []
        for generator in streams(rng, self.batch):
            normal.append(torch.randn(n, len(self.series), generator=generator, dtype=root.dtype))
            if self.freedom is not None:
                mix.append(torch.rand(n, generator=generator, dtype=root.dtype))
        drawn = torch.stack(normal) if self.batch else normal[0]
        if self.freedom is not None:
            drawn = drawn * self._mixing(torch.stack(mix) if self.batch else mix[0])[..., None]
        found: Tensor = self.centre[..., None, :] + drawn @ root.mT
        return found

    def _mixing(self, u: Tensor) -> Tensor:
        """sqrt((nu - 2) / chi2_nu) for uniforms u (*batch, n): a normal times it is Student-t of variance one."""
        assert self.freedom is not None
        nu = self.freedom[..., None]
        chi2 = 2 * torch.from_numpy(np.asarray(gammaincinv((nu / 2).numpy(), u.numpy())))
        return ((nu - 2) / chi2.clamp_min(1e-12)).sqrt()

    @property
    def mean(self) -> Tensor:
        return self.centre[..., len(self.factors) :]

    @property
    def covariance(self) -> Structured:
        return self._assets(1.0)

    @property
    def marginals(self) -> None:
        return None

    def outlook(self, horizon: int, rng: Rng) -> Outlook:
        """Moments times the horizon; the window's days scaled by its square root, or days drawn and compounded."""
        mean = self.mean * horizon
        if self.windows:
            k = len(self.factors)
            days = [
                torch.from_numpy(w.centred[:, k:]) + (0.0 if w.noise is None else w.noise.draw(g)[:, k:])
                for w, g in zip(self.windows, streams(rng, self.batch), strict=True)
            ]
            scenarios = mean[..., None, :] + horizon**0.5 * (torch.stack(days) if self.batch else days[0])
        else:
            scenarios = self.scenarios(horizon, self.count, rng)
        return Outlook(mean, self._assets(horizon), scenarios, None, float(horizon))

    def pit(self, r: Tensor, *, draws: int = DRAWS, rng: Rng | None = None) -> Tensor:
        """Exact PITs; `draws` and `rng` are not used."""
        require_last(r, len(self.series), "EllipticalMarket")
        width = self.spread.diagonal(dim1=-2, dim2=-1).sqrt()
        nu = None if self.freedom is None else lift(self.freedom, r, 0)[..., None]
        return pit_of_elliptical((r - lift(self.centre, r)) / lift(width, r), nu)

    def var_es(
        self, weights: Tensor, level: float = 0.95, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        """Closed, as returns (losses negative): the portfolio's law is of the market's kind, in one dimension."""
        w = self.positions(weights)
        mean, deviation = (w * lift(self.centre, w)).sum(-1), self._deviation(w)
        return tail_of_elliptical(mean, deviation, level, self._freedom(w, deviation))

    def free_energy(
        self, exposures: Tensor, risk_aversion: float, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> Tensor:
        """(1/g) log E exp(-g b'(r - E r)), x being the series: closed for the normal law, g/2 b' S b.

        Under the Student-t law it is infinite; the law of b'r is cut at 10 of its standard deviations, renormalised,
        and integrated by quadrature (256 nodes), as FactorEBM does with its parts.
        """
        require_last(exposures, len(self.series), "EllipticalMarket")
        g, deviation = check_aversion(risk_aversion), self._deviation(exposures)
        nu = self._freedom(exposures, deviation)
        if nu is None:
            return g / 2 * deviation.square()
        z, log_mass = cut_student(nu)
        return torch.logsumexp(log_mass - g * deviation[..., None] * z, -1) / g

    @classmethod
    def stack(cls, markets: Sequence[Market]) -> Market:
        """One set of tensors, the dates in front."""
        found = [m for m in markets if isinstance(m, EllipticalMarket) and not m.batch]
        first = found[0]
        freedoms = [m.freedom for m in found if m.freedom is not None]
        structures = [m.structure for m in found if m.structure is not None]
        windows = tuple(w for m in found for w in m.windows)
        alike = len(found) == len(markets) and all(m.series == first.series for m in found)
        if not alike or len(freedoms) not in (0, len(found)) or len(windows) not in (0, len(found)):
            return super().stack(markets)
        return cls(
            assets=first.assets,
            factors=first.factors,
            status=joint_status([m.status for m in found]),
            refitted=first.refitted,
            centre=torch.stack([m.centre for m in found]),
            spread=torch.stack([m.spread for m in found]),
            freedom=torch.stack(freedoms) if freedoms else None,
            structure=joint_structure(structures) if len(structures) == len(found) else None,
            windows=windows,
            count=first.count,
        )

    def _assets(self, times: float) -> Structured:
        k = len(self.factors)
        if self.structure is not None:
            return Structured(self.structure.loadings, self.structure.core * times, self.structure.diagonal * times)
        return Structured.from_dense(self.spread[..., k:, k:] * times)

    def _deviation(self, w: Tensor) -> Tensor:
        """The portfolio's standard deviation at weights (*batch, ..., S): (*batch, ...)."""
        square = ((w.unsqueeze(-2) @ lift(self.spread, w, 2)).squeeze(-2) * w).sum(-1)
        return square.clamp_min(0.0).sqrt()

    def _freedom(self, w: Tensor, like: Tensor) -> Tensor | None:
        return None if self.freedom is None else lift(self.freedom, w, 0).expand_as(like)


def elliptical_log_density(square: Tensor, log_det: Tensor, d: Tensor, nu: Tensor | None) -> Tensor:
    """log p from q, log det S and the dimension, S the covariance: normal, or Student-t with nu (broadcast)."""
    if nu is None:
        return -0.5 * (square + log_det + d * math.log(2 * math.pi))
    constant = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2) - d / 2 * torch.log((nu - 2) * math.pi)
    return constant - 0.5 * log_det - (nu + d) / 2 * torch.log1p(square / (nu - 2))


def cut_student(nu: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes (..., G) and log masses of the Student-t law of deviation one before it was cut at +- BOUND."""
    end = torch.full((), BOUND, dtype=nu.dtype)
    z, log_weight = interval_rule(-end, end, NODES)
    log_density = -(nu[..., None] + 1) / 2 * torch.log1p(z * z / (nu[..., None] - 2))
    log_mass = log_weight + log_density
    return z.expand_as(log_mass), log_mass - torch.logsumexp(log_mass, -1, keepdim=True)
