"""A form with a calibration energy: E(z | s) - log c(F(z | s)), of the same normaliser (see `calibration`).

Every number of the law follows: its density, its cdf C(F(z)), its quantiles, its tables and moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.models.calibration import inverse, level, log_density, slope
from portfolio_ebm.models.forms import TINY, Form
from portfolio_ebm.models.quadrature import NODES

FINE = 2048
"""Knots of the table of F behind a density: 1e-9 close to the cdf."""


class CalibratedForm(Form):
    """The laws of z of M models at N rows, each with its own calibration.

    Args:
        form: the laws without it.
        theta: coefficients, (M, N, 6); zeros leave a law as it is.
    """

    def __init__(self, form: Form, theta: Tensor) -> None:
        super().__init__(form.power)
        self.form, self.theta = form, theta

    def energy(self, x: Tensor) -> Tensor:
        x = x.expand(torch.broadcast_shapes(x.shape, self.batch))
        u = self.form.levels(x.reshape(-1, *self.batch).movedim(0, -1), FINE).movedim(-1, 0).reshape(x.shape)
        return self.form.energy(x) - log_density(u, self.theta)

    def score(self, x: Tensor) -> Tensor:
        """The form's own, plus p(z) c'(u) / c(u) at u = F(z)."""
        u = self.form.cdf(x)
        return self.form.score(x) + self.form.log_prob(x).exp() * slope(u, self.theta)

    def on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        models, rows = self.batch
        grid = z.expand(models, -1)[:, None].expand(-1, rows, -1)
        return self.form.on(z, log_weight) + log_density(self.form.levels(grid, FINE), self.theta[..., None, :])

    def log_z(self, nodes: int = NODES) -> Tensor:
        return self.form.log_z(nodes)

    def levels(self, z: Tensor, count: int) -> Tensor:
        return level(self.form.levels(z, count), self.theta[..., None, :]).clamp(TINY, 1 - TINY)

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        return level(self.form.cdf(x, nodes), self.theta)

    def _invert(self, u: Tensor) -> Tensor:
        eps = torch.finfo(u.dtype).eps
        return self.form.quantile(inverse(u, self.theta).clamp(torch.finfo(u.dtype).tiny, 1 - eps))
