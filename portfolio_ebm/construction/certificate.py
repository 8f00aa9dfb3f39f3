"""certify: nothing leaves a constructor before its energy, its rules and its terms have been measured again.

The energy and the residuals of a Solution are evaluated here, on the torch face and by the rules themselves, whatever
the solver claimed. What proves nothing is worked out when it is first read: `ranges`, which terms decide, each term's
least and largest share over sampled feasible portfolios, and `marginal`, what holds each name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_any, regions_of
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.construction.later import Later, Lookup
from portfolio_ebm.construction.marginal import marginal_of
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, breakdown
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.types import Status, require_last

FEASIBLE = 1e-9
"""A residual above this, in the rule's own units, is a broken rule."""

SAMPLES = 64


def certify(
    weights: Tensor,
    energy: Energy,
    constraint: Constraint,
    ctx: Context,
    *,
    bound: float | None,
    status: Status,
    rng: torch.Generator,
    multipliers: Tensor | None = None,
    **extras: Any,
) -> Solution:
    """The Solution at `weights` (n,), measured; `extras` are its other fields (ablation, walkers, diagnostics).

    `multipliers` (n,) are those of the bounds on single weights, lower less upper, where they are known.

    A bound above the energy by rounding is lowered to it, so that the gap is never negative.

    Raises:
        SolverError: a rule is broken by more than 1e-9, the energy is not finite, or the bound is above the energy by
            more than rounding; the message says which.
    """
    residuals = residuals_of(weights, constraint, ctx)
    for rule, residual in residuals.items():
        if not residual <= FEASIBLE:
            raise SolverError(
                f"The portfolio{ctx.at} breaks {rule} by {residual:.3g}, beyond the tolerance of "
                f"{FEASIBLE:g}; it was not let out. "
                "Scale the rules to weights near one, or loosen the ones that leave no room."
            )
    # A copy, since whoever is handed the weights may change them before the first look.
    extras["marginal"] = Later(partial(marginal_of, energy, weights.detach().clone(), constraint, ctx, multipliers))
    return measured(weights, energy, constraint, ctx, residuals, bound=bound, status=status, rng=rng, **extras)


def measured(
    weights: Tensor,
    energy: Energy,
    constraint: Constraint,
    ctx: Context,
    residuals: Mapping[str, float],
    *,
    bound: float | None,
    status: Status,
    rng: torch.Generator | None,
    **extras: Any,
) -> Solution:
    """`certify` without the refusal of broken rules; for portfolios that are fixed, not found.

    Without `rng` the `ranges` are among `extras`.

    Raises:
        SolverError: the energy is not finite, or below its bound.
    """
    require_last(weights, ctx.n_assets, "weights")
    shares = {name: float(share) for name, share in breakdown(energy, weights, ctx).items()}
    # Added up as `Sum` does it, each name once, so that it is E(w) to the last bit.
    value = sum((shares[name] for name in dict.fromkeys(repr(part.energy) for part in energy.ordered)), start=0.0)
    if not all(abs(share) < float("inf") for share in (*shares.values(), value)):
        name, share = next(one for one in (*shares.items(), (repr(energy), value)) if not abs(one[1]) < float("inf"))
        raise SolverError(f"{name} is {share}{ctx.at}; check that its estimates are finite on the tradeable names.")
    if bound is not None:
        size = max(abs(value), sum(abs(share) for share in shares.values()))
        if bound > value + 1e-8 * size + 1e-14:
            raise SolverError(
                f"The energy {value:.10g}{ctx.at} is below its proven bound {bound:.10g}; the bound or a term is wrong."
            )
        bound = min(bound, value)
    trust = {
        f"{part.energy!r}: {name}": number
        for part in energy.terms()
        for name, number in part.energy.diagnose(weights, ctx).items()
    }
    extras["diagnostics"] = {**extras.get("diagnostics", {}), **trust}
    if rng is not None:
        sample = partial(ranges_of, weights.detach().clone(), energy=energy, constraint=constraint, ctx=ctx)
        extras["ranges"] = Lookup(Later.drawn(sample, rng)) if energy.terms() else {}
    return Solution(
        weights=weights, status=status, energy=value, bound=bound, residuals=dict(residuals), breakdown=shares, **extras
    )


def residuals_of(weights: Tensor, constraint: Constraint, ctx: Context) -> dict[str, float]:
    """By rule, how far it is broken, in its own units; a zero has no sign."""
    return {repr(rule): float(rule.residual(weights, ctx)) + 0.0 for rule in constraint.rules()}


def ranges_of(
    weights: Tensor, rng: torch.Generator, energy: Energy, constraint: Constraint, ctx: Context
) -> dict[str, tuple[float, float]]:
    """Each term's (least, largest) share over feasible portfolios: `weights`, and those near what is held, single
    names and random points; over `weights` alone where some term cannot be measured on them."""
    alone = weights.unsqueeze(0)
    try:
        return ranges_over(torch.cat([alone, feasible_sample(weights, constraint, ctx, rng)]), energy, ctx)
    except (InfeasibleError, SolverError):
        # A term may project what it measures, as Relaxed does: a decision that stands does not fall over its sample.
        return ranges_over(alone, energy, ctx)


def ranges_over(found: Tensor, energy: Energy, ctx: Context) -> dict[str, tuple[float, float]]:
    """Each term's (least, largest) share over the portfolios `found` (k, n)."""
    shares = breakdown(energy, found, ctx)
    # Some terms are infinite at the edge (RiskBudget at a weight of zero): that says nothing of what they decide.
    finite = {name: share[share.isfinite()] for name, share in shares.items()}
    return {name: (float(share.min()), float(share.max())) for name, share in finite.items()}


def feasible_sample(
    weights: Tensor, constraint: Constraint, ctx: Context, rng: torch.Generator, size: int = SAMPLES
) -> Tensor:
    """`size` feasible portfolios that reach into the corners, lots left aside: (size, n); none where there is none."""
    points = probes(weights, ctx, rng, size)
    try:
        regions = [one.ungridded() for one in regions_of(constraint, ctx)]
        return project_any(points, regions, prove=False, known=weights).weights
    except (InfeasibleError, SolverError):
        # Nothing but the portfolio itself is known to be feasible.
        return points[:0]


def probes(weights: Tensor, ctx: Context, rng: torch.Generator, size: int = SAMPLES) -> Tensor:
    """Points (size, n) whose nearest portfolios reach into the corners: single names, random points, what is held."""
    n = ctx.n_assets
    picked = torch.randperm(n, generator=rng, device=rng.device)[: size // 2].to(weights.device)
    singles = torch.eye(n, dtype=weights.dtype, device=weights.device)[picked]
    random = torch.randn(size - len(singles), n, generator=rng, dtype=weights.dtype, device=rng.device).to(
        weights.device
    )
    # Long steps end on vertices and edges, short ones inside.
    length = torch.logspace(-1, 1, len(random), dtype=weights.dtype, device=weights.device).unsqueeze(-1)
    points = torch.cat([2.0 * singles, weights + length * random / n**0.5])
    if ctx.held is not None:
        points[-1] = ctx.held.to(points)
    return points
