"""Quadrature on the real line: Gauss-Legendre nodes carried over by the quantile of a heavy-tailed law.

    z(v) = Q_t2(u(v)),  u(v) = v^2 (3 - 2 v),  v in (0, 1),
    integral of f(z) dz = integral over v of f(z(v)) z'(v) dv.

Q_t2 is the quantile of Student's t with two degrees of freedom, in closed form (2u - 1) / sqrt(2 u (1 - u)). The
smoothstep u(v) makes z(v) a function with simple poles at the ends, z ~ 1 / v, so that the integrand of a density
with tail |z|^-(a+1) behaves as v^(a-1): analytic for integer a, where the plain map leaves a root. The plain map
is `end_smoothing=False`.

Source: P. J. Davis and P. Rabinowitz (1984), Methods of Numerical Integration, section 2.9 (changes of variable).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NODES = 128
"""Nodes of a reported log Z."""


class Rule(NamedTuple):
    """Nodes `z` (G,) and log weights (G,) with sum_g exp(log_weight_g) f(z_g) = integral of f over the line."""

    z: Tensor
    log_weight: Tensor


@lru_cache(maxsize=64)
def _legendre(nodes: int) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def to_line(v: Tensor, *, end_smoothing: bool = True) -> tuple[Tensor, Tensor]:
    """z(v) and log z'(v) for v in (0, 1), any shape."""
    one = 1 - v
    if end_smoothing:
        # u (1 - u) = (v (1 - v))^2 (3 - 2v)(1 + 2v), without the cancellation of forming 1 - u.
        root = (3 - 2 * v) * (1 + 2 * v)
        z = (v - one) * (1 + 2 * v * one) / (v * one * (2 * root).sqrt())
        slope = math.log(6.0) + v.log() + one.log()
    else:
        z = (v - one) / (2 * v * one).sqrt()
        slope = torch.zeros_like(v)
    return z, slope + 1.5 * torch.log(2 + z * z)


def to_unit(z: Tensor) -> Tensor:
    """v(z), the inverse of `to_line`, any shape.

    u - 1/2 = z / (2 sqrt(z^2 + 2)) and smoothstep inverts as v = 1/2 + sin(asin(2u - 1) / 3).
    """
    tail = torch.atan2(z, torch.full_like(z, math.sqrt(2.0)))
    return 0.5 + torch.sin(tail / 3)


def line_rule(nodes: int = NODES, *, like: Tensor | None = None, end_smoothing: bool = True) -> Rule:
    """The rule for the whole line, in the dtype and device of `like` (float64 on the CPU without it).

    Example:
        >>> rule = line_rule(128)
        >>> torch.logsumexp(rule.log_weight - rule.z**2 / 2, 0)      # log sqrt(2 pi)
    """
    v, w = _legendre(nodes)
    z, slope = to_line(v, end_smoothing=end_smoothing)
    return _cast(Rule(z, w.log() + slope), like)


def interval_rule(low: Tensor, high: Tensor, nodes: int = NODES) -> tuple[Tensor, Tensor]:
    """Nodes and log weights for the integral from z = `low` to z = `high`, both (...); results are (G, ...).

    Ends may be infinite.
    """
    v, w = _legendre(nodes)
    v, w = v.to(high), w.to(high)
    shape = (-1,) + (1,) * max(low.ndim, high.ndim)
    start, stop = to_unit(low), to_unit(high)
    width = (stop - start).clamp_min(torch.finfo(high.dtype).tiny)
    inner = start + width * v.reshape(shape)
    z, slope = to_line(inner)
    return z, w.log().reshape(shape) + slope + width.log()


def knots(count: int, *, like: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`count` knots equally spaced in v inside (0, 1): v, z(v) and log z'(v), each (count,)."""
    v = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)
    z, slope = to_line(v)
    if like is None:
        return v, z, slope
    return v.to(like), z.to(like), slope.to(like)


def _cast(rule: Rule, like: Tensor | None) -> Rule:
    return rule if like is None else Rule(rule.z.to(like), rule.log_weight.to(like))
