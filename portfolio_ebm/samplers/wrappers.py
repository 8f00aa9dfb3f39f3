"""Kernels made from kernels.

    Projected(kernel, P)   x' = P(proposal of the kernel)

Projected Langevin is an optimizer's step, not a sampler's: it puts atoms of probability on the boundary. Use it to
find low energies in a set, never to report a distribution over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from portfolio_ebm.samplers.kernel import Kernel, State, Temperature


@dataclass(frozen=True)
class Projected(Kernel):
    """A kernel whose every proposal is brought back to a set.

    `project` maps (..., n) to the nearest points of the set, (..., n). At T = 0, on a convex set, this is projected
    gradient descent. The starting points are the caller's to project.

    Example:
        >>> Projected(ULA(0.1), lambda x: x.clamp_min(0.0))
    """

    kernel: Kernel
    project: Callable[[Tensor], Tensor]

    def propose(self, state: State, temperature: Temperature, noise: Tensor) -> Tensor:
        return self.project(self.kernel.propose(state, temperature, noise))
