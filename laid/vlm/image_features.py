"""Features of a frozen vision tower: each image is computed once.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

import torch
from transformers import PreTrainedModel

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs
from laid.vlm.families.registry import family_of
from laid.vlm.families.vision_features import VisionFeatures
from laid.vlm.stored_features import StoredFeatures


class ImageFeatures:
    """Features that a model has learned of images, by name; bounded in memory.

    Names mean something within one stage of a run only.
    """

    def __init__(self) -> None:
        self._known: dict[str, VisionFeatures] = {}
        self._bytes = 0

    @property
    def empty(self) -> bool:
        """Whether batches come with pixels."""
        return not self._known

    def add(self, name: str, features: VisionFeatures, limit_gib: float) -> None:
        """Keeps an image's features; those it has stay.

        Raises:
            UserError: they would go over the limit.
        """
        if name in self._known:
            return
        self._bytes += features.bytes
        if self._bytes > limit_gib * 2**30:
            raise UserError(
                f"the features of {len(self._known) + 1} images take more than data.feature_gib "
                f"{limit_gib} GiB: raise it, or set data.cache_features false"
            )
        # A copy, since a view would keep the features of all images that were computed with it.
        self._known[name] = features.clone()

    def of(self, names: list[str]) -> list[VisionFeatures]:
        """The features of images that are all known."""
        return [self._known[name] for name in names]


@torch.no_grad()
def features_of_batch(
    hf: PreTrainedModel, known: ImageFeatures | StoredFeatures, inputs: ModelInputs
) -> list[VisionFeatures]:
    """The features of every image of a batch, in order: known ones, else each distinct one once."""
    if not len(inputs.pixel_values_PC):
        return known.of(inputs.image_names)
    first: dict[str, int] = {}
    for at, name in enumerate(inputs.image_names):
        first.setdefault(name, at)
    pieces = inputs.pixel_values_PC.split(inputs.image_grid_thw_I3.prod(-1).tolist())
    chosen = list(first.values())
    pixel_values = torch.cat([pieces[at] for at in chosen])
    made = family_of(hf.config).vision_features(hf, pixel_values, inputs.image_grid_thw_I3[chosen])
    by_name = dict(zip(first, made, strict=True))
    return [by_name[name] for name in inputs.image_names]


@torch.no_grad()
def run_on_blank(hf: PreTrainedModel) -> None:
    """Runs a sharded vision tower on a blank image: other ranks of the step have images, and each
    rank must gather the tower's weights as often as they do."""
    family, device = family_of(hf.config), next(hf.parameters()).device
    grid_13 = torch.tensor([family.planned_grid(56, 56, None, None)], device=device)
    blank = torch.zeros(int(grid_13.prod()), *family.planned_piece(), device=device)
    family.vision_features(hf, blank, grid_13)
