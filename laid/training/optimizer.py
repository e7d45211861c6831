"""AdamW's parameter groups and the learning-rate schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from laid.common.errors import UserError
from laid.vlm.vision_language_model import VLM


@dataclass
class OptimizerArgs:
    """AdamW and its schedule."""

    student_lr: float = 1e-5
    """Learning rate of the student."""
    lora_lr: float = 1e-4
    """Learning rate of LoRA's adapters, with model.lora: then `student_lr` is that of the vision
    tower alone, if it is trained. The paper gives none; ten times `student_lr` is usual."""
    gain_lr: float = 1e-3
    """Learning rate of the logarithms of RoPE response gains, with model.rope_gain. Adam moves them
    by up to this a step, so a gain can double in 700 steps; at `student_lr` it would stay 1."""
    mixing_lr: float = 1e-4
    """Learning rate of what the loss terms learn: the mixing weights."""
    weight_decay: float = 0.01
    """Weight decay of the student's matrices; biases, norms, gains and mixing weights have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moments."""
    warmup_ratio: float = 0.05
    """Share of all steps in which the learning rates rise linearly from 0."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """What follows the warm-up, as in transformers: linear or cosine decay to 0, or constant. The
    paper names the warm-up only; linear is the usual default."""

    def __post_init__(self) -> None:
        if min(self.student_lr, self.lora_lr, self.gain_lr, self.mixing_lr) < 0:
            raise UserError(
                f"optimizer: student_lr {self.student_lr}, lora_lr {self.lora_lr}, gain_lr "
                f"{self.gain_lr}, mixing_lr {self.mixing_lr}: expected 0 or more"
            )
        if self.weight_decay < 0:
            raise UserError(f"optimizer.weight_decay {self.weight_decay}: expected 0 or more")
        if not 0 <= self.warmup_ratio < 1:
            raise UserError(
                f"optimizer.warmup_ratio {self.warmup_ratio}: expected a share from 0 to below 1"
            )


def build_optimizer(
    student: VLM, objective: nn.Module, args: OptimizerArgs, fused: bool
) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients.

    The paper's two groups, student and mixing weights (all that the loss terms learn); the
    student's is split into one with weight decay (matrices) and one without, and LoRA's adapters
    and its RoPE response gains are two more. Groups have a ``name``, and empty ones are left out.

    Args:
        fused: use PyTorch's fused kernel, three times as fast on a CPU. Lightning refuses to clip
            gradients with it under mixed precision.
    """
    adapters, gains = student.adapters(), student.gain_parameters()
    others = {id(p) for p in (*adapters, *gains)}
    trained = [p for p in student.parameters() if p.requires_grad and id(p) not in others]
    groups: list[dict[str, Any]] = [
        _group("student", (p for p in trained if p.ndim > 1), args.student_lr, args.weight_decay),
        _group("student_no_decay", (p for p in trained if p.ndim <= 1), args.student_lr, 0.0),
        _group("lora", adapters, args.lora_lr, args.weight_decay),
        _group("rope_gain", gains, args.gain_lr, 0.0),
        _group("mixing", objective.parameters(), args.mixing_lr, 0.0),
    ]
    groups = [g for g in groups if g["params"]]
    try:
        return torch.optim.AdamW(groups, betas=args.betas, fused=fused)
    except ValueError as reason:
        raise UserError(f"model.optimizer: {reason}") from reason


def _group(name: str, params: Iterable[nn.Parameter], lr: float, decay: float) -> dict[str, Any]:
    return {"name": name, "params": list(params), "lr": lr, "weight_decay": decay}


def build_schedule(optimizer: torch.optim.Optimizer, args: OptimizerArgs, steps: int) -> LambdaLR:
    """The schedule over ``steps`` optimizer steps; the rates are those of transformers'
    ``get_scheduler``, to the bit."""
    warmup = round(args.warmup_ratio * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if args.schedule == "constant_with_warmup":
            return 1.0
        if args.schedule == "linear":
            return max(0.0, (steps - step) / max(1, steps - warmup))
        progress = (step - warmup) / max(1, steps - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)


def set_rates(optimizer: torch.optim.Optimizer, schedule: LambdaLR, args: OptimizerArgs) -> None:
    """Sets learning rates, weight decay and betas of a restored optimizer to those of ``args``.

    A checkpoint restores those it was saved with; without this, overrides of a resumed run would
    have no effect.
    """
    rates = {"mixing": args.mixing_lr, "lora": args.lora_lr, "rope_gain": args.gain_lr}
    for at, group in enumerate(optimizer.param_groups):
        base = rates.get(group["name"], args.student_lr)
        schedule.base_lrs[at] = group["initial_lr"] = base
        group["lr"] = base * schedule.lr_lambdas[at](schedule.last_epoch)
        group["weight_decay"] = args.weight_decay if group["name"] in ("student", "lora") else 0.0
        group["betas"] = args.betas
