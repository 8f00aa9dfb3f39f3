"""Mirror coordinates: a simplex without its walls, on which any kernel for smooth energies runs.

    x_i = lower_i + R p_i,   p = softmax(y),   y_ref = 0,   R = total - sum lower
    law of y:  exp(-E(x(y)) / T) prod_i p_i

The product is the Jacobian of the softmax. Upper bounds, rows and balls are kept by rejection: the energy is +inf
beyond them. Together with MALA this is the mirror Langevin sampler with Metropolis correction.

Source: Hsieh, Kavis, Rolland and Cevher (2018), Mirrored Langevin dynamics, NeurIPS 31.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.polyhedron import Polyhedron


@dataclass(frozen=True)
class Mirror:
    """Coordinates z = y / scale (n - 1,) for points x (chains, n) of a polyhedron with fixed sum and finite floors."""

    polyhedron: Polyhedron
    total: float
    reference: int
    scale: Tensor

    @classmethod
    def of(cls, p: Polyhedron, reference: int, scale: Tensor | None = None) -> Mirror:
        """
        Raises:
            SpecError: the sum of x is not fixed, or a lower bound is infinite.
        """
        equal = p.equal & ((p.rows == p.rows[:, :1]) & (p.rows != 0.0)).all(-1)
        if not bool(equal.any()) or not bool(torch.isfinite(p.lower).all()):
            raise SpecError("Mirror coordinates need a fixed sum and finite lower bounds.")
        row = int(equal.nonzero()[0])
        total = float(p.row_upper[row] / p.rows[row, 0])
        return cls(p, total, reference, torch.ones_like(p.lower[1:]) if scale is None else scale)

    @property
    def room(self) -> float:
        """R, what is left of the total above the lower bounds."""
        return self.total - float(self.polyhedron.lower.sum())

    def forward(self, x: Tensor) -> Tensor:
        """z (chains, n - 1) of points x (chains, n) strictly above their lower bounds."""
        y = ((x - self.polyhedron.lower) / self.room).clamp_min(1e-300).log()
        others = torch.cat([y[..., : self.reference], y[..., self.reference + 1 :]], -1)
        return (others - y[..., self.reference : self.reference + 1]) / self.scale

    def back(self, z: Tensor) -> Tensor:
        """x (chains, n) of z."""
        return self.polyhedron.lower + self.room * self._log_shares(z).exp()

    def energy(self, energy: Bound, temperature: float) -> Bound:
        """z -> E(x) / T - sum_i log p_i, +inf outside of the polyhedron: the energy of z at temperature 1."""

        def mirrored(z: Tensor) -> Tensor:
            log_p = self._log_shares(z)
            x = self.polyhedron.lower + self.room * log_p.exp()
            value = energy(x) / temperature - log_p.sum(-1)
            outside = self._breach(x.detach()) > 1e-12
            return torch.where(outside, torch.full_like(value, torch.inf), value)

        return mirrored

    def _breach(self, x: Tensor) -> Tensor:
        """The largest breach but for the sum, which holds by construction."""
        p = self.polyhedron
        keep = ~p.equal
        open_ = Polyhedron(p.lower, p.upper, p.rows[keep], p.row_lower[keep], p.row_upper[keep], p.balls)
        return open_.violation(x.T)

    def _log_shares(self, z: Tensor) -> Tensor:
        y = z * self.scale
        zero = torch.zeros_like(y[..., :1])
        return torch.log_softmax(torch.cat([y[..., : self.reference], zero, y[..., self.reference :]], -1), -1)
