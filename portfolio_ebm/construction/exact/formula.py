"""A formula taken apart: the pieces a fast solver knows, once per context.

    E(w) = 1/2 w'Mw + m'w + k  +  sum c_j CVaR_j(w)  +  rate * sum |w - held|  +  smooth terms  +  other terms

"Other" are convex terms with none of these faces: `pieces` tells what they consist of (pieces.py), or that only cvxpy
knows one of them, which sends the whole formula there.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.construction.exact.pieces import Pieces, Smooth, Tail, pieces_of
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.deviation import away
from portfolio_ebm.energies.diversification import NegativeEntropy
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energy import Bound, ConvexEnergy, Energy, Scaled, add
from portfolio_ebm.errors import ShapeError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]

SMALL = 200
"""Up to so many names M is formed at once; beyond, only where its entries are needed."""

ELSEWHERE = "use constructor=AnnealedLangevin()"
"""What to do about a term that is not convex, where a constructor may be chosen."""

FAR = 1e9
"""Weights beyond this are a search that has run away: no term is asked there."""


@dataclass(frozen=True)
class Formula:
    """The pieces of one energy in one context, as numpy arrays.

    Attributes:
        energy, ctx: what was taken apart.
        value: the torch face, bound.
        curve: M, structured, or None where no term is quadratic; linear (n,); constant.
        tails: the CVaR terms.
        cost: coefficient of sum |w - held|; zero where nothing is held.
        held: (n,) or None.
        smooth: coefficient and Newton model of each smooth term.
        other: terms of any other kind.
        given: the pieces that stand for `other`, where they are not those it is made of.
        formed: M, where it is known.
    """

    energy: Energy
    ctx: Context
    value: Bound
    curve: Structured | None
    linear: Array
    constant: float
    tails: tuple[Tail, ...]
    cost: float
    held: Array | None
    smooth: tuple[Smooth, ...]
    other: tuple[Scaled, ...]
    given: Pieces | None = None
    formed: Array | None = None

    @property
    def n(self) -> int:
        return len(self.linear)

    @cached_property
    def compiled(self) -> dict[Hashable, Any]:
        """What oracle.py compiled of this formula, by the structure of the region."""
        return {}

    @property
    def exact(self) -> bool:
        """Whether the fast engines know every term, without pieces."""
        return not self.other

    @cached_property
    def plain(self) -> Formula:
        """The formula without soft rules, whose slopes grow with their stiffness and give no scale to a proof; itself
        where there is nothing else."""
        parts = self.energy.terms()
        rest = [part for part in parts if not isinstance(part.energy, Relaxed)]
        return self if not rest or len(rest) == len(parts) else take_apart(add(rest), self.ctx)

    @cached_property
    def pieces(self) -> Pieces | None:
        """What `other` consists of; None where only cvxpy knows one of them."""
        return pieces_of(self.other, self.ctx) if self.given is None else self.given

    def made_of(self, pieces: Pieces) -> Formula:
        """The formula with `pieces` in place of those of `other`, for the engines; its value stays what it is."""
        return replace(self, given=pieces)

    @property
    def nonnegative(self) -> bool:
        """Whether a term is infinite where a weight is negative, but not where it is zero."""
        return on_positive_weights(self.energy)

    def evaluate(self, w: Array) -> float:
        """E(w), on the torch face."""
        return float(self.value(torch.as_tensor(w, dtype=torch.float64, device=self.ctx.tradeable.device)))

    def gradient(self, w: Array) -> Array:
        """A (sub)gradient of the whole energy at w (n,), from the torch face; zero where it is not finite."""
        point = torch.tensor(w, dtype=torch.float64, device=self.ctx.tradeable.device, requires_grad=True)
        value = self.value(point)
        if not value.requires_grad:
            return np.zeros_like(w)
        return np.nan_to_num(as_numpy(torch.autograd.grad(value, point)[0]), posinf=0.0, neginf=0.0)

    @cached_property
    def matrix(self) -> Array | None:
        """M (n, n), formed on first use; None where no term is quadratic."""
        if self.curve is None or self.formed is not None:
            return self.formed
        return as_numpy(self.curve.dense())

    @cached_property
    def _factors(self) -> tuple[Array, Array, Array]:
        """F, C and D of M = F C F' + diag(D)."""
        curve = self.curve or Structured(torch.zeros(self.n, 0), torch.zeros(0, 0), torch.zeros(self.n))
        return as_numpy(curve.loadings), as_numpy(curve.core), as_numpy(curve.diagonal)

    @property
    def large(self) -> bool:
        """Whether M is left unformed while its products suffice."""
        return self.n > SMALL and self.formed is None and "matrix" not in self.__dict__

    def block(self, names: NDArray[np.intp]) -> Array:
        """M at the rows and columns of `names`."""
        if not self.large:
            return np.zeros((len(names), len(names))) if self.matrix is None else self.matrix[np.ix_(names, names)]
        loadings, core, diagonal = self._factors
        return np.asarray(loadings[names] @ core @ loadings[names].T + np.diag(diagonal[names]))

    def _bent(self, w: Array) -> Array:
        """M w."""
        matrix = None if self.large else self.matrix
        if matrix is not None:
            return np.asarray(matrix @ w)
        loadings, core, diagonal = self._factors
        return np.asarray(loadings @ (core @ (loadings.T @ w)) + diagonal * w)

    @property
    def models(self) -> tuple[Smooth, ...]:
        """Coefficients and Newton models of all smooth terms and pieces."""
        return self.smooth if self.pieces is None else self.smooth + self.pieces.smooth

    def slope(self, w: Array) -> tuple[float, Array]:
        """Value and gradient at w of the quadratic and the smooth terms and pieces together."""
        return self._expanded(w, None)

    def _expanded(self, w: Array, hessian: Array | None) -> tuple[float, Array]:
        """Value and gradient; the Hessians of the smooth terms are added to `hessian` in place. All nan far out."""
        value, gradient = self.constant + float(self.linear @ w), self.linear.copy()
        if not (np.abs(w) < FAR).all():
            if hessian is not None:
                hessian += np.nan
            return np.nan, np.full_like(gradient, np.nan)
        if self.curve is not None:
            pull = self._bent(w)
            value, gradient = value + 0.5 * float(pull @ w), gradient + pull
        if self.pieces is not None:
            value += self.pieces.constant + float(self.pieces.linear @ w)
            gradient = gradient + self.pieces.linear
        for coefficient, model in self.models:
            point = torch.as_tensor(w, dtype=torch.float64, device=self.ctx.tradeable.device)
            face = model(point)
            line = as_numpy(face.linear)
            if face.matrix is None:
                bend = np.zeros_like(w)
            elif hessian is None:
                bend = as_numpy(face.matrix.matvec(point))
            else:
                curve = as_numpy(face.matrix.dense())
                bend = curve @ w
                hessian += coefficient * curve
            value += coefficient * (float((0.5 * bend + line) @ w) + float(face.constant))
            gradient = gradient + coefficient * (bend + line)
        return value, gradient

    def largest(self, w: Array) -> float:
        """The largest slope at w of any single part of the quadratic and smooth terms: they may cancel in the sum."""
        parts = [self.linear] + ([] if self.curve is None else [self._bent(w)])
        parts += [] if self.pieces is None else [self.pieces.linear]
        for coefficient, model in self.models:
            point = torch.as_tensor(w, dtype=torch.float64, device=self.ctx.tradeable.device)
            face = model(point)
            bend = np.zeros_like(w) if face.matrix is None else as_numpy(face.matrix.matvec(point))
            parts.append(coefficient * (bend + as_numpy(face.linear)))
        return max(float(np.abs(part).max(initial=0.0)) for part in parts)

    def smooth_part(self, w: Array) -> tuple[float, Array, Array]:
        """Value, gradient and Hessian at w of the quadratic and the smooth terms and pieces together."""
        hessian = np.zeros((self.n, self.n)) if self.matrix is None else self.matrix.copy()
        value, gradient = self._expanded(w, hessian)
        return value, gradient, hessian


