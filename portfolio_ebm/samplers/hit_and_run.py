"""Hit-and-run: an exact draw on the chord of a random direction, for any polyhedron.

    E(x) = 1/2 x'Mx + m'x + sum_i rate_i |x_i - centre_i|
    x + t d,   d = B z,   z ~ N(0, I),   t ~ exp(-E(x + t d) / T) on the chord

B spans what the equations leave open, scaled by what is known of the law's spread. One direction serves all chains,
which are independent given the directions. Kinks enter as slices, as in pair_gibbs.py.

Source: Belisle, Romeijn and Smith (1993), Hit-and-run algorithms for generating multivariate distributions,
Mathematics of Operations Research 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from portfolio_ebm.samplers.chords import draw_on_chord
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.planned import Planned
from portfolio_ebm.samplers.polyhedron import Polyhedron


@dataclass(frozen=True)
class HitAndRun(Planned[Tensor]):
    """The kernel for one energy and one polyhedron; `basis` is B (n, k), see `open_basis`."""

    target: Target
    polyhedron: Polyhedron
    basis: Tensor

    def plan(self, steps: int, rng: torch.Generator) -> list[Tensor]:
        """The directions, (n,) each, drawn beforehand."""
        z = torch.randn(steps, self.basis.shape[1], generator=rng, dtype=self.basis.dtype, device=rng.device)
        return list(z.to(self.basis.device) @ self.basis.T)

    def sweep(self, x: Tensor, temperature: float, plan: list[Tensor], rng: torch.Generator) -> Tensor:
        """x (n, chains) after the moves of `plan`, in order."""
        target = self.target
        uniforms = partial(torch.rand, x.shape[1], generator=rng, dtype=x.dtype, device=x.device)
        for d in plan:
            pull = target.matrix @ d
            slope = pull @ x + target.linear @ d
            low, high = self.polyhedron.chord(x, d)
            if target.rate is not None and target.centre is not None:
                low, high = _sliced(target.rate, target.centre, x, d, low, high, temperature, rng)
            t = draw_on_chord(slope, float(pull @ d), temperature, low, high, uniforms(), uniforms)
            x = x + t * d.unsqueeze(-1)
        return x


def open_basis(p: Polyhedron, spread: Tensor | None = None) -> Tensor:
    """B (n, k): an orthonormal basis of the null space of the equations, or R Q with R R' = `spread` (n, n), the
    covariance expected of the law, projected on that space."""
    equations = p.rows[p.equal]
    if len(equations):
        _, sizes, right = torch.linalg.svd(equations, full_matrices=True)
        rank = int((sizes > 1e-12 * sizes.max()).sum())
        basis: Tensor = right[rank:].T
    else:
        basis = torch.eye(p.n, dtype=p.lower.dtype, device=p.lower.device)
    if spread is None:
        return basis
    inner = basis.T @ spread @ basis
    values, vectors = torch.linalg.eigh(0.5 * (inner + inner.T))
    floor = 1e-6 * values.max()
    found: Tensor = basis @ (vectors * values.clamp_min(float(floor)).sqrt())
    return found


def _sliced(
    rate: Tensor, centre: Tensor, x: Tensor, d: Tensor, low: Tensor, high: Tensor, temperature: float,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    kinked = (rate > 0.0) & (d != 0.0)
    if not bool(kinked.any()):
        return low, high
    gap = x[kinked] - centre[kinked].unsqueeze(-1)
    step = d[kinked].unsqueeze(-1)
    draws = torch.rand(gap.shape, generator=rng, dtype=x.dtype, device=x.device)
    reach = gap.abs() - temperature * torch.log1p(-draws) / rate[kinked].unsqueeze(-1)
    one, other = (-reach - gap) / step, (reach - gap) / step
    low = low.maximum(one.minimum(other).amax(0)).clamp_max(0.0)
    return low, high.minimum(one.maximum(other).amin(0)).clamp_min(0.0)
