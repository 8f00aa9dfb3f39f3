"""A conditional one-dimensional law: the state moves the place, the width and the shape.

    E(x | s) = E(z | s) + log sigma(s),      z = (x - mu(s)) / sigma(s)
    sigma^2  = v (sp(w_0) + sum_j sp(w_j) r_j) exp(2 tanh <d, s>),         sp = softplus
    mu(s)    = sqrt(v) r_ref^(1/2) <m, q>,    c(s) = 1.5 + sp(c_0 + <c, s>) in every form E(z | s)

v is the long-run variance and r_j the ratios of faster variances to it, s and q bounded features of the state. The
form E(z | s) is the family's: an energy with a small network of bounded features, so that the tail stays the finite
power law |z|^(-2c); a Student t; a skewed one (`forms`, `families`). To any of them a calibration energy can be added.

Parameters of all models lie in one tensor (models, P): a batch of models is fitted by one loop of array operations,
and every model's numbers are its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from portfolio_ebm.models.calibrated_form import CalibratedForm
from portfolio_ebm.models.density import Density, interpolate
from portfolio_ebm.models.families import Family, Layout, Mixed
from portfolio_ebm.models.forms import Form
from portfolio_ebm.models.quadrature import NODES, interval_rule, to_line, to_unit

__all__ = ["Conditional", "Family", "Mixed", "Shape", "State", "shape_nodes", "truncated_shape"]


@dataclass(frozen=True)
class State:
    """What is known before x, for M models and N rows.

    Attributes:
        level: v, the long-run variance, (M, N).
        ratios: r_j, variances over v, (M, N, J).
        features: s, bounded, (M, N, F).
        drift: q, bounded, (M, N, Q): lagged means, then forecasts of x in units of the reference deviation.
    """

    level: Tensor
    ratios: Tensor
    features: Tensor
    drift: Tensor

    def rows(self, which: slice | Tensor) -> State:
        """Some of the rows, with their dimension kept."""
        return State(self.level[:, which], self.ratios[:, which], self.features[:, which], self.drift[:, which])

    def models(self, which: Tensor | list[int]) -> State:
        """Some of the models."""
        return State(self.level[which], self.ratios[which], self.features[which], self.drift[which])


class Conditional(Density):
    """The laws p(x | s) of M models at N rows: a density of batch shape (M, N).

    Args:
        family: the layout of the parameters, one for all models or `Mixed`.
        flat: parameters, (M, P).
        state: rows of state for the same M models.
        theta: coefficients of a calibration energy, (M, N, 6) as `calibration.theta_path` gives them, or None.

    Example:
        >>> law = Conditional(family, fit.parameters, state)
        >>> law.log_prob(x)                     # x (M, N), nats
    """

    def __init__(self, family: Layout | Mixed, flat: Tensor, state: State, theta: Tensor | None = None) -> None:
        self.family, self.flat, self.state, self.theta = family, flat, state, theta
        p = family.split(flat)
        mixed = softplus(p["mix"][:, 0])[:, None] + _dot(state.ratios, softplus(p["mix"][:, 1:]))
        spread = torch.tanh(_dot(state.features, p["scale"]))
        self.mixed, self.spread = mixed, spread
        self.scale = (state.level * mixed).sqrt() * spread.exp()
        width = (state.level * state.ratios[..., family.reference]).sqrt()
        self.location = width * _dot(state.drift, torch.cat([p["drift"], p["forecast"]], -1))
        form = family.form(flat, state.features)
        self.form: Form = form if theta is None else CalibratedForm(form, theta)

    @property
    def tail(self) -> Tensor:
        return 2 * self.form.power - 1

    def layout(self, model: int) -> Mixed:
        """The family of one model."""
        return Mixed((self.family.families[model] if isinstance(self.family, Mixed) else self.family,))

    def energy(self, x: Tensor) -> Tensor:
        return self.form.energy(self._z(x)) + self.scale.log()

    def score(self, x: Tensor) -> Tensor:
        return self.form.score(self._z(x)) / self.scale

    def log_z(self, nodes: int = NODES) -> Tensor:
        """log of the integral of exp(-E), (M, N); the log sigma in E is the Jacobian."""
        return self.form.log_z(nodes)

    def shape_moments(self, nodes: int = NODES) -> tuple[Tensor, Tensor]:
        """Mean and variance of z, (M, N)."""
        return self.form.moments(nodes)

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        return self.form.cdf(self._z(x), nodes)

    def pit(self, x: Tensor, count: int = 96) -> Tensor:
        """F(x | s) for x (M, N) from one table of cdf a row: 1e-5 close to `cdf`, at a fraction of its cost."""
        return self.form.levels(self._z(x)[..., None], count)[..., 0]

    def level(self, x: Tensor, count: int = 2048) -> Tensor:
        """F(x | s) for many x (S, M, N), from one fine table a row: 1e-9 close to `cdf`."""
        return self.form.levels(self._z(x).movedim(0, -1), count).movedim(-1, 0)

    def _z(self, x: Tensor) -> Tensor:
        return (x - self.location) / self.scale

    def _invert(self, u: Tensor) -> Tensor:
        return self.location + self.scale * self.form.quantile(u)


@dataclass(frozen=True)
class Shape:
    """The law of z of one row of each of M models, truncated to `bound` deviations around its mean.

    Attributes:
        z: knots, (M, G), increasing.
        mass: cdf at the knots, (M, G).
        mean, variance, downside, deviation: of the truncated z, (M,); downside is 2 E[min(z - mean, 0)^2], deviation
            E|z - mean|.
    """

    z: Tensor
    mass: Tensor
    mean: Tensor
    variance: Tensor
    downside: Tensor
    deviation: Tensor

    def parts(self, which: slice) -> Shape:
        """Some of the M parts."""
        return Shape(*(getattr(self, name)[which] for name in Shape.__dataclass_fields__))

    def quantile(self, u: Tensor) -> Tensor:
        """z at u (..., M), linear between knots."""
        return interpolate(u.reshape(-1, u.shape[-1]), self.mass, self.z).reshape(u.shape)


def shape_nodes(law: Conditional, bound: float, nodes: int = NODES) -> tuple[Tensor, Tensor]:
    """Quadrature of z cut at `bound` deviations from its mean: z and log mass, (M, nodes); the masses add to 1."""
    mean, variance = (item[:, 0] for item in law.shape_moments())
    edge = bound * variance.sqrt()
    z, log_weight = (item.T for item in interval_rule(mean - edge, mean + edge, nodes))
    return z, torch.log_softmax(law.form.on(z, log_weight)[:, 0], -1)


def truncated_shape(law: Conditional, bound: float, count: int = 2048) -> Shape:
    """The truncated law of z as a table with its moments; the law has one row."""
    z, log_mass = shape_nodes(law, bound)
    weight = log_mass.exp()
    mean = (weight * z).sum(-1)
    off = z - mean[:, None]
    centre, spread = (item[:, 0] for item in law.shape_moments())
    low, high = to_unit(centre - bound * spread.sqrt()), to_unit(centre + bound * spread.sqrt())
    share = torch.linspace(0, 1, count, dtype=z.dtype, device=z.device)
    knot, slope = to_line(low[:, None] + (high - low)[:, None] * share)
    height = torch.softmax(law.form.on(knot, slope)[:, 0], -1)
    mass = torch.cat([torch.zeros_like(height[:, :1]), ((height[:, 1:] + height[:, :-1]) / 2).cumsum(-1)], -1)
    low_half, size = off.clamp_max(0).square(), off.abs()
    variance, down, deviation = ((weight * moment).sum(-1) for moment in (off.square(), 2 * low_half, size))
    return Shape(knot, mass / mass[:, -1:], mean, variance, down, deviation)


def _dot(rows: Tensor, weights: Tensor) -> Tensor:
    """(M, N, F) with (M, F) -> (M, N)."""
    return (rows @ weights[..., None]).squeeze(-1)