def take_apart(energy: Energy, ctx: Context) -> Formula:
    """The pieces of a convex formula in one context.

    Raises:
        SpecError: a term is not convex; the message names it and what to use.
        ShapeError: the context holds more than one date.
    """
    if ctx.tradeable.ndim != 1:
        raise ShapeError(
            f"Convex solves one date at a time: got tradeable of shape {tuple(ctx.tradeable.shape)}, expected (n,)."
        )
    n = ctx.n_assets
    refuse_non_convex(energy)
    curve: Structured | None = None
    linear, constant, cost = np.zeros(n), 0.0, 0.0
    tails, smooth, other = [], [], []
    for part in energy.terms():
        c, term = part.coefficient, part.energy
        face = term.quadratic(ctx)
        if face is not None:
            linear = linear + c * as_numpy(face.linear)
            constant += c * float(face.constant)
            if face.matrix is not None:
                bent = face.matrix.scaled(c)
                curve = bent if curve is None else curve.plus(bent)
        elif isinstance(term, CVaR):
            losses = as_numpy(term.losses(ctx))
            tails.append(Tail(c, losses, term.tail(losses.shape[0])))
        elif isinstance(term, EVaR) and term.worst(ctx):
            # Of so few scenarios it is the largest loss, which no Newton model knows.
            tails.append(Tail(c, -as_numpy(away(ctx, term.centred)), 1.0))
        elif isinstance(term, TradingCost):
            cost += c * term.rate if ctx.held is not None else 0.0
        elif isinstance(term, (SmoothEnergy, TrackingError)) and modelled(term):
            smooth.append((c, term.taylor(ctx)))
        else:
            other.append(part)
    held = None if ctx.held is None else as_numpy(ctx.held)
    return Formula(
        energy=energy, ctx=ctx, value=energy.bind(ctx), curve=curve, linear=linear, constant=constant,
        tails=tuple(tails), cost=cost, held=held, smooth=tuple(smooth), other=tuple(other),
    )  # fmt: skip


