"""Region: the known family of sets that the rules compile to.

    W = { w :  lower <= w <= upper,   row_lower <= A w <= row_upper,
               sum |w - anchor| <= turnover,   g(w) <= limit for every convex cap g (caps.py),
               at most `at_most` free names are not zero, and a free name that is not zero is >= min_weight }

Frozen names (not tradeable) have lower = upper and are not counted. Without the last line W is convex.

Whoever reads a Region must take all of it. `plain` says that there are no caps, so that box, rows and one turnover
are the whole convex set; `folded` brings as many caps as can be into that form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from portfolio_ebm.constraints.caps import Ball, Cap
from portfolio_ebm.constraints.mixed.choices import Choices


@dataclass(frozen=True)
class Region:
    """The compiled rules of one decision; all tensors share dtype and device.

    Attributes:
        lower, upper: (n,), may be infinite.
        rows: A, (m, n); row_lower, row_upper: (m,). The budget is the row of ones.
        names: a label for every row ("Budget()", "Group(...)"), for messages.
        anchor: (n,) the held weights turnover is counted from, or None.
        turnover: the cap on sum |w - anchor|, or None.
        at_most: the most free names that may differ from zero, or None.
        min_weight: the least weight of a free name that is held; 0 for none.
        frozen: bool (n,), names that cannot be traded.
        caps: L1 balls beside turnover, ellipsoids and tails, each with its rule's repr as its name.
        choices: what other rules leave open, unit by unit (issuers small or big, names out or in), or None.
        grid: (n,), the step of each name whose weight is a whole number of lots, 0 for others, or None.
    """

    lower: Tensor
    upper: Tensor
    rows: Tensor
    row_lower: Tensor
    row_upper: Tensor
    names: tuple[str, ...]
    anchor: Tensor | None
    turnover: float | None
    at_most: int | None
    min_weight: float
    frozen: Tensor
    caps: tuple[Cap, ...] = ()
    choices: Choices | None = None
    grid: Tensor | None = None

    @classmethod
    def free(
        cls, n: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None,
        frozen: Tensor | None = None,
    ) -> Region:  # fmt: skip
        """All of R^n, no name of it `frozen` (n,) where that is not given."""
        inf = torch.full((n,), torch.inf, dtype=dtype, device=device)
        none = torch.zeros(0, dtype=dtype, device=device)
        return cls(
            lower=-inf, upper=inf, rows=torch.zeros(0, n, dtype=dtype, device=device), row_lower=none, row_upper=none,
            names=(), anchor=None, turnover=None, at_most=None, min_weight=0.0,
            frozen=torch.zeros(n, dtype=torch.bool, device=device) if frozen is None else frozen,
        )  # fmt: skip

    @property
    def n(self) -> int:
        return self.lower.shape[-1]

    @property
    def discrete(self) -> bool:
        """Whether the names held are a choice, so that W is not convex."""
        return self.at_most is not None or self.min_weight > 0.0 or self.choices is not None or self.grid is not None

    @property
    def plain(self) -> bool:
        """Whether box, rows and turnover are all there is beside the choice of names."""
        return not self.caps

    @property
    def balls(self) -> tuple[Ball, ...]:
        """The L1 balls among the caps."""
        return tuple(cap for cap in self.caps if isinstance(cap, Ball))

    @property
    def curved(self) -> tuple[Cap, ...]:
        """The caps that are not L1 balls: ellipsoids and tails."""
        return tuple(cap for cap in self.caps if not isinstance(cap, Ball))

    def with_box(self, lower: Tensor | float, upper: Tensor | float) -> Region:
        """Add lower <= w <= upper."""
        low, high = (torch.as_tensor(x, dtype=self.lower.dtype, device=self.lower.device) for x in (lower, upper))
        return replace(self, lower=self.lower.maximum(low), upper=self.upper.minimum(high))

    def with_row(self, row: Tensor, lower: float, upper: float, name: str) -> Region:
        """Add lower <= row . w <= upper."""
        return replace(
            self,
            rows=torch.cat([self.rows, row.to(self.rows).unsqueeze(0)]),
            row_lower=torch.constant_pad_nd(self.row_lower, (0, 1), lower),
            row_upper=torch.constant_pad_nd(self.row_upper, (0, 1), upper),
            names=(*self.names, name),
        )

    def with_choices(self, choices: Choices) -> Region:
        """Add units that have to choose a mode."""
        return replace(self, choices=choices if self.choices is None else self.choices.joined(choices))

    def with_grid(self, step: Tensor) -> Region:
        """Add that the weight of every name with a step above 0 is a multiple of it."""
        return replace(self, grid=step.to(self.lower))

    def ungridded(self) -> Region:
        """The region without its grid."""
        return self if self.grid is None else replace(self, grid=None)

    def with_cap(self, cap: Cap) -> Region:
        """Add g(w) <= limit."""
        return replace(self, caps=(*self.caps, cap.to(self.lower)))

    def folded(self) -> Region:
        """The same set with its caps in the plainest form: a ball on a box that decides the side of every name is a
        row (leverage without shorts), and one sum |w - centre| takes the place of turnover where that is free."""
        if not self.caps:
            return self
        found, kept = replace(self, caps=()), []
        for cap in self.caps:
            row = cap.row(self.lower, self.upper) if isinstance(cap, Ball) else None
            if row is not None:
                found = found.with_row(row[0], -torch.inf, row[1], cap.name)
            elif isinstance(cap, Ball) and cap.plain and (found.turnover is None or found.anchor is None):
                found = replace(found, anchor=cap.centre, turnover=cap.limit)
            else:
                kept.append(cap)
        return replace(found, caps=tuple(kept))

    def on(self, pattern: Tensor) -> Region:
        """The convex slice on which exactly the free names of `pattern` (bool (..., n)) may be held, each at
        min_weight or more, and the others are zero; empty where a name left out may not be zero."""
        zero = torch.zeros_like(self.lower)
        floor = self.lower.clamp_min(self.min_weight) if self.min_weight > 0.0 else self.lower
        lower = torch.where(self.frozen, self.lower, torch.where(pattern, floor, self.lower.maximum(zero)))
        upper = torch.where(pattern | self.frozen, self.upper, self.upper.minimum(zero))
        return replace(self, lower=lower, upper=upper, at_most=None, min_weight=0.0, choices=None, grid=None)

    def relaxed(self) -> Region:
        """The convex relaxation: any number of names, and each free name anywhere between zero and its cap."""
        if not self.discrete:
            return self
        lower, upper = self.lower, self.upper
        if self.min_weight > 0.0:
            # A held name is at min_weight or more, so nothing is short, and a cap below it means out.
            upper = torch.where(upper < self.min_weight, upper.clamp_max(0.0), upper)
            lower = torch.where(lower > 0.0, lower.clamp_min(self.min_weight), lower.clamp_min(0.0))
        lower = torch.where(self.frozen, self.lower, lower)
        upper = torch.where(self.frozen, self.upper, upper)
        return replace(self, lower=lower, upper=upper, at_most=None, min_weight=0.0, choices=None, grid=None)

    def to(self, like: Tensor) -> Region:
        """The same region in the dtype and on the device of `like`."""
        if self.lower.dtype == like.dtype and self.lower.device == like.device:
            return self
        moved = {name: getattr(self, name).to(like) for name in ("lower", "upper", "rows", "row_lower", "row_upper")}
        anchor = None if self.anchor is None else self.anchor.to(like)
        grid = None if self.grid is None else self.grid.to(like)
        caps = tuple(cap.to(like) for cap in self.caps)
        return replace(self, **moved, anchor=anchor, frozen=self.frozen.to(like.device), caps=caps, grid=grid)


def curved_names(*regions: Region | None) -> str:
    """The rules behind the curved caps of regions, for messages."""
    return ", ".join(cap.name for region in regions if region is not None for cap in region.curved)
