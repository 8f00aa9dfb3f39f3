"""The diversification laws that count issuers: UCITS 5/10/40, RIC 25/50, 75-5-10, and the sum of the largest.

An issuer's weight is the sum of its names' weights: two share classes are one issuer. `issuers` names the grouping of
the Context that says who issued what; with None every name is an issuer of its own, which the user has to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.caps import Cap, Tail
from portfolio_ebm.constraints.families import CapRule
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.modes import ModeRule, unit_codes, unit_sums
from portfolio_ebm.constraints.projections import HELD
from portfolio_ebm.context import Context
from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.types import require_last

SMALL, BIG = 0, 1


class _Concentration(ModeRule, ABC):
    """No issuer is above `largest`, and those above `threshold` are at most `together` in sum; none is short."""

    issuers: str | None = "issuer"

    threshold: ClassVar[float]
    largest: ClassVar[float]
    together: ClassVar[float]

    @property
    @abstractmethod
    def law(self) -> str:
        """Where it is written."""

    def choices(self, ctx: Context) -> Choices:
        codes = unit_codes(ctx, self.issuers, type(self).__name__)
        modes = [(0.0, self.threshold), (0.0, self.largest)]
        return Choices.of_groups(codes, modes, [(BIG, 0.0, self.together, True)], repr(self))

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """The most by which an issuer is too large or short, or the large ones together are too much, (...)."""
        require_last(w, ctx.n_assets, f"{type(self).__name__} weights")
        x = w if self.issuers is None else unit_sums(w, unit_codes(ctx, self.issuers, type(self).__name__))
        large = x.masked_fill(x <= self.threshold + _rounding(x), 0.0).sum(-1)
        single = (x - self.largest).maximum(-x).amax(-1)
        return single.maximum(large - self.together).clamp_min(0.0)

    def explain(self) -> str:
        who = "issuer" if self.issuers is not None else "name, each taken as an issuer of its own,"
        return (
            f"No {who} is above {self.largest:.0%}, and those above {self.threshold:.0%} are at most "
            f"{self.together:.0%} together ({self.law})."
        )


def _rounding(x: Tensor) -> float:
    """What a weight may be above a limit and still count as on it."""
    return max(HELD, 4.0 * float(torch.finfo(x.dtype).eps))


class UCITS(_Concentration):
    """5/10/40: no issuer above 10 %, and those above 5 % at most 40 % together. No issuer is short.

    Attributes:
        issuers: the grouping that names each asset's issuer; None where every asset is an issuer of its own.

    Raises:
        SpecError, DataError: the Context has no such grouping, or an asset has no label in it.

    Example:
        >>> optimize(Variance(), Budget() & LongOnly() & UCITS(), ..., groups={"issuer": issuers})

    Source: Directive 2009/65/EC, Article 52(1) and (2).
    """

    threshold: ClassVar[float] = 0.05
    largest: ClassVar[float] = 0.10
    together: ClassVar[float] = 0.40

    @property
    def law(self) -> str:
        return "UCITS, Directive 2009/65/EC, Article 52"


class RIC2550(_Concentration):
    """25/50: no issuer above 25 %, and those above 5 % at most 50 % together. No issuer is short.

    The law asks for it at the end of each quarter. Attributes, errors and use as `UCITS`.

    Source: Internal Revenue Code, section 851(b)(3); the 25/50 capped indexes follow it.
    """

    threshold: ClassVar[float] = 0.05
    largest: ClassVar[float] = 0.25
    together: ClassVar[float] = 0.50

    @property
    def law(self) -> str:
        return "regulated investment company, Internal Revenue Code 851(b)(3)"


class Diversified75510(ModeRule):
    """75-5-10: three quarters of the fund are in cash or in issuers of which it holds at most 5 % of itself and at most
    10 % of their voting securities. So the issuers beyond either limit are at most 25 % together. None is short.

    Attributes:
        issuers: as in `UCITS`.
        market_value: the forecast with each asset's voting securities outstanding in money; with the fund's capital it
            gives the 10 % limit. None says that the fund is too small for that limit to matter.

    Raises:
        SpecError: no such grouping or forecast, or no capital.
        DataError: an asset has no issuer, or no market value above zero.

    Example:
        >>> Budget() & LongOnly() & Diversified75510(market_value=None)

    Source: Investment Company Act of 1940, section 5(b)(1).
    """

    issuers: str | None = "issuer"
    market_value: str | None = "market_value"

    each: ClassVar[float] = 0.05
    voting: ClassVar[float] = 0.10
    others: ClassVar[float] = 0.25

    def _limits(self, ctx: Context) -> Tensor:
        """By issuer, the most it may weigh and count as diversified, (U,)."""
        codes = unit_codes(ctx, self.issuers, "Diversified75510")
        units = int(codes.max(initial=-1)) + 1
        found = torch.full((units,), self.each, dtype=torch.float64, device=ctx.tradeable.device)
        if self.market_value is None:
            return found
        if ctx.capital is None or not ctx.capital > 0.0:
            raise SpecError(
                "Diversified75510 limits the share of an issuer's votes, so it needs the fund's size: give "
                "Strategy(capital=...) or capital=, or say market_value=None where the fund is too small to matter."
            )
        value = ctx.forecast(self.market_value)
        if not bool((value > 0.0).all()):
            who = [name for name, good in zip(ctx.assets, (value > 0.0).tolist(), strict=True) if not good]
            raise DataError(f"Diversified75510: '{self.market_value}' is not above zero for {', '.join(who[:5])}.")
        return found.minimum(self.voting * unit_sums(value.to(found), codes) / ctx.capital)

    def choices(self, ctx: Context) -> Choices:
        codes = unit_codes(ctx, self.issuers, "Diversified75510")
        limits = [(BIG, 0.0, self.others, True)]
        found = Choices.of_groups(codes, [(0.0, self.each), (0.0, self.others)], limits, repr(self))
        found.upper[:, SMALL] = self._limits(ctx).cpu().numpy()
        return found

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """How far the issuers beyond a limit are above 25 % together, or an issuer is short, (...)."""
        require_last(w, ctx.n_assets, "Diversified75510 weights")
        x = unit_sums(w, unit_codes(ctx, self.issuers, "Diversified75510"))
        beyond = torch.where(x > self._limits(ctx).to(x) + _rounding(x), x, torch.zeros_like(x)).sum(-1)
        return (beyond - self.others).maximum((-x).amax(-1)).clamp_min(0.0)

    def explain(self) -> str:
        votes = f" or {self.voting:.0%} of its votes" if self.market_value is not None else ""
        return (
            f"Issuers of which the fund holds more than {self.each:.0%} of itself{votes} are at most "
            f"{self.others:.0%} together (diversified company, Investment Company Act of 1940, section 5(b)(1))."
        )


class TopSum(CapRule):
    """The n largest weights are at most `at_most` together. Convex, so it costs nothing extra.

    Attributes:
        n: how many. at_most: the most that they weigh together.
        issuers: a grouping, where it is its labels that are counted; None for names.

    Example:
        >>> Budget() & LongOnly() & TopSum(10, at_most=0.45)

    Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, section 3.2.3, for the sum of the largest.
    """

    n: int = Field(ge=1, strict=True)
    at_most: float = Field(gt=0.0)
    issuers: str | None = None

    def cap(self, ctx: Context) -> Cap:
        codes = unit_codes(ctx, self.issuers, "TopSum")
        units = int(codes.max(initial=-1)) + 1
        sums = torch.zeros(units, ctx.n_assets, dtype=torch.float64, device=ctx.tradeable.device)
        count = float(min(self.n, units))
        # The mean of the largest of count x_u is their sum: an excess is in the rule's own units.
        sums[codes, np.arange(ctx.n_assets)] = count
        return Tail(repr(self), self.at_most, sums, count)

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """How far the n largest together are above `at_most`, (...)."""
        require_last(w, ctx.n_assets, "TopSum weights")
        x = unit_sums(w, unit_codes(ctx, self.issuers, "TopSum"))
        return (x.topk(min(self.n, x.shape[-1]), dim=-1).values.sum(-1) - self.at_most).clamp_min(0.0)

    def explain(self) -> str:
        what = "weights" if self.issuers is None else f"weights by {self.issuers}"
        return f"The {self.n} largest {what} are at most {self.at_most:g} together."
