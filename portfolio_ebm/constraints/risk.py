"""Rules on risk over one holding period: VolatilityCap, TrackingErrorCap, CVaRCap.

Limits are per holding period, as every estimate is: an annual volatility of 10 % at monthly holding is about
`0.10 / 12**0.5`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.caps import Ellipsoid, Tail
from portfolio_ebm.constraints.families import CapRule
from portfolio_ebm.context import Context
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.errors import DataError
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import require_last

BASIS_POINT = 1e-4


class VolatilityCap(CapRule):
    """sqrt(w'S w) <= at_most, S the market's covariance per holding period.

    Example:
        >>> VolatilityCap(0.10 / 12**0.5)  # monthly holding, 10 % a year

    Raises:
        SpecError: with a context, no market model. DataError: a covariance that is not finite.
    """

    step: ClassVar[float] = BASIS_POINT
    at_most: float = Field(gt=0.0)

    def asks(self) -> frozenset[str]:
        return frozenset({"covariance"})

    def cap(self, ctx: Context) -> Ellipsoid:
        zero = torch.zeros(ctx.n_assets, dtype=torch.float64, device=ctx.tradeable.device)
        return Ellipsoid(repr(self), self.at_most, zero, _covariance(ctx))

    def explain(self) -> str:
        return f"The volatility is at most {self.at_most:g} per holding period."


class TrackingErrorCap(CapRule):
    """sqrt((w - b)'S (w - b)) <= at_most, b the benchmark's weights at the date: the volatility of the difference.

    Example:
        >>> TrackingErrorCap(0.03 / 12**0.5, benchmark="index")

    Source: Roll, R. (1992), A mean/variance analysis of tracking error, Journal of Portfolio Management 18(4).

    Raises:
        SpecError: with a context, no market model or an unknown benchmark. DataError: a covariance that is not finite.
    """

    step: ClassVar[float] = BASIS_POINT
    at_most: float = Field(gt=0.0)
    benchmark: str

    def asks(self) -> frozenset[str]:
        return frozenset({"covariance"})

    def cap(self, ctx: Context) -> Ellipsoid:
        return Ellipsoid(repr(self), self.at_most, ctx.benchmark(self.benchmark).double(), _covariance(ctx))

    def explain(self) -> str:
        return f"The tracking error to '{self.benchmark}' is at most {self.at_most:g} per holding period."


class CVaRCap(CapRule):
    """CVaR_level(w) <= at_most over the scenarios of the context; see the energy CVaR.

    Example:
        >>> CVaRCap(0.05, level=0.95)

    Source: Krokhmal, P., Palmquist, J. and Uryasev, S. (2002), Portfolio optimization with conditional value-at-risk
    objective and constraints, Journal of Risk 4(2).

    Raises:
        SpecError: with a context, no scenarios. DataError: scenarios that are not finite.
    """

    step: ClassVar[float] = BASIS_POINT
    at_most: float
    level: float = Field(default=0.95, ge=0.0, lt=1.0)
    centred: bool = False

    def asks(self) -> frozenset[str]:
        return frozenset({"scenarios"})

    def cap(self, ctx: Context) -> Tail:
        term = CVaR(level=self.level, centred=self.centred)
        losses = require_last(term.losses(ctx), ctx.n_assets, "scenarios").double()
        ctx.refuse(~losses.isfinite().all(-2), "The scenarios are not finite", "fill or drop them")
        return Tail(repr(self), self.at_most, losses.nan_to_num(0.0), term.tail(losses.shape[-2]))

    def explain(self) -> str:
        what = "beyond its mean " if self.centred else ""
        return f"The mean loss {what}in the worst {1 - self.level:.3g} of scenarios is at most {self.at_most:g}."


def _covariance(ctx: Context) -> Structured:
    """The covariance in float64, refused where it is not one.

    Raises:
        DataError: an entry of a tradeable name is not finite.
    """
    s = ctx.covariance
    require_last(s.diagonal, ctx.n_assets, "covariance")
    usable: Tensor = s.diagonal.isfinite() & s.loadings.isfinite().all(-1)
    ctx.refuse(~usable, "The covariance is not finite", "fill or drop them")
    if not bool(s.core.isfinite().all()):
        raise DataError("The covariance of the factors is not finite; mend the market model's factors.")
    return Structured(s.loadings.double().nan_to_num(0.0), s.core.double(), s.diagonal.double().nan_to_num(0.0))
