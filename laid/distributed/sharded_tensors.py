"""Tensors that may be sharded across ranks (DTensor): read in full, set in full, or row by row."""

from collections.abc import Iterable
from math import isfinite

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from laid.distributed.process_group import gather


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


@torch.no_grad()
def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity; all ranks ask together.

    Each rank looks at its own rows. One value crosses from the device for all tensors together.
    """
    names, largest = [], []
    for name, tensor in named:
        mine, _ = local_rows(tensor)
        if mine.is_floating_point() and mine.numel() and mine.device.type != "meta":
            names.append(name)
            # Without a copy of the tensor, and NaN if there is one in it.
            largest.append(torch.linalg.vector_norm(mine, torch.inf).float())
    bad = None
    if largest:
        on_one = torch.stack([value.to(largest[0].device) for value in largest])
        bad = next(
            (n for n, v in zip(names, on_one.tolist(), strict=True) if not isfinite(v)), None
        )
    return next((name for name in gather(bad) if name is not None), None)
