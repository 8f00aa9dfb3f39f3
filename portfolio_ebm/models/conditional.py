"""A conditional one-dimensional energy: the state moves the place, the width and the shape of the law.

    E(x | s) = c(s) log(1 + z^2 / b) + <a(s), phi(z)> + log sigma(s),      z = (x - mu(s)) / sigma(s)
    sigma^2  = v (sp(w_0) + sum_j sp(w_j) r_j) exp(2 tanh <d, s>),         sp = softplus
    c(s) = 1 + tail + sp(c_0 + <c, s>),   mu(s) = sqrt(v) r_ref^(1/2) <m, q>

v is the long-run variance and r_j the ratios of faster variances to it, s and q bounded features of the state. phi
is a small network of bounded features of z, so the tail stays the finite power law |z|^(-2c). The energy is separable
in state and z: on a grid of G nodes it costs G evaluations of phi and one matrix product.

Parameters of all models lie in one tensor (models, P): a batch of models is fitted by one loop of array operations,
and every model's numbers are its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import softplus

from portfolio_ebm.models.density import Density, cumulative, interpolate
from portfolio_ebm.models.quadrature import NODES, interval_rule, knots, line_rule, to_line, to_unit
from portfolio_ebm.types import generator

HIDDEN = 8
SHAPES = 6
TINY = 1e-12
"""Levels from tables are kept this far from 0 and 1."""
TAIL = 0.5
"""1 + TAIL is the least c: the density falls at least as |z|^-3, and its mean exists."""


@dataclass(frozen=True)
class State:
    """What is known before x, for M models and N rows.

    Attributes:
        level: v, the long-run variance, (M, N).
        ratios: r_j, variances over v, (M, N, J).
        features: s, bounded, (M, N, F).
        drift: q, bounded, (M, N, Q).
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


@dataclass(frozen=True)
class Family:
    """The layout of the parameters of one conditional energy.

    Attributes:
        ratios: J, how many variance ratios the scale mixes.
        features: F, entries of s.
        drift: Q, entries of q.
        reference: which ratio scales the conditional mean.
    """

    ratios: int
    features: int
    drift: int
    reference: int = 0

    def layout(self) -> tuple[tuple[str, tuple[int, ...], float], ...]:
        """Name, shape and prior standard deviation of every block, in the order of the flat vector."""
        return _layout(self)

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for _, shape, _ in self.layout())

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (P,) of the Gaussian prior: its mean is a plain EWMA Student-t law."""
        blocks, spread = [], []
        rng = generator(0, "conditional energy")
        for name, shape, sd in self.layout():
            blocks.append(_start(name, shape, self.ratios, rng).reshape(-1))
            spread.append(torch.full((math.prod(shape),), sd, dtype=torch.float64))
        return torch.cat(blocks), torch.cat(spread)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The flat parameters (M, P) as named blocks (M, *shape)."""
        found, at = {}, 0
        for name, shape, _ in self.layout():
            size = math.prod(shape)
            found[name] = flat[:, at : at + size].reshape(-1, *shape)
            at += size
        return found


@lru_cache(maxsize=32)
def _layout(family: Family) -> tuple[tuple[str, tuple[int, ...], float], ...]:
    f = family.features
    return (
        ("mix", (family.ratios + 1,), 0.4),
        ("scale", (f,), 0.05),
        ("tail_0", (), 0.3),
        ("tail", (f,), 0.05),
        ("reach", (), 0.2),
        ("drift", (family.drift,), 0.01),
        ("shape_0", (SHAPES,), 0.1),
        ("shape", (SHAPES, f), 0.02),
        ("slope", (HIDDEN,), 0.2),
        ("shift", (HIDDEN,), 0.2),
        ("weight", (SHAPES, HIDDEN), 0.2),
        ("bias", (SHAPES,), 0.2),
    )


