"""Dependence energies: copulas that tie parts together and leave every part's own law as it is."""

from portfolio_ebm.market.dependence.base import Dependence, DependenceEnergy, Dynamics
from portfolio_ebm.market.dependence.copula import Carry, log_copula, scores
from portfolio_ebm.market.dependence.dcc import DCC
from portfolio_ebm.market.dependence.independent import Independent
from portfolio_ebm.market.dependence.mixture import MovingCopula
from portfolio_ebm.market.dependence.named import spec_of
from portfolio_ebm.market.dependence.static import GaussianCopula, StudentCopula

__all__ = [
    "DCC",
    "Carry",
    "Dependence",
    "DependenceEnergy",
    "Dynamics",
    "GaussianCopula",
    "Independent",
    "MovingCopula",
    "StudentCopula",
    "log_copula",
    "scores",
    "spec_of",
]
