"""The vision tower's attention as one call a block, for plans, which look at shapes alone.

transformers calls attention once for each window of each image where there is no flash attention
(``Family.loops_over_images``): for 150 images that is 126,000 calls, nothing to a GPU.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from laid.vlm.families.registry import family_of

_NAME = "flash_attention_planned"  # "flash" asks transformers for all windows at once


def attend_at_once(hf: PreTrainedModel, seen: Callable[[int, float], None]) -> None:
    """Makes the vision tower attend over all patches in one call, as flash attention does.

    Nothing changes for a family whose tower makes one call a block anyway.

    Its values would be wrong, shapes and memory are right.

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
        AttentionInterface.register(_NAME, attend)
        family.tower(hf).config._attn_implementation = _NAME
