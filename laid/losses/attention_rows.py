"""Attention rows of the question: from captured queries and keys to where they attend.

The rows are those after the last image's tokens, where the needle is looked for: the mark that ends
the image, then the text.

Shape suffixes: B batch, L tokens, R rows of a haystack, S student heads, T teacher heads, H heads,
K KV heads, D head_dim, 3 the temporal, height and width rows of M-RoPE.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laid.losses.token_parts import part_length
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Rotate
from laid.signals.token_choice import QUESTION, at_columns

HIDDEN = -1e9
"""Logit of a key that a row does not see, or of an image that is no candidate; finite, so that
0 * log p stays 0."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch are and what they see; the same for both models, and for every
    layer that sees the whole haystack."""

    columns_BR: Tensor  # each row's token
    valid_BR: Tensor  # 1 for a row, 0 for padding
    positions_3BL: Tensor  # of every token
    visible_BRL: Tensor  # whether a row sees a key
    image_BRL: Tensor  # whether it does and the key is an image's: one of its tokens or marks

    @property
    def row_positions_3BR(self) -> Tensor:
        """Of every row."""
        index_3BR = self.columns_BR.expand(len(self.positions_3BL), -1, -1)
        return self.positions_3BL.gather(2, index_3BR)

    @property
    def text_BR(self) -> Tensor:
        """Which rows are text: not padding, nor the mark after the last image, which is a key of
        that image and sees itself."""
        of_image_BR1 = self.image_BRL.gather(2, self.columns_BR[..., None])
        return self.valid_BR & ~of_image_BR1.squeeze(-1)

    def at(self, place_BR: Tensor) -> "Rows":
        """Some of the rows."""
        of_B1 = torch.arange(len(place_BR), device=place_BR.device)[:, None]
        return replace(
            self,
            columns_BR=self.columns_BR[of_B1, place_BR],
            valid_BR=self.valid_BR[of_B1, place_BR],
            visible_BRL=self.visible_BRL[of_B1, place_BR],
            image_BRL=self.image_BRL[of_B1, place_BR],
        )

    def within(self, window: int) -> "Rows":
        """What they see in a layer of ``AttentionShape.window``. They are text, which is causal
        also where an image's tokens see each other."""
        if not window:
            return self
        column_L = torch.arange(self.visible_BRL.shape[-1], device=self.columns_BR.device)
        near_BRL = column_L > self.columns_BR[..., None] - window
        return replace(
            self, visible_BRL=self.visible_BRL & near_BRL, image_BRL=self.image_BRL & near_BRL
        )


def question_rows(inputs: ModelInputs) -> Rows:
    """The rows after the last image's tokens, its mark among them (``Rows.text_BR`` is without);
    ``inputs`` are padded on the right."""
    visual_BL, length = inputs.mm_token_type_ids_BL.bool(), inputs.mm_token_type_ids_BL.shape[1]
    column_L = torch.arange(length, device=visual_BL.device)
    first_B1 = torch.where(visual_BL, column_L, length).amin(1, keepdim=True)
    columns_BR, valid_BR = QUESTION.columns(inputs)
    visible_BRL = (column_L <= columns_BR[..., None]) & inputs.attention_mask_BL[:, None].bool()
    # Images with the marks before the first and after the last.
    block_BL = (column_L >= first_B1 - 1) & (column_L <= inputs.last_visual_B1 + 1)
    image_BRL = visible_BRL & block_BL[:, None]
    return Rows(columns_BR, valid_BR, inputs.position_ids_3BL, visible_BRL, image_BRL)


def rotated(qk: QK, rows: Rows, rotate: Rotate) -> tuple[Tensor, Tensor]:
    """Queries ``q_BRHD`` of the rows and keys ``k_BLKD`` of every token, after RoPE."""
    return _rotated_queries(qk, rows, rotate), rotate(qk.k, rows.positions_3BL)


def _rotated_queries(qk: QK, rows: Rows, rotate: Rotate) -> Tensor:
    return rotate(at_columns(qk.q, rows.columns_BR), rows.row_positions_3BR)


def row_logits(qk: QK, rows: Rows, rotate: Rotate) -> Tensor:
    """Attention logits ``[B, H, R, L]`` of the rows, from queries and keys before RoPE; of keys
    that a row does not see, ``HIDDEN``."""
    q_BRHD = _rotated_queries(qk, rows, rotate)
    length = part_length(len(qk.k) * qk.q.shape[2:].numel())
    of_keys = qk.k.split(length, 1), rows.positions_3BL.split(length, 2)
    parts = zip(*of_keys, rows.visible_BRL.split(length, 2), strict=True)
    return torch.cat(
        [
            logits_of(q_BRHD, rotate(k_BLKD, positions_3BL), replace(rows, visible_BRL=visible_BRL))
            for k_BLKD, positions_3BL, visible_BRL in parts
        ],
        dim=-1,
    )


def logits_of(q_BRHD: Tensor, k_BLKD: Tensor, rows: Rows) -> Tensor:
    """``row_logits`` of queries and keys that are ``rotated``."""
    heads, head_dim = q_BRHD.shape[2:]
    k_BLHD = k_BLKD.repeat_interleave(heads // k_BLKD.shape[2], dim=2)
    logits_BHRL = torch.einsum("brhd,blhd->bhrl", q_BRHD, k_BLHD) / head_dim**0.5
    return logits_BHRL.masked_fill(~rows.visible_BRL[:, None], HIDDEN)


def likeness(student_BSRL: Tensor, teacher_BTRL: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Sums over a batch that give how similarly student and teacher heads attend: their
    correlation is ``product_ST / sqrt(energy_S energy_T)``.

    Returns:
        ``product_ST`` and ``energy_H`` of the S + T heads, of each row's attention among the
        images less its mean: a row that attends to all images equally counts for nothing.
    """
    image_BRL = (rows.image_BRL & rows.valid_BR[..., None])[:, None]
    apart = []
    for logits_BHRL in (student_BSRL, teacher_BTRL):
        p_BHRL = logits_BHRL.softmax(-1) * image_BRL
        mean_BHR1 = p_BHRL.sum(-1, keepdim=True) / image_BRL.sum(-1, keepdim=True).clamp(min=1)
        apart.append((p_BHRL - mean_BHR1) * image_BRL)
    product_ST = torch.einsum("bsrl,btrl->st", apart[0], apart[1])
    energy_H = torch.cat([one.square().sum((0, 2, 3)) for one in apart])
    return product_ST, energy_H
