"""Model inputs of a haystack that does not exist: as many tokens as a real one, and no pixels.

Shape suffixes as in ``laid/signals/model_inputs.py``.
"""

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from laid.signals.model_inputs import IGNORED, ModelInputs, pad_batch
from laid.vlm.positions import get_position_ids

TEXT = 49
"""Tokens of a Visual Haystacks prompt in Qwen2.5-VL's template, images left out."""
ANSWER = 2
"""Tokens of an answer: Yes or No, and the end of the turn."""
MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 16384
"""Qwen2.5-VL's own limits of an image."""


def image_grid(
    config: Qwen2_5_VLConfig, width: int, height: int, least: int | None, most: int | None
) -> tuple[int, int, int]:
    """Patches of an image in time, height and width, as Qwen2.5-VL's image processor cuts it."""
    vision = config.vision_config
    high, wide = smart_resize(
        height,
        width,
        factor=vision.patch_size * vision.spatial_merge_size,
        min_pixels=MIN_PIXELS if least is None else least,
        max_pixels=MAX_PIXELS if most is None else most,
    )
    return 1, high // vision.patch_size, wide // vision.patch_size


def tokens_of(config: Qwen2_5_VLConfig, images: int, grid: tuple[int, int, int]) -> int:
    """Tokens of a prompt with so many images, each with a mark before and after it."""
    visual = grid[1] * grid[2] // config.vision_config.spatial_merge_size**2
    return TEXT + images * (visual + 2)


def haystack_inputs(
    config: Qwen2_5_VLConfig,
    images: int,
    grid: tuple[int, int, int],
    batch: int,
    with_answer: bool,
) -> ModelInputs:
    """A batch of equal haystacks; to be made where its pixels take no memory (``fake_floats``).

    Args:
        grid: patches of every image.
        batch: haystacks.
        with_answer: for training; else the prompt alone.
    """
    merge = config.vision_config.spatial_merge_size
    start, pad = config.vision_start_token_id, config.image_token_id
    visual = grid[1] * grid[2] // merge**2
    # Any id that stands for text does: what is counted does not depend on it.
    word = next(i for i in range(8) if i not in (start, pad, config.vision_end_token_id))
    one = [start, *[pad] * visual, config.vision_end_token_id]
    ids = [word] * (TEXT // 2) + one * images + [word] * (TEXT - TEXT // 2)
    labels = [IGNORED] * len(ids)
    if with_answer:
        ids, labels = ids + [word] * ANSWER, labels + [word] * ANSWER
    ids_L = torch.tensor(ids)
    types_L = (ids_L == pad).long()
    grid_I3 = torch.tensor([grid] * images)
    positions_3BL = get_position_ids(ids_L[None], types_L[None], grid_I3, merge)
    vision = config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2

    def row(at: int) -> ModelInputs:
        return ModelInputs(
            input_ids_BL=ids_L,
            attention_mask_BL=torch.ones_like(ids_L),
            mm_token_type_ids_BL=types_L,
            position_ids_3BL=positions_3BL[:, 0],
            labels_BL=torch.tensor(labels),
            pixel_values_PC=_pixels(images * grid[1] * grid[2], width),
            image_grid_thw_I3=grid_I3,
            image_names=[f"{at}/{image}" for image in range(images)],
        )

    return pad_batch([row(at) for at in range(batch)], word, "right")


def _pixels(patches: int, width: int) -> Tensor:
    return torch.empty(patches, width)
