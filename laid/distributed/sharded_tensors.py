"""Tensors that may be shared out over ranks (DTensor): read whole, set whole, or row by row."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece; of a sharded one all ranks must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def set_whole(parameter: Tensor, value: Tensor) -> None:
    """Copies ``value`` into a parameter; into a sharded one as rank 0 has it."""
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        value = distribute_tensor(value.to(parameter.dtype), mesh, placements)
    parameter.copy_(value)


def own_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The part of a tensor that this rank holds, and its first row in the whole."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    # FSDP2 deals the first dimension out like torch.chunk: equal pieces, the last ones shorter.
    rows, ranks = tensor.shape[0], tensor.device_mesh.size()
    first = tensor.device_mesh.get_local_rank() * -(-rows // ranks)
    return tensor.to_local(), min(first, rows)


def shared_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor shared out as ``parameter`` of the same shape is; a rank copies its rows."""
    if not isinstance(parameter, DTensor):
        return value
    mine, first = own_rows(parameter)
    return DTensor.from_local(
        value[first : first + len(mine)].to(mine.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
