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


def image_grid(
    config: Config, width: int, height: int, least: int | None, most: int | None
) -> Grid:
    """Pieces of an image in time, height and width, as the family's image processor cuts it.

    Args:
        least, most: limits in pixels; None: the family's own.
    """
    return family_of(config).planned_grid(width, height, least, most)


def tokens_of(config: Config, images: int, grid: Grid) -> int:
    """Tokens of a prompt with so many images, each with its marks."""
    family = family_of(config)
    return family.prompt_tokens + images * len(family.planned_image(grid))


def haystack_inputs(
    config: Config, images: int, grid: Grid, batch: int, with_answer: bool
) -> ModelInputs:
    """A batch of equal haystacks; to be made where its pixels take no memory (``fake_floats``).

    Args:
        grid: pieces of every image.
        batch: haystacks.
        with_answer: for training; else the prompt alone.
    """
    family = family_of(config)
    one = family.planned_image(grid)
    # Any id that stands for text does: what is counted does not depend on it.
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

    def row(at: int) -> ModelInputs:
        return ModelInputs(
            input_ids_BL=ids_L,
            attention_mask_BL=torch.ones_like(ids_L),
            mm_token_type_ids_BL=visual_L,
            position_ids_3BL=positions_RBL[:, 0],
            labels_BL=torch.tensor(labels),
            pixel_values_PC=torch.empty(images * math.prod(grid), *family.planned_piece()),
            image_grid_thw_I3=grid_I3,
            image_names=[f"{at}/{image}" for image in range(images)],
        )

    return pad_batch([row(at) for at in range(batch)], word, "right")
