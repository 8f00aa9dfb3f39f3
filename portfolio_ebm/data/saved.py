"""A panel in a folder: one parquet file an array, and panel.json, which names them and vouches for them.

    panel.json           version, names, mappings, notes, the SHA-256 of every file and the panel's fingerprint
    returns-1f8a.parquet a column `date`, then one column an asset: any reader of parquet opens it

The round trip is exact to the bit. panel.json is written last, and under a temporary name first: a crash at any moment
leaves the panel that was there before, or none, and never half of one. Files carry the start of their own SHA-256 in
their names, so that a panel written over another one never touches the files the old one still needs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from portfolio_ebm.data.fingerprint import fingerprint
from portfolio_ebm.errors import StoreError

FORMAT = "portfolio_ebm.Panel"
VERSION = 1
MANIFEST = "panel.json"

_FILE = re.compile(r"[a-z_]+(-\d+)?-[0-9a-f]{16}\.parquet")
_ARRAYS = "arrays"


def save(fields: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a panel's fields into `folder`, which is made, or holds a saved panel already, or is empty.

    Returns:
        the folder.

    Raises:
        StoreError: the folder holds something else, or cannot be written; the message says which.
    """
    target = Path(folder)
    _check_target(target)
    content, files = _content(fields)
    files[MANIFEST] = _manifest(content)
    try:
        if (target / MANIFEST).exists():
            _into(target, files)
        else:
            _fresh(target, files)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror or error}); choose another folder.") from error
    return target


def load(folder: str | Path) -> dict[str, Any]:
    """The fields of the panel that `save` wrote, bit for bit.

    Raises:
        StoreError: no saved panel, a file of it missing or changed, or a version this package does not know.
    """
    target = Path(folder)
    content = _read_manifest(target)
    try:
        named = content[_ARRAYS]
        dates: list[NDArray[np.datetime64]] = []
        fields: dict[str, Any] = {}
        for name, item in named.items():
            if "file" in item:
                fields[name] = _array(target, item, dates)
            else:
                fields[name] = {key: _array(target, entry, dates) for key, entry in zip(*_entries(item), strict=True)}
        fields["dates"] = dates[0]
        for name, item in content["values"].items():
            fields[name] = _thawed(item)
        told = fingerprint({name: fields[name] for name in content["order"] if name != "notes"})
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise StoreError(
            f"{target / MANIFEST}: does not describe a panel ({type(error).__name__}); save the panel again."
        ) from None
    if told != content["fingerprint"]:
        raise StoreError(
            f"{target}: the content has the fingerprint {told[:12]} and {MANIFEST} says "
            f"{str(content['fingerprint'])[:12]}; something was changed, save the panel again."
        )
    return fields


def is_saved(folder: Path) -> bool:
    """True for a folder with a panel.json in it."""
    return (folder / MANIFEST).is_file()


