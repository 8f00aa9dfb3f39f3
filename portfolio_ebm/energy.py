"""The algebra of energies.

An energy E(w) says how bad a portfolio w is: lower is better, and with a temperature T it is a law over
portfolios, p(w) = exp(-E(w) / T) / Z. Energies add and scale,

    E = Return() + FactorRisk(risk_aversion=5) + 0.5 * CVaR(level=0.95) + TradingCost(5 * bps),

sums stay flat, like terms merge, and the repr of a sum is its formula.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import Spec, lift

Bound = Callable[[Tensor], Tensor]
"""What kernels receive: f maps weights (..., n) to energies (...)."""

Curvature = Literal["affine", "convex", "none"]


@dataclass(frozen=True)
class Quadratic:
    """q(w) = 1/2 w' M w + linear' w + constant, with M = F C F' + diag(D).

    Attributes:
        matrix: M, structured, or None where the energy is affine.
        linear: shape (..., n).
        constant: shape (...).
    """

    matrix: Structured | None
    linear: Tensor
    constant: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        value = (lift(self.linear, w) * w).sum(-1) + lift(self.constant, w, 0)
        return value if self.matrix is None else value + 0.5 * self.matrix.quad(w)

    def scaled(self, factor: float) -> Quadratic:
        matrix = None if self.matrix is None else self.matrix.scaled(factor)
        return Quadratic(matrix, self.linear * factor, self.constant * factor)

    def plus(self, other: Quadratic) -> Quadratic:
        if self.matrix is None or other.matrix is None:
            matrix = self.matrix or other.matrix
        else:
            matrix = self.matrix.plus(other.matrix)
        return Quadratic(matrix, self.linear + other.linear, self.constant + other.constant)


class Energy(Spec, ABC):
    """A term in the space of weights. Subclasses are final, frozen and hold no data.

    `ctx` is the Context: it brings every estimate the term needs, per holding period. `curvature` says
    whether the energy is affine, convex or neither in w; `needs` names the estimates it asks for.
    """

    curvature: ClassVar[Curvature] = "none"
    needs: ClassVar[frozenset[str]] = frozenset()

    def asks(self) -> frozenset[str]:
        """The estimates this very energy asks for; `needs` unless its fields decide."""
        return self.needs

    def check(self, ctx: Any) -> None:  # most terms have nothing of their own to check
        """Raise, before any solve, where the context lacks what this energy asks for by name.

        Raises:
            SpecError: a benchmark, forecast or factor that is not there; near matches are listed.
            DataError: numbers that cannot be used; names the assets.
        """

    def pieces(self, w: Tensor, ctx: Any) -> dict[str, Tensor]:
        """By part, what E(w) adds up; {} where the energy is of one piece."""
        return {}

    def diagnose(self, w: Tensor, ctx: Any) -> dict[str, float]:
        """Numbers that say how far E can be trusted at w (n,); {} where there are none."""
        return {}

    @abstractmethod
    def bind(self, ctx: Any) -> Bound:
        """f: (..., n) -> (...), differentiable by autograd, the estimates of `ctx` inside."""

    def quadratic(self, ctx: Any) -> Quadratic | None:
        """The structured quadratic face, or None where the energy is not quadratic."""
        return None

    def terms(self) -> tuple[Scaled, ...]:
        """The flat list of (coefficient, energy) this energy adds up."""
        return (Scaled(coefficient=1.0, energy=self),)

    @property
    def ordered(self) -> tuple[Scaled, ...]:
        """`terms` in the order in which they are added up, whichever they were written in."""
        return self.terms()

    def __add__(self, other: object) -> Energy:
        if isinstance(other, Energy):
            return add((*self.terms(), *other.terms()))
        return self if other == 0 else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Energy) -> Energy:
        return self + (-1.0) * other

    def __mul__(self, factor: float) -> Energy:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            return NotImplemented
        return add(Scaled(coefficient=float(factor) * part.coefficient, energy=part.energy) for part in self.terms())

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Energy:
        return self * (1.0 / factor)

    def __neg__(self) -> Energy:
        return self * -1.0


class ConvexEnergy(Energy, ABC):
    """An energy that is convex in w and says so to cvxpy."""

    curvature: ClassVar[Curvature] = "convex"

    @abstractmethod
    def to_cvxpy(self, w: Any, ctx: Any) -> Any:
        """The same energy as a cvxpy expression of the variable `w` of shape (n,); `ctx` is for one date."""


class Scaled(Spec):
    """A coefficient and an energy: one line of a formula."""

    coefficient: float
    energy: Energy


class Sum(Energy):
    """A flat sum of scaled energies; built by `+` and `*`, equal whatever the order of its terms."""

    parts: tuple[Scaled, ...] = ()

    def terms(self) -> tuple[Scaled, ...]:
        return self.parts

    def bind(self, ctx: Any) -> Bound:
        # Canonical order, so that a + b and b + a are the same numbers to the last bit.
        bound = [(part.coefficient, part.energy.bind(ctx)) for part in self.ordered]

        def total(w: Tensor) -> Tensor:
            value = torch.zeros(w.shape[:-1], dtype=w.dtype, device=w.device)
            for coefficient, energy in bound:
                value = value + coefficient * energy(w)
            return value

        return total

    def quadratic(self, ctx: Any) -> Quadratic | None:
        total: Quadratic | None = None
        for part in self.parts:
            face = part.energy.quadratic(ctx)
            if face is None:
                return None
            face = face.scaled(part.coefficient)
            total = face if total is None else total.plus(face)
        return total

    @cached_property
    def ordered(self) -> tuple[Scaled, ...]:
        return tuple(sorted(self.parts, key=repr))

    def _items(self) -> frozenset[tuple[float, Energy]]:
        return frozenset((part.coefficient, part.energy) for part in self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and self._items() == other._items()

    def __hash__(self) -> int:
        return hash(self._items())

    def fingerprint(self) -> str:
        return super().fingerprint() if self.ordered == self.parts else Sum(parts=self.ordered).fingerprint()

    def __repr__(self) -> str:
        if not self.parts:
            return "Sum()"
        text = ""
        for part in self.parts:
            size = abs(part.coefficient)
            term = repr(part.energy) if size == 1.0 else f"{size!r} * {part.energy!r}"
            sign = "-" if part.coefficient < 0 else "+"
            text = f"{text} {sign} {term}" if text else (f"-{term}" if sign == "-" else term)
        return text

    __str__ = __repr__


def add(parts: Iterable[Scaled]) -> Energy:
    """The flat sum of scaled energies: like terms merged, zero terms dropped, a lone unscaled term itself."""
    merged: dict[Energy, Scaled] = {}
    for part in parts:
        before = merged.get(part.energy)
        if before is not None:
            part = before.replace(coefficient=before.coefficient + part.coefficient)
        merged[part.energy] = part
    kept = tuple(part for part in merged.values() if part.coefficient != 0.0)
    if len(kept) == 1 and kept[0].coefficient == 1.0:
        return kept[0].energy
    return Sum(parts=kept)


def curvature(energy: Energy) -> Curvature:
    """Affine, convex or none: a sum is convex when every negative coefficient stands on an affine term."""
    found: Curvature = "affine"
    for part in energy.terms():
        kind = part.energy.curvature
        if kind == "none" or (kind == "convex" and part.coefficient < 0):
            return "none"
        if kind == "convex":
            found = "convex"
    return found


def to_cvxpy(energy: Energy, w: Any, ctx: Any) -> Any:
    """The convex face of a whole formula as one cvxpy expression.

    Raises:
        SpecError: a term is not convex; the message names it.
    """
    total: Any = 0.0
    for part in energy.terms():
        term = part.energy
        if not isinstance(term, ConvexEnergy) or (part.coefficient < 0 and term.curvature != "affine"):
            raise SpecError(
                f"{part.coefficient:g} * {term!r} is not convex; use AnnealedLangevin, or leave the term out."
            )
        total = total + part.coefficient * term.to_cvxpy(w, ctx)
    return total


def needs(energy: Energy) -> frozenset[str]:
    """The estimates a formula asks for: any of "mean", "covariance", "scenarios", "paths", "marginals"."""
    return frozenset().union(*(part.energy.asks() for part in energy.terms()))


def breakdown(energy: Energy, w: Tensor, ctx: Any, *, parts: bool = False) -> dict[str, Tensor]:
    """Who pulled: each term's share of the energy at `w`, coefficients included; the shares add up to E(w).

    With `parts` a term that is a sum itself is shown part by part: "FactorRisk(...): MTUM", "...: dependence".
    """
    found: dict[str, Tensor] = {}
    for part in energy.terms():
        inner = part.energy.pieces(w, ctx) if parts else {}
        inner = {f"{part.energy!r}: {name}": value for name, value in inner.items()}
        inner = inner or {repr(part.energy): part.energy.bind(ctx)(w)}
        for name, value in inner.items():
            # Terms of one and the same name share a line.
            share = part.coefficient * value
            found[name] = found[name] + share if name in found else share
    return found
