"""A vision tower's attention, and a mixture's experts, in one call each: for plans, which look at
shapes alone. Values would be wrong; shapes, memory and FLOPs are right.

Shape suffixes: B batch, H heads, P patches, D head_dim; T tokens, N experts of a token, S pairs of
these (T N), E hidden size, I an expert's intermediate size.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface

from laid.vlm.families.registry import family_of

_ATTENTION = "flash_attention_planned"  # "flash" asks transformers for all windows at once
_EXPERTS = "laid_planned_experts"


def attend_at_once(hf: PreTrainedModel, seen: Callable[[int, float], None]) -> None:
    """Makes the vision tower attend over all patches in one call, as flash attention does.

    transformers calls attention once for each window of each image where there is no flash
    attention (``Family.loops_over_images``): for 150 images that is 126,000 calls, nothing to a
    GPU. Nothing changes for a family whose tower makes one call a block anyway.

    Args:
        seen: called each time with the number of patches P and the share of the P x P pairs that
            are within a window.
    """

    def attend(
        module: nn.Module, q_BHPD: Tensor, k_BHPD: Tensor, v_BHPD: Tensor, *_: Any, **how: Any
    ) -> tuple[Tensor, None]:
        ends = how["cu_seq_lens_q"]
        within = int((ends[1:] - ends[:-1]).long().square().sum())
        patches = q_BHPD.shape[2]
        seen(patches, within / patches**2)
        out_BHPD = F.scaled_dot_product_attention(q_BHPD, k_BHPD, v_BHPD, scale=how["scaling"])
        return out_BHPD.transpose(1, 2), None

    family = family_of(hf.config)
    if family.loops_over_images:
        AttentionInterface.register(_ATTENTION, attend)
        family.tower(hf).config._attn_implementation = _ATTENTION


def experts_at_once(hf: PreTrainedModel) -> None:
    """Makes a decoder's experts compute all tokens with the first one's matrices.

    transformers sorts the tokens by expert and calls PyTorch's grouped product, which fake tensors
    have in bfloat16 alone and whose FLOPs no counter knows. Nothing changes for a decoder without
    experts.
    """
    ExpertsInterface.register(_EXPERTS, _experts)
    family_of(hf.config).decoder(hf).config._experts_implementation = _EXPERTS


def _experts(module: Any, x_TE: Tensor, ids_TN: Tensor, weights_TN: Tensor) -> Tensor:
    """``out_TE``, by a tensor for each that transformers' ``grouped_mm_experts_forward`` makes."""
    up_IE, down_EI = module.gate_up_proj[0], module.down_proj[0]
    tokens, count = ids_TN.shape
    rows_SE = x_TE.repeat_interleave(count, dim=0)  # where transformers sorts them
    out_SE = F.linear(module._apply_gate(F.linear(rows_SE.to(up_IE.dtype), up_IE)), down_EI)
    weighted_SE = out_SE * weights_TN.reshape(-1, 1)
    weighted_SE = weighted_SE.clone()  # where transformers sorts them back
    return weighted_SE.view(tokens, count, -1).sum(dim=1).to(x_TE.dtype)
