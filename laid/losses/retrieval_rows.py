"""Which image each row of a question attends to, and which rows look for one.

Shape suffixes: B batch, R rows of a haystack, L tokens of a haystack, N tokens of all images, M
images, S student heads, T teacher heads, H heads of either, K KV heads, G query heads of one KV
head, D head_dim, 3 the temporal, height and width rows of M-RoPE.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from laid.losses.attention_rows import Rows, question_rows, row_logits
from laid.losses.image_tokens import BatchImages
from laid.signals.model_inputs import IGNORED, ModelInputs
from laid.signals.model_signals import Rotate, Signals


def looking_rows(
    teacher: Signals, inputs: ModelInputs, images: BatchImages, rotate: Rotate, count: int
) -> Rows:
    """The ``count`` rows of each question from which the teacher looks for one image: where the sum
    over heads of the squared attention to an image is highest above its mean over images. Where
    there is a single image, which is its own mean, above 0.

    In "For the image with a dog, is there a cat?" that is mostly the row of "dog", and else that of
    "cat" (docs/methods.md). No label is needed. A row of the answer is never chosen, nor the mark
    after the last image, which would look at itself; and an entry without images has no rows.
    """
    rows = question_rows(inputs)
    count_B = images.own_BM.sum(1)
    most = max(1, images.images)
    image_BLM = torch.zeros(*inputs.input_ids_BL.shape, most, device=count_B.device)
    image_BLM[images.haystack_N, images.column_N, images.image_N] = 1.0
    squared_BRM = torch.zeros(*rows.columns_BR.shape, most, device=count_B.device)
    for layer, qk in teacher.qk.items():
        p_BTRL = row_logits(qk, rows, partial(rotate, layer=layer)).softmax(-1)
        squared_BRM += torch.einsum("btrl,blm->btrm", p_BTRL, image_BLM).square().sum(1)
    mean_BR = squared_BRM.sum(-1) / count_B[:, None].clamp(min=1)
    # Less its mean a single image is 0 from every row, and padding would decide which one is first.
    sharp_BR = squared_BRM.amax(-1) - mean_BR * (count_B > 1)[:, None]
    asked_BR = inputs.labels_BL.gather(1, rows.columns_BR) == IGNORED
    sharp_BR = sharp_BR.masked_fill(~(rows.text_BR & asked_BR), -1.0)
    sharpest_BR, chosen_BR = sharp_BR.topk(min(count, sharp_BR.shape[1]))
    return replace(rows.at(chosen_BR), valid_BR=sharpest_BR > -0.5)  # rounded, it may be below 0


def token_logits(q_BRHD: Tensor, k_NKD: Tensor) -> Tensor:
    """Attention logits ``[B, R, H, N]`` of rows to tokens; queries and keys are after RoPE."""
    grouped_BRKGD = q_BRHD.unflatten(2, (k_NKD.shape[1], -1))
    logits_BRHN = torch.einsum("brkgd,nkd->brkgn", grouped_BRKGD, k_NKD).flatten(2, 3)
    return logits_BRHN / q_BRHD.shape[-1] ** 0.5


def image_logits(logits_BRHN: Tensor, image_N: Tensor, images: int) -> Tensor:
    """Attention logits of rows to whole images, ``[B, R, H, M]``: log-sum-exp over their tokens.

    Args:
        image_N: the image of each token; none of the ``images`` is without tokens.
    """
    index_BRHN = image_N.expand_as(logits_BRHN)
    highest_BRHM = logits_BRHN.new_full((*logits_BRHN.shape[:3], images), -torch.inf)
    highest_BRHM = highest_BRHM.scatter_reduce(-1, index_BRHN, logits_BRHN.detach(), "amax")
    part_BRHN = (logits_BRHN - highest_BRHM.gather(-1, index_BRHN)).exp()
    sum_BRHM = torch.zeros_like(highest_BRHM).index_add(-1, image_N, part_BRHN)
    return highest_BRHM + sum_BRHM.log()


class HeadCorrelation:
    """How similarly student and teacher heads share their attention among a haystack's images,
    summed over haystacks."""

    def __init__(self) -> None:
        self._product_ST: Tensor | float = 0.0
        self._energy_S: Tensor | float = 0.0
        self._energy_T: Tensor | float = 0.0

    def add(self, student_RSM: Tensor, teacher_RTM: Tensor) -> None:
        """Adds one haystack, from logits over its images.

        Each row counts less its mean: one that attends to all images equally counts for nothing.
        """
        student_RSM, teacher_RTM = student_RSM.softmax(-1), teacher_RTM.softmax(-1)
        student_RSM = student_RSM - student_RSM.mean(-1, keepdim=True)
        teacher_RTM = teacher_RTM - teacher_RTM.mean(-1, keepdim=True)
        self._product_ST += torch.einsum("rsm,rtm->st", student_RSM, teacher_RTM)
        self._energy_S += student_RSM.square().sum((0, 2))
        self._energy_T += teacher_RTM.square().sum((0, 2))

    def correlation_ST(self) -> Tensor:
        """Between -1 and 1; 0 for a head that attends to all images equally."""
        assert isinstance(self._product_ST, Tensor)
        assert isinstance(self._energy_S, Tensor) and isinstance(self._energy_T, Tensor)
        energy_ST = self._energy_S[:, None] * self._energy_T
        return self._product_ST / energy_ST.sqrt().clamp(min=1e-12)
