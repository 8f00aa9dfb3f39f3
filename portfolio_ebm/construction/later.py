"""Later: a value that no certificate rests on, worked out when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

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

    def __call__(self) -> T:
        find = self._find  # another reader may be done in between
        if find is not None:
            self._found = [find()]
            self._find = None
        return self._found[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return _known, (self(),)


def _known(value: T) -> Later[T]:
    return Later(lambda: value)
