"""Several L1 balls at once: the proximal step of the sum of their kinks, name by name.

    argmin_w 1/2 (w - v)^2 + sum_k lam_k (up_k (w - c_k)_+ + down_k (c_k - w)_+)

The slope of the kinked part rises by lam_k (up_k + down_k) at c_k, from s_0 = -sum lam_k down_k; with the kinks in
order c_(1) <= ... <= c_(K) and s_j the slope after j of them, the minimiser is the median of the 2K + 1 numbers
v - s_0, ..., v - s_K, c_(1), ..., c_(K): the line v - w falls through the rising steps once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball


@dataclass(frozen=True)
class Kinks:
    """K balls, their kinks sorted name by name.

    Attributes:
        centres, ups, downs: (K, n), in the order of the balls.
        order: (n, K), which ball's kink comes first, second, ... for each name; sorted: (n, K), the kinks so.
    """

    centres: Tensor
    ups: Tensor
    downs: Tensor
    order: Tensor
    sorted: Tensor

    @classmethod
    def of(cls, balls: Sequence[Ball]) -> Kinks:
        centres, ups, downs = (
            torch.stack([getattr(ball, what) for ball in balls]) for what in ("centre", "up", "down")
        )
        kinks, order = centres.T.sort(dim=-1)
        return cls(centres, ups, downs, order, kinks)

    def prox(self, v: Tensor, lam: Tensor) -> Tensor:
        """The minimiser above for v (B, n) and lam (B, K) >= 0, (B, n)."""
        weight = lam.unsqueeze(1)
        first = -(weight * self.downs.T).sum(-1, keepdim=True)
        jumps = (weight * (self.ups + self.downs).T).gather(-1, self.order.expand(len(v), -1, -1))
        slopes = torch.cat([first, first + jumps.cumsum(-1)], -1)
        candidates = torch.cat([v.unsqueeze(-1) - slopes, self.sorted.expand(len(v), -1, -1)], -1)
        found: Tensor = candidates.sort(dim=-1).values[..., self.order.shape[-1]]
        return found

    def values(self, w: Tensor) -> Tensor:
        """The size of every ball's sum at w (B, n), (B, K)."""
        move = w.unsqueeze(1) - self.centres
        return (self.ups * move.clamp_min(0.0) + self.downs * (-move).clamp_min(0.0)).sum(-1)

    def slopes(self, w: Tensor) -> Tensor:
        """How each sum moves with each name at w (B, n), (B, K, n); zero on a kink."""
        move = w.unsqueeze(1) - self.centres
        return torch.where(move > 0, self.ups, torch.where(move < 0, -self.downs, torch.zeros_like(move)))

    def resting(self, w: Tensor) -> Tensor:
        """Which names sit on a kink, where they do not move under a small change of the multipliers, bool (B, n)."""
        return (w.unsqueeze(1) == self.centres).any(1)

    @property
    def floor(self) -> Tensor:
        """The largest curvature a ball can give the dual, (K,)."""
        return self.ups.maximum(self.downs).square().sum(-1)
