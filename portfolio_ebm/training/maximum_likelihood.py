"""Exact maximum likelihood for conditional energies: log Z is known, so no sampler and no bound is needed.

    loss = -(1/N) sum_t log p(x_t | s_t) + (1/2N) sum_j ((theta_j - theta0_j) / sd_j)^2,

the posterior mode under a Gaussian prior around a plain EWMA Student-t law. Models lie in one batch dimension. Steps
start from the Fisher information, the mean outer product of the scores of some rows, which halves their number.

Source: E. Berndt, B. Hall, R. Hall and J. Hausman (1974), Estimation and inference in nonlinear structural models,
Annals of Economic and Social Measurement 3 (curvature from outer products of scores).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError, ShapeError
from portfolio_ebm.models.conditional import Conditional, State
from portfolio_ebm.models.families import Layout
from portfolio_ebm.models.quadrature import NODES
from portfolio_ebm.training.quasi_newton import Minimised, minimise
from portfolio_ebm.types import Status

TRAINING_NODES = 32
"""Nodes of log Z while training: 1e-5 on the laws a fit passes through; what is reported uses 128."""

INFORMATION_ROWS = 600
"""Rows that the Fisher information is taken from, evenly spaced."""

DAMPING = 0.1
"""Share of the information's mean diagonal that is added to it."""

SETTLED = 1e-4
"""Nats by which the mean log Z may differ between training and four times its nodes; beyond it, 128 train the model."""


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
    family: Layout, state: State, x: Tensor, seen: Tensor, *, iterations: int = 200, tolerance: float = 1e-6
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
    models = torch.arange(len(x), device=x.device)
    task = _Task(family, state, x, seen, TRAINING_NODES)
    found = _climb(task, iterations, tolerance)
    if not bool(torch.isfinite(found.value).all()):
        bad = int((~torch.isfinite(found.value)).nonzero()[0])
        raise FitError(f"Model {bad}: the likelihood is not finite at the prior; its data or state is not finite.")
    parameters, likelihood, off = task.outcome(found.parameters)
    # Few nodes can be deceived by an energy with a spike between them: what they did not see is trained with more.
    unsure = models[~(off < SETTLED)]
    if len(unsure):
        part = _Task(family, state.models(unsure), x[unsure], seen[unsure], NODES)
        again = _climb(part, iterations, tolerance)
        new = part.outcome(again.parameters)
        parameters[unsure], likelihood[unsure] = new[0], new[1]
        found.converged[unsure] = again.converged & (new[2] < SETTLED)
        found.iterations[unsure] += again.iterations
    ends = zip(found.converged, found.iterations, strict=True)
    return Fit(parameters, likelihood, tuple(_status(bool(ok), int(taken)) for ok, taken in ends))


@dataclass(frozen=True)
class _Task:
    """M models, their rows, and the nodes of log Z; parameters are in units of the prior's own deviations."""

    family: Layout
    state: State
    x: Tensor
    seen: Tensor
    nodes: int

    def loss(self, white: Tensor, models: Tensor) -> Tensor:
        """The penalised mean loss of some of the models, (m,)."""
        centre, spread = (item.to(white) for item in self.family.prior())
        count = self.seen[models].sum(-1)
        weight = self.seen[models].to(white) / count[:, None]
        state = self.state.models(models)
        law = Conditional(self.family, centre + spread * white, state)
        loss = (law.energy(self.x[models]) * weight).sum(-1) + law.form.mean_log_z(weight, self.nodes)
        # Scale-free: the long-run level is data, not a parameter.
        return loss - (state.level.log() * weight).sum(-1) / 2 + 0.5 * white.square().sum(-1) / count

    def information(self, white: Tensor, models: Tensor) -> Tensor:
        """Cholesky factors of the damped Fisher information and the prior's precision, (m, P, P)."""
        centre, spread = (item.to(white) for item in self.family.prior())
        eye = torch.eye(white.shape[-1]).to(white)
        found = []
        for place, m in enumerate(models.tolist()):
            known = self.seen[m].nonzero()[:, 0]
            few = known[torch.linspace(0, len(known) - 1, min(INFORMATION_ROWS, len(known))).round().long()]
            # Every row as a model of its own with parameters of its own: their gradients are the rows' scores.
            one = State(*(getattr(self.state, name)[m, few][:, None] for name in State.__dataclass_fields__))
            with torch.enable_grad():
                point = white[place].detach().expand(len(few), -1).clone().requires_grad_(True)
                law = Conditional(self.family, centre + spread * point, one)
                value = law.log_prob(self.x[m, few][:, None], self.nodes).sum()
                (score,) = torch.autograd.grad(value, point)
            matrix = score.mT @ score / len(few)
            found.append(matrix + eye * (1 / len(known) + DAMPING * matrix.diagonal().mean()))
        root: Tensor = torch.linalg.cholesky(torch.stack(found))
        return root

    def outcome(self, white: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters, mean log density at four times the nodes, and by how much the mean log Z then differs."""
        centre, spread = (item.to(white) for item in self.family.prior())
        weight = self.seen.to(white) / self.seen.sum(-1, keepdim=True)
        with torch.no_grad():
            parameters = centre + spread * white
            law = Conditional(self.family, parameters, self.state)
            few, many = (law.form.mean_log_z(weight, nodes) for nodes in (self.nodes, 4 * self.nodes))
            return parameters, -(law.energy(self.x) * weight).sum(-1) - many, (few - many).abs()


def _climb(task: _Task, iterations: int, tolerance: float) -> Minimised:
    start = torch.zeros(len(task.x), task.family.size).to(task.x)
    return minimise(
        task.loss, start, iterations=iterations, tolerance=tolerance, curvature=task.information
    )  # fmt: skip


def _status(converged: bool, taken: int) -> Status:
    if converged:
        return Status(True, f"converged in {taken} steps")
    return Status(False, f"stopped after {taken} steps before converging; give more iterations or more data")
