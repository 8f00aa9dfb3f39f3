"""Degrees of freedom by profile maximum likelihood, R_t given: one dimension, no derivative."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from portfolio_ebm.market.dependence.copula import log_copula_of_root, observed, scores

Array = NDArray[np.float64]

LEAST, MOST = 2.5, 200.0
REFERENCE = 10.0
"""Where a fit begins."""


def best_freedom(u: Array, correlations: Array) -> float:
    """nu between 2.5 and 200 that maximises the mean log density of rows u (N, K) with R (N, K, K), to 1 %."""
    # R and what is missing are the same for every nu: one factorisation serves them all.
    _, root, on = observed(torch.from_numpy(u), torch.from_numpy(np.ascontiguousarray(correlations)))
    known = np.where(np.isnan(u), 0.5, u)

    def loss(inverse: float) -> float:
        nu = 1.0 / inverse
        return -float(log_copula_of_root(torch.from_numpy(scores(known, nu)), root, on, nu).mean())

    found = minimize_scalar(loss, bounds=(1 / MOST, 1 / LEAST), method="bounded", options={"xatol": 5e-4})
    return 1.0 / float(found.x) if math.isfinite(found.fun) else REFERENCE
