"""Factor and Residual: how one part of a FactorEBM is modelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import Field

from portfolio_ebm.types import Spec

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

    Example:
        >>> FactorEBM(factors=("Mkt", Factor("HML", density="skew_student")))
    """

    name: str = Field(min_length=1)
    density: Density = "energy"
    calibrated: bool = False
    lookback: int | None = Field(default=None, ge=100)


class Residual(Spec):
    """What the factors leave of each asset. A plain density is the residual with all else at its default.

    Attributes:
        density: the laws' family; "ewma" keeps the untrained EWMA Student-t law.
        calibrated: adds each asset's calibration energy.

    Example:
        >>> FactorEBM(residual=Residual("student", calibrated=True))
    """

    density: Density | Literal["ewma"] = "energy"
    calibrated: bool = False


def plain(part: str | Factor) -> str | Factor:
    """A factor without settings as its name, so that equal beliefs have equal fingerprints."""
    return part.name if isinstance(part, Factor) and part == Factor(part.name) else part


def factor(part: str | Factor) -> Factor:
    """A factor by its name, or as it is."""
    return Factor(part) if isinstance(part, str) else part


def names(parts: Sequence[str | Factor]) -> tuple[str, ...]:
    """What the factors are called."""
    return tuple(factor(part).name for part in parts)
