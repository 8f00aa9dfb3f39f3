"""Views: Black-Litterman, as the sum of two Gaussian energies of the unknown means.

    prior       E_0(m) = 1/2 (m - pi)' (tau S)^-1 (m - pi)
    views       E_1(m) = 1/2 (P m - q)' Omega^-1 (P m - q)
    posterior   argmin E_0 + E_1 = pi + tau S P' (P tau S P' + Omega)^-1 (q - P pi)

A row of P is one view: a portfolio whose return the investor believes to be q, with a standard deviation that is given
or follows from a confidence c: omega = (1 - c)/c p' tau S p, which for one view moves its return c of the way from what
the prior says to q.

Source: Black, F. and Litterman, R. (1992), Global portfolio optimization, Financial Analysts Journal 48(5); Idzorek, T.
(2005), A step-by-step guide to the Black-Litterman model.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.returns import affine, linear
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import Spec


class View(Spec):
    """The portfolio of `legs` will return `returns` over the holding period.

    Attributes:
        legs: weights by asset: {"AAPL": 1} is absolute, {"AAPL": 1, "MSFT": -1} says AAPL beats MSFT.
        returns: q, fraction per holding period.
        confidence: c in (0, 1], 1 for a certain view; or
        deviation: the standard deviation of the view's error, above zero.

    Example:
        >>> View({"AAPL": 1, "MSFT": -1}, returns=0.01, confidence=0.6)
    """

    legs: tuple[tuple[str, float], ...]
    returns: float
    confidence: float | None = Field(default=None, gt=0.0, le=1.0)
    deviation: float | None = Field(default=None, gt=0.0)

    @field_validator("legs", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if isinstance(value, str):
            return ((value, 1.0),)
        return tuple(sorted(value.items())) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not any(weight != 0.0 for _, weight in self.legs):
            raise ValueError("a view needs a leg with a weight other than zero")
        if (self.confidence is None) == (self.deviation is None):
            raise ValueError("give either confidence= or deviation=")
        return self


class Views(ConvexEnergy):
    """E(w) = -m'w, m the posterior mean of Black and Litterman: takes the place of Return() in a formula.

    The prior pi is the market's mean, or, where `benchmark` is named, the equilibrium that makes it optimal:
    pi = risk_aversion * S b.

    Units: fraction of wealth per holding period.

    Attributes:
        views: at least one.
        tau: the size of the doubt about the prior, tau S; it matters for views with a deviation only.
        benchmark: by name, the portfolio whose equilibrium is the prior; None for the market's mean.
        risk_aversion: of the investor who holds the benchmark.

    Raises:
        SpecError: a view names an unknown asset, or there is no such benchmark.

    Example:
        >>> Views((View("AAPL", 0.02, confidence=0.5),), benchmark="index") + 1.25 * Variance()

    Source: see the head of this file.
    """

    views: tuple[View, ...] = Field(min_length=1)
    tau: float = Field(default=0.05, gt=0.0)
    benchmark: str | None = None
    risk_aversion: float = Field(default=2.5, gt=0.0)

    curvature: ClassVar[Curvature] = "affine"
    needs: ClassVar[frozenset[str]] = frozenset({"mean", "covariance"})

    def asks(self) -> frozenset[str]:
        return self.needs if self.benchmark is None else frozenset({"covariance"})

    def check(self, ctx: Context) -> None:
        self._legs(ctx, torch.zeros(0, dtype=torch.float64))
        if self.benchmark is not None:
            ctx.benchmark(self.benchmark)

    def prior(self, ctx: Context) -> Tensor:
        """pi, (..., n)."""
        if self.benchmark is None:
            return ctx.mean
        b = ctx.benchmark(self.benchmark).to(ctx.covariance.diagonal)
        return self.risk_aversion * ctx.covariance.matvec(b.expand_as(ctx.covariance.diagonal))

    def posterior(self, ctx: Context) -> Tensor:
        """argmin over m of the prior's and the views' energies, (..., n)."""
        pi = self.prior(ctx)
        p = self._legs(ctx, pi)
        spread = ctx.covariance.scaled(self.tau).dense() @ p.mT
        common = p @ spread
        own = common.diagonal(dim1=-2, dim2=-1)
        omega = torch.stack(
            [
                own[..., k] * (1.0 / view.confidence - 1.0)
                if view.confidence is not None
                else torch.full_like(own[..., k], (view.deviation or 0.0) ** 2)
                for k, view in enumerate(self.views)
            ],
            -1,
        )
        q = pi.new_tensor([view.returns for view in self.views])
        surprise = (q - (p @ pi.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)
        try:
            pull: Tensor = torch.linalg.solve(common + torch.diag_embed(omega), surprise)
        except RuntimeError:
            raise SpecError(
                f"{self!r}: two certain views speak of the same portfolio; give them a confidence below one."
            ) from None
        posterior: Tensor = pi + (spread @ pull).squeeze(-1)
        return posterior

    def bind(self, ctx: Context) -> Bound:
        return linear(self.posterior(ctx), "Views")

    def quadratic(self, ctx: Context) -> Quadratic:
        return affine(self.posterior(ctx))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return -(self.posterior(ctx).detach().cpu().numpy() @ w)

    def _legs(self, ctx: Context, like: Tensor) -> Tensor:
        """P, (views, n)."""
        p = like.new_zeros(len(self.views), ctx.n_assets)
        for row, view in zip(p, self.views, strict=True):
            for name, weight in view.legs:
                if name not in ctx.assets:
                    near = get_close_matches(name, ctx.assets, n=3) or list(ctx.assets[:8])
                    raise SpecError(f"{view!r}: no asset '{name}'; there is {', '.join(near)}.")
                row[ctx.assets.index(name)] += weight
        return p
