"""The grid of whole lots: names with a step above zero weigh a multiple of it."""

from __future__ import annotations

import torch
from torch import Tensor


def on_grid(w: Tensor, step: Tensor) -> Tensor:
    """The nearest whole numbers of lots, name by name; names without a step stay."""
    size = torch.where(step > 0.0, step, torch.ones_like(step))
    return torch.where(step > 0.0, (w / size).round() * size, w)


def off_grid(w: Tensor, step: Tensor) -> Tensor:
    """The largest distance of w (..., n) from the grid, (...)."""
    return (w - on_grid(w, step)).abs().amax(-1)
