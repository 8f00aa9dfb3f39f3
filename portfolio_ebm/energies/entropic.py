"""EntropicRisk and EVaR: risks from the exponential moments of the scenarios.

    R_g(l) = (1/g) log (1/S) sum_s exp(g l_s),        l = -R w
    EVaR_a(l) = min over g > 0 of  R_g(l) + (1/g) log 1/(1 - a)

At the minimum the tilted law p_s ~ exp(g l_s) lies log 1/(1 - a) nats from the even one: EVaR is the worst mean loss
over all reweightings of the scenarios within that relative entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import cvxpy as cp
import numpy as np
import torch
from cvxpy.transforms.indicator import indicator
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import around, away
from portfolio_ebm.energies.faces import SmoothEnergy, portfolio_returns
from portfolio_ebm.energy import Bound, Curvature, Quadratic
from portfolio_ebm.types import require_last


class EntropicRisk(SmoothEnergy):
    """E(w) = (1/g) log (1/S) sum_s exp(-g r_s), r = R w, its scenario mean removed where `centred=True`.

    Units: fraction of wealth per holding period: the sure loss that is as bad as the risk, for constant absolute
    risk aversion g. Unlike FactorRisk it sees dependence, and it knows no more of the tails than the scenarios do:
    `diagnose` gives the effective number of scenarios behind it.

    Attributes:
        risk_aversion: g > 0, per unit of wealth.
        centred: whether the mean belongs to `Return` alone.

    Example:
        >>> Return() + EntropicRisk(risk_aversion=5)

    Source: Follmer, H. and Schied, A. (2002), Convex measures of risk and trading constraints, Finance and
    Stochastics 6.
    """

    risk_aversion: float = Field(default=5.0, gt=0.0)
    centred: bool = True

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"scenarios"})

    def bind(self, ctx: Context) -> Bound:
        rows, g = away(ctx, self.centred), self.risk_aversion
        size, n = rows.shape[-2:]

        def energy(w: Tensor) -> Tensor:
            x = portfolio_returns(rows, require_last(w, n, "EntropicRisk"))
            return (torch.logsumexp(-g * x, -1) - math.log(size)) / g

        return energy

    def effective(self, w: Tensor, ctx: Context) -> Tensor:
        """1 / sum p_s^2 (...), p the tilted law: how many scenarios carry the number."""
        x = portfolio_returns(away(ctx, self.centred), w)
        return 1.0 / torch.softmax(-self.risk_aversion * x, -1).square().sum(-1)

    def diagnose(self, w: Tensor, ctx: Context) -> dict[str, float]:
        return {"effective scenarios": float(self.effective(w, ctx))}

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient -R'p, Hessian g Cov_p(R)."""
        rows, g = away(ctx, self.centred), self.risk_aversion
        value = self.bind(ctx)

        def model(w: Tensor) -> Quadratic:
            p = torch.softmax(-g * (rows @ w), -1)
            mean = p @ rows
            apart = rows - mean
            return around(w, value(w), -mean, g * (apart.mT @ (p.unsqueeze(-1) * apart)))

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        rows, g = away(ctx, self.centred).detach().cpu().numpy(), self.risk_aversion
        return (cp.log_sum_exp(-g * (rows @ w)) - math.log(len(rows))) / g


