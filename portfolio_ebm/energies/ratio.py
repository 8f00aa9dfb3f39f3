"""Ratios: gain over risk, as energies that construction/exact/ratio.py minimises exactly.

    E(w) = G(w) / R(w),   G = Return() (minus the gain), R a positively homogeneous measure of risk

A ratio is not convex. Where some portfolio gains (G < 0) it is quasi-convex: {E <= -c} = {G + c R <= 0}, a convex set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import model_validator

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Volatility
from portfolio_ebm.energies.returns import Return, affine, linear
from portfolio_ebm.energies.robust import deviations
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Energy, Quadratic, curvature, needs


class Ratio(Energy, ABC):
    """numerator(w) / denominator(w), both convex, the denominator positive."""

    curvature: ClassVar[Curvature] = "none"

    @property
    @abstractmethod
    def numerator(self) -> Energy:
        """Minus the gain: a convex formula."""

    @property
    @abstractmethod
    def denominator(self) -> Energy:
        """The risk: a convex formula."""

    def asks(self) -> frozenset[str]:
        return needs(self.numerator) | needs(self.denominator)

    def check(self, ctx: Context) -> None:
        for part in (*self.numerator.terms(), *self.denominator.terms()):
            part.energy.check(ctx)

    def bind(self, ctx: Context) -> Bound:
        top, bottom = self.numerator.bind(ctx), self.denominator.bind(ctx)
        return lambda w: top(w) / bottom(w)


class MaxRatio(Ratio):
    """E(w) = gain(w) / risk(w), to be minimised: with Return() over Volatility() minus the Sharpe ratio.

    Convex() finds its minimum over any convex rules. `Return() + Cash(rate, excess=True)` is the excess over cash.

    Units: none; per holding period.

    Attributes:
        gain: minus what is to be large, a convex formula: Return(), Return() + TradingCost(5 * bps), Views(...).
        risk: a convex measure that doubles with the portfolio: Volatility(), CVaR(), EVaR(), MeanAbsoluteDeviation(),
            Semideviation(), CDaR(), MaxDrawdown().

    Raises:
        SpecError: gain or risk is not convex.

    Example:
        >>> MaxRatio(Return(), CVaR(level=0.95))

    Source: Charnes, A. and Cooper, W. W. (1962), Programming with linear fractional functionals, Naval Research
    Logistics Quarterly 9; Dinkelbach, W. (1967), On nonlinear fractional programming, Management Science 13(7).
    """

    gain: Energy = Return()
    risk: Energy = Volatility()

    @model_validator(mode="after")
    def _convex(self) -> MaxRatio:
        for name, energy in (("gain", self.gain), ("risk", self.risk)):
            if curvature(energy) == "none":
                raise ValueError(f"{name}={energy!r} is not convex; leave the term that is not out")
        return self

    @property
    def numerator(self) -> Energy:
        return self.gain

    @property
    def denominator(self) -> Energy:
        return self.risk


class MaximumDiversification(Ratio):
    """E(w) = -sum_i s_i w_i / sqrt(w'S w): minus the diversification ratio, the mean volatility over that of the whole.

    Units: none.

    Example:
        >>> optimize(MaximumDiversification(), Budget() & LongOnly(), covariance=cov, constructor=Convex())

    Source: Choueifaty, Y. and Coignard, Y. (2008), Toward maximum diversification, Journal of Portfolio Management
    35(1).
    """

    @property
    def numerator(self) -> Energy:
        return MeanVolatility()

    @property
    def denominator(self) -> Energy:
        return Volatility()


class MeanVolatility(ConvexEnergy):
    """E(w) = -sum_i s_i w_i, s_i the volatility of name i: the risk there would be if nothing diversified, turned.

    Units: fraction of wealth per holding period.

    Example:
        >>> MaxRatio(MeanVolatility(), Volatility())  # MaximumDiversification()

    Source: as MaximumDiversification.
    """

    curvature: ClassVar[Curvature] = "affine"
    needs: ClassVar[frozenset[str]] = frozenset({"covariance"})

    def bind(self, ctx: Context) -> Bound:
        return linear(deviations(ctx.covariance), "MeanVolatility")

    def quadratic(self, ctx: Context) -> Quadratic:
        return affine(deviations(ctx.covariance))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return -(deviations(ctx.covariance).detach().cpu().numpy() @ w)
