"""How much worse than the optimum is still good enough: a tolerance in words, as an excess of energy.

    unit "energy"       excess = tolerance * sum over terms of |share at the optimum|
    unit "volatility"   excess = what the variance and volatility terms gain when sigma* becomes (1 + tolerance) sigma*:
                        c ((1 + tolerance)^2 - 1) sigma*^2 for c * Variance(),  c tolerance sigma* for c * Volatility()

The first is relative to the sizes of the terms, not to their sum, which may be near zero.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import Volatility
from portfolio_ebm.energies.risk import Variance
from portfolio_ebm.energy import Energy, breakdown
from portfolio_ebm.errors import SpecError

Unit = Literal["energy", "volatility"]


def allowed_excess(tolerance: float, unit: Unit, energy: Energy, optimum: Tensor, ctx: Context) -> float:
    """The energy above the optimum's that a tolerance allows.

    Raises:
        SpecError: unit "volatility" and no Variance or Volatility in the formula; or an optimum whose size is zero.

    Example:
        >>> allowed_excess(0.01, "volatility", Variance(), weights, ctx)  # 2.01 % of the least variance
    """
    if unit == "energy":
        excess = tolerance * sum(abs(float(share)) for share in breakdown(energy, optimum, ctx).values())
    else:
        parts = [part for part in energy.terms() if isinstance(part.energy, (Variance, Volatility))]
        if not parts:
            raise SpecError(
                f"{energy!r} has no Variance() or Volatility(), so that a tolerance in volatility says nothing; "
                "use unit='energy'."
            )
        excess = 0.0
        for part in parts:
            rise = (1.0 + tolerance) ** 2 - 1.0 if isinstance(part.energy, Variance) else tolerance
            excess += part.coefficient * rise * float(part.energy.bind(ctx)(optimum))
    if not excess > 0.0:
        raise SpecError(f"{energy!r} is zero at its optimum{ctx.at}, so that a relative tolerance allows nothing.")
    return excess
