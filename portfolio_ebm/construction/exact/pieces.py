"""The pieces of those convex terms that are neither quadratic nor smooth as a whole, as the interior point knows them.

    Tail     c times the mean of the `count` largest entries of  L w - m                CVaR, against a benchmark too
    Kink     sum_i up_i (w_i - centre_i)_+ + down_i (centre_i - w_i)_+                  costs, fees, doubts of the mean
    Hinges   price sum_s (a_s'w - b_s)_+                                                mean absolute deviation
    Square   c times the square of a Kink                                               doubts of the correlations
    Falls    c times the mean of the largest drawdowns along paths (falls.py)           CDaR, maximum drawdown
    Smooth   c times a function with a Newton model, around any w                       impact, ridge of the covariance

Each says an affine function below it, from given multipliers or as its tangent (duality.py); a term that is none of
these is left to cvxpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball
from portfolio_ebm.construction.exact.falls import Falls
from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation, around, away
from portfolio_ebm.energies.drawdown import CDaR, MaxDrawdown
from portfolio_ebm.energies.faces import tail_count
from portfolio_ebm.energies.impact import BorrowCost, MarketImpact
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energies.robust import BoxReturn, RobustVariance, deviations
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Energy, Quadratic, Scaled
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]
Smooth = tuple[float, Callable[[Tensor], Quadratic]]

FALLS = (MaxDrawdown, CDaR)
MOST_PATHS = 500
"""Each path's worst drawdown is an unknown of the interior point: more are left to cvxpy."""

FLATTEST = 1e-12
"""Trades below this have the curvature of one of this size: the 3/2 power law has no end of it at zero."""


@dataclass(frozen=True)
class Tail:
    """c * CVaR: the loss of each scenario is a row of `losses` (S, n) less `moved`; `count` scenarios make the tail."""

    coefficient: float
    losses: Array
    count: float
    moved: float | Array = 0.0

    @property
    def cap(self) -> float:
        """The most weight one scenario can carry: c / (S (1 - level))."""
        return self.coefficient / self.count

    def loss(self, w: Array) -> Array:
        """(S,)."""
        return np.asarray(self.losses @ w - self.moved)


@dataclass(frozen=True)
class Kink:
    """sum_i up_i (w_i - centre_i)_+ + down_i (centre_i - w_i)_+, all (n,), up + down >= 0."""

    centre: Array
    up: Array
    down: Array

    def value(self, w: Array) -> float:
        move = w - self.centre
        return float((self.up * np.maximum(move, 0.0) + self.down * np.maximum(-move, 0.0)).sum())

    def scaled(self, factor: float) -> Kink:
        return replace(self, up=factor * self.up, down=factor * self.down)

    def moved(self, by: Array) -> Kink:
        """The same of w - by."""
        return replace(self, centre=self.centre + by)

    @classmethod
    def even(cls, centre: Array, size: float) -> Kink:
        """size * sum |w - centre|."""
        return cls(centre, np.full(len(centre), size), np.full(len(centre), size))

    @classmethod
    def of(cls, ball: Ball) -> Kink:
        """What the ball limits."""
        return cls(as_numpy(ball.centre), as_numpy(ball.up), as_numpy(ball.down))


@dataclass(frozen=True)
class Hinges:
    """price * sum_s (rows_s . w - offsets_s)_+; rows (S, n), offsets (S,)."""

    price: float
    rows: Array
    offsets: Array

    def gaps(self, w: Array) -> Array:
        return np.asarray(self.rows @ w - self.offsets)


@dataclass(frozen=True)
class Square:
    """coefficient * kink(w)^2, the kink non-negative."""

    coefficient: float
    kink: Kink


