"""The vision tower's attention as one call a block, for plans, which look at shapes alone.

transformers calls attention once for each window of each image where there is no flash attention:
for 150 images that is 126,000 calls, of which a GPU makes light and a plan does not.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2_5_VLForConditionalGeneration

_NAME = "flash_attention_planned"  # "flash" asks transformers for all windows at once


def attend_at_once(
    hf: Qwen2_5_VLForConditionalGeneration, seen: Callable[[int, float], None]
) -> None:
    """Makes the vision tower attend over all patches in one call, as flash attention does.

    The numbers it gives would be wrong, their shapes and memory are right.

    Args:
        seen: told, at each call, the number of patches P and which share of the P x P pairs are
            within a window.
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

    AttentionInterface.register(_NAME, attend)
    hf.model.visual.config._attn_implementation = _NAME
