"""What no certificate rests on, worked out when it is first read: a sample may take longer than the optimum did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Later(Generic[T]):
    """A value worked out at the first call and kept; copied and pickled as what it is then.

    What `find` holds, the estimates among it, is kept until the first look and not longer. Readers at the same time may
    each work it out, so `find` has to give the same whenever it is asked; where it raises it is asked again.

    Example:
        >>> Later(lambda: 6 * 7)()
        42
    """

    def __init__(self, find: Callable[[], T]) -> None:
        self._find: Callable[[], T] | None = find
        self._found: list[T] = []

    @classmethod
    def drawn(cls, sample: Callable[[torch.Generator], T], rng: torch.Generator) -> Later[T]:
        """What `sample` would draw now, whatever becomes of `rng` afterwards."""
        return cls(partial(_sampled, sample, rng.device, rng.get_state()))

    def __call__(self) -> T:
        find = self._find  # another reader may be done in between
        if find is not None:
            self._found = [find()]
            self._find = None
        return self._found[0]

    @property
    def done(self) -> bool:
        """Whether somebody has looked."""
        return self._find is None

    def __reduce__(self) -> tuple[Any, ...]:
        return known, (self(),)


def known(value: T) -> Later[T]:
    """A value that there is already."""
    return Later(lambda: value)


def _sampled(sample: Callable[[torch.Generator], T], device: torch.device, state: Tensor) -> T:
    """By a generator of its own, so that to look again after an error, or twice at once, is to see the same."""
    rng = torch.Generator(device)
    rng.set_state(state)
    return sample(rng)


class Lookup(Mapping[str, T]):
    """Values by name, all worked out at the first look: read like a dict, copied and pickled as one.

    `early` are those among them that are known already. What asks for a dict itself (json, a DataFrame) takes
    `dict(lookup)`.

    Example:
        >>> Lookup(Later(lambda: {"Variance()": (0.01, 0.04)}))["Variance()"]
        (0.01, 0.04)
    """

    def __init__(self, found: Later[Mapping[str, T]], early: Mapping[str, T] | None = None) -> None:
        self._found = found
        self._early: Mapping[str, T] = early or {}

    @property
    def at_hand(self) -> Mapping[str, T]:
        """What is known without a look: the early ones, and all of them after the first look."""
        return self._found() if self._found.done else self._early

    def __getitem__(self, name: str) -> T:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __repr__(self) -> str:
        return repr(dict(self._found()))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self._found()),)


def at_hand(values: Mapping[str, T]) -> Mapping[str, T]:
    """What is known of `values` without working anything out: all of a dict, of a Lookup what it has at hand.

    Example:
        >>> at_hand({"final": 0.04}), at_hand(Lookup(Later(lambda: {"final": 0.04})))
        ({'final': 0.04}, {})
    """
    return values.at_hand if isinstance(values, Lookup) else values


def extended(values: Mapping[str, T], more: Mapping[str, T]) -> Mapping[str, T]:
    """`values` with `more`, which are at hand; of a Lookup nothing is worked out for that."""
    return Lookup(Later(lambda: {**values, **more}), {**at_hand(values), **more})
