"""The variances that a scale mixes: of a series' past as arrays, and ahead of it as the recursion they follow.

    square    v <- lam v + (1 - lam) e^2                        half-lives HALF_LIVES
    downside  v <- lam v + (1 - lam) 2 min(e, 0)^2              half-lives DOWNSIDE
    absolute  v = s m^2,  m <- lam m + (1 - lam) |e|            half-lives ABSOLUTE, s = ABSOLUTE_SCALE

lam = 2^(-1 / half-life), in this order along the last dimension. A mean of absolute moves hears less of one wild day
than a mean of squares does; s brings it to the level of a variance for tails between a normal's (pi / 2) and a t's.

Source: S. Taylor (1986), Modelling financial time series (absolute moves); R. Engle and V. Ng (1993), Measuring and
testing the impact of news on volatility, Journal of Finance 48 (asymmetry).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor

from portfolio_ebm.models.conditional import Shape

Array = NDArray[np.float64]

HALF_LIVES = (2.5, 5.0, 11.0, 22.0, 66.0, 250.0)
DOWNSIDE = (2.5, 22.0)
ABSOLUTE = (5.0, 22.0, 66.0)
ABSOLUTE_SCALE = 1.8
COUNT = len(HALF_LIVES) + len(DOWNSIDE) + len(ABSOLUTE)

_ROOT = slice(len(HALF_LIVES) + len(DOWNSIDE), COUNT)
"""Where the absolute ones lie: their roots are what moves."""


def ew_mean(x: Array, half_life: float) -> Array:
    """EW mean of the rows before each row, (T + 1, ...) for x (T, ...); NaN cells do not count, NaN before the first.

    mean_t = sum_{k<t} lam^(t-1-k) x_k / sum of the same weights over observed rows, lam = 2^(-1/half_life).
    """
    lam = 0.5 ** (1.0 / half_life)
    seen = ~np.isnan(x)
    total = lfilter([1.0], [1.0, -lam], np.where(seen, x, 0.0), axis=0)
    weight = lfilter([1.0], [1.0, -lam], seen.astype(np.float64), axis=0)
    mean = np.full((len(x) + 1, *x.shape[1:]), np.nan)
    np.divide(total, weight, out=mean[1:], where=weight > 0)
    return mean


def past_variances(e: Array) -> Array:
    """v of the rows before each, (T + 1, M, COUNT), for innovations e (T, M); NaN before the first."""
    square, down, size = e**2, 2 * np.minimum(e, 0.0) ** 2, np.abs(e)
    parts = [ew_mean(square, h) for h in HALF_LIVES] + [ew_mean(down, h) for h in DOWNSIDE]
    parts += [ABSOLUTE_SCALE * ew_mean(size, h) ** 2 for h in ABSOLUTE]
    return np.stack(parts, -1)


def _decays(like: Tensor) -> Tensor:
    """lam of every variance, (COUNT,)."""
    half = torch.tensor((*HALF_LIVES, *DOWNSIDE, *ABSOLUTE), dtype=like.dtype, device=like.device)
    return 0.5 ** (1.0 / half)


def advance(v: Tensor, e: Tensor) -> Tensor:
    """v (..., COUNT) after the innovations e (...)."""
    lam = _decays(v)
    square, down = e.square()[..., None], 2 * e.clamp_max(0).square()[..., None]
    root = ABSOLUTE_SCALE**0.5 * e.abs()[..., None]
    news = [square.expand(*e.shape, len(HALF_LIVES)), down.expand(*e.shape, len(DOWNSIDE))]
    moved = lam[: _ROOT.start] * v[..., : _ROOT.start] + (1 - lam[: _ROOT.start]) * torch.cat(news, -1)
    mean = lam[_ROOT] * v[..., _ROOT].sqrt() + (1 - lam[_ROOT]) * root
    return torch.cat([moved, mean.square()], -1)


def expected(v: Tensor, variance: Tensor, shape: Shape) -> Tensor:
    """E v (P, COUNT) after a step of scale^2 `variance` (P,), z of law `shape`; exact where v is known.

    Of an absolute one, E m^2 needs E[m sigma]: over more than one step m and sigma are taken to move together.
    """
    lam = _decays(v)
    fed = torch.stack([shape.variance] * len(HALF_LIVES) + [shape.downside] * len(DOWNSIDE), -1)
    moved = lam[: _ROOT.start] * v[:, : _ROOT.start] + (1 - lam[: _ROOT.start]) * fed * variance[:, None]
    own, rest = _absolute(shape)
    mean = lam[_ROOT] * v[:, _ROOT].sqrt() + (1 - lam[_ROOT]) * (own * variance).sqrt()[:, None]
    return torch.cat([moved, mean.square() + (1 - lam[_ROOT]).square() * (rest * variance)[:, None]], -1)


def settled(shape: Shape) -> Tensor:
    """v in units of a scale^2 that stays as it is, (P, COUNT): what `expected` comes to rest at."""
    lam = _decays(shape.variance)[_ROOT]
    own, rest = (part[:, None] for part in _absolute(shape))
    root = (lam * own.sqrt() + (lam.square() * own + (1 - lam.square()) * (own + rest)).sqrt()) / (1 + lam)
    fed = [shape.variance] * len(HALF_LIVES) + [shape.downside] * len(DOWNSIDE)
    return torch.cat([torch.stack(fed, -1), root.square()], -1)


def _absolute(shape: Shape) -> tuple[Tensor, Tensor]:
    """s (E|z|)^2 and s var |z|, (P,) each."""
    square = shape.deviation.square()
    return ABSOLUTE_SCALE * square, ABSOLUTE_SCALE * (shape.variance - square)
