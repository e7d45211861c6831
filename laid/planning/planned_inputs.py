"""Model inputs of a haystack that does not exist: as many tokens as a real one, and no pixels.

Shape suffixes as in ``laid/signals/model_inputs.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from laid.signals.model_inputs import IGNORED, ModelInputs, pad_batch
from laid.vlm.families.family import Config, Grid
from laid.vlm.families.registry import family_of

ANSWER = 2
"""Tokens of an answer: Yes or No, and the end of the turn."""


def tokens_of(config: Config, images: int, grid: Grid) -> int:
    """Tokens of a haystack of ``images`` images, each between its two marker tokens, with its
    answer."""
    family = family_of(config)
    return family.prompt_tokens + images * len(family.planned_image(grid)) + ANSWER


def question_of(config: Config) -> int:
    """Tokens after the last image, the answer among them; the other half of a prompt's text comes
    before the first."""
    text = family_of(config).prompt_tokens
    return text - text // 2 + ANSWER


def haystack_inputs(
    config: Config, images: int, grid: Grid, batch: int, with_answer: bool
) -> ModelInputs:
    """``batch`` equal haystacks, with an answer for training; made in ``fake_floats``, their pixels
    take no memory. ``grid``: patches of every image in time, height and width."""
    family = family_of(config)
    one = family.planned_image(grid)
    # The id of any text: neither memory nor FLOPs depend on it.
    word = next(i for i in range(len(one) + 1) if i not in one)
    before, answer = family.prompt_tokens // 2, ANSWER * with_answer
    ids = [word] * before + one * images + [word] * (family.prompt_tokens - before + answer)
    ids_BL = torch.tensor([ids] * batch)
    labels_BL = torch.full_like(ids_BL, IGNORED)
    labels_BL[:, len(ids) - answer :] = word
    visual_BL = (ids_BL == config.image_token_id).long()
    grid_I3 = torch.tensor([grid] * images * batch)
    return ModelInputs(
        input_ids_BL=ids_BL,
        attention_mask_BL=torch.ones_like(ids_BL),
        mm_token_type_ids_BL=visual_BL,
        position_ids_3BL=family.positions(ids_BL, visual_BL, grid_I3),
        labels_BL=labels_BL,
        pixel_values_PC=torch.empty(len(grid_I3) * math.prod(grid), *family.planned_piece()),
        image_grid_thw_I3=grid_I3,
        image_names=[str(image) for image in range(len(grid_I3))],
        needle_I=torch.ones(len(grid_I3), dtype=torch.bool),
        entry_ids=[str(row) for row in range(batch)],
    )


def packed_inputs(config: Config, haystacks: Sequence[int], grid: Grid) -> ModelInputs:
    """A packed micro-batch for training, of haystacks with so many images each."""
    rows = []
    for images in haystacks:
        one = haystack_inputs(config, images, grid, 1, with_answer=True)
        rows.append(
            replace(
                one,
                input_ids_BL=one.input_ids_BL[0],
                attention_mask_BL=one.attention_mask_BL[0],
                mm_token_type_ids_BL=one.mm_token_type_ids_BL[0],
                position_ids_3BL=one.position_ids_3BL[:, 0],
                labels_BL=one.labels_BL[0],
            )
        )
    inputs = pad_batch(rows, pad_id=0, side="right")
    names = [str(image) for image in range(inputs.images)]  # no image twice
    lengths = [len(row.input_ids_BL) for row in rows] if len(rows) > 1 else []
    return replace(inputs, image_names=names, lengths=lengths)
