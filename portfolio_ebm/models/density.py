"""Density: an energy of one-dimensional data whose normaliser is known by quadrature.

    p(x) = exp(-E(x)) / Z,  Z = integral of exp(-E(x)) dx,  all energies in nats.

A density is a batch of laws of shape `batch`; x broadcasts against it from the right, so that x of shape
(S, *batch) holds S values a law. Everything but the energy follows from the energy: log Z, cdf, quantile, exact
samples and the score. A law whose tail index is known says so in `tail`, and the nodes are placed to match it.

Laws add: `a + b` is the joint law of two different variables, or the product over the same one, by their names.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.quadrature import NODES, interval_rule, knots, line_rule, power_for

if TYPE_CHECKING:
    from portfolio_ebm.models.compose import Independent, Product

TABLE = 512
"""Knots of the table that a quantile starts from."""


class Density(ABC):
    """A batch of one-dimensional laws p(x) = exp(-E(x)) / Z.

    Subclasses give `energy`, `location` and `scale`; the last two only place the quadrature nodes
    x = location + scale z, and a poor choice costs accuracy, never correctness.

    Example:
        >>> law = StudentT(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))
        >>> law.log_prob(torch.zeros(2)), law.cdf(torch.zeros(2)), law.sample((100,), rng).shape
    """

    location: Tensor
    scale: Tensor
    variable: str = ""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """E(x) in nats, up to a constant of each law; x broadcasts against `batch`."""

    @property
    def batch(self) -> torch.Size:
        return torch.Size(torch.broadcast_shapes(self.location.shape, self.scale.shape))

    @property
    def tail(self) -> Tensor | None:
        """a of p(x) ~ |x|^-(a + 1), broadcasting to `batch`; None where it is unknown or lighter than any power."""
        return None

    def log_z(self, nodes: int = NODES) -> Tensor:
        """log of the integral of exp(-E), shape `batch`; by quadrature, where there is no closed form."""
        return self.quadrature(nodes)

    def quadrature(self, nodes: int = NODES) -> Tensor:
        """log Z by quadrature, whatever else is known: what closed forms are held against."""
        rule = line_rule(nodes, like=self.scale, power=self._power())
        x = self.location + self.scale * self._front(rule.z)
        return torch.logsumexp(self._front(rule.log_weight) - self.energy(x), 0) + self.scale.log()

    def log_prob(self, x: Tensor, nodes: int = NODES) -> Tensor:
        """-E(x) - log Z, nats."""
        return -self.energy(x) - self.log_z(nodes)

    def score(self, x: Tensor) -> Tensor:
        """d log p / dx = -dE/dx by autograd, shape of x against `batch`."""
        with torch.enable_grad():
            point = x.detach().expand(torch.broadcast_shapes(x.shape, self.batch)).clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.energy(point).sum(), point)
        return -slope

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        """P(X <= x) by quadrature over the half line on the far side of the smaller tail."""
        x = x.expand(torch.broadcast_shapes(x.shape, self.batch))
        z = (x - self.location) / self.scale
        infinite = torch.full_like(z, torch.inf)
        lower = self._mass(-infinite, torch.minimum(z, torch.zeros_like(z)), nodes)
        upper = self._mass(torch.maximum(z, torch.zeros_like(z)), infinite, nodes)
        return torch.where(z < 0, lower, 1 - upper)

    def quantile(self, u: Tensor) -> Tensor:
        """The x with cdf(x) = u, u in (0, 1); u broadcasts against `batch`.

        Raises:
            FitError: u outside (0, 1).
        """
        if bool(((u <= 0) | (u >= 1) | torch.isnan(u)).any()):
            raise FitError("A quantile needs levels strictly between 0 and 1; clamp them, or drop the missing ones.")
        return self._invert(u.expand(torch.broadcast_shapes(u.shape, self.batch)))

    def sample(self, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Exact draws of shape (*size, *batch): inverse cdf of uniforms."""
        shape = (*size, *self.batch)
        u = torch.rand(shape, generator=rng, dtype=self.scale.dtype, device=self.scale.device)
        tiny = torch.finfo(u.dtype).eps
        return self.quantile(u.clamp(tiny, 1 - tiny))

    def table(self, count: int = TABLE) -> tuple[Tensor, Tensor]:
        """Knots x and cdf there, both (*batch, count), increasing."""
        _, z, slope = knots(count, like=self.scale, power=self._power())
        x = self.location + self.scale * self._front(z)
        height = torch.softmax(self._front(slope) - self.energy(x), 0).movedim(0, -1)
        return x.movedim(0, -1), cumulative(height)

    def of(self, variable: str) -> Self:
        """The same law with its variable named: `a.of("x") + b.of("y")` is a joint law, `a.of("x") + b.of("x")` a
        product."""
        named = copy.copy(self)
        named.variable = variable
        return named

    def __add__(self, other: Density | Independent) -> Independent | Product:
        """Energies added: `Independent` for variables of different names, `Product` for one and the same.

        Raises:
            FitError: a variable has no name.
        """
        from portfolio_ebm.models.compose import add

        return add(self, other)

    def _invert(self, u: Tensor) -> Tensor:
        """The quantile of checked levels (..., *batch): a table to start from, then guarded Newton steps."""
        flat = u.reshape(-1, *self.batch)
        grid, mass = self.table()
        x = interpolate(flat, mass, grid)
        for _ in range(8):
            step = (self.cdf(x) - flat) / self.log_prob(x).exp().clamp_min(torch.finfo(x.dtype).tiny)
            # A step is held to the law's own width: in the far tail the slope is tiny and Newton overshoots.
            width = self.scale + (x - self.location).abs()
            x = x - torch.maximum(torch.minimum(step, 0.5 * width), -0.5 * width)
            # Newton squares the error: a step of 1e-7 leaves 1e-14.
            if bool((step.abs() <= 1e-7 * width).all()):
                break
        return x.reshape(u.shape)

    def _power(self) -> Tensor | None:
        """p of the map that matches the tail, of the shape of `batch`; None for the one rule that serves all."""
        return None if self.tail is None else power_for(self.tail).expand(self.batch).detach()

    def _front(self, nodes: Tensor) -> Tensor:
        """Nodes (G,) or (G, *batch) so that they broadcast against the batch."""
        return nodes.reshape(-1, *(1,) * len(self.batch)) if nodes.ndim == 1 else nodes

    def _mass(self, low: Tensor, high: Tensor, nodes: int) -> Tensor:
        z, log_weight = interval_rule(low, high, nodes, power=self._power())
        x = self.location + self.scale * z
        return torch.exp(torch.logsumexp(log_weight - self.energy(x), 0) + self.scale.log() - self.log_z(nodes))