def _start(name: str, shape: tuple[int, ...], ratios: int, rng: torch.Generator) -> Tensor:
    draw = torch.randn(shape, generator=rng, dtype=torch.float64)
    if name == "mix":
        share = torch.full(shape, 0.9 / ratios, dtype=torch.float64)
        share[0] = 0.05
        return torch.log(torch.expm1(share))
    if name == "tail_0":
        return torch.full(shape, math.log(math.expm1(2.0)), dtype=torch.float64)
    if name == "reach":
        return torch.full(shape, math.log(4.0), dtype=torch.float64)
    if name == "slope":
        return torch.linspace(0.6, 2.0, HIDDEN, dtype=torch.float64)
    if name == "shift":
        return torch.linspace(-1.5, 1.5, HIDDEN, dtype=torch.float64)
    if name == "weight":
        return draw * 0.7
    return torch.zeros(shape, dtype=torch.float64)


class Conditional(Density):
    """The laws p(x | s) of M models at N rows: a density of batch shape (M, N).

    Args:
        family: the layout.
        flat: parameters, (M, P).
        state: rows of state for the same M models.

    Example:
        >>> law = Conditional(family, fit.parameters, state)
        >>> law.log_prob(x)                     # x (M, N), nats
    """

    def __init__(self, family: Family, flat: Tensor, state: State) -> None:
        self.family, self.flat, self.state = family, flat, state
        p = family.split(flat)
        mixed = softplus(p["mix"][:, 0])[:, None] + _dot(state.ratios, softplus(p["mix"][:, 1:]))
        spread = torch.tanh(_dot(state.features, p["scale"]))
        self.mixed, self.spread = mixed, spread
        self.scale = (state.level * mixed).sqrt() * spread.exp()
        width = (state.level * state.ratios[..., family.reference]).sqrt()
        self.location = width * _dot(state.drift, p["drift"])
        tail = 1.0 + TAIL + softplus(p["tail_0"][:, None] + _dot(state.features, p["tail"]))
        shape = p["shape_0"][:, None, :] + state.features @ p["shape"].mT
        # One coefficient a basis function of z: c(s), then a(s).
        self.coefficients = torch.cat([tail[..., None], shape], -1)

    def basis(self, z: Tensor) -> Tensor:
        """log(1 + z^2 / b) and phi(z) for z (M, *any): shape (M, *any, 1 + SHAPES)."""
        p = self.family.split(self.flat)
        flat = z.reshape(len(z), -1)
        power = torch.log1p(flat * flat * torch.exp(-p["reach"])[:, None])
        hidden = torch.tanh(torch.asinh(flat)[..., None] * p["slope"][:, None] + p["shift"][:, None])
        phi = torch.tanh(torch.baddbmm(p["bias"][:, None], hidden, p["weight"].mT))
        return torch.cat([power[..., None], phi], -1).reshape(*z.shape, -1)

    def energy(self, x: Tensor) -> Tensor:
        z = (x - self.location) / self.scale
        extra = z.ndim - 2
        # The model dimension is second to last; the basis wants it in front.
        front = z.movedim(extra, 0)
        basis = self.basis(front).movedim(0, extra)
        return (self.coefficients * basis).sum(-1) + self.scale.log()

    def log_z(self, nodes: int = NODES) -> Tensor:
        """log of the integral, (M, N), by one product of coefficients and basis; the log sigma in E is the Jacobian."""
        rule = line_rule(nodes, like=self.scale)
        return self._on(rule.z, rule.log_weight).logsumexp(-1)

    def _on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        """log_weight_g - E_shape(z_g | s) on a grid of z (G,): shape (M, N, G)."""
        basis = self.basis(z.expand(len(self.flat), -1))
        return torch.baddbmm(log_weight.expand(len(self.flat), 1, -1), self.coefficients, basis.mT, alpha=-1.0)

    def shape_moments(self, nodes: int = NODES) -> tuple[Tensor, Tensor]:
        """Mean and variance of z, (M, N)."""
        rule = line_rule(nodes, like=self.scale)
        mass = torch.softmax(self._on(rule.z, rule.log_weight), -1)
        mean = mass @ rule.z
        return mean, mass @ (rule.z * rule.z) - mean.square()

    def pit(self, x: Tensor, count: int = 96) -> Tensor:
        """F(x | s) for x (M, N) from one table of cdf a row: 1e-5 close to `cdf`, at a fraction of its cost."""
        at = to_unit((x - self.location) / self.scale)
        return _hermite(at[..., None], *self._table(count))[..., 0]

    def level(self, x: Tensor, count: int = 2048) -> Tensor:
        """F(x) for many x (S, M) of laws of one row, from one fine table a model: 1e-9 close to `cdf`."""
        at = to_unit((x - self.location[:, 0]) / self.scale[:, 0])
        return _hermite(at.T[:, None], *self._table(count))[:, 0].T

    def _table(self, count: int) -> tuple[Tensor, Tensor]:
        """cdf and its slope at `count` knots equally spaced in v, both (M, N, count)."""
        _, z, slope = knots(count, like=self.scale)
        height = self._on(z, slope)
        height = torch.exp(height - height.amax(-1, keepdim=True))
        # The ends are zero: the sum over inner knots is the trapezoid rule.
        return cumulative(height), height / (height.sum(-1, keepdim=True) / (count + 1))


