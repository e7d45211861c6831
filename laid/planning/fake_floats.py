"""Models that take no memory: float tensors are fake, integer tensors are computed.

PyTorch's fake tensors have shapes and no values, so whatever reads values fails: token ids, grids
and masks decide shapes and branches throughout a forward pass. These are small. So within
``fake_floats`` they stay ordinary tensors, and only float tensors are fake.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_LARGEST = 2**24
"""Elements up to which an integer tensor is computed; larger ones are fake too."""
_aten = torch.ops.aten
_METADATA = torch.ops.prim.device.default
_ARANGES = (_aten.arange.default, _aten.arange.start, _aten.arange.start_step)


class IntegersAreComputed(TorchDispatchMode):
    """Computes integer and bool tensors whose inputs are known and leaves the rest to a
    ``FakeTensorMode(allow_non_fake_inputs=True)``, within which it is entered.

    Integers that depend on unknown floats (the next token, from logits) are 0, bools are false; a
    float whose value is read is 1.
    """

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self._memo = fake.fake_tensor_converter.meta_converter.tensor_memo

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # DTensor dispatches again, with local tensors
        if func is _METADATA:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if _is_known(func, tensors, args, kwargs) or _stays_meta(tensors, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is _aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 0
        if func is _aten.index.Tensor:
            args = (args[0], _without_masks(args[1]))
        out = func(*args, **kwargs)
        # PyTorch remembers fake tensors weakly, and then refuses to move a module that has them.
        self._memo.clear()
        return tree_map_only(FakeTensor, _zeros_if_integer, out)


@contextmanager
def fake_floats() -> Iterator[FakeTensorMode]:
    """Models of any size can be built and run within."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, IntegersAreComputed(fake):
        yield fake


def _stays_meta(tensors: list[Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether only the meta device is used, where models are before they are given memory."""
    if (device := kwargs.get("device")) is not None:
        return torch.device(device).type == "meta"
    return bool(tensors) and all(t.is_meta and not isinstance(t, FakeTensor) for t in tensors)


def _is_known(func: Any, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the result is an integer tensor that can be computed."""
    if tensors:
        if any(isinstance(t, FakeTensor) or t.is_meta for t in tensors):
            return False
        try:
            shape = torch.broadcast_shapes(*(t.shape for t in tensors))
        except RuntimeError:
            shape = max((t.shape for t in tensors), key=math.prod)
        return math.prod(shape) <= _LARGEST
    is_integer = _is_integer(kwargs.get("dtype"))
    if func in _ARANGES:
        return is_integer or not any(isinstance(value, float) for value in args)
    shape = args[0] if args and isinstance(args[0], list | tuple) else []
    filled = func is _aten.full.default and isinstance(args[1], int) and kwargs.get("dtype") is None
    elements = math.prod(size for size in shape if isinstance(size, int))
    return (is_integer or filled) and elements <= _LARGEST


def _is_integer(dtype: torch.dtype | None) -> bool:
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def _without_masks(indices: Any) -> list[Tensor | None]:
    """Index tensors, each bool mask replaced by the indices at which it is true."""
    out: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                out += index.nonzero(as_tuple=True)
        else:
            out.append(index)
    return out


def _zeros_if_integer(out: FakeTensor) -> Tensor:
    if not _is_integer(out.dtype) or out.numel() > _LARGEST:
        return out
    with unset_fake_temporarily():
        return torch.zeros(out.shape, dtype=out.dtype)
