"""ModeRule: a rule that leaves every name, or every issuer, a few modes, with limits on how many or how much is in one.

It says its modes once, as `Choices`; the structured face, the convex slice around a portfolio and the convex relaxation
follow from them. How far it is broken each rule says itself, in its own terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Side, hull
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.errors import DataError
from portfolio_ebm.types import require_last


class ModeRule(Constraint, ABC):
    """A rule that is a choice of modes."""

    @abstractmethod
    def choices(self, ctx: Context) -> Choices:
        """The units, their modes, and the limits on them."""

    @property
    def convex(self) -> bool:
        return False

    def restrict(self, region: Region, ctx: Context) -> Region:
        return region.with_choices(self.choices(ctx))

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """The slice with every unit in the mode nearest to `near`; without `near` the relaxation of them all."""
        c = self.choices(ctx)
        if c.units == 0:
            return []
        x = _sums(c, ctx.n_assets) @ w
        if near is None:
            return _relaxed(c, x)
        point = require_last(near, ctx.n_assets, "near").detach().cpu().double().numpy()
        modes = rounded(c, c.exists, c.weights(point))
        every = np.arange(c.units)
        found = _between(x, c.lower[every, modes], c.upper[every, modes])
        for limit in c.limits:
            inside = limit.units[limit.holds(modes)]
            if limit.mass and len(inside):
                found.append(cp.sum(x[inside]) <= limit.most)
        return found


def _sums(c: Choices, n: int) -> Any:
    """The matrix that adds up each unit's names, (U, n)."""
    found = np.zeros((c.units, n))
    found[c.unit, c.name] = 1.0
    return found


def _between(x: Any, low: Any, high: Any) -> list[Any]:
    found = []
    if np.isfinite(low).any():
        at = np.flatnonzero(np.isfinite(low))
        found.append(x[at] >= low[at])
    if np.isfinite(high).any():
        at = np.flatnonzero(np.isfinite(high))
        found.append(x[at] <= high[at])
    return found


def _relaxed(c: Choices, x: Any) -> list[Any]:
    """The hull of the modes of every unit, and the convex envelope of each limit's sum."""
    found = _between(x, *hull(c, c.exists))
    for limit in c.limits:
        side, at = Side.of(c.ends(c.exists), c.exists, limit), limit.units
        up = side.open & (side.high > side.b) & np.isfinite(side.high)
        if not up.any() or not np.isfinite(limit.most):
            continue
        steep = (side.high if limit.mass else np.ones(len(at)))[up] / (side.high - side.b)[up]
        found.append(cp.sum(cp.multiply(steep, cp.pos(x[at[up]] - side.b[up]))) <= limit.most)
    return found


def unit_codes(ctx: Context, grouping: str | None, who: str) -> Any:
    """By asset, the number of its unit, (n,), numpy: of its label in `grouping`, or its own where that is None.

    Raises:
        SpecError: no such grouping; near matches are listed.
        DataError: an asset has no label in it.
    """
    if grouping is None:
        return np.arange(ctx.n_assets, dtype=np.int64)
    labels = {label: k for k, label in enumerate(ctx.labels(grouping))}
    names = ctx.groups[grouping]
    bare = [name for name, label in zip(ctx.assets, names, strict=True) if str(label).strip() in ("", "nan", "None")]
    if bare:
        more = f" and {len(bare) - 5} more" if len(bare) > 5 else ""
        raise DataError(f"{who}: {', '.join(bare[:5])}{more} have no {grouping}; give every asset one.")
    return np.array([labels[label] for label in names], dtype=np.int64)


def unit_sums(w: Tensor, codes: Any) -> Tensor:
    """The weight of every unit, (..., U), of weights (..., n)."""
    index = torch.as_tensor(codes, device=w.device)
    count = int(index.max()) + 1 if len(index) else 0
    return w.new_zeros(*w.shape[:-1], count).index_add(-1, index, w)