class EVaR(SmoothEnergy):
    """Entropic value at risk of the loss l = -R w: min_t t log( (1/S) sum_s exp(l_s / t) / (1 - a) ).

    Between CVaR at the same level and the largest loss, which it is where S (1 - a) <= 1.

    Units: fraction of wealth per holding period; positive for a loss; positively homogeneous.

    Attributes:
        level: a, in (0, 1).
        centred: whether the mean over scenarios is removed.

    Example:
        >>> EVaR(level=0.95, centred=True)

    Source: Ahmadi-Javid, A. (2012), Entropic value-at-risk: a new coherent risk measure, Journal of Optimization
    Theory and Applications 155.
    """

    level: float = Field(default=0.95, gt=0.0, lt=1.0)
    centred: bool = False

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"scenarios"})

    @property
    def _far(self) -> float:
        """log 1/(1 - a): the relative entropy the worst law may have."""
        return -math.log1p(-self.level)

    def bind(self, ctx: Context) -> Bound:
        rows = away(ctx, self.centred)
        size, n = rows.shape[-2:]
        shift = self._far - math.log(size)

        def energy(w: Tensor) -> Tensor:
            loss = -portfolio_returns(rows, require_last(w, n, "EVaR"))
            g, inside = tilt(loss.detach(), self._far)
            # Envelope theorem: at the best g the slope in g is zero, so g is a constant to autograd.
            value = (torch.logsumexp(g.unsqueeze(-1) * loss, -1) + shift) / g
            return torch.where(inside, value, loss.amax(-1))

        return energy

    def worst(self, ctx: Context) -> bool:
        """Whether the tail is no more than one scenario, so that E is the largest loss."""
        return ctx.scenarios.shape[-2] * (1.0 - self.level) <= 1.0 + 1e-12

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient -R'p, Hessian g [Cov_p(R) - Cov_p(R, l) Cov_p(l, R) / Var_p(l)]."""
        rows = away(ctx, self.centred)
        shift = self._far - math.log(len(rows))

        def model(w: Tensor) -> Quadratic:
            loss = -(rows @ w)
            g, inside = tilt(loss, self._far)
            if not bool(inside):
                worst = -rows[loss.argmax()]
                return around(w, loss.amax(), worst, torch.zeros(len(w), len(w), dtype=w.dtype, device=w.device))
            value = (torch.logsumexp(g * loss, -1) + shift) / g
            p = torch.softmax(g * loss, -1)
            mean = p @ rows
            apart, gap = rows - mean, loss - p @ loss
            with_loss = (p * gap) @ apart
            spread = (p * gap.square()).sum()
            hessian = apart.mT @ (p.unsqueeze(-1) * apart) - torch.outer(with_loss, with_loss) / spread
            return around(w, value, -mean, g * hessian)

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        rows = away(ctx, self.centred).detach().cpu().numpy()
        size = len(rows)
        if self.worst(ctx):
            return cp.max(-(rows @ w))
        t, top, u = cp.Variable(nonneg=True), cp.Variable(), cp.Variable(size)
        cone = cp.constraints.ExpCone(-(rows @ w) - top, t * np.ones(size), u)
        # t, top and u are free: whoever minimises over w minimises over them too.
        return top + t * (self._far - math.log(size)) + indicator([cone, cp.sum(u) <= t])


def tilt(loss: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """(g, inside): the tilt at which softmax(g loss) lies `far` nats from the even law, by bisection and Newton.

    loss (..., S) without a gradient, g (...). Where the largest losses alone carry mass exp(-far) or more no tilt is
    that far: `inside` is False there and g is 1 over the spread of losses.
    """
    size = loss.shape[-1]
    top = loss.amax(-1, keepdim=True)
    spread = (top - loss.amin(-1, keepdim=True)).squeeze(-1)
    unit = torch.where(spread > 0.0, spread, torch.ones_like(spread))
    x = (loss - top) / unit.unsqueeze(-1)
    ties = (x == 0.0).sum(-1).to(loss.dtype)
    inside = (spread > 0.0) & (math.log(size) - ties.log() > far * (1.0 + 1e-12))
    low, high = torch.full_like(spread, -20.0), torch.full_like(spread, 32.0)
    # Losses like a Gaussian's lie g^2 var / 2 nats away.
    near = 2.0 * far / x.var(-1, unbiased=False).clamp_min(torch.finfo(loss.dtype).tiny)
    u = (0.5 * near.log()).clamp(-10.0, 20.0)
    for _ in range(80):
        tilted = u.exp()
        # The largest x is zero, so that nothing overflows.
        mass = (tilted.unsqueeze(-1) * x).exp()
        whole = mass.sum(-1)
        p = mass / whole.unsqueeze(-1)
        mean = (p * x).sum(-1)
        miss = tilted * mean - whole.log() + math.log(size) - far
        low, high = torch.where(miss < 0.0, u, low), torch.where(miss < 0.0, high, u)
        slope = tilted.square() * (p * (x - mean.unsqueeze(-1)).square()).sum(-1)
        step = u - miss / slope.clamp_min(torch.finfo(loss.dtype).tiny)
        good = (step > low) & (step < high)
        moved = torch.where(good, step, 0.5 * (low + high))
        # Newton's next step would be of the order of this one's square.
        done = (good & ((moved - u).abs() < 1e-8)) | ((moved - u).abs() < 1e-12) | ~inside
        u = moved
        if bool(done.all()):
            break
    return torch.where(inside, u.exp(), torch.ones_like(u)) / unit, inside
