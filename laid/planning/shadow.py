"""Models without memory: real numbers are only shaped, whole numbers are computed.

PyTorch's fake tensors have shapes and no content, so whatever reads content stops them: token ids,
grids and masks decide shapes and branches throughout a forward pass. These are small. So inside a
``Shadow`` they stay ordinary tensors, and all that floats is fake.
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
"""Elements up to which a tensor of whole numbers is computed; beyond, it is shaped too."""
_aten = torch.ops.aten
_METADATA = torch.ops.prim.device.default


class Shadow(TorchDispatchMode):
    """Lets what is known be computed, and everything else be fake; to be entered over a
    ``FakeTensorMode(allow_non_fake_inputs=True)``.

    Where a whole number comes of unknown real ones (the next token, of logits), it is 0; a yes or
    no is no; a real number that is read out is 1.
    """

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self._memo = fake.fake_tensor_converter.meta_converter.tensor_memo

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # it asks again with what is local
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
        return tree_map_only(FakeTensor, _decided, out)


@contextmanager
def shadow() -> Iterator[FakeTensorMode]:
    """A place in which models of any size are built and run."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, Shadow(fake):
        yield fake


def _stays_meta(tensors: list[Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether it is of the meta device alone, where models are before they have memory."""
    device = kwargs.get("device")
    if device is not None:
        return torch.device(device).type == "meta"
    meta = [t.device.type == "meta" and not isinstance(t, FakeTensor) for t in tensors]
    return bool(meta) and all(meta)


def _is_known(func: Any, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]) -> bool:
    if tensors:
        if any(isinstance(t, FakeTensor) or t.device.type == "meta" for t in tensors):
            return False
        return _broadcast(tensors) <= _LARGEST
    if (
        func is _aten.arange.default
        or func is _aten.arange.start
        or func is _aten.arange.start_step
    ):
        numbers = [value for value in args if isinstance(value, int | float)]
        return all(isinstance(value, int) for value in numbers) or _whole(kwargs.get("dtype"))
    sizes = [value for value in args[0] if isinstance(value, int)] if _has_size(args) else [0]
    filled = func is _aten.full.default and isinstance(args[1], int)
    whole = _whole(kwargs.get("dtype")) or (filled and kwargs.get("dtype") is None)
    return whole and math.prod(sizes) <= _LARGEST


def _has_size(args: Any) -> bool:
    return bool(args) and isinstance(args[0], list | tuple)


def _whole(dtype: torch.dtype | None) -> bool:
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def _broadcast(tensors: list[Tensor]) -> int:
    """Elements of what the tensors are broadcast to, or of the largest if they are not."""
    try:
        return math.prod(torch.broadcast_shapes(*(t.shape for t in tensors)))
    except RuntimeError:
        return max(t.numel() for t in tensors)


def _without_masks(indices: Any) -> list[Tensor | None]:
    """Index tensors, where a mask has become the places it is true at."""
    out: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                out += index.nonzero(as_tuple=True)
        else:
            out.append(index)
    return out


def _decided(out: FakeTensor) -> Tensor:
    if not _whole(out.dtype) or out.numel() > _LARGEST:
        return out
    with unset_fake_temporarily():
        return torch.zeros(out.shape, dtype=out.dtype)
