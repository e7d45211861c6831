"""InternVL3 and 3.5 in transformers' own layout (``-hf``), with Qwen's decoder.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import (
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from laid.common.errors import UserError
from laid.vlm.families.family import Grid
from laid.vlm.families.qwen_vl import WithoutVideos
from laid.vlm.families.tiled_images import TiledImages

MOST_TILES = 12
"""Of an image, in the hub's own settings, for plans."""


class Processor(WithoutVideos, InternVLProcessor):
    """Tokenizer and image processor."""


class InternVL(TiledImages):
    """An image is resized to whole tiles, and a thumbnail where they are several; one-dimensional
    positions, whose frequencies depend on the length of the batch beyond the model's own window."""

    model_type = "internvl"
    title = "InternVL3"
    model_class = InternVLForConditionalGeneration
    apply_rotary = staticmethod(apply_rotary_pos_emb)
    image_processor = GotOcr2ImageProcessorPil
    processor_class = Processor
    end_of_turn = "<|im_end|>"
    prompt_tokens = 38  # no system turn
    packs = True

    def tower_blocks(self, hf: PreTrainedModel) -> Sequence[nn.Module]:
        return hf.model.vision_tower.encoder.layer

    def built(self, hf: PreTrainedModel) -> None:
        """Makes each forward pass rotate as its own length wants. transformers keeps the
        frequencies of the longest pass so far, so that a result would depend on what came before.
        """

        def forget(rotary: Any, *_: object) -> None:
            rotary.inv_freq = rotary.original_inv_freq.to(rotary.inv_freq.device)
            rotary.max_seq_len_cached = rotary.original_max_seq_len

        if self._is_dynamic:
            self.decoder(hf).rotary_emb.register_forward_pre_hook(forget)

    @property
    def _is_dynamic(self) -> bool:
        return bool(self.config.text_config.rope_parameters["rope_type"] == "dynamic")

    def rotate(
        self, hf: PreTrainedModel, x_BLHD: Tensor, positions_RBL: Tensor, layer: int
    ) -> Tensor:
        """As ``Family.rotate``.

        Raises:
            UserError: positions beyond the window of dynamic NTK, where queries and keys that are
                rotated apart need not have the same frequencies.
        """
        window = self.config.text_config.max_position_embeddings
        # The largest position is read from the device, so only where it decides.
        last = int(positions_RBL.max()) if self._is_dynamic and positions_RBL.numel() else 0
        if last >= window:
            raise UserError(
                f"position {last} is beyond {self.title}'s max_position_embeddings {window}: its "
                "rotation (dynamic NTK) depends there on the length of the batch, and attention "
                "can't be computed from queries and keys. Take fewer or smaller images "
                "(data.max_pixels), or a smaller objective.retrieval.reach"
            )
        return super().rotate(hf, x_BLHD, positions_RBL, layer)

    def load_processor(self, folder: str, revision: str | None, **options: Any) -> ProcessorMixin:
        options["image_seq_length"] = self.config.image_seq_length
        return super().load_processor(folder, revision, **options)

    def limit_pixels(self, processor: ProcessorMixin, least: int | None, most: int | None) -> None:
        """Limits in pixels become numbers of tiles; the thumbnail is not counted."""
        images = processor.image_processor
        images.min_patches, images.max_patches = self._tiles(
            least, most, images.min_patches, images.max_patches
        )

    def _tiles(
        self, least: int | None, most: int | None, fewest: int = 1, most_tiles: int = MOST_TILES
    ) -> tuple[int, int]:
        high, wide = self.config.vision_config.image_size
        if least is not None:
            fewest = -(-least // (high * wide))
        if most is not None:
            most_tiles = most // (high * wide)
        if not 1 <= fewest <= most_tiles:
            raise UserError(
                f"min_pixels {least} and max_pixels {most}: these are {fewest} to {most_tiles} "
                f"tiles of {wide} x {high} pixels; expected 1 or more, and not more at least than "
                "at most"
            )
        return fewest, most_tiles

    def image_text(self, processor: ProcessorMixin, grid_3: Tensor) -> str:
        return processor.replace_image_token({"num_patches": [int(grid_3.prod())]}, 0)

    def facts(self) -> dict[str, Any]:
        config, vision = self.config, self.config.vision_config
        return {
            **super().facts(),
            "text model_type": config.text_config.model_type,
            "image_seq_length": config.image_seq_length,
            "vision image_size": list(vision.image_size),
        }

    def head_facts(self) -> dict[str, Any]:
        facts = super().head_facts()
        if self._is_dynamic:
            facts["max_position_embeddings"] = self.config.text_config.max_position_embeddings
        return facts

    def preprocessor_config(self, processor: ProcessorMixin) -> dict[str, Any]:
        images = processor.image_processor
        return {
            "image_processor_type": "GotOcr2ImageProcessor",
            "processor_class": "InternVLProcessor",
            "size": dict(images.size),
            "crop_to_patches": False,  # as on the hub: the processor asks for tiles
            "min_patches": images.min_patches,
            "max_patches": images.max_patches,
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
            "resample": int(images.resample),
        }

    def for_version_4(self, config: dict[str, Any]) -> dict[str, Any]:
        rope = dict(config["text_config"]["rope_parameters"])
        text = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
        return {**config, "text_config": {**config["text_config"], **text}}

    def planned_grid(self, width: int, height: int, least: int | None, most: int | None) -> Grid:
        size = tuple(self.config.vision_config.image_size)
        columns, rows = get_optimal_tiled_canvas((height, width), size, *self._tiles(least, most))
        tiles = columns * rows
        return tiles + (tiles > 1), 1, 1

    def planned_image(self, grid: Grid) -> list[int]:
        """Without the line break after it, which is one token of 259."""
        visual = self.config.image_token_id
        start, end = visual - 2, visual - 1  # <img> and </img> are right before it
        return [start, *[visual] * (grid[0] * self.config.image_seq_length), end]

    def planned_piece(self) -> tuple[int, ...]:
        vision = self.config.vision_config
        return (vision.num_channels, *vision.image_size)
