"""The units of a Region: the names that Cardinality makes a choice of, and what other rules have added."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from portfolio_ebm.constraints.caps import Cap, Tail
from portfolio_ebm.constraints.mixed.choices import Choices, Limit
from portfolio_ebm.constraints.mixed.implied import with_implied
from portfolio_ebm.constraints.mixed.programs.slice import Array
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.types import as_numpy

OUT, IN = 0, 1


def choices_of(region: Region) -> Choices:
    """All units of a discrete region; `none()` for a convex one."""
    found = Choices.none() if region.choices is None else region.choices
    if region.at_most is None and region.min_weight == 0.0:
        return found
    lower, upper = as_numpy(region.lower), as_numpy(region.upper)
    names = np.flatnonzero(~region.frozen.cpu().numpy())
    low, high = lower[names], upper[names]
    if region.min_weight > 0.0:
        low = np.maximum(low, region.min_weight)
    # A name that may not be zero has no way out; one whose cap is below the least weight has no way in.
    out = np.where((lower[names] > 0.0) | (upper[names] < 0.0), np.inf, 0.0)
    modes = np.column_stack([out, low]), np.column_stack([np.where(np.isinf(out), -np.inf, 0.0), high])
    most = float(len(names)) if region.at_most is None else float(region.at_most)
    every = np.arange(len(names))
    limit = Limit(every, (IN,), 0.0, most, False, f"Cardinality(at_most={region.at_most})")
    return found.joined(Choices(every, names, modes[0], modes[1], np.zeros_like(modes[0]), (limit,)))


def reaching(region: Region) -> Region:
    """The region with the rows that its choices imply."""
    if not any(isinstance(cap, Tail) for cap in region.caps):
        return region
    return with_implied(region, choices_of(region))


def hull_of(region: Region) -> Region:
    """The convex part of a discrete region, its box wide enough for every mode: a name that may be out reaches zero;
    with the rows that its choices imply."""
    region = reaching(region)
    if region.at_most is None and region.min_weight == 0.0:
        return replace(region, choices=None)
    free = ~region.frozen
    lower = region.lower.where(~free | (region.lower <= 0.0), region.lower.clamp_min(region.min_weight))
    if region.min_weight > 0.0:
        lower = lower.where(~free | (region.lower > 0.0), region.lower.clamp_min(0.0))
    return replace(region, lower=lower, at_most=None, min_weight=0.0, choices=None)


@dataclass(frozen=True)
class Part:
    """The convex part of a region, folded, as numpy arrays; `caps` are what is left beside box, rows and turnover."""

    lower: Array
    upper: Array
    rows: Array
    row_lower: Array
    row_upper: Array
    anchor: Array | None
    turnover: float | None
    caps: tuple[Cap, ...]


def convex_part(region: Region) -> Part:
    """What every choice of the region shares."""
    hull = hull_of(region).folded()
    anchor = None if hull.anchor is None else as_numpy(hull.anchor)
    lower, upper, rows = as_numpy(hull.lower), as_numpy(hull.upper), as_numpy(hull.rows)
    return Part(
        lower, upper, rows, as_numpy(hull.row_lower), as_numpy(hull.row_upper), anchor,
        None if anchor is None else hull.turnover, hull.caps,
    )  # fmt: skip
