"""Attention matching: the student's attention rows against a mixture of the teacher's heads' rows.

Queries and keys are compared by what they do together, so teacher and student need not share a
basis inside a head, as Eq. 3 has them. The rows are those of the text after the last image, where
the needle is looked for; what is compared is where they look among the images. The paper names
attention matching in its abstract and does not define it: this is ours.

Shape suffixes: B batch, L tokens, R rows of a haystack, S student heads, T teacher heads, H heads,
K key heads, D numbers in a head, 3 the temporal, height and width rows of M-RoPE.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from laid.losses.reduction import mean_by_entry

Turn = Callable[[Tensor, Tensor], Tensor]
"""RoPE: turns x_BLHD by positions_3BL."""
HIDDEN = -1e9
"""Logit of a key that a row does not see; finite, so that 0 * log p stays 0."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch are and what they see; the same for every layer and both models.

    Attributes:
        columns_BR: each row's token.
        valid_BR: 1 for a row, 0 for padding.
        positions_3BL: of every token.
        visible_BRL: whether a row sees a key.
        image_BRL: whether it sees it and the key is an image's: one of its tokens or marks.
    """

    columns_BR: Tensor
    valid_BR: Tensor
    positions_3BL: Tensor
    visible_BRL: Tensor
    image_BRL: Tensor


def question_rows(attention_mask_BL: Tensor, visual_BL: Tensor, positions_3BL: Tensor) -> Rows:
    """The rows of the text after the last image.

    Args:
        attention_mask_BL: 1 for a token, 0 for padding (on the right).
        visual_BL: 1 for a visual token.
        positions_3BL: of every token.
    """
    length = visual_BL.shape[1]
    column_L = torch.arange(length, device=visual_BL.device)
    visual_BL = visual_BL.bool()
    last_B1 = torch.where(visual_BL, column_L, -1).amax(1, keepdim=True)
    first_B1 = torch.where(visual_BL, column_L, length).amin(1, keepdim=True)
    after_BL = attention_mask_BL.bool() & (column_L > last_B1)
    count_B = after_BL.sum(1)
    # Stable, so the rows come in the order of the text.
    columns_BR = (~after_BL).int().argsort(dim=1, stable=True)[:, : int(count_B.max())]
    row_R = torch.arange(columns_BR.shape[1], device=visual_BL.device)
    visible_BRL = (column_L <= columns_BR[..., None]) & attention_mask_BL[:, None].bool()
    # Images with the marks before the first and after the last.
    block_BL = (column_L >= first_B1 - 1) & (column_L <= last_B1 + 1)
    return Rows(
        columns_BR=columns_BR,
        valid_BR=row_R < count_B[:, None],
        positions_3BL=positions_3BL,
        visible_BRL=visible_BRL,
        image_BRL=visible_BRL & block_BL[:, None],
    )


def row_logits(q_BLHD: Tensor, k_BLKD: Tensor, rows: Rows, turn: Turn) -> Tensor:
    """Attention logits ``[B, H, R, L]`` of the rows, from queries and keys before RoPE; of keys
    that a row does not see, ``HIDDEN``."""
    heads, head_dim = q_BLHD.shape[2:]
    index_BRHD = rows.columns_BR[..., None, None].expand(-1, -1, heads, head_dim)
    row_positions_3BR = rows.positions_3BL.gather(
        2, rows.columns_BR.expand(len(rows.positions_3BL), -1, -1)
    )
    q_BRHD = turn(q_BLHD.gather(1, index_BRHD), row_positions_3BR)
    k_BLKD = turn(k_BLKD, rows.positions_3BL)
    k_BLHD = k_BLKD.repeat_interleave(heads // k_BLKD.shape[2], dim=2)
    logits_BHRL = torch.einsum("brhd,blhd->bhrl", q_BRHD, k_BLHD) / head_dim**0.5
    return logits_BHRL.masked_fill(~rows.visible_BRL[:, None], HIDDEN)


def attention_loss(student_BSRL: Tensor, teacher_BTRL: Tensor, w_ST: Tensor, rows: Rows) -> Tensor:
    """Divergence of the student's rows from the mixture ``sum_j w_ij p_j`` of the teacher's.

    Of each row only the part on the images, ``sum_n p log(p / q) - p + q``: the KL divergence of
    measures whose sums may differ. So a row counts as far as it looks at images.

    Args:
        student_BSRL: its logits.
        teacher_BTRL: likewise.
        w_ST: mixing weights whose rows sum to 1.
    """
    image_B1RL = rows.image_BRL[:, None]
    p_BSRL = torch.einsum("st,btrl->bsrl", w_ST, teacher_BTRL.softmax(-1))
    log_q_BSRL = student_BSRL.log_softmax(-1)
    log_p_BSRL = p_BSRL.clamp(min=1e-12).log()
    each_BSRL = p_BSRL * (log_p_BSRL - log_q_BSRL) - p_BSRL + log_q_BSRL.exp()
    of_row_BSR = (each_BSRL * image_B1RL).sum(-1)
    return mean_by_entry(of_row_BSR.mean(1), rows.valid_BR)


def likeness(student_BSRL: Tensor, teacher_BTRL: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Sums over a batch from which follows how much alike student and teacher heads look: their
    correlation is ``product_ST / sqrt(energy_S energy_T)``.

    Returns:
        ``product_ST`` and ``energy_H`` of the S + T heads, of each row's attention among the
        images less its mean: a row that looks at all images alike counts for nothing.
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