def cumulative(height: Tensor) -> Tensor:
    """The integral up to each knot of a function with equally spaced heights (..., G) that is zero at both ends,
    normalised to one over the whole interval.

    Each cell is the cubic through its four nearest knots: error of order h^4.
    """
    zero = torch.zeros_like(height[..., :1])
    padded = torch.cat([zero, height, zero], -1)
    left = torch.cat([zero, padded[..., :-3], padded[..., -3:-2]], -1)
    right = torch.cat([padded[..., 2:], zero], -1)
    trapezoid = (padded[..., :-1] + padded[..., 1:]) / 2
    bend = (padded[..., :-1] + padded[..., 1:] - left[..., : trapezoid.shape[-1]] - right) / 24
    cell = (trapezoid + bend).clamp_min(0)
    total = cell.cumsum(-1)
    return total[..., :-1] / total[..., -1:]


def interpolate(u: Tensor, mass: Tensor, grid: Tensor) -> Tensor:
    """Linear inverse of tables `mass` -> `grid` (*batch, G) at u (S, *batch)."""
    level = u.movedim(0, -1).contiguous()
    right = torch.searchsorted(mass.contiguous(), level).clamp(1, mass.shape[-1] - 1)
    low, high = mass.gather(-1, right - 1), mass.gather(-1, right)
    share = ((level - low) / (high - low).clamp_min(torch.finfo(u.dtype).tiny)).clamp(0, 1)
    start, stop = grid.gather(-1, right - 1), grid.gather(-1, right)
    return (start + share * (stop - start)).movedim(-1, 0)
