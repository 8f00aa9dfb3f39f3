"""Read-only copies: what a panel holds is changed by nobody."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np


def frozen(value: Any) -> Any:
    """Arrays become read-only (copied where the caller could still write), mappings read-only views of a copy."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value = value.copy()
            value.flags.writeable = False
        return value
    if isinstance(value, Mapping):
        return MappingProxyType({name: frozen(item) for name, item in value.items()})
    return value
