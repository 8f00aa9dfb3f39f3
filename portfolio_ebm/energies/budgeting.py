"""RiskBudget and FactorRiskBudget: portfolios whose risk comes from where the budgets say, in convex log form.

    E(w) = k/2 w'S w - sum_i b_i log w_i,     sum b = 1

At the minimum k w_i (S w)_i = b_i: name i carries the share b_i of the variance. Without a rule that binds, the
size of w is decided by k; k is chosen so that the weights then add up to `total`: with x the minimum at k = 1,
k = (sum x / total)^2. So Budget(total) costs nothing and leaves the shares as they are; other rules pull them away
as little as the energy allows. Over factors with exposures B the logs are of y = B'w; since the least variance at given
y is y'(B'S^-1 B)^-1 y, at x = S^-1 B (B'S^-1 B)^-1 y, the same small problem in y gives the scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

import cvxpy as cp
import torch
from pydantic import Field, field_validator
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import around
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energy import Bound, Curvature, Quadratic
from portfolio_ebm.errors import DataError, SolverError, SpecError
from portfolio_ebm.types import lift, require_last


class Budgeting(SmoothEnergy, ABC):
    """k/2 w'S w - sum_j b_j log (A'w)_j with the scale k that makes the free minimum add up to `total`."""

    budgets: tuple[tuple[str, float], ...] = ()
    total: float = Field(default=1.0, gt=0.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"covariance"})

    @field_validator("budgets", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = tuple(sorted((str(name), float(share)) for name, share in value.items()))
        pairs = tuple((str(name), float(share)) for name, share in value)
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name is given twice; keep one of them")
        if any(not share > 0.0 for _, share in pairs):
            raise ValueError("every budget must be above zero; leave the others out of the universe")
        return pairs

    @abstractmethod
    def _solved(self, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(A (..., n, m), b (..., m), x (..., n)): exposures, budgets that add up to one, the free minimum at k = 1."""

    def _kept(self, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if self not in ctx.kept:
            ctx.kept[self] = self._solved(ctx)
        found: tuple[Tensor, Tensor, Tensor] = ctx.kept[self]
        return found

    def pieces_of_risk(self, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(A (..., n, m), b (..., m), k (...)): exposures, budgets that add up to one, scale."""
        a, b, x = self._kept(ctx)
        return a, b, (x.sum(-1) / self.total).square()

    def free_minimum(self, ctx: Context) -> Tensor:
        """The minimum (..., n) without any rule."""
        x = self._kept(ctx)[2]
        return x * (self.total / x.sum(-1, keepdim=True))

    def check(self, ctx: Context) -> None:
        self.pieces_of_risk(ctx)

    def bind(self, ctx: Context) -> Bound:
        s, (a, b, k) = ctx.covariance, self.pieces_of_risk(ctx)
        who = type(self).__name__

        def energy(w: Tensor) -> Tensor:
            y = (require_last(w, s.n, who).unsqueeze(-2) @ lift(a, w, 2)).squeeze(-2)
            share = lift(b, w).expand_as(y)
            logs = torch.where(share > 0.0, y, torch.ones_like(y))
            logs = torch.where(logs > 0.0, logs, torch.zeros_like(logs)).log()
            return 0.5 * lift(k, w, 0) * s.quad(w) - (share * logs).sum(-1)

        return energy

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient k S w - A (b / y), Hessian k S + A diag(b / y^2) A', y = A'w > 0."""
        s, (a, b, k) = ctx.covariance, self.pieces_of_risk(ctx)
        dense, value = s.dense(), self.bind(ctx)

        def model(w: Tensor) -> Quadratic:
            # Beyond the logs' domain there is no model: b / y would point to stationary points of another orthant.
            y = torch.where(b > 0.0, w @ a, torch.ones_like(b))
            y = torch.where(y > 0.0, y, torch.full_like(y, torch.nan))
            return around(w, value(w), k * (dense @ w) - a @ (b / y), k * dense + (a * (b / y.square())) @ a.mT)

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        a, b, k = (x.detach().cpu().numpy() for x in self.pieces_of_risk(ctx))
        root = (0.5 * float(k)) ** 0.5 * ctx.covariance.root().detach().cpu().numpy()
        kept = b > 0.0
        return cp.sum_squares(root @ w) - b[kept] @ cp.log(a[:, kept].T @ w)


class RiskBudget(Budgeting):
    """E(w) = k/2 w'S w - sum_i b_i log w_i; at its minimum w_i (S w)_i / w'S w = b_i.

    Without budgets every tradeable name carries the same risk (risk parity). Infinite where a weight is not positive.

    Units: none; the size of an energy of this kind against others is decided by its coefficient alone.

    Attributes:
        budgets: by asset, shares of the variance, normalised to one; names that cannot be traded are left out. Empty
            for equal shares.
        total: what the weights of the free minimum add up to; give what Budget has.

    Raises:
        SpecError: budgets name an unknown asset, or leave a tradeable one out.

    Example:
        >>> optimize(RiskBudget(), Budget() & LongOnly(), covariance=cov, constructor=Convex())

    Source: Spinu, F. (2013), An algorithm for computing risk parity weights; Maillard, S., Roncalli, T. and Teiletche,
    J. (2010), The properties of equally weighted risk contribution portfolios, Journal of Portfolio Management 36(4).
    """

    def _solved(self, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        s = ctx.covariance.dense()
        n, free = ctx.n_assets, ctx.tradeable.to(s)
        share = free if not self.budgets else free * s.new_tensor(self._shares(ctx))
        b = share / share.sum(-1, keepdim=True)
        eye = torch.eye(n, dtype=s.dtype, device=s.device)
        # The names left out do not enter the free minimum: a unit variance and no budget keep them at zero.
        x = budgeted(torch.where(free.unsqueeze(-1) * free.unsqueeze(-2) > 0, s, eye), b)
        return eye.expand_as(s), b, x

    def contributions(self, w: Tensor, ctx: Context) -> Tensor:
        """w_i (S w)_i / w'S w, (..., n): each name's share of the variance."""
        pull = w * ctx.covariance.matvec(w)
        return pull / pull.sum(-1, keepdim=True)

    def _shares(self, ctx: Context) -> list[float]:
        given = dict(self.budgets)
        for name in given:
            if name not in ctx.assets:
                near = get_close_matches(name, ctx.assets, n=3) or list(ctx.assets[:8])
                raise SpecError(f"RiskBudget: no asset '{name}'; there is {', '.join(near)}.")
        may = ctx.tradeable.reshape(-1, ctx.n_assets).any(0).tolist()
        lost = [name for name, free in zip(ctx.assets, may, strict=True) if free and name not in given]
        if lost:
            raise SpecError(f"RiskBudget: no budget for {', '.join(lost[:5])}; give one, or bar them from trading.")
        return [given.get(name, 0.0) for name in ctx.assets]


class FactorRiskBudget(Budgeting):
    """E(w) = k/2 w'S w - sum_j b_j log (B'w)_j; at its free minimum factor j carries the share b_j of the variance.

    With y = B'w the marginal risk of factor j is g_j, S w = B g; at the minimum k y_j g_j = b_j. Rules such as LongOnly
    that bind pull the shares away: `contributions` says what they are. Infinite where an exposure is not positive.

    Units: none, as RiskBudget.

    Attributes:
        budgets: by factor, shares of the variance, normalised to one; exposures come from `exposures=` or the market.
        total: what the weights of the free minimum add up to.

    Raises:
        SpecError: no such factor, or no budgets; DataError: the free minimum does not add up to a positive total.

    Example:
        >>> FactorRiskBudget({"market": 0.7, "value": 0.3})

    Source: Roncalli, T. and Weisang, G. (2016), Risk parity portfolios with risk factors, Quantitative Finance 16(3).
    """

    budgets: tuple[tuple[str, float], ...]

    def _solved(self, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        s = ctx.covariance.dense()
        a = torch.stack([ctx.exposure(name).to(s).expand(s.shape[:-1]) for name, _ in self.budgets], -1)
        share = s.new_tensor([value for _, value in self.budgets])
        b = (share / share.sum()).expand(*s.shape[:-2], len(share))
        small, x_of = self._reduced(s, a, ctx)
        x = x_of(budgeted(small, b))
        size = x.sum(-1)
        if bool((size <= 0.0).any()):
            raise DataError(
                f"{self!r}: the portfolio with these factor budgets{ctx.at} is net short, so it cannot add up to "
                f"{self.total:g}; turn the sign of a factor, or leave it out."
            )
        return a, b, x

    def contributions(self, w: Tensor, ctx: Context) -> Tensor:
        """y_j g_j / w'S w, (..., m), g the least-squares solution of B g = S w."""
        s = ctx.covariance
        a = torch.stack([ctx.exposure(name).to(w).expand(s.diagonal.shape) for name, _ in self.budgets], -1)
        pull = s.matvec(w)
        g = (pull.unsqueeze(-2) @ lift(torch.linalg.pinv(a), w, 2).mT).squeeze(-2)
        y = (w.unsqueeze(-2) @ lift(a, w, 2)).squeeze(-2)
        return y * g / (w * pull).sum(-1, keepdim=True)

    def _reduced(self, s: Tensor, a: Tensor, ctx: Context) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """((A'S^-1 A)^-1, y -> x = S^-1 A (A'S^-1 A)^-1 y)."""
        try:
            root = torch.linalg.cholesky(s)
            back = torch.cholesky_solve(a, root)
            small = torch.linalg.inv(a.mT @ back)
        except RuntimeError:
            raise DataError(
                f"{self!r}: the covariance or the exposures{ctx.at} have not full rank; shrink it, or drop a factor."
            ) from None
        return small, lambda y: (back @ (small @ y.unsqueeze(-1))).squeeze(-1)


def budgeted(s: Tensor, b: Tensor) -> Tensor:
    """argmin 1/2 x'S x - sum b log x over x > 0, S (..., n, n), b (..., n), by damped Newton; zero where b is zero.

    The function is self-concordant in x scaled by sqrt(b): steps of length 1/(1 + decrement) always descend.

    Raises:
        SolverError: it does not end, which a covariance with a long position of no risk can do.
    """
    on = b > 0.0
    x = torch.where(on, (b / s.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300)).sqrt(), torch.zeros_like(b))
    start = ((x.unsqueeze(-2) @ s).squeeze(-2) * x).sum(-1, keepdim=True).clamp_min(1e-300)
    x = x / start.sqrt()
    decrement = torch.full_like(x[..., :1], torch.inf)
    low = b.masked_fill(~on, torch.inf).amin(-1, keepdim=True).sqrt()
    for _ in range(200):
        inverse = torch.where(on, b / torch.where(on, x, torch.ones_like(x)), torch.zeros_like(x))
        gradient = torch.where(on, (s @ x.unsqueeze(-1)).squeeze(-1) - inverse, torch.zeros_like(x))
        curve = torch.where(on, inverse / torch.where(on, x, torch.ones_like(x)), torch.ones_like(x))
        hessian = torch.where(on.unsqueeze(-1) & on.unsqueeze(-2), s, torch.zeros_like(s)) + torch.diag_embed(curve)
        try:
            step: Tensor = torch.linalg.solve(hessian, gradient)
        except RuntimeError:
            break
        decrement = (gradient * step).sum(-1, keepdim=True).clamp_min(0.0).sqrt()
        length = torch.where(decrement < 0.25 * low, torch.ones_like(decrement), 1.0 / (1.0 + decrement / low))
        x = x - length * step
        if float(decrement.max()) < 1e-14:
            return x
    if float(decrement.max()) < 1e-9:
        return x
    raise SolverError(
        "No risk-budgeting portfolio was found: some long portfolio seems to have no risk; shrink the covariance."
    )
