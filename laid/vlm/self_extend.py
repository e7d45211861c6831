"""SelfExtend (Jin et al., "LLM Maybe LongLM", 2024) at prefill and with a cache.

A query sees the W tokens behind it at their own positions, and older ones at positions of which G
have become one. One softmax over both; no weight is changed.

Shape suffixes: B batch, L tokens of this call, S tokens so far (the cached ones and these), P rows
of positions (3 for M-RoPE: temporal, height, width; else 1), H query heads, K KV heads, G query
heads to a KV head, R rows (queries) of a block, C its columns (keys), D head_dim.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask

from laid.vlm.families.family import Family
from laid.vlm.families.registry import family_of
from laid.vlm.window_extension import SelfExtendArgs

NAME = "laid_self_extend"
"""Under which transformers knows the attention."""
ROWS = 128
"""Queries that are computed at a time: a head's scores are ROWS x S rather than S x S."""

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine, each [B, S, D]."""


def set_self_extend(hf: PreTrainedModel, args: SelfExtendArgs) -> None:
    """Makes a model's decoder attend as SelfExtend does; the vision tower stays as it is."""
    family = family_of(hf.config)
    decoder = family.decoder(hf)
    rotations = Rotations(args, family)
    decoder.rotary_emb = KeptRotary(decoder.rotary_emb, rotations)
    decoder.register_forward_pre_hook(rotations.begin, with_kwargs=True)
    for layer in decoder.layers:
        layer.self_attn.rotations = rotations
    hf.set_attn_implementation({"text_config": NAME})


def far_positions(positions_PBS: Tensor, args: SelfExtendArgs) -> tuple[Tensor, Tensor]:
    """Positions of queries and of keys for pairs that are W tokens or more apart.

    A key's is its own by groups of G. A query's is that and s - s // G more, where s is how many
    positions its window spans, so that what lies just outside the window continues where the window
    ends. In text, and wherever positions are one-dimensional, s = W, which is the formula of the
    paper; over images M-RoPE's W tokens span fewer positions (2,048 tokens some 130), and a shift
    by W - W // G would tear a gap.

    Args:
        positions_PBS: of all tokens so far. Row 0 of M-RoPE is where the image of a visual token
            begins, since a still image has one moment.

    Returns:
        ``query_PBS`` and ``key_PBS``.
    """
    assert args.group is not None
    assert args.window is not None
    base_BS = positions_PBS[0]
    if args.mapping == "axis":
        key_PBS = positions_PBS // args.group
    else:
        key_PBS = positions_PBS - base_BS + base_BS // args.group
    span_BS = torch.zeros_like(base_BS)  # within the first W tokens nothing is far
    span_BS[:, args.window :] = base_BS[:, args.window :] - base_BS[:, : -args.window]
    return key_PBS + span_BS - span_BS // args.group, key_PBS


