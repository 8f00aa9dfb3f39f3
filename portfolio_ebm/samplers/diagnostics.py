"""Have the chains mixed, and how much are their draws worth?

    R-hat   sqrt(((N - 1) / N W + B / N) / W) over half-chains of N draws: W the variance within, B between them
    ESS     M N / (1 + 2 sum_t rho_t), rho_t the autocorrelation pooled over M half-chains, cut by Geyer's
            initial monotone positive sequence; for M chains, M many, M s^2 / var(means of the chains), s^2 the variance
            of the draws, which asks for no autocorrelation and so for no cut of it

Draws come with steps first, chains second: (steps, chains, ...); results have the shape (...).
Source: Gelman et al., Bayesian Data Analysis (3rd ed.), sections 11.4-11.5; Geyer (1992), Statistical Science 7.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from portfolio_ebm.errors import ShapeError

MANY = 100
"""So many chains say by the spread of their means, to 15 % or less, what the mean of all is worth."""


def r_hat(draws: Tensor) -> Tensor:
    """Split R-hat, (...): near 1 when the chains agree with one another and with their own past; above 1.01, run on.

    A quantity that never changes has 1 where all chains agree, and infinity where they do not.

    Raises:
        ShapeError: fewer than 4 steps.
    """
    halves = _halves(draws)
    length = halves.shape[0]
    within = halves.var(0).mean(0)
    between = length * halves.mean(0).var(0)
    pooled = (length - 1) / length * within + between / length
    still = torch.where(between > 0.0, torch.inf, 1.0).to(draws.dtype)
    return torch.where(within > 0.0, (pooled / within).sqrt(), still)


def effective_size(draws: Tensor) -> Tensor:
    """Effective sample size of the mean over all draws of all chains, (...).

    Raises:
        ShapeError: fewer than 4 steps.
    """
    halves = _halves(draws)
    length, chains = halves.shape[:2]
    covariance = _autocovariance(halves)
    within = covariance[0].mean(0) * length / (length - 1)
    total = within * (length - 1) / length + halves.mean(0).var(0)
    rho = 1.0 - (within - (covariance * length / (length - 1)).mean(1)) / total
    rho[0] = 1.0
    even = length - length % 2
    pairs = rho[:even].reshape(even // 2, 2, *rho.shape[1:]).sum(1)
    # Geyer: sums of neighbours are positive and fall in a reversible chain; where they stop, only noise is left.
    positive = (pairs > 0.0).to(pairs.dtype).cumprod(0)
    monotone = pairs.cummin(0).values * positive
    # Antithetic chains may be worth more than independent draws, but not without limit.
    least = 1.0 / max(math.log10(length * chains), 1.0)
    time = (2.0 * monotone.sum(0) - 1.0).clamp_min(least)
    size = length * chains / time
    if draws.shape[1] >= MANY:
        means = draws.mean(0).var(0)
        size = torch.where(means > 0.0, draws.shape[1] * draws.flatten(0, 1).var(0) / means, size)
    return torch.where(total > 0.0, size, torch.full_like(size, float(length * chains)))


def _halves(draws: Tensor) -> Tensor:
    if draws.ndim < 2 or draws.shape[0] < 4:
        raise ShapeError(f"draws: got shape {tuple(draws.shape)}, expected (steps >= 4, chains, ...).")
    half = draws.shape[0] // 2
    return torch.cat([draws[:half], draws[-half:]], dim=1)


def _autocovariance(x: Tensor) -> Tensor:
    """Biased autocovariance at every lag along the first dimension, by FFT."""
    length = x.shape[0]
    centred = x - x.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * length, dim=0)
    product: Tensor = torch.fft.irfft(spectrum * spectrum.conj(), n=2 * length, dim=0)
    return product[:length] / length
