"""Gemma 3: 4B, 12B and 27B, whose layers are local or global.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.modeling_gemma3 import apply_rotary_pos_emb

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import AttentionShape
from laid.vlm.families.family import Grid
from laid.vlm.families.tiled_images import TiledImages

LOCAL = "sliding_attention"
"""transformers' name of a layer that sees a window; the others are full_attention."""


class Gemma3(TiledImages):
    """Norms of queries and keys after the transpose; local layers, which rotate differently and see
    a window, between global ones; an image's tokens see each other in both directions."""

    model_type = "gemma3"
    title = "Gemma 3"
    model_class = Gemma3ForConditionalGeneration
    apply_rotary = staticmethod(apply_rotary_pos_emb)
    image_processor = Gemma3ImageProcessorPil
    processor_class = Gemma3Processor
    end_of_turn = "<end_of_turn>"
    prompt_tokens = 40  # its tokenizer splits the text into about as many tokens as Qwen's
    qk_layout = "BHLD"
    not_extended: ClassVar[Mapping[str, str]] = {
        "yarn": "its global layers were trained with RoPE's frequencies divided by 8, and "
        "transformers' YaRN begins from the undivided ones; its local layers see a window anyway",
        "self-extend": "it is defined for causal attention, and in its global layers an image's "
        "tokens see each other in both directions; its local layers see a window anyway",
    }

    @property
    def shape(self) -> AttentionShape:
        text = self.config.text_config
        kinds = tuple(text.layer_types)
        windows = tuple(text.sliding_window if kind == LOCAL else 0 for kind in kinds)
        return replace(super().shape, kinds=kinds, windows=windows)

    def tower_blocks(self, hf: PreTrainedModel) -> Sequence[nn.Module]:
        return hf.model.vision_tower.encoder.layers

    def qk_modules(self, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
        attention = layer.get_submodule("self_attn")
        return attention.get_submodule("q_norm"), attention.get_submodule("k_norm")

    def rotate(
        self, hf: PreTrainedModel, x_BLHD: Tensor, positions_RBL: Tensor, layer: int
    ) -> Tensor:
        """As ``Family.rotate``. 27B divides its logits by √168, and terms that compute them from
        queries and keys divide by √head_dim: the ratio goes into both."""
        scalar = self.config.text_config.query_pre_attn_scalar
        x_BLHD = x_BLHD.float() * (self.shape.head_dim / scalar) ** 0.25
        positions_BL = self.position_argument(positions_RBL)
        cos_BLD, sin_BLD = self.decoder(hf).rotary_emb(x_BLHD, positions_BL, self.shape.kind(layer))
        return self.apply_rope(x_BLHD, cos_BLD, sin_BLD, 2)

    def arguments(self, inputs: ModelInputs) -> dict[str, Any]:
        # Without them, an image's tokens would not see each other in both directions.
        return {**super().arguments(inputs), "token_type_ids": inputs.mm_token_type_ids_BL}

    def load_processor(self, folder: str, revision: str | None, **options: Any) -> ProcessorMixin:
        options["image_seq_length"] = self.config.mm_tokens_per_image
        return super().load_processor(folder, revision, **options)

    def limit_pixels(self, processor: ProcessorMixin, least: int | None, most: int | None) -> None:
        if least is not None or most is not None:
            size = self.config.vision_config.image_size
            raise UserError(
                f"min_pixels {least} and max_pixels {most}: {self.title} shows every image at "
                f"{size} x {size}; leave them out"
            )

    def image_text(self, processor: ProcessorMixin, grid_3: Tensor) -> str:
        return processor.replace_image_token({"num_crops": [0]}, 0)

    def facts(self) -> dict[str, Any]:
        config = self.config
        return {
            **super().facts(),
            "boi_token_index": config.boi_token_index,
            "eoi_token_index": config.eoi_token_index,
            "mm_tokens_per_image": config.mm_tokens_per_image,
            "vision image_size": config.vision_config.image_size,
        }

    def head_facts(self) -> dict[str, Any]:
        text = self.config.text_config
        facts = {
            "head_dim": self.shape.head_dim,
            "query_pre_attn_scalar": text.query_pre_attn_scalar,
            "sliding_window": text.sliding_window,
        }
        for kind, rope in text.rope_parameters.items():
            facts |= {f"{kind} {key}": value for key, value in rope.items()}
        return facts

    def preprocessor_config(self, processor: ProcessorMixin) -> dict[str, Any]:
        images = processor.image_processor
        return {
            "image_processor_type": "Gemma3ImageProcessor",
            "processor_class": "Gemma3Processor",
            "image_seq_length": processor.image_seq_length,
            "size": dict(images.size),
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
            "resample": int(images.resample),
        }

    def for_version_4(self, config: dict[str, Any]) -> dict[str, Any]:
        text = config["text_config"]
        near, whole = (dict(text["rope_parameters"][kind]) for kind in (LOCAL, "full_attention"))
        text = {
            **text,
            "rope_local_base_freq": near["rope_theta"],
            "rope_theta": whole.pop("rope_theta"),
            "rope_scaling": None if whole["rope_type"] == "default" else whole,
        }
        return {**config, "text_config": text}

    def planned_grid(self, width: int, height: int, least: int | None, most: int | None) -> Grid:
        return 1, 1, 1

    def planned_image(self, grid: Grid) -> list[int]:
        """Without the line break between two, which is one token of 259."""
        config = self.config
        visual = [config.image_token_id] * config.mm_tokens_per_image
        return [config.boi_token_index, *visual, config.eoi_token_index]

    def planned_piece(self) -> tuple[int, ...]:
        vision = self.config.vision_config
        return vision.num_channels, vision.image_size, vision.image_size
