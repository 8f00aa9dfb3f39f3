"""Rules on the size of the book: Leverage, ShortLimit, ActiveShare."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball
from portfolio_ebm.constraints.families import CapRule
from portfolio_ebm.context import Context


class Leverage(CapRule):
    """sum |w| <= at_most: longs plus shorts, as a fraction of the portfolio.

    Example:
        >>> Budget() & Leverage(1.6)  # 130/30
    """

    at_most: float = Field(gt=0.0)

    def cap(self, ctx: Context) -> Ball:
        zero, one = _zeros(ctx), torch.ones_like(_zeros(ctx))
        return Ball(repr(self), self.at_most, zero, one, one)

    def explain(self) -> str:
        return f"Longs and shorts together are at most {self.at_most:g} of the portfolio."


class ShortLimit(CapRule):
    """sum of -w over the names that are short <= at_most.

    Example:
        >>> Budget() & ShortLimit(0.3)
    """

    at_most: float = Field(ge=0.0)

    def cap(self, ctx: Context) -> Ball:
        zero = _zeros(ctx)
        return Ball(repr(self), self.at_most, zero, zero, torch.ones_like(zero))

    def explain(self) -> str:
        return f"Shorts together are at most {self.at_most:g} of the portfolio."


class ActiveShare(CapRule):
    """1/2 sum |w - b| <= at_most, b the benchmark's weights at the date: the share of the portfolio that differs.

    Example:
        >>> ActiveShare(0.6, benchmark="index")

    Source: Cremers, K. J. M. and Petajisto, A. (2009), How active is your fund manager?, Review of Financial
    Studies 22(9).

    Raises:
        SpecError: with a context, an unknown benchmark.
    """

    at_most: float = Field(gt=0.0)
    benchmark: str

    per: ClassVar[float] = 2.0

    def cap(self, ctx: Context) -> Ball:
        one = torch.ones_like(_zeros(ctx))
        return Ball(repr(self), self.per * self.at_most, ctx.benchmark(self.benchmark).double(), one, one)

    def explain(self) -> str:
        return f"At most {self.at_most:g} of the portfolio differs from '{self.benchmark}'."


def _zeros(ctx: Context) -> Tensor:
    return torch.zeros(ctx.n_assets, dtype=torch.float64, device=ctx.tradeable.device)
