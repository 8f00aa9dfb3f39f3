"""Batched L-BFGS: many small smooth problems at once, each with its own step, line search and end.

    theta <- theta - t H g,   H from the last pairs (s, y) by the two-loop recursion,

with a backtracking (Armijo) line search for each model, the next length from the parabola through what is known.
Where a curvature B is given (the Fisher information), H starts from B^-1 in place of a multiple of the identity,
and the pairs start anew whenever B is renewed. A model that has converged leaves the batch: its numbers never move
again, and a batch gives what each model gives alone, to rounding.

Source: D. C. Liu and J. Nocedal (1989), On the limited memory BFGS method for large scale optimization.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]
"""(parameters (m, P), which models (m,)) -> values (m,), each a function of its own row only."""

Curvature = Callable[[Tensor, Tensor], Tensor]
"""(parameters (m, P), which models (m,)) -> lower Cholesky factors (m, P, P) of positive definite curvatures."""

MEMORY = 12
RENEWALS = (0, 5, 10)
"""Steps before which the curvature is taken anew."""
ARMIJO = 1e-4
SHORTENINGS = 15


@dataclass(frozen=True)
class Minimised:
    """Parameters (M, P), values (M,), whether each converged (M,), iterations each took (M,)."""

    parameters: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor


@dataclass(frozen=True)
class _Point:
    """The open models' parameters (m, P), values (m,) and gradients (m, P)."""

    theta: Tensor
    value: Tensor
    gradient: Tensor

    def rows(self, keep: Tensor) -> _Point:
        return _Point(self.theta[keep], self.value[keep], self.gradient[keep])


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    iterations: int = 200,
    tolerance: float = 1e-7,
    curvature: Curvature | None = None,
) -> Minimised:
    """Minimise every model's objective from `start` (M, P), with the help of an approximate curvature where given.

    A model has converged when two steps in a row lower its value by less than `tolerance`, or when its gradient is
    below `tolerance` everywhere. One whose value is not finite at the start stays there, not converged.
    """
    models = torch.arange(len(start), device=start.device)
    at = _evaluate(objective, start.detach().clone(), models)
    theta, value = at.theta.clone(), at.value.clone()
    converged = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    taken = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    keep = torch.isfinite(at.value)
    models, at = models[keep], at.rows(keep)
    quiet = torch.zeros_like(models)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    root: Tensor | None = None
    for step in range(iterations):
        if not len(models):
            break
        if curvature is not None and step in RENEWALS:
            root, pairs = curvature(at.theta, models), []
        new = _step(objective, at, models, pairs, root)
        pairs.append(_pair(new.theta - at.theta, new.gradient - at.gradient))
        del pairs[:-MEMORY]
        quiet = torch.where(at.value - new.value < tolerance, quiet + 1, 0)
        ended = (quiet >= 2) | (new.gradient.abs().amax(-1) < tolerance)
        theta[models], value[models] = new.theta, new.value
        converged[models], taken[models] = ended, taken[models] + 1
        at, keep = new, ~ended
        if bool(ended.any()):
            models, at, quiet = models[keep], at.rows(keep), quiet[keep]
            pairs = [(s[keep], y[keep], rho[keep]) for s, y, rho in pairs]
            root = None if root is None else root[keep]
    return Minimised(theta, value, converged, taken)


def _evaluate(objective: Objective, theta: Tensor, models: Tensor) -> _Point:
    with torch.enable_grad():
        point = theta.detach().requires_grad_(True)
        value = objective(point, models)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return _Point(point.detach(), value.detach(), gradient)


def _step(
    objective: Objective,
    at: _Point,
    models: Tensor,
    pairs: list[tuple[Tensor, Tensor, Tensor]],
    root: Tensor | None,
) -> _Point:
    """The first of shorter and shorter lengths with enough decrease, model by model; no step where none has it."""
    direction = _direction(at.gradient, pairs, root)
    slope = (direction * at.gradient).sum(-1)
    uphill = slope >= 0
    direction = torch.where(uphill[:, None], -at.gradient, direction)
    slope = torch.where(uphill, -at.gradient.square().sum(-1), slope)
    # With no curvature known, the first step is held to a tenth of unit length.
    known = bool(pairs) or root is not None
    length = torch.ones_like(slope) if known else 0.1 / at.gradient.norm(dim=-1).clamp_min(0.1)
    theta, value, gradient = at.theta.clone(), at.value.clone(), at.gradient.clone()
    wanting = torch.arange(len(models), device=models.device)
    for _ in range(SHORTENINGS):
        trial = _evaluate(objective, (at.theta + length[:, None] * direction)[wanting], models[wanting])
        enough = trial.value <= (at.value + ARMIJO * length * slope)[wanting]
        good = torch.isfinite(trial.value) & torch.isfinite(trial.gradient).all(-1) & enough
        found = wanting[good]
        theta[found], value[found], gradient[found] = trial.theta[good], trial.value[good], trial.gradient[good]
        rise = (trial.value - at.value[wanting])[~good]
        wanting = wanting[~good]
        if not len(wanting):
            break
        # The least of the parabola through both values and the slope, within a tenth and a half of the step.
        t, s = length[wanting], slope[wanting]
        least = -s * t / (2 * (rise - s * t)).clamp_min(1e-300)
        length[wanting] = t * torch.where(torch.isfinite(rise), least, 0.5).clamp(0.1, 0.5)
    return _Point(theta, value, gradient)


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], root: Tensor | None) -> Tensor:
    """-H g by the two-loop recursion; a pair without curvature in a model is skipped there (rho = 0)."""
    q, kept = gradient, []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * q).sum(-1)
        q = q - alpha[:, None] * y
        kept.append(alpha)
    if root is not None:
        r = torch.cholesky_solve(q[..., None], root)[..., 0]
    else:
        scale = torch.ones_like(q[:, 0])
        for s, y, rho in pairs:
            scale = torch.where(rho > 0, (s * y).sum(-1) / y.square().sum(-1).clamp_min(1e-300), scale)
        r = q * scale[:, None]
    for (s, y, rho), alpha in zip(pairs, reversed(kept), strict=True):
        r = r + (alpha - rho * (y * r).sum(-1))[:, None] * s
    return -r


def _pair(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    curve = (s * y).sum(-1)
    enough = curve > 1e-10 * s.norm(dim=-1) * y.norm(dim=-1)
    return s, y, torch.where(enough, 1.0 / torch.where(enough, curve, 1.0), 0.0)
