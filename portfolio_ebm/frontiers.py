"""frontier: the door to the efficient frontier between any two convex energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from portfolio_ebm.allocation import price_frames
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.construction.base import ShadowPrice
from portfolio_ebm.construction.certificate import FEASIBLE, residuals_of
from portfolio_ebm.construction.convex import require_convex
from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
from portfolio_ebm.construction.frontiers import Point, sweep
from portfolio_ebm.construction.shadow import Owned, shadow_prices
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.optimization import given_context


@dataclass(frozen=True)
class Frontier:
    """Efficient portfolios, from the least of one energy to the least of the other.

    Attributes:
        weights: a frame, points x assets.
        energies: a frame, points x the two energies, named by their formulas.
        proven: by point, whether it is proven to be on the frontier.
        status: by point, how it was found.
        kkt: by point, the KKT residual of the sum of both energies that it is the minimum of, relative to its largest
            slope; NaN where no multipliers are known, or where the bound alone proves it.
        prices: by point, the shadow prices of the rules, as `Allocation.prices`; `shadow_prices` is the frame of them.
            They are of the second energy where the first stays as it is, and at the first point of the first.

    Example:
        >>> frontier(Variance(), Return(), Budget() & LongOnly(), scenarios=returns, n=20).energies
    """

    weights: pd.DataFrame
    energies: pd.DataFrame
    proven: pd.Series[bool]
    status: pd.Series[str]
    kkt: pd.Series[float]
    prices: Mapping[int, tuple[ShadowPrice, ...]]

    @property
    def shadow_prices(self) -> pd.DataFrame:
        """What loosening each rule that binds is worth, a row for each rule at each point, whose number is the index;
        the columns are those of `Allocation.shadow_prices`.

        Example:
            >>> frontier(Variance(), Return(), rules, scenarios=returns).shadow_prices.loc[10, "words"]
        """
        return price_frames(self.prices, "point")

    def __len__(self) -> int:
        return len(self.weights)

    def __str__(self) -> str:
        a, b = self.energies.columns
        first, last = self.energies.iloc[0], self.energies.iloc[-1]
        return (
            f"Frontier of {len(self)} points, {int(self.proven.sum())} proven\n"
            f"  {a} from {first[a]:.6g} to {last[a]:.6g}\n  {b} from {first[b]:.6g} to {last[b]:.6g}"
        )


def frontier(energy_a: Energy, energy_b: Energy, constraint: Constraint, *, n: int = 50, **inputs: Any) -> Frontier:
    """`n` portfolios from the least `energy_a` to the least `energy_b`; none has less of both.

    Points are spread evenly along the curve; the first and the last are the two single optima.

    Args:
        energy_a, energy_b: convex formulas, such as Variance() and Return().
        constraint: convex rules.
        n: how many points; one is given where both energies have the same minimum.
        inputs: mean, covariance, scenarios, assets, held, groups and what else `optimize` takes.

    Raises:
        SpecError: a term or a rule is not convex, n < 2, or an estimate is missing.
        DataError, ShapeError: as `optimize`.
        InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
        SolverError: a point breaks a rule by more than 1e-9; it is not let out.

    Example:
        >>> frontier(CVaR(0.95), Return(), Budget() & LongOnly() & Box(upper=0.1), scenarios=returns, n=20).weights

    Source: Markowitz, H. (1952), Portfolio Selection, Journal of Finance 7(1).
    """
    ctx, names, _ = given_context(energy_a + energy_b, constraint, **inputs)
    require_convex(energy_a, constraint)
    require_convex(energy_b, constraint)
    try:
        points = sweep(energy_a, energy_b, region_of(constraint, ctx), ctx, n)
    except InfeasibleError as error:
        raise explain_infeasible(constraint, ctx) from error
    like = torch.zeros(0, dtype=torch.float64, device=ctx.tradeable.device)
    for k, point in enumerate(points):
        for rule, residual in residuals_of(like.new_tensor(point.weights), constraint, ctx).items():
            if not residual <= FEASIBLE:
                raise SolverError(f"Point {k} of the frontier breaks {rule} by {residual:.3g}; it was not let out.")
    index = pd.RangeIndex(len(points), name="point")
    columns = pd.Index(names if names is not None else range(ctx.n_assets), name="asset")
    return Frontier(
        weights=pd.DataFrame(np.array([point.weights for point in points]), index=index, columns=columns),
        energies=pd.DataFrame(
            [(point.a, point.b) for point in points], index=index, columns=[repr(energy_a), repr(energy_b)]
        ),
        proven=pd.Series([point.proven for point in points], index=index, name="proven"),
        status=pd.Series([point.message for point in points], index=index, name="status"),
        kkt=pd.Series([point.kkt for point in points], index=index, name="kkt", dtype=float),
        prices=_priced(points, constraint, ctx),
    )


def _priced(points: Sequence[Point], constraint: Constraint, ctx: Context) -> dict[int, tuple[ShadowPrice, ...]]:
    """By point, the shadow prices of the rules."""
    owned = Owned.of(constraint, ctx)
    found: dict[int, tuple[ShadowPrice, ...]] = {}
    for k, point in enumerate(points):
        if point.energy is None or point.duals is None:
            found[k] = ()
        else:
            found[k] = shadow_prices(point.energy, constraint, ctx, point.duals, owned)
    return found
