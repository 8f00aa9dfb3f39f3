"""The mean of log Z over many rows and its gradient in one pass, for training an energy that is linear in a basis.

    log Z_n = log sum_g exp(l_g - <a_n, phi_g>),     value = sum_n w_n log Z_n,
    d value / d a_n = -w_n E_n[phi],     d value / d phi_g = -sum_n w_n p_n(g) a_n.

A block of rows stays in the cache from the exponential to the gradient, where an automatic derivative would write and
read (rows x nodes) numbers many times: this is what training costs, and it is five times cheaper so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2048
"""Rows worked on at once: with 32 nodes, half a megabyte."""


def mean_log_z(coefficients: Tensor, basis: Tensor, log_weight: Tensor, weight: Tensor) -> Tensor:
    """sum_n w_n log sum_g exp(l_g - <a_n, phi_g>) of M models, (M,), differentiable once in a and phi.

    Exponents are taken as they are: l - <a, phi> beyond 700 overflows, and the value is not finite.

    Args:
        coefficients: a, (M, N, K).
        basis: phi, (M, G, K).
        log_weight: l, (G,).
        weight: w, (M, N).

    Example:
        >>> mean_log_z(a, phi, line_rule(32).log_weight, torch.full((models, rows), 1 / rows))
    """
    found: Tensor = _MeanLogZ.apply(coefficients, basis, log_weight, weight)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return found


class _MeanLogZ(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, phi: Tensor, log_weight: Tensor, weight: Tensor) -> Tensor:
        models, rows, _ = a.shape
        columns, negative = a.mT.contiguous(), -phi
        tall = torch.cat([phi.mT, torch.ones_like(phi[..., :1]).mT], 1)
        value, by_a, by_phi = a.new_zeros(models), torch.empty_like(columns), torch.zeros_like(phi)
        room = a.new_empty(phi.shape[1], min(BLOCK, rows))
        for m in range(models):
            for start in range(0, rows, BLOCK):
                part = columns[m, :, start : start + BLOCK]
                p = room[:, : part.shape[1]]
                torch.addmm(log_weight[:, None], negative[m], part, out=p).exp_()
                moments = tall[m] @ p
                w = weight[m, start : start + BLOCK]
                share = w / moments[-1]
                # A row without weight says nothing, whatever its normaliser is.
                value[m] += torch.where(w > 0, w * moments[-1].log(), 0.0).sum()
                by_a[m, :, start : start + BLOCK] = moments[:-1] * -share
                by_phi[m].addmm_(p, (part * share).mT, alpha=-1.0)
        ctx.save_for_backward(by_a, by_phi)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_a, by_phi = ctx.saved_tensors
        by = slope[:, None, None]
        return (by_a * by).mT, by_phi * by, None, None
