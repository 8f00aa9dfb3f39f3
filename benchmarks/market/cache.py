"""Frames kept between runs, by content: the data, the question and the code that answers it are in the key."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from platformdirs import user_cache_path

from benchmarks.market.margins import Event
from portfolio_ebm.market.store import ENVIRONMENT, key

HERE = Path(__file__).resolve().parent
ROOMS = ("market", "models", "training", "data")


@dataclass(frozen=True)
class Cache:
    """Frames under `root`; nothing is read where `fresh`."""

    root: Path
    fresh: bool = False

    @classmethod
    def default(cls, fresh: bool = False) -> Cache:
        """$PORTFOLIO_EBM_HOME/benchmarks, or the user's cache folder."""
        home = os.environ.get(ENVIRONMENT)
        return cls((Path(home) if home else user_cache_path("portfolio_ebm")) / "benchmarks", fresh)

    def frame(
        self, question: dict[str, str], arrays: Sequence[NDArray[np.float64]],
        compute: Callable[[], tuple[pd.DataFrame | None, list[Event]]],
    ) -> tuple[pd.DataFrame | None, list[Event]]:  # fmt: skip
        """The answer to `question` on `arrays` with the events of its fits: read, or computed and kept."""
        name = key(question, *arrays)
        file, facts = self.root / f"{name}.parquet", self.root / f"{name}.json"
        if not self.fresh and file.exists() and facts.exists():
            return pd.read_parquet(file), [Event(**item) for item in json.loads(facts.read_text())]
        frame, events = compute()
        if frame is not None:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                _write(facts, json.dumps([asdict(item) for item in events]).encode())
                _write(file, frame.to_parquet())
            except OSError:
                pass  # a cache that cannot be written costs time and nothing else
        return frame, events


def _write(path: Path, blob: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(blob)
    os.replace(name, path)


def code(model: bool) -> str:
    """SHA-256 of the code behind a frame: the baselines, or for a model the rooms of the package that make it."""
    digest = hashlib.sha256()
    if model:
        import portfolio_ebm

        root = Path(portfolio_ebm.__file__).parent
        files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))] + [HERE / "models.py"]
    else:
        files = [HERE / f"{name}.py" for name in ("dependence", "laws", "margins", "simulate", "walk")]
    for path in files:
        digest.update(path.read_bytes())
    for library in ("torch",) if model else ("arch", "skfolio", "scipy"):
        digest.update(f"{library} {installed(library)}".encode())
    return digest.hexdigest()


def installed(library: str) -> str:
    """The version of a library, or "absent"."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"
