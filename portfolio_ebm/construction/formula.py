"""A formula taken apart: the pieces a fast solver knows, once per context.

    E(w) = 1/2 w'Mw + m'w + k  +  sum c_j CVaR_j(w)  +  rate * sum |w - held|  +  smooth terms  +  other terms

"Other" are convex terms that only cvxpy knows; they send the whole formula there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.energy import Bound, ConvexEnergy, Energy, Quadratic, Scaled
from portfolio_ebm.errors import ShapeError, SpecError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tail:
    """c * CVaR: the loss of each scenario is a row of `losses` (S, n); `count` scenarios make the tail."""

    coefficient: float
    losses: Array
    count: float

    @property
    def cap(self) -> float:
        """The most weight one scenario can carry: c / (S (1 - level))."""
        return self.coefficient / self.count


@dataclass(frozen=True)
class Formula:
    """The pieces of one energy in one context, as numpy arrays.

    Attributes:
        energy, ctx: what was taken apart.
        value: the torch face, bound.
        matrix: M (n, n), or None where no term is quadratic; linear (n,); constant.
        tails: the CVaR terms.
        cost: coefficient of sum |w - held|; zero where nothing is held.
        held: (n,) or None.
        smooth: coefficient and Newton model of each smooth term.
        other: terms only cvxpy knows.
    """

    energy: Energy
    ctx: Context
    value: Bound
    matrix: Array | None
    linear: Array
    constant: float
    tails: tuple[Tail, ...]
    cost: float
    held: Array | None
    smooth: tuple[tuple[float, Callable[[Tensor], Quadratic]], ...]
    other: tuple[Scaled, ...]

    @property
    def n(self) -> int:
        return len(self.linear)

    @property
    def exact(self) -> bool:
        """Whether the fast engines know every term."""
        return not self.other

    def evaluate(self, w: Array) -> float:
        """E(w), on the torch face."""
        return float(self.value(torch.as_tensor(w, dtype=torch.float64, device=self.ctx.tradeable.device)))

    def smooth_part(self, w: Array) -> tuple[float, Array, Array]:
        """Value, gradient and Hessian at w of the quadratic and the smooth terms together."""
        value, gradient = self.constant + float(self.linear @ w), self.linear.copy()
        hessian = np.zeros((self.n, self.n))
        if self.matrix is not None:
            pull = self.matrix @ w
            value, gradient, hessian = value + 0.5 * float(pull @ w), gradient + pull, hessian + self.matrix
        if not self.smooth:
            return value, gradient, hessian
        point = torch.as_tensor(w, dtype=torch.float64)
        for coefficient, model in self.smooth:
            face = model(point)
            curve = np.zeros_like(hessian) if face.matrix is None else face.matrix.dense().numpy()
            value += coefficient * float(face(point))
            gradient = gradient + coefficient * (curve @ w + face.linear.numpy())
            hessian = hessian + coefficient * curve
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
    matrix: Array | None = None
    linear, constant, cost = np.zeros(n), 0.0, 0.0
    tails, smooth, other = [], [], []
    for part in energy.terms():
        c, term = part.coefficient, part.energy
        face = term.quadratic(ctx)
        if face is not None:
            linear = linear + c * _numpy(face.linear)
            constant += c * float(face.constant)
            if face.matrix is not None:
                dense = c * _numpy(face.matrix.dense())
                matrix = dense if matrix is None else matrix + dense
        elif isinstance(term, CVaR):
            losses = _numpy(term.losses(ctx))
            tails.append(Tail(c, losses, term.tail(losses.shape[0])))
        elif isinstance(term, TradingCost):
            cost += c * term.rate if ctx.held is not None else 0.0
        elif isinstance(term, SmoothEnergy):
            smooth.append((c, term.taylor(ctx)))
        else:
            other.append(part)
    held = None if ctx.held is None else _numpy(ctx.held)
    return Formula(
        energy=energy, ctx=ctx, value=energy.bind(ctx), matrix=matrix, linear=linear, constant=constant,
        tails=tuple(tails), cost=cost, held=held, smooth=tuple(smooth), other=tuple(other),
    )  # fmt: skip


def refuse_non_convex(energy: Energy) -> None:
    """Raise SpecError, naming the term, where a formula is not convex."""
    for part in energy.terms():
        term = part.energy
        if term.curvature == "none" or not isinstance(term, ConvexEnergy):
            raise SpecError(
                f"{term!r} is not convex in the weights, and Convex() takes convex terms only; "
                "use constructor=AnnealedLangevin()."
            )
        if part.coefficient < 0.0 and term.curvature != "affine":
            raise SpecError(
                f"{part.coefficient:g} * {term!r} turns a convex term upside down, and the sum is not convex; "
                "give it a positive coefficient, or use constructor=AnnealedLangevin()."
            )


def _numpy(x: Tensor) -> Array:
    return np.asarray(x.detach().cpu().numpy(), dtype=np.float64)
