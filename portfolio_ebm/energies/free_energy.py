"""FactorRisk(risk_aversion): the free energies of independently trained factor models, added.

For independent parts x_k with densities p_k = exp(-E_k)/Z_k and exposures b = B'w, the entropic risk of the
centred portfolio return is exactly additive,

    (1/g) log E[exp(-g w'r)] = sum_k (1/g) [log Z_k(g b_k) - log Z_k],   Z_k(u) = int exp(-E_k(x) - u x) dx :

each factor's energy model gives one convex, smooth term in w by one 1-D quadrature, whose slope in b_k is
minus the mean of x_k under the tilted law. As g -> 0 the sum tends to g/2 times the portfolio's variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import cvxpy as cp
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.entropic import EntropicRisk
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energy import Bound, Curvature, Quadratic
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import lift, require_last


class FactorRisk(SmoothEnergy):
    """E(w) = sum_k (1/g) log sum_g exp(log_mass[k, g] - g b_k values[k, g]), b = w @ exposures.

    The parts are factors and residuals, with centred returns, densities truncated to declared bounds and
    renormalised: under a power tail the free energy would be infinite, and the number of nodes would decide it.
    `tail_mass` says how much of each tilted law lies near its bound.

    Units: fraction of wealth per holding period: the sure loss that is as bad as the risk, for an investor of
    constant absolute risk aversion g. Small risks cost g/2 times their variance.

    Attributes:
        risk_aversion: g > 0, per unit of wealth.
        dependence: take the scenarios' value, which sees how the parts move together and how they compound; the sum
            over parts then stays in the breakdown, with the remainder as "dependence". `diagnose` gives the effective
            number of scenarios behind it.

    Example:
        >>> Return() + FactorRisk(risk_aversion=5)

    Source: Follmer, H. and Schied, A. (2002), Convex measures of risk and trading constraints, Finance and
    Stochastics 6 (the entropic measure).
    """

    risk_aversion: float = Field(default=5.0, gt=0.0)
    dependence: bool = False

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"marginals"})

    def asks(self) -> frozenset[str]:
        return self.needs | {"scenarios"} if self.dependence else self.needs

    @property
    def _joint(self) -> EntropicRisk:
        return EntropicRisk(risk_aversion=self.risk_aversion, centred=True)

    def pieces(self, w: Tensor, ctx: Context) -> dict[str, Tensor]:
        """Each part's free energy, and with `dependence` what the scenarios' value has beyond their sum."""
        found = self.additive_terms(w, ctx)
        if self.dependence:
            found["dependence"] = self._joint.bind(ctx)(w) - torch.stack(list(found.values())).sum(0)
        return found

    def diagnose(self, w: Tensor, ctx: Context) -> dict[str, float]:
        """The largest mass of a part's tilted law near its bound, and with `dependence` the effective scenarios."""
        found = {"mass near the bound": max(float(x) for x in self.tail_mass(w, ctx).values())}
        return found | self._joint.diagnose(w, ctx) if self.dependence else found

    def bind(self, ctx: Context) -> Bound:
        if self.dependence:
            return self._joint.bind(ctx)
        parts = self._parts(ctx)
        return lambda w: parts(w).sum(-1)

    def additive_terms(self, w: Tensor, ctx: Context) -> dict[str, Tensor]:
        """Each part's free energy at w (..., n), by name; they add up to E(w)."""
        return dict(zip(ctx.marginals.names, self._parts(ctx)(w).unbind(-1), strict=True))

    def tail_mass(self, w: Tensor, ctx: Context, near: float = 0.9) -> dict[str, Tensor]:
        """By part, the mass of its tilted law beyond `near` times its truncation bound.

        A part whose mass is not small is ruled by where its density was cut, not by what was learned.
        """
        table = ctx.marginals
        tilted = torch.softmax(self._exponent(ctx)(w), dim=-1)
        edge = near * table.values.abs().amax(-1, keepdim=True)
        outside = lift((table.values.abs() >= edge).to(w.dtype), w, 2)
        return dict(zip(table.names, (tilted * outside).sum(-1).unbind(-1), strict=True))

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient: minus the tilted means, through the exposures. Hessian: g B diag(tilted variances) B'."""
        if self.dependence:
            return self._joint.taylor(ctx)
        table, exponent, g = ctx.marginals, self._exponent(ctx), self.risk_aversion

        def model(w: Tensor) -> Quadratic:
            x = exponent(w)
            b = w @ table.exposures
            tilted = torch.softmax(x, dim=-1)
            mean = (tilted * table.values).sum(-1)
            variance = (tilted * (table.values - mean.unsqueeze(-1)).square()).sum(-1)
            matrix = Structured(table.exposures, torch.diag_embed(g * variance), torch.zeros_like(w))
            gradient = -(table.exposures @ mean)
            value = torch.logsumexp(x, dim=-1).sum(-1) / g
            curve = table.exposures @ (g * variance * b)
            return Quadratic(matrix, gradient - curve, value - gradient @ w + 0.5 * (curve @ w))

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        if self.dependence:
            return self._joint.to_cvxpy(w, ctx)
        table, g = ctx.marginals, self.risk_aversion
        values, log_mass = table.values.detach().cpu().numpy(), table.log_mass.detach().cpu().numpy()
        b = table.exposures.detach().cpu().numpy().T @ w
        grid = cp.reshape(b, (len(table.names), 1), order="C") @ np.ones((1, values.shape[-1]))
        return cp.sum(cp.log_sum_exp(log_mass - cp.multiply(g * values, grid), axis=1)) / g

    def _exponent(self, ctx: Context) -> Callable[[Tensor], Tensor]:
        table, g = ctx.marginals, self.risk_aversion

        def exponent(w: Tensor) -> Tensor:
            require_last(w, table.exposures.shape[-2], "FactorRisk")
            b = (w.unsqueeze(-2) @ lift(table.exposures, w, 2)).squeeze(-2)
            return lift(table.log_mass, w, 2) - g * b.unsqueeze(-1) * lift(table.values, w, 2)

        return exponent

    def _parts(self, ctx: Context) -> Callable[[Tensor], Tensor]:
        exponent = self._exponent(ctx)
        return lambda w: torch.logsumexp(exponent(w), dim=-1) / self.risk_aversion
