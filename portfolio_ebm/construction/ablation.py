"""Exact polishes of patterns, each done once, and the record of what every stage was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.convex import minimize
from portfolio_ebm.construction.slices import Slices, curvature_matrix, solve_slices
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.samplers.kernel import evaluate

ROUNDING = "rounding + polish"
NO_SWAPS = "chains, no swaps + polish"
NO_NOISE = "swaps, no noise"
FRACTIONS = "without whole lots"
BEFORE = "before polish"
FINAL = "final"


@dataclass(frozen=True)
class Polished:
    """The least energy on one slice: weights (n,), E there, and whether it is exact for this slice."""

    weights: Tensor
    energy: float
    exact: bool


@dataclass
class Polisher:
    """Solves slices of the region for good; what was solved is remembered by pattern.

    Attributes:
        convex: whether the energy is, so that the exact solver takes it; else a local descent on the slice.
    """

    energy: Energy
    bound: Bound
    region: Region
    ctx: Context
    convex: bool
    done: dict[bytes, Polished] = field(default_factory=dict)

    def polish(self, key: bytes, start: Tensor) -> Polished | None:
        """The minimum on the slice of a pattern, from `start` (n,); None where the slice is empty."""
        if key not in self.done:
            pattern = torch.as_tensor(np.frombuffer(key, dtype=bool).copy(), device=self.region.lower.device)
            slice_ = self.region.on(pattern) if self.region.discrete else self.region
            try:
                self.done[key] = self._exact(slice_) if self.convex else self._local(slice_, pattern, start)
            except InfeasibleError:
                return None
        return self.done[key]

    def polish_all(self, keys: Sequence[bytes], starts: Sequence[Tensor]) -> Polished | None:
        """The best of several patterns; None where every slice is empty."""
        found = [self.polish(key, start) for key, start in zip(keys, starts, strict=True)]
        return min((one for one in found if one is not None), key=lambda one: one.energy, default=None)

    def best(self) -> Polished:
        """The best of all that was polished.

        Raises:
            SolverError: nothing was.
        """
        if not self.done:
            raise SolverError("No pattern that the chains reached has a portfolio; raise steps or chains.")
        return min(self.done.values(), key=lambda one: one.energy)

    def _exact(self, slice_: Region) -> Polished:
        found = minimize(self.energy, slice_, self.ctx)
        return Polished(found.weights, found.value, found.status.ok)

    def _local(self, slice_: Region, pattern: Tensor, start: Tensor) -> Polished:
        """Newton-like steps on a convex model of the curvature, each taken only downhill."""
        slices = Slices.of(slice_)
        every = np.ones((1, slices.n), dtype=bool)
        now = evaluate(project_region(start, slice_).weights, self.bound)
        for stride in (1e-2, 1e-3, 1e-4, 1e-4):
            hessian = curvature_matrix(self.bound, now.x, slice_.lower, stride).cpu().double().numpy()
            found = solve_slices(
                slices, self.bound, every, now.x.unsqueeze(0), now.gradient.unsqueeze(0), hessian, rounds=12
            )
            if float(found.energy[0]) < float(now.energy):
                now = evaluate(found.weights[0], self.bound)
        return Polished(now.x, float(now.energy), False)
