"""Exact maximum likelihood for conditional energies: log Z is known, so no sampler and no bound is needed.

    loss = -(1/N) sum_t log p(x_t | s_t) + (1/2N) sum_j ((theta_j - theta0_j) / sd_j)^2,

the posterior mode under a Gaussian prior around a plain EWMA Student-t law. Models lie in one batch dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError, ShapeError
from portfolio_ebm.models.conditional import Conditional, State
from portfolio_ebm.models.families import Layout
from portfolio_ebm.training.quasi_newton import minimise
from portfolio_ebm.types import Status

TRAINING_NODES = 32
"""Nodes of log Z while training: 1e-5 on the laws a fit passes through; what is reported uses 128."""


@dataclass(frozen=True)
class Fit:
    """What training gave.

    Attributes:
        parameters: (M, P), one row a model.
        log_likelihood: mean log density of a row, nats, (M,), without the prior.
        statuses: how each model's training ended.
    """

    parameters: Tensor
    log_likelihood: Tensor
    statuses: tuple[Status, ...]


def maximum_likelihood(
    family: Layout, state: State, x: Tensor, seen: Tensor, *, iterations: int = 200, tolerance: float = 1e-7
) -> Fit:
    """Fit M conditional energies at once.

    Args:
        family: the layout of the parameters.
        state: states of the rows, (M, N, ...).
        x: data, (M, N); rows that do not count may hold anything finite.
        seen: bool (M, N), the rows that count.
        iterations: most steps of the optimiser.
        tolerance: nats a row; two steps in a row that gain less end a model's training.

    Raises:
        ShapeError: x, seen and state disagree.
        FitError: a model has no row, or its likelihood is not finite at the prior.

    Example:
        >>> fit = maximum_likelihood(family, state, x, torch.isfinite(x))
        >>> Conditional(family, fit.parameters, state).log_prob(x)
    """
    if x.shape != seen.shape or x.shape != state.level.shape:
        raise ShapeError(
            f"x {tuple(x.shape)}, seen {tuple(seen.shape)} and state {tuple(state.level.shape)} must agree."
        )
    count = seen.sum(-1)
    if bool((count == 0).any()):
        raise FitError(
            f"Model {int((count == 0).nonzero()[0])} has no row to learn from; give it data or leave it out."
        )
    centre, spread = (item.to(x) for item in family.prior())
    weight = seen.to(x) / count[:, None]

    # In units of the prior's own deviations the curvatures of all parameters are alike, and steps are few.
    def objective(white: Tensor, models: Tensor) -> Tensor:
        law = Conditional(family, centre + spread * white, state.models(models))
        loss = -(law.log_prob(x[models], TRAINING_NODES) * weight[models]).sum(-1)
        # Scale-free: the long-run level is data, not a parameter.
        loss = loss - (state.level[models].log() * weight[models]).sum(-1) / 2
        return loss + 0.5 * white.square().sum(-1) / count[models]

    found = minimise(objective, torch.zeros(len(x), family.size).to(x), iterations=iterations, tolerance=tolerance)
    if not bool(torch.isfinite(found.value).all()):
        bad = int((~torch.isfinite(found.value)).nonzero()[0])
        raise FitError(f"Model {bad}: the likelihood is not finite at the prior; its data or state is not finite.")
    with torch.no_grad():
        parameters = centre + spread * found.parameters
        likelihood = (Conditional(family, parameters, state).log_prob(x) * weight).sum(-1)
    ends = zip(found.converged, found.iterations, strict=True)
    return Fit(parameters, likelihood, tuple(_status(bool(ok), int(taken)) for ok, taken in ends))


def _status(converged: bool, taken: int) -> Status:
    if converged:
        return Status(True, f"converged in {taken} steps")
    return Status(False, f"stopped after {taken} steps before converging; give more iterations or more data")
