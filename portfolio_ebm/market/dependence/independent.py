"""Independence: parts that are added and nothing else, E = 0."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.market.dependence.base import Array, Dependence, DependenceEnergy, Dynamics


class Independent(DependenceEnergy):
    """No dependence: the joint density is the product of the parts' own.

    Example:
        >>> FactorEBM(dependence=Independent())
    """

    def fit(self, u: Array) -> Dependence:
        return Dependence.none()

    def dynamics(self, tensors: Mapping[str, Tensor]) -> Dynamics:
        raise SpecError("Independent has no correlations to restore; use Dependence.none().")
