"""Operations that wait for the device, counted on the CPU."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_READS = {
    _aten._local_scalar_dense, _aten.nonzero, _aten._unique2, _aten.unique_dim, _aten.masked_select,
    _aten.equal, _aten.is_nonzero, _aten.unique_consecutive,
}  # fmt: skip


class HostReads(TorchDispatchMode):
    """Names of the operations within whose result, or its size, a GPU's host would wait for."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func._overloadpacket
        masks = packet is _aten.index and any(
            x is not None and x.dtype == torch.bool for x in tree_leaves(args[1])
        )
        counted = packet is _aten.repeat_interleave and (kwargs or {}).get("output_size") is None
        if packet in _READS or masks or counted:
            self.found.append(str(packet))
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads():
    """Gives the list that is filled within."""
    with HostReads() as mode:
        yield mode.found
