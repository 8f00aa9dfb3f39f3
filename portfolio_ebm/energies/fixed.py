"""FixedCost: what every name traded costs, whatever the size of the trade."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, Curvature, Energy
from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import lift, require_last

STILL = 1e-9
"""A trade of at most this weight is none."""


class FixedCost(Energy):
    """E(w) = c * #{i : w_i != held_i}: a ticket of the same size for every name traded; zero when nothing is held.

    Not convex: AnnealedLangevin chooses which names to trade and bounds what any choice could be worth.

    Units: fraction of wealth, paid once per trade.

    Attributes:
        rate: c as a fraction of the portfolio. money: c in money; it needs the capital. One of the two.

    Raises:
        SpecError: neither or both are given; money without a capital.

    Example:
        >>> Return() + 2.5 * Variance() + FixedCost(money=20.0)  # with Strategy(capital=1e6)

    Source: Lobo, M. S., Fazel, M. and Boyd, S. (2007), Portfolio optimization with linear and fixed transaction
    costs, Annals of Operations Research 152.
    """

    rate: float | None = Field(default=None, ge=0.0)
    money: float | None = Field(default=None, ge=0.0)

    curvature: ClassVar[Curvature] = "none"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.rate is None) == (self.money is None):
            raise ValueError("give either rate (a fraction of the portfolio) or money, not both and not neither")
        return self

    def check(self, ctx: Context) -> None:
        self.ticket(ctx)

    def ticket(self, ctx: Context) -> float:
        """c as a fraction of the portfolio."""
        if self.rate is not None:
            return self.rate
        if ctx.capital is None or not ctx.capital > 0.0:
            raise SpecError(f"{self!r} is in money, so it needs the size: give Strategy(capital=...) or capital=.")
        return float(self.money or 0.0) / ctx.capital

    def bind(self, ctx: Context) -> Bound:
        held, ticket = ctx.held, self.ticket(ctx)

        def energy(w: Tensor) -> Tensor:
            require_last(w, ctx.n_assets, "FixedCost")
            if held is None:
                return torch.zeros_like(w[..., 0])
            # The last term is nothing, and gives the count its slope: zero.
            return ticket * ((w - lift(held, w)).abs() > STILL).to(w.dtype).sum(-1) + 0.0 * w.sum(-1)

        return energy
