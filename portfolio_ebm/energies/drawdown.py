"""MaxDrawdown and CDaR: how far the portfolio falls from its peak on scenario paths of the holding period.

    c_t = sum of the portfolio's returns up to step t,   d_t = max(0, c_1, ..., c_t) - c_t

Returns are added, not compounded, which makes d convex in w; weights are held fixed along the path. The start of the
holding period counts as a peak. With one historical path (h = T, S = 1) both are the usual sample measures.
"""

from __future__ import annotations

from typing import Any, ClassVar

import cvxpy as cp
import numpy as np
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.faces import portfolio_returns, tail_count, tail_mean
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature
from portfolio_ebm.types import require_last


class MaxDrawdown(ConvexEnergy):
    """E(w) = mean over the worst 1 - a of all S paths of max_t d_t; by default a = 0, the expected maximum drawdown.

    Units: fraction of wealth over the holding period; positive; positively homogeneous. Not centred: a drift up
    makes drawdowns smaller.

    Attributes:
        level: a, in [0, 1), over paths.

    Example:
        >>> Return() + 0.5 * MaxDrawdown()

    Source: Chekhlov, A., Uryasev, S. and Zabarankin, M. (2005), Drawdown measure in portfolio optimization,
    International Journal of Theoretical and Applied Finance 8(1).
    """

    level: float = Field(default=0.0, ge=0.0, lt=1.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"paths"})

    def bind(self, ctx: Context) -> Bound:
        falls, count = drawdowns(ctx, "MaxDrawdown"), tail_count(ctx.paths.shape[-3], self.level)
        return lambda w: tail_mean(falls(w).amax(-1), count)

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        falls = _falls(w, ctx)
        size = falls.shape[1]
        if size == 1:
            return cp.max(falls)
        worst, count = cp.max(falls, axis=0), tail_count(size, self.level)
        return cp.sum_largest(worst, count) / count if count >= 1.0 else cp.max(worst)


class CDaR(ConvexEnergy):
    """Conditional drawdown at risk: the mean of the worst 1 - a of all drawdowns d_t, over all S paths and h steps.

    a = 0 is the average drawdown, a -> 1 the worst drawdown on any path.

    Units: fraction of wealth over the holding period; positive; positively homogeneous. Not centred.

    Attributes:
        level: a, in [0, 1), over the S h drawdowns.

    Example:
        >>> Return() + CDaR(level=0.95)

    Source: Chekhlov, A., Uryasev, S. and Zabarankin, M. (2005), as MaxDrawdown.
    """

    level: float = Field(default=0.95, ge=0.0, lt=1.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"paths"})

    def bind(self, ctx: Context) -> Bound:
        paths = ctx.paths
        falls, count = drawdowns(ctx, "CDaR"), tail_count(paths.shape[-3] * paths.shape[-2], self.level)
        return lambda w: tail_mean(falls(w).flatten(-2), count)

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        falls = _falls(w, ctx)
        count = tail_count(falls.size, self.level)
        return cp.sum_largest(falls, count) / count if count >= 1.0 else cp.max(falls)


def drawdowns(ctx: Context, who: str) -> Bound:
    """d: (..., n) -> (..., S, h)."""
    paths = ctx.paths
    size, steps, n = paths.shape[-3:]
    cumulated = paths.cumsum(-2).flatten(-3, -2)

    def falls(w: Tensor) -> Tensor:
        c = portfolio_returns(cumulated, require_last(w, n, who))
        c = c.reshape(*c.shape[:-1], size, steps)
        return c.cummax(-1).values.clamp_min(0.0) - c

    return falls


def _falls(w: Any, ctx: Context) -> Any:
    """d as a cvxpy expression (h, S)."""
    paths = ctx.paths
    size, steps, n = paths.shape
    flat = paths.cumsum(-2).reshape(size * steps, n).detach().cpu().numpy()
    c = cp.reshape(flat @ w, (steps, size), order="F")
    return cp.cummax(cp.vstack([np.zeros((1, size)), c]), axis=0)[1:] - c
