"""What torch does not have: the cdf and quantile of Student's t, and exponentially weighted sums.

The values are scipy's, in the dtype and on the device of the input; no gradient passes through them.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import lfilter
from scipy.special import stdtr, stdtrit
from torch import Tensor


def t_cdf(x: Tensor, freedom: Tensor) -> Tensor:
    """P(T <= x) of Student's t; x and freedom broadcast. Either tail is exact to its last digits.

    Example:
        >>> t_cdf(torch.tensor(1.0), torch.tensor(1.0))          # Cauchy: 3/4
    """
    return _like(x, stdtr(_plain(freedom), _plain(x)))


def t_quantile(u: Tensor, freedom: Tensor) -> Tensor:
    """The x with P(T <= x) = u in (0, 1); u and freedom broadcast."""
    return _like(u, stdtrit(_plain(freedom), _plain(u)))


def decayed_sum(x: Tensor, half_life: float) -> Tensor:
    """sum_{k<=t} 2^(-(t-k) / half_life) x_k along the first dimension, same shape."""
    lam = 0.5 ** (1.0 / half_life)
    return _like(x, lfilter([1.0], [1.0, -lam], _plain(x), axis=0))


def _plain(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _like(x: Tensor, value: object) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float64)).to(x)
