"""Factor and Residual: how one part of a FactorEBM is modelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError
from portfolio_ebm.types import Spec

Array = NDArray[np.float64]

Density: TypeAlias = Literal["energy", "student", "skew_student"]
"""The shape of a law, given the state that moves its place and width: a power law with a small network, a power law
alone (Student's t), a skewed power law."""


class Factor(Spec):
    """One factor of a FactorEBM. A plain name is the factor with every setting at its default.

    Attributes:
        name: as the panel calls it.
        density: the law's family.
        calibrated: adds the calibration energy that the factor's own past PITs ask for (`models.calibration`).
        lookback: usable days up to the anchor that its energy is trained on; by default all of the market's window.
        loadings: name of the panel's forecast that holds each asset's loading on it, as known at each date; where that
            is blank, and by default, loadings are estimated. Of the market it is the whole beta, since styles are taken
            orthogonal to it; a forecast is `Panel.from_prices(..., forecasts={name: frame})`.

    Example:
        >>> FactorEBM(factors=("Mkt", Factor("HML", density="skew_student")))
    """

    name: str = Field(min_length=1)
    density: Density = "energy"
    calibrated: bool = True
    lookback: int | None = Field(default=None, ge=100)
    loadings: str | None = None


class Residual(Spec):
    """What the factors leave of each asset. A plain density is the residual with all else at its default.

    Attributes:
        density: the laws' family; "ewma" keeps the untrained EWMA Student-t law.
        calibrated: adds each asset's calibration energy.
        stale: gives an asset that often does not move an atom at a return of zero (`market.stale`); days on which
            it stood still then teach its energy and its loadings nothing. Such a market has no tables of independent
            parts: free energies come from scenarios.

    Example:
        >>> FactorEBM(residual=Residual("student", stale=True))
    """

    density: Density | Literal["ewma"] = "energy"
    calibrated: bool = True
    stale: bool = False


def plain(part: str | Factor) -> str | Factor:
    """A factor without settings as its name, so that equal beliefs have equal fingerprints."""
    return part.name if isinstance(part, Factor) and part == Factor(part.name) else part


def factor(part: str | Factor) -> Factor:
    """A factor by its name, or as it is."""
    return Factor(part) if isinstance(part, str) else part


def names(parts: Sequence[str | Factor]) -> tuple[str, ...]:
    """What the factors are called."""
    return tuple(factor(part).name for part in parts)


def known_loadings(
    past: Past, parts: Sequence[Factor], groups: str | None, start: int
) -> tuple[tuple[str, ...] | None, Array | None]:
    """What is known of loadings: each asset's group, and loadings (T - start, n, K), NaN where none is given.

    Raises:
        DataError: the panel has no such grouping or forecast; names what it has.
    """
    if groups is not None and groups not in past.groups:
        has = ", ".join(past.groups) or "none"
        raise DataError(f"{past.date}: the panel has no grouping '{groups}'; it has {has}. Give it with groups=.")
    labels = None if groups is None else tuple(str(label) for label in past.groups[groups])
    if not any(part.loadings for part in parts):
        return labels, None
    known = np.full((len(past) - start, len(past.assets), len(parts)), np.nan)
    for k, part in enumerate(parts):
        if part.loadings is None:
            continue
        if part.loadings not in past.forecasts:
            has = ", ".join(past.forecasts) or "none"
            raise DataError(
                f"{past.date}: the loadings of factor {part.name} are to be the panel's forecast '{part.loadings}', "
                f"and it has {has}; give it with forecasts={{name: frame}}."
            )
        known[:, :, k] = past.forecasts[part.loadings][start:]
    return labels, known
