"""TrackingError(benchmark, measure): any measure of risk, of the portfolio less its benchmark.

    E(w) = M(w - b),   b the benchmark's weights

With Volatility it is the l2 tracking error, with MeanAbsoluteDeviation the l1 one, with Semideviation that of the
downside, with CVaR the mean of the worst shortfalls behind the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Volatility
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import lift, require_last


class TrackingError(ConvexEnergy):
    """E(w) = M(w - b), M a convex measure of risk and b the weights of the benchmark called `benchmark`.

    Units: those of the measure per holding period: of Volatility the standard deviation of the active return.

    Attributes:
        benchmark: by name, as the Panel or the caller has its weights; the name of an asset is that asset alone.
        measure: Volatility() (l2), Variance(), MeanAbsoluteDeviation() (l1), Semideviation() (downside), CVaR(), ...

    Raises:
        SpecError: no such benchmark, or a word for the measure; DataError: its weights are not known yet at the date.

    Example:
        >>> Return() + 0.5 * TrackingError("index", MeanAbsoluteDeviation())

    Source: Rudolf, M., Wolter, H.-J. and Zimmermann, H. (1999), A linear model for tracking error minimization,
    Journal of Banking & Finance 23.
    """

    benchmark: str
    measure: ConvexEnergy = Volatility()

    curvature: ClassVar[Curvature] = "convex"

    @field_validator("measure", mode="before")
    @classmethod
    def _no_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                f"give a measure, not '{value}': Volatility() for l2, MeanAbsoluteDeviation() for l1, Semideviation() "
                "for the downside, Variance(), CVaR()"
            )
        return value

    def asks(self) -> frozenset[str]:
        return self.measure.asks()

    def check(self, ctx: Context) -> None:
        ctx.benchmark(self.benchmark)
        self.measure.check(ctx)

    def bind(self, ctx: Context) -> Bound:
        inner, b = self.measure.bind(ctx), ctx.benchmark(self.benchmark)
        return lambda w: inner(require_last(w, ctx.n_assets, "TrackingError") - lift(b.to(w), w))

    def quadratic(self, ctx: Context) -> Quadratic | None:
        face = self.measure.quadratic(ctx)
        if face is None:
            return None
        b = ctx.benchmark(self.benchmark).to(face.linear)
        if face.matrix is None:
            return Quadratic(None, face.linear, face.constant - (face.linear * b).sum(-1))
        pull: Tensor = face.matrix.matvec(b.expand_as(face.linear))
        constant = face.constant - (face.linear * b).sum(-1) + 0.5 * (pull * b).sum(-1)
        return Quadratic(face.matrix, face.linear - pull, constant)

    @property
    def smooth(self) -> bool:
        """Whether the measure has a Newton model."""
        return isinstance(self.measure, SmoothEnergy)

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """The measure's Newton model, moved by the benchmark.

        Raises:
            SpecError: the measure has none.
        """
        if not isinstance(self.measure, SmoothEnergy):
            raise SpecError(f"{self.measure!r} is not smooth, so {self!r} has no Newton model.")
        inner, b = self.measure.taylor(ctx), ctx.benchmark(self.benchmark)

        def model(w: Tensor) -> Quadratic:
            face = inner(w - b.to(w))
            curve = torch.zeros_like(w) if face.matrix is None else face.matrix.matvec(b.to(w))
            constant = face.constant - face.linear @ b.to(w) + 0.5 * (curve @ b.to(w))
            return Quadratic(face.matrix, face.linear - curve, constant)

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return self.measure.to_cvxpy(w - ctx.benchmark(self.benchmark).detach().cpu().numpy(), ctx)
