"""The grid of whole lots: names with a step above zero weigh a multiple of it."""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.constraints.region import Region


def on_grid(w: Tensor, step: Tensor) -> Tensor:
    """The nearest whole numbers of lots, name by name; names without a step stay."""
    size = torch.where(step > 0.0, step, torch.ones_like(step))
    return torch.where(step > 0.0, (w / size).round() * size, w)


def off_grid(w: Tensor, step: Tensor) -> Tensor:
    """The largest distance of w (..., n) from the grid, (...)."""
    return (w - on_grid(w, step)).abs().amax(-1)


def nearest_on_grid(y: Tensor, region: Region) -> Tensor | None:
    """The nearest points to y (..., n) where no rule but the grid and the box is there, so that each name is alone;
    None where another rule is, or a name's box holds no whole number of lots, or nothing at all."""
    step = region.grid
    alone = not (len(region.rows) or region.caps or region.turnover is not None or region.choices is not None)
    if step is None or not alone or region.at_most is not None or region.min_weight > 0.0:
        return None
    whole = step > 0.0
    size = torch.where(whole, step, torch.ones_like(step))
    least, most = (region.lower / size - 1e-9).ceil(), (region.upper / size + 1e-9).floor()
    if bool(torch.where(whole, least > most, region.lower > region.upper + 1e-9).any()):
        return None
    lots = (y / size).round().clamp(least, most) * size
    return torch.where(whole, lots, y.clamp(region.lower, region.upper))