def _dot(rows: Tensor, weights: Tensor) -> Tensor:
    """(M, N, F) with (M, F) -> (M, N)."""
    return (rows @ weights[..., None]).squeeze(-1)


def _hermite(at: Tensor, mass: Tensor, height: Tensor) -> Tensor:
    """Cubic Hermite interpolation at v = `at` (M, N, S) of cdfs (M, N, G) known with their slopes at i / (G + 1)."""
    count = mass.shape[-1]
    zero, one = torch.zeros_like(mass[..., :1]), torch.ones_like(mass[..., :1])
    value, slope = torch.cat([zero, mass, one], -1), torch.cat([zero, height, zero], -1)
    step = 1.0 / (count + 1)
    place = at.clamp(0, 1) / step
    left = place.floor().long().clamp(0, count)
    t = place - left
    f0, f1 = value.gather(-1, left), value.gather(-1, left + 1)
    s0, s1 = slope.gather(-1, left) * step, slope.gather(-1, left + 1) * step
    cubic = f0 + t * (s0 + t * (3 * (f1 - f0) - 2 * s0 - s1 + t * (2 * (f0 - f1) + s0 + s1)))
    return cubic.clamp(TINY, 1 - TINY)


@dataclass(frozen=True)
class Shape:
    """The law of z of one row of each of M models, truncated to `bound` deviations around its mean.

    Attributes:
        z: knots, (M, G), increasing.
        mass: cdf at the knots, (M, G).
        mean, variance, downside: of the truncated z, (M,); downside is 2 E[min(z - mean, 0)^2].
    """

    z: Tensor
    mass: Tensor
    mean: Tensor
    variance: Tensor
    downside: Tensor

    def parts(self, which: slice) -> Shape:
        """Some of the M parts."""
        return Shape(self.z[which], self.mass[which], self.mean[which], self.variance[which], self.downside[which])

    def quantile(self, u: Tensor) -> Tensor:
        """z at u (..., M), linear between knots."""
        return interpolate(u.reshape(-1, u.shape[-1]), self.mass, self.z).reshape(u.shape)


def shape_nodes(law: Conditional, bound: float, nodes: int = NODES) -> tuple[Tensor, Tensor]:
    """Quadrature of z cut at `bound` deviations from its mean: z and log mass, (M, nodes); the masses add to 1."""
    mean, variance = (item[:, 0] for item in law.shape_moments())
    edge = bound * variance.sqrt()
    z, log_weight = (item.T for item in interval_rule(mean - edge, mean + edge, nodes))
    return z, torch.log_softmax(log_weight - _one_row(law, z), -1)


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
    height = torch.softmax(slope - _one_row(law, knot), -1)
    mass = torch.cat([torch.zeros_like(height[:, :1]), ((height[:, 1:] + height[:, :-1]) / 2).cumsum(-1)], -1)
    down = 2 * (weight * off.clamp_max(0).square()).sum(-1)
    return Shape(knot, mass / mass[:, -1:], mean, (weight * off.square()).sum(-1), down)


def _one_row(law: Conditional, z: Tensor) -> Tensor:
    """The shape's energy at z (M, G) for laws of one row."""
    return (law.basis(z) * law.coefficients).sum(-1)
