"""Units, statuses, shapes and the base of every spec.

A **spec** says what we believe or want; it is frozen, holds no data, compares and hashes by value,
its repr pastes back into Python and it round-trips through JSON tagged by its `kind`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self, dataclass_transform

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator
from pydantic_core import PydanticUndefined
from torch import Tensor

import portfolio_ebm
from portfolio_ebm.errors import DataError, ShapeError, SpecError

bps: float = 1e-4
"""One basis point as a fraction: `5 * bps` is 0.05 %."""

TRADING_DAYS: int = 252
"""Trading days in a year; used in reports only, never in an estimate."""


@dataclass(frozen=True)
class Status:
    """How a computation ended: `ok` and a sentence that says it."""

    ok: bool
    message: str

    def __str__(self) -> str:
        return self.message

    def __bool__(self) -> bool:
        return self.ok


@dataclass_transform(kw_only_default=False, field_specifiers=(Field,))
class Spec(BaseModel):
    """Base of every spec: frozen, data-free, compared by value.

    Fields may be given by position in the order they are declared. `repr` leaves out defaults and
    pastes back. `model_dump_json` and `model_validate_json` round-trip, also through a field declared
    as an abstract base, since every spec carries its class name as `kind`. Subclass and the new kind is
    known: the registry is open.

    Raises:
        SpecError: a field is missing, unknown or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    registry: ClassVar[dict[str, type[Spec]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        Spec.registry[cls.__name__] = cls

    def __init__(self, *args: Any, **fields: Any) -> None:
        if args:
            fields = self._named(args, fields)
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise SpecError(_sentence(type(self).__name__, error)) from None

    @classmethod
    def _named(cls, args: tuple[Any, ...], fields: dict[str, Any]) -> dict[str, Any]:
        """`fields` and those given by position, in the order they are declared."""
        names = list(cls.model_fields)
        if len(args) > len(names):
            raise SpecError(f"{cls.__name__} takes at most {len(names)} values ({', '.join(names)}), got {len(args)}.")
        given = dict(zip(names, args, strict=False))
        for name in given.keys() & fields.keys():
            raise SpecError(f"{cls.__name__}: '{name}' is given twice, by position and by name.")
        return given | fields

    @model_serializer(mode="plain")
    def _tagged(self) -> dict[str, Any]:
        return {"kind": type(self).__name__} | {name: getattr(self, name) for name in type(self).model_fields}

    @model_validator(mode="wrap")
    @classmethod
    def _by_kind(cls, value: Any, handler: Any) -> Any:
        if not (isinstance(value, dict) and "kind" in value and "kind" not in cls.model_fields):
            return handler(value)
        fields = {name: item for name, item in value.items() if name != "kind"}
        target = _known(value["kind"])
        if target is None or not issubclass(target, cls):
            raise SpecError(
                f"'{value['kind']}' is not a known {cls.__name__}; import the module that defines it first."
            )
        return handler(fields) if target is cls else target(**fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The spec that `model_dump_json` wrote.

        Raises:
            SpecError: not JSON, or not a spec of this kind.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SpecError(_sentence(cls.__name__, error)) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated anew."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))

    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON: equal specs have equal fingerprints."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        values = ((name, getattr(self, name), default) for name, default in _defaults(type(self)))
        shown = [f"{name}={value!r}" for name, value, default in values if value is not default and value != default]
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


@cache
def _defaults(kind: type[Spec]) -> tuple[tuple[str, Any], ...]:
    """The fields of a spec and what they are by default; pydantic copies its defaults whenever it is asked."""
    return tuple(
        (name, PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True))
        for name, field in kind.model_fields.items()
    )


def _known(kind: Any) -> type[Spec] | None:
    """The spec called `kind`; the package's own load on first use, so one may not be in the registry yet."""
    if kind not in Spec.registry and kind in portfolio_ebm.__all__:
        getattr(portfolio_ebm, kind)
    return Spec.registry.get(kind)


def _sentence(kind: str, error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        where = ".".join(str(step) for step in item["loc"])
        got = "" if item["type"] in ("missing", "value_error") else f" (got {item.get('input')!r})"
        parts.append((f"'{where}': " if where else "") + item["msg"].removeprefix("Value error, ") + got)
    return f"{kind}: " + "; ".join(parts)


def require_last(x: Tensor, size: int, what: str) -> Tensor:
    """`x` itself when its last dimension is `size`.

    Raises:
        ShapeError: it is not; the message names got and expected.
    """
    if not isinstance(x, torch.Tensor):
        raise ShapeError(f"{what}: got a {type(x).__name__}, expected a torch tensor: torch.as_tensor(x) makes one.")
    if x.ndim == 0 or x.shape[-1] != size:
        raise ShapeError(f"{what}: got shape {tuple(x.shape)}, expected (..., {size}).")
    return x


def counted(count: int, what: str) -> str:
    """A number of things in words.

    Example:
        >>> counted(1, "slice"), counted(1500, "node")
        ('1 slice', '1500 nodes')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def require_unique(names: Iterable[Any], what: str) -> tuple[str, ...]:
    """The names of assets as strings.

    Raises:
        DataError: one stands twice, so that a rule on it would not know which is meant.
    """
    found = tuple(str(name) for name in names)
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(f"{what} names {', '.join(twice[:5])} more than once; give every asset a name of its own.")
    return found


def numbers(value: Any, what: str) -> NDArray[np.float64]:
    """A caller's input as a float64 array.

    Raises:
        DataError: something in it is no number; the message says what.
    """
    try:
        # In C order: torch takes no array that runs backwards.
        return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} is not made of numbers ({error}); give an array, a tensor or pandas.") from error


def as_numpy(x: Tensor) -> NDArray[np.float64]:
    """The numbers of a tensor as a float64 array, off its graph and its device."""
    return np.asarray(x.detach().cpu().numpy(), dtype=np.float64)


def elsewhere(x: Tensor) -> bool:
    """Whether x is on another device than the host's, which then has to wait for what it wants to know of x."""
    return x.device.type != "cpu"


def lift(x: Tensor, like: Tensor, event_dims: int = 1) -> Tensor:
    """Insert singleton dimensions so that an estimate broadcasts against a batch of portfolios.

    `x` has shape `(*batch, *event)`, `like` has `(*batch, *chains, n)`; the result has shape
    `(*batch, 1, ..., 1, *event)` with as many ones as there are chain dimensions.

    Example:
        >>> lift(torch.zeros(7, 20), torch.zeros(7, 64, 20)).shape
        torch.Size([7, 1, 20])
    """
    batch = x.ndim - event_dims
    extra = like.ndim - 1 - batch
    if batch <= 0 or extra <= 0:
        return x
    return x.reshape((*x.shape[:batch], *([1] * extra), *x.shape[batch:]))


def generator(seed: int, key: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The one random stream of (seed, key); `key` is usually a date. No draw depends on any other key.

    Example:
        >>> torch.rand(2, generator=generator(0, "2020-01-31"))
    """
    digest = hashlib.sha256(f"{seed}|{key}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def device_of(name: str) -> torch.device:
    """The device called `name`: the one place that knows what an accelerator is called.

    Raises:
        SpecError: this machine has no such device.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        if not torch.cuda.is_available():
            raise SpecError(
                "--device cuda: torch sees no GPU here; use --device cpu, or install a torch build with GPU support."
            )
        return torch.device("cuda")
    raise SpecError(f"Unknown device '{name}'; use cpu or cuda.")
