"""Dependence by name: what a string stands for."""

from __future__ import annotations

from typing import Any

from portfolio_ebm.market.dependence.independent import Independent
from portfolio_ebm.market.dependence.mixture import MovingCopula

NAMES = {"t": MovingCopula, "none": Independent}


def spec_of(value: Any) -> Any:
    """The spec that a name stands for: "t" is MovingCopula(), "none" is Independent(); all else is left to the field.

    Raises:
        ValueError: an unknown name; the field's SpecError says the sentence.
    """
    if not isinstance(value, str):
        return value
    if value not in NAMES:
        raise ValueError(f"'{value}' is no dependence; write 't', 'none' or a spec such as MovingCopula() or DCC()")
    return NAMES[value]()
