"""What Qwen's vision-language models have in common: M-RoPE, images of any size, the processor.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs
from laid.vlm.families.family import Family, Grid


class WithoutVideos:
    """Of a processor: leaves out its video half, which alone would need torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class QwenVL(Family):
    """One visual token for 2 x 2 patches; three rows of positions."""

    inner_class: ClassVar[type[PreTrainedModel]]
    """transformers' class of ``model_class``'s ``model``, which has ``get_rope_index``."""
    stock_processor: ClassVar[str]
    """The name of transformers' own."""
    pixel_limits: ClassVar[tuple[int, int]] = (56 * 56, 28 * 28 * 16384)
    """The hub's own limits of an image, for plans."""

    image_processor = Qwen2VLImageProcessorPil
    end_of_turn = "<|im_end|>"
    prompt_tokens = 49
    position_rows = 3
    rope_keys: ClassVar[tuple[str, ...]] = ("rope_theta", "mrope_section")
    # From the hub's names of Qwen2-VL and Qwen2.5-VL, those of transformers 4; Qwen3-VL's are new.
    renamed = (
        (r"^visual\.", "model.visual."),
        (r"^model\.(?!visual\.|language_model\.)", "model.language_model."),
    )
    packs = True
    loops_over_images = True

    def tower(self, hf: PreTrainedModel) -> PreTrainedModel:
        return hf.model.visual

    def tower_blocks(self, hf: PreTrainedModel) -> Sequence[nn.Module]:
        return hf.model.visual.blocks

    def arguments(self, inputs: ModelInputs) -> dict[str, Any]:
        return {
            **super().arguments(inputs),
            # generate() makes positions of these.
            "mm_token_type_ids": inputs.mm_token_type_ids_BL,
            "image_grid_thw": inputs.image_grid_thw_I3,
        }

    def positions(self, input_ids_BL: Tensor, visual_BL: Tensor, grid_I3: Tensor) -> Tensor:
        """M-RoPE by transformers' own ``get_rope_index``. Of the model it reads nothing but the
        configuration, so a stand-in takes the model's place."""
        model = SimpleNamespace(config=self.config)
        model.get_vision_position_ids = partial(self.inner_class.get_vision_position_ids, model)
        positions_3BL, _ = self.inner_class.get_rope_index(
            model, input_ids_BL, visual_BL, image_grid_thw=grid_I3
        )
        return positions_3BL

    def limit_pixels(self, processor: ProcessorMixin, least: int | None, most: int | None) -> None:
        size = processor.image_processor.size
        if least is not None:
            size["shortest_edge"] = least
        if most is not None:
            size["longest_edge"] = most
        if not 0 < size["shortest_edge"] <= size["longest_edge"]:
            raise UserError(
                f"min_pixels {size['shortest_edge']} and max_pixels {size['longest_edge']}: "
                "expected 0 < min_pixels <= max_pixels"
            )

    def pieces(
        self, processor: ProcessorMixin, images: Sequence[Image.Image]
    ) -> tuple[Tensor, Tensor]:
        made = processor.image_processor(images=list(images), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]

    def image_text(self, processor: ProcessorMixin, grid_3: Tensor) -> str:
        return processor.replace_image_token({"image_grid_thw": [grid_3]}, 0)

    def facts(self) -> dict[str, Any]:
        vision = self.config.vision_config
        return {
            **super().facts(),
            "vision_start_token_id": self.config.vision_start_token_id,
            "vision_end_token_id": self.config.vision_end_token_id,
            "vision patch_size": vision.patch_size,
            "vision spatial_merge_size": vision.spatial_merge_size,
        }

    def preprocessor_config(self, processor: ProcessorMixin) -> dict[str, Any]:
        images = processor.image_processor
        return {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": self.stock_processor,
            "min_pixels": images.size["shortest_edge"],
            "max_pixels": images.size["longest_edge"],
            "patch_size": images.patch_size,
            "temporal_patch_size": images.temporal_patch_size,
            "merge_size": images.merge_size,
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
        }

    def for_version_4(self, config: dict[str, Any]) -> dict[str, Any]:
        text = config["text_config"]
        rope = dict(text["rope_parameters"])
        theta, kind = rope.pop("rope_theta"), rope["rope_type"]
        scaling = {**rope, "type": "mrope" if kind == "default" else kind}
        text = {**text, "rope_theta": theta, "rope_scaling": scaling}
        return {**config, "text_config": text}

    def planned_grid(self, width: int, height: int, least: int | None, most: int | None) -> Grid:
        vision = self.config.vision_config
        high, wide = smart_resize(
            height,
            width,
            factor=vision.patch_size * vision.spatial_merge_size,
            min_pixels=self.pixel_limits[0] if least is None else least,
            max_pixels=self.pixel_limits[1] if most is None else most,
        )
        return 1, high // vision.patch_size, wide // vision.patch_size

    def planned_image(self, grid: Grid) -> list[int]:
        config = self.config
        visual = grid[0] * grid[1] * grid[2] // config.vision_config.spatial_merge_size**2
        start, end = config.vision_start_token_id, config.vision_end_token_id
        return [start, *[config.image_token_id] * visual, end]

    def planned_piece(self) -> tuple[int, ...]:
        vision = self.config.vision_config
        return (vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,)
