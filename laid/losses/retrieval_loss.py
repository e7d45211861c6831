"""What retrieval alignment compares: logits over images, and which image is to be found.

Shape suffixes: B batch, R rows of a haystack, M images, S student heads, T teacher heads.
"""

import torch
from torch import Tensor

from laid.losses.attention_rows import HIDDEN
from laid.losses.virtual_haystack import VirtualHaystack
from laid.signals.model_inputs import ModelInputs


def at_one_level(logits_BRSM: Tensor, of_keys_BRSM: Tensor, live_BM: Tensor) -> Tensor:
    """The same logits, of which no gradient raises or lowers all live keys alike.

    Keys of the bank have none. What would push them away from a row raises the live ones instead,
    all together, and with them all that the row pays to images rather than to text.

    Args:
        of_keys_BRSM: the logits again, with a gradient to keys alone.
        live_BM: candidates whose keys have a gradient.
    """
    live_B11M = live_BM[:, None, None]
    count_B111 = live_B11M.sum(-1, keepdim=True).clamp(min=1)
    level = (of_keys_BRSM * live_B11M).sum(-1, keepdim=True) / count_B111
    return torch.where(live_B11M, logits_BRSM - level + level.detach(), logits_BRSM)


def needles(inputs: ModelInputs, own_BM: Tensor) -> Tensor:
    """``needle_BM``, which of a haystack's own images are its needles; each haystack of images has
    one (``ObjectiveArgs.check_entries``)."""
    needle_BM = torch.zeros_like(own_BM)
    needle_BM[own_BM] = inputs.needle_I  # in both, haystack by haystack and in its order
    return needle_BM


def looked_for(
    teacher_BRTM: Tensor, place: VirtualHaystack, second_needle: float, needle_BM: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Which image each row is to find.

    An image of another haystack that the teacher looks at too (``RetrievalArgs.second_needle``) may
    be a needle as well, and is no candidate.

    Args:
        teacher_BRTM: logits over images.
        needle_BM: to be found in place of what the teacher looks at.

    Returns:
        ``p_BRM``, in proportion to the square of its heads' summed squared attention; ``focus_BR``,
        the most that one head pays to one image; and ``candidate_BRM``.
    """
    squared_BRM = teacher_BRTM.softmax(-1).square().sum(2)
    candidate_BRM = place.candidate_BM[:, None].expand_as(squared_BRM)
    if second_needle:
        own_B1M = place.own_BM[:, None]
        best_BR1 = squared_BRM.masked_fill(~own_B1M, 0.0).amax(-1, keepdim=True)
        candidate_BRM = candidate_BRM & (own_B1M | (squared_BRM < second_needle * best_BR1))
    if needle_BM is not None:
        count_B1 = needle_BM.sum(-1, keepdim=True).clamp(min=1)
        p_BRM = (needle_BM / count_B1)[:, None].expand_as(squared_BRM)
        return p_BRM, torch.ones_like(p_BRM[..., 0]), candidate_BRM
    each_BRTM = teacher_BRTM.masked_fill(~candidate_BRM[:, :, None], HIDDEN).softmax(-1)
    p_BRM = each_BRTM.square().sum(2).square()
    return p_BRM / p_BRM.sum(-1, keepdim=True), each_BRTM.amax((2, 3)), candidate_BRM


def retrieval_loss(
    student_BRSM: Tensor,
    p_BRM: Tensor,
    focus_BR: Tensor,
    candidate_BRM: Tensor,
    heads_S: Tensor,
    weight_M: Tensor,
) -> Tensor:
    """Cross-entropy ``[B, R]`` of the student's heads with the image that is looked for.

    Args:
        student_BRSM: logits over images.
        p_BRM, focus_BR, candidate_BRM: as ``looked_for``.
        heads_S: the weight of each head.
        weight_M: the weight of each image, by its distance.
    """
    logits_BRSM = student_BRSM.masked_fill(~candidate_BRM[:, :, None], HIDDEN)
    each_BRS = -(p_BRM * weight_M)[:, :, None].mul(logits_BRSM.log_softmax(-1)).sum(-1)
    return focus_BR * (each_BRS * heads_S).sum(-1) / heads_S.sum().clamp(min=1e-12)
