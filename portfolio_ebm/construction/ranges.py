"""Ranges: which terms decide, sampled when first asked for.

No certificate rests on them, and a sample of feasible portfolios may take longer than the optimum did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from portfolio_ebm.construction.later import Later

Spans = Mapping[str, tuple[float, float]]
"""By term, its least and its largest share of the energy."""


class Ranges(Spans):
    """By term, its (least, largest) share over feasible portfolios: read like a dict, copied and pickled as one.

    The estimates that `sample` holds are kept until the first look and not longer. What asks for a dict itself (json, a
    DataFrame) takes `dict(ranges)`.

    Example:
        >>> Ranges(lambda: {"Variance()": (0.01, 0.04)})["Variance()"]
        (0.01, 0.04)
    """

    def __init__(self, sample: Callable[[], Spans]) -> None:
        self._known = Later(lambda: dict(sample()))

    @classmethod
    def drawn(cls, sample: Callable[[Tensor, torch.Generator], Spans], weights: Tensor, rng: torch.Generator) -> Ranges:
        """Those that `sample(weights, rng)` would find now, whatever becomes of both afterwards."""
        return cls(partial(_sampled, sample, weights.detach().clone(), rng.device, rng.get_state()))

    def __getitem__(self, term: str) -> tuple[float, float]:
        return self._known()[term]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def __repr__(self) -> str:
        return repr(self._known())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._known(),)


def _sampled(
    sample: Callable[[Tensor, torch.Generator], Spans], weights: Tensor, device: torch.device, state: Tensor
) -> Spans:
    """The sample by a generator of its own, so that to look again after an error, or twice at once, is to see the
    same."""
    rng = torch.Generator(device)
    rng.set_state(state)
    return sample(weights, rng)
