"""Shards a model's parameters over the ranks of a mesh by PyTorch's FSDP2 (``fully_shard``).

Needs no Trainer, only a mesh; its process group may be of any backend, the fake one included.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def student_policy(compute: torch.dtype | None) -> MixedPrecisionPolicy:
    """For a model that is trained: parameters all-gathered in dtype ``compute`` (None: in their
    own), gradients reduced in float32.

    Inputs are not cast: the vision tower's cosines and sines must stay in float32.
    """
    return MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )


def teacher_policy() -> MixedPrecisionPolicy:
    """For a frozen model: computed in the dtype of its parameters."""
    return MixedPrecisionPolicy(cast_forward_inputs=False)


def shard(
    root: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, policy: MixedPrecisionPolicy
) -> None:
    """Shards every block over the ranks of a mesh, and then the rest of ``root``.

    A block's parameters are all-gathered before it runs and freed after it, so a rank holds its
    shard of the model and one or two full blocks. The model may be on the meta device;
    ``requires_grad`` must be set before.

    Args:
        blocks: parts of the model ``root``, in the order in which they run.
        mesh: one dimension, of data-parallel ranks.
    """
    assert mesh.ndim == 1
    for block in (*blocks, root):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def shard_parameters(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shards every submodule that has parameters of its own, in float32.

    For a loss term's parameters beside the student's: gradient clipping takes one norm over both,
    which PyTorch refuses for a mixture of sharded and plain parameters, and plain parameters would
    drift apart between ranks. Such a submodule must be used through its ``forward``, which gathers
    its parameters.
    """
    for part in module.modules():
        if any(True for _ in part.parameters(recurse=False)):
            fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy())
