"""Several haystacks in one row: no padding, and each attends to itself alone.

A batch is padded on its way to a model and in the losses. Right before the forward pass its
haystacks are put one after the other, and right after it what was captured is taken apart again.

Shape suffixes: B haystacks, L tokens of the longest, S tokens of all, R rows of positions, H heads,
D head_dim.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from laid.signals.model_inputs import Answers, ModelInputs
from laid.vlm.families.family import Family
from laid.vlm.families.registry import family_of

NAME = "laid_by_haystack"
"""Under which transformers knows sdpa that takes one haystack of a row after the other."""


def one_row(inputs: ModelInputs) -> ModelInputs:
    """Haystacks that are padded on the right, as one row of S tokens."""

    def joined(x_BL: Tensor) -> Tensor:
        rows = zip(x_BL, inputs.lengths, strict=True)
        return torch.cat([x_L[:length] for x_L, length in rows])[None]

    positions_R1S = torch.stack([joined(x_BL) for x_BL in inputs.position_ids_3BL])
    row = replace(
        inputs,
        input_ids_BL=joined(inputs.input_ids_BL),
        attention_mask_BL=joined(inputs.attention_mask_BL),
        mm_token_type_ids_BL=joined(inputs.mm_token_type_ids_BL),
        position_ids_3BL=positions_R1S,
        labels_BL=joined(inputs.labels_BL),
    )
    # Not found again in the row: the host would wait for the device.
    answers, device = inputs.answers, inputs.labels_BL.device
    start_B = torch.tensor([0, *accumulate(inputs.lengths[:-1])]).to(device, non_blocking=True)
    columns_N = answers.columns_N + start_B[answers.rows_N]
    slots_N = torch.arange(len(columns_N), device=device)
    row.answers = Answers(
        torch.zeros_like(columns_N), columns_N, answers.labels_N, columns_N, slots_N
    )
    return row


def row_arguments(family: Family, row: ModelInputs) -> dict[str, Any]:
    """``Family.arguments`` of haystacks in one row.

    transformers finds where a haystack begins by positions that start again at 0, and only where
    neither a mask nor a cache is given. M-RoPE's are no such positions: a row of text positions
    comes before its three. Without it haystacks would see each other, and nothing would say so.
    """
    positions_R1S = row.position_ids_3BL
    if len(positions_R1S) > 1:
        text_S = torch.cat([torch.arange(length) for length in row.lengths])
        text_11S = text_S.to(positions_R1S.device, non_blocking=True)[None, None]
        positions_R1S = torch.cat([text_11S, positions_R1S])
    return {
        **family.arguments(row),
        "attention_mask": None,
        "position_ids": family.position_argument(positions_R1S),
        "haystack_tokens": row.lengths,
    }


def split_haystacks(x_1SHD: Tensor, lengths: Sequence[int]) -> Tensor:
    """``x_BLHD``, each haystack of a row in a row of its own, with zeros after it."""
    return pad_sequence(x_1SHD[0].split(list(lengths)), batch_first=True)


def flops_of(family: Family, tokens: int) -> float:
    """Multiply-adds of a decoder layer's forward pass over one haystack: products with weights, and
    causal attention. Of a layer with a gated MLP, and no mixture of experts."""
    text, shape = family.config.text_config, family.shape
    width, kv_width = (heads * shape.head_dim for heads in (shape.heads, shape.kv_heads))
    weights = text.hidden_size * (2 * width + 2 * kv_width + 3 * text.intermediate_size)
    return tokens * (weights + width * tokens)


def attend_by_haystack(hf: PreTrainedModel) -> None:
    """Makes a decoder that attends by sdpa take the haystacks of a row one by one.

    Each is then plainly causal, so that PyTorch takes its flash kernel, and no two haystacks are
    multiplied. Under one mask of S x S, sdpa would multiply all of them, by a slower kernel. It
    stays so, since activation checkpointing runs the layers again after the forward pass; a call
    without ``haystack_tokens`` is sdpa's own.
    """
    config = family_of(hf.config).decoder(hf).config
    if config._attn_implementation == "sdpa":
        config._attn_implementation = NAME


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    haystack_tokens: list[int] | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """What transformers calls, with ``q_BHLD`` and ``k_BKLD``."""
    if haystack_tokens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    each = zip(*(x.split(haystack_tokens, dim=2) for x in (query, key, value)), strict=True)
    out = [sdpa_attention_forward(module, *qkv, None, **how)[0] for qkv in each]
    return torch.cat(out, dim=1), None


def _mask(*args: Any, allow_is_causal_skip: bool = True, **how: Any) -> Tensor | None:
    """sdpa's, but none where haystacks share a row: of laid's calls, that alone is one without
    padding in which transformers may not leave the mask out."""
    if how.get("attention_mask") is None and not allow_is_causal_skip:
        return None
    return sdpa_mask(*args, allow_is_causal_skip=allow_is_causal_skip, **how)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
