"""Attention matching: the student's attention rows against a mixture of the teacher's heads' rows.

Queries and keys are compared by what they do together, so teacher and student need not share a
basis inside a head, as Eq. 3 has them. The rows are those of the text after the last image, where
the needle is looked for; what is compared is where they look among the images.

Shape suffixes: B batch, C haystacks whose keys are looked at, L tokens, R rows of a haystack, N
keys that a row looks at, S student heads, T teacher heads, H heads, K key heads, D numbers in a
head, 3 the temporal, height and width rows of M-RoPE.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from laid.losses.reduce import mean_by_entry

Turn = Callable[[Tensor, Tensor], Tensor]
"""RoPE: turns x_BLHD by positions_3BL."""
HIDDEN = -1e9
"""Logit of a key that a row does not see; finite, so that 0 * log p stays 0."""


@dataclass
class AttentionArgs:
    """Attention matching (ours; the paper names it in its abstract and does not define it)."""

    keys: Literal["own", "batch"] = "batch"
    """own: a row looks at its own haystack. batch: also at the images of every other haystack of
    the batch, as if they stood before its own, which makes one long haystack of several short
    ones; at batch_size 1 it is the same as own."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch are and what they see; the same for every layer and both models.

    Attributes:
        columns_BR: each row's token.
        valid_BR: 1 for a row, 0 for padding.
        query_positions_3BCR: where a row stands, as seen from the keys of haystack C.
        key_positions_3BL: where a key stands, in its own haystack.
        visible_BRCL: whether a row sees a key.
        image_BRCL: whether it sees it and the key is an image's: one of its tokens or marks.
        others_BC: which haystack is the c-th that haystack b looks at; the first is itself.
    """

    columns_BR: Tensor
    valid_BR: Tensor
    query_positions_3BCR: Tensor
    key_positions_3BL: Tensor
    visible_BRCL: Tensor
    image_BRCL: Tensor
    others_BC: Tensor


def question_rows(
    attention_mask_BL: Tensor,
    visual_BL: Tensor,
    positions_3BL: Tensor,
    keys: Literal["own", "batch"],
) -> Rows:
    """The rows of the text after the last image.

    Args:
        attention_mask_BL: 1 for a token, 0 for padding (on the right).
        visual_BL: 1 for a visual token.
        positions_3BL: of every token.
        keys: as in ``AttentionArgs``.
    """
    batch, length = visual_BL.shape
    device = visual_BL.device
    column_L = torch.arange(length, device=device)
    visual_BL = visual_BL.bool()
    last_B1 = torch.where(visual_BL, column_L, -1).amax(1, keepdim=True)
    first_B1 = torch.where(visual_BL, column_L, length).amin(1, keepdim=True)
    after_BL = attention_mask_BL.bool() & (column_L > last_B1)
    count_B = after_BL.sum(1)
    # Stable, so the rows come in the order of the text.
    columns_BR = (~after_BL).int().argsort(dim=1, stable=True)[:, : int(count_B.max())]
    valid_BR = torch.arange(columns_BR.shape[1], device=device) < count_B[:, None]

    others = 1 if keys == "own" else batch
    others_BC = (column_of(batch, device)[:, None] + column_of(others, device)) % batch
    # Images with the marks before the first and after the last.
    block_BL = (column_L >= first_B1 - 1) & (column_L <= last_B1 + 1)
    image_BRCL = block_BL[others_BC][:, None].repeat(1, columns_BR.shape[1], 1, 1)
    visible_BRCL = image_BRCL.clone()
    own_BRL = (column_L <= columns_BR[..., None]) & attention_mask_BL[:, None].bool()
    visible_BRCL[:, :, 0] = own_BRL
    image_BRCL[:, :, 0] &= own_BRL

    time_BL = positions_3BL[0]
    start_B = torch.where(block_BL, time_BL, time_BL.max()).amin(1)
    end_B = torch.where(block_BL, time_BL, time_BL.min()).amax(1) + 1
    # The c-th haystack ends where the one after it starts; rows stand that much further off.
    gone_BC = (end_B - start_B)[others_BC].cumsum(1) - (end_B - start_B)[others_BC]
    gone_BC = gone_BC - (end_B - start_B)[:, None]  # less its own, which is in its place
    shift_BC = start_B[:, None] - gone_BC - end_B[others_BC]
    shift_BC[:, 0] = 0
    rows_3BR = positions_3BL.gather(2, columns_BR.expand(3, -1, -1))
    return Rows(
        columns_BR=columns_BR,
        valid_BR=valid_BR,
        query_positions_3BCR=rows_3BR[:, :, None] - shift_BC[..., None],
        key_positions_3BL=positions_3BL,
        visible_BRCL=visible_BRCL,
        image_BRCL=image_BRCL,
        others_BC=others_BC,
    )


def row_logits(q_BLHD: Tensor, k_BLKD: Tensor, rows: Rows, turn: Turn) -> Tensor:
    """Attention logits ``[B, H, R, N]`` of the rows, from queries and keys before RoPE.

    N is C x L: the keys of each haystack that is looked at; those unseen have ``HIDDEN``.
    """
    heads, head_dim = q_BLHD.shape[2:]
    others = rows.others_BC.shape[1]
    index_BRHD = rows.columns_BR[..., None, None].expand(-1, -1, heads, head_dim)
    q_BRHD = q_BLHD.gather(1, index_BRHD)
    k_BLKD = turn(k_BLKD, rows.key_positions_3BL)
    k_BLHD = k_BLKD.repeat_interleave(heads // k_BLKD.shape[2], dim=2)
    logits = []
    for c in range(others):
        turned_BRHD = turn(q_BRHD, rows.query_positions_3BCR[:, :, c])
        seen_BLHD = k_BLHD[rows.others_BC[:, c]]
        logits.append(torch.einsum("brhd,blhd->bhrl", turned_BRHD, seen_BLHD))
    logits_BHRN = torch.cat(logits, dim=-1) / head_dim**0.5
    visible_BRN = rows.visible_BRCL.flatten(2)
    return logits_BHRN.masked_fill(~visible_BRN[:, None], HIDDEN)


def attention_loss(student_BSRN: Tensor, teacher_BTRN: Tensor, w_ST: Tensor, rows: Rows) -> Tensor:
    """Divergence of the student's rows from the mixture ``sum_j w_ij p_j`` of the teacher's.

    Of each row only the part on the images, ``sum_n p log(p / q) - p + q``: the KL divergence of
    measures whose sums may differ. So a row counts as far as it looks at images.

    Args:
        student_BSRN: its logits.
        teacher_BTRN: likewise.
        w_ST: mixing weights whose rows sum to 1.
    """
    image_B1RN = rows.image_BRCL.flatten(2)[:, None]
    p_BSRN = torch.einsum("st,btrn->bsrn", w_ST, teacher_BTRN.softmax(-1))
    log_q_BSRN = student_BSRN.log_softmax(-1)
    log_p_BSRN = p_BSRN.clamp(min=1e-12).log()
    each_BSRN = p_BSRN * (log_p_BSRN - log_q_BSRN) - p_BSRN + log_q_BSRN.exp()
    of_row_BSR = (each_BSRN * image_B1RN).sum(-1)
    return mean_by_entry(of_row_BSR.mean(1), rows.valid_BR)


def likeness(student_BSRN: Tensor, teacher_BTRN: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Sums from which ``correlation`` tells how much alike student and teacher heads look.

    Returns:
        ``product_ST`` and ``energy_H`` of the S + T heads, of each row's attention among the
        images less its mean: a row that looks at all images alike counts for nothing.
    """
    image_BRN = (rows.image_BRCL.flatten(2) & rows.valid_BR[..., None])[:, None]
    apart = []
    for logits_BHRN in (student_BSRN, teacher_BTRN):
        p_BHRN = logits_BHRN.softmax(-1) * image_BRN
        mean_BHR1 = p_BHRN.sum(-1, keepdim=True) / image_BRN.sum(-1, keepdim=True).clamp(min=1)
        apart.append((p_BHRN - mean_BHR1) * image_BRN)
    product_ST = torch.einsum("bsrn,btrn->st", apart[0], apart[1])
    energy_H = torch.cat([one.square().sum((0, 2, 3)) for one in apart])
    return product_ST, energy_H


def column_of(count: int, device: torch.device) -> Tensor:
    """0, 1, ..., count - 1."""
    return torch.arange(count, device=device)
