"""How the attention of a question is distributed over the images of a haystack.

Shape suffixes: L tokens, R rows of the question, H query heads, N decoder layers, I images of the
haystack.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from laid.losses.attention_rows import Rows, question_rows, row_logits
from laid.losses.image_tokens import images_of
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Rotate, Wanted
from laid.vlm.vision_language_model import VLM

LAYERS_AT_ONCE = 8
"""Decoder layers whose queries and keys are in memory together: of 64 layers of a 32B teacher at
150 images they would take more than 40 GB."""


@dataclass(frozen=True)
class AttentionShares:
    """Parts of the attention of the text after the last image, between 0 and 1.

    Attributes:
        layer_NI: of each layer to each image, mean over heads and rows of the question. What is
            missing to 1 goes to text.
        sharp_I: to each image, mean over the sharpest heads of the model, each from its sharpest
            row.
        sharp_heads: layer and head of these, the sharpest first.
    """

    layer_NI: Tensor
    sharp_I: Tensor
    sharp_heads: list[tuple[int, int]]


@torch.no_grad()
def attention_shares(vlm: VLM, inputs: ModelInputs, heads: int) -> AttentionShares:
    """Where a model attends in one haystack; memory grows linearly with its length.

    A head is as sharp as the most attention that one of its rows gives to one image, above its mean
    over images. No label is needed.

    Args:
        inputs: of one haystack with at least one image, without its answer, on the model's device.
        heads: how many heads of the model count as its sharpest; all, where it has fewer.
    """
    rows = question_rows(inputs)
    images = images_of(inputs)
    image_LI = torch.zeros(inputs.input_ids_BL.shape[1], images.images, device=vlm.device)
    image_LI[images.column_N, images.image_N] = 1.0
    layers, best, score = [], [], []
    for first in range(0, vlm.shape.layers, LAYERS_AT_ONCE):
        some = tuple(range(first, min(first + LAYERS_AT_ONCE, vlm.shape.layers)))
        qk = vlm.signals(inputs, Wanted(layers=some)).qk
        for at in some:
            rotate = partial(vlm.rotate, layer=at)
            share_HRI = head_shares(qk[at], rows.within(vlm.shape.window(at)), rotate, image_LI)
            layers.append(share_HRI.mean((0, 1)))
            sharp_HR = share_HRI.amax(-1)
            if images.images > 1:
                sharp_HR = sharp_HR - share_HRI.mean(-1)
            most_H = sharp_HR.max(1)
            best.append(share_HRI[torch.arange(len(share_HRI)), most_H.indices])
            score.append(most_H.values)
    chosen = torch.cat(score).topk(min(heads, vlm.shape.layers * vlm.shape.heads)).indices
    return AttentionShares(
        layer_NI=torch.stack(layers).cpu(),
        sharp_I=torch.cat(best)[chosen].mean(0).cpu(),
        sharp_heads=[divmod(int(at), vlm.shape.heads) for at in chosen],
    )


def head_shares(qk: QK, rows: Rows, rotate: Rotate, image_LI: Tensor) -> Tensor:
    """``share_HRI``: what each image gets of the attention of each head and row of one haystack.

    Args:
        qk: of one layer, before RoPE.
        image_LI: 1 where a token is an image's.
    """
    p_BHRL = row_logits(qk, rows, rotate).softmax(-1)
    return p_BHRL[0] @ image_LI