@dataclass
class Rotations:
    """Both rotations of the tokens so far, made once a forward pass and used by all layers."""

    args: SelfExtendArgs
    family: Family
    near: Rotation = field(init=False)
    far_query: Rotation = field(init=False)
    far_key: Rotation = field(init=False)
    _positions_PBS: Tensor = field(init=False)
    _cached: int = 0

    def begin(self, _decoder: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each pass of the decoder: how many of the tokens so far are in the cache."""
        # transformers calls it cache from 5.24 on.
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        self._cached = cache.get_seq_length() if cache is not None else 0

    def update(self, rotary: nn.Module, x_BLD: Tensor, positions_PBL: Tensor) -> None:
        """Takes the positions of this pass to those that belong to the cache."""
        positions_PBS = positions_PBL
        if self._cached:
            assert self._positions_PBS.shape[-1] >= self._cached
            positions_PBS = torch.cat([self._positions_PBS[..., : self._cached], positions_PBL], -1)
        self._positions_PBS = positions_PBS
        query_PBS, key_PBS = far_positions(positions_PBS, self.args)
        self.near, self.far_query, self.far_key = (
            rotary(x_BLD, self.family.position_argument(one_PBS))
            for one_PBS in (positions_PBS, query_PBS, key_PBS)
        )

    def rotate(self, x_BHLD: Tensor, rotation: Rotation) -> Tensor:
        """``x_BHLD`` rotated by the last L of the rotations."""
        cos_BLD, sin_BLD = (one[:, -x_BHLD.shape[2] :] for one in rotation)
        return self.family.apply_rope(x_BHLD, cos_BLD, sin_BLD, 1)


class KeptRotary(nn.Module):
    """Stands for the decoder's rotary embedding and rotates by nothing.

    So queries and keys come to the attention as they were projected, and the cache keeps keys that
    can be rotated in either way.
    """

    def __init__(self, rotary: nn.Module, rotations: Rotations):
        super().__init__()
        self.rotary = rotary
        self.rotations = rotations

    def forward(self, x: Tensor, position_ids: Tensor) -> Rotation:
        """Cosine 1 and sine 0, [B, L, D]; the real rotations are kept for the attention."""
        rows = self.rotations.family.position_rows
        self.rotations.update(self.rotary, x, position_ids.expand(rows, -1, -1))
        length = position_ids.shape[-1]
        like_BLD = self.rotations.near[0][:, :length]
        return torch.ones_like(like_BLD), torch.zeros_like(like_BLD)


def attend(
    q_near_BHLD: Tensor,
    q_far_BHLD: Tensor,
    k_near_BKSD: Tensor,
    k_far_BKSD: Tensor,
    v_BKSD: Tensor,
    window: int,
    scaling: float,
    real_BS: Tensor | None = None,
) -> Tensor:
    """Causal attention with one rotation inside the window and another beyond, as ``o_BLHD``.

    The queries are the last L of the S tokens. Block by block, so that memory grows with S and not
    with its square; a block leaves out keys that none of its queries can see.

    Args:
        window: a key is near when it is fewer than this many tokens behind the query.
        scaling: of the scores, before the softmax.
        real_BS: false for padding; None: there is none.
    """
    heads, length = q_near_BHLD.shape[1:3]
    kv_heads, total = k_near_BKSD.shape[1:3]
    groups = heads // kv_heads
    q_near = q_near_BHLD.unflatten(1, (kv_heads, groups))
    q_far = q_far_BHLD.unflatten(1, (kv_heads, groups))
    columns_S = torch.arange(total, device=v_BKSD.device)
    blocks = []
    for start in range(0, length, ROWS):
        rows = slice(start, min(start + ROWS, length))
        begin, end = total - length + rows.start, total - length + rows.stop
        far, near = slice(0, max(0, end - window)), slice(max(0, begin - window + 1), end)
        behind_RC = columns_S[begin:end, None] - torch.cat([columns_S[far], columns_S[near]])
        seen_RC = behind_RC >= 0
        seen_RC[:, : far.stop] = behind_RC[:, : far.stop] >= window
        seen_RC[:, far.stop :] &= behind_RC[:, far.stop :] < window
        if real_BS is not None:
            real_BC = torch.cat([real_BS[:, far], real_BS[:, near]], dim=-1)
            seen_RC = (seen_RC & real_BC[:, None])[:, None, None]
        scores = torch.cat(
            [
                _scores(q_far[..., rows, :], k_far_BKSD[:, :, far]),
                _scores(q_near[..., rows, :], k_near_BKSD[:, :, near]),
            ],
            dim=-1,
        )
        scores = scores.float() * scaling
        # Not -inf: the rows of padding see nothing and would become NaN.
        scores = scores.masked_fill_(~seen_RC, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).to(v_BKSD.dtype).flatten(2, 3)
        out = weights[..., : far.stop] @ v_BKSD[:, :, far]
        out = out + weights[..., far.stop :] @ v_BKSD[:, :, near]
        blocks.append(out.unflatten(2, (groups, -1)).flatten(1, 2))
    return torch.cat(blocks, dim=2).transpose(1, 2)


def _scores(q_BKGRD: Tensor, k_BKCD: Tensor) -> Tensor:
    """Scores [B, K, G, R, C], a KV head's for all its query heads in one product."""
    groups = q_BKGRD.shape[2]
    return (q_BKGRD.flatten(2, 3) @ k_BKCD.mT).unflatten(2, (groups, -1))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: unrotated ``q_BHLD``, ``k_BKSD``, ``v_BKSD``, and ``real_BS``."""
    rotations = module.rotations
    assert isinstance(rotations, Rotations)
    assert rotations.args.window is not None
    assert rotations.near[0].shape[1] == key.shape[2]
    out_BLHD = attend(
        rotations.rotate(query, rotations.near),
        rotations.rotate(query, rotations.far_query),
        rotations.rotate(key, rotations.near),
        rotations.rotate(key, rotations.far_key),
        value,
        rotations.args.window,
        scaling,
        attention_mask,
    )
    return out_BLHD, None


AttentionInterface.register(NAME, _attention)
# The padding alone, [B, S]. With a name that it doesn't know, transformers would drop the padding
# silently; with sdpa's mask it would make one of S x S.
AttentionMaskInterface.register(NAME, flash_attention_mask)
