"""Tensors that may be sharded across ranks (DTensor): read in full, set in full, or row by row."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor; for a sharded one a collective, which all ranks call together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def set_full_tensor(parameter: Tensor, value: Tensor) -> None:
    """Copies ``value``, of the full shape, into a parameter; all ranks of a sharded one get the
    value of rank 0."""
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        value = distribute_tensor(value.to(parameter.dtype), mesh, placements)
    parameter.copy_(value)


def local_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """This rank's rows (first dimension) of a tensor, and the index of their first in the full
    tensor."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    # FSDP2 splits the first dimension like torch.chunk: equal pieces, the last ones shorter.
    rows, ranks = tensor.shape[0], tensor.device_mesh.size()
    first = tensor.device_mesh.get_local_rank() * -(-rows // ranks)
    return tensor.to_local(), min(first, rows)


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A full tensor sharded as ``parameter``, which has the same shape; without communication."""
    if not isinstance(parameter, DTensor):
        return value
    local, first = local_rows(parameter)
    return DTensor.from_local(
        value[first : first + len(local)].to(local.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
