"""Row: one law out of a batch of conditional laws, as a density of no batch, so that it can be named and added."""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.models.conditional import Conditional
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.quadrature import NODES


class Row(Density):
    """The law of one model at one row.

    Args:
        law: a batch (M, N).
        model, row: which of them.

    Example:
        >>> Row(law, 0).of("market") + Row(law, 1).of("MTUM")
    """

    def __init__(self, law: Conditional, model: int, row: int = 0) -> None:
        theta = None if law.theta is None else law.theta[model : model + 1, row : row + 1]
        state = law.state.models([model]).rows(slice(row, row + 1))
        self.law = Conditional(law.layout(model), law.flat[model : model + 1], state, theta)
        self.location, self.scale = self.law.location[0, 0], self.law.scale[0, 0]

    @property
    def tail(self) -> Tensor:
        return self.law.tail[0, 0]

    def energy(self, x: Tensor) -> Tensor:
        return self.law.energy(x[..., None, None])[..., 0, 0]

    def log_z(self, nodes: int = NODES) -> Tensor:
        return self.law.log_z(nodes)[0, 0]

    def score(self, x: Tensor) -> Tensor:
        return self.law.score(x[..., None, None])[..., 0, 0]

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        return self.law.cdf(x[..., None, None], nodes)[..., 0, 0]

    def _invert(self, u: Tensor) -> Tensor:
        found: Tensor = torch.as_tensor(self.law.quantile(u[..., None, None]))
        return found[..., 0, 0]
