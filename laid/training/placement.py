"""Builds student, teacher and objective where they belong: on one device, or sharded."""

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, register_fsdp_forward_method

from laid.checkpoints.module_state import refuse_not_finite
from laid.common.errors import UserError
from laid.distributed.sharded_tensors import local_rows, set_full_tensor
from laid.distributed.sharding import (
    shard,
    shard_parameters,
    student_policy,
    teacher_policy,
)
from laid.training.objective import Objective
from laid.vlm.lora import LoraArgs, base_of, begin_adapters
from laid.vlm.model_loading import ModelArgs, empty_model, materialise
from laid.vlm.rope_gain import RopeGainArgs, begin_gains
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import Settings


@dataclass(frozen=True)
class Placement:
    """Where models are built.

    Attributes:
        mesh: ranks to shard them across; None: whole, in this process.
        compute: dtype that a sharded student computes in; None: as it is held.
        weights: whether weights are read or drawn; else memory is made for them and no more.
    """

    mesh: DeviceMesh | None = None
    compute: torch.dtype | None = None
    weights: bool = True

    def student(
        self,
        args: ModelArgs,
        lora: LoraArgs | None = None,
        extension: Settings | None = None,
        gain: RopeGainArgs | None = None,
    ) -> VLM:
        """The model that is trained or tested.

        Raises:
            UserError: as ``laid.vlm.model_loading.load_model``, or a weight is NaN or infinite.
        """
        policy = student_policy(self.compute)
        return self._checked(self._build(args, policy, False, lora, extension, gain), args)

    def teacher(self, args: ModelArgs) -> VLM:
        """The model that stays as it is."""
        return self._checked(self._build(args, teacher_policy(), frozen=True), args)

    def objective(self, objective: Objective) -> Objective:
        """What the loss terms learn, beside the student."""
        if self.mesh is not None:
            shard_parameters(objective, self.mesh)
        return objective

    def _checked(self, vlm: VLM, args: ModelArgs) -> VLM:
        if self.weights and not args.random_weights:
            refuse_not_finite(dict(vlm.hf.named_parameters()), f"the model {args.path!r}")
        return vlm

    def _build(
        self,
        args: ModelArgs,
        policy: MixedPrecisionPolicy,
        frozen: bool = False,
        lora: LoraArgs | None = None,
        extension: Settings | None = None,
        gain: RopeGainArgs | None = None,
    ) -> VLM:
        if self.mesh is None:
            return VLM.load(args, lora, extension, self.weights, gain)
        if gain is not None and lora is None and args.dtype != "float32":
            raise UserError(
                f"model.rope_gain is float32 and model.student.dtype {args.dtype}: laid_fsdp "
                "shards a layer's trained weights in one dtype. Set model.student.dtype float32, "
                "or train adapters (model.lora)"
            )
        if args.compile:
            raise UserError(
                "compile true: not with trainer.strategy laid_fsdp, whose layers are gathered and "
                "freed by hooks; expected false, or one device"
            )
        # Sharded before there is any memory: no process ever holds a whole model.
        vlm = VLM(empty_model(args, extension), lora, gain)
        if frozen:
            vlm.requires_grad_(False)
        shard(vlm.hf, vlm.blocks, self.mesh, policy)
        # The vision tower is also run by itself, to compute each distinct image once.
        register_fsdp_forward_method(vlm.hf, "get_image_features")
        vlm.in_step = self.mesh.size() > 1
        vlm.computes = policy.param_dtype
        materialise(vlm.hf, args, _device(self.mesh), local_rows if self.weights else None)
        if self.weights:
            begin_gains(vlm.hf)
        if lora is not None and self.weights:
            begin_adapters(vlm.hf, set_full_tensor)
            vlm.base = base_of(args)
        return vlm


def _device(mesh: DeviceMesh) -> torch.device:
    if mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(mesh.device_type)
