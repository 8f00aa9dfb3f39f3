"""Degrees of freedom by profile maximum likelihood, R_t given: one dimension, no derivative."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from portfolio_ebm.market.dependence.copula import log_copula, scores

Array = NDArray[np.float64]

LEAST, MOST = 2.5, 200.0
REFERENCE = 10.0
"""Where a fit begins."""


def best_freedom(u: Array, correlations: Array) -> float:
    """nu between 2.5 and 200 that maximises the mean log density of rows u (N, K) with R (N, K, K), to 1 %."""
    r = torch.from_numpy(np.ascontiguousarray(correlations))

    def loss(inverse: float) -> float:
        nu = 1.0 / inverse
        return -float(log_copula(torch.from_numpy(scores(u, nu)), r, nu).mean())

    found = minimize_scalar(loss, bounds=(1 / MOST, 1 / LEAST), method="bounded", options={"xatol": 5e-4})
    return 1.0 / float(found.x) if math.isfinite(found.fun) else REFERENCE
