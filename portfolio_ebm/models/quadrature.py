"""Quadrature on the real line: Gauss-Legendre nodes carried over by a map whose tails are a power law.

    z(v) = sinh(p logit v),  v in (0, 1),        integral of f(z) dz = integral over v of f(z(v)) z'(v) dv.

p = 1 is the rational (2v - 1) / (2 v (1 - v)). Near an end z ~ v^-p / 2, so that the integrand of a density with
tail |z|^-(a+1) behaves there as v^(pa - 1): a polynomial's start when pa is a whole number, a root otherwise. The
map matched to a tail index a is `power_for(a)`, p = k / a with k the least whole number from max(2, 0.8 a) on; the one
for everything is p = 1, which is that for a = 2, 3, 4, ... and loses digits below a = 2 only.

Source: P. J. Davis and P. Rabinowitz (1984), Methods of Numerical Integration, section 2.9 (changes of variable).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from scipy.special import roots_legendre
from torch import Tensor

NODES = 128
"""Nodes of a reported log Z."""

LIGHT = 16.0
"""From this tail index on a power law is no different from a lighter tail to the nodes, and p = 1 serves it."""


class Rule(NamedTuple):
    """Nodes `z` (G, *batch) and log weights with sum_g exp(log_weight_g) f(z_g) = integral of f over the line."""

    z: Tensor
    log_weight: Tensor


def power_for(tail: Tensor) -> Tensor:
    """p of the map matched to tail index a > 0, any shape; 1 for a >= 16 and for infinity.

    Example:
        >>> power_for(torch.tensor([1.5, 3.0, 4.7]))         # 2/1.5, 3/3, 4/4.7
    """
    whole = torch.ceil(0.8 * tail.clamp_max(LIGHT)).clamp_min(2.0)
    return torch.where(tail < LIGHT, whole / tail, torch.ones_like(tail))


@lru_cache(maxsize=64)
def _legendre(nodes: int) -> tuple[Tensor, Tensor]:
    x, w = roots_legendre(nodes)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def to_line(v: Tensor, power: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """z(v) and log z'(v) for v in (0, 1), any shape that `power` broadcasts against."""
    both = v * (1 - v)
    if power is None:
        z = (v - 0.5) / both
        return z, torch.log(0.5 - both) - 2 * both.log()
    y = power * (v.log() - torch.log1p(-v))
    # log cosh y without overflow
    log_cosh = y.abs() + torch.log1p(torch.exp(-2 * y.abs())) - math.log(2)
    return torch.sinh(y), power.log() + log_cosh - both.log()


def to_unit(z: Tensor, power: Tensor | None = None) -> Tensor:
    """v(z) = 1 / (1 + exp(-asinh(z) / p)), the inverse of `to_line`, any shape."""
    return torch.sigmoid(torch.asinh(z) if power is None else torch.asinh(z) / power)


def line_rule(nodes: int = NODES, *, like: Tensor | None = None, power: Tensor | None = None) -> Rule:
    """The rule for the whole line, in the dtype and device of `like` (float64 on the CPU without it).

    Args:
        nodes: G.
        power: p of the map, any shape; the nodes are then (G, *shape). None is the one rule of p = 1, (G,).

    Example:
        >>> rule = line_rule(128)
        >>> torch.logsumexp(rule.log_weight - rule.z**2 / 2, 0)      # log sqrt(2 pi)
    """
    like = power if like is None else like
    v, w = (item if like is None else item.to(like) for item in _legendre(nodes))
    if power is None:
        z, slope = to_line(v)
        return Rule(z, w.log() + slope)
    shape = (-1,) + (1,) * power.ndim
    z, slope = to_line(v.reshape(shape), power)
    return Rule(z, w.log().reshape(shape) + slope)


def interval_rule(
    low: Tensor, high: Tensor, nodes: int = NODES, *, power: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Nodes and log weights for the integral from z = `low` to z = `high`, both (...); results are (G, ...).

    Ends may be infinite.
    """
    v, w = _legendre(nodes)
    v, w = v.to(high), w.to(high)
    shape = (-1,) + (1,) * max(low.ndim, high.ndim)
    start, stop = to_unit(low, power), to_unit(high, power)
    width = (stop - start).clamp_min(torch.finfo(high.dtype).tiny)
    inner = start + width * v.reshape(shape)
    z, slope = to_line(inner, power)
    return z, w.log().reshape(shape) + slope + width.log()


def knots(count: int, *, like: Tensor | None = None, power: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`count` knots equally spaced in v inside (0, 1): v, z(v) and log z'(v), each (count,), or (count, *shape) for a
    `power` of that shape."""
    v = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)
    v = v if like is None else v.to(like)
    if power is None:
        return v, *to_line(v)
    v = v.reshape((-1,) + (1,) * power.ndim)
    return v, *to_line(v, power)
