"""The forms of a conditional law: how z = (x - mu) / sigma is distributed, once place and width are taken out.

    energy:   E(z | s) = c log(1 + z^2 / b) + <a, phi(z)>                         log Z by quadrature
    student:  E(z | s) = c log(1 + z^2 / b)                                       Z = sqrt(b pi) G(c - 1/2) / G(c)
    skewed:   E(z | s) = c log(1 + (y / (1 + k sign y))^2 / b),  y = z + m        the same Z
              m = 2 k sqrt(b / pi) G(c - 1) / G(c - 1/2), so that z has mean zero (as Hansen, 1994, centres his)

with c, a and k functions of the state, b and phi of the model; G is the gamma function. Every form is a batch of
(M, N): M models at N rows. The first is separable in state and z: on a grid of G nodes it costs G evaluations of phi
and one matrix product.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from portfolio_ebm.models.density import Density, cumulative
from portfolio_ebm.models.partition import mean_log_z
from portfolio_ebm.models.quadrature import NODES, knots, line_rule, to_unit
from portfolio_ebm.models.special import t_cdf, t_quantile

TINY = 1e-12
"""Levels from tables are kept this far from 0 and 1."""


class Form(Density):
    """The laws of z of M models at N rows: densities of batch shape (M, N), placed at zero with width one.

    Args:
        power: c, (M, N): the density falls as |z|^(-2c).
    """

    def __init__(self, power: Tensor) -> None:
        self.power = power
        self.location, self.scale = power.new_zeros(()), power.new_ones(())

    @property
    def batch(self) -> torch.Size:
        return self.power.shape

    @property
    def tail(self) -> Tensor:
        return 2 * self.power - 1

    @abstractmethod
    def on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        """log_weight - E(z | s) on a grid: z and log_weight (G,), or (M, G) for one a model; (M, N, G)."""

    def log_z(self, nodes: int = NODES) -> Tensor:
        """log of the integral of exp(-E), (M, N)."""
        return self.on(*line_rule(nodes, like=self.power)).logsumexp(-1)

    def mean_log_z(self, weight: Tensor, nodes: int = NODES) -> Tensor:
        """sum_n weight_n log Z_n of every model, (M,), weight (M, N): what training needs of it."""
        return (self.log_z(nodes) * weight).sum(-1)

    def moments(self, nodes: int = NODES) -> tuple[Tensor, Tensor]:
        """Mean and variance of z, (M, N)."""
        rule = line_rule(nodes, like=self.power)
        mass = torch.softmax(self.on(rule.z, rule.log_weight), -1)
        mean = mass @ rule.z
        return mean, mass @ (rule.z * rule.z) - mean.square()

    def levels(self, z: Tensor, count: int) -> Tensor:
        """P(Z <= z) for z (M, N, S) from one table of `count` knots a row; kept 1e-12 away from 0 and 1."""
        _, at, slope = knots(count, like=self.power)
        height = self.on(at, slope)
        height = torch.exp(height - height.amax(-1, keepdim=True))
        # The ends are zero: the sum over inner knots is the trapezoid rule.
        slope = height / (height.sum(-1, keepdim=True) / (count + 1))
        return hermite(to_unit(z), cumulative(height), slope).clamp(TINY, 1 - TINY)


class EnergyForm(Form):
    """A power law and a small network of bounded features.

    Args:
        coefficients: c, then a, (M, N, 1 + K).
        reach: log b, (M,).
        network: slope and shift (M, H), weight (M, K, H), bias (M, K): phi(z) = tanh(weight tanh(slope asinh z +
            shift) + bias).
    """

    def __init__(self, coefficients: Tensor, reach: Tensor, network: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        super().__init__(coefficients[..., 0])
        self.coefficients, self.reach, self.network = coefficients, reach, network

    def basis(self, z: Tensor) -> Tensor:
        """log(1 + z^2 / b) and phi(z) for z (M, *any): shape (M, *any, 1 + K)."""
        slope, shift, weight, bias = self.network
        flat = z.reshape(len(z), -1)
        power = torch.log1p(flat * flat * torch.exp(-self.reach)[:, None])
        hidden = torch.tanh(torch.asinh(flat)[..., None] * slope[:, None] + shift[:, None])
        phi = torch.tanh(torch.baddbmm(bias[:, None], hidden, weight.mT))
        return torch.cat([power[..., None], phi], -1).reshape(*z.shape, -1)

    def energy(self, x: Tensor) -> Tensor:
        x = x.expand(torch.broadcast_shapes(x.shape, self.batch))
        extra = x.ndim - 2
        # The model dimension is second to last; the basis wants it in front.
        basis = self.basis(x.movedim(extra, 0)).movedim(0, extra)
        return (self.coefficients * basis).sum(-1)

    def mean_log_z(self, weight: Tensor, nodes: int = NODES) -> Tensor:
        rule = line_rule(nodes, like=self.power)
        basis = self.basis(rule.z.expand(len(self.reach), -1))
        return mean_log_z(self.coefficients, basis, rule.log_weight, weight)

    def on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        models = len(self.reach)
        basis = self.basis(z.expand(models, -1))
        return torch.baddbmm(log_weight.expand(models, -1)[:, None], self.coefficients, basis.mT, alpha=-1.0)


class StudentForm(Form):
    """A power law alone: Student's t with 2c - 1 degrees of freedom.

    Args:
        power: c, (M, N).
        reach: log b, (M,).
    """

    def __init__(self, power: Tensor, reach: Tensor) -> None:
        super().__init__(power)
        self.reach = reach

    def energy(self, x: Tensor) -> Tensor:
        return self.power * torch.log1p(x * x * torch.exp(-self.reach)[:, None])

    def on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        at = torch.log1p(z * z * torch.exp(-self.reach)[:, None])
        return log_weight.expand(len(self.reach), -1)[:, None] - self.power[..., None] * at[:, None]

    def log_z(self, nodes: int = NODES) -> Tensor:
        half = (self.reach[:, None] + math.log(math.pi)) / 2
        return half + torch.lgamma(self.power - 0.5) - torch.lgamma(self.power)

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        return t_cdf(x / self._width(), self._freedom())

    def levels(self, z: Tensor, count: int) -> Tensor:
        """Exact; `count` is not used."""
        return self.cdf(z.movedim(-1, 0)).movedim(0, -1).clamp(TINY, 1 - TINY)

    def _invert(self, u: Tensor) -> Tensor:
        return t_quantile(u, self._freedom()) * self._width()

    def _freedom(self) -> Tensor:
        return 2 * self.power - 1

    def _width(self) -> Tensor:
        return (self.reach.exp()[:, None] / self._freedom()).sqrt()


class SkewForm(StudentForm):
    """A power law stretched by 1 - k left of its mode and 1 + k right of it, and moved to mean zero.

    Args:
        power: c > 1, (M, N).
        reach: log b, (M,).
        skew: k in (-1, 1), (M, N).
    """

    def __init__(self, power: Tensor, reach: Tensor, skew: Tensor) -> None:
        super().__init__(power, reach)
        self.skew = skew
        gap = torch.lgamma(power - 1) - torch.lgamma(power - 0.5)
        self.offset = 2 * skew * torch.exp((reach[:, None] - math.log(math.pi)) / 2 + gap)

    def energy(self, x: Tensor) -> Tensor:
        y, side = self._sided(x)
        return super().energy(y / side)

    def on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        models = len(self.reach)
        grid = z.expand(models, -1).T[..., None]
        return log_weight.expand(models, -1)[:, None] - self.energy(grid).movedim(0, -1)

    def moments(self, nodes: int = NODES) -> tuple[Tensor, Tensor]:
        # E y^2 = (1 + 3 k^2) E t^2, t the even law; the kink at the mode would cost the quadrature its digits.
        even = StudentForm(self.power, self.reach).moments(nodes)[1]
        return torch.zeros_like(self.power), (1 + 3 * self.skew.square()) * even - self.offset.square()

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        y, side = self._sided(x)
        # Both halves by the lower tail, which keeps its digits.
        low = side * super().cdf(-y.abs() / side)
        return torch.where(y < 0, low, 1 - low)

    def _invert(self, u: Tensor) -> Tensor:
        left = u < (1 - self.skew) / 2
        side = torch.where(left, 1 - self.skew, 1 + self.skew)
        far = super()._invert(torch.where(left, u, 1 - u) / side) * side
        return torch.where(left, far, -far) - self.offset

    def _sided(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = z + self.offset
        return y, torch.where(y < 0, 1 - self.skew, 1 + self.skew)


class JoinedForm(Form):
    """Models of different forms side by side.

    Args:
        parts: forms, each with the places (M_k,) of its models among all M.
    """

    def __init__(self, parts: Sequence[tuple[Form, Tensor]]) -> None:
        self.parts = tuple(parts)
        self.order = torch.argsort(torch.cat([at for _, at in self.parts]))
        super().__init__(torch.cat([form.power for form, _ in self.parts])[self.order])

    def energy(self, x: Tensor) -> Tensor:
        x = x.expand(torch.broadcast_shapes(x.shape, self.batch))
        return self._merge([form.energy(x[..., at, :]) for form, at in self.parts], -2)

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        x = x.expand(torch.broadcast_shapes(x.shape, self.batch))
        return self._merge([form.cdf(x[..., at, :], nodes) for form, at in self.parts], -2)

    def _invert(self, u: Tensor) -> Tensor:
        return self._merge([form.quantile(u[..., at, :]) for form, at in self.parts], -2)

    def on(self, z: Tensor, log_weight: Tensor) -> Tensor:
        z, log_weight = z.expand(len(self.order), -1), log_weight.expand(len(self.order), -1)
        return self._merge([form.on(z[at], log_weight[at]) for form, at in self.parts], 0)

    def log_z(self, nodes: int = NODES) -> Tensor:
        return self._merge([form.log_z(nodes) for form, _ in self.parts], 0)

    def moments(self, nodes: int = NODES) -> tuple[Tensor, Tensor]:
        found = [form.moments(nodes) for form, _ in self.parts]
        return self._merge([mean for mean, _ in found], 0), self._merge([variance for _, variance in found], 0)

    def levels(self, z: Tensor, count: int) -> Tensor:
        return self._merge([form.levels(z[at], count) for form, at in self.parts], 0)

    def _merge(self, found: list[Tensor], dim: int) -> Tensor:
        return torch.cat(found, dim).index_select(dim, self.order)


def hermite(at: Tensor, mass: Tensor, height: Tensor) -> Tensor:
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
    return f0 + t * (s0 + t * (3 * (f1 - f0) - 2 * s0 - s1 + t * (2 * (f0 - f1) + s0 + s1)))
