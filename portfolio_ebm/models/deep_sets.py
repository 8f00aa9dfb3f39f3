"""DeepSet: an energy of a weighted set, the same network for every member and a head on the pooled codes.

    a_i = tanh(W1 z_i + b1),   x = (sum_i w_i a_i, sum_i w_i^2 a_i, mean_i a_i, s),
    E(w, z) = u' x + v' tanh(W2 x + b2),

z_i (d) the features of member i, w_i its weight, s (k) features of the whole; the mean is over members present.
Members have no order and their number is free: a set may gain and lose members.

Source: Zaheer, M., Kottur, S., Ravanbakhsh, S., Poczos, B., Salakhutdinov, R. and Smola, A. (2017), Deep sets, NeurIPS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


def initial(features: int, whole: int, hidden: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Parameters of an energy that is near zero everywhere: the heads start at nothing.

    Args:
        features: d, numbers a member. whole: k, numbers of the whole. hidden: width of both layers.
    """
    pooled = 3 * hidden + whole

    def draw(rows: int, columns: int) -> Tensor:
        return torch.randn((rows, columns), generator=rng, dtype=torch.float64) / math.sqrt(columns)

    return {
        "W1": draw(hidden, features), "b1": torch.zeros(hidden, dtype=torch.float64),
        "W2": draw(hidden, pooled), "b2": torch.zeros(hidden, dtype=torch.float64),
        "u": torch.zeros(pooled, dtype=torch.float64), "v": torch.zeros(hidden, dtype=torch.float64),
    }  # fmt: skip


def deep_set(theta: Parameters, z: Tensor, present: Tensor, w: Tensor, s: Tensor) -> Tensor:
    """E(w, z): (*batch, ...).

    Args:
        z: (*batch, n, d). present: bool (*batch, n). w: (*batch, ..., n), zero where a member is not present, or not
            its own choice. s: (*batch, ..., k).
    """
    code = torch.tanh(z @ theta["W1"].mT + theta["b1"])
    mask = present.unsqueeze(-1).to(code)
    mean = (code * mask).sum(-2) / mask.sum(-2).clamp_min(1.0)
    for _ in range(w.ndim - code.ndim + 1):
        code = code.unsqueeze(-3)
    first, second = _pooled(w, code), _pooled(w * w, code)
    for _ in range(first.ndim - mean.ndim):
        mean = mean.unsqueeze(-2)
    x = torch.cat([first, second, mean.expand_as(first), s], dim=-1)
    return x @ theta["u"] + torch.tanh(x @ theta["W2"].mT + theta["b2"]) @ theta["v"]


def _pooled(w: Tensor, code: Tensor) -> Tensor:
    """sum_i w_i a_i, (*batch, ..., h), of w (*batch, ..., n) and codes (*batch, ..., n, h)."""
    return (w.unsqueeze(-2) @ code).squeeze(-2)
