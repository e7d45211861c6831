"""Operations that a GPU's host waits for."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense, _aten.nonzero, _aten._unique2, _aten.unique_dim, _aten.masked_select,
    _aten.equal, _aten.is_nonzero, _aten.unique_consecutive, _aten.bincount, _aten.isin,
    _aten._linalg_check_errors,
}  # fmt: skip
INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
COPIES = {_aten.copy_, _aten._to_copy}
_LAID = str(Path(__file__).parents[2] / "laid")


def waits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the host waits for an operation: for its result, for the result's size, or for a copy
    between devices."""
    packet = func._overloadpacket
    if packet in INDEXED:
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
        return any(x.dtype == torch.bool or x.device != args[0].device for x in indices)
    if packet in COPIES:
        source, target = args[1 if packet is _aten.copy_ else 0].device, kwargs.get("device")
        target = args[0].device if target is None else torch.device(target)
        non_blocking = kwargs.get("non_blocking", False) or args[2:] == (True,)
        return source.type != target.type and (target.type == "cpu" or not non_blocking)
    if packet is _aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return packet in _READS


def asked_by() -> str:
    """The function of laid that is running now."""
    frame = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(_LAID):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}" if frame else "-"


class HostReads(TorchDispatchMode):
    """Names of the operations that ``waits`` says of, on the CPU."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if waits(func, args, kwargs or {}):
            self.found.append(str(func._overloadpacket))
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads():
    """Gives the list that is filled within."""
    with HostReads() as mode:
        yield mode.found