def _content(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What panel.json says, and the files beside it."""
    files: dict[str, bytes] = {}
    arrays: dict[str, Any] = {}
    values: dict[str, Any] = {}
    dates = fields["dates"]
    columns = {"factor_returns": fields["factors"]}
    for name, value in fields.items():
        if name == "dates":
            continue
        names = columns.get(name, fields["assets"])
        if isinstance(value, np.ndarray):
            arrays[name] = _stored(files, name, value, dates, names)
        elif isinstance(value, Mapping) and any(isinstance(item, np.ndarray) for item in value.values()):
            entries = [_stored(files, f"{name}-{k}", item, dates, names) for k, item in enumerate(value.values())]
            arrays[name] = {"keys": list(value), "entries": entries}
        else:
            values[name] = _frozen(value)
    told = fingerprint({name: value for name, value in fields.items() if name != "notes"})
    return {"fingerprint": told, "order": list(fields), "values": values, _ARRAYS: arrays}, files


def _stored(
    files: dict[str, bytes], name: str, value: NDArray[Any], dates: NDArray[np.datetime64], names: tuple[str, ...]
) -> dict[str, Any]:
    matrix = value.reshape(len(value), -1)
    heads = list(names) if value.ndim == 2 else [name]
    table = pa.Table.from_arrays(
        [
            pa.array(dates.astype("datetime64[ns]")),
            *(pa.array(np.ascontiguousarray(matrix[:, k])) for k in range(matrix.shape[1])),
        ],
        names=["date", *(head.encode("utf-8", "replace").decode() for head in heads)],
    )
    sink = io.BytesIO()
    # Numbers seldom repeat, so a dictionary of them would only be a second copy.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    raw = sink.getvalue()
    digest = hashlib.sha256(raw).hexdigest()
    file = f"{name}-{digest[:16]}.parquet"
    files[file] = raw
    return {
        "file": file,
        "sha256": digest,
        "type": value.dtype.str,
        "dimensions": value.ndim,
        "columns": matrix.shape[1],
    }


def _array(target: Path, item: Mapping[str, Any], dates: list[NDArray[np.datetime64]]) -> NDArray[Any]:
    file = str(item["file"])
    if not _FILE.fullmatch(file):
        raise StoreError(f"{target / MANIFEST}: '{file[:40]}' is no file of a panel; save the panel again.")
    try:
        raw = (target / file).read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{target / file}: is missing; put it back, or save the panel again.") from None
    except OSError as error:
        raise StoreError(f"{target / file}: cannot be read ({error.strerror or error}).") from error
    if hashlib.sha256(raw).hexdigest() != item["sha256"]:
        raise StoreError(f"{target / file}: was changed after it was written; restore it, or save the panel again.")
    try:
        table = pq.ParquetFile(io.BytesIO(raw)).read(use_threads=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{target / file}: cannot be read as parquet ({str(error)[:60]}); save it again.") from None
    columns = [column.to_numpy() for column in table.columns]
    if len(columns) != int(item["columns"]) + 1:
        raise StoreError(
            f"{target / file}: has {len(columns) - 1} columns, not {item['columns']}; save the panel again."
        )
    dates.append(columns[0].astype("datetime64[ns]"))
    if item["dimensions"] == 1:
        return _closed(np.array(columns[1]))
    out = np.empty((len(columns[0]), len(columns) - 1), dtype=np.dtype(str(item["type"])))
    for k, column in enumerate(columns[1:]):
        out[:, k] = column
    return _closed(out)


def _closed(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False  # so that the panel need not copy it
    return array


def _entries(item: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    return [str(key) for key in item["keys"]], list(item["entries"])


def _frozen(value: Any) -> Any:
    """What JSON can hold and give back: tuples and mappings are tagged, for JSON has neither as we mean them."""
    if isinstance(value, Mapping):
        return {"mapping": [[key, _frozen(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_frozen(item) for item in value]}
    if isinstance(value, np.generic):
        return value.item()
    return value


def _thawed(value: Any) -> Any:
    if isinstance(value, dict) and "mapping" in value:
        return {str(key): _thawed(item) for key, item in value["mapping"]}
    if isinstance(value, dict) and "tuple" in value:
        return tuple(_thawed(item) for item in value["tuple"])
    if isinstance(value, dict | list):
        raise ValueError("a value of an unknown kind")
    return value


def _manifest(content: dict[str, Any]) -> bytes:
    whole = {"format": FORMAT, "version": VERSION, "checksum": _checksum(content), "content": content}
    return json.dumps(whole, indent=1).encode()


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(target: Path) -> dict[str, Any]:
    path = target / MANIFEST
    if not target.is_dir() or not path.is_file():
        raise StoreError(f"{target}: no saved panel (no {MANIFEST} in it); Panel.save(folder) writes one.")
    try:
        whole = json.loads(path.read_bytes())
        kind, version = whole["format"], whole["version"]
        if kind == FORMAT and version != VERSION:
            raise StoreError(
                f"{path}: was written in version {version} of the format and this package reads {VERSION}; save it "
                "again from its sources."
            )
        content, checksum = whole["content"], whole["checksum"]
        if kind != FORMAT or not isinstance(content, dict):
            raise ValueError("another format")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{path}: is not what Panel.save wrote ({type(error).__name__}); restore it, or save the panel again."
        ) from None
    if _checksum(content) != checksum:
        raise StoreError(f"{path}: was changed after it was written; restore it, or save the panel again.")
    return content


def _check_target(target: Path) -> None:
    """Nothing but a saved panel or an empty folder is ever written over."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir():
        raise StoreError(f"{target}: is a file; give a folder of its own to a panel.")
    there = sorted(item.name for item in target.iterdir())
    if not there:
        return
    if MANIFEST not in there:
        raise StoreError(
            f"{target}: holds {', '.join(there[:3])} and no saved panel; a panel is never written among other files, "
            "choose a new folder."
        )
    try:
        own = json.loads((target / MANIFEST).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        own = False
    if not own:
        raise StoreError(f"{target}: its {MANIFEST} is not one of a panel; choose a new folder.")


def _fresh(target: Path, files: Mapping[str, bytes]) -> None:
    """A new folder: filled under another name, then renamed."""
    place = target.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    made = place.parent / f".{place.name}-writing-{secrets.token_hex(6)}"
    made.mkdir()
    try:
        for name, raw in files.items():
            _write(made / name, raw)
        if place.is_dir():
            place.rmdir()  # it is empty, or this fails
        os.replace(made, place)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _into(target: Path, files: Mapping[str, bytes]) -> None:
    """A folder with a saved panel: new files beside the old ones, then the new panel.json, then the old files go."""
    for name, raw in files.items():
        if name != MANIFEST:
            _write(target / f".{name}.writing", raw)
            os.replace(target / f".{name}.writing", target / name)
    _write(target / f".{MANIFEST}.writing", files[MANIFEST])
    os.replace(target / f".{MANIFEST}.writing", target / MANIFEST)
    for item in target.iterdir():
        if item.name not in files and _FILE.fullmatch(item.name.removeprefix(".").removesuffix(".writing")):
            item.unlink(missing_ok=True)


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb") as opened:
        opened.write(raw)
        opened.flush()
        os.fsync(opened.fileno())
