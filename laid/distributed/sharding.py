"""Shares a model's parameters out over the ranks of a mesh: PyTorch's FSDP2, ``fully_shard``.

Needs a mesh and nothing else: no Trainer, and a process group of any kind, also a fake one.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def student_policy(compute: torch.dtype | None) -> MixedPrecisionPolicy:
    """How a model that is trained computes: parameters as they are held, gathered as ``compute``
    (None: as they are held too), gradients reduced in float32.

    Inputs are not cast: the vision tower's cosines and sines must stay in float32.
    """
    return MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False
    )


def teacher_policy() -> MixedPrecisionPolicy:
    """How a frozen model computes: as it is held."""
    return MixedPrecisionPolicy(cast_forward_inputs=False)


def shard(
    root: nn.Module,
    blocks: Iterable[nn.Module],
    mesh: DeviceMesh,
    policy: MixedPrecisionPolicy,
) -> None:
    """Shards every block over the ranks of a mesh, and then the rest of ``root``.

    A block's parameters are gathered just before it runs and let go right after; so a rank holds
    its share of the model and one or two whole blocks. The model may be on the meta device, and
    whatever has ``requires_grad`` must have it before.

    Args:
        root: the model, whose own forward pass begins and ends with gathered parameters.
        blocks: its parts, in the order in which they run.
        mesh: one dimension, of data-parallel ranks.
    """
    assert mesh.ndim == 1
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(root, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def shard_parameters(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shards every submodule that has parameters of its own, in float32.

    For what a loss term learns beside the student: clipping takes one norm over both, which PyTorch
    refuses for sharded and plain parameters together; and ranks that each kept plain ones would
    drift apart. Parameters are gathered when such a submodule is called, so it must be used by its
    ``forward``.
    """
    for part in module.modules():
        if any(True for _ in part.parameters(recurse=False)):
            fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy())
