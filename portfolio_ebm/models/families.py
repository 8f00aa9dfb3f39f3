"""Families of conditional laws: what parameters a law has, where its training starts, and how wide its prior is.

All share the state-driven place and width of `Conditional`; they differ in the form of z:

    Family          the energy: a power law and a small network        density="energy"
    StudentFamily   a power law alone                                  density="student"
    SkewFamily      a skewed power law                                 density="skew_student"
    Mixed           one of these for each model

Parameters of M models lie in one tensor (M, P). The blocks that all families share come first, at the same places, so
that laws of different families may lie side by side in one tensor, the shorter rows ending in zeros.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import softplus

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.forms import EnergyForm, Form, JoinedForm, SkewForm, StudentForm
from portfolio_ebm.types import generator

HIDDEN = 8
SHAPES = 6
TAIL = 0.5
"""1 + TAIL is the least c: the density falls at least as |z|^-3, and its mean exists."""
MOST_SKEW = 0.95

Blocks = tuple[tuple[str, tuple[int, ...], float], ...]


@dataclass(frozen=True)
class Layout(ABC):
    """The layout of the parameters of one kind of conditional law.

    Attributes:
        ratios: J, how many variance ratios the scale mixes.
        features: F, entries of s.
        drift: entries of q that are lagged means.
        reference: which ratio scales the conditional mean.
        forecasts: entries of q, after these, that are forecasts of x itself: their weights are free to reach one.
    """

    ratios: int
    features: int
    drift: int
    reference: int = 0
    forecasts: int = 0

    @abstractmethod
    def extra(self) -> Blocks:
        """Name, shape and prior standard deviation of the blocks that this family adds to the shared ones."""

    @abstractmethod
    def form(self, flat: Tensor, features: Tensor) -> Form:
        """The law of z of parameters (M, P) at states of features s (M, N, F)."""

    def layout(self) -> Blocks:
        """Name, shape and prior standard deviation of every block, in the order of the flat vector."""
        return _shared(self.ratios, self.features, self.drift, self.forecasts) + self.extra()

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
            found[name] = flat[:, at : at + size].reshape(len(flat), *shape)
            at += size
        return found


@dataclass(frozen=True)
class Family(Layout):
    """The energy: E(z | s) = c(s) log(1 + z^2 / b) + <a(s), phi(z)>; see Layout for the attributes."""

    def extra(self) -> Blocks:
        return (
            ("shape_0", (SHAPES,), 0.2),
            ("shape", (SHAPES, self.features), 0.04),
            ("slope", (HIDDEN,), 0.2),
            ("shift", (HIDDEN,), 0.2),
            ("weight", (SHAPES, HIDDEN), 0.2),
            ("bias", (SHAPES,), 0.2),
        )

    def form(self, flat: Tensor, features: Tensor) -> Form:
        p = self.split(flat)
        shape = p["shape_0"][:, None, :] + features @ p["shape"].mT
        # One coefficient a basis function of z: c(s), then a(s).
        coefficients = torch.cat([_power(p, features)[..., None], shape], -1)
        return EnergyForm(coefficients, p["reach"], (p["slope"], p["shift"], p["weight"], p["bias"]))


@dataclass(frozen=True)
class StudentFamily(Layout):
    """Student's t with 2 c(s) - 1 degrees of freedom; see Layout for the attributes."""

    def extra(self) -> Blocks:
        return ()

    def form(self, flat: Tensor, features: Tensor) -> Form:
        p = self.split(flat)
        return StudentForm(_power(p, features), p["reach"])


@dataclass(frozen=True)
class SkewFamily(Layout):
    """A skewed t, its skew k(s) = 0.95 tanh(k_0 + <k, s>) moving with the state; see Layout for the attributes."""

    def extra(self) -> Blocks:
        return (("skew_0", (), 0.1), ("skew", (self.features,), 0.02))

    def form(self, flat: Tensor, features: Tensor) -> Form:
        p = self.split(flat)
        skew = MOST_SKEW * torch.tanh(p["skew_0"][:, None] + _dot(features, p["skew"]))
        return SkewForm(_power(p, features), p["reach"], skew)


FAMILIES: Mapping[str, type[Layout]] = {"energy": Family, "student": StudentFamily, "skew_student": SkewFamily}
"""Families by the name a user gives: `density="student"`."""


@dataclass(frozen=True)
class Mixed:
    """One family a model; takes the place of a family wherever there is one, with parameters (M, size).

    Attributes:
        families: M of them, of equal ratios, features, drift, reference and forecasts.

    Example:
        >>> both = Mixed((Family(8, 15, 5), StudentFamily(8, 15, 5)))
        >>> law = Conditional(both, both.join([energy_flat, student_flat]), state)
    """

    families: tuple[Layout, ...]

    def __post_init__(self) -> None:
        shared = {(f.ratios, f.features, f.drift, f.reference, f.forecasts) for f in self.families}
        if len(shared) != 1:
            raise FitError(
                "Families side by side need the same states: equal ratios, features, drift, reference and forecasts."
            )

    @property
    def ratios(self) -> int:
        return self.families[0].ratios

    @property
    def reference(self) -> int:
        return self.families[0].reference

    @property
    def size(self) -> int:
        return max(family.size for family in self.families)

    @property
    def groups(self) -> tuple[tuple[Layout, list[int]], ...]:
        """Each family there is, with the places of its models: what is trained in one batch."""
        found: dict[Layout, list[int]] = {}
        for place, family in enumerate(self.families):
            found.setdefault(family, []).append(place)
        return tuple(found.items())

    def models(self, which: Sequence[int]) -> Mixed:
        """Some of the models."""
        return Mixed(tuple(self.families[m] for m in which))

    def join(self, rows: Sequence[Tensor]) -> Tensor:
        """One model's parameters (P_m,) each, as one tensor (M, size), the shorter ones ending in zeros."""
        return torch.stack([torch.cat([row, row.new_zeros(self.size - len(row))]) for row in rows])

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every model's prior, (M, size); what a family has not got is held at zero."""
        found = [family.prior() for family in self.families]
        return self.join([mean for mean, _ in found]), self.join([spread for _, spread in found])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The blocks that all families share."""
        first = self.families[0]
        shared = _shared(first.ratios, first.features, first.drift, first.forecasts)
        return {name: block for name, block in first.split(flat).items() if name in {item[0] for item in shared}}

    def form(self, flat: Tensor, features: Tensor) -> Form:
        if len(self.groups) == 1:
            return self.families[0].form(flat, features)
        parts = [(family.form(flat[at], features[at]), torch.tensor(at)) for family, at in self.groups]
        return JoinedForm(parts)


@lru_cache(maxsize=32)
def _shared(ratios: int, features: int, drift: int, forecasts: int) -> Blocks:
    return (
        ("mix", (ratios + 1,), 0.4),
        ("scale", (features,), 0.05),
        ("tail_0", (), 0.3),
        ("tail", (features,), 0.05),
        ("reach", (), 0.2),
        ("drift", (drift,), 0.03),
        ("forecast", (forecasts,), 0.5),
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


def _power(p: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """c(s), (M, N)."""
    return 1.0 + TAIL + softplus(p["tail_0"][:, None] + _dot(features, p["tail"]))


def _dot(rows: Tensor, weights: Tensor) -> Tensor:
    """(M, N, F) with (M, F) -> (M, N)."""
    return (rows @ weights[..., None]).squeeze(-1)
