"""How much work AnnealedLangevin does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The fields of AnnealedLangevin of the same names."""

    chains: int
    steps: int
    swaps: bool
    sweeps: int
    walkers: int
    candidates: int
    polish: int
    nodes: int