def modelled(term: Energy) -> bool:
    """Whether a term has a Newton model."""
    return isinstance(term, SmoothEnergy) or (isinstance(term, TrackingError) and term.smooth)


def without_tickets(energy: Energy, ctx: Context) -> tuple[Energy, float]:
    """The formula without its `FixedCost` terms, and what a name traded costs by them, as a fraction of wealth."""
    rest = [part for part in energy.terms() if not isinstance(part.energy, FixedCost)]
    tickets = [
        part.coefficient * part.energy.ticket(ctx) for part in energy.terms() if isinstance(part.energy, FixedCost)
    ]
    if not tickets:
        return energy, 0.0
    if sum(tickets) < 0.0:
        raise SpecError(f"{energy!r} pays for every trade; give FixedCost a coefficient that is not negative.")
    return add(rest), sum(tickets)


def on_positive_weights(energy: Energy) -> bool:
    """Whether a term is infinite where a weight is negative, but not where it is zero."""
    return any(isinstance(part.energy, NegativeEntropy) for part in energy.terms())


def refuse_non_convex(energy: Energy, who: str = "Convex()", remedy: str = ELSEWHERE) -> None:
    """Raise SpecError, naming the term, where a formula is not convex; `who` refuses, and `remedy` is what to do."""
    for part in energy.terms():
        term = part.energy
        if term.curvature == "none" or not isinstance(term, ConvexEnergy):
            raise SpecError(f"{term!r} is not convex in the weights, and {who} takes convex terms only; {remedy}.")
        if part.coefficient < 0.0 and term.curvature != "affine":
            raise SpecError(
                f"{part.coefficient:g} * {term!r} turns a convex term upside down, and the sum is not convex; "
                f"give it a positive coefficient, or {remedy}."
            )
