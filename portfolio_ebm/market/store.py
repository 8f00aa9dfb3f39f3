"""The store of fits: what was trained once is read again, by content.

A key is the SHA-256 of the configuration and of the data that was used: the same data under the same configuration
has the same key, whatever else is in the panel. A fit is one safetensors file with its facts as JSON in the header, and
a checksum of both; it is written under a temporary name and renamed, so that a crash leaves no half file. Nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from portfolio_ebm.data.sources.cache import ENVIRONMENT, home
from portfolio_ebm.errors import StoreError


def key(config: Mapping[str, Any], *arrays: NDArray[Any]) -> str:
    """SHA-256 over the configuration's canonical JSON and the arrays' shapes and bytes; -0.0 counts as 0.0.

    Example:
        >>> key({"kind": "factor energy", "version": 1}, window)
    """
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True, separators=(",", ":")).encode())
    for array in arrays:
        plain = np.ascontiguousarray(array) + 0.0 if array.dtype.kind == "f" else np.ascontiguousarray(array)
        digest.update(f"{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """One stored fit: tensors by name, and facts as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Store:
    """Fits under `root`, or in memory only where `root` is None.

    Example:
        >>> store = Store.default()
        >>> store.put(name, {"parameters": theta}, {"series": "MTUM"})
        >>> store.get(name).tensors["parameters"]
    """

    root: Path | None
    memory: dict[str, Entry] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def default(cls) -> Store:
        """$PORTFOLIO_EBM_HOME/fits, or the user's cache folder; in memory when that cannot be written."""
        root = home() / "fits"
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError:
            return _in_memory()
        return cls(root) if os.access(root, os.W_OK) else _in_memory()

    def path(self, name: str) -> Path | None:
        """Where the tensors of `name` are or would be."""
        return None if self.root is None else self.root / name[:2] / f"{name}.safetensors"

    def get(self, name: str) -> Entry | None:
        """The fit stored under `name`, or None.

        Raises:
            StoreError: the files are there and cannot be read; names them and the remedy.
        """
        file = self.path(name)
        if file is None:
            return self.memory.get(name)
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                names = opened.keys()
                tensors = {what: opened.get_tensor(what) for what in names}
                header = opened.metadata() or {}
            facts = json.loads(header.get("facts", "null"))
        except (OSError, ValueError, SafetensorError) as error:
            raise StoreError(f"{file}: this stored fit cannot be read ({error}); delete it and run again.") from error
        if not isinstance(facts, dict) or header.get("sha256") != _checksum(tensors, header["facts"]):
            raise StoreError(f"{file}: these are not the bytes that were written; delete the file and run again.")
        return Entry(tensors, facts)

    def put(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Entry:
        """Store a fit; a name that is there already keeps its first bytes.

        Raises:
            StoreError: the folder cannot be written.
        """
        kept = {what: tensor.detach().cpu().contiguous() for what, tensor in tensors.items()}
        file = self.path(name)
        if file is None:
            return self.memory.setdefault(name, Entry(kept, dict(facts)))
        if not file.exists():
            words = json.dumps(dict(facts), sort_keys=True)
            blob = save(kept, {"facts": words, "sha256": _checksum(kept, words)})
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                _write(file, blob)
            except OSError as error:
                raise StoreError(f"{file}: cannot be written ({error}); free space or set {ENVIRONMENT}.") from error
        return Entry(kept, dict(facts))

    def describe(self, name: str, facts: Mapping[str, Any]) -> None:
        """The facts of `name` as JSON beside it, for people; what is read back is the fit's own header.

        Raises:
            StoreError: the folder cannot be written.
        """
        file = self.path(name)
        if file is None:
            return
        try:
            _write(file.with_suffix(".json"), json.dumps(dict(facts), indent=2, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"{file}: cannot be written ({error}); free space or set {ENVIRONMENT}.") from error


def _checksum(tensors: Mapping[str, Tensor], words: str) -> str:
    digest = hashlib.sha256(words.encode())
    for what in sorted(tensors):
        array = tensors[what].numpy()
        digest.update(f"{what}{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write(file: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        Path(temporary).replace(file)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


@lru_cache(maxsize=1)
def _in_memory() -> Store:
    """The one store of a process that can write nowhere; content-addressed, so sharing it changes no result."""
    return Store(None)