@dataclass(frozen=True)
class Pieces:
    """linear'w + constant and pieces that add up to some terms of a formula."""

    linear: Array
    constant: float = 0.0
    tails: tuple[Tail, ...] = ()
    kinks: tuple[Kink, ...] = ()
    hinges: tuple[Hinges, ...] = ()
    squares: tuple[Square, ...] = ()
    smooth: tuple[Smooth, ...] = ()
    falls: tuple[Falls, ...] = ()

    def plus(self, other: Pieces) -> Pieces:
        return Pieces(
            self.linear + other.linear, self.constant + other.constant, self.tails + other.tails,
            self.kinks + other.kinks, self.hinges + other.hinges, self.squares + other.squares,
            self.smooth + other.smooth, self.falls + other.falls,
        )  # fmt: skip

    def moved(self, by: Array) -> Pieces:
        """The same of w - by, where nothing is smooth or squared."""
        return replace(
            self,
            constant=self.constant - float(self.linear @ by),
            tails=tuple(replace(t, moved=t.moved + t.losses @ by) for t in self.tails),
            kinks=tuple(k.moved(by) for k in self.kinks),
            hinges=tuple(replace(h, offsets=h.offsets + h.rows @ by) for h in self.hinges),
            falls=tuple(replace(f, moved=f.moved + f.returns @ by) for f in self.falls),
        )


def pieces_of(terms: tuple[Scaled, ...], ctx: Context) -> Pieces | None:
    """The pieces of terms that are neither quadratic nor have a Newton model; None where one is of another kind."""
    found = Pieces(np.zeros(ctx.n_assets))
    for part in terms:
        one = _of_term(part.energy, part.coefficient, ctx)
        if one is None:
            return None
        found = found.plus(one)
    return found


def _of_term(term: Energy, c: float, ctx: Context) -> Pieces | None:
    n = ctx.n_assets
    zero = np.zeros(n)
    if isinstance(term, CVaR):
        losses = as_numpy(term.losses(ctx))
        return Pieces(zero, tails=(Tail(c, losses, term.tail(len(losses))),))
    if isinstance(term, MeanAbsoluteDeviation):
        # |x| = 2 (x)_+ - x.
        rows = as_numpy(away(ctx, term.centred))
        return Pieces(-c * rows.mean(0), hinges=(Hinges(2.0 * c / len(rows), rows, np.zeros(len(rows))),))
    if isinstance(term, FALLS):
        paths = as_numpy(ctx.paths)
        whole = isinstance(term, MaxDrawdown)
        count = tail_count(len(paths) if whole else paths.shape[0] * paths.shape[1], term.level)
        return Pieces(zero, falls=(Falls(c, paths, count, whole),)) if len(paths) <= MOST_PATHS else None
    if isinstance(term, BorrowCost):
        return Pieces(zero, kinks=(Kink(zero, zero, c * as_numpy(term._fees(ctx))),))
    if isinstance(term, BoxReturn):
        width = c * as_numpy(term.widths(ctx))
        return Pieces(-c * as_numpy(ctx.mean), kinks=(Kink(zero, width, width),))
    if isinstance(term, RobustVariance):
        width = as_numpy(deviations(ctx.covariance))
        ridged = Quadratic(term.ridged(ctx).scaled(2.0), torch.zeros(n), torch.zeros(()))
        return Pieces(
            zero, smooth=((c, lambda w: ridged),), squares=(Square(c * term.correlation, Kink(zero, width, width)),)
        )
    if isinstance(term, MarketImpact):
        return Pieces(zero, smooth=((c, _impact(term, ctx)),) if ctx.held is not None else ())
    if isinstance(term, TrackingError) and isinstance(term.measure, (CVaR, MeanAbsoluteDeviation, *FALLS)):
        inner = _of_term(term.measure, c, ctx)
        return None if inner is None else inner.moved(as_numpy(ctx.benchmark(term.benchmark)))
    return None


def _impact(term: MarketImpact, ctx: Context) -> Callable[[Tensor], Quadratic]:
    """Gradient 3/2 s |z|^(1/2) sign z, Hessian 3/4 s |z|^(-1/2), z = w - held."""
    slopes, held, value = term.slopes(ctx).double(), ctx.held, term.bind(ctx)
    assert held is not None
    start = held.double()

    def model(w: Tensor) -> Quadratic:
        z = w - start
        size = z.abs()
        gradient = 1.5 * slopes * size.sqrt() * z.sign()
        return around(w, value(w), gradient, torch.diag(0.75 * slopes / size.clamp_min(FLATTEST).sqrt()))

    return model
