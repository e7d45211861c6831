"""Features of a frozen vision tower: each image is computed once.

Shape suffixes: P image patches, C numbers in a patch, I images, V visual tokens of one image,
H hidden size of the decoder.
"""

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs


class ImageFeatures:
    """Features that a model has learned of images, by name; bounded in memory."""

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}
        self._bytes = 0

    def add(self, name: str, features_VH: Tensor, limit_gib: float) -> None:
        """Keeps an image's features; those it has stay.

        Raises:
            UserError: they would go over the limit.
        """
        if name in self._known:
            return
        self._bytes += features_VH.numel() * features_VH.element_size()
        if self._bytes > limit_gib * 2**30:
            raise UserError(
                f"the features of {len(self._known) + 1} images take more than data.feature_gib "
                f"{limit_gib} GiB: raise it, or set data.cache_features false"
            )
        # A copy, since a view would keep the features of all images that were computed with it.
        self._known[name] = features_VH.clone()

    def of(self, names: list[str]) -> list[Tensor]:
        """The features of images that are all known."""
        return [self._known[name] for name in names]


@torch.no_grad()
def image_features(
    hf: Qwen2_5_VLForConditionalGeneration, pixel_values_PC: Tensor, grid_I3: Tensor
) -> list[Tensor]:
    """Features [V, H] of each image, by transformers' own vision tower."""
    return list(hf.get_image_features(pixel_values_PC, grid_I3).pooler_output)


def features_of_batch(
    hf: Qwen2_5_VLForConditionalGeneration, known: ImageFeatures, inputs: ModelInputs
) -> list[Tensor]:
    """The features of every image of a batch, in order: known ones, else each distinct one once."""
    if not len(inputs.pixel_values_PC):
        return known.of(inputs.image_names)
    first: dict[str, int] = {}
    for at, name in enumerate(inputs.image_names):
        first.setdefault(name, at)
    patches = inputs.image_grid_thw_I3.prod(-1).tolist()
    pieces = inputs.pixel_values_PC.split(patches)
    chosen = list(first.values())
    made = image_features(
        hf, torch.cat([pieces[at] for at in chosen]), inputs.image_grid_thw_I3[chosen]
    )
    by_name = dict(zip(first, made, strict=True))
    return [by_name[name] for name in inputs.image_names]
