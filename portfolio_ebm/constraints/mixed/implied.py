"""What a choice of names implies for all weights together: rows that hold on every slice.

With at most K names, none short, and sums x_u of weights whose k largest are at most c together,

    sum_u x_u <= c max(K, k) / k

since the least of the k largest is at most c / k, and no other is above it. The relaxation, which may hold a little
of every name, does not see this by itself, and a tree would have to look at all names.
"""

from __future__ import annotations

import numpy as np
import torch

from portfolio_ebm.constraints.caps import Tail
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.programs.slice import Mask
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.types import as_numpy


def with_implied(region: Region, choices: Choices) -> Region:
    """The region with a row for each of its sums of the largest that `choices` let bind all weights."""
    tails = [cap for cap in region.caps if isinstance(cap, Tail) and _sums(cap)]
    if not tails or not choices.limits or bool((region.lower < 0.0).any()):
        return region
    most = _most_held(choices, as_numpy(region.upper) > 0.0)
    for cap in tails:
        row = torch.as_tensor(as_numpy(cap.losses).sum(axis=0))
        region = region.with_row(row, -torch.inf, max(most, cap.count) * cap.limit, f"{cap.name} of {most} names")
    return region


def _sums(cap: Tail) -> bool:
    """Whether the losses are sums of weights, each name in one of them at most."""
    losses = as_numpy(cap.losses)
    return cap.small and bool((losses >= 0.0).all()) and bool(((losses != 0.0).sum(axis=0) <= 1).all())


def _most_held(c: Choices, possible: Mask) -> int:
    """How many names can be above zero at most: by limits on numbers, and one by one where no limit speaks of them."""
    found, left = 0, possible.copy()
    alone = dict(zip(c.single[1].tolist(), c.single[0].tolist(), strict=True))
    counted = [one for one in c.limits if not one.mass and np.isfinite(one.most)]
    for limit in sorted(counted, key=lambda one: one.most / max(len(one.units), 1)):
        _, others = limit.split(c.exists)
        out = ~others | ((c.lower[limit.units] == 0.0) & (c.upper[limit.units] == 0.0))
        names = np.array([alone.get(unit, -1) for unit in limit.units.tolist()], dtype=np.int64)
        if (names < 0).any() or not out.all():
            continue
        mine = names[left[names]]
        if len(mine) > limit.most:
            found, left[mine] = found + int(limit.most), False
    return found + int(left.sum())
