"""Fingerprints: equal content, equal SHA-256, on every machine. One NaN and one zero, whatever their bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def fingerprint(fields: Mapping[str, Any]) -> str:
    """SHA-256 of named arrays, names, numbers and mappings of them, in the order of `fields`.

    Example:
        >>> fingerprint({"a": np.array([0.0])}) == fingerprint({"a": np.array([-0.0])})
        True
    """
    digest = hashlib.sha256(b"portfolio_ebm.Panel.2")
    for name, value in fields.items():
        _feed(digest, name, value)
    return digest.hexdigest()


def _feed(digest: Any, name: str, value: Any) -> None:
    digest.update(f"|{name}:".encode("utf-8", "surrogatepass"))
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.kind}{value.shape}".encode())
        if value.dtype.kind == "f":
            value = np.where(np.isnan(value), np.nan, value + 0.0)  # one NaN, one zero
        kind = {"f": "<f8", "M": "<i8", "b": "u1"}[value.dtype.kind]
        source = value.astype("datetime64[ns]").astype(np.int64) if value.dtype.kind == "M" else value
        digest.update(np.ascontiguousarray(source.astype(kind)).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            _feed(digest, key, value[key])
    else:
        digest.update(repr(value).encode("utf-8", "backslashreplace"))
