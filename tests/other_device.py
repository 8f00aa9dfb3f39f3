"""A device that is not the host's, on a machine without one: tensors that say so, compute on the host, and do not mix.

What a GPU refuses is refused here: an operation on a tensor of the device and one of the host (single numbers and
indices aside), and `.numpy()` of a tensor of the device. What holds it up is counted: every number that the host reads
(`.item()`, a branch on a tensor, a size that depends on values). The arithmetic is the host's, so that a call must give
the very same bits, but for steps that are taken without looking whether they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
"""The one kind of device that every build of torch knows and has no kernels for."""

READS = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal",
    "aten::masked_select", "aten::_linalg_check_errors",
}  # fmt: skip
COPIES = {"aten::_to_copy", "aten::copy_"}
RESHAPING = {"aten::unsqueeze_", "aten::squeeze_", "aten::t_", "aten::transpose_"}
"""A tensor cannot take another shape behind its own back: autograd does so with what nobody else holds."""

PRODUCTS = {Tensor.matmul, Tensor.__matmul__, torch.matmul}
READ: list[str] = []


class Mixed(RuntimeError):
    """Tensors of the device and of the host in one operation."""


class There(Tensor):
    """A tensor of the device; `here` is the host's that computes for it."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        found = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=DEVICE, requires_grad=here.requires_grad,
        )  # fmt: skip
        found.here = here
        return found

    def tolist(self) -> Any:
        READ.append("tolist")
        return self.here.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


class Dice(torch.Generator):
    """A generator of the device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # torch types it as an attribute
        return DEVICE


class _Made(torch.Generator):
    """torch.Generator, which knows the device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(Dice if torch.device(device) == DEVICE else torch.Generator)


def tensors_in(given: Any) -> list[Tensor]:
    """Those in tuples and lists. Torch's own walks over trees know more kinds, and took most of a test's time."""
    if isinstance(given, Tensor):
        return [given]
    return [x for one in given for x in tensors_in(one)] if isinstance(given, tuple | list) else []


def each(change: Callable[[Tensor], Tensor], given: Any) -> Any:
    """The same tuples and lists, their tensors changed."""
    if isinstance(given, Tensor):
        return change(given)
    return type(given)([each(change, one) for one in given]) if isinstance(given, tuple | list) else given


def here(x: Tensor) -> Tensor:
    return x.here if isinstance(x, There) else x


def computed(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the host, its result where it belongs."""
    name, tensors = op._schema.name, tensors_in((*args, *kwargs.values()))
    there = [x for x in tensors if isinstance(x, There)]
    picks = name.startswith("aten::index")
    if there and name not in COPIES and not picks and any(not isinstance(x, There) and x.dim() > 0 for x in tensors):
        raise Mixed(f"{name} mixes tensors of the device and of the host")
    stays = bool(there)
    if kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]) == DEVICE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif name == "aten::copy_":
        stays = isinstance(args[0], There)
    masked = picks and any(isinstance(x, There) and x.dtype == torch.bool for x in tensors_in(args[1:2]))
    if there and (name in READS or not stays or masked):
        READ.append(name)
    reshaping = name in RESHAPING
    own, more = each(here, args), {key: each(here, x) for key, x in kwargs.items()}
    found = (getattr(torch.ops.aten, name[6:-1]) if reshaping else op)(*own, **more)
    if name.endswith("_") and not name.endswith("__") and not reshaping and isinstance(args[0], There):
        return args[0]
    return each(There, found) if stays else found


class _Given(TorchFunctionMode):
    """What torch does with no operation, or in place of what it is given."""

    def __torch_function__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if op in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return op(*args, **{**kwargs, "device": torch.device("cpu")}).to(DEVICE)
        if op is Tensor.new_tensor and isinstance(args[0], There):
            return torch.tensor(args[1], dtype=args[0].dtype).to(DEVICE)
        if op in PRODUCTS and args[0].dim() == 1 and args[1].dim() == 2:
            return (args[0].unsqueeze(0) @ args[1]).squeeze(0)  # as torch does it, but for its `squeeze_`
        return op(*args, **kwargs)


class _Everywhere(TorchDispatchMode):
    """Operations that make tensors on the device from nothing."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Inside, tensors can be made on the device and moved there."""
    # Torch imports this when it first likes, and not while Generator is another; it takes seconds, so no sooner.
    import_module("torch._dynamo")
    READ.clear()
    with _Everywhere(), _Given(), patch.object(torch, "Generator", _Made):
        yield DEVICE


def reads() -> int:
    """How often the host has read since the device was entered."""
    return len(READ)
