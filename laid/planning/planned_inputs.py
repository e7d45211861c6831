"""Model inputs of a haystack that does not exist: as many tokens as a real one, and no pixels.

Shape suffixes as in ``laid/signals/model_inputs.py``; R rows of positions.
"""

import math

import torch

from laid.signals.model_inputs import IGNORED, ModelInputs, pad_batch
from laid.vlm.families.family import Config, Grid
from laid.vlm.families.registry import family_of

ANSWER = 2
"""Tokens of an answer: Yes or No, and the end of the turn."""


def tokens_of(config: Config, images: int, grid: Grid) -> int:
    """Tokens of a prompt with ``images`` images, each between its two marker tokens."""
    family = family_of(config)
    return family.prompt_tokens + images * len(family.planned_image(grid))


def haystack_inputs(
    config: Config, images: int, grid: Grid, batch: int, with_answer: bool
) -> ModelInputs:
    """``batch`` equal haystacks, with an answer for training; made in ``fake_floats``, their pixels
    take no memory. ``grid``: patches of every image in time, height and width."""
    family = family_of(config)
    one = family.planned_image(grid)
    # The id of any text: neither memory nor FLOPs depend on it.
    word = next(i for i in range(len(one) + 1) if i not in one)
    before = family.prompt_tokens // 2
    ids = [word] * before + one * images + [word] * (family.prompt_tokens - before)
    labels = [IGNORED] * len(ids)
    if with_answer:
        ids, labels = ids + [word] * ANSWER, labels + [word] * ANSWER
    ids_L = torch.tensor(ids)
    visual_L = (ids_L == config.image_token_id).long()
    grid_I3 = torch.tensor([grid] * images)
    positions_RBL = family.positions(ids_L[None], visual_L[None], grid_I3)

    rows = [
        ModelInputs(
            input_ids_BL=ids_L,
            attention_mask_BL=torch.ones_like(ids_L),
            mm_token_type_ids_BL=visual_L,
            position_ids_3BL=positions_RBL[:, 0],
            labels_BL=torch.tensor(labels),
            pixel_values_PC=torch.empty(images * math.prod(grid), *family.planned_piece()),
            image_grid_thw_I3=grid_I3,
            image_names=[f"{at}/{image}" for image in range(images)],
        )
        for at in range(batch)
    ]
    return pad_batch(rows, word, "right")
