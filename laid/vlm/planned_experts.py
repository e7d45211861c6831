"""A mixture's experts in one product, for plans, which look at shapes alone.

transformers sorts the tokens by expert and calls PyTorch's grouped product, which fake tensors have
in bfloat16 alone and whose FLOPs no counter knows.

Shape suffixes: T tokens, N experts of a token, S pairs of these (T N), E hidden size, I an expert's
intermediate size.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.moe import ExpertsInterface

from laid.vlm.families.registry import family_of

_NAME = "laid_planned_experts"


def experts_at_once(hf: PreTrainedModel) -> None:
    """Makes a decoder's experts compute all tokens with the first one's matrices.

    Nothing changes for a decoder without experts. Its values would be wrong; shapes, memory and
    FLOPs are those of the experts that each token goes to.
    """
    ExpertsInterface.register(_NAME, _experts)
    family_of(hf.config).decoder(hf).config._experts_implementation = _NAME


def _experts(module: Any, x_TE: Tensor, ids_TN: Tensor, weights_TN: Tensor) -> Tensor:
    """``out_TE``, by a tensor for each that transformers' ``grouped_mm_experts_forward`` makes."""
    up_IE, down_EI = module.gate_up_proj[0], module.down_proj[0]
    tokens, count = ids_TN.shape
    rows_SE = x_TE.repeat_interleave(count, dim=0)  # where transformers sorts them
    out_SE = F.linear(module._apply_gate(F.linear(rows_SE.to(up_IE.dtype), up_IE)), down_EI)
    weighted_SE = out_SE * weights_TN.reshape(-1, 1)
    weighted_SE = weighted_SE.clone()  # where transformers sorts them back
    return weighted_SE.view(tokens, count, -1).sum(dim=1).to(x_TE.dtype)
