"""Liger's kernels in place of the norms and MLPs of decoder layers.

Its RoPE and its losses are not used: rotations are the model's own, and a loss needs logits at the
answer alone.

Shape suffixes: E features, I of the MLP; any dimensions before them.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from laid.common.errors import UserError
from laid.vlm.families.family import Family

SILU = (nn.SiLU, SiLUActivation)
Norm = Callable[[Tensor, Tensor, float], Tensor]
"""``norm(x_E, weight_E, epsilon)``."""
Gate = Callable[[Tensor, Tensor], Tensor]
"""``silu(gate_I) * up_I``."""


def liger_kernels() -> tuple[Norm, Gate]:
    """Those of the liger-kernel package.

    Raises:
        UserError: it is not installed, or there is no GPU, which they need.
    """
    if not torch.cuda.is_available() or find_spec("liger_kernel") is None:
        raise UserError(
            "liger true: there is no GPU, or the liger-kernel package is not installed. Install it "
            "(`pip install liger-kernel`) or leave liger out."
        )
    from liger_kernel.transformers import functional

    # Its backward pass would else write into a gradient that the residual stream has, too.
    return partial(functional.liger_rms_norm, in_place=False), functional.liger_swiglu


def fuse_layers(hf: PreTrainedModel, family: Family, norm: Norm, gate: Gate) -> None:
    """Computes each RMSNorm and SwiGLU of the decoder's layers by the functions given.

    Raises:
        UserError: a layer has others, such as Gemma 3's.
    """
    for layer in family.layers(hf):
        parts: list[tuple[nn.Module, Callable[..., Tensor]]] = []
        for module in layer.modules():
            if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
                parts.append((module, partial(_norm, module, norm)))
            elif hasattr(module, "gate_proj") and isinstance(module.act_fn, SILU):
                parts.append((module, partial(_mlp, module, gate)))
        if len(parts) < 3:
            raise UserError(
                f"liger true: layers of {family.model_type} have other norms or another activation "
                "than Liger's RMSNorm and SwiGLU; leave liger out"
            )
        for module, forward in parts:
            module.forward = forward


def _norm(module: Any, norm: Norm, x_E: Tensor) -> Tensor:
    return norm(x_E, module.weight, module.variance_epsilon)


def _mlp(module: Any, gate: Gate, x_E: Tensor) -> Tensor:
    down: Tensor = module.down_proj(gate(module.gate_proj(x_E), module.up_proj(x_E)))
    return down
