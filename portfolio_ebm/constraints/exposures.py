"""Rules on sums over names: Group, FactorExposure, BetaNeutral, DollarNeutral.

Names that cannot be traded count in every sum. With a `benchmark`, the sums are of w - b, b its weights at the date.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from portfolio_ebm.constraints.families import Row, RowRule, between, ends, require_ends
from portfolio_ebm.context import Context, listed
from portfolio_ebm.errors import DataError, SpecError


class Group(RowRule):
    """lower <= sum of w over the assets that carry `label` in `grouping` <= upper; every label's sum without `label`.

    Groupings may overlap: any number of rules on any number of groupings hold together. Issuers are a grouping too.

    Attributes:
        grouping: its name, e.g. "sector".
        label: one label, or None for all there are.
        benchmark: where given, the sums are of the weights less the benchmark's.

    Example:
        >>> Group("sector", "Technology", upper=0.3)
        >>> Group("sector", upper=0.05, lower=-0.05, benchmark="index")  # every sector within 5 % of the index

    Raises:
        SpecError: no bound is given, or upper < lower; with a context, an unknown grouping, label or benchmark.
    """

    grouping: str
    label: str | None = None
    upper: float | None = None
    lower: float | None = None
    benchmark: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        require_ends(self.lower, self.upper)
        return self

    def rows(self, ctx: Context) -> list[Row]:
        found = []
        for label in [self.label] if self.label is not None else ctx.labels(self.grouping):
            inside = ctx.members(self.grouping, label).double()
            shift = 0.0 if self.benchmark is None else float(inside @ ctx.benchmark(self.benchmark).double())
            found.append(Row(inside, *ends(self.lower, self.upper, shift), repr(self.replace(label=label))))
        return found

    def explain(self) -> str:
        who = f"Names with {self.grouping} '{self.label}'" if self.label else f"Names of each {self.grouping}"
        more = f" more than in '{self.benchmark}'" if self.benchmark else ""
        return f"{who} together weigh {between(self.lower, self.upper)}{more}."


class FactorExposure(RowRule):
    """lower <= x'w <= upper, x (n,) the assets' exposures to `factor`: as given at the date, else the market model's.

    Example:
        >>> FactorExposure("MTUM", upper=0.2, lower=-0.2)

    Raises:
        SpecError: no bound is given, or upper < lower; with a context, an unknown factor or benchmark.
        DataError: a tradeable name has no exposure at the date.
    """

    factor: str
    upper: float | None = None
    lower: float | None = None
    benchmark: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        require_ends(self.lower, self.upper)
        return self

    def rows(self, ctx: Context) -> list[Row]:
        x = ctx.exposure(self.factor).double()
        shift = 0.0 if self.benchmark is None else float(x @ ctx.benchmark(self.benchmark).double())
        return [Row(x, *ends(self.lower, self.upper, shift), repr(self))]

    def explain(self) -> str:
        more = f" more than that of '{self.benchmark}'" if self.benchmark else ""
        return f"The exposure to '{self.factor}' is {between(self.lower, self.upper)}{more}."


class BetaNeutral(RowRule):
    """|beta'w - target| <= within, beta_i = (S b)_i / b'S b the assets' betas to the benchmark (or asset) `to`.

    S is the market's covariance. Where `to` is a factor and no benchmark, beta is the exposure to it.

    Attributes:
        to: a benchmark, an asset or a factor, looked for in this order.
        target: the beta to have; 0 is neutral.
        within: how far from it is allowed.

    Example:
        >>> BetaNeutral("index", within=0.05) & DollarNeutral() & Leverage(2.0)

    Source: Sharpe, W. F. (1964), Capital asset prices, Journal of Finance 19(3).

    Raises:
        SpecError: nothing is called `to`; near matches are listed.
        DataError: the benchmark has no variance.
    """

    to: str
    target: float = 0.0
    within: float = Field(default=0.0, ge=0.0)

    def rows(self, ctx: Context) -> list[Row]:
        return [Row(self._betas(ctx), self.target - self.within, self.target + self.within, repr(self))]

    def _betas(self, ctx: Context) -> Tensor:
        if self.to in ctx.benchmarks or self.to in ctx.assets:
            pull = ctx.covariance.matvec(ctx.benchmark(self.to).to(ctx.covariance.diagonal)).double()
            variance = float(ctx.benchmark(self.to).double() @ pull)
            ctx.refuse(~pull.isfinite(), f"The covariance with '{self.to}' is not finite", "fill or drop them")
            if not variance > 0.0:
                raise DataError(
                    f"BetaNeutral: '{self.to}' has no variance, so that there is no beta to it; give covariance= or a "
                    "market model."
                )
            return pull / variance
        try:
            return ctx.exposure(self.to).double()
        except SpecError as error:
            factors = ctx.factors
            known = listed(self.to, dict.fromkeys((*ctx.benchmarks, *factors, *ctx.assets)))
            raise SpecError(f"BetaNeutral: no benchmark, asset or factor '{self.to}'; there is {known}.") from error

    def explain(self) -> str:
        about = f" up to {self.within:g}" if self.within else ""
        return f"The beta to '{self.to}' is {self.target:g}{about}."


class DollarNeutral(RowRule):
    """|sum w| <= within: what is bought is paid for by what is sold short.

    Example:
        >>> DollarNeutral() & Leverage(2.0)
    """

    within: float = Field(default=0.0, ge=0.0)

    def rows(self, ctx: Context) -> list[Row]:
        ones = torch.ones(ctx.n_assets, dtype=torch.float64, device=ctx.tradeable.device)
        return [Row(ones, -self.within, self.within, repr(self))]

    def explain(self) -> str:
        return f"Longs and shorts are equal{f' up to {self.within:g}' if self.within else ''}."
