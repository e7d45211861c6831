"""Families that show images in tiles of one size, with a projector beside the tower.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from laid.vlm.families.family import Family
from laid.vlm.families.vision_features import VisionFeatures


class TiledImages(Family):
    """As many visual tokens of each tile; one-dimensional positions."""

    renamed = (
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"^multi_modal_projector\.", "model.multi_modal_projector."),
    )

    def tower(self, hf: PreTrainedModel) -> PreTrainedModel:
        return hf.model.vision_tower

    def vision_parts(self, hf: PreTrainedModel) -> tuple[nn.Module, ...]:
        return hf.model.vision_tower, hf.model.multi_modal_projector

    def pieces(
        self, processor: ProcessorMixin, images: Sequence[Image.Image]
    ) -> tuple[Tensor, Tensor]:
        made = processor.image_processor(
            images=list(images), return_tensors="pt", **processor.images_kwargs
        )
        grid_I3 = torch.ones(len(images), 3, dtype=torch.long)
        if "num_patches" in made:  # else each image is one tile
            grid_I3[:, 0] = torch.as_tensor(made["num_patches"])
        return made["pixel_values"], grid_I3

    def vision_features(
        self, hf: PreTrainedModel, pixel_values: Tensor, grid_I3: Tensor
    ) -> list[VisionFeatures]:
        tiles_PVE = hf.get_image_features(pixel_values).pooler_output
        by_image = tiles_PVE.split(grid_I3.prod(-1).tolist())
        return [VisionFeatures(tiles.flatten(0, 1)) for tiles in by_image]

    def encoder_output(self, features: Sequence[VisionFeatures]) -> BaseModelOutputWithPooling:
        tokens_1VE = torch.cat([one.tokens_VE for one in features])[None]
        return BaseModelOutputWithPooling(pooler_output=tokens_1VE)
