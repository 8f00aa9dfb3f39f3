"""The manifest: what a run was made of, so that it can be run again and told apart from another.

No wall-clock time is in it: the same strategy, data, package, seed and versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.errors import StoreError
from portfolio_ebm.strategy import Strategy

PINNED = ("numpy", "torch", "cvxpy", "clarabel", "daqp", "pandas", "scipy", "pydantic")


def manifest(strategy: Strategy, panel: Panel, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Strategy as JSON, fingerprints of strategy, data and package source, arguments and versions."""
    return {
        "strategy": strategy.model_dump(mode="json"),
        "strategy_fingerprint": strategy.fingerprint(),
        "data": {"start": panel.start, "end": panel.end, "assets": list(panel.assets), "factors": list(panel.factors)},
        "data_fingerprint": panel.fingerprint(),
        "package_fingerprint": package_fingerprint(),
        "arguments": dict(arguments),
        "versions": {name: _version(name) for name in PINNED} | {"python": platform.python_version()},
    }


def package_fingerprint() -> str:
    """SHA-256 over the package's own source."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def write_folder(folder: str | Path, files: Mapping[str, bytes], last: str | None = None) -> Path:
    """Write `files` into `folder`: all of them into a temporary folder first, then each moved to its place.

    A run that dies while writing leaves the old files as they were; `last` is moved last and vouches for the others.

    Returns:
        the folder.

    Raises:
        StoreError: the folder cannot be written; the message says why.
    """
    folder = Path(folder).resolve()
    fresh: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        for name in sorted(files, key=lambda name: name == last):
            os.replace(fresh / name, folder / name)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}); choose another with --out."
        ) from error
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
