"""Shares a model's parameters out over the ranks of a mesh: PyTorch's FSDP2, ``fully_shard``.

Needs a mesh and nothing else: no Trainer, and a process group of any kind, also a fake one.
"""

from typing import TYPE_CHECKING

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from laid.losses.mixing import HeadMixing, MixingWeights

if TYPE_CHECKING:
    from laid.vlm.model import VLM


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


def shard(vlm: "VLM", mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> "VLM":
    """Shares out every block of the vision tower, every decoder layer, and then the rest.

    A block's parameters are gathered just before it runs and let go right after; so a rank holds
    its share of the model and one or two whole blocks. The model may be on the meta device, and
    whatever has ``requires_grad`` must have it before.

    Args:
        mesh: one dimension, of data-parallel ranks.
    """
    assert mesh.ndim == 1
    for block in vlm.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(vlm.hf, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # The vision tower is also run by itself, to compute each distinct image once.
    register_fsdp_forward_method(vlm.hf, "get_image_features")
    vlm.in_step = mesh.size() > 1
    return vlm


def shard_mixing(mixing: MixingWeights, mesh: DeviceMesh) -> MixingWeights:
    """Shares mixing weights out too, in float32.

    Clipping takes one norm over student and mixing weights, which PyTorch refuses for sharded and
    plain parameters together; and ranks that each kept plain ones would drift apart.
    """
    for module in mixing.modules():
        if isinstance(module, HeadMixing):
            fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy())
            register_fsdp_forward_method(module, "applied")
    return mixing
